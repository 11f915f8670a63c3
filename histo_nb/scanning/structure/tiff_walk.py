"""Walks the directories of a TIFF file whose every number may be a lie.

TIFF 6.0, BigTIFF, and Hamamatsu's NDPI: a classic TIFF whose directory offsets have 8 bytes and
whose entries get the high halves of their values from a list behind the directory. No more is
kept than the caps below allow, whatever the file claims.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile

MAX_TAGS = 4096  # of one directory; scanners write 15–60
MAX_DIRECTORIES = 10_000  # a whole-slide file has 5–50, an OME-TIFF of a z-series thousands
MAX_ALL_TAGS = 400_000
MAX_SEGMENTS = 2_500_000  # tiles and strips of a file: 1e11 px in tiles of 240 px, with levels
HEADER = 8  # bytes; no value lies before

SUB_DIRECTORIES, NDPI_MARK = 330, 65420
LONG8 = 16

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4,
         16: 8, 17: 8, 18: 8}  # fmt: skip
NUMBERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 13: "u4", 16: "u8", 17: "i8",
           18: "u8"}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a kind of TIFF stores its directories."""

    order: str  # "<" or ">"
    count: str  # struct code of the number of entries
    entry: str  # code, type, number of values, the value or its place
    pointer: str  # place of a directory
    room: int  # bytes for a value within an entry
    ndpi: bool = False


def classic(order: str) -> Layout:
    """Return the layout of TIFF 6.0."""
    return Layout(order, "H", "HHI4s", "I", 4)


def big(order: str) -> Layout:
    """Return the layout of BigTIFF."""
    return Layout(order, "Q", "HHQ8s", "Q", 8)


NDPI = Layout("<", "H", "HHI4s", "Q", 4, ndpi=True)


class Entry(NamedTuple):
    """One entry of a directory as it lies in the file."""

    code: int
    kind: int
    n_values: int
    value: bytes  # or its place
    place: int


@dataclass(frozen=True, slots=True)
class Tag:
    """One entry of a directory: `n_values` of a type, at a place in the file."""

    code: int
    kind: int
    n_values: int
    start: int
    n_bytes: int
    inline: bytes | None  # the value itself where it lies within the entry


@dataclass(frozen=True)
class Directory:
    """One image's entries."""

    start: int
    n_bytes: int
    tags: dict[int, Tag]
    layout: Layout

    def raw(self, file: ByteFile, code: int, *, most: int) -> bytes:
        """Return up to `most` bytes of a value; none where the tag is missing."""
        tag = self.tags.get(code)
        if tag is None:
            return b""
        if tag.inline is not None:
            return tag.inline[:most]
        return file.read(tag.start, min(tag.n_bytes, most))

    def numbers(self, file: ByteFile, code: int, *, most: int) -> np.ndarray:
        """Return up to `most` of a tag's whole numbers; an empty array where it is missing."""
        tag = self.tags.get(code)
        if tag is None:
            return np.empty(0, np.int64)
        if tag.kind not in NUMBERS:
            raise SlideError(
                f"{file.name} is damaged: entry {code} holds no whole numbers; {AGAIN}"
            )
        raw = self.raw(file, code, most=most * SIZES[tag.kind])
        return np.frombuffer(raw, self.layout.order + NUMBERS[tag.kind])

    def number(self, file: ByteFile, code: int, default: int) -> int:
        """Return a tag's first number, or `default` where the tag is missing."""
        numbers = self.numbers(file, code, most=1)
        return int(numbers[0]) if len(numbers) else default


def is_tiff(head: bytes) -> bool:
    """Return whether a file with these first bytes calls itself TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def walk_tiff(file: ByteFile) -> list[Directory]:
    """Return all directories of a TIFF file, those below others included.

    Raises
    ------
    IncompleteError
        A directory or a value lies outside the file, or was never written.
    SlideError
        The directories run in a circle, or are more than a slide has.
    """
    layout, start = _read_header(file)
    if not start:
        raise IncompleteError(f"{file.name} was not written to its end: no directory; {AGAIN}")
    found, seen, below, n_tags = list[Directory](), set[int](), list[int](), 0
    is_chain = True  # of the file's own directories; those below one may be listed and chained
    while start or below:
        is_chain, start = is_chain and bool(start), start or below.pop()
        if start in seen and is_chain:
            raise SlideError(f"{file.name} is damaged: its directories run in a circle; {AGAIN}")
        if start in seen:
            start = 0
            continue
        seen.add(start)
        directory, start = _read_directory(file, start, layout)
        found.append(directory)
        listed = directory.numbers(file, SUB_DIRECTORIES, most=MAX_DIRECTORIES)
        below += [int(place) for place in listed if place]
        n_tags += len(directory.tags)
        if len(found) + len(below) > MAX_DIRECTORIES or n_tags > MAX_ALL_TAGS:
            raise SlideError(
                f"{file.name} has {len(found) + len(below):,} directories or more, with "
                f"{n_tags:,} entries; a slide has far fewer: it is damaged or no slide"
            )
    return found


def _read_header(file: ByteFile) -> tuple[Layout, int]:
    head = file.read(0, min(file.size, 16))
    order = "<" if head[:2] == b"II" else ">"
    if len(head) < 16:
        raise IncompleteError(f"{file.name} is cut off: it has {file.size} bytes; {AGAIN}")
    if head[2:4] in (b"+\0", b"\0+"):
        size, zero, start = struct.unpack(order + "HHQ", head[4:16])
        if (size, zero) != (8, 0):
            raise SlideError(f"{file.name} is damaged at its beginning; {AGAIN}")
        return big(order), start
    (start,) = struct.unpack(order + "I", head[4:8])
    (long_start,) = struct.unpack("<Q", head[4:12])
    if order == "<" and _is_ndpi(file, long_start):
        return NDPI, long_start
    return classic(order), start


def _is_ndpi(file: ByteFile, start: int) -> bool:
    """Return whether the directory at `start` has Hamamatsu's mark: then offsets have 8 bytes."""
    count = file.peek(start, 2)
    if len(count) < 2:
        return False
    entries = file.peek(start + 2, 12 * int.from_bytes(count, "little"))
    codes = np.frombuffer(entries[: len(entries) // 12 * 12], "<u2")[::6]
    return bool((codes == NDPI_MARK).any())


def _read_directory(file: ByteFile, start: int, layout: Layout) -> tuple[Directory, int]:
    """Return the directory at a place, and the place of the next one; 0 for none."""
    if start < HEADER:
        raise IncompleteError(f"{file.name} was not written to its end: no directory; {AGAIN}")
    width = struct.calcsize("=" + layout.count)
    (count,) = struct.unpack(layout.order + layout.count, file.read(start, width))
    if not 0 < count <= MAX_TAGS:
        raise IncompleteError(
            f"{file.name} is damaged or was not written to its end: a directory with {count:,} "
            f"entries (1–{MAX_TAGS} are allowed); {AGAIN}"
        )
    entry = struct.Struct(layout.order + layout.entry)
    entries = file.read(start + width, count * entry.size)
    end = start + width + len(entries)
    pointer = struct.calcsize("=" + layout.pointer)
    (following,) = struct.unpack(layout.order + layout.pointer, file.read(end, pointer))
    high = file.peek(end + pointer, 4 * count) if layout.ndpi else b""
    if layout.ndpi and len(high) < 4 * count:
        raise IncompleteError(f"{file.name} is cut off behind a directory; {AGAIN}")
    tags: dict[int, Tag] = {}
    for i, (code, kind, n_values, value) in enumerate(entry.iter_unpack(entries)):
        place = start + width + i * entry.size
        read = Entry(code, kind, n_values, value + high[4 * i : 4 * i + 4], place)
        if (tag := _read_tag(file, read, layout)) is not None:
            tags[code] = tag
    return Directory(start, end + pointer + len(high) - start, tags, layout), following


def _read_tag(file: ByteFile, entry: Entry, layout: Layout) -> Tag | None:
    code, kind, n_values, value, place = entry
    if not code or not kind:
        raise IncompleteError(f"{file.name} is damaged: a directory has empty entries; {AGAIN}")
    if kind not in SIZES:
        return None  # readers of TIFF pass over what they do not know
    n_bytes = n_values * SIZES[kind]
    if layout.ndpi and (kind, n_values) == (4, 1):
        return Tag(code, LONG8, 1, place, 8, value)
    if n_bytes <= layout.room:
        return Tag(code, kind, n_values, place, n_bytes, value[:n_bytes])
    place = int.from_bytes(value, "little" if layout.order == "<" else "big")
    file.check_range(place, n_bytes)
    if place < HEADER:
        raise IncompleteError(f"{file.name} is damaged: entry {code} has no value; {AGAIN}")
    return Tag(code, kind, n_values, place, n_bytes, None)
