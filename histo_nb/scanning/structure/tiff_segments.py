"""Looks at both ends of each tile and strip: are they marked as their compression marks them?"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_images import (
    DEFLATE,
    EOI,
    JPEG2000,
    JPEGS,
    LZW,
    MAX_UNIT_PX,
    OLD_JPEG,
    RAW,
    SOI,
    Image,
)

HEAD = 1024  # bytes read at once; a tile's marks lie within
PADDING = 64  # bytes that may follow the end mark; writers round lengths up
ROUNDING = 16  # px: JPEG codes whole blocks, some writers say so in the size
MAX_MARKS = 1000  # of one JPEG header
STARTS = {  # first bytes of a stream, by compression
    **dict.fromkeys((34926, 50000), b"\x28\xb5\x2f\xfd"),  # zstd
    **dict.fromkeys((34927, 50001), b"RIFF"),  # WebP
    LZW: b"\x80",  # a code that clears the table comes first
}
CODESTREAM = b"\xff\x4f\xff\x51"  # JPEG 2000
JP2_BOX = b"\0\0\0\x0cjP  "
BARE = (0x01, *range(0xD0, 0xD8))  # JPEG marks without a length
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # JPEG marks with the size
SCAN = 0xDA
RESTARTS = 0xDD


class Part(NamedTuple):
    """One segment of an image, and the bytes it has in the file."""

    number: int  # from 1, within the image
    start: int
    length: int


def check_segments(file: ByteFile, image: Image) -> None:
    """Raise unless each stored segment of an image begins and ends as it must.

    Raises
    ------
    IncompleteError
        A segment's mark is missing, or it ends in zeros.
    SlideError
        A JPEG or JPEG 2000 tile claims to be larger than a tile is.
    """
    if image.compression in (RAW, OLD_JPEG):
        return
    _, first = np.unique(image.starts, return_index=True)  # a tile may be shared
    for index in first[image.counts[first] > 0]:
        part = Part(int(index) + 1, int(image.starts[index]), int(image.counts[index]))
        _check_part(file, image, part)


def _check_part(file: ByteFile, image: Image, part: Part) -> None:
    head = file.read(part.start, min(part.length, HEAD))
    end = part.start + part.length
    tail = head if part.length <= HEAD else file.read(end - PADDING, PADDING)
    if image.compression in JPEGS:
        _check_ends(file, image, part, (head.startswith(SOI), tail))
        _check_jpeg(file, image, part, head)
    elif image.compression in JPEG2000:
        head = head[max(head.find(CODESTREAM), 0) :] if head.startswith(JP2_BOX) else head
        _check_ends(file, image, part, (head.startswith(CODESTREAM), tail))
        _check_jpeg2000(file, image, part, head)
    elif not tail[-16:].strip(b"\0") or not _starts_well(image.compression, head):
        _incomplete(file, image, part)


def _starts_well(compression: int, head: bytes) -> bool:
    if compression in DEFLATE:  # RFC 1950: method 8, and a checksum of the two bytes
        return head[0] & 15 == 8 and int.from_bytes(head[:2], "big") % 31 == 0
    return head.startswith(STARTS.get(compression, b""))


def _check_ends(file: ByteFile, image: Image, part: Part, ends: tuple[bool, bytes]) -> None:
    if not ends[0] or EOI not in ends[1][-PADDING:]:
        _incomplete(file, image, part)


def _incomplete(file: ByteFile, image: Image, part: Part) -> None:
    raise IncompleteError(
        f"{file.name} has a part that was never written or is damaged: tile {part.number:,} of "
        f"its image {image.number} lacks its beginning or its end; {AGAIN}"
    )


def _check_jpeg(file: ByteFile, image: Image, part: Part, head: bytes) -> None:
    size, n_restarts = None, 0
    for mark, place in jpeg_marks(file, part.start, part.length, head):
        if mark in FRAMES and size is None:
            raw = file.read(place + 3, 4)
            size = int.from_bytes(raw[2:], "big"), int.from_bytes(raw[:2], "big")
        elif mark == RESTARTS:
            n_restarts = int.from_bytes(file.read(place + 2, 2), "big")
        if mark == SCAN and size is not None:
            break
    else:
        _incomplete(file, image, part)
    in_parts = image.is_ndpi and not image.is_tiled
    if in_parts and image.unit[0] * image.unit[1] > MAX_UNIT_PX and not n_restarts:
        _too_large(file, image, part, image.unit)
    if size is not None and not (in_parts and 0 in size):  # NDPI writes 0 for above 65,535
        _check_claim(file, image, part, size)


def jpeg_marks(file: ByteFile, start: int, count: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Yield each mark of a JPEG header and the place of what follows it, up to the first scan.

    `head` are the first bytes from `start`; beyond them the file is asked.
    """
    place, end = 2, count - 4
    for _ in range(MAX_MARKS):
        if place > end:
            return
        here = head[place : place + 4] if place + 4 <= len(head) else file.read(start + place, 4)
        if here[0] != 0xFF:
            return
        if here[1] == 0xFF or here[1] in BARE:
            place += 1 if here[1] == 0xFF else 2
            continue
        yield here[1], start + place + 2
        if here[1] == SCAN:
            return
        place += 2 + (here[2] << 8 | here[3])


def _check_jpeg2000(file: ByteFile, image: Image, part: Part, head: bytes) -> None:
    if len(head) < 40:
        _incomplete(file, image, part)
    right, bottom, left, top = (int.from_bytes(head[i : i + 4], "big") for i in (8, 12, 16, 20))
    _check_claim(file, image, part, (right - left, bottom - top))


def _check_claim(file: ByteFile, image: Image, part: Part, size: tuple[int, int]) -> None:
    """Refuse a tile that claims to be empty, or larger than the directory says of tiles."""
    limit = tuple(-(-side // ROUNDING) * ROUNDING for side in image.unit)
    if min(size) < 1 or size[0] > limit[0] or size[1] > limit[1]:
        _too_large(file, image, part, size)


def _too_large(file: ByteFile, image: Image, part: Part, size: tuple[int, int]) -> None:
    raise SlideError(
        f"{file.name} is damaged or no slide: tile {part.number:,} of its image {image.number} "
        f"claims {size[0]:,} × {size[1]:,} px, where a tile has {image.unit[0]:,} × "
        f"{image.unit[1]:,}; {AGAIN}"
    )
