"""GeoJSON for QuPath: what was found on a slide, its labelled tiles; and back, without loss.

Coordinates count from the corner of the scanned area, as QuPath shows slides; where that lies on
the slide stands in the file's header, and what reads the file adds it. Objects as QuPath 0.4 and
later read them (`QuPathTypeAdapters`): regions, tissue and reviewers' places are annotations, tiles
are tile objects, of which it draws 100,000 quickly.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry import MultiPolygon, Polygon, mapping, shape

from histo_nb.annotations import (
    Annotation,
    make_feature,
    move,
    read_annotation,
    read_features,
    said_origin,
    write_features,
)
from histo_nb.errors import TableError
from histo_nb.export.colours import TISSUE_COLOUR, class_colours, rgb
from histo_nb.export.findings import TILE, Findings
from histo_nb.export.judged import BROKEN, judged_features, judged_rows
from histo_nb.export.templates import USE
from histo_nb.reviews import VERDICTS

FORMAT = 1  # of the header
TISSUE = "Region*"  # QuPath's own class for areas that are no finding; others ignore a class with *
CHUNK = 4096  # tiles in memory as Python objects at a time
ORIGIN = ("label_source", "labelled_by", "labelled_at")


def write_result_geojson(findings: Findings, path: Path) -> Path:
    """Write all that was found on a slide, a feature a line; return the path.

    Memory stays bounded, and the same findings give the same bytes.

    Raises
    ------
    TableError
        A number is not finite.
    """
    header = {
        "format": FORMAT,
        "use": USE,
        "slide_id": findings.slide_id,
        "model_id": findings.model_id,
        "classes": findings.classes,
        "normal_class": findings.normal_class,
        "origin": findings.origin,
    }
    return write_features(_features(findings), path, header=header)


def _features(findings: Findings) -> Iterator[Mapping[str, Any]]:
    classes = _classifications(findings)
    x, y = findings.origin
    if findings.tissue is not None:
        yield _tissue(move(findings.tissue, (-x, -y)))
    for region in findings.regions:
        yield _region(replace(region, outline=move(region.outline, (-x, -y))), classes)
    for feature in judged_features(findings.judged, findings.origin):
        said = feature["properties"].get("classification")
        if said:
            said |= classes.get(said["name"], {})
        yield feature
    for start in range(0, len(findings.tiles), CHUNK):
        for row in findings.tiles.iloc[start : start + CHUNK].to_dict("records"):
            yield _tile(row, findings, classes)


def _classifications(findings: Findings) -> dict[str, dict[str, Any]]:
    """Return how QuPath is told each class."""
    colours = class_colours(findings.classes, normal_class=findings.normal_class)
    return {name: {"name": name, "color": rgb(colour)} for name, colour in colours.items()}


def _tissue(outline: MultiPolygon) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": mapping(outline),
        "properties": {
            "objectType": "annotation",
            "name": "tissue",
            "classification": {"name": TISSUE, "color": rgb(TISSUE_COLOUR)},
            "isLocked": True,
            "metadata": {"kind": "tissue"},
        },
    }


def _region(region: Annotation, classes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    feature = make_feature(region)
    feature["properties"]["classification"] |= classes.get(region.label, {})
    return feature


def _tile(
    row: Mapping[Any, Any], findings: Findings, classes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    probabilities = {f"prob_{label}": row[f"prob_{label}"] for label in findings.classes}
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_ring(row, findings.origin)]},
        "properties": {
            "objectType": "tile",
            "name": row["tile_id"],
            "classification": classes[row["prediction"]],
            "measurements": {**probabilities, "tissue": row["tissue"]},
        },
    }


def _ring(row: Mapping[Any, Any], origin: tuple[int, int]) -> list[list[int]]:
    x, y, size = row["x"] - origin[0], row["y"] - origin[1], row["size_l0"]
    return [[x, y], [x + size, y], [x + size, y + size], [x, y + size], [x, y]]


def read_result_geojson(path: Path) -> Findings:
    """Return what `write_result_geojson` wrote: the same places, numbers and words.

    Raises
    ------
    TableError
        The file is missing, damaged, or was written by another program or a later version.
    """
    features, header = read_features(path)
    try:
        return _findings(features, header, where=str(path))
    except (*BROKEN, shapely.errors.ShapelyError) as error:
        raise TableError(
            f"{path} is none that `histo-nb export` wrote ({error!r}); export the slide again, or "
            "read outlines of other programs with `annotations.read_geojson`"
        ) from error


def _findings(features: list[Any], header: dict[str, Any], *, where: str) -> Findings:
    if header["format"] != FORMAT:
        raise ValueError(f"format {header['format']!r}, this version knows {FORMAT}")
    origin = said_origin(header, where=where)
    parts: dict[str, list[Any]] = {"tissue": [], "region": [], "judged": [], "tile": []}
    for feature in features:
        parts[_part(feature["properties"])].append(feature)
    (tissue,) = parts["tissue"] or [None]
    regions = [read_annotation(feature, where) for feature in parts["region"]]
    return Findings(
        slide_id=str(header["slide_id"]),
        model_id=str(header["model_id"]),
        classes=[str(name) for name in header["classes"]],
        normal_class=str(header["normal_class"]),
        origin=origin,
        regions=[_finite(replace(a, outline=move(a.outline, origin))) for a in regions],
        tiles=_tiles(parts["tile"], header["classes"], origin),
        tissue=None if tissue is None else move(_areas(tissue["geometry"]), origin),
        judged=judged_rows(parts["judged"], origin),
    )


def _part(properties: Mapping[str, Any]) -> str:
    if properties["objectType"] == "tile":
        return "tile"
    kind = properties.get("metadata", {}).get("kind")
    return "tissue" if kind == "tissue" else "judged" if kind in VERDICTS else "region"


def _areas(geometry: Any) -> MultiPolygon:
    outline = shape(geometry)
    if not isinstance(outline, MultiPolygon | Polygon) or not outline.is_valid:
        raise ValueError("the tissue is no valid outline")
    return outline if isinstance(outline, MultiPolygon) else MultiPolygon([outline])


def _finite(region: Annotation) -> Annotation:
    if not np.isfinite([*region.measurements.values()]).all():
        raise ValueError("a measurement is not finite")
    return region


def _tiles(features: list[Any], classes: list[str], origin: tuple[int, int]) -> pd.DataFrame:
    """Return the rows of tiles; a square that is none, or a number that is none, is an error."""
    names = [*TILE, *(f"prob_{label}" for label in classes)]
    rows = [_row(feature, origin) for feature in features]
    table = pd.DataFrame(rows, columns=names)
    texts = dict.fromkeys(("tile_id", "prediction"), object)
    numbers = {name: float for name in names if name not in texts}
    table = table.astype(texts | numbers | dict.fromkeys(("x", "y", "size_l0"), int))
    if not np.isfinite(table[[*numbers]].to_numpy()).all():
        raise ValueError("a tile's number is not finite")
    shares = table[["tissue", *names[len(TILE) :]]].to_numpy()
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("a tile's share of tissue or probability is not from 0 to 1")
    if unknown := set(table.prediction) - set(classes):
        raise ValueError(f"a tile has the class {min(unknown)!r}, which is none of the file's")
    return table


def _row(feature: Any, origin: tuple[int, int]) -> dict[str, Any]:
    (ring,), said = feature["geometry"]["coordinates"], feature["properties"]
    (x, y), size = ring[0], ring[1][0] - ring[0][0]
    row = {"x": x + origin[0], "y": y + origin[1], "size_l0": size}
    if ring != _ring(row, origin) or not all(type(value) is int for value in row.values()):
        raise ValueError("a tile is no square of whole pixels")
    if size <= 0:
        raise ValueError(f"a tile has a side of {size} px")
    name, label = said["name"], said["classification"]["name"]
    return {**said["measurements"], "tile_id": str(name), "prediction": str(label), **row}


def write_label_geojson(
    tiles: pd.DataFrame, path: Path, *, origin: tuple[int, int] = (0, 0)
) -> Path:
    """Write the labelled tiles of one slide with who said so; return the path.

    Read as annotations of the same tiles, the file gives the same labels, if tiles lie side by
    side; where they overlap, a tile may be mixed.

    Parameters
    ----------
    origin
        The file's 0, 0 on the slide (level-0 px); see `findings.scan_origin`.

    Raises
    ------
    TableError
        No tile has a label.
    """
    labelled = tiles[tiles.label.notna()]
    if labelled.empty:
        raise TableError("no tile of this slide has a label; label some on the board")
    features = (_label(row, origin) for row in labelled.to_dict("records"))
    return write_features(features, path, header={"origin": origin})


def _label(row: Mapping[Any, Any], origin: tuple[int, int]) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [_ring(row, origin)]},
        "properties": {
            "objectType": "annotation",
            "metadata": {name: str(row[name]) for name in ORIGIN},
            "classification": {"name": row["label"]},
            "measurements": {"tissue": float(row["tissue"])},
        },
    }
