"""Are a DICOM instance's pixel data whole? Frames are counted and their ends looked at."""

import numpy as np

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.dicom.instance import EXPLICIT, JPEG_BASELINE, Instance
from histo_nb.scanning.dicom.walk import PIXEL_DATA, DicomFile, Element
from histo_nb.scanning.structure.bytefile import AGAIN, BLOCK, ByteFile
from histo_nb.scanning.structure.tiff_damage import ZeroJudge
from histo_nb.scanning.structure.tiff_images import JPEG, RAW, Image
from histo_nb.scanning.structure.tiff_segments import check_segments
from histo_nb.scanning.structure.zero_runs import LEAST_RUN

EXTENDED_OFFSETS = 0x7FE00001
PADDING_TAG = 0xFFFCFFFC  # what fills a file up; zeros by right
JPEG2000 = 33005  # as TIFF names it


def check_pixels(
    dicom: DicomFile, found: dict[int, Element], instance: Instance, *, allow_black: bool
) -> None:
    """Raise unless all frames of an instance are in the file, whole by their marks.

    Raises
    ------
    IncompleteError
        Frames are missing, cut off, or were never written.
    SlideError
        A frame claims more pixels than the instance says.
    """
    frames = (
        _plain_frames(dicom, found[PIXEL_DATA], instance)
        if instance.syntax == EXPLICIT
        else _encapsulated_frames(dicom, found, instance)
    )
    image = _as_image(instance, *frames)
    check_segments(dicom.file, image)
    ZeroJudge(dicom.file, [], [image], allow_black=allow_black).check()
    _check_header(dicom.file, found)


def _plain_frames(
    dicom: DicomFile, pixels: Element, instance: Instance
) -> tuple[np.ndarray, np.ndarray]:
    width, height = instance.tile
    n_bytes = width * height * instance.n_samples * instance.n_bits // 8
    found = pixels.end - pixels.start
    if found - n_bytes * instance.n_frames not in (0, 1):  # 1: filled up to an even length
        raise IncompleteError(
            f"{dicom.file.name} is not whole: its {instance.n_frames:,} frames need "
            f"{n_bytes * instance.n_frames:,} bytes, it has {found:,}; {AGAIN}"
        )
    counts = np.full(instance.n_frames, n_bytes, np.int64)
    return pixels.start + np.arange(instance.n_frames, dtype=np.int64) * n_bytes, counts


def _encapsulated_frames(
    dicom: DicomFile, found: dict[int, Element], instance: Instance
) -> tuple[np.ndarray, np.ndarray]:
    """Return place and length of each compressed frame (PS3.5, A.4).

    A frame is one item, or several that follow one another; then the table of offsets says which.
    """
    name, pixels = dicom.file.name, found[PIXEL_DATA]
    if pixels.following == pixels.end:
        raise SlideError(f"{name} is damaged: its compressed frames have no places; {AGAIN}")
    items = np.array(list(dicom.items(pixels)), np.int64).reshape(-1, 2)
    if len(items) < 2:
        raise IncompleteError(f"{name} is not whole: it has no frames; {AGAIN}")
    starts, ends = items[1:].T
    offsets = _read_table(dicom, found, items[0], instance.n_frames)
    if offsets is None:
        offsets = starts - starts[0]
    firsts = np.minimum(np.searchsorted(starts, offsets + starts[0]), len(starts) - 1)
    if offsets[0] != 0 or (offsets + starts[0] != starts[firsts]).any():
        raise IncompleteError(
            f"{name} is damaged: its table of frames does not lead to them; {AGAIN}"
        )
    if len(offsets) < instance.n_frames or (np.diff(firsts) < 1).any():
        raise IncompleteError(
            f"{name} is not whole: it should have {instance.n_frames:,} frames and has "
            f"{len(offsets):,}; {AGAIN}"
        )
    if len(offsets) > instance.n_frames:
        raise SlideError(
            f"{name} has {len(offsets):,} pieces for {instance.n_frames:,} frames; export it again"
        )
    lasts = np.append(firsts[1:], len(starts)) - 1
    return starts[firsts], ends[lasts] - starts[firsts]


def _read_table(
    dicom: DicomFile, found: dict[int, Element], basic: np.ndarray, n_frames: int
) -> np.ndarray | None:
    """Return the offsets of the frames as the file's table says them; None = there is none.

    At most one more than there are frames.
    """
    start, end, kind = int(basic[0]), int(basic[1]), "<u4"
    if element := found.get(EXTENDED_OFFSETS):
        start, end, kind = element.start, element.end, "<u8"
    size = np.dtype(kind).itemsize
    if end - start < size:
        return None
    raw = dicom.file.read(start, min((end - start) // size, n_frames + 1) * size)
    offsets = np.frombuffer(raw, kind)
    return np.minimum(offsets, dicom.file.size).astype(np.int64)


def _as_image(instance: Instance, starts: np.ndarray, counts: np.ndarray) -> Image:
    """Return the frames as the checks of TIFF tiles know them."""
    if instance.syntax == EXPLICIT:
        compression = RAW
    else:
        compression = JPEG if instance.syntax == JPEG_BASELINE else JPEG2000
    return Image(
        number=1,
        size=instance.size,
        unit=instance.tile,
        is_tiled=True,
        n_samples=instance.n_samples,
        n_planes=1,
        n_bits=instance.n_bits,
        compression=compression,
        starts=starts,
        counts=counts,
        jpeg_tables=b"",
        is_ndpi=False,
        is_map=False,
    )


def _check_header(file: ByteFile, found: dict[int, Element]) -> None:
    """Refuse zeros within what the standard defines; private elements may hold what they like."""
    for tag, element in found.items():
        is_private = bool(tag >> 16 & 1)
        if is_private or tag in (PIXEL_DATA, PADDING_TAG):
            continue
        for place in range(element.start, element.end, BLOCK):
            n_bytes = min(BLOCK + LEAST_RUN, element.end - place)
            if (zeros := file.read(place, n_bytes).find(bytes(LEAST_RUN))) >= 0:
                raise IncompleteError(
                    f"{file.name} has a part that was never written: {LEAST_RUN:,} zero bytes or "
                    f"more at byte {place + zeros:,}; {AGAIN}"
                )
