"""Outlines and lattices that glands are made of, in µm."""

from collections.abc import Callable

import cv2
import numpy as np

from histo_nb.scanning.virtual.drawing.rasters import AREA_UM, MAP_UM, smooth_noise

SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
MOST_REMAPPED = 30_000  # points at a time; OpenCV counts them in 16 bits
Bend = Callable[[np.ndarray], np.ndarray]  # points (n, 2) of a lattice → points on the slide


def fill(canvas: np.ndarray, polygon_um: np.ndarray) -> None:
    """Fill a polygon (n, 2) into a map at `MAP_UM`; nothing if it has no points."""
    if len(polygon_um):
        points = np.rint((polygon_um / MAP_UM - 0.5) * (1 << SHIFT)).astype(np.int32)
        cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA, SHIFT)


def blob(
    rng: np.random.Generator,
    radius: float,
    *,
    stretch: float = 1.1,
    turn: float = 0.0,
    waves: float = 0.05,
) -> np.ndarray:
    """Return a round outline with slow waves, (28, 2) about (0, 0).

    `stretch` is its length over its width, `turn` (rad) the heading of its length, `waves` the
    deviation of its radius, relative.
    """
    theta = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    r = np.full_like(theta, radius)
    for k in (2, 3, 4, 5):
        r += radius * waves * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    x, y = r * np.cos(theta) * np.sqrt(stretch), r * np.sin(theta) / np.sqrt(stretch)
    return np.stack([x, y], axis=1) @ rotation(turn)


def band(along: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the outline (n, 2) of a band along x with half-widths `sides` (2, knots)."""
    there = np.stack([along, sides[0]], axis=1)
    back = np.stack([along, -sides[1]], axis=1)[::-1]
    return np.concatenate([there, back])


def waves(rng: np.random.Generator, n: int, amplitude: float) -> np.ndarray:
    """Return smooth deviations of a band's two sides along its knots, (2, n)."""
    bell = np.exp(-(np.linspace(-2, 2, 11) ** 2))
    noise = [np.convolve(rng.normal(size=n + 10), bell, mode="valid") for _ in range(2)]
    return np.asarray(amplitude * np.stack(noise) / np.linalg.norm(bell))


def rotation(angle: float) -> np.ndarray:
    """Return the matrix that turns row vectors by `angle` (rad)."""
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def lattice(
    rng: np.random.Generator, size_um: np.ndarray, *, pitch: float, angle: float
) -> np.ndarray:
    """Return near-hexagonal points (n, 2) over the whole slide, rows turned by `angle`."""
    n = int(np.ceil(np.hypot(*size_um) / 2 / pitch)) + 2
    rows = round(1.16 * n)
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-rows, rows + 1))
    points = np.stack([(i + 0.5 * (j % 2)).ravel() * pitch, j.ravel() * pitch * 0.75**0.5], 1)
    points = points + rng.normal(0, 0.045 * pitch, points.shape)
    points = points @ rotation(angle) + size_um / 2
    inside = ((points > -pitch) & (points < size_um + pitch)).all(axis=1)
    return np.asarray(points[inside])


def jittered(rng: np.random.Generator, size_um: np.ndarray, *, pitch: float) -> np.ndarray:
    """Return points (n, 2) over the whole slide, about `pitch` apart, in no order."""
    xs, ys = np.meshgrid(np.arange(0, size_um[0], pitch), np.arange(0, size_um[1], pitch))
    xs = xs + pitch / 2 * (np.arange(len(xs)) % 2)[:, None]
    points = np.stack([xs.ravel(), ys.ravel()], axis=1)
    return points + rng.uniform(-0.28, 0.28, points.shape) * pitch


def drift(
    rng: np.random.Generator, points_um: np.ndarray, shape: tuple[int, ...], *, reach_um: float
) -> np.ndarray:
    """Return points moved by a slow random displacement; `shape` is an area raster's."""
    column, row = (points_um / AREA_UM - 0.5).astype(np.float32).T
    moves = [reach_um * smooth_noise(rng, shape, 1500 / AREA_UM) for _ in range(2)]
    cuts = range(MOST_REMAPPED, len(points_um), MOST_REMAPPED)
    places = list(zip(np.split(column, cuts), np.split(row, cuts), strict=True))
    shift = [np.concatenate([_sample(move, *place) for place in places]) for move in moves]
    return points_um + np.stack(shift, axis=1)


def _sample(raster: np.ndarray, column: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Return a raster's values (n,) at places between its pixels."""
    how = {"interpolation": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
    return np.asarray(cv2.remap(raster, column[None], row[None], **how))[0]


def make_bend(
    rng: np.random.Generator, size_um: np.ndarray, *, angle: float, reach_um: float
) -> Bend:
    """Return the way from a lattice to the slide: a turn, then a sum of long waves."""
    turn = rotation(angle)
    k = 2 * np.pi / 1150.0 * rng.uniform(0.6, 1.4, (4, 1))
    heading = rng.uniform(0, 2 * np.pi, (4, 1))
    travel = (k * np.concatenate([np.cos(heading), np.sin(heading)], axis=1)).T
    phase = rng.uniform(0, 2 * np.pi, 4)
    push = rng.normal(size=(4, 2)) * reach_um / 2

    def bend(points: np.ndarray) -> np.ndarray:
        return points @ turn + size_um / 2 + np.sin(points @ travel + phase) @ push

    return bend
