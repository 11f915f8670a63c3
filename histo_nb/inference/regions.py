"""Tile probabilities → heatmap → connected abnormal regions. Loads no torch."""

from dataclasses import dataclass
from typing import cast

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
    x, y = predictions.x.to_numpy(), predictions.y.to_numpy()
    step = _step(x, y, int(predictions.size_l0.iloc[0]))
    columns, rows = (x - x.min()) // step, (y - y.min()) // step
    grid = np.full((int(rows.max()) + 1, int(columns.max()) + 1), np.nan, np.float32)
    grid[rows, columns] = values.to_numpy(np.float32)
    return Heatmap(grid, int(x.min()), int(y.min()), step)


def find_regions(
    predictions: pd.DataFrame, *, normal_class: str, slide_mpp: float
) -> list[Annotation]:
    """Find connected tiles predicted as the same abnormal class; the largest region first.

    Tiles are connected over sides and corners. Measurements: `area_mm2` (of the tissue in it),
    `probability` (mean over the region's tiles), `n_tiles`.
    """
    from scipy import ndimage  # noqa: PLC0415 - 0.3 s that reading results does not need

    regions = []
    for label in sorted(set(predictions.prediction) - {normal_class}):
        chosen = predictions.prediction == label
        heatmap = make_heatmap(predictions, chosen.astype(float))
        parts, _ = ndimage.label(heatmap.values == 1, structure=np.ones((3, 3)))
        rows = (predictions.y - heatmap.y) // heatmap.step
        columns = (predictions.x - heatmap.x) // heatmap.step
        part = pd.Series(parts[rows, columns], index=predictions.index)
        for _, tiles in predictions[chosen].groupby(part[chosen]):
            regions.append(_region(tiles, label, slide_mpp))
    return sorted(regions, key=lambda region: -region.measurements["area_mm2"])


def _region(tiles: pd.DataFrame, label: str, slide_mpp: float) -> Annotation:
    squares = shapely.box(tiles.x, tiles.y, tiles.x + tiles.size_l0, tiles.y + tiles.size_l0)
    outline = cast(Outline, shapely.union_all(squares))
    measurements = {
        "area_mm2": outline.area * (slide_mpp / 1000) ** 2 * float(tiles.tissue.mean()),
        "probability": float(tiles[f"prob_{label}"].mean()),
        "n_tiles": len(tiles),
    }
    return Annotation(outline, label, measurements)


def _step(x: np.ndarray, y: np.ndarray, size: int) -> int:
    # The smallest gap is not enough: with few tiles no two neighbours may be among them.
    gaps = np.concatenate([np.diff(np.unique(axis)) for axis in (x, y)])
    step = int(np.gcd.reduce(gaps))  # 0 for a single tile
    return size if step % size == 0 else step
