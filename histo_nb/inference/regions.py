"""Tile probabilities → heatmap → connected abnormal regions. Loads no torch."""

from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import cv2
import numpy as np
import pandas as pd
import shapely

from histo_nb.annotations import Annotation, Outline


@dataclass(frozen=True)
class Heatmap:
    """Probabilities on the tile grid and where the grid lies on the slide.

    Cell `[row, column]` starts at level-0 `x + column * step, y + row * step`; it is drawn `step`
    wide. NaN = no tile there.
    """

    values: np.ndarray  # float32 (rows, columns), 0–1
    x: int  # level-0 px
    y: int
    step: int  # level-0 px between cells


def make_heatmap(predictions: pd.DataFrame, column: str | pd.Series) -> Heatmap:
    """Lay one column of a prediction table, or a series along it, out on the tile grid.

    Overlapping tiles (stride < size) give one cell a stride.
    """
    values = predictions[column] if isinstance(column, str) else column
    rows, columns, step = _cells(predictions)
    grid = np.full((int(rows.max()) + 1, int(columns.max()) + 1), np.nan, np.float32)
    grid[rows, columns] = values.to_numpy(np.float32)
    return Heatmap(grid, int(predictions.x.min()), int(predictions.y.min()), step)


def find_regions(
    predictions: pd.DataFrame, *, normal_class: str, slide_mpp: float
) -> list[Annotation]:
    """Find connected tiles predicted as the same abnormal class; the largest region first.

    Tiles are connected over sides and corners. Measurements: `area_mm2` (of the tissue in it),
    `probability` and `max_probability` (mean and highest of the class over the region's tiles),
    `n_tiles`.
    """
    numbers = number_regions(predictions, normal_class=normal_class)
    abnormal = numbers >= 0
    regions = [
        _region(tiles, slide_mpp) for _, tiles in predictions[abnormal].groupby(numbers[abnormal])
    ]
    return sorted(regions, key=lambda region: -region.measurements["area_mm2"])


def measure_regions(
    predictions: pd.DataFrame, *, normal_class: str, slide_mpp: float
) -> list[tuple[str, float]]:
    """Return class and `area_mm2` of each region that `find_regions` finds, without its outline.

    Much quicker where tiles do not overlap, for rules that are tuned over many slides.
    """
    numbers = number_regions(predictions, normal_class=normal_class)
    step, size = _cells(predictions)[2], int(predictions.size_l0.iloc[0])
    labels, tissue = predictions.prediction.to_numpy(), predictions.tissue.to_numpy()
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(numbers.max() + 2))
    found = []
    for start, end in pairwise(bounds):
        inside = order[start:end]
        apart = step >= size
        covered = len(inside) * size**2 if apart else _outline(predictions.iloc[inside]).area
        found.append((str(labels[inside[0]]), _area_mm2(covered, tissue[inside], slide_mpp)))
    return found


def number_regions(predictions: pd.DataFrame, *, normal_class: str) -> np.ndarray:
    """Return the number (N,) of the region that each tile is in, from 0; -1 = in none."""
    rows, columns, _ = _cells(predictions)
    labels = predictions.prediction.to_numpy()
    numbers, n_regions = np.full(len(predictions), -1), 0
    for label in sorted(set(labels) - {normal_class}):
        place = rows[labels == label], columns[labels == label]
        grid = np.zeros((int(rows.max()) + 1, int(columns.max()) + 1), np.uint8)
        grid[place] = 1
        n_parts, parts = cv2.connectedComponents(grid, connectivity=8)  # 0 is the background
        numbers[labels == label] = parts[place] - 1 + n_regions
        n_regions += n_parts - 1
    return numbers


def _region(tiles: pd.DataFrame, slide_mpp: float) -> Annotation:
    label = str(tiles.prediction.iloc[0])
    outline, probabilities = _outline(tiles), tiles[f"prob_{label}"]
    measurements = {
        "area_mm2": _area_mm2(outline.area, tiles.tissue.to_numpy(), slide_mpp),
        "probability": float(probabilities.mean()),
        "max_probability": float(probabilities.max()),
        "n_tiles": len(tiles),
    }
    return Annotation(outline, label, measurements)


def _outline(tiles: pd.DataFrame) -> Outline:
    squares = shapely.box(tiles.x, tiles.y, tiles.x + tiles.size_l0, tiles.y + tiles.size_l0)
    return cast(Outline, shapely.union_all(squares))


def _area_mm2(covered_l0: float, tissue: np.ndarray, slide_mpp: float) -> float:
    """Return the tissue in an area of level-0 px²; sums are sorted: no order of rows changes it."""
    return float(covered_l0 * (slide_mpp / 1000) ** 2 * np.sort(tissue).mean())


def _cells(predictions: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, int]:
    """Return row and column (N,) of each tile on the grid, and its step in level-0 px."""
    x, y = predictions.x.to_numpy(), predictions.y.to_numpy()
    step = _step(x, y, int(predictions.size_l0.iloc[0]))
    return (y - y.min()) // step, (x - x.min()) // step, step


def _step(x: np.ndarray, y: np.ndarray, size: int) -> int:
    # The smallest gap is not enough: with few tiles no two neighbours may be among them.
    gaps = np.concatenate([np.diff(np.unique(axis)) for axis in (x, y)])
    step = int(np.gcd.reduce(gaps))  # 0 for a single tile
    return size if step % size == 0 else step
