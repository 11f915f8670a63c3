"""The files of slides that are more than one file: MIRAX (.mrxs) and Hamamatsu VMS.

MIRAX: a JPEG picture as main file, and a folder with `Slidedat.ini`, an index and data files, which
hold JPEG, PNG or BMP images one after the other (openslide.org/formats/mirax). VMS: a list of
JPEG files (openslide.org/formats/hamamatsu).
"""

import re

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_images import EOI, SOI
from histo_nb.scanning.structure.tiff_segments import HEAD, PADDING, SCAN, jpeg_marks
from histo_nb.scanning.structure.zero_runs import find_zero_runs

SLIDEDAT = "Slidedat.ini"
LISTS = {SLIDEDAT.lower(): b"[GENERAL]", ".vms": b"[Virtual Microscope Specimen]"}
MAX_LIST_BYTES = 1 << 20  # real lists have up to 50 kB
MIRAX_VERSION = re.compile(rb"\d\d\.\d\d")  # an index or data file begins with it
LOOK_BACK = 1 << 22  # bytes; a stored image is far smaller
IMAGE_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n")
IMAGE_ENDS = (EOI, b"IEND\xaeB`\x82")


def is_companion(file: ByteFile) -> bool:
    """Return whether a file belongs to a MIRAX or VMS slide, by where it lies."""
    folder, suffix = file.path.parent, file.path.suffix.lower()
    if suffix == ".vms" or (folder / SLIDEDAT).is_file():
        return True
    return suffix in (".jpg", ".opt") and any(folder.glob("*.[vV][mM][sS]"))


def check_companion(file: ByteFile, head: bytes) -> None:
    """Raise unless a file of a MIRAX or VMS slide is whole; see `check_structure`."""
    name, suffix = file.name.lower(), file.path.suffix.lower()
    if name == SLIDEDAT.lower() or suffix == ".vms":
        _check_list(file, LISTS[suffix if suffix == ".vms" else name])
    elif suffix == ".jpg":
        check_jpeg_file(file)
    elif suffix == ".dat":
        _check_mirax(file, head, is_index=name.startswith("index"))


def check_jpeg_file(file: ByteFile) -> None:
    """Raise unless a file is one JPEG stream with its beginning, its end and all between."""
    head = file.peek(0, HEAD)
    tail = file.peek(max(file.size - PADDING, 0), PADDING)
    marks = dict(jpeg_marks(file, 0, file.size, head)) if head.startswith(SOI) else {}
    if SCAN not in marks or EOI not in tail:
        raise IncompleteError(f"{file.name} is no whole JPEG picture; {AGAIN}")
    for first, last in find_zero_runs(file):
        if last > marks[SCAN]:  # before it, cameras leave room
            _refuse_zeros(file, first, last)


def _check_list(file: ByteFile, section: bytes) -> None:
    if file.size > MAX_LIST_BYTES:
        raise SlideError(f"{file.name} has {file.size:,} bytes; it is no list of a slide's files")
    text = file.read(0, file.size)
    if section.lower() not in text[:HEAD].lower():
        raise SlideError(f"{file.name} lacks its section {section.decode()}; {AGAIN}")
    if b"\0\0\0\0" in text:  # two of them are a character of UTF-16
        raise IncompleteError(f"{file.name} has a part that was never written; {AGAIN}")


def _check_mirax(file: ByteFile, head: bytes, *, is_index: bool) -> None:
    if not MIRAX_VERSION.match(head):
        raise IncompleteError(f"{file.name} lacks its beginning; {AGAIN}")
    if is_index:  # a list of places: most of it is zeros
        return
    for first, last in find_zero_runs(file):
        if last == file.size or _is_in_image(file, first, last):
            _refuse_zeros(file, first, last)


def _is_in_image(file: ByteFile, first: int, last: int) -> bool:
    """Return whether zeros cut through a JPEG or PNG image of a data file.

    Between images they are true: a list of positions has zeros where nothing was scanned.
    """
    begin = max(first - LOOK_BACK, 0)
    before = file.read(begin, first - begin)
    if max(before.rfind(mark) for mark in IMAGE_STARTS) > max(
        before.rfind(mark) for mark in IMAGE_ENDS
    ):
        return True
    behind = file.peek(last, LOOK_BACK)
    ends = [place for mark in IMAGE_ENDS if (place := behind.find(mark)) >= 0]
    starts = [place for mark in IMAGE_STARTS if (place := behind.find(mark)) >= 0]
    return bool(ends) and min(ends) < min(starts, default=len(behind))


def _refuse_zeros(file: ByteFile, first: int, last: int) -> None:
    raise IncompleteError(
        f"{file.name} has a part that was never written: {last - first:,} zero bytes at byte "
        f"{first:,}; {AGAIN}"
    )
