"""Walks the elements of an unknown DICOM file by their places; no value is read unless asked for.

pydicom builds an object for each element and item it meets: a hostile file of some megabytes takes
gigabytes. Here an element is five numbers, and the steps are counted. The encoding is that of
PS3.5, sections 7 and A: little endian, explicit or implicit VR.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile

PREAMBLE = 128  # bytes before the mark
MARK = b"DICM"
META_GROUP = 0x0002
UNDEFINED = 0xFFFFFFFF  # length: up to the delimiter
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = 0x7FE00010
SHORT = {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN",
         b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"}  # fmt: skip
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
MAX_STEPS = 2_000_000  # elements and items; 100,000 frames described one by one are 1.2 million
MAX_DEPTH = 16  # sequences within sequences
MAX_TEXT = 4096  # bytes of a value that is read as text or numbers


class Element(NamedTuple):
    """One element: `start` and `end` are the bytes of its value, delimiters not included."""

    tag: int
    vr: bytes  # empty where the encoding does not say
    start: int
    end: int
    following: int  # place of the next element


class DicomFile:
    """The data set of a DICOM file; see `ByteFile` for how it is read.

    Raises
    ------
    SlideError
        It is no DICOM file, or its first group is damaged.
    """

    def __init__(self, file: ByteFile) -> None:
        self.file = file
        self._steps = 0
        if file.peek(PREAMBLE, len(MARK)) != MARK:
            raise SlideError(f"{file.name} is no DICOM file: its mark is missing; {AGAIN}")
        self.meta, self.start = self._read_meta()
        self.explicit = True  # the encoding of the data set, as the transfer syntax says

    def elements(
        self, start: int, end: int, *, explicit: bool | None = None, depth: int = 0
    ) -> Iterator[Element]:
        """Yield the elements between two places; tags must rise, as the standard says.

        Raises
        ------
        IncompleteError
            An element lies outside, or the bytes are none.
        """
        explicit = self.explicit if explicit is None else explicit
        last = -1
        while start < end:
            element = self._read_element(start, end, explicit, depth)
            if element.tag <= last:
                raise self._damaged(start)
            yield element
            last, start = element.tag, element.following

    def items(self, sequence: Element, *, depth: int = 0) -> Iterator[tuple[int, int]]:
        """Yield the bytes of each item of a sequence."""
        place = sequence.start
        while place < sequence.end:
            tag, length = self._read_item(place, sequence.end)
            if tag != ITEM:
                raise self._damaged(place)
            start = place + 8
            end = self._end_of_item(start, length, sequence.end, self.explicit, depth)
            yield start, end
            place = end + (8 if length == UNDEFINED else 0)

    def text(self, element: Element) -> str:
        """Return a value as text, without what fills it up to an even length."""
        raw = self.file.read(element.start, min(element.end - element.start, MAX_TEXT))
        return raw.decode("latin-1").strip("\0 ")

    def number(self, element: Element) -> int | None:
        """Return the first whole number of a value, binary or as text; None = it says none."""
        if element.vr in (b"US", b"UL"):
            n_bytes = 2 if element.vr == b"US" else 4
            raw = self.file.peek(element.start, min(n_bytes, element.end - element.start))
            return int.from_bytes(raw, "little") if len(raw) == n_bytes else None
        said = self.text(element).split("\\")[0].strip()
        return int(said) if said.isascii() and said.isdigit() and len(said) <= 12 else None

    # ----------------------------------------------------------------------------- inside
    def _read_meta(self) -> tuple[dict[int, Element], int]:
        start, meta = PREAMBLE + len(MARK), dict[int, Element]()
        while (head := self.file.peek(start, 2)) and head == META_GROUP.to_bytes(2, "little"):
            element = self._read_element(start, self.file.size, True, 0)
            if element.tag in meta:
                raise self._damaged(start)
            meta[element.tag], start = element, element.following
        return meta, start

    def _read_element(self, start: int, end: int, explicit: bool, depth: int) -> Element:
        self._count()
        head = self.file.read(start, 8)
        group, element = struct.unpack("<HH", head[:4])
        tag, vr, value = group << 16 | element, head[4:6], start + 8
        if not explicit:
            vr, length = b"", int.from_bytes(head[4:], "little")
        elif vr in SHORT:
            length = int.from_bytes(head[6:], "little")
        elif vr in LONG:
            length, value = int.from_bytes(self.file.read(start + 8, 4), "little"), start + 12
        else:
            raise self._damaged(start)
        if not tag or group == ITEM >> 16:
            raise self._damaged(start)
        if length != UNDEFINED:
            self._check_inside(value, value + length, end)
            return Element(tag, vr, value, value + length, value + length)
        if vr not in (b"SQ", b"UN", b"OB", b"OW", b""):
            raise self._damaged(start)
        inner = explicit and vr != b"UN"  # PS3.5, 6.2.2: a UN sequence has implicit VR
        stop = self._end_of_sequence(value, end, inner, depth, is_pixels=tag == PIXEL_DATA)
        return Element(tag, vr, value, stop, stop + 8)

    def _end_of_sequence(
        self, place: int, end: int, explicit: bool, depth: int, *, is_pixels: bool
    ) -> int:
        """Return the place of a sequence's delimiter."""
        if depth >= MAX_DEPTH:
            raise SlideError(f"{self.file.name} has sequences {depth} deep; it is damaged")
        while True:
            tag, length = self._read_item(place, end)
            if tag == SEQUENCE_END:
                return place
            if tag != ITEM or (is_pixels and length == UNDEFINED):
                raise self._damaged(place)
            stop = self._end_of_item(place + 8, length, end, explicit, depth)
            place = stop + (8 if length == UNDEFINED else 0)

    def _end_of_item(self, start: int, length: int, end: int, explicit: bool, depth: int) -> int:
        if length != UNDEFINED:
            self._check_inside(start, start + length, end)
            return start + length
        while self.file.read(start, 4) != struct.pack("<HH", ITEM_END >> 16, ITEM_END & 0xFFFF):
            start = self._read_element(start, end, explicit, depth + 1).following
        return start

    def _read_item(self, place: int, end: int) -> tuple[int, int]:
        self._count()
        self._check_inside(place, place + 8, end)
        group, element, length = struct.unpack("<HHI", self.file.read(place, 8))
        return group << 16 | element, length

    def _check_inside(self, start: int, stop: int, end: int) -> None:
        self.file.check_range(start, stop - start)
        if stop > end:
            raise self._damaged(start)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SlideError(
                f"{self.file.name} has more than {MAX_STEPS:,} elements; a slide has far fewer: "
                "it is damaged or no slide"
            )

    def _damaged(self, place: int) -> IncompleteError:
        return IncompleteError(
            f"{self.file.name} is damaged, or was not written to its end: no DICOM element at "
            f"byte {place:,}; {AGAIN}"
        )
