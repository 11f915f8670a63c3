"""An open whole-slide image: its facts, its thumbnail, its pixels at any place.

Label and macro images carry names; nothing here reads them.
"""

import math
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import openslide

from histo_nb.errors import MppError, SlideError
from histo_nb.geometry import (
    DCT_SCALES,
    MPP_TOLERANCE,
    check_positive,
    check_slide_mpp,
    find_scale,
    split_read_path,
)
from histo_nb.stored import StoredTiles, open_stored

MAX_THUMBNAIL_PX = 64_000_000  # more is no overview, and hostile files ask for it
BLOCK_PX = 32_000_000  # px decoded at once for a thumbnail: 128 MB of RGBA
N_PROBES = 4  # places where a level's stored tiles are compared with what OpenSlide reads
PROBE_PX = 128  # side of such a place; in its middle four stored tiles meet
MAX_DIFFERENCE = 1  # grey value; decoders round differently


class Slide:
    """A slide opened for reading; a context manager. Handles may be shared between threads.

    Parameters
    ----------
    path
        A file that OpenSlide reads.
    slide_mpp
        µm/px of level 0 where the file does not say, or says it wrongly.

    Raises
    ------
    SlideError
        The file is missing or does not open.
    """

    def __init__(self, path: Path | str, *, slide_mpp: float | None = None) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise SlideError(f"{self.path} does not exist; check the name, or take it in again")
        try:
            self._handle = openslide.OpenSlide(self.path)
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{self.path.name} is in no slide format that can be read; "
                "export it as SVS, tiled pyramidal TIFF or DICOM"
            ) from error
        except openslide.OpenSlideError as error:
            raise SlideError(
                f"{self.path.name} does not open as a slide ({error}); scan or copy it again"
            ) from error
        self._given_mpp = slide_mpp
        self._stored: dict[int, StoredTiles | None] = {}
        self._proving = threading.Lock()

    def __enter__(self) -> "Slide":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the file handle back."""
        self._handle.close()
        for tiles in self._stored.values():
            if tiles:
                tiles.file.close()
        self._stored = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0 in px."""
        return self._handle.dimensions

    @property
    def level_sizes(self) -> tuple[tuple[int, int], ...]:
        """Width and height of each level in its own px."""
        return self._handle.level_dimensions

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Shrink factor of each level relative to level 0."""
        return self._handle.level_downsamples

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """`x, y, width, height` (level-0 px) of the scanned area; else the whole slide."""
        names = ("x", "y", "width", "height")
        said = [self._handle.properties.get(f"openslide.bounds-{name}") for name in names]
        if any(value is None for value in said):
            return (0, 0, *self.size)
        x, y, width, height = (int(value) for value in said if value is not None)
        return x, y, min(width, self.size[0] - x), min(height, self.size[1] - y)

    @property
    def slide_mpp(self) -> float:
        """µm/px of level 0: as given, else as the file states.

        Raises
        ------
        MppError
            It is missing or absurd, or pixels are not square.
        """
        if self._given_mpp is not None:
            return check_slide_mpp(self._given_mpp, where=f"the value given for {self.path.name}")
        x, y = (self._number(f"openslide.mpp-{axis}") for axis in "xy")
        mpp = check_slide_mpp(x, where=self.path.name)
        if y is not None and abs(y - mpp) > MPP_TOLERANCE * mpp:
            raise MppError(
                f"{self.path.name} has pixels of {x:g} × {y:g} µm; only square ones can be read: "
                "give one value with --slide-mpp if the file is wrong"
            )
        return mpp

    @property
    def vendor(self) -> str:
        """Format family, as OpenSlide names it: "aperio", "mirax", "generic-tiff" …"""
        return self._handle.properties.get("openslide.vendor", "unknown")

    @property
    def objective_power(self) -> float | None:
        """Magnification of the objective, if the file states it."""
        return self._number("openslide.objective-power")

    def read_region(self, x: int, y: int, *, level: int, size: tuple[int, int]) -> np.ndarray:
        """Read `size` px of `level` whose top-left is at level-0 `x, y`.

        Returns
        -------
        (H, W, 3) uint8 RGB; what was never scanned is white.

        Raises
        ------
        SlideError
            There is no such level, or the file cannot be decoded there. The handle is dead then;
            open the slide again.
        """
        if not 0 <= level < len(self.level_downsamples):
            raise SlideError(
                f"{self.path.name} has no level {level}, it has {len(self.level_downsamples)}; "
                "tile it again"
            )
        try:
            rgba = np.asarray(self._handle.read_region((int(x), int(y)), level, size))
        except (openslide.OpenSlideError, OSError) as error:
            raise SlideError(
                f"{self.path.name} cannot be read at x={x}, y={y}, level {level} ({error}); "
                "the file is damaged: scan or copy it again"
            ) from error
        rgb = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
        if rgba[..., 3].min() < 255:
            rgb[rgba[..., 3] == 0] = 255
        return rgb

    def read_tile(self, row: Mapping[Any, Any], *, size: int) -> np.ndarray:
        """Read the tile of one row of a tile table, area-averaged to `size` × `size` px.

        Returns
        -------
        (size, size, 3) uint8 RGB.
        """
        read_size = int(row["read_size"])
        scale = decode_scale(row)
        if scale == 1:
            tile = self.read_region(
                row["x"], row["y"], level=int(row["level"]), size=(read_size, read_size)
            )
        else:
            x, y = int(row["x"]) // scale, int(row["y"]) // scale
            tile = self.need_stored(row["read_path"]).read(
                x, y, size=(read_size, read_size), scale=scale
            )
        return shrink(tile, size)

    def stored(self, level: int) -> StoredTiles | None:
        """Return the stored tiles of a level, if they are JPEG and decode to OpenSlide's pixels.

        Proved on places of this very slide, the fullest ones, within one grey value. A level is
        proved once while the slide is open. None: read it with `read_region`.
        """
        with self._proving:
            if not self._stored:
                levels = enumerate(open_stored(self.path, self.level_sizes))
                same = {n: tiles for n, tiles in levels if self._is_same(n, tiles)}
                self._stored = {**same, -1: None}  # looked at, whatever was found
            return self._stored.get(level)

    def need_stored(self, read_path: str) -> StoredTiles:
        """Return the stored tiles of level 0, for a read path that decodes them at a scale.

        Raises
        ------
        SlideError
            They are not JPEG, or not what OpenSlide reads.
        """
        stored = self.stored(0)
        if stored is None:
            raise SlideError(
                f"{self.path.name} is not stored as JPEG tiles that can be decoded at a scale, as "
                f"read_path={read_path!r} asks; take a model that reads level0"
            )
        return stored

    def _is_same(self, level: int, tiles: StoredTiles) -> bool:
        """Say whether stored tiles decode to what OpenSlide reads, at the fullest places.

        A place that cannot be read proves nothing; the next one is taken.
        """
        downsample = self.level_downsamples[level]
        if downsample != round(downsample):  # OpenSlide blends neighbouring pixels then
            return False
        fullest, n_same = np.argsort(-tiles.counts, kind="stable")[: 4 * N_PROBES], 0
        with ExitStack() as opened:
            other = opened.enter_context(Slide(self.path))  # after an error a handle is dead
            for number in fullest.tolist():
                try:
                    if other._difference(level, tiles, number) > MAX_DIFFERENCE:
                        return False
                    n_same += 1
                except SlideError:
                    other = opened.enter_context(Slide(self.path))
                if n_same == N_PROBES:
                    break
        return n_same > 0

    def _difference(self, level: int, tiles: StoredTiles, number: int) -> int:
        """Return by how much OpenSlide's pixels differ around a corner of a stored tile."""
        side, downsample = PROBE_PX // 2, round(self.level_downsamples[level])
        x = max(number % tiles.columns * tiles.tile[0] - side, 0)
        y = max(number // tiles.columns * tiles.tile[1] - side, 0)
        size = min(PROBE_PX, tiles.size[0] - x), min(PROBE_PX, tiles.size[1] - y)
        expected = self.read_region(x * downsample, y * downsample, level=level, size=size)
        found = tiles.read(x, y, size=size)
        return int(np.abs(expected.astype(np.int16) - found).max())

    def thumbnail(self, *, mpp: float) -> tuple[np.ndarray, float]:
        """Return the whole slide at `mpp` and its downsample relative to level 0.

        Level 0 itself is returned if `mpp` is finer. Memory is bounded: the slide is read in
        blocks from the coarsest level that is fine enough.

        Returns
        -------
        (H, W, 3) uint8 RGB, and exactly `max(mpp / slide_mpp, 1)`.
        """
        check_positive(mpp=mpp)
        downsample = max(mpp / self.slide_mpp, 1.0)
        width, height = (math.ceil(extent / downsample) for extent in self.size)
        if width * height > MAX_THUMBNAIL_PX:
            raise SlideError(
                f"a thumbnail of {self.path.name} at {mpp:g} µm/px has {width} × {height} px; "
                f"choose a coarser mpp ({MAX_THUMBNAIL_PX / 1e6:.0f} MP at the most)"
            )
        level = self._handle.get_best_level_for_downsample(downsample * 1.001)
        shrinking = downsample / self.level_downsamples[level]
        stored = self.stored(level)
        scale = next(s for s in DCT_SCALES if s == 1 or s <= shrinking / 3) if stored else 1
        shrinking /= scale
        columns, rows_at_once = (
            _whole_pixels(n, shrinking)
            for n in (width, min(height, max(int(BLOCK_PX / width / shrinking**2), 1)))
        )
        thumbnail = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows_at_once):
            size = (round(columns * shrinking), round(rows_at_once * shrinking))
            block = self._read_block(top * downsample, level=level, size=size, scale=scale)
            band = cv2.resize(block, (columns, rows_at_once), interpolation=cv2.INTER_AREA)
            n = min(rows_at_once, height - top)
            thumbnail[top : top + n] = band[:n, :width]
        return thumbnail, downsample

    def _read_block(
        self, top: float, *, level: int, size: tuple[int, int], scale: int
    ) -> np.ndarray:
        """Read whole rows of a level, from level-0 px `top` on; `size` is px after scaling.

        What the stored tiles do not give (one is missing, or damaged) is left to OpenSlide.
        """
        stored = self.stored(level)
        if stored:
            try:
                row = round(top / self.level_downsamples[level] / scale)
                return stored.read(0, row, size=size, scale=scale)
            except SlideError:
                pass
        whole = size[0] * scale, size[1] * scale
        step = max(int(BLOCK_PX / whole[0] / 4), scale) // scale * scale
        block = np.empty((size[1], size[0], 3), np.uint8)
        for y in range(0, whole[1], step):
            n = min(step, whole[1] - y)
            at = round(top + y * self.level_downsamples[level])
            part = self.read_region(0, at, level=level, size=(whole[0], n))
            rows = slice(y // scale, (y + n) // scale)
            block[rows] = cv2.resize(part, (size[0], n // scale), interpolation=cv2.INTER_AREA)
        return block

    def _number(self, name: str) -> float | None:
        try:
            return float(self._handle.properties[name])
        except (KeyError, ValueError):
            return None


def _whole_pixels(n: int, shrinking: float) -> int:
    """Return the number from `n` on, not far, that is nearest to whole pixels when enlarged.

    Else what is shrunk from so many pixels to `n` would be stretched a little, by more than a
    pixel of level 0.
    """
    numbers = np.arange(n, n + 100)
    enlarged = numbers * shrinking
    return int(numbers[np.abs(enlarged - enlarged.round()).argmin()])


def decode_scale(row: Mapping[Any, Any]) -> int:
    """Return how many pixels of a side the read path of a tile row makes one while decoding."""
    base, divisor = split_read_path(row["read_path"])
    if base != "level0":
        return 1
    return find_scale(int(row["size_l0"]), int(row["tile_size"]), divisor)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Return a square image averaged over areas to `size` × `size` px; never enlarged."""
    if image.shape[0] == size:
        return image
    if image.shape[0] < size:
        raise MppError(
            f"a tile of {image.shape[0]} px cannot give {size} px; choose a smaller image_size"
        )
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
