"""Files of outlines beside slides: the right one, once, and of that slide."""

import numpy as np
import pytest
import shapely
from glasses import PlaneGlass, bare

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.errors import TableError
from histo_nb.masking.tissue import mask_slides
from histo_nb.scanning.console import scan_rack
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.labels import label_slides

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
