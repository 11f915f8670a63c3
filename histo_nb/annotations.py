"""Outlines with a class on a slide: QuPath's GeoJSON, ASAP's XML; polygons in level-0 px."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import shapely
from defusedxml import DefusedXmlException, ElementTree
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from histo_nb.errors import TableError
from histo_nb.files import write_json

Outline = Polygon | MultiPolygon
SUFFIXES = (".geojson", ".json", ".xml")
ASAP_POLYGONS = ("Polygon", "Spline", "Rectangle")  # kinds of ASAP's outlines that have an area


@dataclass(frozen=True)
class Annotation:
    """One outline (level-0 px), its class, and measurements by name.

    `feature` keeps what else a GeoJSON feature said (its id, name, colour, lock), so that a file
    that is read and written again has lost nothing.
    """

    outline: Outline
    label: str
    measurements: dict[str, float] = field(default_factory=dict)
    feature: dict[str, Any] = field(default_factory=dict, compare=False)


def write_geojson(annotations: list[Annotation], path: Path) -> Path:
    """Write annotations as a GeoJSON FeatureCollection that QuPath imports; return the path."""
    features = [_feature(annotation) for annotation in annotations]
    return write_json(path, {"type": "FeatureCollection", "features": features}, indent=None)


def _feature(annotation: Annotation) -> dict[str, Any]:
    said = annotation.feature.get("properties", {})
    classification = {**said.get("classification", {}), "name": annotation.label}
    return {
        "type": "Feature",
        **annotation.feature,
        "geometry": mapping(annotation.outline),
        "properties": {
            "objectType": "annotation",
            **said,
            "classification": classification,
            "measurements": annotation.measurements,
        },
    }


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
        _check_closed(feature["geometry"])
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
    said = {name: value for name, value in feature.items() if name != "geometry"}
    said["properties"] = {k: v for k, v in properties.items() if k != "measurements"}
    return Annotation(outline, str(label), measurements, said)


def _check_closed(geometry: dict[str, Any]) -> None:
    # shapely would close an open ring by a line of its own: an outline nobody has drawn.
    polygons = {"Polygon": [geometry["coordinates"]], "MultiPolygon": geometry["coordinates"]}
    for ring in (ring for polygon in polygons.get(geometry["type"], []) for ring in polygon):
        if list(ring[0]) != list(ring[-1]):
            raise ValueError("a ring is open: its last point is not its first")


def read_annotations(path: Path) -> list[Annotation]:
    """Read outlines in the format that the file's suffix names: GeoJSON, or the XML of ASAP.

    Raises
    ------
    TableError
        As `read_geojson` and `read_asap`.
    """
    return read_asap(path) if Path(path).suffix.lower() == ".xml" else read_geojson(path)


def read_asap(path: Path) -> list[Annotation]:
    """Read the outlines of an ASAP file; the class is the group that an outline is part of.

    Raises
    ------
    TableError
        The file is missing or no XML of ASAP, or an outline has no group, is no polygon, or not a
        valid one. Nothing of the file is taken then.
    """
    try:
        root = ElementTree.parse(Path(path)).getroot()
    except DefusedXmlException as error:
        raise TableError(f"{path} declares entities; outlines need none, it is not read") from error
    except (OSError, ValueError, LookupError, ElementTree.ParseError) as error:
        raise TableError(f"{path} is not an XML file: {error}") from error
    if root.tag != "ASAP_Annotations":
        raise TableError(f"{path} holds no ASAP annotations; save them from ASAP again")
    found = root.findall("./Annotations/Annotation")
    return [_asap_outline(entry, f"{path}, annotation {i}") for i, entry in enumerate(found)]


def _asap_outline(entry: Any, where: str) -> Annotation:
    kind, label = entry.get("Type", ""), entry.get("PartOfGroup", "None")
    if kind not in ASAP_POLYGONS:
        raise TableError(f"{where} is a {kind or 'thing of no type'}; only outlines with an area "
                         "label tissue: remove it")  # fmt: skip
    if label in ("", "None"):
        raise TableError(f"{where} is part of no group; put it into the group of its class")
    try:
        points = sorted(
            entry.findall("./Coordinates/Coordinate"), key=lambda p: int(p.get("Order"))
        )
        outline = Polygon([(float(p.get("X")), float(p.get("Y"))) for p in points])
    except (TypeError, ValueError, OverflowError, shapely.errors.ShapelyError) as error:
        raise TableError(f"{where} has no polygon ({error!r}); redraw or remove it") from error
    if outline.is_empty or not outline.is_valid:
        raise TableError(f"{where} is no valid polygon; redraw or remove it")
    return Annotation(outline, label)
