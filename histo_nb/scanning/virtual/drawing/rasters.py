"""Arithmetic of the rasters that tissue is grown in: two cell sizes, noise, distances, lookups."""

import cv2
import numpy as np

AREA_UM = 16.0  # µm a cell of class areas and slow modulations
MAP_UM = 2.0  # µm a cell of the maps that glands are drawn in
FINER = round(AREA_UM / MAP_UM)
GLASS = 255  # value of bare glass in an area raster


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], wavelength: float) -> np.ndarray:
    """Return smooth noise, mean 0 and deviation 1; `wavelength` in cells of `shape`."""
    step = max(wavelength / 4, 1.0)
    coarse = tuple(int(np.ceil(n / step)) + 6 for n in shape)
    noise = cv2.GaussianBlur(rng.standard_normal(coarse).astype(np.float32), (0, 0), 1.3)
    noise = (noise - noise.mean()) / noise.std()
    matrix = np.array([[1 / step, 0, 2], [0, 1 / step, 2]])
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(noise, matrix, shape[::-1], flags=flags))


def refine(mask: np.ndarray, times: int) -> np.ndarray:
    """Return a soft (uint8) mask with `times` finer cells and the stairs smoothed."""
    soft = cv2.GaussianBlur(mask.astype(np.uint8) * 255, (0, 0), 1.0)
    size = (mask.shape[1] * times, mask.shape[0] * times)
    return np.asarray(cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR))


def depth_um(mask: np.ndarray) -> np.ndarray:
    """Return the distance (µm) of each cell inside a soft mask at `MAP_UM` to its edge."""
    inside = (mask > 127).astype(np.uint8)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    # where a mask has no edge at all OpenCV answers with its largest number
    np.minimum(depth, 1e6, out=depth)
    depth *= MAP_UM
    return np.asarray(depth)


def lookup(
    raster: np.ndarray, points_um: np.ndarray, cell_um: float, *, outside: float = 0
) -> np.ndarray:
    """Return the raster's values at points (n, 2) in µm, `outside` beyond it."""
    column, row = np.floor(points_um / cell_um).astype(np.int64).T
    inside = (column >= 0) & (row >= 0) & (column < raster.shape[1]) & (row < raster.shape[0])
    values = np.full(len(points_um), outside, raster.dtype)
    values[inside] = raster[row[inside], column[inside]]
    return values


def extent_um(raster: np.ndarray) -> np.ndarray:
    """Return (width, height) in µm of a raster at `MAP_UM`."""
    return np.array(raster.shape[::-1]) * MAP_UM
