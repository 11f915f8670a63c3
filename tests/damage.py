"""Slides in five codecs, and the ways in which disks and copying programs spoil them."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import tifffile

from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass

CODECS = {
    "JPEG": {"compression": "jpeg", "compressionargs": {"level": 85}},
    "JPEG 2000": {"compression": "aperio_jp2000_rgb", "compressionargs": {"level": 75}},
    "LZW": {"compression": "lzw", "predictor": True},
    "deflate": {"compression": "zlib", "predictor": True},
    "uncompressed": {},
}
SIZE = (1400, 1100)  # width, height in px: no multiple of a tile
BLOCK = 4096  # bytes; what file systems and networks write at once


@cache
def tissue() -> np.ndarray:
    """Drawn tissue with its blank glass, and the noise of a camera."""
    glass = draw_glass("P-1", diagnosis="adenoma", seed=3, spec=DrawnSpec(size_um=(2800, 2200)))
    view = glass.look(900, 700, size=SIZE, mpp=1.0)
    noise = np.random.default_rng(1).normal(0, 2, view.shape)
    return np.clip(view + noise, 1, 255).astype(np.uint8)


def write_slide(path: Path, codec: str, *, tile: int = 256, bigtiff: bool = False) -> Path:
    """Write a slide in Aperio's layout: levels, striped thumbnail, label, macro."""
    image = tissue()
    words = f"Aperio Image Library v12\r\n{SIZE[0]}x{SIZE[1]}|AppMag = 20|MPP = 0.5"
    options = {"photometric": "rgb", "metadata": None, "description": words}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as tiff:
        for step in (1, 4):
            level = cv2.resize(image, None, fx=1 / step, fy=1 / step, interpolation=cv2.INTER_AREA)
            tiff.write(level, tile=(tile, tile), **options, **CODECS[codec])
            if step == 1:
                small = cv2.resize(image, (350, 275), interpolation=cv2.INTER_AREA)
                tiff.write(small, rowsperstrip=16, **options, **strips(codec))
        tiff.write(label(), rowsperstrip=8, subfiletype=1, **options, compression="lzw")
        tiff.write(image[:400, :900], rowsperstrip=16, subfiletype=9, **options, **strips(codec))
    return path


def strips(codec: str) -> dict[str, object]:
    """JPEG 2000 slides have their small images in JPEG."""
    return CODECS["JPEG" if codec == "JPEG 2000" else codec]


def label() -> np.ndarray:
    picture = np.full((300, 300, 3), 250, np.uint8)
    cv2.putText(picture, "S-0001", (20, 150), cv2.FONT_HERSHEY_SIMPLEX, 1.6, (20, 20, 20), 3)
    return cv2.add(picture, np.random.default_rng(2).integers(0, 4, picture.shape, np.uint8))


def truncations(whole: bytes, n: int) -> Iterator[bytes]:
    """Copies cut off: by a few bytes, by a block, near the beginning, and anywhere."""
    rng = np.random.default_rng(11)
    kept = [len(whole) - lost for lost in (1, 100, BLOCK)] + [0, 7, 200]
    kept += rng.integers(1000, len(whole) - BLOCK, size=max(n - len(kept), 0)).tolist()
    for size in kept[:n]:
        yield whole[:size]


def zeroed_tails(whole: bytes, n: int) -> Iterator[bytes]:
    """Preallocated files, half copied."""
    rng = np.random.default_rng(12)
    kept = [len(whole) - lost for lost in (256, 1500, BLOCK)]
    kept += (rng.integers(0, len(whole), size=max(n - len(kept), 0)) // 512 * 512).tolist()
    for size in kept[:n]:
        yield whole[:size] + bytes(len(whole) - size)


def zeroed_blocks(whole: bytes, n: int, *, size: int = BLOCK) -> Iterator[bytes]:
    """One block never written: every other where a file system puts blocks, or anywhere.

    Blocks of zeros, as the padding of uncompressed tiles has, are not taken: nothing changes.
    """
    rng = np.random.default_rng(13)
    n_done = 0
    while n_done < n:
        start = int(rng.integers(0, len(whole) - size))
        start = start // size * size if n_done % 2 else start
        if whole[start : start + size].strip(b"\0"):
            yield whole[:start] + bytes(size) + whole[start + size :]
            n_done += 1


DAMAGES = {"truncation": truncations, "zeroed tail": zeroed_tails, "zeroed block": zeroed_blocks}
