"""Puts the strips of a scan together: each is moved to where it fits the one above."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from histo_nb.scanning.virtual.optics import MARGIN_PX, OVERLAP_PX, STRIP_PX

WINDOW_PX = 1024  # columns compared, those with the most to see
LEAST_TEXTURE = 2.0  # grey levels, standard deviation; below, there is nothing to compare
LEAST_MATCH = 0.6  # normalised correlation; below, the place is a guess


def stitch(strips: Iterable[np.ndarray], *, size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Yield the rows of a scan from strips that overlap, up to `STRIP_PX` at a time.

    A strip on bare glass, with nothing to be stitched by, stays where the stage says it is; what
    follows is then some px aside, all of it alike.

    Parameters
    ----------
    strips
        (`STRIP_PX` + `OVERLAP_PX` + 2 `MARGIN_PX`, width + 2 `MARGIN_PX`, 3) uint8 RGB each.
    size
        (width, height) of the scan in px.
    """
    width, height = size
    above: np.ndarray | None = None
    x = y = 0  # by how much the stage missed its place
    for number, strip in enumerate(strips):
        if above is not None:
            x, y = _follow((x, y), _find_shift(above, strip[MARGIN_PX : MARGIN_PX + OVERLAP_PX]))
        rows = min(STRIP_PX, height - number * STRIP_PX)
        top, left = OVERLAP_PX // 2 + MARGIN_PX - y, MARGIN_PX - x
        yield strip[top : top + rows, left : left + width]
        above = strip[STRIP_PX + MARGIN_PX : STRIP_PX + MARGIN_PX + OVERLAP_PX]


def _follow(last: tuple[int, int], shift: tuple[int, int] | None) -> tuple[int, int]:
    if shift is None:
        return 0, 0
    x, y = last[0] + shift[0], last[1] + shift[1]
    return (x, y) if max(abs(x), abs(y)) <= MARGIN_PX else (0, 0)


def _find_shift(above: np.ndarray, below: np.ndarray) -> tuple[int, int] | None:
    """Return by how many px (x, y) the same rows lie apart in two strips; None = not seen."""
    above, below = (cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY) for rows in (above, below))
    left = _find_texture(below)
    window = np.s_[left : left + WINDOW_PX]
    template = below[MARGIN_PX:-MARGIN_PX, window][:, MARGIN_PX:-MARGIN_PX]
    if not template.size or template.std() < LEAST_TEXTURE:
        return None
    match = cv2.matchTemplate(above[:, window], template, cv2.TM_CCOEFF_NORMED)
    _, best, _, place = cv2.minMaxLoc(match)
    return (place[0] - MARGIN_PX, place[1] - MARGIN_PX) if best >= LEAST_MATCH else None


def _find_texture(rows: np.ndarray) -> int:
    """Return the first of the `WINDOW_PX` columns that differ most among themselves."""
    lefts = range(0, max(rows.shape[1] - WINDOW_PX, 0) + 1, WINDOW_PX // 2)
    return max(lefts, key=lambda left: float(rows[:, left : left + WINDOW_PX].std()))
