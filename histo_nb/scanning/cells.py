"""Which cells lie where in drawn tissue, and the maps that hold what is not a cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.brushes import N_LOOKS, stamp_number
from histo_nb.scanning.glands import (
    ARCHITECTURES,
    FINER,
    MAP_UM,
    GlandMap,
    blob,
    distance_in,
    fill,
    lookup,
    prepare_ground,
)
from histo_nb.scanning.outline import AREA_UM, GLASS, refine, smooth_noise


@dataclass(frozen=True, kw_only=True)
class Cells:
    """Stamps of one plane: places in µm and stamp numbers, all (n,)."""

    x_um: np.ndarray
    y_um: np.ndarray
    stamp: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All that lies on one slide. Maps are uint8 at MAP_UM, tones at AREA_UM."""

    tissue: np.ndarray  # soft; 127 at the outline
    epithelium: np.ndarray  # soft; lumina included
    lumen: np.ndarray  # soft; fat and vessels included
    dense: np.ndarray  # where stroma is made of dense bundles
    tone: np.ndarray  # strength of eosin, 128 is usual
    nuclei: Cells
    pale: Cells
    red: Cells


class _Sower:
    """Collects cells by plane."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._sown: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {
            "nuclei": [],
            "pale": [],
            "red": [],
        }

    def sow(
        self, kind: str, points_um: np.ndarray, angle: np.ndarray, *, plane: str = "nuclei"
    ) -> None:
        """Add cells at points (n, 2), turned by `angle` (n,)."""
        look = self.rng.integers(0, N_LOOKS, len(points_um))
        self._sown[plane].append((points_um, stamp_number(kind, angle, look)))

    def cells(self, plane: str) -> Cells:
        """Return all cells of a plane."""
        sown = self._sown[plane]
        points = np.concatenate([np.zeros((0, 2)), *(p for p, _ in sown)]).astype(np.float32)
        stamp = np.concatenate([np.zeros(0, np.int32), *(s for _, s in sown)])
        return Cells(x_um=points[:, 0], y_um=points[:, 1], stamp=stamp)


def grow_anatomy(rng: np.random.Generator, areas: np.ndarray, classes: Sequence[str]) -> Anatomy:
    """Return glands, stroma and cells grown in the class areas; see `grow_areas`."""
    tissue = _ragged(rng, refine(areas != GLASS, FINER))
    sower = _Sower(rng)
    lumen, keep_out = _spaces(rng, tissue, sower)
    wide = smooth_noise(rng, areas.shape, 900 / AREA_UM)
    epithelium = np.zeros_like(tissue)
    grown = {}
    for value, name in enumerate(classes):
        if (areas == value).any():
            ground = prepare_ground(rng, areas == value, keep_out=keep_out, wide=wide)
            grown[name] = glands = ARCHITECTURES[name](rng, ground)
            cv2.max(epithelium, glands.epithelium, epithelium)
            cv2.max(lumen, glands.lumen, lumen)
    for name, glands in grown.items():
        _LINERS[name](sower, glands, wide)
    _sow_stroma(sower, tissue, epithelium, lumen, areas, classes)
    dense = refine(np.isin(areas, [i for i, c in enumerate(classes) if c == "carcinoma"]), 1)
    return Anatomy(
        tissue=tissue,
        epithelium=cv2.GaussianBlur(epithelium, (0, 0), 1.0),
        lumen=cv2.GaussianBlur(lumen, (0, 0), 0.8),
        dense=dense,
        tone=_tone(rng, areas.shape),
        nuclei=sower.cells("nuclei"),
        pale=sower.cells("pale"),
        red=sower.cells("red"),
    )


def _tone(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    noise = smooth_noise(rng, (shape[0], shape[1]), 1100 / AREA_UM)
    return np.clip(128 * np.exp(0.09 * noise), 60, 250).astype(np.uint8)


def _ragged(rng: np.random.Generator, soft: np.ndarray) -> np.ndarray:
    """Return a soft mask with a torn edge: the slope is wide, so noise moves the outline."""
    noise = smooth_noise(rng, (soft.shape[0], soft.shape[1]), 40 / MAP_UM)
    return np.clip(soft + 45 * noise * (soft > 8) * (soft < 247), 0, 255).astype(np.uint8)


def _spaces(
    rng: np.random.Generator, tissue: np.ndarray, sower: _Sower
) -> tuple[np.ndarray, np.ndarray]:
    """Return the holes of fat lobules and vessels, and where no gland may grow for them."""
    hole, keep_out = np.zeros_like(tissue), np.zeros_like(tissue)
    extent = np.array(tissue.shape[::-1]) * MAP_UM
    n_mm2 = extent.prod() / 1e6
    for _ in range(rng.poisson(0.09 * n_mm2)):
        centre = rng.uniform(0, 1, 2) * extent
        if lookup(tissue, centre[None], MAP_UM, outside=0)[0] > 200:
            _fat(rng, hole, keep_out, centre, rng.uniform(110, 210))
    for _ in range(rng.poisson(2.2 * n_mm2)):
        centre, radius = rng.uniform(0, 1, 2) * extent, float(rng.uniform(9, 28))
        if lookup(keep_out, centre[None], MAP_UM, outside=0)[0] < 9:
            _vessel(rng, hole, keep_out, centre, radius, sower)
    inside = (tissue > 160).astype(np.uint8) * 255
    return cv2.bitwise_and(hole, inside), keep_out


def _fat(
    rng: np.random.Generator,
    hole: np.ndarray,
    keep_out: np.ndarray,
    centre: np.ndarray,
    radius: float,
) -> None:
    pitch = rng.uniform(44, 58)
    n = int(radius / pitch) + 2
    i, j = np.meshgrid(np.arange(-n, n + 1), np.arange(-n, n + 1))
    points = np.stack([(i + 0.5 * (j % 2)) * pitch, j * pitch * 0.87], -1).reshape(-1, 2)
    points = points + rng.normal(0, 0.05 * pitch, points.shape)
    for point in points[np.hypot(*points.T) < radius * rng.uniform(0.8, 1.15, len(points))]:
        cell = blob(rng, pitch * rng.uniform(0.42, 0.47)) + centre + point
        fill(hole, cell)
        fill(keep_out, (cell - centre - point) * 1.35 + centre + point)


def _vessel(
    rng: np.random.Generator,
    hole: np.ndarray,
    keep_out: np.ndarray,
    centre: np.ndarray,
    radius: float,
    sower: _Sower,
) -> None:
    outline = blob(rng, radius)
    fill(hole, outline + centre)
    fill(keep_out, outline * (1 + 9 / radius) + centre)
    n = int(rng.integers(0, 2) * 0.012 * radius**2 * np.pi)
    place = rng.uniform(0, 2 * np.pi, n)
    reach = np.sqrt(rng.uniform(0, 0.7, n)) * radius
    points = centre + np.stack([np.cos(place), np.sin(place)], 1) * reach[:, None]
    sower.sow("red", points, place, plane="red")
    around = np.linspace(0, 2 * np.pi, int(radius * 0.28) + 2, endpoint=False)
    ring = centre + np.stack([np.cos(around), np.sin(around)], 1) * (radius + 4.5)
    sower.sow("spindle", ring, around + np.pi / 2)


def _rim(
    rng: np.random.Generator, depth: np.ndarray, *, at_um: float, step_um: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return points (n, 2) along the line of depth `at_um`, and its normals' angles (n,)."""
    inner = (depth > at_um).astype(np.uint8)
    contours, _ = cv2.findContours(inner, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    points, angles = [np.zeros((0, 2))], [np.zeros(0)]
    for contour in contours:
        if len(contour) < 10:
            continue
        line = (contour[:, 0] + 0.5) * MAP_UM
        wrapped = np.concatenate([line[-3:], line, line[:3]])
        sums = np.cumsum(np.concatenate([np.zeros((1, 2)), wrapped]), axis=0)
        smooth = (sums[7:] - sums[:-7]) / 7
        edge = np.roll(smooth, -1, axis=0) - smooth
        along = np.concatenate([[0.0], np.cumsum(np.hypot(edge[:, 0], edge[:, 1]))])
        n = max(int(along[-1] / step_um), 1)
        target = (np.arange(n) + rng.uniform()) * along[-1] / n
        at = np.minimum(np.searchsorted(along, target, side="right") - 1, len(smooth) - 1)
        points.append(smooth[at])
        angles.append(np.arctan2(edge[at, 1], edge[at, 0]) + np.pi / 2)
    return np.concatenate(points), np.concatenate(angles)


def _line_normal(sower: _Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """One layer of basal nuclei, goblet vacuoles above them."""
    rng, depth = sower.rng, distance_in(glands.epithelium)
    points, angles = _rim(rng, depth, at_um=6.5, step_um=7.2)
    _scatter(sower, "basal", points, angles, shake_um=0.5)
    points, angles = _rim(rng, depth, at_um=17.5, step_um=10.6)
    full = lookup(wide, points, AREA_UM, outside=0)
    kept = rng.uniform(size=len(points)) < np.clip(0.74 + 0.14 * full, 0.3, 1)
    kept &= lookup(glands.lumen, points, MAP_UM, outside=0) < 100
    points = points[kept] + rng.normal(0, 0.9, (int(kept.sum()), 2))
    sower.sow("vacuole", points, angles[kept], plane="pale")


def _line_adenoma(sower: _Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """Pencil nuclei at uneven heights, crowded; hardly a goblet cell."""
    rng, depth = sower.rng, distance_in(glands.epithelium)
    clear = distance_in(255 - glands.lumen)
    for at_um, step_um in ((8.0, 7.1), (14.5, 9.6), (20.5, 26.0)):
        points, angles = _rim(rng, depth, at_um=at_um, step_um=step_um)
        points, angles = _clear_of(points, angles, clear, 6.0)
        height = rng.normal(0, 2.2, len(points))
        points = points + height[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        _scatter(sower, "pencil", points, angles + rng.normal(0, 0.12, len(points)), shake_um=0.5)


def _line_carcinoma(sower: _Sower, glands: GlandMap, wide: np.ndarray) -> None:
    """Nuclei of all sizes in disorder; debris in the lumina."""
    rng, depth = sower.rng, distance_in(glands.epithelium)
    clear = distance_in(255 - glands.lumen)
    extent = np.array(depth.shape[::-1]) * MAP_UM
    lined = [_rim(rng, depth, at_um=6.5, step_um=9.6), _rim(rng, clear, at_um=7.5, step_um=9.2)]
    points, angles = _clear_of(*lined[0], clear, 4.5)
    _scatter(sower, "pleomorphic", points, angles, shake_um=1.5)
    points, angles = _clear_of(*lined[1], depth, 13.0)
    _scatter(sower, "pleomorphic", points, angles, shake_um=1.5)
    points = _jittered(rng, extent, pitch=11.0)
    angles = rng.uniform(0, np.pi, len(points))
    points, angles = _clear_of(*_clear_of(points, angles, depth, 13.0), clear, 14.0)
    _scatter(sower, "pleomorphic", points, angles, shake_um=1.2)
    points = _jittered(rng, extent, pitch=7.5)
    points = points[lookup(glands.lumen, points, MAP_UM, outside=0) > 200]
    dirty = points[rng.uniform(size=len(points)) < 0.16]
    sower.sow("debris", dirty, rng.uniform(0, np.pi, len(dirty)))


_LINERS = {"normal": _line_normal, "adenoma": _line_adenoma, "carcinoma": _line_carcinoma}

# Cells per mm² of stroma, round and spindle: what the epithelium lacks in nuclei its stroma has,
# so that the share of haematoxylin is alike in all classes.
_STROMA = {"normal": (9500, 900), "adenoma": (2200, 700), "carcinoma": (2700, 1800)}


def _sow_stroma(
    sower: _Sower,
    tissue: np.ndarray,
    epithelium: np.ndarray,
    lumen: np.ndarray,
    areas: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Sow lymphocytes, plasma cells and fibroblasts between the glands."""
    rng = sower.rng
    taken = cv2.max(cv2.max(epithelium, lumen), 255 - tissue)
    free = distance_in(255 - taken)
    busy = np.exp(0.6 * smooth_noise(rng, (areas.shape[0], areas.shape[1]), 500 / AREA_UM) - 0.18)
    flow = np.pi * smooth_noise(rng, (areas.shape[0], areas.shape[1]), 420 / AREA_UM)
    extent = np.array(tissue.shape[::-1]) * MAP_UM
    for value, name in enumerate(classes):
        for share, cells in enumerate(_STROMA[name]):
            points = rng.uniform(0, 1, (rng.poisson(2.2 * cells * extent.prod() / 1e6), 2)) * extent
            wanted = lookup(busy, points, AREA_UM, outside=0) / 2.2 if share == 0 else 1 / 2.2
            kept = lookup(areas, points, AREA_UM, outside=GLASS) == value
            kept &= rng.uniform(size=len(points)) < wanted
            kept &= lookup(free, points, MAP_UM, outside=0) > 2.5
            points = points[kept]
            angles = lookup(flow, points, AREA_UM, outside=0) + rng.normal(0, 0.25, len(points))
            if share:
                sower.sow("spindle", points, angles)
                continue
            half = len(points) // 2
            sower.sow("lymphocyte", points[:half], angles[:half])
            sower.sow("plasma", points[half:], 5 * angles[half:])
    points, angles = _rim(rng, free, at_um=2.0, step_um=26.0)
    sower.sow("spindle", points, angles + np.pi / 2)


def _jittered(rng: np.random.Generator, extent: np.ndarray, *, pitch: float) -> np.ndarray:
    xs, ys = np.meshgrid(np.arange(0, extent[0], pitch), np.arange(0, extent[1], pitch))
    xs = xs + pitch / 2 * (np.arange(len(xs)) % 2)[:, None]
    points = np.stack([xs.ravel(), ys.ravel()], axis=1)
    return points + rng.uniform(-0.28, 0.28, points.shape) * pitch


def _clear_of(
    points: np.ndarray, angles: np.ndarray, clear: np.ndarray, least_um: float
) -> tuple[np.ndarray, np.ndarray]:
    kept = lookup(clear, points, MAP_UM, outside=0) > least_um
    return points[kept], angles[kept]


def _scatter(
    sower: _Sower, kind: str, points: np.ndarray, angles: np.ndarray, *, shake_um: float
) -> None:
    sower.sow(kind, points + sower.rng.normal(0, shake_um, points.shape), angles)
