"""The JPEG tiles that a TIFF level is stored in, decoded without OpenSlide.

The same pixels several times quicker, because each stored tile is decoded once and in place, and
a coarser picture where one is enough: JPEG gives every second, fourth or eighth pixel, properly
averaged, for less work (a scaled inverse DCT). `Slide.stored` says whether a slide's tiles may be
read so.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import numpy as np
import simplejpeg
import tifffile

from histo_nb.errors import SlideError
from histo_nb.geometry import DCT_SCALES

JPEG = 7  # TIFF compression
COLOURS = {2: 0, 6: 1}  # TIFF photometric → Adobe transform: RGB, YCbCr
N_THREADS = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
LARGEST_TILE_PX = 1 << 24  # 4096 × 4096; more is no tile
MANY_ROWS = 8  # of stored tiles; fewer are not worth several threads


@dataclass(frozen=True)
class StoredTiles:
    """Where the stored tiles of one level lie in an open file, row by row."""

    name: str  # of the file, for messages
    file: FileIO  # read at offsets, which needs no lock; closes itself
    size: tuple[int, int]  # px of the level
    tile: tuple[int, int]  # px of a stored tile: width, height
    offsets: np.ndarray
    counts: np.ndarray  # bytes; 0 = not stored
    header: bytes  # quantisation and Huffman tables, and what the colours are

    @property
    def columns(self) -> int:
        """Stored tiles in a row."""
        return -(-self.size[0] // self.tile[0])

    @property
    def rows(self) -> int:
        """Rows of stored tiles."""
        return -(-self.size[1] // self.tile[1])

    def decode(self, number: int, out: np.ndarray, *, scale: int = 1) -> None:
        """Decode one stored tile into `out`, (height / scale, width / scale, 3) uint8 RGB.

        Raises
        ------
        SlideError
            It is not stored, cut off, or damaged: also where a lenient decoder would go on.
        """
        self._decode(number, out, scale)

    def jpeg(self, number: int) -> bytes:
        """Return one stored tile as a whole JPEG file, as it was written; it does decode.

        Raises
        ------
        SlideError
            As `decode`.
        """
        least = DCT_SCALES[0]
        out = np.empty((self.tile[1] // least, self.tile[0] // least, 3), np.uint8)
        return self._decode(number, out, least)

    def _decode(self, number: int, out: np.ndarray, scale: int) -> bytes:
        n = int(self.counts[number])
        height, width = self.tile[1] // scale, self.tile[0] // scale
        try:
            data = os.pread(self.file.fileno(), n, int(self.offsets[number]))
            if len(data) < n or not n:
                raise ValueError("not stored" if not n else "cut off")
            data = self.header + data[2:]
            decoded = simplejpeg.decode_jpeg(
                data,
                min_height=height if scale > 1 else 0,
                min_width=width if scale > 1 else 0,
                min_factor=scale,
                buffer=out,
            )
            if decoded.shape != out.shape:
                raise ValueError(f"{decoded.shape} instead of {out.shape} px")
            return data
        except (ValueError, OSError) as error:
            column, row = number % self.columns, number // self.columns
            raise SlideError(
                f"{self.name} cannot be read at x={column * self.tile[0]}, y={row * self.tile[1]} "
                f"({error}); the file is damaged: scan or copy it again"
            ) from error

    def read(self, x: int, y: int, *, size: tuple[int, int], scale: int = 1) -> np.ndarray:
        """Read `size` px, after scaling, whose top-left is at the scaled level's px `x, y`.

        Returns
        -------
        (H, W, 3) uint8 RGB; white outside the level.

        Raises
        ------
        SlideError
            As `decode`.
        """
        region = np.full((size[1], size[0], 3), 255, np.uint8)
        right = min(x + size[0], -(-self.size[0] // scale))
        low = min(y + size[1], -(-self.size[1] // scale))
        height = self.tile[1] // scale
        if right <= max(x, 0) or low <= max(y, 0):
            return region

        def fill(row: int) -> None:
            top = max(y, row * height)
            strip = region[top - y : min(low, (row + 1) * height) - y, : right - x]
            self._fill(strip, row, x, skip=top - row * height, scale=scale)

        rows = range(max(y, 0) // height, max(-(-low // height), 0))
        with ThreadPoolExecutor(N_THREADS if len(rows) > MANY_ROWS else 1) as pool:
            list(pool.map(fill, rows))
        return region

    def _fill(self, strip: np.ndarray, row: int, x: int, *, skip: int, scale: int) -> None:
        """Fill a strip that begins at px `x`, and `skip` px below the top of a row of tiles."""
        width, height = self.tile[0] // scale, self.tile[1] // scale
        out = np.empty((height, width, 3), np.uint8)
        right = x + strip.shape[1]
        for column in range(max(x, 0) // width, max(-(-right // width), 0)):
            self.decode(row * self.columns + column, out, scale=scale)
            here = column * width
            x0, x1 = max(x, here), min(right, here + width)
            strip[:, x0 - x : x1 - x] = out[skip : skip + len(strip), x0 - here : x1 - here]


def open_stored(path: Path, level_sizes: Sequence[tuple[int, int]]) -> list[StoredTiles]:
    """Return the levels (in the order of `level_sizes`, from 0 on) that are stored as JPEG tiles.

    The list ends before the first level that is not: stored otherwise, in a format that is no
    TIFF, or in a file that contradicts itself.
    """
    try:
        with tifffile.TiffFile(path) as tiff:
            pages = {page.shape[1::-1]: page for page in tiff.pages if _is_readable(page)}
            found = [pages[size] for size in level_sizes if size in pages]
            file = path.open("rb", buffering=0) if found else None
            levels = [_stored(path.name, file, page) for page in found if file]
    except Exception:  # whatever a broken file makes tifffile raise: OpenSlide judges it
        return []
    sizes = [level.size for level in levels]
    n = next((i for i, size in enumerate(sizes) if size != level_sizes[i]), len(sizes))
    return levels[:n]


def _is_readable(page: tifffile.TiffPage) -> bool:
    return (
        page.is_tiled
        and page.compression == JPEG
        and page.photometric in COLOURS
        and page.samplesperpixel == 3
        and page.bitspersample == 8
        and page.planarconfig == 1
        and page.tilewidth * page.tilelength <= LARGEST_TILE_PX
        and page.tilewidth % DCT_SCALES[0] == 0
        and page.tilelength % DCT_SCALES[0] == 0
    )


def _stored(name: str, file: FileIO, page: tifffile.TiffPage) -> StoredTiles:
    tables = page.jpegtables[:-2] if page.jpegtables else b"\xff\xd8"
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([COLOURS[page.photometric]])
    level = StoredTiles(
        name,
        file,
        (page.imagewidth, page.imagelength),
        (page.tilewidth, page.tilelength),
        np.asarray(page.dataoffsets, np.int64),
        np.asarray(page.databytecounts, np.int64),
        tables + adobe,
    )
    if len(level.counts) != level.columns * level.rows or len(level.offsets) != len(level.counts):
        raise ValueError(f"{len(level.counts)} tiles for {level.columns} × {level.rows}")
    if (level.offsets + level.counts).max() > os.fstat(file.fileno()).st_size:
        raise ValueError("tiles outside the file")
    return level
