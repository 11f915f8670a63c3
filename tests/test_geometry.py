import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from histo_nb.errors import MppError, SpecError
from histo_nb.geometry import (
    MPP_TOLERANCE,
    box_means,
    check_positive,
    check_slide_mpp,
    plan_grid,
    plan_read,
)

mpps = st.floats(0.05, 10)
tile_sizes = st.integers(1, 4096)
pyramids = st.lists(st.floats(1.1, 8), max_size=6).map(lambda steps: np.cumprod([1, *steps]))


@given(mpps, mpps, tile_sizes, pyramids, st.sampled_from(["level0", "pyramid"]))
def test_a_plan_never_upsamples(mpp, slide_mpp, tile_size, pyramid, read_path):
    assume(mpp >= slide_mpp * (1 - MPP_TOLERANCE / 2))
    plan = plan_read(
        mpp=mpp,
        tile_size=tile_size,
        slide_mpp=slide_mpp,
        level_downsamples=pyramid,
        read_path=read_path,
    )
    assert plan.read_size >= tile_size
    assert plan.size_l0 >= tile_size
    assert plan.level == 0 or read_path == "pyramid"
    assert abs(plan.read_size * pyramid[plan.level] - plan.size_l0) <= pyramid[plan.level] / 2
    half_px = 0.5 * slide_mpp / tile_size  # size_l0 is a whole number of pixels
    assert abs(plan.effective_mpp - mpp) <= half_px + MPP_TOLERANCE * mpp


@given(mpps, mpps, tile_sizes)
def test_finer_than_the_slide_is_refused(mpp, slide_mpp, tile_size):
    assume(mpp < slide_mpp * (1 - 2 * MPP_TOLERANCE))
    with pytest.raises(MppError, match="choose mpp ≥"):
        plan_read(mpp=mpp, tile_size=tile_size, slide_mpp=slide_mpp, level_downsamples=[1])


def test_an_unknown_read_path_is_refused():
    with pytest.raises(SpecError, match="fast"):
        plan_read(mpp=1, tile_size=8, slide_mpp=1, level_downsamples=[1], read_path="fast")  # type: ignore[arg-type]


places, extents, sizes = st.integers(-1000, 1000), st.integers(0, 500), st.integers(10, 600)


@given(st.tuples(places, places, extents, extents), sizes, sizes)
def test_a_grid_holds_all_whole_tiles(bounds, size, stride):
    x, y = plan_grid(bounds, size_l0=size, stride_l0=stride)
    left, top, width, height = bounds
    n_x, n_y = (sum(1 for at in range(0, n - size + 1, stride)) for n in (width, height))
    assert len(x) == len(y) == n_x * n_y
    assert len(set(zip(x.tolist(), y.tolist(), strict=True))) == len(x)
    assert list(zip(y, x, strict=True)) == sorted(zip(y, x, strict=True))
    for at, start, extent in ((x, left, width), (y, top, height)):
        if len(at):
            before, after = at.min() - start, start + extent - at.max() - size
            assert 0 <= before <= after <= before + 1
            assert after < stride


@given(st.data())
def test_box_means_match_counting(data):
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    cells = st.floats(0, 1)
    values = np.array(data.draw(st.lists(cells, min_size=height * width, max_size=height * width)))
    array = values.reshape(height, width)
    eighths = st.integers(-16, 64)
    corners = data.draw(st.tuples(eighths, eighths, st.integers(1, 40), st.integers(1, 40)))
    x0, y0, x1, y1 = corners[0], corners[1], corners[0] + corners[2], corners[1] + corners[3]
    fine = np.pad(np.kron(array, np.ones((8, 8))), ((16, 200), (16, 200)))
    expected = fine[y0 + 16 : y1 + 16, x0 + 16 : x1 + 16].mean()
    got = box_means(array, np.array([[x0, y0, x1, y1]]) / 8)
    assert got == pytest.approx([expected], abs=1e-9)


@given(st.floats() | st.none())
def test_a_slide_mpp_is_plausible_or_refused(mpp):
    if mpp is not None and 0.05 <= mpp <= 10:
        assert check_slide_mpp(mpp, where="a.svs") == mpp
    else:
        with pytest.raises(MppError, match=r"a\.svs.*--slide-mpp"):
            check_slide_mpp(mpp, where="a.svs")


@given(st.floats() | st.integers() | st.text() | st.none())
def test_only_positive_numbers_pass(value):
    if isinstance(value, int | float) and math.isfinite(value) and value > 0:
        check_positive(mpp=value)
    else:
        with pytest.raises(SpecError, match=r"(?s)^mpp=.* must be a number above 0"):
            check_positive(mpp=value)
