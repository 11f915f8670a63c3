"""What a virtual glass slide is: a place to look at, in µm, with its truth.

A glass slide is *drawn* (`drawn.py`) or *laid* from real labelled images (`laid.py`).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from histo_nb.annotations import Annotation

GLASS_RGB = (243, 242, 245)  # bare glass under a bright-field lamp, a little off white


@dataclass(frozen=True)
class Bump:
    """A place where the tissue lies off the plane of the glass, and of the scanner's focus."""

    x_um: float
    y_um: float
    radius_um: float
    height_um: float


def make_barcode(*facts: object) -> str:
    """Return the barcode on the label of a glass of which `facts` are true, always the same."""
    return f"HN-2026-{zlib.crc32(repr(facts).encode()):08X}"


class Glass(Protocol):
    """A virtual glass slide. The scanner looks at it strip by strip.

    `look` is a pure function of the place: the same point has the same colour whatever the
    rectangle it is seen in, so that strips and tiles join without a seam.
    """

    patient_id: str  # a pseudonym
    barcode: str  # on its label
    diagnosis: str  # the worst class on the slide
    size_um: tuple[float, float]  # width, height of the area to scan
    bumps: Sequence[Bump]  # none on a flat glass

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle of the plane sampled at `mpp` µm/px.

        `x_px, y_px` is its top-left and `size` its (width, height), both in px at `mpp`; the
        glass's corner is (0, 0).

        Returns
        -------
        (height, width, 3) uint8 RGB.
        """
        ...

    def truth(self) -> list[Annotation]:
        """Return the class outlines in µm from the glass's corner."""
        ...
