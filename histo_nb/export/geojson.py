"""GeoJSON for QuPath: a slide's regions, its tiles with probabilities, its labelled tiles."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import shapely

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.errors import TableError
from histo_nb.inference.result import SlideResult

ORIGIN = ("label_source", "labelled_by", "labelled_at")


def write_result_geojson(result: SlideResult, path: Path, *, tiles: bool = False) -> Path:
    """Write a slide's abnormal regions, with `tiles` also each tile, in level-0 px; return path."""
    outlines = list(result.regions)
    if tiles:
        names = [f"prob_{label}" for label in result.classes]
        outlines += [
            Annotation(_square(row), row["prediction"], {name: float(row[name]) for name in names})
            for row in result.predictions.to_dict("records")
        ]
    return write_geojson(outlines, path)


def write_label_geojson(tiles: pd.DataFrame, path: Path) -> Path:
    """Write the labelled tiles of one slide, in level-0 px, with who said so; return the path.

    Read as annotations of the same tiles, the file gives the same labels, if tiles lie side by
    side; where they overlap, a tile may be mixed.

    Raises
    ------
    TableError
        No tile has a label.
    """
    if not tiles.label.notna().any():
        raise TableError("no tile of this slide has a label; label some on the board")
    outlines = [
        Annotation(
            _square(row),
            row["label"],
            {"tissue": float(row["tissue"])},
            {"properties": {"metadata": {name: str(row[name]) for name in ORIGIN}}},
        )
        for row in tiles[tiles.label.notna()].to_dict("records")
    ]
    return write_geojson(outlines, path)


def _square(row: Mapping[Any, Any]) -> shapely.Polygon:
    x, y, size = row["x"], row["y"], row["size_l0"]
    return shapely.box(x, y, x + size, y + size)
