"""What each image of a TIFF file claims: size, tiles, compression; refused where it is absurd."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_walk import HEADER, MAX_SEGMENTS, Directory

MAX_LEVEL_PX = 1e11  # 316,000²; the largest slides, 5 × 2.5 cm at 0.125 µm/px, have 8e10
MAX_UNIT_PX = 50_000_000  # decoded in one piece: a tile, or an image in strips (label, macro)
MAX_UNIT_BYTES = 4 * MAX_UNIT_PX
MAX_PX_PER_BYTE = 20_000  # of a large level's stored bytes; one colour deflated reaches 6,400
MANY_PX = 1e9  # a small level of one colour may be denser
BITS = {1, 2, 4, 8, 10, 12, 14, 16, 32, 64}
MAX_SAMPLES = 64

RAW, OLD_JPEG, JPEG = 1, 6, 7
JPEGS = {7, 34892}
JPEG2000 = {33003, 33004, 33005, 34712}
DEFLATE = {8, 32946}
LZW = 5
OTHERS = {2, 3, 4, 32773, 33007, 34887, 34925, 34926, 34927, 34933, 34934, 22610, 50000, 50001,
          50002}  # fmt: skip
KNOWN = {RAW, OLD_JPEG, LZW} | JPEGS | JPEG2000 | DEFLATE | OTHERS

WIDTH, HEIGHT, BITS_PER_SAMPLE, COMPRESSION, DESCRIPTION = 256, 257, 258, 259, 270
STRIP_OFFSETS, SAMPLES, ROWS, STRIP_COUNTS, PLANAR = 273, 277, 278, 279, 284
SOFTWARE, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS = 305, 322, 323, 324, 325
JPEG_TABLES, NDPI_LENS = 347, 65421
SEPARATE = 2  # value of PLANAR: each colour has segments of its own
NDPI_MAP = -2.0  # value of NDPI_LENS: the focus map
MAX_JPEG_TABLES = 1 << 14  # bytes; four tables of each kind have 2,800
SOI, EOI = b"\xff\xd8", b"\xff\xd9"  # marks around a JPEG stream


@dataclass(frozen=True, eq=False)
class Image:
    """One image of the file; `starts` and `counts` are the bytes of its segments (tiles, strips).

    A segment has `unit` (width, height) px, `n_samples` of `n_bits` each.
    """

    number: int  # from 1, in the order of the directories
    size: tuple[int, int]
    unit: tuple[int, int]
    is_tiled: bool
    n_samples: int  # in a segment: 1 where each colour has segments of its own
    n_planes: int
    n_bits: int
    compression: int
    starts: np.ndarray
    counts: np.ndarray
    jpeg_tables: bytes
    is_ndpi: bool
    is_map: bool  # NDPI's focus map

    @property
    def grid(self) -> tuple[int, int]:
        """Segments across and down."""
        return -(-self.size[0] // self.unit[0]), -(-self.size[1] // self.unit[1])

    def row_bytes(self, width: int) -> int:
        """Return the bytes of one uncompressed row of `width` px."""
        return -(-width * self.n_samples * self.n_bits // 8)

    def visible(self, index: int) -> tuple[int, int]:
        """Return width and height of what of a segment lies within the image."""
        across, down = self.grid
        column, row = index % across, index // across % down
        x, y = column * self.unit[0], row * self.unit[1]
        return min(self.unit[0], self.size[0] - x), min(self.unit[1], self.size[1] - y)

    def unit_bytes(self, index: int) -> int:
        """Return the bytes of a segment when decoded; the last strip may be lower."""
        height = self.unit[1] if self.is_tiled else self.visible(index)[1]
        return self.row_bytes(self.unit[0]) * height


def read_images(file: ByteFile, directories: Iterable[Directory]) -> list[Image]:
    """Return the images of all directories, their claims checked.

    Raises
    ------
    IncompleteError
        A tile is missing or lies outside the file.
    SlideError
        Sizes that no slide has, or more than a reader may be asked to decode.
    """
    directories = list(directories)
    may_lack = _may_lack_tiles(file, directories[0])
    images: list[Image] = []
    n_segments = 0
    for number, directory in enumerate(directories, start=1):
        image = _read_image(file, directory, number, most=MAX_SEGMENTS - n_segments)
        n_segments += len(image.starts)
        _check_segments(file, image, may_lack=may_lack or image.n_samples == 1)
        images.append(image)
    return images


def _read_image(file: ByteFile, directory: Directory, number: int, *, most: int) -> Image:
    def one(code: int, default: int = 0) -> int:
        return directory.number(file, code, default)

    size, is_tiled = (one(WIDTH), one(HEIGHT)), TILE_OFFSETS in directory.tags
    unit = (one(TILE_WIDTH), one(TILE_HEIGHT))
    unit = unit if is_tiled else (size[0], min(one(ROWS, size[1]), size[1]))
    _check_sizes(file, number, size, unit)
    bits = directory.numbers(file, BITS_PER_SAMPLE, most=MAX_SAMPLES)
    samples, compression = one(SAMPLES, 1), one(COMPRESSION, RAW)
    if not 1 <= samples <= MAX_SAMPLES or not {int(b) for b in bits} <= BITS:
        _refuse(file, number, f"{samples} colours of {bits[:4].tolist()} bits")
    if compression not in KNOWN:
        _refuse(file, number, f"compression {compression}, which no slide reader knows")
    planes = samples if one(PLANAR, 1) == SEPARATE else 1
    n_segments = -(-size[0] // unit[0]) * -(-size[1] // unit[1]) * planes
    starts, counts = _places(file, directory, number, min(n_segments, most))
    if len(starts) < n_segments:
        _refuse(file, number, f"{n_segments:,} tiles or strips, more than a slide has")
    image = Image(
        number=number,
        size=size,
        unit=unit,
        is_tiled=is_tiled,
        n_samples=samples // planes,
        n_planes=planes,
        n_bits=int(max(bits, default=1)),
        compression=compression,
        starts=starts,
        counts=counts,
        jpeg_tables=_jpeg_tables(file, directory, number),
        is_ndpi=directory.layout.ndpi,
        is_map=directory.layout.ndpi and _lens(file, directory) == NDPI_MAP,
    )
    _check_load(file, image)
    return image


def _places(
    file: ByteFile, directory: Directory, number: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and lengths of an image's segments: as many as it needs, at most `most`.

    Some writers give the lengths of tiles under the name for strips; readers take both.
    """
    tags = directory.tags
    codes = (
        TILE_OFFSETS if TILE_OFFSETS in tags else STRIP_OFFSETS,
        TILE_COUNTS if TILE_COUNTS in tags else STRIP_COUNTS,
    )
    listed = [tags[code].n_values if code in tags else 0 for code in codes]
    if min(listed) < most:
        raise IncompleteError(
            f"{file.name} is damaged: its image {number} needs {most:,} tiles or strips and lists "
            f"{listed[0]:,} places and {listed[1]:,} lengths; {AGAIN}"
        )
    starts, counts = (_wide(directory.numbers(file, code, most=most)) for code in codes)
    return starts, counts


def _jpeg_tables(file: ByteFile, directory: Directory, number: int) -> bytes:
    tables = directory.raw(file, JPEG_TABLES, most=MAX_JPEG_TABLES + 1)
    is_whole = tables[:2] == SOI and tables.rstrip(b"\0")[-2:] == EOI
    if tables and (not is_whole or len(tables) > MAX_JPEG_TABLES):
        raise IncompleteError(
            f"{file.name} is damaged: the JPEG tables of its image {number} are not whole; {AGAIN}"
        )
    return tables


def _wide(numbers: np.ndarray) -> np.ndarray:
    """Return places as int64; beyond 2⁶² they lie outside any file, whatever their value."""
    if numbers.dtype.itemsize == 8:
        numbers = np.minimum(numbers, 1 << 62)
    return numbers.astype(np.int64)


def _lens(file: ByteFile, directory: Directory) -> float:
    raw = directory.raw(file, NDPI_LENS, most=4)
    return float(struct.unpack("<f", raw)[0]) if len(raw) == 4 else 0.0


def _refuse(file: ByteFile, number: int, claim: str) -> None:
    raise SlideError(
        f"{file.name} is damaged or no slide: its image {number} claims {claim}; {AGAIN}"
    )


def _check_sizes(file: ByteFile, number: int, size: tuple[int, int], unit: tuple[int, int]) -> None:
    if min(size) < 1 or size[0] * size[1] > MAX_LEVEL_PX:
        _refuse(file, number, f"{size[0]:,} × {size[1]:,} px")
    if min(unit) < 1 or unit[0] * unit[1] > MAX_LEVEL_PX:
        _refuse(file, number, f"tiles of {unit[0]:,} × {unit[1]:,} px")


def _check_load(file: ByteFile, image: Image) -> None:
    """Refuse what a reader must decode in one piece and cannot hold.

    An NDPI level is one JPEG strip with restart marks, which readers decode in parts.
    """
    in_parts = image.is_ndpi and image.compression == JPEG and not image.is_tiled
    width, height = image.unit if image.is_tiled else image.size
    n_bytes = image.row_bytes(width) * height * (1 if image.is_tiled else image.n_planes)
    if not in_parts and (width * height > MAX_UNIT_PX or n_bytes > MAX_UNIT_BYTES):
        what = "tiles" if image.is_tiled else "a picture without tiles"
        _refuse(file, image.number, f"{what} of {width:,} × {height:,} px (50 million are allowed)")


def _may_lack_tiles(file: ByteFile, first: Directory) -> bool:
    """Return whether this is a Philips TIFF, which leaves tiles without tissue out."""
    said = first.raw(file, SOFTWARE, most=64) + first.raw(file, DESCRIPTION, most=2048)
    return b"Philips" in said or b"DPUfsImport" in said


def _check_segments(file: ByteFile, image: Image, *, may_lack: bool) -> None:
    starts, counts, expected = image.starts, image.counts, len(image.starts)
    absent = (starts == 0) & (counts == 0)
    empty = (starts < HEADER) | (counts < 1)
    n_missing = int((empty & ~absent).sum()) if may_lack else int(empty.sum())
    if n_missing or absent.all():
        raise IncompleteError(
            f"{file.name} is not whole: {n_missing or expected:,} of the {expected:,} tiles of its "
            f"image {image.number} are missing; {AGAIN}"
        )
    stored = ~absent
    outside = stored & ((starts > file.size) | (counts > file.size - starts))
    if outside.any():
        raise IncompleteError(
            f"{file.name} is cut off: {int(outside.sum()):,} of the {expected:,} tiles of its "
            f"image {image.number} lie behind its end at {file.size:,} bytes; {AGAIN}"
        )
    if image.compression == RAW:
        _check_raw_lengths(file, image, stored)
    _check_density(file, image, stored)


def _check_raw_lengths(file: ByteFile, image: Image, stored: np.ndarray) -> None:
    """An uncompressed segment has as many bytes as its pixels need."""
    needed = np.full(len(image.counts), image.unit_bytes(0))
    if not image.is_tiled:
        needed[image.grid[1] - 1 :: image.grid[1]] = image.unit_bytes(image.grid[1] - 1)
    short = stored & (image.counts < needed)
    if short.any():
        raise IncompleteError(
            f"{file.name} is damaged: {int(short.sum()):,} tiles or strips of its image "
            f"{image.number} are shorter than their pixels; {AGAIN}"
        )


def _check_density(file: ByteFile, image: Image, stored: np.ndarray) -> None:
    _, first = np.unique(image.starts[stored], return_index=True)  # a tile may be shared
    n_bytes, n_px = int(image.counts[stored][first].sum()), image.size[0] * image.size[1]
    if n_px > max(MANY_PX, MAX_PX_PER_BYTE * n_bytes):
        _refuse(file, image.number, f"{n_px:,} px in {n_bytes:,} bytes")
