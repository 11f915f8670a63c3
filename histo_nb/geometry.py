"""Pure arithmetic of levels, microns per pixel, tiles and bounds. No files, no pixels.

Three frames, each with its suffix: `_um` micrometres on the glass, `_l0` pixels of level 0,
`_px` pixels at the asked mpp. `x, y` without a suffix are always level-0 pixels, top-left.
"""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import cv2
import numpy as np

from histo_nb.errors import MppError, SpecError

ReadPath = Literal["level0", "level0/2", "level0/4", "pyramid", "pyramid/2", "pyramid/4"]
READ_PATHS: tuple[str, ...] = get_args(ReadPath)
DCT_SCALES = (8, 4, 2, 1)  # pixels of a side that a JPEG decoder can make one

FINEST_MPP = 0.05  # µm/px; a pixel below the diffraction limit of light cannot be a scan
COARSEST_MPP = 10.0  # µm/px; libvips writes 1000 where no resolution was set, macro images ~25
POWER_MPP = (8.0, 12.5)  # mpp × objective power of whole-slide scanners: 10 µm, ± a quarter
LEVEL_TOLERANCE = 1e-3  # relative; levels of odd sizes are 2.0005 times smaller, and mean 2
MPP_TOLERANCE = 0.01  # relative; 0.499 and 0.5 µm/px are the same 20x scan


@dataclass(frozen=True, kw_only=True)
class ReadPlan:
    """How one square tile is read from a slide.

    With `slide_mpp` 0.25, a tile of 512 px asked at `mpp` 0.5 covers `size_l0` 1024 px of level
    0; read from a level of downsample 2 it has `read_size` 512 px there.
    """

    mpp: float  # µm/px, as asked
    tile_size: int  # px at mpp
    size_l0: int  # px at level 0 that the tile covers
    effective_mpp: float  # µm/px that tile_size px over size_l0 px really give
    level: int
    step: int  # level-0 px; tiles should lie at multiples of it
    read_size: int  # px as decoded: at level, or fewer where JPEG is decoded at a scale


def plan_read(
    *,
    mpp: float,
    tile_size: int,
    slide_mpp: float,
    level_downsamples: Sequence[float],
    read_path: ReadPath = "level0",
) -> ReadPlan:
    """Plan how tiles of `tile_size` px at `mpp` µm/px are read from a slide.

    `"level0"` reads the scan itself; `"pyramid"` the coarsest level that is still finer than
    asked, which is quicker but has been resampled twice. `"level0/4"` reads the scan, but decodes
    its JPEG at the smallest scale that still gives a quarter of `tile_size`; `"pyramid/4"` reads
    the coarsest level that does, and which is not finer than twice that. The network sees fewer
    pixels then: it must have been trained so.

    Raises
    ------
    MppError
        `mpp` is finer than the slide: tiles are never upsampled. Or the slide has no level that
        is coarse enough for the read path.

    >>> plan_read(mpp=0.5, tile_size=512, slide_mpp=0.25, level_downsamples=[1, 2]).size_l0
    1024
    >>> plan_read(
    ...     mpp=0.5, tile_size=512, slide_mpp=0.25, level_downsamples=[1, 4], read_path="level0/2"
    ... ).read_size
    256
    """
    check_positive(mpp=mpp, tile_size=tile_size, slide_mpp=slide_mpp)
    base, divisor = split_read_path(read_path)
    downsample = mpp / slide_mpp
    if downsample < 1 - MPP_TOLERANCE:
        raise MppError(
            f"mpp={mpp:g} µm/px is finer than the slide's {slide_mpp:g}; choose mpp ≥ {slide_mpp:g}"
        )
    size_l0 = max(round(tile_size * downsample), 1)
    if abs(downsample - 1) <= MPP_TOLERANCE:
        size_l0 = tile_size
    least = max(tile_size // divisor, 1)  # px that must be read
    level, read_size, step = 0, size_l0, 1
    if base == "pyramid":
        level = _find_level(size_l0 / least, level_downsamples, read_path)
        read_size = max(round(size_l0 / level_downsamples[level]), least if level else 1)
        # between its pixels OpenSlide blends neighbours; of uneven levels there is no helping it
        step = int(level_downsamples[level]) if level_downsamples[level] % 1 == 0 else 1
    elif divisor > 1:
        step = find_scale(size_l0, tile_size, divisor)
        read_size = size_l0 // step
    return ReadPlan(
        mpp=mpp,
        tile_size=tile_size,
        size_l0=size_l0,
        effective_mpp=slide_mpp * size_l0 / tile_size,
        level=level,
        step=step,
        read_size=read_size,
    )


def find_scale(size_l0: int, tile_size: int, divisor: int) -> int:
    """Return by how much a JPEG may be shrunk while it is decoded, to keep a part of a tile's px.

    >>> find_scale(2048, 1024, 4)
    8
    """
    if divisor == 1:
        return 1
    return next(s for s in DCT_SCALES if size_l0 // s >= max(tile_size // divisor, 1))


def split_read_path(read_path: str) -> tuple[str, int]:
    """Return where a read path reads, and by how much less than asked; "image" reads all.

    >>> split_read_path("pyramid/4")
    ('pyramid', 4)
    """
    if read_path not in (*READ_PATHS, "image"):
        raise SpecError(
            f"read_path={read_path!r} is unknown; choose one of {', '.join(map(repr, READ_PATHS))}"
        )
    base, _, divisor = read_path.partition("/")
    return base, int(divisor or 1)


def _find_level(coarsest: float, level_downsamples: Sequence[float], read_path: str) -> int:
    """Return the coarsest level that is not coarser than a downsample."""
    limit = coarsest * (1 + LEVEL_TOLERANCE)
    fitting = [i for i, d in enumerate(level_downsamples) if d <= limit]
    level = max(fitting, key=lambda i: level_downsamples[i])
    if read_path != "pyramid" and level_downsamples[level] < coarsest / 2 * (1 - LEVEL_TOLERANCE):
        raise MppError(
            f"read_path={read_path!r} needs a level of downsample {coarsest / 2:g} to "
            f"{coarsest:g}, but the slide has {', '.join(f'{d:g}' for d in level_downsamples)}; "
            "take a model that reads level0, which every slide has"
        )
    return level


def plan_grid(
    bounds: tuple[int, int, int, int], *, size_l0: int, stride_l0: int, step: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Return `x, y` (level-0 px, row by row) of all whole tiles inside `bounds`.

    `bounds` is `(x, y, width, height)`. The rest at the right and lower edge that holds no whole
    tile is shared evenly between both sides, so that no side is always cut. With a
    `step` all positions are multiples of it; so is the stride then.

    >>> x, y = plan_grid((0, 0, 100, 50), size_l0=40, stride_l0=40)
    >>> x.tolist(), y.tolist()
    ([10, 50], [5, 5])
    """
    check_positive(size_l0=size_l0, stride_l0=stride_l0, step=step)
    left, top, width, height = bounds
    stride_l0 = max(stride_l0 - stride_l0 % step, step)
    xs = _positions(left, width, size_l0, stride_l0, step)
    ys = _positions(top, height, size_l0, stride_l0, step)
    grid_y, grid_x = np.meshgrid(ys, xs, indexing="ij")
    return grid_x.ravel(), grid_y.ravel()


def _positions(start: int, extent: int, size: int, stride: int, step: int) -> np.ndarray:
    first = start + -start % step
    extent -= first - start
    n = (extent - size) // stride + 1 if extent >= size else 0
    rest = extent - (size + (n - 1) * stride) if n else 0
    return first + rest // 2 // step * step + stride * np.arange(n, dtype=np.int64)


def box_means(array: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the mean of `array` (H, W) over each box `x0, y0, x1, y1` (float px), to 9 digits.

    Boxes may start and end inside a pixel; the part outside the array counts as 0. One integral
    image serves all boxes.

    >>> box_means(np.array([[0.0, 1.0]]), np.array([[0.5, 0.0, 2.0, 1.0]])).round(3).tolist()
    [0.667]
    """
    plane = array.astype(np.uint8) if array.dtype == bool else array.astype(np.float64)
    integral = np.asarray(cv2.integral(plane, sdepth=cv2.CV_64F))
    x0, y0, x1, y1 = boxes.T
    total = (
        _bilinear(integral, x1, y1)
        - _bilinear(integral, x0, y1)
        - _bilinear(integral, x1, y0)
        + _bilinear(integral, x0, y0)
    )
    return (total / ((x1 - x0) * (y1 - y0))).round(9)  # 1 where all is 1, whatever the scale


def _bilinear(integral: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0, integral.shape[1] - 1)
    y = np.clip(y, 0, integral.shape[0] - 1)
    i = np.minimum(x.astype(np.int64), integral.shape[1] - 2)
    j = np.minimum(y.astype(np.int64), integral.shape[0] - 2)
    u, v = x - i, y - j
    upper = integral[j, i] * (1 - u) + integral[j, i + 1] * u
    lower = integral[j + 1, i] * (1 - u) + integral[j + 1, i + 1] * u
    return upper * (1 - v) + lower * v


def check_slide_mpp(mpp: float | None, *, where: str) -> float:
    """Return `mpp` if a scan can have it.

    Raises
    ------
    MppError
        It is missing, not a number, or outside 0.05–10 µm/px.
    """
    if mpp is None or not math.isfinite(mpp) or not FINEST_MPP <= mpp <= COARSEST_MPP:
        said = "no microns per pixel" if mpp is None else f"slide_mpp={mpp:g} µm/px"
        raise MppError(
            f"{where} states {said}; a scan has {FINEST_MPP:g}–{COARSEST_MPP:g} µm/px: "
            "give the true value with --slide-mpp (20x is usually 0.5, 40x 0.25)"
        )
    return mpp


def check_positive(**values: float) -> None:
    """Raise `SpecError` unless each value is a finite number above 0.

    >>> check_positive(mpp=0.5, tile_size=1024)
    """
    for name, value in values.items():
        if not isinstance(value, numbers.Real) or not math.isfinite(value) or value <= 0:
            raise SpecError(f"{name}={value} must be a number above 0")
