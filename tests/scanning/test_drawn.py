"""Drawn glass: pure by place, deterministic by seed, with a truth that fits what is drawn."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from histo_nb.annotations import read_geojson, write_geojson
from histo_nb.errors import SpecError
from histo_nb.scanning.virtual.drawing.areas import ACROSS_UM
from histo_nb.scanning.virtual.drawing.brushes import KINDS, REACH_UM, make_brushes
from histo_nb.scanning.virtual.drawn import BLOCK_PX, DrawnGlass, DrawnSpec, draw_glass
from histo_nb.scanning.virtual.glass import GLASS_RGB, Glass

SMALL = DrawnSpec(size_um=(4800, 3600))


@pytest.fixture(scope="module")
def glass() -> DrawnGlass:
    return draw_glass("P-1", diagnosis="carcinoma", seed=7, spec=SMALL)


@pytest.fixture(scope="module")
def plane(glass: DrawnGlass) -> np.ndarray:
    """A rectangle around a class border, tissue and glass, seen at once."""
    return glass.look(3000, 2900, size=(1600, 1100), mpp=0.5)


def test_drawn_glass_is_a_glass(glass: DrawnGlass) -> None:
    as_glass: Glass = glass
    view = as_glass.look(0, 0, size=(30, 20), mpp=0.5)
    assert view.shape == (20, 30, 3)
    assert view.dtype == np.uint8
    assert (glass.patient_id, glass.diagnosis) == ("P-1", "carcinoma")


@settings(max_examples=25, deadline=None)
@given(
    corner=st.tuples(st.integers(0, 1590), st.integers(0, 1090)),
    size=st.tuples(st.integers(1, 700), st.integers(1, 500)),
)
def test_a_rectangle_is_the_crop_of_a_larger_one(
    glass: DrawnGlass, plane: np.ndarray, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    x, y = corner
    crop = plane[y : y + size[1], x : x + size[0]]
    view = glass.look(3000 + x, 2900 + y, size=(crop.shape[1], crop.shape[0]), mpp=0.5)
    assert np.array_equal(view, crop)


@pytest.mark.parametrize("mpp", [0.25, 0.37, 1.0, 5.0])
def test_other_scales_are_pure_too(glass: DrawnGlass, mpp: float) -> None:
    x, y = (round(um / mpp) for um in (2000, 1500))
    whole = glass.look(x, y, size=(300, 200), mpp=mpp)
    part = glass.look(x + 91, y + 57, size=(133, 101), mpp=mpp)
    assert np.array_equal(part, whole[57:158, 91:224])


def test_blocks_join_without_a_seam(glass: DrawnGlass, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (4 * BLOCK_PX[0], 11 * BLOCK_PX[1])
    usual = glass.look(x, y, size=(512, 512), mpp=0.5)
    monkeypatch.setattr("histo_nb.scanning.virtual.drawn.BLOCK_PX", (384, 320))
    otherwise = glass.look(x, y, size=(512, 512), mpp=0.5)
    assert np.abs(usual.astype(int) - otherwise).max() <= 1


def test_the_same_seed_draws_the_same_bytes(glass: DrawnGlass, plane: np.ndarray) -> None:
    again = draw_glass("P-2", diagnosis="carcinoma", seed=7, spec=SMALL)
    other = draw_glass("P-1", diagnosis="carcinoma", seed=8, spec=SMALL)
    assert np.array_equal(again.look(3000, 2900, size=(1600, 1100), mpp=0.5), plane)
    assert not np.array_equal(other.look(3000, 2900, size=(1600, 1100), mpp=0.5), plane)
    assert [a.outline.wkb for a in again.truth()] == [a.outline.wkb for a in glass.truth()]


@pytest.mark.parametrize("diagnosis", ["normal", "adenoma", "carcinoma"])
@pytest.mark.parametrize("seed", [1, 2])
def test_truth_is_valid_apart_and_worst_class_wide(diagnosis: str, seed: int) -> None:
    drawn = draw_glass("P", diagnosis=diagnosis, seed=seed)
    truth = drawn.truth()
    labels = {a.label for a in truth}
    assert {"normal", diagnosis} <= labels
    assert max(labels, key=SMALL.classes.index) == diagnosis
    slide = shapely.box(0, 0, *drawn.size_um)
    for annotation in truth:
        assert isinstance(annotation.outline, shapely.Polygon)
        assert annotation.outline.is_valid
        assert slide.contains(annotation.outline)
    for a, b in itertools.combinations(truth, 2):
        assert a.outline.intersection(b.outline).area < 1
    tissue = sum(a.outline.area for a in truth)
    worst = [a.outline for a in truth if a.label == diagnosis]
    widest = max(shapely.maximum_inscribed_circle(w).length for w in worst)
    assert 2 * widest >= ACROSS_UM
    if diagnosis != "normal":
        assert 0.3 < sum(w.area for w in worst) / tissue < 0.7


def test_truth_covers_the_tissue_and_nothing_else(glass: DrawnGlass) -> None:
    view = glass.look(0, 0, size=(1200, 900), mpp=4.0).astype(int)
    stained = np.abs(view - GLASS_RGB).max(axis=2) > 30
    ys, xs = np.mgrid[2:900:5, 2:1200:5]
    covered = shapely.union_all([a.outline for a in glass.truth()])
    inside = shapely.contains_xy(covered.buffer(-25), xs * 4.0 + 2, ys * 4.0 + 2)
    outside = ~shapely.contains_xy(covered.buffer(60), xs * 4.0 + 2, ys * 4.0 + 2)
    assert stained[ys, xs][inside].mean() > 0.75  # lumina and vessels are white
    assert not stained[ys, xs][outside].any()


def test_truth_survives_geojson(glass: DrawnGlass, tmp_path: Path) -> None:
    path = write_geojson(glass.truth(), tmp_path / "truth.geojson")
    assert [a.label for a in read_geojson(path)] == [a.label for a in glass.truth()]


def test_bare_glass_is_nearly_even(glass: DrawnGlass) -> None:
    corner = glass.look(0, 0, size=(100, 100), mpp=0.5)
    assert np.abs(corner.astype(int) - GLASS_RGB).max() <= 16
    assert np.array_equal(
        glass.look(-40, -30, size=(100, 100), mpp=0.5)[30:, 40:], corner[:70, :60]
    )


def test_stains_differ_between_slides_unless_told_otherwise() -> None:
    def mean_colour(seed: int, spread: float) -> np.ndarray:
        spec = DrawnSpec(size_um=(2400, 2000), stain_spread=spread)
        view = draw_glass("P", diagnosis="normal", seed=seed, spec=spec).look(
            0, 0, size=(600, 500), mpp=4.0
        )
        return np.asarray(view[np.abs(view.astype(int) - GLASS_RGB).max(axis=2) > 30].mean(axis=0))

    def spread_of(spread: float) -> float:
        colours = np.array([mean_colour(seed, spread) for seed in range(4)])
        return float(np.ptp(colours, axis=0).max())

    assert spread_of(1.0) > 2 * spread_of(0.0)


def test_no_stamp_reaches_farther_than_is_searched() -> None:
    stamps = make_brushes(0.5).stamps
    assert len(stamps) % len(KINDS) == 0
    assert max(max(stamp.shape) for stamp in stamps) * 0.5 <= REACH_UM + 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"size_um": (500, 3000)}, "too small"),
        ({"size_um": (float("nan"), 3000)}, "above 0"),
        ({"classes": ("normal", "melanoma")}, "classes"),
        ({"classes": ()}, "classes"),
        ({"stain_spread": -1}, "stain_spread"),
    ],
)
def test_spec_checks_itself(wrong: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SpecError, match=words):
        DrawnSpec(**wrong)


def test_draw_refuses_what_it_cannot_draw(glass: DrawnGlass) -> None:
    with pytest.raises(SpecError, match="diagnosis"):
        draw_glass("P", diagnosis="melanoma", seed=1)
    with pytest.raises(SpecError, match="seed"):
        draw_glass("P", diagnosis="normal", seed=-1)
    with pytest.raises(SpecError, match="mpp"):
        glass.look(0, 0, size=(10, 10), mpp=0)
