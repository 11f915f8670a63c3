"""Three architectures of colon mucosa: how glands of each class are shaped and packed.

Classes differ by structure alone. Numbers are chosen so that the shares of nuclei, pink and white
are alike in all three: neither mean colour nor colour histogram tells them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.outline import AREA_UM, refine, smooth_noise

MAP_UM = 2.0  # µm a cell of the maps that glands are drawn in
FINER = round(AREA_UM / MAP_UM)
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True, kw_only=True)
class GlandMap:
    """Glands of one class: (rows, columns) uint8, soft edges, 255 inside."""

    epithelium: np.ndarray  # glands whole, their lumina included
    lumen: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where glands of a class may grow, and how the place modulates them."""

    room: np.ndarray  # (rows, columns) uint8 at MAP_UM, soft, 255 where the class is
    wide: np.ndarray  # at AREA_UM; lumina and mucin grow with it, mean 0, deviation 1
    angle: float  # rad, of the lattice

    @property
    def size_um(self) -> tuple[float, float]:
        """Return width and height of the slide."""
        return self.room.shape[1] * MAP_UM, self.room.shape[0] * MAP_UM

    def holds(self, points_um: np.ndarray, *, clear_um: float) -> np.ndarray:
        """Return for points (n, 2) whether each lies in the room, `clear_um` from its edge."""
        return lookup(distance_in(self.room), points_um, MAP_UM, outside=0) > clear_um

    def blank(self) -> np.ndarray:
        """Return an empty map."""
        return np.zeros(self.room.shape, np.uint8)


def distance_in(mask: np.ndarray) -> np.ndarray:
    """Return the distance (µm) of each cell inside a soft mask to its edge."""
    inside = (mask > 127).astype(np.uint8)
    # a mask without an edge is at OpenCV's largest number from it
    return np.asarray(cv2.distanceTransform(inside, cv2.DIST_L2, 5).clip(max=1e6) * MAP_UM)


def lookup(
    raster: np.ndarray, points_um: np.ndarray, cell_um: float, *, outside: float
) -> np.ndarray:
    """Return the raster's values at points (n, 2) in µm, `outside` beyond it."""
    column, row = np.floor(points_um / cell_um).astype(np.int64).T
    inside = (column >= 0) & (row >= 0) & (column < raster.shape[1]) & (row < raster.shape[0])
    values = np.full(len(points_um), outside, raster.dtype)
    values[inside] = raster[row[inside], column[inside]]
    return values


def prepare_ground(
    rng: np.random.Generator, region: np.ndarray, *, keep_out: np.ndarray, wide: np.ndarray
) -> Ground:
    """Return the ground of a class from its area mask and what is taken already."""
    room = cv2.subtract(refine(region, FINER), keep_out)
    return Ground(room=room, wide=wide, angle=float(rng.uniform(0, np.pi)))


def _normal(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Round crypts in near-hexagonal rows, each with a small lumen."""
    pitch = rng.uniform(98, 108)
    centres = _warp(rng, ground, _lattice(ground, pitch, rng), reach_um=45, wavelength_um=1500)
    centres = centres[ground.holds(centres, clear_um=0.42 * pitch)]
    wide = lookup(ground.wide, centres, AREA_UM, outside=0)
    n = len(centres)
    radius = pitch * (0.405 + 0.012 * rng.normal(size=n)) + 0.8 * wide
    lumen = np.clip(radius - 29.3 + 3.4 * wide + rng.normal(0, 2.5, n), 4.5, radius - 18)
    stretch = rng.uniform(1.0, 1.16, n)
    turn = rng.uniform(0, np.pi, n)
    epithelium, hole = ground.blank(), ground.blank()
    for i in range(n):
        fill(epithelium, centres[i] + _blob(rng, radius[i], stretch[i], turn[i], waves=0.018))
        fill(hole, centres[i] + _blob(rng, lumen[i], stretch[i] ** 3, turn[i], waves=0.09))
    return GlandMap(epithelium=epithelium, lumen=hole)


def _adenoma(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Long tubules, side by side and bent together, each with a slit."""
    half, gap = rng.uniform(38, 43), rng.uniform(11, 15)
    extent = float(np.hypot(*ground.size_um)) / 2 + 300
    epithelium, hole = ground.blank(), ground.blank()
    bend = _bend(rng, ground, reach_um=95, wavelength_um=1150)
    for v in np.arange(-extent, extent, 2 * half + gap):
        u = -extent + rng.uniform(0, 300)
        while u < extent:
            length = float(np.clip(170 * np.exp(0.5 * rng.normal()), 85, 480))
            outer, inner = _tubule(rng, length, half, ground, bend, np.array([u + length / 2, v]))
            fill(epithelium, outer)
            if len(inner):
                fill(hole, inner)
            u += length + gap
    return _cut_to(ground, epithelium, hole)


def _cut_to(ground: Ground, epithelium: np.ndarray, hole: np.ndarray) -> GlandMap:
    """Return glands cut off at the room's edge: lumina open there no nearer than a cell."""
    clear = distance_in(ground.room)
    epithelium[clear < 10] = 0
    hole[clear < 34] = 0
    n, labels, stats, _ = cv2.connectedComponentsWithStats((epithelium > 127).astype(np.uint8))
    shred = stats[:, cv2.CC_STAT_AREA] * MAP_UM**2 < 1500
    epithelium[shred[labels]] = 0
    return GlandMap(epithelium=epithelium, lumen=hole)


def _tubule(
    rng: np.random.Generator,
    length: float,
    half: float,
    ground: Ground,
    bend: Callable[[np.ndarray], np.ndarray],
    centre: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outlines (µm) of one tubule and of its slit."""
    wide = float(lookup(ground.wide, bend(centre[None]), AREA_UM, outside=0)[0])
    knots = max(round(length / 7), 12)
    along = np.linspace(-length / 2, length / 2, knots)
    cap = np.sqrt(
        np.clip(1 - (np.clip(np.abs(along) - length / 2 + half, 0, None) / half) ** 2, 0, 1)
    )
    waves = [_wave(rng, knots, 3.4) for _ in range(2)]
    outer = half * cap[None] + np.stack(waves) * cap
    slit = max(half - 29.5 + 3.7 * wide + rng.normal(0, 2.0), 3.0)
    inner_cap = np.clip((length / 2 - 24 - np.abs(along)) / 26, 0, 1) ** 0.5
    inner = (slit + np.stack([_wave(rng, knots, 2.6) for _ in range(2)])).clip(1.5) * inner_cap
    open_ = inner_cap > 0
    return (
        bend(centre + _band(along, outer)),
        bend(centre + _band(along[open_], inner[:, open_])),
    )


def _carcinoma(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Fused and cribriform glands of all sizes with ragged nests between them."""
    shape = ground.room.shape
    field = smooth_noise(rng, shape, 150 / MAP_UM)
    field = field + 0.5 * smooth_noise(rng, shape, 70 / MAP_UM)
    field = field + 0.09 * smooth_noise(rng, shape, 26 / MAP_UM)
    clear = distance_in(ground.room)
    epithelium = ((field > -0.27) & (clear > 14)).astype(np.uint8) * 255
    epithelium = cv2.medianBlur(epithelium, 9)
    hole = _cribriform(rng, ground, epithelium)
    return GlandMap(epithelium=epithelium, lumen=hole)


def _cribriform(rng: np.random.Generator, ground: Ground, epithelium: np.ndarray) -> np.ndarray:
    """Return punched-out holes in the epithelium, and a few wide lumina."""
    depth = distance_in(epithelium)
    hole = ground.blank()
    for pitch, shell_um, low_um, high_um in ((108.0, 17.0, 14.0, 46.0), (44.0, 12.5, 5.0, 18.0)):
        away = distance_in(255 - hole)
        seeds = _lattice(ground, pitch, rng)
        seeds = seeds + rng.normal(0, 0.1 * pitch, seeds.shape)
        room = np.minimum(
            lookup(depth, seeds, MAP_UM, outside=0) - shell_um,
            lookup(away, seeds, MAP_UM, outside=0) - 17,
        )
        wide = lookup(ground.wide, seeds, AREA_UM, outside=0)
        size = np.minimum(room, rng.uniform(low_um, high_um, len(seeds)) * np.exp(0.15 * wide))
        size[rng.uniform(size=len(size)) < 0.05] = 0
        for seed, radius in zip(seeds[size > low_um], size[size > low_um], strict=True):
            stretch, turn = rng.uniform(1, 1.6), rng.uniform(0, np.pi)
            fill(hole, seed + _blob(rng, radius, stretch, turn, waves=0.08))
    return hole


ARCHITECTURES: dict[str, Callable[[np.random.Generator, Ground], GlandMap]] = {
    "normal": _normal,
    "adenoma": _adenoma,
    "carcinoma": _carcinoma,
}


def fill(canvas: np.ndarray, polygon_um: np.ndarray) -> None:
    """Fill a polygon (n, 2) in µm into a map."""
    points = np.rint((polygon_um / MAP_UM - 0.5) * (1 << SHIFT)).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255, cv2.LINE_AA, SHIFT)


def _blob(
    rng: np.random.Generator, radius: float, stretch: float, turn: float, *, waves: float
) -> np.ndarray:
    """Return a round outline with slow waves, (28, 2) µm about (0, 0)."""
    theta = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    r = np.full_like(theta, radius)
    for k in (2, 3, 4, 5):
        r += radius * waves * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi))
    x, y = r * np.cos(theta) * np.sqrt(stretch), r * np.sin(theta) / np.sqrt(stretch)
    return np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 1)


def blob(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Return an uneven round outline of about `radius`, (28, 2) µm about (0, 0)."""
    return _blob(rng, radius, rng.uniform(1, 1.25), rng.uniform(0, np.pi), waves=0.05)


def _band(along: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Return the outline (n, 2) of a band with half-widths `sides` (2, knots)."""
    there = np.stack([along, sides[0]], axis=1)
    back = np.stack([along, -sides[1]], axis=1)[::-1]
    return np.concatenate([there, back])


def _wave(rng: np.random.Generator, n: int, amplitude: float) -> np.ndarray:
    """Return smooth deviations along `n` knots."""
    bell = np.exp(-(np.linspace(-2, 2, 11) ** 2))
    noise = np.convolve(rng.normal(size=n + 10), bell, mode="valid")
    return np.asarray(amplitude * noise / np.linalg.norm(bell))


def _lattice(ground: Ground, pitch: float, rng: np.random.Generator) -> np.ndarray:
    """Return near-hexagonal points (n, 2) µm over the whole slide, turned by its angle."""
    width, height = ground.size_um
    extent = np.hypot(width, height) / 2 + 2 * pitch
    n = int(np.ceil(extent / pitch))
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-round(1.16 * n), round(1.16 * n) + 1))
    u = (i + 0.5 * (j % 2)).ravel() * pitch
    v = j.ravel() * pitch * np.sqrt(0.75)
    points = np.stack([u, v], axis=1) + rng.normal(0, 0.045 * pitch, (len(u), 2))
    turned = points @ _rotation(ground.angle) + np.array([width, height]) / 2
    inside = ((turned > -pitch) & (turned < np.array([width, height]) + pitch)).all(axis=1)
    return np.asarray(turned[inside])


def _rotation(angle: float) -> np.ndarray:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _warp(
    rng: np.random.Generator,
    ground: Ground,
    points: np.ndarray,
    *,
    reach_um: float,
    wavelength_um: float,
) -> np.ndarray:
    """Return points moved by a smooth random displacement."""
    shape = ground.wide.shape
    moves = [reach_um * smooth_noise(rng, shape, wavelength_um / AREA_UM) for _ in range(2)]
    place = (points / AREA_UM - 0.5).astype(np.float32)
    shift = [
        cv2.remap(
            m,
            place[None, :, 0],
            place[None, :, 1],
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )[0]
        for m in moves
    ]
    return points + np.stack(shift, axis=1)


def _bend(
    rng: np.random.Generator, ground: Ground, *, reach_um: float, wavelength_um: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the way from lattice to slide: turn, then a sum of long waves."""
    turn = _rotation(ground.angle)
    middle = np.array(ground.size_um) / 2
    k = 2 * np.pi / wavelength_um * rng.uniform(0.6, 1.4, (4, 1))
    heading = rng.uniform(0, 2 * np.pi, (4, 1))
    waves = k * np.concatenate([np.cos(heading), np.sin(heading)], axis=1)
    phase = rng.uniform(0, 2 * np.pi, 4)
    push = rng.normal(size=(4, 2)) * reach_um / 2

    def bend(points: np.ndarray) -> np.ndarray:
        return points @ turn + middle + np.sin(points @ waves.T + phase) @ push

    return bend
