"""All that is known of places on one slide, as one thing: what a file for QuPath carries."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry import MultiPolygon

from histo_nb.annotations import Annotation
from histo_nb.errors import SlideError
from histo_nb.export.judged import JUDGED
from histo_nb.home import Home
from histo_nb.inference.result import find_result, read_result
from histo_nb.masking.masks import mask_path, read_mask
from histo_nb.slide import Slide

TILE = ["tile_id", "x", "y", "size_l0", "tissue", "prediction"]  # then prob_<class>


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was found on a slide, all of it in level-0 px of the whole slide."""

    slide_id: str
    model_id: str
    classes: list[str]
    normal_class: str
    origin: tuple[int, int]  # corner of the scanned area, level-0 px: QuPath's 0, 0
    regions: list[Annotation]  # abnormal, with their measurements
    tiles: pd.DataFrame  # the columns TILE, then prob_<class>; no row: without tiles
    tissue: MultiPolygon | None  # None = no mask was kept, or it found none
    judged: pd.DataFrame  # what reviewers said and drew: the columns JUDGED


def collect_findings(
    home: Home, slide_id: str, *, tiles: bool = False, folder: Path | None = None
) -> Findings:
    """Return what was found on a slide.

    Parameters
    ----------
    tiles
        With each tile.
    folder
        Of the result; the latest one's by default.

    Raises
    ------
    CatalogError
        There is no such slide, or it was not analysed.
    SlideError
        The slide does not open: only it says where its scanned area begins.
    """
    row = home.catalog.slide(slide_id)
    result = read_result(folder or find_result(home, slide_id))
    reviews = home.catalog.reviews([slide_id])
    columns = [*TILE, *(f"prob_{label}" for label in result.classes)]
    return Findings(
        slide_id=slide_id,
        model_id=result.model_id,
        classes=result.classes,
        normal_class=result.normal_class,
        origin=scan_origin(row),
        regions=result.regions,
        tiles=result.predictions[columns] if tiles else result.predictions[columns].iloc[:0],
        tissue=_find_tissue(home, row),
        judged=reviews.loc[reviews.outline.notna(), JUDGED].reset_index(drop=True),
    )


def scan_origin(row: dict[str, Any]) -> tuple[int, int]:
    """Return the corner of a slide's scanned area, level-0 px, from its row in the catalogue.

    QuPath shows a slide cropped to that area, and counts from its corner. Source: its
    `OpenslideImageServer`, since version 0.2.
    """
    with Slide(row["slide_path"]) as slide:
        return slide.bounds[:2]


def _find_tissue(home: Home, row: dict[str, Any]) -> MultiPolygon | None:
    try:
        mask = read_mask(mask_path(home, row["slide_id"]))
    except SlideError:
        return None
    if not mask.array.any():
        return None
    outline = outline_pixels(mask.array)
    size = (row["width"], row["height"])  # the mask's last pixels may reach beyond it
    return shapely.transform(outline, lambda xy: np.minimum(xy * mask.downsample, size))


def outline_pixels(mask: np.ndarray) -> MultiPolygon:
    """Return the outline of a (H, W) bool mask along the edges of its pixels, holes kept, in px.

    >>> outline_pixels(np.array([[False, True], [True, True]])).area
    3.0
    """
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    (rows, left), (_, right) = np.nonzero(edges == 1), np.nonzero(edges == -1)
    whole = shapely.union_all(shapely.box(left, rows, right, rows + 1))
    return MultiPolygon([*shapely.get_parts(whole)])
