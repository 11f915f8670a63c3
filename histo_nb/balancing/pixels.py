"""Tile pixels: the one read path, a store that is decoded once, and the channels' statistics."""

import math
from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from histo_nb.errors import DatasetError, SlideError
from histo_nb.files import check_free_space, hash_content, locked, storage_errors, sync
from histo_nb.geometry import split_read_path
from histo_nb.image import ImageFile, open_source
from histo_nb.slide import Slide, shrink
from histo_nb.tiling.reader import read_tiles

MAX_STORE_SIZE = 512  # px; the smallest training crop of 30 % and 3:4 still has 243 px a side
OPEN_SLIDES = 16  # kept open while tiles are read straight from them
# what decides which pixels a row has, beside the flip and right angles
ADDRESS = ("slide_id", "x", "y", "size_l0", "level", "read_size", "tile_size", "read_path", "angle")


def store_size(tile_size: int, read_path: str = "level0") -> int:
    """Return the side in px at which a tile of `tile_size` px is kept and handed on.

    Training, validation, gate and analysis all see a tile through this size: it is part of the
    read path.
    """
    return min(tile_size // split_read_path(read_path)[1], MAX_STORE_SIZE)


def read_tile(source: Slide | ImageFile, row: Mapping[Any, Any]) -> np.ndarray:
    """Read the pixels of one row as the network's transforms get them; the only read path.

    A copy at a free angle is read from a larger region, rotated and cropped: no corner is filled
    in.

    Returns
    -------
    (S, S, 3) uint8 RGB with S = `store_size` of the row.
    """
    size = store_size(int(row["tile_size"]), row["read_path"])
    angle = float(row.get("angle", 0.0))
    if angle % 90 == 0:
        return turn(source.read_tile(row, size=size), angle, flip=row.get("flip", False))
    return turn(_read_rotated(source, row, size=size, angle=angle), 0, flip=row.get("flip", False))


def resize_tile(tile: np.ndarray, size: int) -> np.ndarray:
    """Return a (S, S, 3) uint8 tile as a network is shown it, (size, size, 3) uint8.

    Antialiased bilinear, by Pillow: torch's own rounds otherwise by a grey value here and there,
    and analysis must see what training saw without loading torch. Runs in any thread.
    """
    if tile.shape[0] == size:
        return tile
    return np.asarray(Image.fromarray(tile).resize((size, size), Image.Resampling.BILINEAR))


def turn(tile: np.ndarray, angle: float, *, flip: bool) -> np.ndarray:
    """Return a (S, S, 3) tile turned by right angles counter-clockwise, then flipped left–right."""
    turned = np.rot90(tile, k=round(angle / 90))
    return np.ascontiguousarray(turned[:, ::-1] if flip else turned)


def _read_rotated(
    source: Slide | ImageFile, row: Mapping[Any, Any], *, size: int, angle: float
) -> np.ndarray:
    margin = math.ceil(int(row["size_l0"]) * (math.sqrt(2) - 1) / 2)
    wide = dict(row)
    wide["x"], wide["y"] = int(row["x"]) - margin, int(row["y"]) - margin
    growth = (int(row["size_l0"]) + 2 * margin) / int(row["size_l0"])
    wide["read_size"] = round(int(row["read_size"]) * growth)
    region = source.read_tile(wide, size=wide["read_size"])
    centre, extent = (wide["read_size"] - 1) / 2, int(row["read_size"])
    rotation = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
    rotation[:, 2] += (extent - 1) / 2 - centre
    # turned before it is shrunk: turned afterwards it would be blurred, and copies be known by it
    tile = cv2.warpAffine(region, rotation, (extent, extent), flags=cv2.INTER_CUBIC)
    return shrink(tile, size)


class Pixels(Protocol):
    """The tiles of a data set's rows: `pixels[i]` is (S, S, 3) uint8, `shape` (N, S, S, 3)."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, 3)."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...


@dataclass(frozen=True)
class StoredPixels:
    """Pixels in one or two memory-mapped stores; right angles and flips are made when asked for."""

    stores: list[np.ndarray]  # of originals, of copies at free angles; each (n, S, S, 3) uint8
    places: list[tuple[int, int, float, bool]]  # a row: store, number there, right angle, flip

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, 3)."""
        size = self.stores[0].shape[1]
        return len(self), size, size, 3

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> np.ndarray:
        store, place, angle, flip = self.places[number]
        return turn(self.stores[store][place], angle, flip=flip)


class LivePixels:
    """Pixels read from slides each time they are asked for: for sets larger than the disk."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self._rows = rows.to_dict("records")
        self._open = lru_cache(OPEN_SLIDES)(lambda path, read_path: open_source(
            {"slide_path": path, "read_path": read_path}))  # fmt: skip

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, S, S, 3)."""
        size = store_size(int(self._rows[0]["tile_size"]), self._rows[0]["read_path"])
        return len(self._rows), size, size, 3

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> np.ndarray:
        row = self._rows[number]
        try:
            return read_tile(self._open(row["slide_path"], row["read_path"]), row)
        except SlideError:
            self._open.cache_clear()  # a handle is dead after an error
            raise


def originals(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the tiles a data set's rows come from, untuned and in order: one store for all splits.

    Parameters
    ----------
    rows
        Training rows, or labelled tiles before any split.
    """
    own = rows[rows.parent_id.isna()] if "parent_id" in rows else rows
    return own.assign(angle=0.0, flip=False).sort_values("tile_id", ignore_index=True)


def turned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at a free angle: their pixels are read from a larger region."""
    return rows[rows.angle % 90 != 0].assign(flip=False).sort_values("tile_id", ignore_index=True)


def store_path(rows: pd.DataFrame, folder: Path) -> Path:
    """Return where the pixels of rows are kept: named by what decides them."""
    address = rows[list(ADDRESS)].astype(str).to_numpy().tolist()
    return folder / f"P-{hash_content(address)[:16]}.npy"


def fill_store(rows: pd.DataFrame, folder: Path) -> Path:
    """Decode rows, once, into a `.npy` array (n, S, S, 3) uint8 in their order; return its path.

    A store that is there already is taken as it is; one that a killed process left goes on where
    it was. How large it will be is said before the first tile is read.

    Raises
    ------
    SlideError
        A tile cannot be read: training data must be whole.
    StorageError
        The disk has not enough room.
    """
    path = store_path(rows, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock")):
        if not _is_whole(path, len(rows)):
            with storage_errors(path):
                _decode(rows.reset_index(drop=True), path)
    return path


def _is_whole(path: Path, n: int) -> bool:
    try:
        return len(np.load(path, mmap_mode="r")) == n
    except (OSError, ValueError, EOFError):
        return False


def _decode(rows: pd.DataFrame, path: Path) -> None:
    part, marks = path.with_suffix(".part.npy"), path.with_suffix(".done")
    size = store_size(int(rows.tile_size.iloc[0]), rows.read_path.iloc[0])
    shape = (len(rows), size, size, 3)
    pixels, done = _open_part(part, marks, shape)
    todo = rows[done == 0]
    tqdm.write(
        f"decoding {len(todo)} of {len(rows)} tiles into a store of {math.prod(shape) / 1e9:.2f} GB"
    )
    with tqdm(total=len(todo), desc="decoding", unit="tile") as bar:
        for _, tiles in todo.groupby("slide_path", sort=False):
            with closing(_batched(tiles, size)) as batches:
                for numbers, read in batches:
                    pixels[numbers] = read
                    bar.update(len(numbers))
                    pixels.flush()  # the pixels first, then the mark: a mark never lies
                    done[numbers] = 1
    done.flush()
    sync(part)
    part.replace(path)
    marks.unlink()


def _open_part(
    part: Path, marks: Path, shape: tuple[int, int, int, int]
) -> tuple[np.memmap, np.memmap]:
    """Return the array and the marks of a store under way; new ones if there are none."""
    if not (part.is_file() and marks.is_file() and marks.stat().st_size == shape[0]):
        check_free_space(part.parent, math.prod(shape))
        np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        marks.write_bytes(bytes(shape[0]))
    pixels = np.lib.format.open_memmap(part, mode="r+")
    return pixels, np.memmap(marks, np.uint8, "r+")


def _batched(
    tiles: pd.DataFrame, size: int, *, at_once: int = 64
) -> Generator[tuple[np.ndarray, np.ndarray]]:
    """Yield index and (n, S, S, 3) pixels of the tiles of one slide or image, some at a time."""
    with closing(read_tiles(tiles, read_tile, size=size)) as answers:
        while some := list(islice(answers, at_once)):
            read = [_need(pixels) for _, pixels in some]
            yield tiles.index.to_numpy()[[number for number, _ in some]], np.stack(read)


def _need(pixels: Any) -> np.ndarray:
    if isinstance(pixels, SlideError):
        raise pixels
    return np.asarray(pixels)


def open_pixels(rows: pd.DataFrame, folder: Path) -> StoredPixels:
    """Return the pixels of training rows from the stores in a folder.

    Raises
    ------
    DatasetError
        A store is not there any more.
    """
    sources, free = originals(rows), turned(rows)
    tables = [sources, free] if len(free) else [sources]
    paths = [store_path(table, folder) for table in tables]
    for path, table in zip(paths, tables, strict=True):
        if not _is_whole(path, len(table)):
            raise DatasetError(
                f"{path} is gone or cut off; make the data set again with `histo-nb balance`, "
                "which decodes its tiles anew"
            )
    stores = [np.load(path, mmap_mode="r") for path in paths]
    number = {name: i for i, name in enumerate(sources.tile_id)}
    number_free = {name: i for i, name in enumerate(free.tile_id)}
    columns = (rows[name].tolist() for name in ("tile_id", "parent_id", "angle", "flip"))
    places = [
        (0, number[parent or own], angle, flip)
        if angle % 90 == 0
        else (1, number_free[own], 0.0, flip)
        for own, parent, angle, flip in zip(*columns, strict=True)
    ]
    return StoredPixels(stores, places)


def measure_statistics(pixels: Pixels, numbers: np.ndarray) -> dict[str, list[float]]:
    """Return mean, std and variance of each channel (of values 0–1) over the given rows.

    Exact: how often each of the 256 values occurs is counted tile by tile, and the moments are
    taken of the counts in float64. Memory does not depend on the number of tiles.
    """
    counts = np.zeros((3, 256))
    for number in tqdm(numbers, desc="measuring", unit="tile"):
        tile = pixels[int(number)]
        for channel in range(3):
            counts[channel] += np.bincount(tile[..., channel].ravel(), minlength=256)
    shares = counts / counts.sum(axis=1, keepdims=True)
    values = np.arange(256) / 255
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(axis=1)
    return {
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "variance": variance.tolist(),
    }
