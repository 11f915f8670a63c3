"""What a viewer asks of a slide: tiles of its own pyramid levels, and of steps between them.

A level's stored JPEG tiles go to the browser as they are. Where the next level is more than twice
as coarse, steps between them come from the same stored tiles, decoded at a scale.
"""

import logging
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from histo_nb.errors import SlideError
from histo_nb.geometry import DCT_SCALES
from histo_nb.slide import Slide
from histo_nb.stored import StoredTiles, open_stored
from histo_nb.widgets.palette import encode_jpeg

log = logging.getLogger(__name__)

TILE_PX = 256  # side of a tile, about: what a browser decodes in a millisecond
MAX_TILE_PX = 1024  # a stored tile that is larger is cut
SMALLEST_PX = 400  # longest side of the coarsest step
LARGEST_PX = 2500  # a coarsest step that is larger gets an overview above it
OVERVIEW_PX = 1600  # longest side of the overview
STEPS = (1, 2, 4, 8, 16)
STEPS_UNSTORED = (1, 2, 4)  # OpenSlide decodes all pixels: 16 times those of a tile at the most
SAME = 1.5  # two steps that differ by less are one
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Step:
    """One resolution that the browser may ask for."""

    level: int  # stored level it is read from; -1 = the overview
    scale: int  # px of that level that become one, per side
    downsample: float  # relative to level 0
    size: tuple[int, int]  # px
    tile: tuple[int, int]  # px of a served tile

    @property
    def columns(self) -> int:
        """Served tiles in a row."""
        return -(-self.size[0] // self.tile[0])

    @property
    def rows(self) -> int:
        """Rows of served tiles."""
        return -(-self.size[1] // self.tile[1])


def plan_steps(
    level_sizes: Sequence[tuple[int, int]],
    level_downsamples: Sequence[float],
    stored: Sequence[tuple[int, int] | None],
) -> list[Step]:
    """Plan the steps of a slide, the finest first; none is empty.

    Parameters
    ----------
    stored
        px of each level's stored tiles; None = not known, tiles are read through OpenSlide.

    >>> steps = plan_steps([(8000, 6000), (2000, 1500)], [1, 4], [(240, 240), None])
    >>> [(step.level, step.scale, step.tile) for step in steps]
    [(0, 1, (240, 240)), (0, 2, (240, 240)), (1, 1, (256, 256)), (1, 2, (256, 256)), (1, 4, (256, 256))]
    """  # noqa: E501
    steps = []
    coarser = [*level_downsamples[1:], math.inf]
    for level, (width, height) in enumerate(level_sizes):
        for scale in STEPS if stored[level] else STEPS_UNSTORED:
            downsample = level_downsamples[level] * scale
            size = -(-width // scale), -(-height // scale)
            if scale > 1 and (downsample * SAME > coarser[level] or max(size) < SMALLEST_PX):
                break
            tile = _tile_size(stored[level], scale)
            steps.append(Step(level, scale, downsample, size, tile))
    if max(steps[-1].size) > LARGEST_PX:
        downsample = max(level_sizes[0]) / OVERVIEW_PX
        width, height = (math.ceil(extent / downsample) for extent in level_sizes[0])
        steps.append(Step(-1, 1, downsample, (width, height), (width, height)))
    return steps


def _tile_size(stored: tuple[int, int] | None, scale: int) -> tuple[int, int]:
    """Return whole stored tiles, together about `TILE_PX` wide after scaling."""
    if stored is None or max(stored) > MAX_TILE_PX * scale or min(stored) < DCT_SCALES[0] * scale:
        return TILE_PX, TILE_PX
    together = [max(round(TILE_PX * scale / side), 1) for side in stored]
    return together[0] * stored[0] // scale, together[1] * stored[1] // scale


class SlideTiles:
    """An open slide and its steps; may be asked from many threads at once.

    Raises
    ------
    SlideError
        The slide does not open.
    """

    def __init__(self, path: Path | str, *, slide_mpp: float | None = None) -> None:
        self._open = partial(Slide, path, slide_mpp=slide_mpp)
        self.slide = self._open()
        self._reopening = threading.Lock()
        sizes = _stored_sizes(self.slide)
        self.steps = plan_steps(self.slide.level_sizes, self.slide.level_downsamples, sizes)
        self._stored: list[StoredTiles | None] = [None] * len(sizes)  # until they are proved
        self._reader: Slide | None = None  # whose handle the stored tiles are read through
        self._proof = threading.Thread(target=self._prove, daemon=True)
        self._proof.start()

    def _prove(self) -> None:
        # It takes a third of a second, in which the first tiles come through OpenSlide.
        try:
            self._reader = self._open()
            self._stored = [self._reader.stored(n) for n in range(len(self._stored))]
        except Exception:
            log.exception("the stored tiles of %s cannot be tried", self.slide.path.name)

    def wait(self) -> None:
        """Wait until it is known which stored tiles can be sent as they are."""
        self._proof.join()

    def close(self) -> None:
        """Give the file handles back."""
        self.wait()
        for slide in filter(None, (self.slide, self._reader)):
            slide.close()

    def read(self, number: int, column: int, row: int) -> bytes:
        """Return one tile of step `number` as JPEG.

        Raises
        ------
        SlideError
            There is no such tile, or it cannot be read.
        """
        if not 0 <= number < len(self.steps):
            raise SlideError(f"{self.slide.path.name} has no step {number}; reload the page")
        step = self.steps[number]
        if not (0 <= column < step.columns and 0 <= row < step.rows):
            raise SlideError(f"step {number} has no tile {column}, {row}; reload the page")
        if step.level < 0:
            return encode_jpeg(self._read_overview(step), quality=JPEG_QUALITY)
        stored = self._stored[step.level]
        if stored:
            try:
                return _read_stored(stored, step, column, row)
            except SlideError:
                log.info("a stored tile is not there or damaged; OpenSlide is asked")
        return encode_jpeg(self._read_region(step, column, row), quality=JPEG_QUALITY)

    def _read_overview(self, step: Step) -> np.ndarray:
        pixels, _ = self.slide.thumbnail(mpp=self.slide.slide_mpp * step.downsample)
        return pixels

    def _read_region(self, step: Step, column: int, row: int) -> np.ndarray:
        slide = self.slide
        try:
            return _read_through(slide, step, column, row)
        except SlideError:
            # After one bad place OpenSlide's handle is dead, and this place may be a good one that
            # another thread's bad one spoilt: a handle of its own decides.
            self._reopen(slide)
            with self._open() as own:
                return _read_through(own, step, column, row)

    def _reopen(self, slide: Slide) -> None:
        # The old one is not closed: another thread may be reading.
        with self._reopening:
            if self.slide is slide:
                self.slide = self._open()


def _read_through(slide: Slide, step: Step, column: int, row: int) -> np.ndarray:
    (x, y), (width, height) = _place(step, column, row)
    pixels = slide.read_region(
        round(x * step.downsample),
        round(y * step.downsample),
        level=step.level,
        size=(width * step.scale, height * step.scale),
    )
    if step.scale == 1:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)


def _stored_sizes(slide: Slide) -> list[tuple[int, int] | None]:
    found = open_stored(slide.path, slide.level_sizes)
    for level in found:
        level.file.close()
    return [*(level.tile for level in found), *[None] * (len(slide.level_sizes) - len(found))]


def _place(step: Step, column: int, row: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return top-left and size of a tile in px of its step; the last ones may be smaller."""
    x, y = column * step.tile[0], row * step.tile[1]
    return (x, y), (min(step.tile[0], step.size[0] - x), min(step.tile[1], step.size[1] - y))


def _read_stored(stored: StoredTiles, step: Step, column: int, row: int) -> bytes:
    if step.scale == 1 and step.tile == stored.tile:
        return stored.jpeg(row * stored.columns + column)
    (x, y), size = _place(step, column, row)
    decoding = min(step.scale, DCT_SCALES[0])
    rest = step.scale // decoding
    finer = size[0] * rest, size[1] * rest
    pixels = stored.read(x * rest, y * rest, size=finer, scale=decoding)
    if rest > 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(pixels, quality=JPEG_QUALITY)
