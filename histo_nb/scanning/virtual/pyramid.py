"""Writes the whole-slide file: a pyramidal JPEG TIFF in the layout of Aperio's SVS.

The layout is the one OpenSlide reads magnification, mpp, label, macro and thumbnail from:
level 0, thumbnail, the coarser levels, label, macro (openslide.org/formats/aperio).
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import ImageCms

from histo_nb.files import check_free_space, writing

TILE_PX = 256  # stored tile: the size most scanners write
LEVEL_STEP = 4  # 1x, 4x, 16x
JPEG_QUALITY = 87  # of level 0; Aperio's common setting is 70, the network sees less noise at 87
THUMBNAIL_PX = 1024  # longest side
BUFFER = 1 << 24  # bytes of tiles compressed at a time; tifffile's default is half a gigabyte
PROFILE_DATE = 24  # byte at which an ICC profile tells when it was made (ICC.1, 7.2)
BYTES_PER_PX = 0.6  # upper estimate of JPEG H&E at this quality, for the free-space check


@dataclass(frozen=True, kw_only=True)
class PyramidSpec:
    """What the file says of its scan."""

    size: tuple[int, int]  # level-0 px, width × height
    mpp: float = 0.5  # µm/px of level 0
    objective_power: int = 20
    n_levels: int = 3


def write_pyramid(
    strips: Iterable[np.ndarray],
    path: Path,
    *,
    spec: PyramidSpec,
    label: np.ndarray,
    macro: Callable[[np.ndarray], np.ndarray],
    in_place: bool = False,
) -> Path:
    """Write level-0 strips, top to bottom, as a pyramidal slide file; return its path.

    Memory is bounded by one strip plus the second level (1/16 of the pixels).

    Parameters
    ----------
    strips
        (`TILE_PX`, width, 3) uint8 RGB each, the last one may be lower.
    label
        (H, W, 3) uint8 RGB; it carries a name and stays inside the file.
    macro
        Makes the overview camera's picture, (H, W, 3) uint8 RGB, of the scan's thumbnail.
    in_place
        Write under the final name from the start; a reader may then meet half a file.

    Raises
    ------
    StorageError
        The disk is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = spec.size
    check_free_space(path.parent, int(width * height * BYTES_PER_PX))
    coarse = np.empty((-(-height // LEVEL_STEP), -(-width // LEVEL_STEP), 3), np.uint8)
    whole = nullcontext(path) if in_place else writing(path)
    with whole as target, tifffile.TiffWriter(target, bigtiff=True) as tiff:
        jpeg = f"({TILE_PX}x{TILE_PX}) JPEG/RGB Q={JPEG_QUALITY}"
        header = f"Aperio Image Library v12.0.0 (histo_nb virtual scanner)\r\n{width}x{height}"
        facts = f"|AppMag = {spec.objective_power}|MPP = {spec.mpp:g}|Filename = virtual"
        tiled = _keywords(spec.mpp) | {
            "tile": (TILE_PX, TILE_PX),
            "iccprofile": srgb_profile(),
            "maxworkers": os.cpu_count(),
            "buffersize": BUFFER,
        }
        tiff.write(
            _tiles(_shrinking(strips, coarse)),
            shape=(height, width, 3),
            dtype=np.uint8,
            description=f"{header} [0,0 {width}x{height}] {jpeg}{facts}",
            **tiled,
        )
        levels = [coarse]
        for _ in range(spec.n_levels - 2):
            levels.append(_shrink(levels[-1], LEVEL_STEP))
        thumbnail = _thumbnail(levels[-1])
        tiff.write(thumbnail, description=header, **_keywords(spec.mpp))
        for level in levels[: spec.n_levels - 1]:
            said = f"{header} -> {level.shape[1]}x{level.shape[0]} - JPEG/RGB{facts}"
            tiff.write(level, description=said, **tiled)
        for name, picture, kind in (("label", label, 1), ("macro", macro(thumbnail), 9)):
            said = f"{header}\r\n{name}"
            tiff.write(picture, description=said, subfiletype=kind, **_keywords(spec.mpp))
    return path


def srgb_profile() -> bytes:
    """Return the ICC profile of sRGB, dated 2000-01-01 so that the same scan has the same bytes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    dated = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    return profile[:PROFILE_DATE] + dated + profile[PROFILE_DATE + len(dated) :]


def _keywords(mpp: float) -> dict[str, object]:
    return {
        "photometric": "rgb",  # stored as YCbCr by the JPEG encoder
        "subsampling": (1, 1),  # chroma is what tells nuclei from stroma: kept whole
        "compression": "jpeg",
        "compressionargs": {"level": JPEG_QUALITY},
        "resolution": (1e4 / mpp, 1e4 / mpp),
        "resolutionunit": "CENTIMETER",
        "metadata": None,
    }


def _tiles(strips: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for strip in strips:
        height, width = strip.shape[:2]
        margins = 0, -height % TILE_PX, 0, -width % TILE_PX
        # beyond the image: never seen, compresses well
        padded = cv2.copyMakeBorder(strip, *margins, cv2.BORDER_REPLICATE)
        for x in range(0, width, TILE_PX):
            yield np.ascontiguousarray(padded[:, x : x + TILE_PX])


def _shrinking(strips: Iterable[np.ndarray], coarse: np.ndarray) -> Iterator[np.ndarray]:
    """Pass strips on, and leave each one's area average in `coarse`."""
    top = 0
    for strip in strips:
        small = _shrink(strip, LEVEL_STEP)
        coarse[top : top + len(small)] = small
        top += len(small)
        yield strip


def _shrink(image: np.ndarray, step: int) -> np.ndarray:
    height, width = image.shape[:2]
    if height % step or width % step:
        margins = 0, -height % step, 0, -width % step
        image = cv2.copyMakeBorder(image, *margins, cv2.BORDER_REPLICATE)
    size = (image.shape[1] // step, image.shape[0] // step)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _thumbnail(image: np.ndarray) -> np.ndarray:
    step = max(-(-max(image.shape[:2]) // THUMBNAIL_PX), 1)
    return _shrink(image, step)
