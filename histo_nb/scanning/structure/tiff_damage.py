"""Decides what a run of zeros means in a TIFF file: a part never written, or a dull picture.

Zeros are suspicious in compressed data, and still they occur: a tile of one colour, compressed
with tables made for it, is a row of the shortest code, and that is zero bits. Such a tile is
asked: deflate by its checksum, JPEG by its tables and by decoding it, JPEG 2000 by where its
zeros lie.
"""

import zlib
from collections.abc import Sequence

import imagecodecs
import numpy as np

from histo_nb.errors import IncompleteError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_images import DEFLATE, EOI, JPEG, JPEG2000, JPEGS, RAW, Image
from histo_nb.scanning.structure.tiff_layout import sort_segments
from histo_nb.scanning.structure.tiff_segments import PADDING, RESTARTS, jpeg_marks
from histo_nb.scanning.structure.tiff_walk import Directory
from histo_nb.scanning.structure.zero_runs import LEAST_RUN, find_zero_runs

EDGE = 8  # bytes; zeros that only touch a segment are its neighbour's, or its last number's
MAX_DECODED = 1 << 30  # bytes of pixels, over all suspicious tiles of a file
CHUNK = 1 << 20
LAST = b"\x55\x55"  # in place of the last two coded bytes; the very last may be half filling
HUFFMAN = 0xC4  # JPEG mark of a part with tables
SEQUENTIAL = {0xC0, 0xC1}  # JPEG marks: baseline, not progressive
PROFILE = 34675
TEXTS = {270, 305, 700, PROFILE}  # description, software, XMP, colour profile: read by readers


class ZeroJudge:
    """Judges runs of zeros against the segments and entries they hit."""

    def __init__(
        self,
        file: ByteFile,
        directories: Sequence[Directory],
        images: Sequence[Image],
        *,
        allow_black: bool,
    ) -> None:
        self.file, self.images, self.allow_black = file, images, allow_black
        self._texts = sorted(
            (tag.start, tag.n_bytes, tag.code)
            for directory in directories
            for tag in directory.tags.values()
            if tag.code in TEXTS and tag.n_bytes >= LEAST_RUN // 2
        )
        self._segments = sort_segments(images)
        self._seen: dict[int, bool] = {}
        self._n_decoded = 0

    def check(self) -> None:
        """Raise `IncompleteError` for the first run of zeros that cannot be true."""
        found = self._segments
        for first, last in find_zero_runs(self.file):
            self._check_texts(first, last)
            low = int(np.searchsorted(found.ends, first, side="right"))
            high = int(np.searchsorted(found.starts, last, side="left"))
            for i in range(low, high):
                image = self.images[found.owners[i]]
                self._check_segment(image, int(found.indices[i]), first, last)

    def _check_segment(self, image: Image, index: int, first: int, last: int) -> None:
        start, count = int(image.starts[index]), int(image.counts[index])
        low, high = max(first - start, 0), min(last - start, count)
        if image.compression == RAW:
            if (
                not (self.allow_black or image.is_map)
                and _visible_bytes(image, index, low, high) > EDGE
            ):
                self._refuse(image, index, last - first, may_be_black=True)
            return
        if image.compression in JPEGS | JPEG2000:  # what follows the end mark is padding
            tail = self.file.peek(start + count - min(count, PADDING), min(count, PADDING))
            high = min(high, count - len(tail) + tail.rfind(EOI) + len(EOI))
        if high - low >= min(EDGE, count) and not self._is_dull(image, index, start, count):
            self._refuse(image, index, last - first)

    def _is_dull(self, image: Image, index: int, start: int, count: int) -> bool:
        """Return whether a compressed segment is whole in spite of its zeros."""
        n_pixels = image.unit_bytes(index)
        if count > 2 * n_pixels + CHUNK:
            return False
        stream = self.file.read(start, count)
        key = hash((stream, image.number))
        if key not in self._seen:
            self._n_decoded += n_pixels
            self._seen[key] = self._n_decoded <= MAX_DECODED and _decide(
                self.file, image, stream, start, n_pixels
            )
        return self._seen[key]

    def _check_texts(self, first: int, last: int) -> None:
        """Refuse zeros that begin or end within a text; a text may be filled up with zeros."""
        for start, n_bytes, code in self._texts:
            if start >= last or start + n_bytes <= first:
                continue
            if first <= start or last < start + n_bytes or code == PROFILE:
                raise IncompleteError(
                    f"{self.file.name} has a part that was never written: {last - first:,} zero "
                    f"bytes in what it says of itself (entry {code}); {AGAIN}"
                )

    def _refuse(self, image: Image, index: int, n: int, *, may_be_black: bool = False) -> None:
        way_out = (
            f"; {AGAIN}; if the slide really has black areas: histo-nb intake --allow-black"
            if may_be_black
            else f"; {AGAIN}"
        )
        raise IncompleteError(
            f"{self.file.name} has a part that was never written: {n:,} zero bytes at tile "
            f"{index + 1:,} of its image {image.number}{way_out}"
        )


def _visible_bytes(image: Image, index: int, low: int, high: int) -> int:
    """Return how many of a segment's bytes `low`–`high` show in the image, uncompressed."""
    width, height = image.visible(index)
    row, shown = image.row_bytes(image.unit[0]), image.row_bytes(width)
    rows = np.arange(low // row, min(-(-high // row), height))
    left = np.maximum(rows * row, low)
    right = np.minimum(rows * row + shown, high)
    return int(np.maximum(right - left, 0).sum())


def _decide(file: ByteFile, image: Image, stream: bytes, start: int, n_pixels: int) -> bool:
    if not stream.strip(b"\0"):
        return False
    if image.compression in DEFLATE:
        return _inflates(stream, n_pixels)
    if image.compression == JPEG:
        return _is_dull_jpeg(file, image, stream, start)
    if image.compression in JPEG2000:
        return _is_empty_codestream(stream)
    return False


def _inflates(stream: bytes, n_pixels: int) -> bool:
    """Return whether deflated data are whole: they have a checksum (Adler-32)."""
    inflater, n_bytes = zlib.decompressobj(), 0
    while not inflater.eof and n_bytes <= n_pixels:
        try:
            part = inflater.decompress(stream, CHUNK)
        except zlib.error:
            return False
        stream = inflater.unconsumed_tail
        n_bytes += len(part)
        if not part and not stream:
            break
    return inflater.eof and n_bytes >= n_pixels


def _is_empty_codestream(stream: bytes) -> bool:
    """Return whether the zeros of JPEG 2000 go up to its end mark: packets that add nothing.

    A layer or a resolution without news is one zero byte; a tile of one colour is hundreds.
    """
    body = stream[: stream.rfind(EOI)]
    return len(body) - len(body.rstrip(b"\0")) >= LEAST_RUN - EDGE and (
        b"\0" * LEAST_RUN not in body.rstrip(b"\0")
    )


def _is_dull_jpeg(file: ByteFile, image: Image, stream: bytes, start: int) -> bool:
    """Return whether a JPEG tile with a run of zeros is whole: one colour, all over or in part.

    Zero bits are the first code of each Huffman table. Only where that means "as before, and
    nothing else" can they be a picture: the standard tables are made otherwise.
    """
    marks = list(jpeg_marks(file, start, len(stream), stream))
    places = [place - start for mark, place in marks if mark == HUFFMAN]
    tables = [stream[place:] for place in places] or [
        image.jpeg_tables[place:] for place in _huffman_places(image.jpeg_tables)
    ]
    firsts = [first for table in tables for first in _first_symbols(table)]
    if not firsts or any(firsts):
        return False
    kinds = {mark for mark, _ in marks}
    if RESTARTS in kinds or not kinds & SEQUENTIAL:  # where damaged data end stays unseen
        return False
    return _is_exact(stream, image)


def _huffman_places(tables: bytes) -> list[int]:
    places, place = [], 2
    while place + 4 <= len(tables) and tables[place] == 0xFF and tables[place + 1] != EOI[1]:
        if tables[place + 1] == HUFFMAN:
            places.append(place + 2)
        place += 2 + int.from_bytes(tables[place + 2 : place + 4], "big")
    return places


def _first_symbols(table: bytes) -> list[int]:
    """Return what the first code of each table in a DHT part stands for (ITU-T T.81, B.2.4.2)."""
    end, place, found = int.from_bytes(table[:2], "big"), 2, []
    while place + 17 < min(end, len(table)):
        n_codes = sum(table[place + 1 : place + 17])
        found.append(table[place + 17])
        place += 17 + n_codes
    return found


def _decode(stream: bytes, image: Image) -> np.ndarray | None:
    try:
        return np.asarray(imagecodecs.jpeg8_decode(stream, tables=image.jpeg_tables or None))
    except (imagecodecs.Jpeg8Error, ValueError, RuntimeError):
        return None


def _is_exact(stream: bytes, image: Image) -> bool:
    """Return whether the coded data of a JPEG go on as long as the picture does.

    Zeros in place of the true bytes stand for far more blocks than those did: the picture ends
    before its data, which decoders pass over. Then other last bytes change nothing.
    """
    end = stream.rfind(EOI) - len(LAST)
    pixels, changed = _decode(stream, image), _decode(stream[:end] + LAST + EOI, image)
    return pixels is not None and changed is not None and not np.array_equal(changed, pixels)
