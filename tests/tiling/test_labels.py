"""Labels of tiles: one class over enough of the tissue, or none."""

import pandas as pd
import pytest
import shapely

from histo_nb.annotations import Annotation
from histo_nb.errors import SpecError
from histo_nb.tables import TILES, check_table
from histo_nb.tiling.areas import outline_areas
from histo_nb.tiling.labels import label_tiles


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
