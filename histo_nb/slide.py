"""An open whole-slide image: its facts, its thumbnail, its pixels at any place.

Label and macro images carry names; nothing here reads them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import openslide

from histo_nb.errors import MppError, SlideError
from histo_nb.geometry import MPP_TOLERANCE, check_positive, check_slide_mpp

MAX_THUMBNAIL_PX = 64_000_000  # more is no overview, and hostile files ask for it
BLOCK_PX = 16_000_000  # px decoded at once for a thumbnail: 64 MB of RGBA


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
        tile = self.read_region(
            row["x"], row["y"], level=int(row["level"]), size=(read_size, read_size)
        )
        return shrink(tile, size)

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
        columns = max(round(width * shrinking), 1)
        rows_at_once = max(int(BLOCK_PX / columns / shrinking), 1)
        thumbnail = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows_at_once):
            n = min(rows_at_once, height - top)
            size = (columns, max(round(n * shrinking), 1))
            block = self.read_region(0, round(top * downsample), level=level, size=size)
            cv2.resize(block, (width, n), thumbnail[top : top + n], interpolation=cv2.INTER_AREA)
        return thumbnail, downsample

    def _number(self, name: str) -> float | None:
        try:
            return float(self._handle.properties[name])
        except (KeyError, ValueError):
            return None


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Return a square image averaged over areas to `size` × `size` px; never enlarged."""
    if image.shape[0] == size:
        return image
    if image.shape[0] < size:
        raise MppError(
            f"a tile of {image.shape[0]} px cannot give {size} px; choose a smaller image_size"
        )
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
