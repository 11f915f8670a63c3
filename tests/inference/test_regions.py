"""Heatmap and regions from hand-made predictions."""

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.inference.regions import find_regions, make_heatmap, measure_regions

SIZE = 100  # px of 0.5 µm: a tile is 0.0025 mm²


def predicted(*tiles: tuple[int, int, str, float], size: int = SIZE) -> pd.DataFrame:
    """Rows from (x, y, class, its probability); two classes and normal share the rest."""
    rows = []
    for x, y, label, p in tiles:
        probs = {f"prob_{c}": (1 - p) / 2 for c in ("normal", "adenoma", "carcinoma")}
        rows.append({"x": x, "y": y, "size_l0": size, "tissue": 1.0, "prediction": label} | probs)
        rows[-1][f"prob_{label}"] = p
    return pd.DataFrame(rows)


def regions_of(rows: pd.DataFrame):
    return find_regions(rows, normal_class="normal", slide_mpp=0.5)


def test_a_heatmap_is_nan_where_no_tile_is():
    rows = predicted((50, 70, "normal", 0.9), (250, 70, "carcinoma", 0.8), (150, 270, "normal", 1))
    heatmap = make_heatmap(rows, "prob_normal")
    assert (heatmap.x, heatmap.y, heatmap.step) == (50, 70, 100)
    nan = np.nan
    expected = [[0.9, nan, 0.1], [nan, nan, nan], [nan, 1, nan]]
    np.testing.assert_allclose(heatmap.values, expected, atol=1e-6)
    assert heatmap.values.dtype == np.float32


@pytest.mark.parametrize(
    ("places", "size", "step"),
    [
        ([0], 100, 100),
        ([0, 300], 100, 100),  # no neighbour of either is there
        ([0, 200, 500], 100, 100),
        ([0, 50, 200], 100, 50),  # overlapping tiles
        ([0, 150, 250], 100, 50),
    ],
)
def test_the_step_is_that_of_the_grid_however_few_tiles_there_are(places, size, step):
    rows = predicted(*((x, 0, "normal", 0.9) for x in places), size=size)
    heatmap = make_heatmap(rows, "prob_normal")
    assert heatmap.step == step
    assert (np.flatnonzero(np.isfinite(heatmap.values[0])) * step).tolist() == places


def test_two_blobs_are_two_regions_with_their_measures():
    large = [(x, y, "carcinoma", p) for x, y, p in
             [(0, 0, 0.6), (100, 0, 0.8), (200, 100, 1.0)]]  # fmt: skip
    small = [(500, 500, "carcinoma", 0.9), (500, 600, "carcinoma", 0.7)]
    between = [(300, 300, "normal", 0.9)]
    rows = predicted(*small, *between, *large)
    rows.loc[rows.x == 200, "tissue"] = 0.5
    first, second = regions_of(rows)
    assert first.label == second.label == "carcinoma"
    assert first.measurements == pytest.approx(
        {"area_mm2": 2.5 * 0.0025, "probability": 0.8, "max_probability": 1.0, "n_tiles": 3}
    )
    assert second.measurements == pytest.approx(
        {"area_mm2": 2 * 0.0025, "probability": 0.8, "max_probability": 0.9, "n_tiles": 2}
    )
    assert second.outline.equals(shapely.box(500, 500, 600, 700))
    assert first.outline.bounds == (0, 0, 300, 200)
    assert first.outline.area == 3 * SIZE**2
    assert first.outline.is_valid


def test_neighbours_of_two_classes_are_two_regions():
    found = regions_of(predicted((0, 0, "adenoma", 0.6), (100, 0, "carcinoma", 0.7)))
    assert sorted(region.label for region in found) == ["adenoma", "carcinoma"]


def test_tiles_far_apart_are_not_joined():
    assert len(regions_of(predicted((0, 0, "adenoma", 0.6), (300, 0, "adenoma", 0.7)))) == 2


def test_overlapping_tiles_are_outlined_once():
    (region,) = regions_of(predicted(*((x, 0, "adenoma", 0.8) for x in (0, 50, 100))))
    assert region.outline.equals(shapely.box(0, 0, 200, 100))
    assert region.measurements["area_mm2"] == pytest.approx(0.005), "not more than its outline"


def test_a_normal_slide_has_no_regions():
    assert regions_of(predicted((0, 0, "normal", 0.9))) == []


@given(
    cells=st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 6)),
        st.tuples(st.sampled_from(["normal", "adenoma", "carcinoma"]), st.floats(0.1, 1)),
        min_size=1,
        max_size=30,
    ),
    stride=st.sampled_from([50, 60, 100, 200]),
    seed=st.integers(0, 99),
)
def test_areas_are_those_of_the_outlined_regions_in_any_order_of_rows(cells, stride, seed):
    rows = predicted(*((stride * i, stride * j, c, 0.8) for (i, j), (c, _) in cells.items()))
    rows["tissue"] = [tissue for _, tissue in cells.values()]
    outlined = [(r.label, r.measurements["area_mm2"]) for r in regions_of(rows)]
    shuffled = rows.sample(frac=1, random_state=seed)
    for some in (rows, shuffled):
        measured = measure_regions(some, normal_class="normal", slide_mpp=0.5)
        assert sorted(measured) == sorted(outlined), "to the last bit"
