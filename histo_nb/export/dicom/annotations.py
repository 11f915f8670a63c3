"""Regions and tiles as Microscopy Bulk Simple Annotations, in px of level 0.

A polygon there has no holes and one part. A region with holes, or of parts that touch in a corner,
is cut into polygons without; all of them carry the region's number and its measurements.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import shapely
from highdicom.ann import AnnotationGroup, Measurements, MicroscopyBulkSimpleAnnotations
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

from histo_nb.annotations import Annotation
from histo_nb.export.dicom.job import REGION, Job, category, class_concept, concept, say

UNITS = {"area_mm2": codes.UCUM.SquareMillimeter}


def make_annotations(job: Job) -> MicroscopyBulkSimpleAnnotations:
    """Return a group of polygons a class with regions, and a group of rectangles a class of tiles.

    Rectangles have the probability of each class; polygons what was measured of their region.
    """
    groups: list[AnnotationGroup] = []
    for label in job.result.classes:
        mine = [(n, r) for n, r in enumerate(job.result.regions, 1) if r.label == label]
        if mine:
            groups.append(_region_group(job, label, mine, number=len(groups) + 1))
    for name, tiles in job.result.predictions.groupby("prediction", sort=True):
        groups.append(_tile_group(job, str(name), tiles, number=len(groups) + 1))
    return MicroscopyBulkSimpleAnnotations(
        source_images=[job.source.level0],
        annotation_coordinate_type="2D",
        annotation_groups=groups,
        content_label="ANNOTATIONS",
        content_description="Regions and tiles in px of level 0",
        **job.options("annotations", 3),
    )


def _region_group(
    job: Job, label: str, regions: Sequence[tuple[int, Annotation]], *, number: int
) -> AnnotationGroup:
    pieces = [(n, r, piece) for n, r in regions for piece in split(r.outline)]
    measured = {name: [r.measurements[name] for _, r, _ in pieces] for name in REGION}
    return _group(
        job,
        label,
        number=number,
        name=f"region: {label}",
        graphic_type="POLYGON",
        graphic_data=[_ring(piece) for _, _, piece in pieces],
        measurements=[
            _measure(concept(name), values, UNITS.get(name, codes.UCUM.NoUnits))
            for name, values in (measured | {"region": [n for n, _, _ in pieces]}).items()
        ],
        description="Pieces of one number are one region; measurements are of the whole region",
    )


def _tile_group(job: Job, label: str, tiles: pd.DataFrame, *, number: int) -> AnnotationGroup:
    return _group(
        job,
        label,
        number=number,
        name=f"tile: {label}",
        graphic_type="RECTANGLE",
        graphic_data=list(_squares(tiles)),
        measurements=[
            _measure(class_concept(each, prefix="PROB"), tiles[f"prob_{each}"], codes.UCUM.NoUnits)
            for each in job.result.classes
        ],
        description="Tiles that the model gave this class, with the probability of each class",
    )


def _group(
    job: Job,
    label: str,
    *,
    number: int,
    name: str,
    graphic_type: str,
    graphic_data: list[np.ndarray],
    measurements: list[Measurements],
    description: str,
) -> AnnotationGroup:
    return AnnotationGroup(
        number=number,
        uid=job.uid("annotations", name),
        label=say(name),
        annotated_property_category=category(label, normal_class=job.result.normal_class),
        annotated_property_type=class_concept(label),
        graphic_type=graphic_type,
        graphic_data=graphic_data,
        algorithm_type="AUTOMATIC",
        algorithm_identification=job.algorithm,
        measurements=measurements,
        description=description,
        display_color=job.colour(label),
    )


def _measure(name: CodedConcept, values: Sequence[float] | pd.Series, unit: object) -> Measurements:
    return Measurements(name=name, values=np.asarray(values, np.float32), unit=unit)


def _squares(tiles: pd.DataFrame) -> np.ndarray:
    """Return the corners of tiles, (N, 4, 2) float32: whole numbers up to 16 million are exact."""
    x, y, size = (tiles[name].to_numpy() for name in ("x", "y", "size_l0"))
    across, down = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])
    corners = x[:, None] + size[:, None] * across, y[:, None] + size[:, None] * down
    return np.stack(corners, axis=-1).astype(np.float32)


def _ring(polygon: shapely.Polygon) -> np.ndarray:
    """Return an outer ring, (N, 2) float32, open as annotations have it."""
    return np.asarray(polygon.exterior.coords)[:-1, :2].astype(np.float32)


def split(outline: shapely.Geometry) -> Iterator[shapely.Polygon]:
    """Yield polygons without holes that cover the same area.

    A polygon with holes is cut through the middle one of them, along its shorter side, until none
    is left; where sides are level or upright and corners whole numbers, no place is rounded.
    """
    waiting = list(shapely.get_parts(outline))
    while waiting:
        polygon = waiting.pop()
        if not polygon.interiors:
            yield polygon
            continue
        waiting.extend(p for half in _halves(polygon) for p in _polygons(half))


def _halves(polygon: shapely.Polygon) -> Iterator[shapely.Geometry]:
    left, top, right, bottom = polygon.bounds
    holes = np.array([hole.bounds for hole in polygon.interiors])
    axis = 0 if right - left >= bottom - top else 1
    middles = np.sort(holes[:, axis] + holes[:, axis + 2]) // 2
    cut = float(middles[len(middles) // 2])
    if axis == 0:
        boxes = shapely.box(left, top, cut, bottom), shapely.box(cut, top, right, bottom)
    else:
        boxes = shapely.box(left, top, right, cut), shapely.box(left, cut, right, bottom)
    return (polygon.intersection(box) for box in boxes)


def _polygons(geometry: shapely.Geometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if part.geom_type == "Polygon"]
