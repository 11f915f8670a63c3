"""What was found on a slide, as GeoJSON for QuPath, and back: the same places, numbers, words."""

import json
from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest
import shapely
from found import CLASSES, CORNER, TILE, add_found, take_slide
from hypothesis import given
from hypothesis import strategies as st
from judged import HOSTILE, draw, judge_region
from shapely.geometry import MultiPolygon, shape

from histo_nb.annotations import Annotation, read_geojson
from histo_nb.errors import CatalogError, SlideError, TableError
from histo_nb.export.findings import Findings, collect_findings, outline_pixels, scan_origin
from histo_nb.export.geojson import (
    read_result_geojson,
    write_label_geojson,
    write_result_geojson,
)
from histo_nb.export.judged import JUDGED, read_judged_geojson, write_judged_geojson
from histo_nb.masking.masks import mask_path, read_mask
from histo_nb.tables import LABELLED_TILES, check_table

places = st.floats(0, 1e6)
boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h),
    *(places, places, st.floats(1, 1e5), st.floats(1, 1e5)),
)
rings = st.builds(lambda x, y, r: shapely.Point(x, y).buffer(r, quad_segs=3),
                  st.floats(2e4, 1e6), st.floats(2e4, 1e6), st.floats(1, 1e4))  # fmt: skip
donuts = rings.map(lambda ring: ring.difference(shapely.affinity.scale(ring, 0.5, 0.5)))
pairs = boxes.map(lambda box: MultiPolygon([box, shapely.affinity.translate(box, 2e5, 0)]))
numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(max_size=12)
regions = st.builds(
    Annotation, boxes | donuts | pairs, words, st.dictionaries(words, numbers, max_size=3)
)
judgements = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["region", "annotation"]),
        "verdict": st.sampled_from(["agree", "disagree", "drawn"]),
        "label": st.none() | st.text(min_size=1, max_size=9),
        "note": words,
        "model_id": st.none() | st.just("M-1"),
        "outline": boxes | donuts | st.builds(shapely.Point, places, places),
        **{
            name: st.text(min_size=1, max_size=9) for name in ("subject", "reviewer", "reviewed_at")
        },
    }
)


@st.composite
def findings(draw) -> Findings:
    """Anything that may be found, none of it left of or above the corner of the scan."""
    origin = draw(st.tuples(st.integers(0, 9999), st.integers(0, 9999)))
    classes = draw(st.lists(words, min_size=1, max_size=4, unique=True))
    row = {name: st.integers(0, 1 << 31) for name in ("x", "y")} | {
        "tile_id": words, "size_l0": st.integers(1, 9999), "tissue": st.floats(0, 1),
        "prediction": st.sampled_from(classes), **{f"prob_{n}": st.floats(0, 1) for n in classes},
    }  # fmt: skip
    names = [
        "tile_id",
        "x",
        "y",
        "size_l0",
        "tissue",
        "prediction",
        *(f"prob_{n}" for n in classes),
    ]
    kinds = dict.fromkeys(names, float) | dict.fromkeys(("x", "y", "size_l0"), int)
    kinds |= dict.fromkeys(("tile_id", "prediction"), object)
    rows = draw(st.lists(st.fixed_dictionaries(row), max_size=4))
    said = draw(st.lists(judgements, max_size=3))
    tissue = draw(st.none() | (donuts | pairs).map(lambda o: o if o.geom_type[0] == "M"
                                                   else MultiPolygon([o])))  # fmt: skip
    moved = [shapely.affinity.translate(j["outline"], *origin) for j in said]
    judged = [j | {"outline": json.dumps(shapely.geometry.mapping(o))}
              for j, o in zip(said, moved, strict=True)]  # fmt: skip
    return Findings(
        slide_id="S-1",
        model_id="M-1",
        classes=classes,
        normal_class=classes[0],
        origin=origin,
        regions=[
            replace(a, outline=shapely.affinity.translate(a.outline, *origin))
            for a in draw(st.lists(regions, max_size=3))
        ],
        tiles=pd.DataFrame(rows, columns=names).astype(kinds),
        tissue=None if tissue is None else shapely.affinity.translate(tissue, *origin),
        judged=pd.DataFrame(judged, columns=JUDGED, dtype=object),
    )


def check_same(read: Findings, written: Findings) -> None:
    for field in fields(Findings):
        got, wanted = getattr(read, field.name), getattr(written, field.name)
        if field.name == "tiles":
            pd.testing.assert_frame_equal(got, wanted.reset_index(drop=True), check_exact=True)
        elif field.name == "judged":
            assert [*got.outline.map(json.loads)] == [*wanted.outline.map(json.loads)]
            assert [*got.drop(columns="outline").itertuples()] == [
                *wanted.drop(columns="outline").itertuples()
            ]
        else:
            assert got == wanted, field.name
    assert all(a.outline.equals_exact(b.outline)
               for a, b in zip(read.regions, written.regions, strict=True))  # fmt: skip


@given(findings())
def test_findings_survive_their_file_exactly(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("findings") / "a.geojson"
    check_same(read_result_geojson(write_result_geojson(wanted, path)), wanted)
    before = path.read_bytes()
    assert write_result_geojson(wanted, path).read_bytes() == before


@pytest.fixture
def slide_id(home, tmp_path) -> str:
    """A slide with bounds and a result: regions judged, a place drawn, a mask with a hole."""
    slide_id = take_slide(home)
    result = add_found(home, slide_id)
    judge_region(home, result, 0, note="glands back to back")
    draw(home, shapely.box(300.5, 400.25, 420, 500), "adenoma", slide_id=slide_id, note=HOSTILE)
    draw(home, shapely.Point(350, 222), "other", slide_id=slide_id, subject="a2")
    return slide_id


def test_a_slide_goes_to_qupath_as_it_shows_slides(home, slide_id, tmp_path):
    found = collect_findings(home, slide_id, tiles=True)
    path = write_result_geojson(found, tmp_path / "a.geojson")
    check_same(read_result_geojson(path), found)
    features = json.loads(path.read_text())["features"]
    kinds = [feature["properties"]["objectType"] for feature in features]
    assert kinds == ["annotation"] * 6 + ["tile"] * 60
    tissue, first = features[0], features[1]["geometry"]
    assert shape(first).bounds == (192 - CORNER[0], 128 - CORNER[1], 320 - 128, 192 - 64)
    assert features[6]["geometry"]["coordinates"][0][0] == [192 - 128, 128 - 64]
    assert tissue["properties"]["isLocked"]
    assert (tissue["geometry"]["type"], len(tissue["geometry"]["coordinates"][0])) == (
        "MultiPolygon", 2,
    )  # fmt: skip
    area = read_mask(mask_path(home, slide_id)).array.sum() * 16**2
    assert shape(tissue["geometry"]).area == area


def test_without_tiles_none_is_written(home, slide_id, tmp_path):
    found = collect_findings(home, slide_id)
    read = read_result_geojson(write_result_geojson(found, tmp_path / "a.geojson"))
    assert read.tiles.empty
    assert [*read.tiles.columns][-3:] == [f"prob_{name}" for name in CLASSES]
    check_same(read, found)


def test_objects_are_as_qupath_reads_them(home, slide_id, tmp_path):
    """Types as `QuPathTypeAdapters.PathObjectTypeAdapter` takes them, each class in its colour."""
    path = write_result_geojson(
        collect_findings(home, slide_id, tiles=True), tmp_path / "a.geojson"
    )
    said = [feature["properties"] for feature in json.loads(path.read_text())["features"]]
    for properties in said:
        colour = properties["classification"].get("color", [0, 0, 0])
        assert [type(channel) for channel in colour] == [int] * 3
        assert {type(v) for v in properties.get("measurements", {}).values()} <= {int, float}
        assert {type(v) for v in properties.get("metadata", {}).values()} <= {str}
    colours = {str(p["classification"].get("color")) for p in said
               if p["classification"]["name"] == "carcinoma"}  # fmt: skip
    assert colours == {"[213, 94, 0]"}  # region, judged region and tile alike
    assert said[5]["classification"] == {"name": "other"}  # no class of the model's: QuPath's own


def test_a_slide_without_mask_or_result_is_no_surprise(home):
    slide_id = take_slide(home)
    with pytest.raises(CatalogError, match="histo-nb analyse"):
        collect_findings(home, slide_id)
    add_found(home, slide_id)
    mask_path(home, slide_id).unlink()
    assert collect_findings(home, slide_id).tissue is None
    for path in home.slides.iterdir():
        path.unlink()
    with pytest.raises(SlideError):  # nobody else says where its scan begins
        collect_findings(home, slide_id)


def test_a_real_slide_says_where_its_scan_begins(data):
    slides = data / "slides"
    for path, corner in {
        "synthetic/panimg_no_dzi.tif": (0, 512),
        "real/CMU-1-Small-Region.svs": (0, 0),
    }.items():
        assert scan_origin({"slide_path": str(slides / path)}) == corner


@pytest.mark.parametrize("seed", range(4))
def test_a_mask_is_outlined_along_its_pixels(seed):
    mask = np.random.default_rng(seed).random((30, 40)) > [0.2, 0.5, 0.8, 1.0][seed]
    outline = outline_pixels(mask)
    assert outline.is_valid
    y, x = np.mgrid[:30, :40] + 0.5
    assert (shapely.contains_xy(outline, x, y) == mask).all()
    assert outline.area == mask.sum()


def test_a_number_that_is_none_is_not_written(home, slide_id, tmp_path):
    found = collect_findings(home, slide_id, tiles=True)
    tiles = found.tiles.assign(tissue=float("nan"))
    with pytest.raises(TableError, match="not finite"):
        write_result_geojson(replace(found, tiles=tiles), tmp_path / "a.geojson")
    assert [*tmp_path.glob("*.geojson")] == []


def tile(content: dict) -> dict:
    return content["features"][-1]


def shift(content: dict) -> None:
    ring = tile(content)["geometry"]["coordinates"][0]
    ring[:] = [[x + 0.5, y] for x, y in ring]


def far_ring(x: int) -> list[list[int]]:
    return [[x, 0], [x + 64, 0], [x + 64, 64], [x, 64], [x, 0]]


BOW_TIE = [[[[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]]]
SPOILT = {
    "no header": lambda c: c.pop("histo_nb"),
    "format": lambda c: c["histo_nb"].update(format=2),
    "origin": lambda c: c["histo_nb"].update(origin=[0, "64"]),
    "no geometry": lambda c: tile(c).pop("geometry"),
    "no square": lambda c: tile(c)["geometry"]["coordinates"][0][2].reverse(),
    "half a pixel": shift,
    "too far": lambda c: tile(c)["geometry"].update(coordinates=[far_ring(10**40)]),
    "region too far": lambda c: c["features"][1]["geometry"].update(
        coordinates=[far_ring(10**400)]
    ),
    "nan": lambda c: tile(c)["properties"]["measurements"].update(tissue=float("nan")),
    "lost": lambda c: tile(c)["properties"]["measurements"].pop("prob_adenoma"),
    "a point": lambda c: c["features"][0].update(geometry={"type": "Point", "coordinates": [1, 2]}),
    "a bow tie": lambda c: c["features"][0]["geometry"].update(coordinates=BOW_TIE),
    "nan in region": lambda c: c["features"][1]["properties"]["measurements"].update(
        area_mm2=float("nan")
    ),
    "two tissues": lambda c: c["features"].append(c["features"][0]),
    "nothing": lambda c: c.update(features=None),
    "a number": lambda c: c["features"].insert(3, 7),
    "no side": lambda c: tile(c)["geometry"].update(coordinates=[[[8, 8]] * 5]),
    "much tissue": lambda c: tile(c)["properties"]["measurements"].update(tissue=9.5),
    "another class": lambda c: tile(c)["properties"]["classification"].update(name="unheard of"),
    "no word": lambda c: c["features"][3]["properties"].pop("description"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_file_is_refused_by_name(home, slide_id, tmp_path, what):
    found = collect_findings(home, slide_id, tiles=True)
    path = write_result_geojson(found, tmp_path / "a.geojson")
    content = json.loads(path.read_text())
    SPOILT[what](content)
    path.write_text(json.dumps(content))
    with pytest.raises(TableError, match=r"a\.geojson"):
        read_result_geojson(path)


def test_a_measurement_moves_no_tile(home, slide_id, tmp_path):
    found = collect_findings(home, slide_id, tiles=True)
    path = write_result_geojson(found, tmp_path / "a.geojson")
    content = json.loads(path.read_text())
    tile(content)["properties"]["measurements"]["x"] = 7777
    path.write_text(json.dumps(content))
    assert read_result_geojson(path).tiles.x.tolist() == found.tiles.x.tolist()


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"null", b'{"features": {}}'])
def test_what_is_no_geojson_is_refused_by_name(tmp_path, content):
    (tmp_path / "a.geojson").write_bytes(content)
    with pytest.raises(TableError, match=r"a\.geojson"):
        read_result_geojson(tmp_path / "a.geojson")


def test_reviews_and_labels_count_from_the_scan_too(home, slide_id, tmp_path):
    origin = scan_origin(home.catalog.slide(slide_id))
    assert origin == CORNER
    reviews = home.catalog.reviews([slide_id])
    path = write_judged_geojson(reviews, tmp_path / "judged.geojson", origin=origin)
    drawn = json.loads(path.read_text())["features"][1]["geometry"]
    assert shape(drawn).bounds == (300.5 - 128, 400.25 - 64, 420 - 128, 500 - 64)
    read = read_judged_geojson(path)
    assert [*read.outline.map(json.loads)] == [*reviews.outline.map(json.loads)]
    said = {"label": "adenoma", "label_source": "x", "labelled_by": "y", "labelled_at": "z"}
    result = collect_findings(home, slide_id, tiles=True).tiles
    tiles = add_found(home, slide_id).predictions.assign(label_fraction=1.0, **said)
    path = write_label_geojson(
        check_table(tiles, LABELLED_TILES), tmp_path / "labels.geojson", origin=origin
    )
    corners = [annotation.outline.bounds[:2] for annotation in read_geojson(path)]
    assert corners == [*zip(result.x, result.y, strict=True)]
    first = json.loads(path.read_text())["features"][0]["geometry"]["coordinates"][0]
    assert (first[0], first[2]) == ([64, 64], [64 + TILE, 64 + TILE])
