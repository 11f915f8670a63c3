"""Drawn glass slides: procedural H&E colon tissue of three architectures, with its truth.

The plane is painted in blocks whose place and size depend on the scale alone, so whatever
rectangle is asked for is cut from the same blocks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.annotations import Annotation
from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.scanning.virtual.drawing.anatomy import grow_anatomy
from histo_nb.scanning.virtual.drawing.areas import grow_areas, trace
from histo_nb.scanning.virtual.drawing.glands import ARCHITECTURES
from histo_nb.scanning.virtual.drawing.painting import Frame, Painter
from histo_nb.scanning.virtual.drawing.stain import colour, mix_stain
from histo_nb.scanning.virtual.glass import Bump, make_barcode

BLOCK_PX = (512, 256)  # width, height; a strip of stored tiles is one row of blocks
COARSEST_PAINT_UM = 2.0  # coarser views are painted at up to this mpp, then averaged
LEAST_UM = 1200.0  # shortest side of a glass; class areas 1.5 mm wide need about 4000


@dataclass(frozen=True, kw_only=True)
class DrawnSpec:
    """What is drawn on a glass slide."""

    size_um: tuple[float, float] = (6000.0, 4500.0)  # width, height to scan
    classes: tuple[str, ...] = ("normal", "adenoma", "carcinoma")  # benign first
    stain_spread: float = 1.0  # how much stains differ between slides; 0 not at all

    def __post_init__(self) -> None:
        check_positive(width_um=self.size_um[0], height_um=self.size_um[1])
        if min(self.size_um) < LEAST_UM:
            raise SpecError(f"size_um={self.size_um} is too small; each side needs ≥ {LEAST_UM:g}")
        unknown = set(self.classes) - set(ARCHITECTURES)
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            raise SpecError(
                f"classes={self.classes} must name different ones of {tuple(ARCHITECTURES)}"
            )
        if not 0 <= self.stain_spread <= 2:
            raise SpecError(f"stain_spread={self.stain_spread:g} must lie in 0–2")


def draw_glass(
    patient_id: str, *, diagnosis: str, seed: int, spec: DrawnSpec | None = None
) -> "DrawnGlass":
    """Draw one patient's glass slide; the same arguments give the same pixels.

    A slide with a diagnosis other than the benign class is benign in about half of its tissue;
    beside the worst class it sometimes holds some of a class between.

    Raises
    ------
    SpecError
        `diagnosis` is not among the spec's classes, or `seed` is negative.

    >>> glass = draw_glass("P-1", diagnosis="normal", seed=1, spec=DrawnSpec(size_um=(1500, 1200)))
    >>> glass.look(0, 0, size=(8, 4), mpp=0.5).shape
    (4, 8, 3)
    """
    spec = spec or DrawnSpec()
    if diagnosis not in spec.classes:
        raise SpecError(f"diagnosis={diagnosis!r} is unknown; choose one of {spec.classes}")
    if seed < 0:
        raise SpecError(f"seed={seed} must be 0 or more")
    return DrawnGlass(patient_id, diagnosis=diagnosis, seed=seed, spec=spec)


class DrawnGlass:
    """A virtual glass slide with drawn tissue; see `Glass`."""

    def __init__(self, patient_id: str, *, diagnosis: str, seed: int, spec: DrawnSpec) -> None:
        self.patient_id = patient_id
        self.diagnosis = diagnosis
        self.size_um = spec.size_um
        self.barcode = make_barcode(patient_id, diagnosis, seed, spec)
        self.bumps: Sequence[Bump] = ()
        shape_rng, stain_rng, tissue_rng = np.random.default_rng(seed).spawn(3)
        areas = grow_areas(shape_rng, spec.size_um, diagnosis=diagnosis, classes=spec.classes)
        self._truth = trace(areas, spec.classes)
        self._colours = mix_stain(stain_rng, spread=spec.stain_spread).table()
        self._painter = Painter(grow_anatomy(tissue_rng, areas, spec.classes))

    def truth(self) -> list[Annotation]:
        """Return the class outlines in µm; see `Glass.truth`."""
        return list(self._truth)

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`.

        Raises
        ------
        SpecError
            `mpp` or `size` is not above 0.
        """
        check_positive(mpp=mpp, width=size[0], height=size[1])
        view = np.empty((size[1], size[0], 3), np.uint8)
        shrink = max(int(np.ceil(mpp / COARSEST_PAINT_UM - 1e-9)), 1)
        width, height = (max(extent // shrink, 8) for extent in BLOCK_PX)
        for y in range(y_px - y_px % height, y_px + size[1], height):
            for x in range(x_px - x_px % width, x_px + size[0], width):
                block = self._paint(Frame(x, y, width, height, mpp), shrink)
                part = np.s_[
                    max(y - y_px, 0) : y - y_px + height, max(x - x_px, 0) : x - x_px + width
                ]
                rows, columns = view[part].shape[:2]
                dy, dx = max(y_px - y, 0), max(x_px - x, 0)
                view[part] = block[dy : dy + rows, dx : dx + columns]
        return view

    def _paint(self, block: Frame, shrink: int) -> np.ndarray:
        """Return the pixels of one block, painted `shrink` times finer and averaged."""
        size = (block.width, block.height)
        corner = (block.x_px * shrink, block.y_px * shrink)
        fine = Frame(*corner, size[0] * shrink, size[1] * shrink, block.mpp / shrink)
        rgb = colour(*self._painter.paint(fine), self._colours)
        rgb = cv2.subtract(rgb, cv2.merge([self._painter.shade(fine)] * 3))
        if shrink > 1:
            rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        return np.asarray(rgb)
