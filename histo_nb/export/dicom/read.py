"""Reads the objects of a result back: heatmaps, areas, regions, tiles and what the report says.

What was written by others is no concern of this: it takes the codes and groups that we write.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import shapely
from highdicom.ann import AnnotationGroup, annread
from highdicom.seg import Segmentation, segread
from highdicom.sr import srread
from pydicom import Dataset

from histo_nb.annotations import Annotation, Outline
from histo_nb.errors import TableError
from histo_nb.export.dicom.job import NAMES, REGION, concept
from histo_nb.export.dicom.segmentation import Grid
from histo_nb.inference.regions import Heatmap

GRID = re.compile(r"(?P<fine>\d+) px = (?P<step>\d+) px of level 0 from (?P<x>-?\d+), (?P<y>-?\d+)")
COMMENT = "121106"
BAD = (OSError, ValueError, TypeError, AttributeError, LookupError, RuntimeError)


@dataclass(frozen=True, kw_only=True)
class DicomResults:
    """What the objects say; places are level-0 px."""

    slide_id: str
    heatmaps: dict[str, Heatmap]  # a class; 0 where no tile is, or where it is improbable
    areas: dict[str, Outline]  # of the tiles of an abnormal class, all regions as one
    regions: list[Annotation]  # in the order of their numbers
    tiles: pd.DataFrame  # x, y, size_l0, prediction, prob_<class>
    report: dict[str, Any]  # by the names of `SlideResult`; "comments" has the texts


def read_dicom_results(folder: Path) -> DicomResults:
    """Read what `write_dicom_results` wrote.

    Raises
    ------
    TableError
        A file is missing, or is no such object.
    """
    folder = Path(folder)
    try:
        heatmap, regions = (segread(folder / f"{name}.dcm") for name in ("heatmap", "regions"))
        annotations = annread(folder / "annotations.dcm")
        groups = annotations.get_annotation_groups()
        return DicomResults(
            slide_id=str(heatmap.ContainerIdentifier),
            heatmaps=_read_heatmaps(heatmap),
            areas=_read_areas(regions),
            regions=_read_regions([g for g in groups if g.GraphicType == "POLYGON"]),
            tiles=_read_tiles([g for g in groups if g.GraphicType == "RECTANGLE"]),
            report=_read_report(srread(folder / "report.dcm")),
        )
    except BAD as error:
        raise TableError(
            f"{folder} holds no results in DICOM ({type(error).__name__}); write them with "
            "`histo-nb export --dicom`"
        ) from error


def _labels(segmentation: Segmentation) -> list[str]:
    return [str(segment.SegmentLabel) for segment in segmentation.SegmentSequence]


def _grid(segmentation: Segmentation) -> Grid:
    found = GRID.fullmatch(str(segmentation.ContentDescription))
    if not found:
        raise ValueError("the object does not say how its pixels lie on level 0")
    return Grid(**{name: int(value) for name, value in found.groupdict().items()})


def _read_heatmaps(segmentation: Segmentation) -> dict[str, Heatmap]:
    grid, values = _grid(segmentation), segmentation.get_total_pixel_matrix()
    return {
        label: Heatmap(values[..., i], grid.x, grid.y, grid.step)
        for i, label in enumerate(_labels(segmentation))
    }


def _read_areas(segmentation: Segmentation) -> dict[str, Outline]:
    grid, found = _grid(segmentation), {}
    for number, label in zip(segmentation.segment_numbers, _labels(segmentation), strict=True):
        mask = segmentation.get_total_pixel_matrix(segment_numbers=[number])[..., 0]
        found[label] = outline_pixels(mask.astype(np.uint8), grid)
    return found


def outline_pixels(mask: np.ndarray, grid: Grid) -> Outline:
    """Return the area of the pixels of a mask (rows, columns) that are 1, holes left out."""
    bars = []
    for row, line in enumerate(mask):
        edges = np.flatnonzero(np.diff(line, prepend=0, append=0)).reshape(-1, 2)
        y = np.full(len(edges), row)
        bars.append(shapely.box(edges[:, 0], y, edges[:, 1], y + 1))
    area = shapely.union_all(np.concatenate(bars)) if bars else shapely.MultiPolygon()
    px = grid.step / grid.fine
    placed = shapely.transform(area, lambda points: points * px + [grid.x, grid.y])
    return cast(Outline, placed)


def _measured(group: AnnotationGroup) -> dict[str, np.ndarray]:
    """Return what was measured of a group's annotations, (N,) by the value of its code."""
    names, values, _ = group.get_measurements()
    return {name.value: values[:, i] for i, name in enumerate(names)}


def _read_regions(groups: list[AnnotationGroup]) -> list[Annotation]:
    found: dict[int, Annotation] = {}
    codes = {name: concept(name).value for name in (*REGION, "region")}
    for group in groups:
        label, measured = _meaning(group), _measured(group)
        numbers = measured[codes["region"]].astype(int)
        rings = [shapely.Polygon(ring) for ring in group.get_graphic_data("2D")]
        starts = np.flatnonzero(np.diff(numbers, prepend=-1))  # pieces of a region lie together
        for start, end in pairwise([*starts.tolist(), len(numbers)]):
            said = {name: float(measured[codes[name]][start]) for name in REGION}
            outline = cast(Outline, shapely.union_all(rings[start:end]))
            found[int(numbers[start])] = Annotation(outline, label, said)
    return [found[number] for number in sorted(found)]


def _read_tiles(groups: list[AnnotationGroup]) -> pd.DataFrame:
    names = {str(m.name.value): str(m.name.meaning) for g in groups for m in g.MeasurementsSequence}
    tables = []
    for group in groups:
        corners = np.stack(group.get_graphic_data("2D")).astype(np.int64)
        columns: dict[str, Any] = {
            "x": corners[:, 0, 0],
            "y": corners[:, 0, 1],
            "size_l0": corners[:, 2, 0] - corners[:, 0, 0],
            "prediction": _meaning(group),
        }
        measured = _measured(group)
        columns |= {f"prob_{names[code]}": values for code, values in measured.items()}
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True).sort_values(["y", "x"], ignore_index=True)


def _meaning(item: Dataset) -> str:
    return str(item.AnnotationPropertyTypeCodeSequence[0].CodeMeaning)


def _read_report(document: Dataset) -> dict[str, Any]:
    """Return the measurements of the slide, its class, the model and the comments."""
    container = _named(document.ContentSequence, "126010")[0]  # Imaging Measurements
    slide, *regions = container.ContentSequence
    names = {concept(name).value: name for name in NAMES}
    said: dict[str, Any] = {
        "is_verified": document.VerificationFlag == "VERIFIED",
        "n_regions_listed": len(regions),
        "model_id": str(_named(slide.ContentSequence, "111001")[0].TextValue),
        "parameters": [str(item.TextValue) for item in _named(slide.ContentSequence, "111002")],
        "comments": [str(item.TextValue) for item in _named(slide.ContentSequence, COMMENT)],
    }
    for item in slide.ContentSequence:
        name = names.get(str(item.ConceptNameCodeSequence[0].CodeValue))
        if name:
            said[name] = _value(item)
    return said


def _named(items: Any, code: str) -> list[Any]:
    return [item for item in items if item.ConceptNameCodeSequence[0].CodeValue == code]


def _value(item: Any) -> Any:
    if item.ValueType == "NUM":
        return float(item.MeasuredValueSequence[0].NumericValue)
    return str(item.ConceptCodeSequence[0].CodeMeaning)
