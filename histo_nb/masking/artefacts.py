"""What is on a slide and is no tissue: ink, areas never scanned, edges of coverslips.

Pure functions of a thumbnail, lengths in µm.
"""

import cv2
import numpy as np

PEN_UM2 = 15_000.0  # smaller spots of strange colour are pigment or dust; a mask drops them
PEN_WIDTH_UM = 60.0  # thinner lines are the rim of a bubble or a scratch; pens draw 200 and more
PEN_MARGIN_UM = 24.0  # ink fades at its rim
TISSUE_HUE = (120, 178)  # of OpenCV's 0–180: violet to red; haematoxylin and eosin, 240–356°
INK_SATURATION, INK_DARKEST = 70, 235  # of 255; paler or brighter is no ink
BLACK, BLACK_CHROMA = 105, 24  # of 255: black ink is dark in all channels, and grey
LINE_UM = 60.0  # a coverslip's edge is thinner …
LINE_LENGTH_UM = 1500.0  # … and longer; no tissue is both


def find_pen(rgb: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where ink covers the slide: blue, green or black strokes; (H, W) bool.

    Red ink has the hue of eosin and is not told apart.
    """
    hue, saturation, value = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV))
    strange = (hue < TISSUE_HUE[0]) & (hue > 35) & (saturation > INK_SATURATION)
    chroma = cv2.subtract(value, extremes(rgb)[0])
    black = (value < BLACK) & (chroma < BLACK_CHROMA)
    ink = (strange & (value < INK_DARKEST)) | black
    ink &= ~find_unscanned(rgb)
    joined = cv2.morphologyEx(ink.astype(np.uint8), cv2.MORPH_CLOSE, disc(40, mpp))
    strokes = cv2.morphologyEx(joined, cv2.MORPH_OPEN, disc(PEN_WIDTH_UM, mpp))
    kept = keep_large(strokes, PEN_UM2 / mpp**2)
    return cv2.dilate(kept, disc(2 * PEN_MARGIN_UM, mpp)) > 0


def find_unscanned(rgb: np.ndarray) -> np.ndarray:
    """Return what the scanner never saw: pure white or pure black, (H, W) bool."""
    low, high = extremes(rgb)
    never = ((low == 255) | (high == 0)).astype(np.uint8)
    return cv2.morphologyEx(never, cv2.MORPH_OPEN, np.ones((5, 5), np.uint8)) > 0


def drop_lines(mask: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return a mask without long thin straight parts: the edge of a coverslip, a scratch."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    length_um = mpp * np.hypot(stats[:, cv2.CC_STAT_WIDTH], stats[:, cv2.CC_STAT_HEIGHT])
    width_um = mpp**2 * stats[:, cv2.CC_STAT_AREA] / np.maximum(length_um, mpp)
    is_line = (length_um > LINE_LENGTH_UM) & (width_um < LINE_UM)
    is_line[0] = False
    return mask & ~is_line[parts]


def keep_large(mask: np.ndarray, min_area_px: float) -> np.ndarray:
    """Return the 4-connected parts of a uint8 mask that have an area, (H, W) uint8."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask), connectivity=4
    )
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area_px
    keep[0] = False
    return keep[parts].astype(np.uint8)


def extremes(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest channel of each pixel, two (H, W); quicker than NumPy."""
    red, green, blue = cv2.split(image)
    return (
        np.asarray(cv2.min(cv2.min(red, green), blue)),
        np.asarray(cv2.max(cv2.max(red, green), blue)),
    )


def disc(width_um: float, mpp: float) -> np.ndarray:
    """Return a disc of an odd width in px, for morphology; (W, W) uint8."""
    width = max(2 * int(width_um / mpp / 2) + 1, 1)
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
