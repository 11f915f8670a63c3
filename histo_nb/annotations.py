"""Outlines with a class on a slide: QuPath's GeoJSON, ASAP's XML; polygons in level-0 px."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import shapely
from defusedxml import DefusedXmlException, ElementTree
from shapely.affinity import translate
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from histo_nb.errors import TableError
from histo_nb.files import write_json, writing

Outline = Polygon | MultiPolygon
SUFFIXES = (".geojson", ".json", ".xml")
HEADER = "histo_nb"  # member of a FeatureCollection in which this program speaks of its file
ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
FARTHEST = 1 << 40  # px; no slide is as wide
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
    features = [make_feature(annotation) for annotation in annotations]
    return write_json(path, {"type": "FeatureCollection", "features": features}, indent=None)


def make_feature(annotation: Annotation) -> dict[str, Any]:
    """Return an annotation as a GeoJSON feature, with all that its own feature said."""
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


def write_features(
    features: Iterable[Mapping[str, Any]], path: Path, *, header: Mapping[str, Any]
) -> Path:
    """Write a GeoJSON FeatureCollection, one feature at a time and a line; return the path.

    Parameters
    ----------
    header
        Becomes the member `HEADER`. Its `origin` says where the file's 0, 0 lies on the slide
        (level-0 px): `read_geojson` adds it.

    Raises
    ------
    TableError
        A number is not finite: JSON has no word for it.
    """
    path = Path(path)
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"type":"FeatureCollection","{HEADER}":{_dump(header)},"features":[')
        for number, feature in enumerate(features):
            file.write(",\n" if number else "\n")
            file.write(_dump(feature))
        file.write("\n]}\n")
    return path


def _dump(content: Any) -> str:
    try:
        return ENCODER.encode(content)
    except ValueError as error:
        raise TableError(
            f"a number is not finite, JSON has no word for it ({error}); make what is written again"
        ) from error


def read_features(path: Path) -> tuple[list[Any], dict[str, Any]]:
    """Return the features of a GeoJSON file as they stand there, and its header ({} = none).

    Raises
    ------
    TableError
        The file is missing or no GeoJSON.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise TableError(f"{path} is not a GeoJSON file: {error}") from error
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise TableError(f"{path} holds no GeoJSON features; export annotations from QuPath again")
    header = content.get(HEADER) if isinstance(content, dict) else None
    return features, header if isinstance(header, dict) else {}


def read_geojson(path: Path, *, origin: tuple[int, int] | None = (0, 0)) -> list[Annotation]:
    """Read the classified polygons of a QuPath GeoJSON file, in level-0 px of the whole slide.

    Parameters
    ----------
    origin
        Where the file's 0, 0 lies on the slide (level-0 px), unless the file says so itself. None:
        unknown.

    Raises
    ------
    TableError
        The file is missing or no GeoJSON, an outline has no class or is not a valid polygon, or
        nobody says where its 0, 0 lies.
    """
    features, header = read_features(path)
    origin = said_origin(header, where=str(path)) if header else origin
    found = [read_annotation(feature, f"{path}, feature {i}") for i, feature in enumerate(features)]
    return move_annotations(found, origin, where=str(path))


def said_origin(header: Mapping[str, Any], *, where: str) -> tuple[int, int]:
    """Return where a file's 0, 0 lies on the slide (level-0 px), as its header says.

    Raises
    ------
    TableError
        The header says no such thing.
    """
    match header.get("origin"):
        case [int(x), int(y)] if max(abs(x), abs(y)) < FARTHEST:
            return x, y
    raise TableError(f"{where} does not say where its 0, 0 lies; write it again with histo-nb")


def move_annotations(
    annotations: list[Annotation], by: tuple[int, int] | None, *, where: str = ""
) -> list[Annotation]:
    """Return annotations moved by `x, y` px; None, unknown how far, is a `TableError`."""
    if by is None:
        raise TableError(
            f"{where} does not say where its 0, 0 lies: at the corner of the slide or of its "
            "scanned area, which lie apart here; say annotation_origin='scan' for outlines from "
            "QuPath, 'slide' for those of programs that show the whole slide"
        )
    return [replace(a, outline=move(a.outline, by)) for a in annotations]


def move(outline: Any, by: tuple[int, int]) -> Any:
    """Return a shapely geometry moved by `x, y` px; the same one if there is nowhere to go.

    There and back again is exact where all coordinates are at least as large as what is taken off
    them: places on the scanned area, moved by its own corner.
    """
    return translate(outline, *by) if any(by) else outline


def read_annotation(feature: Any, where: str) -> Annotation:
    """Return a GeoJSON feature as an annotation, as it stands there.

    Raises
    ------
    TableError
        It has no class, or is not a valid polygon.
    """
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
        OverflowError,
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


def read_annotations(path: Path, *, origin: tuple[int, int] | None = (0, 0)) -> list[Annotation]:
    """Read outlines in the format that the file's suffix names: GeoJSON, or the XML of ASAP.

    Parameters
    ----------
    origin
        As `read_geojson`.

    Raises
    ------
    TableError
        As `read_geojson` and `read_asap`.
    """
    if Path(path).suffix.lower() == ".xml":
        return move_annotations(read_asap(path), origin, where=str(path))
    return read_geojson(path, origin=origin)


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
