"""What one DICOM instance of a whole-slide image says of itself.

VL Whole Slide Microscopy, PS3.3 A.32.8 and C.8.12.4. Nothing that names a patient is read.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.dicom.walk import PIXEL_DATA, DicomFile, Element
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_images import MAX_LEVEL_PX, MAX_UNIT_PX

MAX_FRAMES = 1 << 21  # a file; 2 million of 256² px are a slide of 370,000² px
WSI_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"  # VL Whole Slide Microscopy Image Storage
IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG2000_SYNTAXES = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
SYNTAXES = (EXPLICIT, JPEG_BASELINE, *JPEG2000_SYNTAXES)  # what OpenSlide 4.0.1 reads
FOREIGN_SYNTAXES = {
    IMPLICIT: "with implicit VR",
    "1.2.840.10008.1.2.1.99": "deflated as a whole",
    "1.2.840.10008.1.2.2": "big endian",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS",
    "1.2.840.10008.1.2.5": "RLE",
}
FOREIGN_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "a CT image",
    "1.2.840.10008.5.1.4.1.1.4": "an MR image",
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.77.1.2": "a single microscope picture",
    "1.2.840.10008.5.1.4.1.1.77.1.3": "a single microscope picture",
    "1.2.840.10008.5.1.4.1.1.91.1": "annotations",
    "1.2.840.10008.1.3.10": "a directory of a disk (DICOMDIR)",
}
KINDS = ("VOLUME", "LABEL", "OVERVIEW", "THUMBNAIL")

META_CLASS, META_SYNTAX = 0x00020002, 0x00020010
IMAGE_TYPE, SOP_CLASS, SOP_UID, SERIES_UID = 0x00080008, 0x00080016, 0x00080018, 0x0020000E
PIXEL_MEASURES, SPACING, SHARED_GROUPS = 0x00289110, 0x00280030, 0x52009229
OPTICAL_PATHS, LENS_POWER, TILING = 0x00480105, 0x00480112, 0x00209311
CONCATENATION, PART, PARTS, FRAME_OFFSET = 0x00209161, 0x00209162, 0x00209163, 0x00209228
SAMPLES, FRAMES, ROWS, COLUMNS, BITS = 0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100
MATRIX_COLUMNS, MATRIX_ROWS, N_PATHS, N_PLANES = 0x00480006, 0x00480007, 0x00480302, 0x00480303


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One file of a series: one level of the pyramid, a part of one, or a picture beside it."""

    path: Path
    sop_uid: str
    series_uid: str
    syntax: str  # transfer syntax UID
    kind: str | None  # of `KINDS`; None = it does not say
    is_resampled: bool  # a coarser level, made from the full resolution
    size: tuple[int, int]  # px of the whole matrix, width × height
    tile: tuple[int, int]  # px of a frame, width × height
    n_frames: int
    n_samples: int
    n_bits: int
    n_layers: int  # optical paths × focal planes
    is_full: bool  # TILED_FULL: every tile is there, in the order of rows
    mpp: float | None  # µm/px; None = unknown
    objective_power: float | None
    concatenation: str | None  # UID shared by the files that make one level
    n_parts: int | None  # files of that level; None = it does not say
    frame_offset: int  # frames before this file's first one

    @property
    def n_tiles(self) -> int:
        """Frames that a full level has."""
        across, down = (-(-s // t) for s, t in zip(self.size, self.tile, strict=True))
        return across * down * self.n_layers


@contextmanager
def open_dicom(path: Path, *, any_kind: bool = False) -> Iterator[DicomFile]:
    """Open a file whose class and encoding are those of a whole-slide image that can be read.

    Parameters
    ----------
    any_kind
        Take other classes and encodings too: enough to tell the series of a file.

    Raises
    ------
    SlideError
        It is something else; a deflated file is refused before a byte of it is inflated.
    """
    with ByteFile(path) as file:
        dicom = DicomFile(file)
        said = {tag: dicom.text(element) for tag, element in dicom.meta.items()}
        syntax = said.get(META_SYNTAX, "")
        if syntax not in SYNTAXES and not any_kind:
            kind = FOREIGN_SYNTAXES.get(syntax, "in a form unknown to us" if syntax else "unnamed")
            raise SlideError(
                f"{file.name} has its data {kind} (transfer syntax {_plain(syntax)}), which slide "
                "readers do not take; send it as JPEG, JPEG 2000 or explicit little endian"
            )
        if not any_kind:
            _check_class(file.name, said.get(META_CLASS, ""))
        dicom.explicit = syntax != IMPLICIT
        yield dicom


def read_uids(path: Path, *, any_kind: bool = False) -> tuple[str, str]:
    """Return an instance's own UID and that of its series; the file may still be growing.

    `any_kind` as for `open_dicom`.

    Raises
    ------
    SlideError
        It has none before its bytes end, or is no whole-slide image.
    """
    uids = {SOP_UID: "", SERIES_UID: ""}
    with open_dicom(path, any_kind=any_kind) as dicom:
        for element in dicom.elements(dicom.start, dicom.file.size):
            if element.tag > SERIES_UID:
                break
            if element.tag == SOP_CLASS and not any_kind:
                _check_class(dicom.file.name, dicom.text(element))
            if element.tag in uids:
                uids[element.tag] = dicom.text(element)
        if not all(uids.values()):
            raise SlideError(f"{dicom.file.name} does not say which series it belongs to")
    return uids[SOP_UID], uids[SERIES_UID]


def read_instance(path: Path) -> Instance:
    """Return what an instance says of itself; its pixels are not looked at.

    Raises
    ------
    SlideError
        It is no whole-slide image, lacks what one has, or claims what none has.
    IncompleteError
        It is cut off or damaged.
    """
    with open_dicom(path) as dicom:
        return describe(dicom, read_elements(dicom))


def read_elements(dicom: DicomFile) -> dict[int, Element]:
    """Return the elements of the data set by tag; all of them, up to the end of the file."""
    found = {e.tag: e for e in dicom.elements(dicom.start, dicom.file.size)}
    if PIXEL_DATA not in found:
        raise IncompleteError(
            f"{dicom.file.name} is cut off, or holds no picture: its pixel data are missing; "
            f"{AGAIN}"
        )
    return found


def describe(dicom: DicomFile, found: dict[int, Element]) -> Instance:
    """Return what an open instance says of itself; see `read_instance`."""
    text = {tag: dicom.text(found[tag]) for tag in (IMAGE_TYPE, TILING) if tag in found}
    uids = [dicom.text(found[tag]) if tag in found else "" for tag in (SOP_UID, SERIES_UID)]
    if not all(uids):
        raise SlideError(f"{dicom.file.name} does not say which series it belongs to")
    _check_class(dicom.file.name, dicom.text(found[SOP_CLASS]) if SOP_CLASS in found else "")
    words = [word.strip() for word in text.get(IMAGE_TYPE, "").split("\\")] + [""] * 4
    instance = Instance(
        path=dicom.file.path,
        sop_uid=uids[0],
        series_uid=uids[1],
        syntax=dicom.text(dicom.meta[META_SYNTAX]),
        kind=words[2] if words[2] in KINDS else None,
        is_resampled=words[3] == "RESAMPLED",
        size=(_number(dicom, found, MATRIX_COLUMNS), _number(dicom, found, MATRIX_ROWS)),
        tile=(_number(dicom, found, COLUMNS), _number(dicom, found, ROWS)),
        n_frames=_number(dicom, found, FRAMES, 1),
        n_samples=_number(dicom, found, SAMPLES, 3),
        n_bits=_number(dicom, found, BITS, 8),
        n_layers=_number(dicom, found, N_PATHS, 1) * _number(dicom, found, N_PLANES, 1),
        is_full=text.get(TILING) == "TILED_FULL",
        mpp=_read_mpp(dicom, found),
        objective_power=_first_decimal(dicom, found, OPTICAL_PATHS, LENS_POWER),
        concatenation=dicom.text(found[CONCATENATION]) if CONCATENATION in found else None,
        n_parts=_number(dicom, found, PARTS, 0) or None,
        frame_offset=_number(dicom, found, FRAME_OFFSET, 0, least=0),
    )
    _check_claims(instance)
    return instance


def _check_class(name: str, sop_class: str) -> None:
    if sop_class != WSI_CLASS:
        kind = FOREIGN_CLASSES.get(sop_class, f"of the DICOM class {_plain(sop_class)}")
        raise SlideError(
            f"{name} is {kind}; a slide is of the class VL Whole Slide Microscopy Image"
        )


def _plain(uid: str) -> str:
    """Return a UID as it may be shown; other text in its place might be a name."""
    return uid if uid and set(uid) <= set("0123456789.") else "of no known name"


def _number(
    dicom: DicomFile, found: dict[int, Element], tag: int, default: int | None = None, *,
    least: int = 1,
) -> int:  # fmt: skip
    value = dicom.number(found[tag]) if tag in found else None
    value = default if value is None else value
    if value is None or (value < least and value != default):
        raise SlideError(
            f"{dicom.file.name} is no whole slide: it lacks the number "
            f"({tag >> 16:04X},{tag & 0xFFFF:04X}); export it again"
        )
    return value


def _first_item(dicom: DicomFile, sequence: Element) -> dict[int, Element]:
    for start, end in dicom.items(sequence, depth=1):
        return {element.tag: element for element in dicom.elements(start, end, depth=2)}
    return {}


def _read_mpp(dicom: DicomFile, found: dict[int, Element]) -> float | None:
    """Return the µm/px that all frames share, the mean of both directions."""
    shared = _first_item(dicom, found[SHARED_GROUPS]) if SHARED_GROUPS in found else {}
    said = _first_decimal(dicom, shared, PIXEL_MEASURES, SPACING)
    return None if said is None else 1000 * said


def _first_decimal(
    dicom: DicomFile, found: dict[int, Element], sequence: int, tag: int
) -> float | None:
    """Return the mean of the decimals that the first item of a sequence says; None = none."""
    item = _first_item(dicom, found[sequence]) if sequence in found else {}
    if tag not in item:
        return None
    try:
        values = [float(word) for word in dicom.text(item[tag]).split("\\")]
    except ValueError:
        return None
    mean = sum(values) / len(values)
    return mean if 0 < mean < 1e6 else None


def _check_claims(instance: Instance) -> None:
    """Refuse what would make a reader ask for more memory than a slide needs."""
    width, height = instance.size
    if instance.n_frames > MAX_FRAMES:
        raise SlideError(
            f"{instance.path.name} claims {instance.n_frames:,} frames, more than any slide; "
            "it is damaged"
        )
    tile_px = instance.tile[0] * instance.tile[1]
    if width * height > MAX_LEVEL_PX or tile_px > MAX_UNIT_PX:
        raise SlideError(
            f"{instance.path.name} claims {width:,} × {height:,} px in frames of "
            f"{instance.tile[0]:,} × {instance.tile[1]:,}, more than any slide; it is damaged"
        )
    if instance.n_bits not in (8, 16) or instance.n_samples not in (1, 3):
        raise SlideError(
            f"{instance.path.name} has {instance.n_samples} colours of {instance.n_bits} bits; "
            "slides have 1 or 3 of 8 or 16 bits: export it again"
        )
