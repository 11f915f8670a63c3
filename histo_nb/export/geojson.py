"""Slide results as GeoJSON for QuPath: regions, and the tiles with their probabilities."""

from pathlib import Path

import shapely

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.inference.result import SlideResult


def write_result_geojson(result: SlideResult, path: Path, *, tiles: bool = False) -> Path:
    """Write a slide's abnormal regions, with `tiles` also each tile, in level-0 px; return path."""
    outlines = list(result.regions)
    if tiles:
        names = [f"prob_{label}" for label in result.classes]
        outlines += [
            Annotation(
                shapely.box(
                    row["x"], row["y"], row["x"] + row["size_l0"], row["y"] + row["size_l0"]
                ),
                row["prediction"],
                {name: float(row[name]) for name in names},
            )
            for row in result.predictions.to_dict("records")
        ]
    return write_geojson(outlines, path)
