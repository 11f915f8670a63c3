"""Files of labels beside slides: the right one, once, and of that slide."""

import json
import multiprocessing

import numpy as np
import pandas as pd
import pytest
import shapely
from glasses import PlaneGlass, bare
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.errors import StorageError, TableError
from histo_nb.home import open_home
from histo_nb.masking.masks import mask_slides
from histo_nb.scanning.console import scan_rack
from histo_nb.tiling.areas import outline_areas
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.labels import label_slides
from histo_nb.tiling.pictures import write_tiles
from histo_nb.tiling.table import file_tiles, read_tiles

ASAP = (
    '<ASAP_Annotations><Annotations><Annotation Name="A" Type="Polygon" PartOfGroup="adenoma">'
    '<Coordinates>{}</Coordinates></Annotation></Annotations></ASAP_Annotations>'
)  # fmt: skip


@pytest.fixture
def tiled(home):
    plane = bare(1600, 1200)
    noise = np.random.default_rng(0).integers(-6, 6, (900, 1200, 3))
    plane[150:1050, 200:1400] = np.array((196, 120, 170)) + noise
    (slide_id,) = scan_rack([PlaneGlass(plane)], home).slide_id
    mask_slides(home, [])
    tiles, failures = tile_slides(home, [], spec=TileSpec(tile_size=256))
    assert failures.empty
    return slide_id, tiles


def test_outlines_of_both_programs_label_alike(home, tiled, tmp_path):
    slide_id, tiles = tiled
    box = shapely.box(0, 0, 800, 1200)
    labels = []
    for suffix in (".geojson", ".xml"):
        folder = tmp_path / suffix[1:]
        folder.mkdir()
        path = folder / f"{slide_id}{suffix}"
        if suffix == ".geojson":
            write_geojson([Annotation(box, "adenoma")], path)
        else:
            points = list(box.exterior.coords)[:-1]
            path.write_text(ASAP.format("".join(
                f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points)
            )))  # fmt: skip
        rows = label_slides(home, tiles, annotations=folder)
        assert set(rows.label_source.dropna()) == {path.name}
        labels.append(rows.label.tolist())
    assert labels[0] == labels[1]
    assert {"adenoma", None} == set(labels[0])


def test_two_files_for_one_slide_are_named(home, tiled, tmp_path):
    slide_id, tiles = tiled
    write_geojson([], tmp_path / f"{slide_id}.geojson")
    (tmp_path / f"{slide_id}.xml").write_text(ASAP.format(""))
    with pytest.raises(TableError, match="keep one"):
        label_slides(home, tiles, annotations=tmp_path)


def test_outlines_of_another_slide_are_named(home, tiled, tmp_path):
    slide_id, tiles = tiled
    far = Annotation(shapely.box(90_000, 0, 91_000, 500), "adenoma")
    write_geojson([far], tmp_path / f"{slide_id}.geojson")
    with pytest.raises(TableError, match="lies outside the slide of 1600 × 1200 px"):
        label_slides(home, tiles, annotations=tmp_path)


def test_a_slide_without_outlines_keeps_its_tiles(home, tiled, tmp_path):
    rows = label_slides(home, tiled[1], annotations=tmp_path)
    assert len(rows) == len(tiled[1])
    assert rows.label.isna().all()


# ------------------------------------------------------------------------- images of classes
def write_mask(folder, slide_id, values, classes=None):
    Image.fromarray(values).save(folder / f"{slide_id}.png")
    (folder / "classes.json").write_text(json.dumps(classes or {"0": "", "7": "adenoma"}))
    return folder


def left_half(height=300, width=400):
    values = np.zeros((height, width), np.uint8)
    values[:, : width // 2] = 7
    return values


def test_an_image_of_classes_labels_as_the_outline_does(home, tiled, tmp_path):
    slide_id, tiles = tiled
    by_mask = label_slides(home, tiles, annotations=write_mask(tmp_path, slide_id, left_half()))
    folder = tmp_path / "other"
    folder.mkdir()
    write_geojson(
        [Annotation(shapely.box(0, 0, 800, 1200), "adenoma")], folder / f"{slide_id}.json"
    )
    by_outline = label_slides(home, tiles, annotations=folder)
    assert by_mask.label.tolist() == by_outline.label.tolist()
    assert by_mask.label_fraction.to_numpy() == pytest.approx(
        by_outline.label_fraction.to_numpy(), nan_ok=True
    )
    assert set(by_mask.label_source.dropna()) == {f"{slide_id}.png"}


@pytest.mark.parametrize(
    ("values", "classes", "said"),
    [
        (left_half(height=400), None, "another slide"),
        (left_half() + 1, None, "values .1, 8. without a class"),
        (np.zeros((300, 400, 3), np.uint8), None, "image of colours"),
        (left_half(), [1], "classes.json"),
        (left_half(), {"x": "adenoma"}, "classes.json"),
    ],
)
def test_a_mask_that_says_nothing_certain_is_refused(home, tiled, values, classes, said):
    slide_id, tiles = tiled
    folder = write_mask(home.staging, slide_id, values, classes)
    with pytest.raises(TableError, match=said):
        label_slides(home, tiles, annotations=folder)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 99])
def test_a_mask_that_is_no_image_is_refused(home, tiled, tmp_path, content):
    slide_id, tiles = tiled
    write_mask(tmp_path, slide_id, left_half())
    (tmp_path / f"{slide_id}.png").write_bytes(content)
    with pytest.raises(TableError, match="not an image"):
        label_slides(home, tiles, annotations=tmp_path)


# --------------------------------------------------------------------- tiles sorted by hand
def test_tiles_sorted_by_hand_are_labelled_by_their_folder(home, tiled, tmp_path):
    slide_id, tiles = tiled
    folder, failures = write_tiles(tiles, tmp_path / "images")
    images = sorted((folder / "unlabelled").iterdir())
    assert failures.empty
    assert len(images) == len(tiles)
    assert Image.open(images[0]).size == (256, 256)
    (folder / "adenoma").mkdir()
    for path in images[:3]:
        path.rename(folder / "adenoma" / path.name)
    rows = label_slides(home, tiles, annotations=folder)
    assert rows.label.notna().sum() == 3
    moved = {f"{slide_id}_{r.x}_{r.y}_{r.size_l0}.png" for r in rows.itertuples() if r.label}
    assert moved == {path.name for path in images[:3]}
    assert set(rows.label_source.dropna()) == {"sorted tiles"}
    again, _ = write_tiles(rows, tmp_path / "again")
    assert {p.name for p in (again / "adenoma").iterdir()} == moved


def test_images_of_other_tiles_or_in_two_folders_are_named(home, tiled, tmp_path):
    _, tiles = tiled
    folder, _ = write_tiles(tiles, tmp_path / "images")
    image = next((folder / "unlabelled").iterdir())
    (folder / "adenoma").mkdir()
    twin = folder / "adenoma" / image.name
    twin.write_bytes(image.read_bytes())
    with pytest.raises(TableError, match="keep one"):
        label_slides(home, tiles, annotations=folder)
    twin.rename(twin.with_name("S-9_0_0_256.png"))
    with pytest.raises(TableError, match="no tile of this table"):
        label_slides(home, tiles, annotations=folder)


@pytest.mark.parametrize("name", ["a/b", "..", "unlabelled", "x:y"])
def test_a_class_that_names_no_folder_is_refused_before_anything_is_written(tiled, tmp_path, name):
    _, tiles = tiled
    with pytest.raises(TableError, match=r"name of a file|folder of tiles without"):
        write_tiles(tiles.assign(label=name), tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_tile_that_cannot_be_read_is_told_and_the_others_are_written(tiled, tmp_path):
    _, tiles = tiled
    rows = tiles.head(3).assign(level=[0, 9, 0])
    folder, failures = write_tiles(rows, tmp_path / "images")
    assert (len(list(folder.glob("*/*.png"))), len(failures)) == (2, 1)


# ---------------------------------------------------------------------------------- classes
def test_a_class_that_nobody_named_is_refused(home, tiled, tmp_path):
    slide_id, tiles = tiled
    write_geojson([Annotation(shapely.box(0, 0, 9, 9), "Adenoma")], tmp_path / f"{slide_id}.json")
    with pytest.raises(TableError, match="the class Adenoma, which is none of normal, adenoma"):
        label_slides(home, tiles, annotations=tmp_path, classes=("normal", "adenoma"))


# ------------------------------------------------------------------------------------ areas
def outlines(seed):
    """Two outlines that overlap, with holes and parts, some along the tiles' very edges."""
    rng = np.random.default_rng(seed)
    x, y, width, height = 50 * rng.integers(0, 20, 4) + [0, 0, 50, 50]
    box = shapely.box(x, y, x + width, y + height)
    first, second = (shapely.Point(*rng.integers(0, 900, 2)).buffer(r) for r in (300, 150))
    holed = first.difference(second)
    return [Annotation(o, "a") for o in (holed, box, box.difference(second)) if shapely.area(o)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 120), st.booleans())
def test_areas_cut_in_halves_are_those_of_each_tile(seed, n, aligned):
    rng = np.random.default_rng(seed)
    x, y = 50 * rng.integers(0, 18, (2, n)) if aligned else rng.integers(0, 900, (2, n))
    tiles = pd.DataFrame({"x": x, "y": y, "size_l0": 100})
    drawn = outlines(seed)
    whole = shapely.union_all([o.outline for o in drawn])
    wanted = shapely.area(shapely.intersection(shapely.box(x, y, x + 100, y + 100), whole))
    assert outline_areas(tiles, drawn)["a"] == pytest.approx(wanted, abs=1e-6)


# ---------------------------------------------------------------------------- nothing is lost
def test_files_named_as_no_slide_are_told(home, tiled, tmp_path):
    slide_id, tiles = tiled
    folder = tmp_path / "labels"
    folder.mkdir()
    outline = [Annotation(shapely.box(0, 0, 1600, 1200), "adenoma")]
    write_geojson(outline, folder / f"{slide_id}-old.geojson")
    with pytest.raises(TableError, match=r"named as a slide: there is S-.*-old, a slide is"):
        label_slides(home, tiles, annotations=folder)
    write_geojson(outline, folder / f"{slide_id}.GEOJSON")
    assert label_slides(home, tiles, annotations=folder).label.eq("adenoma").any()


def test_an_image_folder_that_exists_is_refused_before_a_tile_is_read(tiled, tmp_path):
    _, tiles = tiled
    gone = tiles.assign(slide_path="/nowhere.svs")
    with pytest.raises(StorageError, match="exists already"):
        write_tiles(gone, tmp_path)
    folder, failures = write_tiles(gone, tmp_path / "images")
    assert (len(failures), list(folder.glob("*/*"))) == (len(tiles), [])
    with pytest.raises(TableError, match="cannot be the name of a file"):
        write_tiles(tiles.assign(slide_id="../escaped"), tmp_path / "more")


def file_half(root, tiles):
    file_tiles(tiles, open_home(root), slide_ids=tiles.slide_id.unique().tolist())


def test_slides_that_are_tiled_at_once_are_all_filed(home, make_tiles):
    tiles = make_tiles(*((f"P{i}", "normal", 40) for i in range(6)))
    file_tiles(tiles.head(40), home)
    spawn = multiprocessing.get_context("spawn")
    parts = [rows for _, rows in tiles.groupby("slide_id")]
    workers = [spawn.Process(target=file_half, args=(home.root, rows)) for rows in parts[1:]]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(read_tiles(home).tile_id) == sorted(tiles.tile_id)


def test_a_table_of_two_scales_is_refused(home, make_tiles):
    tiles = make_tiles(("P1", "normal", 4), ("P2", "normal", 4))
    file_tiles(tiles, home)
    other = tiles[tiles.patient_id == "P2"].assign(mpp=1.0)
    with pytest.raises(TableError, match=r"mpp=0.5, these with 1"):
        file_tiles(other, home, slide_ids=["S-P2"])
    assert len(read_tiles(home)) == 8
