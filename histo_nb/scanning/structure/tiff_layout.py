"""How a TIFF file's parts lie in it: segments apart from each other, nothing large unaccounted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.structure.bytefile import AGAIN, ByteFile
from histo_nb.scanning.structure.tiff_images import Image
from histo_nb.scanning.structure.tiff_walk import Directory

# Bytes that nothing refers to: alignment, and what a rewritten directory or a deleted label image
# left behind. More means that a directory lost those that follow it.
MAX_TAIL, MAX_TAIL_SHARE = 1 << 16, 0.01
MAX_HOLES, MAX_HOLES_SHARE = 1 << 20, 0.05


@dataclass(frozen=True, eq=False)
class Segments:
    """All stored segments of a file in the order of their places, as parallel arrays."""

    starts: np.ndarray
    ends: np.ndarray
    owners: np.ndarray  # position of the image among the images
    indices: np.ndarray  # position among the image's segments


def sort_segments(images: Sequence[Image]) -> Segments:
    """Return the segments of all images in the order of the file."""
    starts = np.concatenate([image.starts for image in images])
    counts = np.concatenate([image.counts for image in images])
    owners = np.repeat(np.arange(len(images)), [len(image.starts) for image in images])
    indices = np.concatenate([np.arange(len(image.starts)) for image in images])
    order = np.lexsort((counts, starts))
    order = order[counts[order] > 0]
    return Segments(starts[order], (starts + counts)[order], owners[order], indices[order])


def check_layout(file: ByteFile, directories: Sequence[Directory], images: Sequence[Image]) -> None:
    """Raise unless the segments lie apart and directories and segments fill the file.

    Segments that are the same bytes are allowed: some writers store one white tile for all.

    Raises
    ------
    SlideError
        Segments overlap in part.
    IncompleteError
        A large part of the file belongs to nothing.
    """
    segments = sort_segments(images)
    starts, ends = segments.starts, segments.ends
    same = (starts[1:] == starts[:-1]) & (ends[1:] == ends[:-1])
    overlaps = int(((starts[1:] < ends[:-1]) & ~same).sum())
    if overlaps:
        raise SlideError(
            f"{file.name} is damaged: {overlaps:,} of its tiles share bytes with another; {AGAIN}"
        )
    holes, tail = _unaccounted(file, directories, segments)
    if tail > max(MAX_TAIL, MAX_TAIL_SHARE * file.size):
        raise IncompleteError(
            f"{file.name} is not whole: nothing refers to its last {tail:,} bytes, so what tells "
            f"of them was never written; {AGAIN}"
        )
    if holes > max(MAX_HOLES, MAX_HOLES_SHARE * file.size):
        raise IncompleteError(
            f"{file.name} is not whole: nothing refers to {holes:,} of its {file.size:,} bytes; "
            f"{AGAIN}"
        )


def _unaccounted(
    file: ByteFile, directories: Sequence[Directory], segments: Segments
) -> tuple[int, int]:
    """Return how many bytes before and behind the last accounted one belong to nothing."""
    parts = [(0, 16)]
    parts += [(d.start, d.start + d.n_bytes) for d in directories]
    parts += [(t.start, t.start + t.n_bytes) for d in directories for t in d.tags.values()]
    others = np.array(parts, np.int64)
    starts = np.concatenate([others[:, 0], segments.starts])
    ends = np.concatenate([others[:, 1], segments.ends])
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(ends[order])
    holes = np.maximum(starts[order][1:] - reached[:-1], 0)
    return int(holes.sum()), file.size - int(min(reached[-1], file.size))
