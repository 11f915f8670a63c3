"""Tiles lie where their rows say: slides that carry their own positions, pyramids of any shape."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, reject
from hypothesis import strategies as st

from histo_nb.errors import NoTissueError
from histo_nb.geometry import MPP_TOLERANCE
from histo_nb.masking.tissue import TissueMask
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slide

WIDTH, HEIGHT, MPP = 742, 674, 0.25
BLOCK = 16  # px of level 0 that have one colour
FLIP = np.array([int(f"{i:05b}"[::-1], 2) for i in range(32)])  # neighbours differ by 8 at least
PYRAMID = (1, 2, 3.98)


def coded(width: int, height: int) -> np.ndarray:
    """Blocks whose colour is their place: R column, G row (5 bits), B the 3 higher bits of both."""
    column, row = np.meshgrid(np.arange(width) // BLOCK, np.arange(height) // BLOCK)
    high = column // 32 * 8 + row // 32
    return np.stack([FLIP[column % 32] * 8, FLIP[row % 32] * 8, high * 4], -1).astype(np.uint8)


def decode(rgb: np.ndarray) -> np.ndarray:
    """(2, H, W): columns and rows of the blocks that pixels show."""
    red, green, blue = np.moveaxis(rgb.astype(int), -1, 0)
    low, high = FLIP[np.stack([red + 4, green + 4]) // 8 % 32], (blue + 2) // 4
    return np.stack([high // 8, high % 8]) * 32 + low


def averaging(n: int, m: int) -> np.ndarray:
    """(m, n): how much each of `n` px counts in each of `m` px that cover the same length."""
    edges, px = np.arange(m + 1)[:, None] * n / m, np.arange(n)
    overlap = np.minimum(edges[1:], px + 1) - np.maximum(edges[:-1], px)
    return (overlap.clip(0) * m / n).astype(np.float32)


def sampling(start: float, n: int, extent: int) -> tuple[slice, np.ndarray]:
    """The px of a level, and how much each counts in `n` px from `start`: linear between two."""
    first, last = max(math.floor(start), 0), min(math.ceil(start) + n, extent)
    weights = (1 - np.abs(start + np.arange(n)[:, None] - np.arange(first, last))).clip(0)
    return slice(first, last), (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def apply(down: np.ndarray, image: np.ndarray, across: np.ndarray) -> np.ndarray:
    return np.moveaxis(down @ np.moveaxis(image, -1, 0) @ across.T, 0, -1)


def packed(image: np.ndarray, skip: tuple[float, float], tile: int = 64) -> Iterator[bytes]:
    """Tiles of a TIFF; those wholly left or above of `skip` are not in the file."""
    image = np.pad(image, ((0, tile), (0, tile), (0, 0)))
    for y in range(0, image.shape[0] - tile, tile):
        for x in range(0, image.shape[1] - tile, tile):
            absent = x + tile <= skip[0] or y + tile <= skip[1]
            yield b"" if absent else zlib.compress(image[y : y + tile, x : x + tile].tobytes())


DOWNS = [(averaging(HEIGHT, int(HEIGHT / d)), averaging(WIDTH, int(WIDTH / d))) for d in PYRAMID]
LEVELS = [apply(down, coded(WIDTH, HEIGHT), across).round() for down, across in DOWNS]


def write_coded(path: Path, skip: tuple[int, int]) -> None:
    """A lossless tiled pyramid; a sparse one has `openslide.bounds-*`."""
    with tifffile.TiffWriter(path) as writer:
        for level, d in zip(LEVELS, PYRAMID, strict=True):
            tiles = packed(level.astype(np.uint8), (skip[0] / d, skip[1] / d))
            writer.write(tiles, shape=level.shape, dtype=np.uint8, tile=(64, 64),
                         photometric="rgb", compression="deflate", subfiletype=int(d > 1),
                         resolution=(1e4 / MPP / d,) * 2, resolutionunit="CENTIMETER")  # fmt: skip


def everywhere(slide: Slide, downsample: float = 16.0) -> TissueMask:
    width, height = (math.ceil(extent / downsample) for extent in slide.size)
    return TissueMask(np.ones((height, width), bool), downsample, slide.slide_mpp)


def cut(slide: Slide, spec: TileSpec, *, mask: TissueMask | None = None):
    return tile_slide(slide, mask or everywhere(slide), spec=spec, slide_id="S", patient_id=None)


@pytest.fixture(scope="module", params=[(0, 0), (192, 128)], ids=["whole", "sparse"])
def slide(request, tmp_path_factory):
    path, (left, top) = tmp_path_factory.mktemp("coded") / "coded.tif", request.param
    write_coded(path, skip=(left, top))
    with Slide(path) as opened:
        assert opened.bounds == (left, top, WIDTH - left, HEIGHT - top)
        yield opened


def wrong_codes(tile: np.ndarray, row: dict, blur: float) -> int:
    """How many px that lie in one block, `blur` px around them included, name another block."""
    edges = np.arange(len(tile) + 1) * row["size_l0"] / len(tile)
    spans = [(row[axis] + edges[:-1] - blur, row[axis] + edges[1:] + blur - 1e-6) for axis in "xy"]
    true = np.meshgrid(*(first // BLOCK for first, _ in spans))
    inside = np.logical_and(*np.meshgrid(*(a // BLOCK == b // BLOCK for a, b in spans)))
    assert inside.any()
    return int((inside & (decode(tile) != np.stack(true)).any(axis=0)).sum())


def expected(row: dict, downsample: float) -> np.ndarray:
    """The tile of a row, computed from the known pixels: no OpenSlide, no OpenCV, no package."""
    level, n = LEVELS[row["level"]], row["read_size"]
    columns, across = sampling(row["x"] / downsample, n, level.shape[1])
    rows, down = sampling(row["y"] / downsample, n, level.shape[0])
    shrink = averaging(n, row["tile_size"])
    return apply(shrink @ down, level[rows, columns], shrink @ across)


def place_errors(tile: np.ndarray, row: dict, slide: Slide) -> list[str]:
    """What is wrong with a tile that should show the place in its row."""
    downsample = slide.level_downsamples[row["level"]]
    strangers = wrong_codes(tile, row, blur=downsample if row["level"] else 0)
    off = np.abs(tile - expected(row, downsample)).max()
    errors = {
        f"{strangers} px show other blocks": strangers > 0,
        f"a px differs by {off:.1f}": off > (3 if row["level"] else 1),
        "read_size": abs(row["read_size"] * downsample - row["size_l0"]) > downsample / 2 + 1e-6,
    }
    return [error for error, is_so in errors.items() if is_so]


LEVEL_AT = {1: 0, 1.5: 0, 2: 1, 2.7: 1, 4: 2}  # times the slide's mpp: level of the pyramid
SCALES = pytest.mark.parametrize("times", LEVEL_AT)
PATHS = pytest.mark.parametrize("read_path", ["level0", "pyramid"])


@PATHS
@SCALES
@pytest.mark.parametrize("grid", [(64, 0), (96, 75), (61, 80)], ids=str)  # tile_size, stride
def test_a_tile_shows_the_place_in_its_row(slide, times, grid, read_path):
    size, stride = grid
    spec = TileSpec(mpp=times * MPP, tile_size=size, stride=stride, read_path=read_path)
    rows = cut(slide, spec)
    assert set(rows.level) == {LEVEL_AT[times] if read_path == "pyramid" else 0}
    assert set(rows.size_l0) == {round(size * times)}
    for row in rows.to_dict("records"):
        assert place_errors(slide.read_tile(row, size=size), row, slide) == [], row["tile_id"]


@PATHS
@SCALES
@pytest.mark.parametrize(("axis", "px"), [("x", 1), ("x", -1), ("y", 1), ("y", -1)])
def test_a_tile_one_pixel_off_is_noticed(slide, times, axis, px, read_path):
    spec = TileSpec(mpp=times * MPP, tile_size=64, stride=150, read_path=read_path)
    for row in cut(slide, spec).to_dict("records"):
        tile = slide.read_tile({**row, axis: row[axis] + px}, size=64)
        assert place_errors(tile, row, slide), row["tile_id"]


class Planned(Slide):
    """A slide of any shape without a file: planning asks for its properties only."""

    def __init__(self, sizes: list[tuple[int, int]], bounds: tuple[int, ...], mpp: float) -> None:
        self.path, self._given_mpp = Path("planned.tif"), None
        (width, height), names = sizes[0], ("x", "y", "width", "height")[: len(bounds)]
        said = {f"openslide.bounds-{n}": str(v) for n, v in zip(names, bounds, strict=True)}
        self._handle = SimpleNamespace(
            dimensions=(width, height),
            level_downsamples=[(width / w + height / h) / 2 for w, h in sizes],  # as OpenSlide
            properties={**said, "openslide.mpp-x": repr(mpp)},
        )


@st.composite
def planned(draw) -> tuple[Planned, TileSpec]:
    """A pyramid of whole px, cut off or rounded; its scanned part; a grid that fits into it."""
    width, height = draw(st.integers(64, 4000)), draw(st.integers(64, 4000))
    whole = draw(st.sampled_from([math.floor, math.ceil, round]))
    steps = np.cumprod([1, *draw(st.lists(st.floats(1.5, 4.5) | st.just(3.98), max_size=4))])
    sizes = [(max(whole(width / d), 1), max(whole(height / d), 1)) for d in steps]
    ranges = (0, width - 64), (0, height - 64), (64, width), (64, height)  # may overhang
    bounds = draw(st.just(()) | st.tuples(*(st.integers(*limits) for limits in ranges)))
    slide, times = Planned(sizes, bounds, draw(st.floats(0.1, 1))), draw(st.floats(1, 5))
    most = int(min(slide.bounds[2:]) / times)
    size = draw(st.integers(-(-most // 7), most))
    return slide, TileSpec(
        mpp=slide.slide_mpp * times,
        tile_size=size,
        stride=draw(st.just(0) | st.integers(-(-size // 3), 2 * size)),
        min_tissue=draw(st.sampled_from([0.0, 0.3, 1.0])),
        read_path=draw(st.sampled_from(["level0", "pyramid"])),
    )


@given(planned(), st.floats(4, 40))
def test_a_grid_fills_the_scanned_part_evenly(drawn, coarse):
    slide, spec = drawn
    rows = cut(slide, spec, mask=everywhere(slide, coarse))
    size = rows.size_l0[0]
    step = max(round((spec.stride or spec.tile_size) * size / spec.tile_size), 1)
    for axis, at in enumerate((rows.x, rows.y)):
        start, extent = slide.bounds[axis], slide.bounds[axis + 2]
        before, after = at.min() - start, start + extent - at.max() - size
        assert 0 <= before <= after <= before + 1, "the rest is shared between both sides"
        assert before + after < step, "no whole tile more would fit"
        assert set(np.diff(np.unique(at))) <= {step}
    assert len(rows) == rows.x.nunique() * rows.y.nunique(), "no gap"
    assert (rows.tissue > 1 - 1e-9).all()


@given(planned(), st.floats(4, 40), st.integers(0, 2**32 - 1), st.floats(0.02, 1))
def test_rows_of_any_mask_keep_their_promises(drawn, coarse, seed, density):
    slide, spec = drawn
    mask = everywhere(slide, coarse)
    mask.array[np.random.default_rng(seed).random(mask.array.shape) >= density] = False
    try:
        rows, more = (cut(slide, s, mask=mask) for s in (spec, replace(spec, min_tissue=0)))
    except NoTissueError:
        reject()
    assert rows.equals(cut(slide, spec, mask=mask)), "the same rows every time"
    assert (np.diff(rows.y * 10_000 + rows.x) > 0).all(), "row by row, none twice"
    for axis, at in enumerate((rows.x, rows.y)):
        start, extent = slide.bounds[axis], slide.bounds[axis + 2]
        assert start <= at.min() <= at.max() <= start + extent - rows.size_l0[0]
    whole_px = max(0.5 / spec.tile_size, MPP_TOLERANCE) * slide.slide_mpp + 1e-12
    assert abs(rows.effective_mpp - spec.mpp).max() <= whole_px
    assert (rows.effective_mpp == slide.slide_mpp * rows.size_l0 / rows.tile_size).all()
    assert rows.tissue.between(max(spec.min_tissue, 1e-9), 1).all()
    assert more[more.tissue >= spec.min_tissue].tile_id.tolist() == rows.tile_id.tolist()


REAL = ("real/CMU-1-Small-Region", "real/TCGA-CR-7395-01A-01-TS1", "synthetic/panimg_no_dzi")


@PATHS
@pytest.mark.parametrize("times", [1, 2.3])
@pytest.mark.parametrize("name", REAL)  # the last has bounds
def test_tiles_of_a_real_slide_are_what_openslide_reads_there(data, name, times, read_path):
    (path,) = data.glob(f"slides/{name}.*")
    with Slide(path, slide_mpp=0.25) as slide, openslide.OpenSlide(path) as direct:
        spec = TileSpec(mpp=times * slide.slide_mpp, tile_size=224, read_path=read_path)
        for row in cut(slide, spec).iloc[::29].to_dict("records"):
            n, shrink = row["read_size"], averaging(row["read_size"], 224)
            seen = np.array(direct.read_region((row["x"], row["y"]), row["level"], (n, n)))
            seen[seen[..., 3] == 0] = 255  # never scanned
            shrunk = apply(shrink, seen[..., :3], shrink)
            assert np.abs(slide.read_tile(row, size=224) - shrunk).max() <= 1
