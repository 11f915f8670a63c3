"""The first look at an unknown file: what is it, is it whole, may a reader be let near it?

Nothing here trusts a number in the file, and no reader's library is asked before the numbers were
checked. A flipped bit within a tile passes: only a checksum finds that (`histo-nb verify`).
"""

from pathlib import Path

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.companions import check_companion, check_jpeg_file, is_companion
from histo_nb.scanning.structure.tiff_check import check_tiff
from histo_nb.scanning.structure.tiff_images import SOI
from histo_nb.scanning.structure.tiff_walk import is_tiff

SLIDE_FORMATS = "TIFF, SVS, NDPI, SCN, BIF, MRXS, VMS or DICOM"
PREAMBLE = 128  # bytes before DICOM's mark
HEAD = 512

FOREIGN = {  # how files begin that are no slides
    b"version https://git-lfs": "a placeholder of Git LFS, not the slide itself; run git lfs pull",
    b"\x89PNG": "a PNG picture",
    b"GIF8": "a GIF picture",
    b"BM": "a bitmap picture",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 picture",
    b"\xff\x4f\xff\x51": "a JPEG 2000 picture",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a ZIP archive; unpack it",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"ZISRAWFILE": "a Zeiss CZI file; export it as TIFF or DICOM",
    b"\x89HDF": "an HDF5 file",
}


def check_structure(path: Path, *, allow_black: bool = False) -> None:
    """Raise unless a file of a slide is whole and safe to hand to a reader.

    Takes at most about 0.5 GB of memory whatever the file claims; what is checked per format is
    told in `docs/damage.md`.

    Parameters
    ----------
    allow_black
        Zeros in uncompressed tiles are black areas of the slide, not parts never written.

    Raises
    ------
    IncompleteError
        The file is cut off, damaged, or has a part that was never written.
    SlideError
        It is missing, no slide, or claims what no slide has.
    """
    with ByteFile(path) as file:
        if not file.size:
            raise IncompleteError(f"{file.name} has 0 bytes; {AGAIN}")
        head = file.peek(0, HEAD)
        if is_tiff(head):
            check_tiff(file, allow_black=allow_black)
        elif head[PREAMBLE : PREAMBLE + 4] == b"DICM":
            _check_dicom(file.path, allow_black=allow_black)
        elif is_companion(file):
            check_companion(file, head)
        elif head.startswith(SOI) and file.path.suffix.lower() == ".mrxs":
            check_jpeg_file(file)
        else:
            raise _foreign(file, head)


def _check_dicom(path: Path, *, allow_black: bool) -> None:
    from histo_nb.scanning.dicom.series import check_instance  # noqa: PLC0415 - imports this room

    check_instance(path, allow_black=allow_black)


def _foreign(file: ByteFile, head: bytes) -> SlideError:
    if not head.strip(b"\0"):
        return IncompleteError(
            f"{file.name} begins with zeros: it was not written to its end; {AGAIN}"
        )
    return SlideError(
        f"{file.name} is not a slide: it is {_kind(head)}; a slide is {SLIDE_FORMATS}"
    )


def _kind(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, saved in place of the slide; download it again"
    if text.startswith((b"<?xml", b"<")):
        return "an XML document"
    if head.startswith(SOI):
        return "a JPEG picture alone"
    for start, kind in FOREIGN.items():
        if head.startswith(start):
            return kind
    if all(32 <= byte < 127 or byte in b"\r\n\t" for byte in head):
        return "a text file"
    return "of an unknown kind"
