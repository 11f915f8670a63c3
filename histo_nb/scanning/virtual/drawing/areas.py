"""Where drawn tissue lies on the glass, and which class each part of it is.

Everything here is a raster at `AREA_UM`; the truth is traced from the same raster that the
glands are grown in.
"""

from collections.abc import Sequence

import cv2
import numpy as np
import shapely

from histo_nb.annotations import Annotation
from histo_nb.scanning.virtual.drawing.rasters import AREA_UM, GLASS, refine, smooth_noise

MARGIN_UM = 120.0  # bare glass along the slide's edge
ACROSS_UM = 1500.0  # width of the widest circle that fits a class area
PIECE_UM2 = 0.4e6  # smaller pieces of tissue are washed off
TRACE = 4  # the area raster is refined so many times before it is traced


def grow_areas(
    rng: np.random.Generator,
    size_um: tuple[float, float],
    *,
    diagnosis: str,
    classes: Sequence[str],
) -> np.ndarray:
    """Return the class of each cell of the slide, (rows, columns) uint8; `GLASS` where bare.

    Values are positions in `classes`, which starts with the benign class. The diagnosis takes
    about half of the tissue; a third class, if any lies between, sometimes a corner of the rest.
    """
    tissue = _grow_tissue(rng, size_um)
    areas = np.where(tissue, 0, GLASS).astype(np.uint8)
    worst = classes.index(diagnosis)
    if worst == 0:
        return areas
    areas[_part(rng, tissue, share=rng.uniform(0.44, 0.58))] = worst
    rest = areas == 0
    if worst > 1 and rng.random() < 0.5 and rest.sum() * AREA_UM**2 > 2 * ACROSS_UM**2:
        areas[_part(rng, rest, share=0.42)] = rng.integers(1, worst)
    return areas


def trace(areas: np.ndarray, classes: Sequence[str]) -> list[Annotation]:
    """Return the outlines (µm) of all class areas; none overlaps another."""
    taken: shapely.Geometry = shapely.MultiPolygon()
    annotations = []
    for value in sorted(set(areas[areas != GLASS].tolist()), reverse=True):
        for outline in _outlines(areas == value):
            free = shapely.make_valid(outline.difference(taken))
            parts = [p for p in shapely.get_parts(free) if isinstance(p, shapely.Polygon)]
            parts = [p for p in parts if p.area > 100 * AREA_UM**2]
            annotations += [Annotation(part, classes[value]) for part in parts]
            taken = shapely.union_all([taken, *parts])
    return annotations[::-1]


def _grow_tissue(rng: np.random.Generator, size_um: tuple[float, float]) -> np.ndarray:
    """Return a mask of one or two pieces with wavy outlines and, now and then, a tear."""
    width, height = (int(np.ceil(extent / AREA_UM)) for extent in size_um)
    ys, xs = np.mgrid[:height, :width]
    x, y = (xs + 0.5) / width, (ys + 0.5) / height
    centres, radii = _piece_places(rng, size_um)
    solid = np.full((height, width), -9.0)
    for (cx, cy), (rx, ry) in zip(centres, radii, strict=True):
        ring = (np.abs((x - cx) / rx) ** 2.6 + np.abs((y - cy) / ry) ** 2.6) ** (1 / 2.6)
        solid = np.maximum(solid, 1 - ring)
    waves = ((1100, 0.07), (380, 0.03), (120, 0.012))
    for wavelength_um, amplitude in waves:
        solid += amplitude * smooth_noise(rng, solid.shape, wavelength_um / AREA_UM)
    mask = (solid > 0).astype(np.uint8)
    edge = round(MARGIN_UM / AREA_UM)
    mask[:edge] = mask[-edge:] = mask[:, :edge] = mask[:, -edge:] = 0
    for _ in range(int(rng.integers(0, 3))):
        _tear(rng, mask)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    return _keep_large(cv2.morphologyEx(mask, cv2.MORPH_OPEN, disk), PIECE_UM2 / AREA_UM**2)


def _piece_places(
    rng: np.random.Generator, size_um: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and radii of the pieces, relative to the slide."""
    if rng.random() < 0.5 or max(size_um) < 2 * (ACROSS_UM + MARGIN_UM):
        return np.array([[0.5, 0.5]]), np.array([[0.41, 0.37]])
    share = rng.uniform(0.42, 0.58)
    gap, first, second = 0.055, 0.04 + 0.92 * share / 2, 0.5 + 0.92 * share / 2
    centres = np.array([[first, rng.uniform(0.48, 0.52)], [second, rng.uniform(0.48, 0.52)]])
    radii = np.array([[0.46 * share - gap, 0.375], [0.46 * (1 - share) - gap, 0.365]])
    return (centres, radii) if size_um[0] >= size_um[1] else (centres[:, ::-1], radii[:, ::-1])


def _tear(rng: np.random.Generator, mask: np.ndarray) -> None:
    """Cut a thin wandering gap into the tissue."""
    n = int(rng.integers(20, 60))
    heading = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.16, n))
    steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * 30 / AREA_UM
    path = rng.uniform(0.2, 0.8, 2) * mask.shape[::-1] + np.cumsum(steps, axis=0)
    widths = np.sin(np.linspace(0, np.pi, n)) * rng.uniform(30, 90) / AREA_UM
    for (x, y), width in zip(path, widths, strict=True):
        cv2.circle(mask, (round(x), round(y)), round(width / 2), 0, -1)


def _part(rng: np.random.Generator, region: np.ndarray, *, share: float) -> np.ndarray:
    """Return one connected, blobby part with about `share` of the region.

    Several cuts are tried; the first that leaves both sides wide enough is taken, else the one
    whose narrower side is widest.
    """
    best, best_width = region, -1.0
    for _ in range(24):
        part = _cut(rng, region, share)
        width = min(_inner_um(part), _inner_um(region & ~part))
        wanted = 0.7 * share < part.sum() / region.sum() < 1.25 * share
        if wanted and width > best_width:
            best, best_width = part, width
        if best_width >= ACROSS_UM:
            break
    return best


def _cut(rng: np.random.Generator, region: np.ndarray, share: float) -> np.ndarray:
    ys, xs = np.mgrid[: region.shape[0], : region.shape[1]]
    angle = rng.uniform(0, 2 * np.pi)
    slope = (xs * np.cos(angle) + ys * np.sin(angle)) / max(region.shape)
    slope = slope + 0.12 * smooth_noise(rng, region.shape, 1800 / AREA_UM)
    slope = slope + 0.045 * smooth_noise(rng, region.shape, 650 / AREA_UM)
    part = region & (slope > np.quantile(slope[region], 1 - share))
    part = _keep_large(part.astype(np.uint8), None)
    rest = _keep_large((region & ~part).astype(np.uint8), 1e6 / AREA_UM**2)
    return region & ~rest & (part | _touching(region & ~part & ~rest, part))


def _touching(parts: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return those connected parts that touch `other`."""
    _, labels = cv2.connectedComponents(parts.astype(np.uint8))
    near = cv2.dilate(other.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.isin(labels, np.unique(labels[near & parts])) & parts


def _keep_large(mask: np.ndarray, min_cells: float | None) -> np.ndarray:
    """Keep components of at least `min_cells`, or only the largest one."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    sizes = stats[:, cv2.CC_STAT_AREA].astype(float)
    sizes[0] = 0
    largest = max(sizes.max(), 1)
    kept = sizes >= (largest if min_cells is None else min(min_cells, largest))
    kept[0] = False
    return np.asarray(kept[labels])


def _inner_um(mask: np.ndarray) -> float:
    """Return the diameter of the widest circle inside the mask."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    return float(2 * AREA_UM * cv2.distanceTransform(padded, cv2.DIST_L2, 5).max())


def _outlines(mask: np.ndarray) -> list[shapely.Polygon]:
    """Return the polygons (µm) around a mask's components, with their holes."""
    fine = refine(mask, TRACE)
    contours, tree = cv2.findContours(
        (fine > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    rings = [(c[:, 0] + 0.5) * (AREA_UM / TRACE) if len(c) > 3 else None for c in contours]
    polygons = []
    for i, shell in enumerate(rings):
        if shell is None or tree[0][i][3] >= 0:
            continue
        holes = [
            r for j, r in enumerate(rings) if tree[0][j][3] == i and r is not None and len(r) > 20
        ]
        polygon = shapely.make_valid(shapely.Polygon(shell, holes).simplify(3.0))
        polygons += [p for p in shapely.get_parts(polygon) if isinstance(p, shapely.Polygon)]
    return polygons
