"""A loose image file as a source of tiles: what `Slide` is to a scan."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from histo_nb.errors import SlideError
from histo_nb.slide import Slide, shrink

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


class ImageFile:
    """An 8-bit RGB image, decoded whole; a context manager, as `Slide` is.

    Raises
    ------
    SlideError
        The file is missing, truncated, no picture, or not 8-bit colour without transparency.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.pixels = _read_rgb(self.path)  # (H, W, 3) uint8

    def __enter__(self) -> "ImageFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in px."""
        height, width = self.pixels.shape[:2]
        return width, height

    def read_tile(self, row: Mapping[Any, Any], *, size: int) -> np.ndarray:
        """Read the tile of one row of a tile table, area-averaged to `size` × `size` px.

        Returns
        -------
        (size, size, 3) uint8 RGB.

        Raises
        ------
        SlideError
            The tile does not lie inside the image: it is another file than the one that was cut.
        """
        x, y, extent = int(row["x"]), int(row["y"]), int(row["read_size"])
        width, height = self.size
        if not (0 <= x <= width - extent and 0 <= y <= height - extent):
            raise SlideError(
                f"{self.path.name} has {width} × {height} px and no tile of {extent} px at x={x}, "
                f"y={y}; it was replaced: make the table of tiles again"
            )
        return shrink(self.pixels[y : y + extent, x : x + extent], size)


def open_source(row: Mapping[Any, Any]) -> Slide | ImageFile:
    """Open what a tile row is read from: a slide, or a loose image (`read_path` "image")."""
    if row["read_path"] == "image":
        return ImageFile(row["slide_path"])
    return Slide(row["slide_path"])


def _read_rgb(path: Path) -> np.ndarray:
    if not path.is_file():
        raise SlideError(f"{path} does not exist; check the name")
    try:
        with Image.open(path) as image:
            image.load()
            return _as_rgb(image, path)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SlideError(f"{path.name} is no image that can be read ({error})") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # Pillow raises them all
        raise SlideError(
            f"{path.name} is damaged or cut off ({error}); copy it again or leave it out"
        ) from error


def _as_rgb(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode == "P" and "transparency" not in image.info:
        image = image.convert("RGB")
    if image.mode == "RGBA" and image.getextrema()[-1] == (255, 255):
        image = image.convert("RGB")
    if image.mode != "RGB":
        raise SlideError(
            f"{path.name} has pixels of mode {image.mode}; save it as 8-bit RGB without "
            "transparency"
        )
    return np.asarray(image)
