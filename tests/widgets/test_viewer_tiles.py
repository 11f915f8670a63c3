"""The viewer's tiles: every place of a slide is served, and shows what OpenSlide reads there."""

import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from analysed import draw, write_slide
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import SlideError
from histo_nb.scanning.virtual.pyramid import PyramidSpec, write_pyramid
from histo_nb.slide import Slide
from histo_nb.widgets.viewer.tiles import LARGEST_PX, SlideTiles, Step, plan_steps

SIZE = (1500, 1100)
MAX_DIFFERENCE = 6.0  # grey values, mean: JPEG at quality 85
MAX_OWN = 10.0  # of a scanner's own coarser levels, which are shrunk otherwise


def decode(file: bytes) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A slide with levels 1, 4, 16, of JPEG tiles of 256 px."""
    path = tmp_path_factory.mktemp("slides") / "pyramid.svs"
    image = cv2.GaussianBlur(draw(3, SIZE), (0, 0), 12)  # two ways to shrink agree then
    label = np.full((64, 64, 3), 255, np.uint8)
    strips = [image[top : top + 256] for top in range(0, SIZE[1], 256)]
    write_pyramid(strips, path, spec=PyramidSpec(size=SIZE), label=label, macro=lambda _: label)
    return path


def check_all_tiles(tiles: SlideTiles, *, most: float = MAX_DIFFERENCE) -> None:
    check_tiles(tiles, most=most)  # some of them through OpenSlide still
    tiles.wait()
    check_tiles(tiles, most=most)


def check_tiles(tiles: SlideTiles, *, most: float) -> None:
    reference = tiles.slide.read_region(0, 0, level=0, size=tiles.slide.size)
    for number, step in enumerate(tiles.steps):
        whole = np.zeros((step.size[1], step.size[0], 3), np.uint8)
        for column in range(step.columns):
            for row in range(step.rows):
                x, y = column * step.tile[0], row * step.tile[1]
                tile = decode(tiles.read(number, column, row))
                place = whole[y : y + step.tile[1], x : x + step.tile[0]]
                place[:] = tile[: place.shape[0], : place.shape[1]]
        expected = cv2.resize(reference, step.size, interpolation=cv2.INTER_AREA)
        assert np.abs(whole.astype(int) - expected).mean() < most, step


def test_every_tile_of_every_step_lies_where_it_says(pyramid: Path) -> None:
    tiles = SlideTiles(pyramid)
    assert [step.scale for step in tiles.steps] == [1, 2, 1, 1]
    assert {step.tile for step in tiles.steps} == {(256, 256)}
    check_all_tiles(tiles)


def test_slide_without_a_pyramid_has_steps_too(tmp_path: Path) -> None:
    image = cv2.GaussianBlur(draw(4, (1300, 900)), (0, 0), 2)
    tiles = SlideTiles(write_slide(tmp_path / "single.svs", 4, image=image))
    assert [(step.level, step.scale) for step in tiles.steps] == [(0, 1), (0, 2)]
    check_all_tiles(tiles)


def test_stored_tiles_pass_through_as_they_are(pyramid: Path) -> None:
    tiles = SlideTiles(pyramid)
    tiles.wait()
    stored = Slide(pyramid).stored(0)
    assert stored
    assert tiles.read(0, 1, 2) == stored.jpeg(2 * stored.columns + 1)


@pytest.mark.parametrize("place", [(4, 0, 0), (-1, 0, 0), (0, 6, 0), (0, 0, 5), (0, -1, 0)])
def test_tiles_that_do_not_exist_are_named_errors(pyramid: Path, place: tuple[int, ...]) -> None:
    with pytest.raises(SlideError, match="reload the page"):
        SlideTiles(pyramid).read(*place)


def test_damaged_place_is_an_error_and_the_rest_is_still_read(
    pyramid: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(pyramid, tmp_path / "damaged.svs"))
    stored = Slide(path).stored(0)
    assert stored
    number = 1 * stored.columns + 2
    with path.open("r+b") as file:
        file.seek(int(stored.offsets[number]) + 200)
        file.write(bytes(int(stored.counts[number]) - 400))
    tiles = SlideTiles(path)
    tiles.wait()
    with pytest.raises(SlideError, match="cannot be read"):
        tiles.read(0, 2, 1)
    assert decode(tiles.read(0, 1, 1)).shape == (256, 256, 3)
    tiles._stored = [None] * len(tiles._stored)  # through OpenSlide, whose handle was reopened
    assert decode(tiles.read(0, 1, 1)).shape == (256, 256, 3)


def test_real_slides(data: Path) -> None:
    for name in ("CMU-1-Small-Region.svs", "TCGA-CR-7395-01A-01-TS1.svs"):  # JPEG, JPEG 2000
        check_all_tiles(SlideTiles(data / "slides" / "real" / name, slide_mpp=0.5), most=MAX_OWN)


sides = st.integers(1, 120_000)


@given(
    st.tuples(sides, sides),
    st.lists(st.sampled_from([2, 4, 8]), max_size=4),
    st.sampled_from([None, (240, 240), (256, 256), (512, 512), (128, 128), (2048, 64), (8, 8)]),
)
def test_steps_cover_any_slide(
    size: tuple[int, int], factors: list[int], stored: tuple[int, int] | None
) -> None:
    downsamples = [1.0]
    for factor in factors:
        downsamples.append(downsamples[-1] * factor)
    sizes = [(max(int(size[0] / d), 1), max(int(size[1] / d), 1)) for d in downsamples]
    steps = plan_steps(sizes, downsamples, [stored] * len(sizes))
    assert steps[0] == Step(0, 1, 1.0, size, steps[0].tile)
    assert max(steps[-1].size) <= LARGEST_PX
    for finer, coarser in pairwise(steps):
        assert coarser.downsample > finer.downsample
        assert coarser.size <= finer.size
    for step in steps:
        assert min(step.tile) >= 1
        assert step.columns * step.tile[0] >= step.size[0] > (step.columns - 1) * step.tile[0]
        assert step.rows * step.tile[1] >= step.size[1] > (step.rows - 1) * step.tile[1]
