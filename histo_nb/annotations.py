"""Outlines with a class on a slide, as QuPath's GeoJSON: polygons in level-0 px."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from histo_nb.errors import TableError
from histo_nb.files import write_json

Outline = Polygon | MultiPolygon


@dataclass(frozen=True)
class Annotation:
    """One outline (level-0 px), its class, and measurements by name."""

    outline: Outline
    label: str
    measurements: dict[str, float] = field(default_factory=dict)


def write_geojson(annotations: list[Annotation], path: Path) -> Path:
    """Write annotations as a GeoJSON FeatureCollection that QuPath imports; return the path."""
    features = [
        {
            "type": "Feature",
            "geometry": mapping(a.outline),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": a.label},
                "measurements": a.measurements,
            },
        }
        for a in annotations
    ]
    return write_json(path, {"type": "FeatureCollection", "features": features})


def read_geojson(path: Path) -> list[Annotation]:
    """Read the classified polygons of a QuPath GeoJSON file.

    Raises
    ------
    TableError
        The file is missing or no GeoJSON, or an outline has no class or is not a valid polygon.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path} is not a GeoJSON file: {error}") from error
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise TableError(f"{path} holds no GeoJSON features; export annotations from QuPath again")
    return [_annotation(feature, f"{path}, feature {i}") for i, feature in enumerate(features)]


def _annotation(feature: Any, where: str) -> Annotation:
    try:
        outline = shape(feature["geometry"])
        properties = feature["properties"]
        label = properties["classification"]["name"]
        measurements = properties.get("measurements") or {}
        if isinstance(measurements, list):  # as QuPath wrote them before 0.4
            measurements = {m["name"]: m["value"] for m in measurements}
        measurements = dict(measurements)
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        shapely.errors.ShapelyError,
    ) as error:
        raise TableError(
            f"{where} has no polygon with a class ({error!r}); give each outline a class"
        ) from error
    if not isinstance(outline, Polygon | MultiPolygon) or outline.is_empty or not outline.is_valid:
        raise TableError(f"{where} is no valid polygon; redraw or remove it")
    return Annotation(outline, str(label), measurements)
