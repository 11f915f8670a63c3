"""Three architectures of colon mucosa: how glands of each class are shaped and packed.

Classes differ by structure alone. Numbers are chosen so that the shares of nuclei, pink and white
are alike in all three: neither mean colour nor colour histogram tells them apart.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.virtual.drawing.rasters import (
    AREA_UM,
    FINER,
    MAP_UM,
    depth_um,
    extent_um,
    lookup,
    refine,
    smooth_noise,
)
from histo_nb.scanning.virtual.drawing.shapes import (
    Bend,
    band,
    blob,
    drift,
    fill,
    lattice,
    make_bend,
    waves,
)

SHRED_UM2 = 1500.0  # smaller remains of a gland at a border are dropped


@dataclass(frozen=True, kw_only=True)
class Ground:
    """Where glands of a class may grow, and how the place modulates them."""

    room: np.ndarray  # (rows, columns) uint8 at MAP_UM, soft, 255 where the class is
    wide: np.ndarray  # at AREA_UM; lumina and mucin grow with it; mean 0, deviation 1
    angle: float  # rad, of the lattice


@dataclass(frozen=True, kw_only=True)
class GlandMap:
    """Glands of one class: (rows, columns) uint8 at MAP_UM, 255 inside."""

    epithelium: np.ndarray  # glands whole, their lumina included
    lumen: np.ndarray


def prepare_ground(
    rng: np.random.Generator, region: np.ndarray, *, keep_out: np.ndarray, wide: np.ndarray
) -> Ground:
    """Return the ground of a class from its area mask, less what is taken already."""
    room = cv2.subtract(refine(region, FINER), keep_out)
    return Ground(room=room, wide=wide, angle=float(rng.uniform(0, np.pi)))


def grow_normal(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Return round crypts in near-hexagonal rows, each with a small lumen."""
    pitch = rng.uniform(98, 108)
    centres = lattice(rng, extent_um(ground.room), pitch=pitch, angle=ground.angle)
    centres = drift(rng, centres, ground.wide.shape, reach_um=45)
    centres = centres[lookup(depth_um(ground.room), centres, MAP_UM) > 0.42 * pitch]
    wide = lookup(ground.wide, centres, AREA_UM)
    n = len(centres)
    radius = pitch * (0.405 + 0.012 * rng.normal(size=n)) + 0.8 * wide
    lumen = np.clip(radius - 30 + 3.4 * wide + rng.normal(0, 2.5, n), 4.5, radius - 23)
    stretch = rng.uniform(1.0, 1.16, n)
    turn = rng.uniform(0, np.pi, n)
    glands = _blank(ground)
    for centre, r, hole, s, t in zip(centres, radius, lumen, stretch, turn, strict=True):
        fill(glands.epithelium, centre + blob(rng, r, stretch=s, turn=t, waves=0.018))
        fill(glands.lumen, centre + blob(rng, hole, stretch=s**3, turn=t, waves=0.09))
    return glands


def grow_adenoma(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Return long tubules, side by side and bent together, each with a slit."""
    half, gap = rng.uniform(38, 43), rng.uniform(11, 15)
    size_um = extent_um(ground.room)
    reach = float(np.hypot(*size_um)) / 2 + 300
    bend = make_bend(rng, size_um, angle=ground.angle, reach_um=95)
    glands = _blank(ground)
    for v in np.arange(-reach, reach, 2 * half + gap):
        u = -reach + rng.uniform(0, 300)
        while u < reach:
            length = float(np.clip(170 * np.exp(0.5 * rng.normal()), 85, 480))
            middle = np.array([u + length / 2, v])
            wide = lookup(ground.wide, bend(middle[None]), AREA_UM)[0]
            _add_tubule(rng, glands, bend, middle, shape=(length, half, wide))
            u += length + gap
    return _trim(glands, ground)


def _add_tubule(
    rng: np.random.Generator,
    glands: GlandMap,
    bend: Bend,
    middle: np.ndarray,
    *,
    shape: tuple[float, float, float],
) -> None:
    """Draw one tubule of (length, half-width in µm, width of the slit in deviations)."""
    length, half, wide = shape
    along = np.linspace(-length / 2, length / 2, max(round(length / 7), 12))
    into_cap = np.clip(np.abs(along) - length / 2 + half, 0, half) / half
    outer = (half + waves(rng, len(along), 3.4)) * np.sqrt(1 - into_cap**2)
    slit = max(half - 30 + 3.7 * wide + rng.normal(0, 2.0), 3.0)
    cap = np.sqrt(np.clip((length / 2 - 24 - np.abs(along)) / 26, 0, 1))
    inner = (slit + waves(rng, len(along), 2.6)).clip(1.5) * cap
    fill(glands.epithelium, bend(middle + band(along, outer)))
    fill(glands.lumen, bend(middle + band(along[cap > 0], inner[:, cap > 0])))


def _trim(glands: GlandMap, ground: Ground) -> GlandMap:
    """Cut glands off at the room's edge; no lumen opens nearer to it than a cell is high."""
    clear = depth_um(ground.room)
    glands.epithelium[clear < 10] = 0
    glands.lumen[clear < 34] = 0
    solid = (glands.epithelium > 127).astype(np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(solid)
    shred = stats[:, cv2.CC_STAT_AREA] * MAP_UM**2 < SHRED_UM2
    glands.epithelium[shred[labels]] = 0
    return glands


def grow_carcinoma(rng: np.random.Generator, ground: Ground) -> GlandMap:
    """Return fused and cribriform glands of all sizes with ragged nests between them."""
    field = sum(
        amplitude * smooth_noise(rng, ground.room.shape, wavelength_um / MAP_UM)
        for wavelength_um, amplitude in ((150, 1.0), (70, 0.5), (26, 0.09))
    )
    solid = (field > -0.33) & (depth_um(ground.room) > 14)
    epithelium = cv2.medianBlur(solid.astype(np.uint8) * 255, 9)
    return GlandMap(epithelium=epithelium, lumen=_punch(rng, ground, epithelium))


def _punch(rng: np.random.Generator, ground: Ground, epithelium: np.ndarray) -> np.ndarray:
    """Return the holes of cribriform glands: wide lumina first, small ones between them."""
    depth, hole = depth_um(epithelium), np.zeros_like(epithelium)
    for pitch, shell_um, least_um, most_um in ((108, 17, 14, 46), (44, 12.5, 5, 18)):
        apart = depth_um(255 - hole)
        seeds = lattice(rng, extent_um(epithelium), pitch=pitch, angle=ground.angle)
        seeds = seeds + rng.normal(0, 0.1 * pitch, seeds.shape)
        room = np.minimum(
            lookup(depth, seeds, MAP_UM) - shell_um, lookup(apart, seeds, MAP_UM) - 17
        )
        swell = np.exp(0.15 * lookup(ground.wide, seeds, AREA_UM))
        radius = np.minimum(room, rng.uniform(least_um, most_um, len(seeds)) * swell)
        for seed, r in zip(seeds[radius > least_um], radius[radius > least_um], strict=True):
            stretch, turn = rng.uniform(1, 1.6), rng.uniform(0, np.pi)
            fill(hole, seed + blob(rng, r, stretch=stretch, turn=turn, waves=0.08))
    return hole


def _blank(ground: Ground) -> GlandMap:
    return GlandMap(epithelium=np.zeros_like(ground.room), lumen=np.zeros_like(ground.room))


ARCHITECTURES: dict[str, Callable[[np.random.Generator, Ground], GlandMap]] = {
    "normal": grow_normal,
    "adenoma": grow_adenoma,
    "carcinoma": grow_carcinoma,
}
