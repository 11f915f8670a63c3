"""Tile rows of one slide → tile pixels, by a plan made once: each stored tile is decoded once.

A tile of 1024 px lies over about 25 stored ones, and most of those under several tiles. Read
tile by tile, they are decoded 1.5 times (level 0) to 4 times; here each is decoded once, in the
order they lie on the slide, and copied into all tiles it feeds. What cannot be read so (no JPEG,
other pixels than OpenSlide's, free angles) is read tile by tile, the same way round.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from histo_nb.errors import SlideError
from histo_nb.image import ImageFile, open_source
from histo_nb.slide import Slide, decode_scale, shrink
from histo_nb.stored import N_THREADS, StoredTiles

AHEAD = 4  # pieces of work a thread that wait for the reader: bounds memory
AT_ONCE = 16  # stored tiles in a piece
OPEN_BYTES = 256_000_000  # of tiles that are being filled; wider slides are read in swaths

Pixels = Any  # (S, S, 3) uint8, or what `finish` makes of it
Task = TypeVar("Task")
Answer = tuple[int, "Pixels | SlideError"]


@dataclass(frozen=True)
class ReadingPlan:
    """Which stored tiles feed which rows. All px are of the level, after decoding at `scale`."""

    stored: StoredTiles
    scale: int
    x: np.ndarray  # of the rows, px
    y: np.ndarray
    read_size: int
    swaths: list[list[int]]  # row numbers; each swath is read by itself

    @property
    def tile(self) -> tuple[int, int]:
        """Width and height of a decoded stored tile."""
        return self.stored.tile[0] // self.scale, self.stored.tile[1] // self.scale

    def fed(self, numbers: list[int]) -> dict[int, list[int]]:
        """Return which of the rows each stored tile feeds, in the order they lie on the slide."""
        width, height = self.tile
        found: dict[int, list[int]] = {}
        for number in numbers:
            x, y = int(self.x[number]), int(self.y[number])
            for row in range(y // height, (y + self.read_size - 1) // height + 1):
                for column in range(x // width, (x + self.read_size - 1) // width + 1):
                    found.setdefault(row * self.stored.columns + column, []).append(number)
        return dict(sorted(found.items()))


def plan_reading(tiles: pd.DataFrame, slide: Slide) -> ReadingPlan | None:
    """Plan how rows of one slide are read from its stored tiles; None if they cannot be.

    Raises
    ------
    SlideError
        The rows' read path decodes at a scale, which this slide does not allow.
    """
    first = tiles.iloc[0].to_dict()
    level, read_size, scale = int(first["level"]), int(first["read_size"]), decode_scale(first)
    stored = slide.need_stored(first["read_path"]) if scale > 1 else slide.stored(level)
    step = scale * round(slide.level_downsamples[level]) if level < len(slide.level_sizes) else 0
    if stored is None or not _alike(tiles) or not step:
        return None
    x, y = tiles.x.to_numpy(), tiles.y.to_numpy()
    if level and ((x % step).any() or (y % step).any()):
        return None  # OpenSlide blends neighbouring pixels there
    x, y = x // step, y // step
    return ReadingPlan(stored, scale, x, y, read_size, _swaths(x, y, read_size))


def read_tiles(
    tiles: pd.DataFrame,
    read: Callable[[Slide | ImageFile, dict[Any, Any]], np.ndarray],
    *,
    size: int,
    finish: Callable[[np.ndarray], Pixels] | None = None,
    n_threads: int = N_THREADS,
) -> Generator[Answer]:
    """Yield `(row number, pixels)` of the rows of one slide or image, in the order they get ready.

    A row that cannot be read gives its error; no pixel is made up. Whoever does not take all of
    them must close the generator: threads read ahead.

    Parameters
    ----------
    read
        Returns the (size, size, 3) uint8 RGB pixels of one row: for rows without a plan, and to
        judge those that the plan could not read.
    size
        px to which tiles are area-averaged.
    finish
        Is given the pixels, in the reading threads; what it returns is yielded.

    Raises
    ------
    SlideError
        The slide does not open, was replaced while it was read, or does not allow the read path.
    """
    finish = finish or (lambda pixels: pixels)
    with open_source(tiles.iloc[0].to_dict()) as source:
        before = source.path.stat()
        _check_inside(tiles, source)
        plan = plan_reading(tiles, source) if isinstance(source, Slide) else None
        image = source if isinstance(source, ImageFile) else None
        one_by_one = _OneByOne(tiles, read, finish, image)
        if plan is None:
            yield from _in_threads(one_by_one.read, range(len(tiles)), n_threads)
        else:
            for numbers in plan.swaths:
                filling = _Filling(plan, numbers, size, finish, one_by_one)
                yield from _in_threads(filling.decode, filling.pieces, n_threads)
    _check_same(source, before)


def _in_threads(
    work: Callable[[Task], list[Answer]], tasks: Any, n_threads: int
) -> Generator[Answer]:
    """Yield what work gives, in the order of the tasks; only a few tasks are ahead."""
    with ThreadPoolExecutor(n_threads) as pool:
        waiting: deque[Any] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) >= AHEAD * n_threads:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


class _OneByOne:
    """Rows read by themselves, each thread through a handle of its own, which closes with it.

    After an error a handle of OpenSlide is dead for good, so that the next row gets a new one.
    """

    def __init__(
        self, tiles: pd.DataFrame, read: Any, finish: Any, image: ImageFile | None
    ) -> None:
        self._tiles, self._read, self._finish = tiles.to_dict("records"), read, finish
        self._image = image  # is decoded already, and serves all threads
        self._own = threading.local()

    def read(self, number: int) -> list[Answer]:
        row = self._tiles[number]
        try:
            if getattr(self._own, "source", None) is None:
                self._own.source = self._image or open_source(row)
            return [(number, self._finish(self._read(self._own.source, row)))]
        except SlideError as error:
            self._own.source = None
            return [(number, error)]


class _Filling:
    """The tiles of one swath while stored tiles are copied into them."""

    def __init__(
        self, plan: ReadingPlan, numbers: list[int], size: int, finish: Any, one_by_one: _OneByOne
    ) -> None:
        self._plan, self._size, self._finish = plan, size, finish
        self._one_by_one = one_by_one
        self._fed = plan.fed(numbers)
        self._left = dict.fromkeys(numbers, 0)  # stored tiles that are still to come
        for fed in self._fed.values():
            for number in fed:
                self._left[number] += 1
        self._canvases: dict[int, np.ndarray] = {}
        self._spare: list[np.ndarray] = []
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    @property
    def pieces(self) -> Iterator[list[int]]:
        """Yield runs of stored tiles, row by row."""
        columns = self._plan.stored.columns
        for _, run in groupby(self._fed, key=lambda number: number // columns):
            numbers = list(run)
            for start in range(0, len(numbers), AT_ONCE):
                yield numbers[start : start + AT_ONCE]

    def decode(self, piece: list[int]) -> list[Answer]:
        """Decode stored tiles into the tiles they feed; return the tiles that are full now."""
        width, height = self._plan.tile
        pixels = np.empty((height, width, 3), np.uint8)
        answers: list[Answer] = []
        for stored in piece:
            fed = self._fed[stored]
            try:
                self._plan.stored.decode(stored, pixels, scale=self._plan.scale)
                for number in fed:
                    self._copy(pixels, stored, number)
            except SlideError:
                with self._lock:
                    self._damaged.update(fed)
            for number in fed:
                if self._is_full(number):
                    answers += self._hand_on(number)
        return answers

    def _copy(self, pixels: np.ndarray, stored: int, number: int) -> None:
        width, height = self._plan.tile
        size, columns = self._plan.read_size, self._plan.stored.columns
        x = stored % columns * width - int(self._plan.x[number])  # of the stored tile in the tile
        y = stored // columns * height - int(self._plan.y[number])
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, size), min(y + height, size)
        self._canvas(number)[y0:y1, x0:x1] = pixels[y0 - y : y1 - y, x0 - x : x1 - x]

    def _canvas(self, number: int) -> np.ndarray:
        with self._lock:
            if number not in self._canvases:
                size = self._plan.read_size
                new = self._spare.pop() if self._spare else np.empty((size, size, 3), np.uint8)
                self._canvases[number] = new
            return self._canvases[number]

    def _is_full(self, number: int) -> bool:
        with self._lock:
            self._left[number] -= 1
            return self._left[number] == 0

    def _hand_on(self, number: int) -> list[Answer]:
        if number in self._damaged:  # OpenSlide judges it
            return self._one_by_one.read(number)
        tile = shrink(self._canvases[number], self._size)
        canvas = self._canvases.pop(number)
        answer = self._finish(tile.copy() if tile is canvas else tile)
        with self._lock:
            self._spare.append(canvas)
        return [(number, answer)]


def _alike(tiles: pd.DataFrame) -> bool:
    """Say whether all rows are read from the same level at the same size, and none is turned."""
    same = all(tiles[name].nunique() == 1 for name in ("level", "read_size", "size_l0"))
    return same and not ("angle" in tiles and (tiles.angle != 0).any())


def _swaths(x: np.ndarray, y: np.ndarray, read_size: int) -> list[list[int]]:
    """Return row numbers by vertical swaths, so narrow that few tiles are filled at the same time.

    Stored tiles at the edges of a swath are decoded twice.
    """
    starts_y, starts_x = np.unique(y), np.unique(x)
    gap = int(np.diff(starts_y).min()) if len(starts_y) > 1 else read_size
    at_once = -(-read_size // max(gap, 1)) + 1  # tiles of a column that are filled together
    columns = max(OPEN_BYTES // (3 * read_size**2) // at_once, 1)
    swath = np.searchsorted(starts_x, x) // columns
    return [np.flatnonzero(swath == n).tolist() for n in np.unique(swath)]


def _check_inside(tiles: pd.DataFrame, source: Slide | ImageFile) -> None:
    """Raise `SlideError` if a row lies outside: what is there would be blank."""
    width, height = source.size
    right, low = tiles.x + tiles.size_l0, tiles.y + tiles.size_l0
    outside = (tiles.x < 0) | (tiles.y < 0) | (right > width) | (low > height)
    if outside.any():
        raise SlideError(
            f"{outside.sum()} tiles lie outside {source.path.name}, {width} × {height} px: it is "
            "another file than the one that was cut; tile it again"
        )


def _check_same(source: Slide | ImageFile, before: os.stat_result) -> None:
    """Raise `SlideError` if a file is not the one that was opened."""
    try:
        now = source.path.stat()
    except OSError as error:
        raise SlideError(
            f"{source.path.name} was deleted while it was read; put it back and start again"
        ) from error
    if (now.st_ino, now.st_size, now.st_mtime_ns) != (
        before.st_ino, before.st_size, before.st_mtime_ns,
    ):  # fmt: skip
        raise SlideError(
            f"{source.path.name} was replaced while it was read; start again with the new file"
        )
