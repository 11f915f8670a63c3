"""DICOM series of whole-slide images: is an instance whole, is a series complete?

Nothing here decodes a pixel or trusts a number in a file, and no DICOM library is asked: pydicom
takes gigabytes for some small files. OpenSlide takes the `.dcm` files of one folder together, so
a series lies in a folder of its own.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.geometry import POWER_MPP
from histo_nb.scanning.dicom.frames import check_pixels
from histo_nb.scanning.dicom.instance import (
    Instance,
    describe,
    open_dicom,
    read_elements,
    read_instance,
    read_uids,
)

__all__ = [
    "Instance",
    "check_instance",
    "check_scale",
    "check_series",
    "group_series",
    "read_instance",
    "read_uids",
]


def check_instance(path: Path, *, allow_black: bool = False) -> None:
    """Raise unless one file of a series is whole and safe to hand to a reader.

    Parameters
    ----------
    allow_black
        Zeros in uncompressed frames are black areas of the slide, not parts never written.

    Raises
    ------
    IncompleteError
        It is cut off, damaged, lacks frames, or has a part that was never written.
    SlideError
        It is no whole-slide image, is encoded as readers do not take it (deflated among others),
        or claims what no slide has.
    """
    with open_dicom(path) as dicom:
        found = read_elements(dicom)
        check_pixels(dicom, found, describe(dicom, found), allow_black=allow_black)


def check_series(paths: Sequence[Path]) -> None:
    """Raise unless these files are one series that shows a slide in full.

    The files themselves are not looked through: `check_instance` does that.

    Raises
    ------
    IncompleteError
        The full resolution, or a part or a tile of a level, has not arrived.
    SlideError
        They are more than one series, or a file does not say what it shows.
    """
    instances = [read_instance(path) for path in paths]
    series = {instance.series_uid for instance in instances}
    if len(series) != 1:
        raise SlideError(f"the files belong to {len(series)} DICOM series; take in one at a time")
    for instance in instances:
        if instance.kind is None:
            raise SlideError(
                f"{instance.path.name} does not say whether it is a level of the slide, its label "
                "or an overview (Image Type); export it again"
            )
    levels = [instance for instance in instances if instance.kind == "VOLUME"]
    for level in _levels(levels):
        _check_level(level)
    if all(instance.is_resampled for instance in levels):
        raise IncompleteError(
            f"{instances[0].path.name} is of a series without its full-resolution image "
            f"({len(instances)} instances are there); send the whole series"
        )


def check_scale(paths: Sequence[Path]) -> None:
    """Raise `IncompleteError` if the finest image is far coarser than its objective gives.

    That is a series whose full resolution is still to come, though another image claims to be it.
    """
    levels = [i for i in map(read_instance, paths) if i.kind == "VOLUME" and i.mpp]
    finest = min(levels, key=lambda instance: instance.mpp or 0, default=None)
    if finest is None or not finest.objective_power or not finest.mpp:
        return
    if finest.mpp * finest.objective_power > POWER_MPP[1]:
        raise IncompleteError(
            f"{finest.path.name} is the finest image, with {finest.mpp:g} µm/px, and says it was "
            f"scanned at {finest.objective_power:g}x (about {10 / finest.objective_power:g} µm/px)"
            ": the full-resolution image may be missing"
        )


def group_series(folder: Path) -> dict[str, list[Path]]:
    """Return the DICOM files of each series in a folder by its UID.

    A file that tells no series, damaged or just begun, stands alone under its name.
    """
    found: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.[dD][cC][mM]")):
        if path.name.startswith("."):
            continue
        try:
            found[read_uids(path, any_kind=True)[1]].append(path)
        except SlideError:
            found[path.name].append(path)
    return dict(found)


def _levels(instances: Iterable[Instance]) -> list[list[Instance]]:
    """Return the instances by level: those of one concatenation make one."""
    levels: dict[str, list[Instance]] = defaultdict(list)
    for instance in instances:
        levels[instance.concatenation or instance.sop_uid].append(instance)
    return [sorted(level, key=lambda part: part.frame_offset) for level in levels.values()]


def _check_level(parts: list[Instance]) -> None:
    first = parts[0]
    n_frames = sum(part.n_frames for part in parts)
    n_parts = max(part.n_parts or 0 for part in parts) or len(parts)
    offset = 0
    for part in parts:
        if part.concatenation and part.frame_offset != offset:
            raise _lacks(first, f"frames {offset + 1:,} to {part.frame_offset:,}")
        offset += part.n_frames
    if len(parts) < n_parts:
        raise _lacks(first, f"{n_parts - len(parts)} of its {n_parts} parts")
    if first.is_full and n_frames < first.n_tiles:
        raise _lacks(first, f"{first.n_tiles - n_frames:,} of its {first.n_tiles:,} tiles")
    if n_frames > first.n_tiles:
        raise SlideError(
            f"{first.path.name} has {n_frames:,} tiles, more than the {first.n_tiles:,} of an "
            f"image of {first.size[0]} × {first.size[1]} px; export it again"
        )


def _lacks(instance: Instance, what: str) -> IncompleteError:
    return IncompleteError(
        f"{instance.path.name} and its level of {instance.size[0]} × {instance.size[1]} px lack "
        f"{what}; send the whole series"
    )
