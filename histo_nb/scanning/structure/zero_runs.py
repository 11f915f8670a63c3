"""Finds long runs of zero bytes: the parts of a file that were never written."""

from collections.abc import Iterator

import numpy as np

from histo_nb.scanning.structure.bytefile import BLOCK, ByteFile

LEAST_RUN = 1024  # bytes; what disks and copying programs leave unwritten is 4096 or more
TAIL_RUN = 64  # bytes at the very end: of a preallocated file, little may be missing
CELL = 256  # a run of LEAST_RUN covers three of these, aligned


def find_zero_runs(file: ByteFile) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of `LEAST_RUN` zero bytes or more, in order.

    A run at the end of the file counts from `TAIL_RUN` bytes. A run of more than a block comes in
    pieces: what has gigabytes of zeros is refused by the first.
    """
    start = end = 0  # of the run that may go on in the next block
    for place, block in file.blocks():
        for first, last in _runs_of(block):
            if place + first > end:
                if end - start >= LEAST_RUN:
                    yield start, end
                start = place + first
            end = place + last
        if end - start >= BLOCK:
            yield start, end
            start = end
    if end - start >= (TAIL_RUN if end == file.size else LEAST_RUN):
        yield start, end


def _runs_of(block: bytes) -> Iterator[tuple[int, int]]:
    """Yield the runs of a block: all of `LEAST_RUN` or more, and those at either of its ends."""
    head = len(block) - len(block.lstrip(b"\0"))
    if head == len(block):
        yield 0, head
        return
    tail = len(block.rstrip(b"\0"))
    if head:
        yield 0, head
    for first, last in _cell_runs(block):
        if first >= head and last < tail:
            yield _extend(block, first, last)
    if tail < len(block):
        yield tail, len(block)


def _cell_runs(block: bytes) -> Iterator[tuple[int, int]]:
    """Yield groups of at least three neighbouring cells of zeros."""
    n_cells = len(block) // CELL
    words = np.frombuffer(block, np.uint64, count=n_cells * CELL // 8).reshape(n_cells, CELL // 8)
    candidates = np.flatnonzero(words[:, 0] == 0)  # most blocks have hardly any
    cells = candidates[~words[candidates].any(axis=1)]
    groups = np.split(cells, np.flatnonzero(np.diff(cells) > 1) + 1)
    for group in groups:
        if len(group) >= LEAST_RUN // CELL - 1:
            yield int(group[0]) * CELL, (int(group[-1]) + 1) * CELL


def _extend(block: bytes, first: int, last: int) -> tuple[int, int]:
    before = block[max(first - CELL, 0) : first]
    behind = block[last : last + CELL]
    return first - (len(before) - len(before.rstrip(b"\0"))), last + (
        len(behind) - len(behind.lstrip(b"\0"))
    )
