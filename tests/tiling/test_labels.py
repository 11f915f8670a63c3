"""Labels of tiles: one class over enough of the tissue, or none; from a file, where it says."""

import json

import pandas as pd
import pytest
import shapely
from found import CORNER, TILE, add_found, take_slide

from histo_nb.annotations import Annotation, write_features, write_geojson
from histo_nb.errors import SpecError, TableError
from histo_nb.tables import TILES, check_table
from histo_nb.tiling.areas import outline_areas
from histo_nb.tiling.labels import label_slides, label_tiles


def tile(tissue: float = 1.0) -> pd.DataFrame:
    """One tile of 100 px at 1000, 2000."""
    row = {"tile_id": "t", "slide_id": "S", "patient_id": "P", "slide_path": "/s.svs"}
    numbers = dict.fromkeys(("size_l0", "read_size", "tile_size"), 100)
    scales = dict.fromkeys(("slide_mpp", "mpp", "effective_mpp"), 0.5)
    place = {"x": 1000, "y": 2000, "level": 0, "read_path": "level0", "tissue": tissue}
    return check_table(pd.DataFrame([row | numbers | scales | place]), TILES)


def area(label: str, left: float, right: float) -> Annotation:
    """An outline over a part of the tile's width, and well beyond its height."""
    return Annotation(shapely.box(1000 + 100 * left, 1900, 1000 + 100 * right, 2200), label)


def labelled(*outlines: Annotation, tissue: float = 1.0, share: float = 0.75):
    rows = tile(tissue)
    areas = outline_areas(rows, outlines)
    rows = label_tiles(rows, areas, min_label_fraction=share, source="a.geojson")
    return rows.iloc[0]


@pytest.mark.parametrize(("right", "known"), [(0.74, False), (0.75, True), (0.9, True), (3, True)])
def test_enough_of_one_class_is_a_label(right, known):
    row = labelled(area("normal", 0, right))
    assert row.label == ("normal" if known else None)
    if known:
        assert row.label_fraction == pytest.approx(min(right, 1))
        assert (row.label_source, bool(row.labelled_by)) == ("a.geojson", True)
        assert row.labelled_at.startswith("20")
    else:
        said = row[["label_fraction", "label_source", "labelled_by", "labelled_at"]]
        assert said.isna().all()


def test_the_share_is_of_the_tissue():
    assert labelled(area("normal", 0, 0.5)).label is None
    assert labelled(area("normal", 0, 0.5), tissue=0.5).label == "normal"


def test_parts_of_one_class_add_up_and_count_once():
    assert labelled(area("normal", 0, 0.4), area("normal", 0.5, 0.9)).label == "normal"
    assert labelled(area("normal", 0, 0.5), area("normal", 0.1, 0.6)).label is None


@pytest.mark.parametrize("tissue", [0.5, 1.0])
@pytest.mark.parametrize("names", [("adenoma", "normal"), ("normal", "adenoma")])
def test_a_mixed_tile_stays_unlabelled(names, tissue):
    half = area(names[0], 0, 0.5), area(names[1], 0.5, 1)
    assert labelled(*half, tissue=tissue).label is None
    overlapping = area(names[0], 0, 1), area(names[1], 0, 1)
    assert labelled(*overlapping, tissue=tissue).label is None
    most = area(names[0], 0, 0.8), area(names[1], 0.8, 1)
    assert labelled(*most).label == names[0]


def test_without_outlines_no_tile_has_a_label():
    assert labelled().label is None
    assert labelled(Annotation(shapely.box(0, 0, 9, 9), "normal")).label is None


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_a_share_outside_its_rule_is_named(share):
    with pytest.raises(SpecError, match="min_label_fraction"):
        labelled(share=share)


# ------------------------------------------------------- files, where a scan begins elsewhere
BOX = shapely.box(320, 256, 320 + 2 * TILE, 256 + 2 * TILE)  # in the file: four tiles
ASAP = (
    '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="adenoma">'
    '<Coordinates>{}</Coordinates></Annotation></Annotations></ASAP_Annotations>'
)  # fmt: skip


@pytest.fixture
def tiles(home) -> pd.DataFrame:
    """Tiles of a slide with bounds."""
    return check_table(add_found(home, take_slide(home)).predictions[TILES.columns], TILES)


def write_outline(folder, suffix):
    path = folder / f"S-1{suffix}"
    if suffix != ".xml":
        return write_geojson([Annotation(BOX, "adenoma")], path)
    points = enumerate(BOX.exterior.coords[:-1])
    path.write_text(ASAP.format("".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in points
    )))  # fmt: skip
    return path


def corners(labelled: pd.DataFrame) -> set[tuple[int, int]]:
    known = labelled[labelled.label.notna()]
    assert set(known.label) == {"adenoma"}
    return {*zip(known.x, known.y, strict=True)}


def four(x: int, y: int) -> set[tuple[int, int]]:
    return {(x + dx, y + dy) for dx in (0, TILE) for dy in (0, TILE)}


@pytest.mark.parametrize("suffix", [".geojson", ".json", ".xml"])
def test_a_frame_is_never_guessed(home, tiles, tmp_path, suffix):
    write_outline(tmp_path, suffix)
    with pytest.raises(TableError, match="annotation_origin='scan'"):
        label_slides(home, tiles, annotations=tmp_path)
    scan = label_slides(home, tiles, annotations=tmp_path, annotation_origin="scan")
    assert corners(scan) == four(320 + CORNER[0], 256 + CORNER[1])
    slide = label_slides(home, tiles, annotations=tmp_path, annotation_origin="slide")
    assert corners(slide) == four(320, 256)
    with pytest.raises(SpecError, match="choose scan or slide"):
        label_slides(home, tiles, annotations=tmp_path, annotation_origin="bounds")  # type: ignore[arg-type]


@pytest.mark.parametrize("said", [None, "scan", "slide"])
def test_a_file_that_says_its_frame_is_believed(home, tiles, tmp_path, said):
    content = json.loads(write_outline(tmp_path, ".geojson").read_text())
    path = tmp_path / "S-1.geojson"
    write_features(content["features"], path, header={"origin": CORNER})
    labelled = label_slides(home, tiles, annotations=tmp_path, annotation_origin=said)
    assert corners(labelled) == four(320 + CORNER[0], 256 + CORNER[1])
    write_features(content["features"], path, header={"model_id": "M-1"})
    with pytest.raises(TableError, match="does not say where its 0, 0 lies"):
        label_slides(home, tiles, annotations=tmp_path, annotation_origin=said)


def test_without_bounds_there_is_one_frame(home, tmp_path):
    rows = add_found(home, take_slide(home, corner=(0, 0))).predictions[TILES.columns]
    write_outline(tmp_path, ".geojson")
    for said in (None, "scan", "slide"):
        labelled = label_slides(home, rows, annotations=tmp_path, annotation_origin=said)
        assert corners(labelled) == four(320, 256)


def test_what_qupath_does_not_count_labels_nothing(home, tiles, tmp_path):
    everywhere = shapely.box(*CORNER, 1024, 768)
    tile = {"properties": {"objectType": "tile"}}
    outlines = [
        Annotation(BOX, "adenoma"),
        Annotation(everywhere, "Region*"),
        Annotation(everywhere, "carcinoma", {}, tile),
    ]
    write_geojson(outlines, tmp_path / "S-1.geojson")
    labelled = label_slides(
        home, tiles, annotations=tmp_path, annotation_origin="slide", classes=["adenoma"]
    )
    assert corners(labelled) == four(320, 256)
