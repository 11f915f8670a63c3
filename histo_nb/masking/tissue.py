"""Finds tissue on a thumbnail: a threshold method, then morphology in µm."""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from histo_nb.errors import NoTissueError, SpecError
from histo_nb.geometry import check_positive
from histo_nb.masking.artefacts import drop_lines, find_pen, find_unscanned, keep_large
from histo_nb.masking.methods import METHODS
from histo_nb.masking.quality import Quality, find_soft, measure_quality, measure_sharpness
from histo_nb.slide import Slide

FOCUS_MPP, COARSEST_FOCUS_MPP = 2.0, 3.0  # µm/px; coarser pictures are sharp wherever they are
MOST_FOCUS_PX = 60_000_000
LARGEST = {"open_um": 2000.0, "close_um": 2000.0, "min_speck_um2": 1e9, "min_hole_um2": 1e9}


@dataclass(frozen=True, kw_only=True)
class MaskSpec:
    """How tissue is found. Lengths in µm, areas in µm², so that they hold for every scanner."""

    method: str = "otsu_saturation"
    mask_mpp: float = 8.0  # µm/px of the mask
    open_um: float = 16.0  # strands thinner than this go: dust, scratches
    close_um: float = 60.0  # gaps narrower than this are tissue: lumina, fat, cracks
    min_speck_um2: float = 20_000.0  # smaller islands go
    min_hole_um2: float = 20_000.0  # smaller holes are filled
    without_pen: bool = True  # leave out what ink covers

    def __post_init__(self) -> None:
        check_positive(mask_mpp=self.mask_mpp)
        for name, most in LARGEST.items():
            if not 0 <= getattr(self, name) <= most:  # NaN is not either
                raise SpecError(f"{name}={getattr(self, name)} must be 0 to {most:g}")
        if self.method not in METHODS:
            raise SpecError(f"method={self.method!r} is unknown; choose one of {sorted(METHODS)}")


@dataclass(frozen=True)
class TissueMask:
    """Tissue or not, with its scale."""

    array: np.ndarray  # (H, W) bool
    downsample: float  # relative to level 0
    slide_mpp: float  # µm/px of level 0
    pen: np.ndarray | None = None  # (H, W) bool, under ink; None = not measured
    soft: np.ndarray | None = None  # (H, W) bool, out of focus; None = not measured
    quality: Quality | None = None  # None = not measured
    edited_by: str | None = None  # who corrected it by hand
    edited_at: str | None = None  # ISO 8601, UTC

    @property
    def tissue_mm2(self) -> float:
        """Area of the tissue."""
        return float(self.array.sum()) * (self.downsample * self.slide_mpp / 1000) ** 2

    @property
    def bounds_l0(self) -> tuple[int, int, int, int]:
        """`x, y, width, height` of the tissue in level-0 px.

        Raises
        ------
        NoTissueError
            There is none.
        """
        rows, columns = np.flatnonzero(self.array.any(1)), np.flatnonzero(self.array.any(0))
        if not rows.size:
            raise NoTissueError("no tissue was found; look at the mask, try another method")
        edges = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * self.downsample
        x, y, right, bottom = (round(edge) for edge in edges)
        return x, y, right - x, bottom - y


def find_tissue(
    rgb: np.ndarray, *, mpp: float, spec: MaskSpec, pen: np.ndarray | None = None
) -> np.ndarray:
    """Return the tissue of a thumbnail at `mpp` µm/px: threshold, open, close, specks, holes, ink.

    Parameters
    ----------
    rgb
        (H, W, 3) uint8.

    Returns
    -------
    (H, W) bool. Source: CN 113887377 A [0068].
    """
    found = METHODS[spec.method](rgb, mpp=mpp) & ~find_unscanned(rgb)
    cleaned = clean_mask(drop_lines(found, mpp=mpp), mpp=mpp, spec=spec)
    if not spec.without_pen:
        return cleaned
    return cleaned & ~(find_pen(rgb, mpp=mpp) if pen is None else pen)


def clean_mask(mask: np.ndarray, *, mpp: float, spec: MaskSpec) -> np.ndarray:
    """Return a (H, W) bool mask after opening, closing, speck removal and hole filling."""
    cleaned = mask.astype(np.uint8)
    for operation, width_um in ((cv2.MORPH_OPEN, spec.open_um), (cv2.MORPH_CLOSE, spec.close_um)):
        width = int(width_um / mpp / 2) * 2 + 1  # odd: an even one shifts the mask
        if width > 1:
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
            padded = cv2.copyMakeBorder(cleaned, width, width, width, width, cv2.BORDER_REPLICATE)
            cleaned = cv2.morphologyEx(padded, operation, disc)[width:-width, width:-width]
    kept = keep_large(cleaned, spec.min_speck_um2 / mpp**2)
    holes = keep_large(1 - kept, spec.min_hole_um2 / mpp**2)
    return holes == 0


def mask_slide(slide: Slide, *, spec: MaskSpec, measure: bool = True) -> TissueMask:
    """Find the tissue of one open slide inside its scanned bounds, and where ink is.

    `measure` adds its quality, which takes longer than all else: sharpness needs a finer picture.
    """
    thumbnail, downsample = slide.thumbnail(mpp=spec.mask_mpp)
    mask = mask_thumbnail(thumbnail, downsample, slide.slide_mpp, slide.bounds, spec=spec)
    return measure_slide(slide, mask, thumbnail=thumbnail) if measure else mask


def mask_thumbnail(
    rgb: np.ndarray,
    downsample: float,
    slide_mpp: float,
    bounds: tuple[int, int, int, int],
    *,
    spec: MaskSpec,
) -> TissueMask:
    """Find tissue and ink on a slide's thumbnail inside its scanned `bounds` (level-0 px)."""
    mpp = downsample * slide_mpp
    pen = find_pen(rgb, mpp=mpp)
    array = find_tissue(rgb, mpp=mpp, spec=spec, pen=pen)
    x, y, width, height = (edge / downsample for edge in bounds)
    scanned = np.zeros_like(array)
    scanned[round(y) : round(y + height) + 1, round(x) : round(x + width) + 1] = True
    return TissueMask(array & scanned, downsample, slide_mpp, pen)


def measure_slide(slide: Slide, mask: TissueMask, *, thumbnail: np.ndarray) -> TissueMask:
    """Return a mask with the quality of its open slide, and where that is poor.

    Sharpness is measured at about 2 µm/px; on slides too large for that it is unknown.

    Parameters
    ----------
    thumbnail
        (H, W, 3) uint8, the slide at the mask's own scale.
    """
    area_um2 = slide.size[0] * slide.size[1] * mask.slide_mpp**2
    focus_mpp = max(FOCUS_MPP, (area_um2 / MOST_FOCUS_PX) ** 0.5)
    sharpness = soft = None
    if focus_mpp <= COARSEST_FOCUS_MPP:
        fine, at = slide.thumbnail(mpp=focus_mpp)
        sharpness = measure_sharpness(fine, mask.array, mpp=at * mask.slide_mpp)
        size = mask.array.shape[1], mask.array.shape[0]
        cells = find_soft(sharpness).astype(np.uint8)
        soft = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST) > 0
    mpp = mask.downsample * mask.slide_mpp
    pen = find_pen(thumbnail, mpp=mpp) if mask.pen is None else mask.pen
    quality = measure_quality(thumbnail, mask.array, pen, mpp=mpp, sharpness=sharpness)
    return replace(mask, pen=pen, soft=soft, quality=quality)
