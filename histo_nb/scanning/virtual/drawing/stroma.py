"""What lies between the glands: fat, vessels, and the cells of the stroma."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely

from histo_nb.scanning.virtual.drawing.cells import Sower, rim
from histo_nb.scanning.virtual.drawing.rasters import (
    AREA_UM,
    GLASS,
    MAP_UM,
    depth_um,
    extent_um,
    lookup,
    smooth_noise,
)
from histo_nb.scanning.virtual.drawing.shapes import blob, fill

FAT_MM2, VESSELS_MM2 = 0.09, 2.2  # lobules and vessels a mm²; the same in all classes
FAT_WALL_UM, FAT_CORNER_UM = 8.5, 10.0  # between fat cells; radius of their corners
CROWDED = 2.2  # cells are sown so many times too dense, then thinned by the place

# Cells per mm² of stroma, round and spindle: what the epithelium of a class lacks in nuclei its
# stroma has, so that the share of haematoxylin is alike in all classes.
STROMA_CELLS = {"normal": (9500, 900), "adenoma": (2200, 700), "carcinoma": (2700, 1800)}


@dataclass(frozen=True, kw_only=True)
class Spaces:
    """Holes that are no glands: (rows, columns) uint8 at MAP_UM, 255 inside."""

    hole: np.ndarray
    keep_out: np.ndarray  # hole and wall; no gland grows here


def make_spaces(sower: Sower, tissue: np.ndarray) -> Spaces:
    """Return fat lobules and vessels strewn over the tissue."""
    rng, size_um = sower.rng, extent_um(tissue)
    spaces = Spaces(hole=np.zeros_like(tissue), keep_out=np.zeros_like(tissue))
    mm2 = size_um.prod() / 1e6
    for centre in rng.uniform(0, 1, (rng.poisson(FAT_MM2 * mm2), 2)) * size_um:
        if lookup(tissue, centre[None], MAP_UM)[0] > 200:
            _add_fat(rng, spaces, centre)
    for centre in rng.uniform(0, 1, (rng.poisson(VESSELS_MM2 * mm2), 2)) * size_um:
        if lookup(spaces.keep_out, centre[None], MAP_UM, outside=GLASS)[0] == 0:
            _add_vessel(sower, spaces, centre)
    inside = (tissue > 160).astype(np.uint8) * 255
    return Spaces(hole=cv2.bitwise_and(spaces.hole, inside), keep_out=spaces.keep_out)


def _add_fat(rng: np.random.Generator, spaces: Spaces, centre: np.ndarray) -> None:
    """Add a lobule: cells pressed flat against one another, with thin walls."""
    radius, pitch = rng.uniform(110, 210), rng.uniform(38, 48)
    around = rng.uniform(-1, 1, (round(14 * (radius / pitch) ** 2), 2)) * 1.5 * radius
    around = around[_apart(around, 0.78 * pitch)]
    for cell in shapely.get_parts(shapely.voronoi_polygons(shapely.MultiPoint(around))):
        uneven = radius * rng.uniform(0.85, 1.1)
        if cell.area < 4 * pitch**2 and np.hypot(cell.centroid.x, cell.centroid.y) < uneven:
            drop = cell.buffer(-FAT_CORNER_UM - FAT_WALL_UM / 2).buffer(FAT_CORNER_UM)
            if isinstance(drop, shapely.Polygon):
                fill(spaces.hole, shapely.get_coordinates(drop.exterior) + centre)
            fill(spaces.keep_out, shapely.get_coordinates(cell.buffer(9)) + centre)


def _apart(points: np.ndarray, least_um: float) -> list[int]:
    """Return the numbers of points that keep a distance from all that were kept before."""
    kept: list[int] = []
    for i, point in enumerate(points):
        if not kept or np.hypot(*(points[kept] - point).T).min() > least_um:
            kept.append(i)
    return kept


def _add_vessel(sower: Sower, spaces: Spaces, centre: np.ndarray) -> None:
    rng = sower.rng
    radius = float(rng.uniform(9, 28))
    outline = blob(rng, radius, stretch=rng.uniform(1, 1.5), turn=rng.uniform(0, np.pi))
    wall = outline * (1 + 4.5 / radius)
    fill(spaces.hole, outline + centre)
    fill(spaces.keep_out, outline * (1 + 9 / radius) + centre)
    if rng.random() < 0.5:
        n = int(0.03 * radius**2)
        place, reach = rng.uniform(0, 2 * np.pi, n), np.sqrt(rng.uniform(0, 0.55, n)) * radius
        points = np.stack([np.cos(place), np.sin(place)], 1) * reach[:, None]
        sower.sow("red", centre + points, place, plane="red")
    picked = np.linspace(0, len(wall), int(radius * 0.28) + 2, endpoint=False).astype(np.int64)
    edge = np.roll(wall, -1, axis=0) - np.roll(wall, 1, axis=0)
    sower.sow("spindle", centre + wall[picked], np.arctan2(edge[picked, 1], edge[picked, 0]))


def sow_stroma(
    sower: Sower, free: np.ndarray, areas: np.ndarray, *, classes: Sequence[str]
) -> None:
    """Sow lymphocytes, plasma cells and fibroblasts; `free` is 255 between the glands."""
    rng, depth = sower.rng, depth_um(free)
    busy = np.exp(0.6 * smooth_noise(rng, areas.shape, 500 / AREA_UM) - 0.18)
    flow = np.pi * smooth_noise(rng, areas.shape, 420 / AREA_UM)
    for value, name in enumerate(classes):
        n_round, n_spindle = STROMA_CELLS[name]
        here = (areas == value).astype(np.float32)
        for kind, density, share in (
            ("lymphocyte", n_round / 2, here * busy),
            ("plasma", n_round / 2, here * busy),
            ("spindle", n_spindle, here),
        ):
            points = _strew(rng, depth, share, density)
            angles = lookup(flow, points, AREA_UM) + rng.normal(0, 0.25, len(points))
            sower.sow(kind, points, angles if kind == "spindle" else 5 * angles)
    points, angles = rim(rng, depth, at_um=2.0, step_um=26.0)
    sower.sow("spindle", points, angles + np.pi / 2)


def _strew(
    rng: np.random.Generator, depth: np.ndarray, share: np.ndarray, density: float
) -> np.ndarray:
    """Return points (n, 2) with `density * share` per mm², 2.5 µm clear of anything else."""
    size_um = extent_um(depth)
    n = rng.poisson(CROWDED * density * size_um.prod() / 1e6)
    points = rng.uniform(0, 1, (n, 2)) * size_um
    kept = rng.uniform(size=n) * CROWDED < lookup(share, points, AREA_UM)
    kept &= lookup(depth, points, MAP_UM) > 2.5
    return np.asarray(points[kept])
