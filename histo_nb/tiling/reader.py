"""Tile rows of one slide → tile pixels, read ahead in threads, in the rows' order."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.errors import SlideError
from histo_nb.slide import Slide

N_THREADS = 2
QUEUE = 32  # tiles read ahead: bounds memory whatever the slide's size

Read = Callable[[Slide, Mapping[str, Any]], np.ndarray]


def read_tiles(tiles: pd.DataFrame, read: Read) -> Iterator[tuple[int, np.ndarray | SlideError]]:
    """Yield `(row number, pixels)` of one slide's tiles; an unreadable one gives its error.

    After an error OpenSlide's handle is dead for good, so the slide is opened again; a tile read
    through the dead handle meanwhile is read once more.

    Parameters
    ----------
    read
        Returns the (S, S, 3) uint8 RGB pixels of a row; called from several threads.
    """
    first = tiles.iloc[0]
    records = tiles.to_dict("records")
    handle = _Handle(first.slide_path, float(first.slide_mpp), read)
    with ThreadPoolExecutor(N_THREADS) as pool:
        waiting: deque[tuple[int, Future[np.ndarray | SlideError]]] = deque()
        try:
            for number, row in enumerate(records):
                waiting.append((number, pool.submit(handle.read, row)))
                if len(waiting) >= QUEUE:
                    index, future = waiting.popleft()
                    yield index, future.result()
            while waiting:
                index, future = waiting.popleft()
                yield index, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
    handle.close()


class _Handle:
    """A slide that is opened anew after an error."""

    def __init__(self, path: str, slide_mpp: float, read: Read) -> None:
        self._path, self._mpp, self._read = path, slide_mpp, read
        self._slide = Slide(path, slide_mpp=slide_mpp)

    def read(self, row: dict[Any, Any]) -> np.ndarray | SlideError:
        try:
            return self._read(self._slide, row)
        except SlideError:
            try:
                with Slide(self._path, slide_mpp=self._mpp) as fresh:
                    tile = self._read(fresh, row)
                self._slide = Slide(self._path, slide_mpp=self._mpp)
                return tile
            except SlideError as error:
                return error

    def close(self) -> None:
        self._slide.close()
