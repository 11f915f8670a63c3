"""Cells of the epithelium: how each class lines its glands."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.virtual.drawing.brushes import N_LOOKS, stamp_number
from histo_nb.scanning.virtual.drawing.glands import GlandMap
from histo_nb.scanning.virtual.drawing.rasters import AREA_UM, MAP_UM, depth_um, extent_um, lookup
from histo_nb.scanning.virtual.drawing.shapes import jittered

PLANES = ("nuclei", "pale", "red")  # haematoxylin, vacuoles, red blood cells


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Stamps of one plane: places in µm and stamp numbers, all (n,)."""

    x_um: np.ndarray
    y_um: np.ndarray
    stamp: np.ndarray


class Sower:
    """Collects cells, plane by plane."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._sown: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {p: [] for p in PLANES}

    def sow(
        self,
        kind: str,
        points_um: np.ndarray,
        angle: np.ndarray,
        *,
        shake_um: float = 0,
        plane: str = "nuclei",
    ) -> None:
        """Add cells near points (n, 2), turned by `angle` (n,) rad."""
        look = self.rng.integers(0, N_LOOKS, len(points_um))
        points = points_um + self.rng.normal(0, 1, points_um.shape) * shake_um
        self._sown[plane].append((points, stamp_number(kind, angle, look)))

    def cells(self, plane: str) -> Cells:
        """Return all cells of a plane."""
        sown = self._sown[plane]
        points = np.concatenate([np.zeros((0, 2)), *(p for p, _ in sown)]).astype(np.float32)
        stamp = np.concatenate([np.zeros(0, np.int32), *(s for _, s in sown)])
        return Cells(x_um=points[:, 0], y_um=points[:, 1], stamp=stamp)


def rim(
    rng: np.random.Generator, depth: np.ndarray, *, at_um: float, step_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) along the lines of depth `at_um`, and their normals' angles (n,)."""
    inner = (depth > at_um).astype(np.uint8)
    contours, _ = cv2.findContours(inner, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    points, angles = [np.zeros((0, 2))], [np.zeros(0)]
    for contour in contours:
        if len(contour) < 10:
            continue
        line = _smooth((contour[:, 0] + 0.5) * MAP_UM)
        edge = np.roll(line, -1, axis=0) - line
        along = np.concatenate([[0.0], np.cumsum(np.hypot(edge[:, 0], edge[:, 1]))])
        n = max(int(along[-1] / step_um), 1)
        target = (np.arange(n) + rng.uniform()) * along[-1] / n
        at = np.minimum(np.searchsorted(along, target, side="right") - 1, len(line) - 1)
        points.append(line[at])
        angles.append(np.arctan2(edge[at, 1], edge[at, 0]) + np.pi / 2)
    return np.concatenate(points), np.concatenate(angles)


def _smooth(line: np.ndarray) -> np.ndarray:
    """Return a closed line averaged over 7 points: raster contours have stairs."""
    wrapped = np.concatenate([line[-3:], line, line[:3]])
    sums = np.cumsum(np.concatenate([np.zeros((1, 2)), wrapped]), axis=0)
    return np.asarray((sums[7:] - sums[:-7]) / 7)


def deep_in(
    points: np.ndarray, angles: np.ndarray, depth: np.ndarray, least_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return those points and angles that lie deeper than `least_um`."""
    kept = lookup(depth, points, MAP_UM) > least_um
    return points[kept], angles[kept]


def line_normal(sower: Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """Sow one layer of basal nuclei, and goblet vacuoles above them."""
    rng, depth = sower.rng, depth_um(glands.epithelium)
    sower.sow("basal", *rim(rng, depth, at_um=6.5, step_um=7.2), shake_um=0.5)
    points, angles = rim(rng, depth, at_um=17.5, step_um=10.6)
    points, angles = deep_in(points, angles, depth_um(255 - glands.lumen), 0)
    share = np.clip(0.74 + 0.14 * lookup(wide, points, AREA_UM), 0.3, 1)
    full = rng.uniform(size=len(points)) < share
    sower.sow("vacuole", points[full], angles[full], shake_um=0.9, plane="pale")


def line_adenoma(sower: Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """Sow pencil nuclei at uneven heights, crowded; no goblet cells."""
    rng, depth = sower.rng, depth_um(glands.epithelium)
    clear = depth_um(255 - glands.lumen)
    for at_um, step_um in ((8.0, 7.1), (14.5, 9.6), (20.5, 26.0)):
        points, angles = deep_in(*rim(rng, depth, at_um=at_um, step_um=step_um), clear, 6.0)
        height = rng.normal(0, 2.2, (len(points), 1))
        points = points + height * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        sower.sow("pencil", points, angles + rng.normal(0, 0.12, len(points)), shake_um=0.5)


def line_carcinoma(sower: Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """Sow nuclei of all sizes around glands and lumina and between them; debris in lumina."""
    rng, depth = sower.rng, depth_um(glands.epithelium)
    clear = depth_um(255 - glands.lumen)
    outer = deep_in(*rim(rng, depth, at_um=6.5, step_um=9.6), clear, 4.5)
    inner = deep_in(*rim(rng, clear, at_um=7.5, step_um=9.2), depth, 13.0)
    loose = jittered(rng, extent_um(depth), pitch=11.0)
    angles = rng.uniform(0, np.pi, len(loose))
    between = deep_in(*deep_in(loose, angles, depth, 13.0), clear, 14.0)
    for points, turns in (outer, inner, between):
        sower.sow("pleomorphic", points, turns, shake_um=1.4)
    points = jittered(rng, extent_um(depth), pitch=7.5)
    dirty = lookup(glands.lumen, points, MAP_UM) > 200
    points = points[dirty & (rng.uniform(size=len(points)) < 0.16)]
    sower.sow("debris", points, rng.uniform(0, np.pi, len(points)))


LININGS: dict[str, Callable[[Sower, GlandMap, np.ndarray], None]] = {
    "normal": line_normal,
    "adenoma": line_adenoma,
    "carcinoma": line_carcinoma,
}
