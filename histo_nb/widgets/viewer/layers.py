"""What lies over a slide in the viewer: heatmaps, tissue, regions, drawn places; in level-0 px."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import mapping

from histo_nb.annotations import Annotation
from histo_nb.inference.regions import Heatmap, make_heatmap
from histo_nb.inference.result import SlideResult
from histo_nb.masking.tissue import TissueMask
from histo_nb.widgets.palette import encode_png

NOTHING = 255  # a cell without a tile; probabilities are 0–254
TISSUE_PX = 1500  # longest side of the tissue as it is sent
ABNORMAL = "Abnormal"


def heatmap_layer(result: SlideResult) -> dict[str, Any]:
    """Return the probability of each class, and of any abnormal one, on the tile grid.

    `values` holds one byte a cell, row by row: 0–254 is 0–1, 255 = no tile there.
    """
    table = result.predictions
    columns = {ABNORMAL: 1 - table[f"prob_{result.normal_class}"]}
    columns |= {label: table[f"prob_{label}"] for label in result.classes}
    maps = {label: make_heatmap(table, values) for label, values in columns.items()}
    first = next(iter(maps.values()))
    rows, n_columns = first.values.shape
    place = {"x": first.x, "y": first.y, "step": first.step, "rows": rows, "columns": n_columns}
    return place | {
        "maps": [{"label": label, "values": _bytes(found)} for label, found in maps.items()]
    }


def _bytes(heatmap: Heatmap) -> bytes:
    known = np.nan_to_num(heatmap.values).clip(0, 1) * (NOTHING - 1)
    return np.where(np.isnan(heatmap.values), NOTHING, known.round()).astype(np.uint8).tobytes()


def tissue_layer(mask: TissueMask) -> dict[str, Any]:
    """Return tissue as a PNG, white and clear, with the size that it covers."""
    height, width = mask.array.shape
    shrinking = max(max(height, width) / TISSUE_PX, 1)
    size = max(round(width / shrinking), 1), max(round(height / shrinking), 1)
    alpha = cv2.resize(mask.array.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    rgba = np.dstack([np.full((*alpha.shape, 3), 255, np.uint8), alpha])
    return {
        "png": encode_png(rgba),
        "width": width * mask.downsample,
        "height": height * mask.downsample,
    }


def region_layer(region: Annotation, colours: Mapping[str, str]) -> dict[str, Any]:
    """Return one region for the browser: outline, colour, where its number stands."""
    polygons = getattr(region.outline, "geoms", [region.outline])
    corners = [point for polygon in polygons for point in polygon.exterior.coords]
    return {
        "label": region.label,
        "colour": colours.get(region.label),
        "corner": [float(value) for value in min(corners, key=sum)],
        "bounds": [float(value) for value in region.outline.bounds],
        "geometry": mapping(region.outline),
    }


def drawn_layer(
    reviews: pd.DataFrame, colours: Mapping[str, str], *, reviewer: str
) -> list[dict[str, Any]]:
    """Return what reviewers drew on one slide; `reviewer` may change their own.

    See `Catalog.reviews`.
    """
    drawn = reviews[(reviews.kind == "annotation") & reviews.outline.notna()]
    return [
        {
            "id": row["subject"],
            "label": row["label"],
            "note": row["note"] or "",
            "who": row["reviewer"],
            "is_mine": row["reviewer"] == reviewer,
            "colour": colours.get(row["label"]),
            "geometry": json.loads(row["outline"]),
        }
        for row in drawn.to_dict("records")
    ]


def draw_regions(
    picture: np.ndarray, regions: Sequence[Mapping[str, Any]], *, scale: float
) -> None:
    """Draw outlines into an RGB picture of `scale` px a level-0 px."""
    for region in regions:
        colour = region["colour"] or "#000000"
        rgb = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        polygons = shapely.geometry.shape(region["geometry"])
        for polygon in getattr(polygons, "geoms", [polygons]):
            rings = [
                np.round(np.array(ring.coords) * scale).astype(np.int32)
                for ring in (polygon.exterior, *polygon.interiors)
            ]
            cv2.polylines(picture, rings, isClosed=True, color=rgb, thickness=2)
