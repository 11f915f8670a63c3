"""Tile pixels, decoded once into a memory-mapped array, and their statistics."""

import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.files import check_free_space, writing
from histo_nb.slide import Slide

MAX_STORE_SIZE = 512  # px; the smallest training crop of 30 % and 3:4 still has 243 px a side
STATISTICS_BATCH = 64


def store_size(tile_size: int) -> int:
    """Return the side in px at which a tile of `tile_size` px is kept and handed on.

    Training, validation, gate and analysis all see a tile through this size: it is part of the
    read path.
    """
    return min(tile_size, MAX_STORE_SIZE)


def read_tile(slide: Slide, row: Mapping[str, Any]) -> np.ndarray:
    """Read the pixels of one row as the network's transforms get them; the only read path.

    A copy with an angle is read from a larger region, rotated and cropped: no corner is filled in.

    Returns
    -------
    (S, S, 3) uint8 RGB with S = `store_size(tile_size)`.
    """
    size = store_size(int(row["tile_size"]))
    angle = float(row.get("angle", 0.0))
    if angle % 90 == 0:
        tile = np.rot90(slide.read_tile(row, size=size), k=round(angle / 90))
    else:
        tile = _read_rotated(slide, row, size=size, angle=angle)
    return np.ascontiguousarray(tile[:, ::-1] if row.get("flip", False) else tile)


def _read_rotated(slide: Slide, row: Mapping[str, Any], *, size: int, angle: float) -> np.ndarray:
    margin = math.ceil(int(row["size_l0"]) * (math.sqrt(2) - 1) / 2)
    wide = dict(row)
    wide["x"], wide["y"] = int(row["x"]) - margin, int(row["y"]) - margin
    growth = (int(row["size_l0"]) + 2 * margin) / int(row["size_l0"])
    wide["read_size"] = round(int(row["read_size"]) * growth)
    wide_size = min(math.ceil(size * growth), wide["read_size"])
    region = slide.read_tile(wide, size=wide_size)
    centre = (wide_size - 1) / 2
    turn = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
    turn[:, 2] += (size - 1) / 2 - centre
    return cv2.warpAffine(region, turn, (size, size), flags=cv2.INTER_LINEAR)


def write_pixels(rows: pd.DataFrame, path: Path) -> Path:
    """Decode all rows, once, into a `.npy` array (N, S, S, 3) uint8 in the rows' order.

    Raises
    ------
    SlideError
        A tile cannot be read: training data must be whole.
    StorageError
        The disk has not enough room; said before the first tile is read.
    """
    size = store_size(int(rows.tile_size.iloc[0]))
    shape = (len(rows), size, size, 3)
    check_free_space(path.parent, math.prod(shape))
    with writing(path) as temporary:
        pixels = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        numbered = rows.reset_index(drop=True)
        with (
            tqdm(total=len(rows), desc="decoding", unit="tile") as bar,
            ThreadPoolExecutor() as pool,
        ):
            for _, tiles in numbered.groupby("slide_path", sort=False):
                records = tiles.to_dict("records")
                with Slide(tiles.slide_path.iloc[0]) as slide:
                    read = pool.map(lambda row, slide=slide: read_tile(slide, row), records)
                    for index, tile in zip(tiles.index, read, strict=True):
                        pixels[index] = tile
                        bar.update()
        pixels.flush()
    return path


def read_pixels(path: Path) -> np.ndarray:
    """Return the memory-mapped array (N, S, S, 3) uint8 written by `write_pixels`."""
    return np.load(path, mmap_mode="r")


def measure_statistics(pixels: np.ndarray, rows: np.ndarray) -> dict[str, list[float]]:
    """Return mean, std and variance of each channel (of values 0–1) over the given rows.

    Streamed in float64: memory does not depend on the number of tiles.

    Parameters
    ----------
    pixels
        (N, S, S, 3) uint8.
    rows
        Indices of the training tiles.
    """
    total, squares = np.zeros(3), np.zeros(3)
    for start in range(0, len(rows), STATISTICS_BATCH):
        values = pixels[rows[start : start + STATISTICS_BATCH]].reshape(-1, 3) / 255.0
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
    n = len(rows) * pixels.shape[1] * pixels.shape[2]
    mean = total / n
    variance = squares / n - mean**2
    return {
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "variance": variance.tolist(),
    }
