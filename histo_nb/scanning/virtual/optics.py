"""What the virtual scanner's camera sees of a glass slide, strip by strip.

The stage misses its place by some px, the field is darker at its rim, the sensor adds noise, and
what lies off the focal plane is blurred. All of it follows from the glass and the scanner's seed.
"""

import zlib

import cv2
import numpy as np

from histo_nb.errors import ScannerError
from histo_nb.scanning.virtual.glass import Glass

STRIP_PX = 256  # new rows of a strip
OVERLAP_PX = 64  # rows that two strips share, by which they are stitched
JITTER_PX = 3  # the stage misses its place by up to so much, both ways
MARGIN_PX = 2 * JITTER_PX  # seen beyond a strip; two strips lie apart by up to so much
VIGNETTING = 0.15  # light lost at the rim of the field
NOISE = 0.5  # grey levels of 255, standard deviation of the sensor
WHITE_FRAMES = 64  # averaged to measure the field's brightness

FOCUS_PITCH_UM = 1500.0  # between two focus points
FOCUS_NOISE_UM = 0.1  # standard deviation of a focus point
FOCUS_OUTLIER_UM = 2.0  # a point this far off the plane lies on dust or a bubble
TILT = 5e-4  # µm a µm; the slide holder is level to 0.03°
DEPTH_UM = 1.0  # depth of field, λ/NA² at 20x/0.75
BLUR = 0.56  # px of blur (σ) a µm of defocus, at 1 µm/px; half the radius NA/√(1−NA²) of the cone
BLURS = (2.0, 4.0, 8.0)  # σ in px between which is blended
REACH_PX = 24  # px from which the widest blur takes light; less than half the overlap
CHUNK_PX = 1024  # columns worked on at a time


class Camera:
    """The camera over one glass slide; everything is a function of the strip's number.

    Raises
    ------
    ScannerError
        No focal plane is found (fault "focus").
    """

    def __init__(self, glass: Glass, *, mpp: float, seed: int) -> None:
        self._glass, self._mpp = glass, mpp
        self._seed = (seed, zlib.crc32(glass.barcode.encode()))
        rng = np.random.default_rng(self._seed)
        self._tilt = rng.normal(0, TILT, 2)
        self._plane = _fit_plane(*self._measure_focus(rng))
        field = np.linspace(-1, 1, STRIP_PX + OVERLAP_PX + 2 * MARGIN_PX)
        self._light = (1 - VIGNETTING * field**2).astype(np.float32)
        seen_white = rng.normal(self._light, NOISE / 255 / WHITE_FRAMES**0.5)
        self._flat = (1 / seen_white).astype(np.float32)

    def jitter(self, number: int) -> tuple[int, int]:
        """Return by how many px (x, y) the stage misses the place of a strip; nobody is told."""
        if number == 0:  # the strip that all others are stitched to
            return 0, 0
        x, y = np.random.default_rng((*self._seed, number)).integers(-JITTER_PX, JITTER_PX + 1, 2)
        return int(x), int(y)

    def expose(self, number: int, view: np.ndarray) -> np.ndarray:
        """Return a strip as the sensor sees it, its field made even again.

        Parameters
        ----------
        view
            (`STRIP_PX` + `OVERLAP_PX` + 2 `MARGIN_PX`, W, 3) uint8 RGB, the sharp glass.

        Returns
        -------
        (as `view`) uint8 RGB.
        """
        seen = np.empty_like(view)
        rng = np.random.default_rng((*self._seed, number, 1))
        noise = rng.standard_normal((len(view), CHUNK_PX, 3), np.float32)
        noise *= NOISE * self._flat[:, None, None]
        even = (self._light * self._flat)[:, None, None]
        for left in range(0, view.shape[1], CHUNK_PX):
            part = self._defocused(number, view, left)
            exposed = part * even
            exposed += noise[:, : part.shape[1]]
            seen[:, left : left + CHUNK_PX] = cv2.convertScaleAbs(exposed)  # rounds, cuts at 255
        return seen

    # ------------------------------------------------------------------------------ focus
    def _height(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Return the height in µm of what lies on the glass, at places in µm."""
        height = self._tilt[0] * x + self._tilt[1] * y
        for bump in self._glass.bumps:
            away = np.hypot(x - bump.x_um, y - bump.y_um) / bump.radius_um
            height = height + bump.height_um * np.exp(-(away**4))
        return height

    def _measure_focus(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return places (n, 2) and heights (n,) in µm of the focus points."""
        counts = [max(round(extent / FOCUS_PITCH_UM), 3) for extent in self._glass.size_um]
        axes = [
            (np.arange(n) + 0.5) * extent / n
            for n, extent in zip(counts, self._glass.size_um, strict=True)
        ]
        x, y = (axis.ravel() for axis in np.meshgrid(*axes))
        return np.stack([x, y], axis=1), self._height(x, y) + rng.normal(0, FOCUS_NOISE_UM, x.shape)

    def _defocused(self, number: int, view: np.ndarray, left: int) -> np.ndarray:
        """Return columns of a view as the lens shows them, uint8 or float32."""
        right = min(left + CHUNK_PX, view.shape[1])
        sharp = view[:, left:right]
        if not self._glass.bumps:  # the plane fits all of it
            return sharp
        x = (np.arange(left, right, dtype=np.float32) - MARGIN_PX) * self._mpp
        y = (np.arange(len(view)) + number * STRIP_PX - OVERLAP_PX / 2 - MARGIN_PX) * self._mpp
        x, y = x[None], y[:, None].astype(np.float32)
        plane = self._plane[0] * x + self._plane[1] * y + self._plane[2]
        off = np.abs(self._height(x, y) - plane) - DEPTH_UM / 2
        sigma = (np.maximum(off, 0) * BLUR / self._mpp).astype(np.float32)
        if not sigma.any():
            return sharp
        margins = min(left, REACH_PX), min(view.shape[1] - right, REACH_PX)
        return _blur(view[:, left - margins[0] : right + margins[1]], margins, sigma)


def _fit_plane(places: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return (a, b, c) of the plane a·x + b·y + c through most of the points."""
    matrix = np.column_stack([places, np.ones(len(places))])
    good = np.abs(heights - np.median(heights)) <= FOCUS_OUTLIER_UM + np.ptp(places) * 2 * TILT
    for _ in range(2):
        if good.sum() < 3:
            raise ScannerError(
                "no focal plane is found: the slide is not flat; clean it, put it in again",
                fault="focus",
            )
        plane = np.linalg.lstsq(matrix[good], heights[good], rcond=None)[0]
        good = np.abs(matrix @ plane - heights) <= FOCUS_OUTLIER_UM
    return plane


def _blur(view: np.ndarray, margins: tuple[int, int], sigma: np.ndarray) -> np.ndarray:
    """Return a view without its margins, blurred by σ px (H, W), as float32."""
    stop = view.shape[1] - margins[1]
    blurred = view[:, margins[0] : stop].astype(np.float32)
    for lower, upper in zip((0.0, *BLURS), BLURS, strict=False):
        share = np.clip((sigma - lower) / (upper - lower), 0, 1)[..., None]
        if not share.any():
            break
        side = 2 * REACH_PX + 1
        softer = cv2.GaussianBlur(view, (side, side), upper, borderType=cv2.BORDER_REPLICATE)
        blurred += share * (softer[:, margins[0] : stop] - blurred)
    return blurred
