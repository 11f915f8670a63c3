"""What a data scientist should look at before trusting a slide: numbers, and flags made of them.

Nothing is dropped here: flags are columns, the caller decides.
"""

from dataclasses import dataclass, fields

import cv2
import numpy as np

from histo_nb.masking.artefacts import disc, extremes, find_unscanned

BORDER_UM = 40.0  # along the rim of the scanned area
DARKER, DARK = 1.75, 1.5  # × the tissue's median optical density: a fold has about twice of it
MOST_GREY = 0.6  # lowest over highest density of the channels; of H&E it is 0.3–0.5
LEAST_DENSITY = 0.01  # of anything that was stained
FOLD_TURN = 4.0  # degrees; twice the same tissue has its stains' proportion, another tissue has not
AROUND_UM = 200.0  # of a fold: tissue that lies once
FOLD_UM2, FOLD_CORE_UM2 = 15_000.0, 3_000.0  # smaller dark spots are nuclei, pigment or blood
RIM_GREY, RIM_DENSITY = 0.7, 0.15  # a bubble's rim darkens all colours alike, by a third at least
BUBBLE_UM, BUBBLE_ROUND = 300.0, 0.5  # least width; least 4πA/P², 1 = a circle
BUBBLE_MARGIN_UM = 48.0  # its rim casts a shadow
FOCUS_UM = 250.0  # side of the cells in which sharpness is measured
TILE_FOCUS_MPP = 2.0  # µm/px; finer differences than this are noise of the scan
SPECK_UM2 = 150_000.0  # a smaller island of tissue is a speck
SOFT = 0.45  # × the slide's own median sharpness: out of focus


@dataclass(frozen=True, kw_only=True)
class QualityRule:
    """From which value on a slide is flagged."""

    max_pen: float = 0.002  # share of the slide under ink
    max_fold: float = 0.002  # share of the tissue
    max_bubble: float = 0.0  # share of the slide under air
    max_soft: float = 0.02  # share of the tissue that is out of focus
    max_border: float = 0.02  # share of the scan's rim that is tissue
    min_density: float = 0.09  # optical density of tissue; paler is faint
    min_tissue: float = 0.01  # share of the slide
    max_tissue: float = 0.9
    max_specks: int = 20  # of a broken-up mask; a biopsy has fewer


@dataclass(frozen=True, kw_only=True)
class Quality:
    """Measures of one slide; see `QualityRule` for their meaning."""

    pen: float
    fold: float
    bubble: float
    soft: float  # NaN = not measured
    border: float
    density: float  # median over the tissue; 0 without tissue
    tissue: float
    specks: int  # islands below 0.15 mm²

    def flags(self, rule: QualityRule | None = None) -> list[str]:
        """Return the names of what is wrong, the most suspicious first; all are in `FLAGS`."""
        rule = rule or QualityRule()
        wrong = {
            "no tissue": self.tissue == 0,
            "almost all tissue": self.tissue > rule.max_tissue,
            "pen": self.pen > rule.max_pen,
            "faint": 0 < self.density < rule.min_density,
            "many specks": self.specks > rule.max_specks,
            "almost empty": 0 < self.tissue < rule.min_tissue,
            "fold": self.fold > rule.max_fold,
            "bubble": self.bubble > rule.max_bubble,
            "out of focus": self.soft > rule.max_soft,
            "cut by the scan's border": self.border > rule.max_border,
        }
        return [name for name, is_wrong in wrong.items() if is_wrong]


FLAGS = (
    *("no tissue", "almost all tissue", "pen", "faint", "many specks", "almost empty", "fold"),
    *("bubble", "out of focus", "cut by the scan's border"),
)
MEASURES = tuple(field.name for field in fields(Quality))


def measure_quality(
    rgb: np.ndarray,
    tissue: np.ndarray,
    pen: np.ndarray,
    *,
    mpp: float,
    sharpness: np.ndarray | None = None,
) -> Quality:
    """Measure a slide on its thumbnail.

    Parameters
    ----------
    rgb
        (H, W, 3) uint8 at `mpp` µm/px.
    tissue, pen
        (H, W) bool; see `find_pen`.
    sharpness
        (rows, columns) of `measure_sharpness`; without it `soft` is not measured.
    """
    absorbed = -np.log10((rgb.astype(np.float32) + 1) / 256)
    absorbed -= np.percentile(absorbed.reshape(-1, 3), 5, axis=0).astype(np.float32)  # glass
    bubble = find_bubbles(absorbed, pen, mpp=mpp)
    absorbed = cv2.GaussianBlur(absorbed, (0, 0), 16 / mpp)
    usual = float(np.median(absorbed[tissue].mean(axis=1))) if tissue.any() else 0.0
    n_tissue = max(int(tissue.sum()), 1)
    return Quality(
        pen=float(pen.mean()),
        fold=float(find_folds(absorbed, tissue & ~bubble, mpp=mpp).sum()) / n_tissue,
        bubble=float(bubble.mean()),
        soft=_soft_share(sharpness),
        border=_border_share(rgb, tissue, mpp=mpp),
        density=usual,
        tissue=float(tissue.mean()),
        specks=_count_specks(tissue, mpp=mpp),
    )


def find_folds(absorbed: np.ndarray, tissue: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where tissue is about twice as dense as usual: it lies there twice over.

    What darkens all colours alike is no dye: the rim of a bubble, a shadow. What is dense and of
    another colour than its surroundings is another tissue: epidermis on dermis.

    Parameters
    ----------
    absorbed
        (H, W, 3) optical density over glass.
    """
    if not tissue.any():
        return np.zeros_like(tissue)
    usual = float(np.median(absorbed[tissue].mean(axis=1)))
    density = absorbed.mean(axis=2) / max(usual, LEAST_DENSITY)
    low, high = extremes(absorbed)
    is_dye = low < MOST_GREY * high
    maybe = tissue & is_dye & (density > DARK)
    _, parts, stats, _ = cv2.connectedComponentsWithStats(maybe.astype(np.uint8), connectivity=8)
    core_px = np.bincount(parts[maybe & (density > DARKER)], minlength=len(stats))
    is_fold = core_px >= FOLD_CORE_UM2 / mpp**2
    is_fold &= stats[:, cv2.CC_STAT_AREA] >= FOLD_UM2 / mpp**2
    is_fold[0] = False
    for number in np.flatnonzero(is_fold):
        left, top, width, height, _ = stats[number]
        margin = int(AROUND_UM / mpp) + 1
        window = (
            slice(max(top - margin, 0), top + height + margin),
            slice(max(left - margin, 0), left + width + margin),
        )
        dark = parts[window] == number
        once = tissue[window] & ~maybe[window]
        is_fold[number] = _turn(absorbed[window], dark, once) < FOLD_TURN
    return is_fold[parts]


def _turn(absorbed: np.ndarray, dark: np.ndarray, once: np.ndarray) -> float:
    """Return the angle (degrees) between the colours, as optical densities, of two areas."""
    if not once.any():
        return 0.0
    first, second = (np.median(absorbed[area], axis=0) for area in (dark, once))
    cosine = first @ second / max(float(np.linalg.norm(first) * np.linalg.norm(second)), 1e-9)
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def find_bubbles(absorbed: np.ndarray, pen: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where air lies under the coverslip: what a dark grey rim encloses, and the rim.

    Parameters
    ----------
    absorbed
        (H, W, 3) optical density over glass.
    pen
        (H, W) bool; ink is dark and grey too.
    """
    fine = cv2.GaussianBlur(absorbed, (0, 0), max(8 / mpp, 0.3))
    low, high = extremes(fine)
    rim = (low > RIM_DENSITY) & (low > RIM_GREY * high) & ~pen
    closed = cv2.morphologyEx(rim.astype(np.uint8), cv2.MORPH_CLOSE, disc(40, mpp))
    outlines, tree = cv2.findContours(closed, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = np.zeros(pen.shape, np.uint8)
    for outline, (_, _, _, parent) in zip(outlines, [] if tree is None else tree[0], strict=True):
        area, around = cv2.contourArea(outline), max(cv2.arcLength(outline, True), 1)
        is_wide = area > np.pi * (BUBBLE_UM / mpp / 2) ** 2
        if parent >= 0 and is_wide and 4 * np.pi * area / around**2 > BUBBLE_ROUND:
            cv2.drawContours(found, [outline], -1, 1, thickness=-1)
    return cv2.dilate(found, disc(2 * BUBBLE_MARGIN_UM, mpp)) > 0


def measure_sharpness(rgb: np.ndarray, tissue: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return the sharpness of each cell of `FOCUS_UM`; NaN where there is little tissue.

    The energy of the Laplacian over that of the picture: contrast and stain cancel out.

    Parameters
    ----------
    rgb
        (H, W, 3) uint8 at `mpp`, finer than 3 µm/px.
    tissue
        (h, w) bool over the same area, at any scale.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    edges = cv2.Laplacian(grey, cv2.CV_32F) ** 2
    contrast = (grey - cv2.blur(grey, (15, 15))) ** 2
    shape = [max(round(side * mpp / FOCUS_UM), 1) for side in grey.shape]
    size = (shape[1], shape[0])
    energy, spread, share = (
        cv2.resize(plane, size, interpolation=cv2.INTER_AREA)
        for plane in (edges, contrast, tissue.astype(np.float32))
    )
    sharp = energy / np.maximum(spread, 1.0)
    sharp[share < 0.5] = np.nan
    return np.asarray(sharp)


def tile_sharpness(tile: np.ndarray, *, mpp: float) -> float:
    """Return the sharpness of one tile, as `measure_sharpness` does of a cell.

    Parameters
    ----------
    tile
        (S, S, 3) uint8 at `mpp` µm/px; looked at with at least 2 µm/px.
    """
    step = max(int(TILE_FOCUS_MPP / mpp), 1)
    side = max(tile.shape[0] // step, 1)
    grey = cv2.cvtColor(tile, cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    edges = cv2.Laplacian(grey, cv2.CV_32F)
    contrast = grey - cv2.blur(grey, (15, 15))
    return float(cv2.norm(edges, cv2.NORM_L2SQR) / max(cv2.norm(contrast, cv2.NORM_L2SQR), side**2))


def find_soft(sharpness: np.ndarray) -> np.ndarray:
    """Return which cells are far less sharp than this slide's own median, (rows, columns) bool."""
    known = sharpness[~np.isnan(sharpness)]
    if not known.size:
        return np.zeros(sharpness.shape, bool)
    return sharpness < SOFT * float(np.median(known))


def _soft_share(sharpness: np.ndarray | None) -> float:
    if sharpness is None or np.isnan(sharpness).all():
        return float("nan")
    return float(find_soft(sharpness).sum() / (~np.isnan(sharpness)).sum())


def _border_share(rgb: np.ndarray, tissue: np.ndarray, *, mpp: float) -> float:
    """Return the share of the scanned area's rim that is tissue."""
    scanned = (~find_unscanned(rgb)).astype(np.uint8)
    width = max(2 * round(BORDER_UM / mpp / 2) + 1, 3)
    inner = cv2.erode(scanned, np.ones((width, width), np.uint8), borderValue=0)
    rim = (scanned > 0) & (inner == 0)
    return float(tissue[rim].mean()) if rim.any() else 0.0


def _count_specks(tissue: np.ndarray, *, mpp: float) -> int:
    _, _, stats, _ = cv2.connectedComponentsWithStats(tissue.astype(np.uint8), connectivity=8)
    return int((stats[1:, cv2.CC_STAT_AREA] < SPECK_UM2 / mpp**2).sum())
