"""Where is tissue on a thumbnail? Methods behind one interface: `(rgb, mpp=…) → bool`.

Each is a pure function of the pixels; lengths are in µm, so that they hold for every scanner.
"""

from typing import Protocol

import cv2
import numpy as np

MEDIAN_UM = 40.0  # noise and dust below that size tell nothing of tissue
SMOOTH_UM = 16.0  # standard deviation
FAINTEST_SATURATION = 10  # of 255; bare glass and paper-white stay below
SURE_SATURATION = 30  # of 255 that no glass has, whatever Otsu says: ink lifts it above tissue
FAINTEST_GREY_STEP = 10  # of 255; tissue is at least this much darker than glass
FAINTEST_DENSITY = 0.03  # optical density; the least that tissue adds to glass
SURE_DENSITY = 0.15  # optical density that no glass has, whatever Otsu says
SEED_NOISE, GROW_NOISE = 12.0, 5.0  # deviations of bare glass: surely tissue, maybe tissue
LEAST_NOISE = 1e-3  # optical density; half a grey level
GLASS_PERCENTILE = 95  # of brightness; a slide has some bare glass


class Method(Protocol):
    """A way to find tissue."""

    def __call__(self, rgb: np.ndarray, *, mpp: float) -> np.ndarray:
        """Return (H, W) bool of (H, W, 3) uint8 RGB at `mpp` µm/px; empty where none is."""
        ...


def otsu_saturation(rgb: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where colour is stronger than Otsu's threshold: stain is coloured, glass is grey.

    The threshold is kept between what tissue has at least and what glass never has.

    Source: CN 113887377 A [0068].
    """
    saturation = _median(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1], mpp)
    threshold, _ = cv2.threshold(saturation, 0, 255, cv2.THRESH_OTSU)
    return saturation > np.clip(threshold, FAINTEST_SATURATION, SURE_SATURATION)


def otsu_grey(rgb: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where the slide is darker than Otsu's threshold; finds unstained dark tissue too."""
    grey = _median(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), mpp)
    threshold, _ = cv2.threshold(grey, 0, 255, cv2.THRESH_OTSU)
    glass = float(np.percentile(grey, 99))
    return grey < min(threshold, glass - FAINTEST_GREY_STEP)


def stain_density(rgb: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return where more light is absorbed than by glass: optical density, summed up (Beer–Lambert).

    Otsu's threshold, kept between what tissue adds at least and what glass never has.
    """
    density = _density(rgb, mpp)
    scaled = np.clip(255 * density / max(float(density.max()), 1e-6), 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(scaled, 0, 255, cv2.THRESH_OTSU)
    threshold = otsu / 255 * float(density.max())
    return density > np.clip(threshold, FAINTEST_DENSITY, SURE_DENSITY)


def hysteresis(rgb: np.ndarray, *, mpp: float) -> np.ndarray:
    """Return what is surely no glass, and all that hangs on to it and may be tissue.

    Both thresholds are multiples of the noise of this slide's own glass, so that faint tissue is
    kept where a threshold between dark and bright would give it up.
    """
    density = _density(rgb, mpp)
    glass = density[density <= FAINTEST_DENSITY]  # the brightest part of a slide is glass
    noise = max(1.4826 * float(np.median(np.abs(glass - np.median(glass)))), LEAST_NOISE)
    maybe = density > max(GROW_NOISE * noise, FAINTEST_DENSITY / 2)
    surely = density > max(SEED_NOISE * noise, FAINTEST_DENSITY)
    _, parts = cv2.connectedComponents(maybe.astype(np.uint8), connectivity=8)
    kept = np.zeros(int(parts.max()) + 1, bool)
    kept[np.unique(parts[surely & maybe])] = True
    kept[0] = False
    return kept[parts]


METHODS: dict[str, Method] = {
    "otsu_saturation": otsu_saturation,
    "otsu_grey": otsu_grey,
    "hysteresis": hysteresis,
    "stain_density": stain_density,
}


def _median(plane: np.ndarray, mpp: float) -> np.ndarray:
    width = max(2 * round(MEDIAN_UM / mpp / 2) + 1, 3)
    return np.asarray(cv2.medianBlur(plane, min(width, 31)))


def _density(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Return the optical density over this slide's glass, mean of the channels, smoothed."""
    smooth = cv2.GaussianBlur(rgb, (0, 0), max(SMOOTH_UM / mpp, 0.3)).astype(np.float32)
    bright = smooth.mean(axis=2)
    glass = smooth[bright >= np.percentile(bright, GLASS_PERCENTILE)].mean(axis=0)
    return -np.log10(np.clip(smooth, 1, None) / np.maximum(glass, 1)).mean(axis=2)
