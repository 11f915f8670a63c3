"""Files of annotations → labels of tiles, with who said so and when."""

import glob
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import shapely

from histo_nb.annotations import SUFFIXES, Annotation, read_annotations
from histo_nb.catalog import account, now
from histo_nb.errors import SpecError, TableError
from histo_nb.home import Home
from histo_nb.slide import Slide
from histo_nb.tables import LABELLED_TILES, TILES, check_table
from histo_nb.tiling.areas import MASK_SUFFIXES, mask_areas, outline_areas, read_class_mask
from histo_nb.tiling.pictures import find_sorted_tiles, read_sorted_tiles

CLASSES_FILE = "classes.json"  # beside masks: {"0": "", "1": "normal"}
AnnotationOrigin = Literal["scan", "slide"]  # a file's 0, 0: corner of the scanned area, or of all
SORTED = "sorted tiles"  # label_source of tiles that lie in folders of classes
MIN_LABEL_FRACTION = 0.75  # of a tile's tissue; what else is in it is then a quarter at the most


def label_tiles(
    tiles: pd.DataFrame,
    areas: Mapping[str, np.ndarray],
    *,
    min_label_fraction: float = MIN_LABEL_FRACTION,
    source: str,
) -> pd.DataFrame:
    """Label the tiles of one slide by the class that covers most of their tissue.

    A tile is labelled if one class covers at least `min_label_fraction` of its tissue (of the
    tile, times its tissue share) and of all that is classified in it; else it is mixed and stays
    unlabelled.

    Parameters
    ----------
    tiles
        Rows of one slide's tile table.
    areas
        Level-0 px² of each tile that each class covers; see `outline_areas`, `mask_areas`.
    source
        Where the classes came from.
    """
    if not 0 < min_label_fraction <= 1:
        raise SpecError(f"min_label_fraction={min_label_fraction} is a share; choose 0–1")
    labels, shares = class_shares(tiles, areas)
    fraction = shares.max(axis=1)
    known = fraction >= min_label_fraction
    return make_labels(
        tiles,
        labels=np.where(known, labels[shares.argmax(axis=1)], np.array(None, dtype=object)),
        fractions=fraction,
        source=source,
    )


def class_shares(
    tiles: pd.DataFrame, areas: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes (C,), at least one, and the share (N, C) of each tile's tissue they cover.

    Outlines of two classes may overlap, or both reach over glass: neither may then count as all,
    so that the shares of a tile never sum to more than 1.
    """
    labels = np.array([*areas] or [""], dtype=object)
    covered = np.stack([*areas.values()] or [np.zeros(len(tiles))], axis=1)
    tissue = tiles.size_l0.to_numpy(float) ** 2 * tiles.tissue.to_numpy()
    return labels, covered / np.maximum(tissue, covered.sum(axis=1))[:, None]


def make_labels(
    tiles: pd.DataFrame,
    *,
    labels: np.ndarray,
    fractions: np.ndarray | float = np.nan,
    source: str,
) -> pd.DataFrame:
    """Return tile rows with `labels` (None = unlabelled), said now, by this account."""
    known = labels != np.array(None)

    def where(value: Any) -> np.ndarray:
        return np.where(known, np.asarray(value, dtype=object), np.array(None, dtype=object))

    return check_table(
        tiles.assign(
            label=labels,
            label_fraction=np.where(known, fractions, np.nan),
            label_source=where(source),
            labelled_by=where(account()),
            labelled_at=where(now()),
        ),
        LABELLED_TILES,
    )


def label_slides(
    home: Home,
    tiles: pd.DataFrame,
    *,
    min_label_fraction: float = MIN_LABEL_FRACTION,
    annotations: Path | None = None,
    annotation_origin: AnnotationOrigin | None = None,
    classes: Sequence[str] = (),
) -> pd.DataFrame:
    """Label a tile table by the files in `annotations`, else by the truth of virtual slides.

    The folder holds a file for each slide, named as the slide: outlines (GeoJSON, ASAP's XML) or
    an image of class numbers with a `classes.json`; or it holds one folder a class with the
    images of tiles that `write_tiles` wrote. A slide without a file keeps its tiles, unlabelled.

    Outlines of QuPath's tiles and detections, and of its classes with a star ("Region*"), label
    nothing.

    Parameters
    ----------
    annotation_origin
        Where 0, 0 of outlines lies on slides whose scanned area begins elsewhere (MIRAX, Leica):
        "scan", as QuPath counts, or "slide". Files that `export` wrote say it themselves.
    classes
        The only classes there may be; any, if none is named.

    Raises
    ------
    TableError
        A file is damaged, a slide has two, a class is not among `classes`, a file belongs to
        another slide, or nobody says where its 0, 0 lies. No tile is labelled then.
    SlideError
        A slide that outlines are of does not open.
    """
    check_table(tiles, TILES)
    if annotation_origin not in (None, *get_args(AnnotationOrigin)):
        known = " or ".join(get_args(AnnotationOrigin))
        raise SpecError(f"annotation_origin={annotation_origin!r} is unknown; choose {known}")
    if annotations and find_sorted_tiles(annotations):
        labels = read_sorted_tiles(tiles, annotations)
        _check_classes({label for label in labels if label}, classes, where=str(annotations))
        return make_labels(tiles, labels=labels, source=SORTED)  # a folder may bear any name
    rows_of = home.catalog.slides(list(tiles.slide_id.unique())).to_dict("records")
    slides = {row["slide_id"]: row for row in rows_of}
    _check_names(annotations, set(slides))
    labelled = []
    for slide_id, rows in tiles.groupby("slide_id", sort=False):
        slide = slides[slide_id]
        path = _find_file(str(slide_id), annotations, slide["truth_path"])
        said = annotation_origin if annotations else "slide"  # as truth is written
        areas = _read_areas(path, rows, slide=slide, said=said, classes=classes) if path else {}
        source = path.name if path else "none"
        labelled.append(
            label_tiles(rows, areas, min_label_fraction=min_label_fraction, source=source)
        )
    return pd.concat(labelled, ignore_index=True)


def _read_areas(
    path: Path,
    rows: pd.DataFrame,
    *,
    slide: Mapping[Any, Any],
    said: AnnotationOrigin | None,
    classes: Sequence[str],
) -> dict[str, np.ndarray]:
    size = (slide["width"], slide["height"])
    if path.suffix.lower() in MASK_SUFFIXES:
        mask = read_class_mask(path, _read_classes(path.with_name(CLASSES_FILE)), size=size)
        _check_classes(set(mask.classes.values()), classes, where=str(path))
        return mask_areas(rows, mask)
    read = read_annotations(path, origin=_find_origin(slide, said))
    outlines = [outline for outline in read if _labels(outline)]
    _check_classes({outline.label for outline in outlines}, classes, where=str(path))
    _check_inside(outlines, size=size, where=str(path))
    return outline_areas(rows, outlines)


def _find_origin(slide: Mapping[Any, Any], said: AnnotationOrigin | None) -> tuple[int, int] | None:
    """Return where 0, 0 of a file lies that does not say so itself; None = nobody knows."""
    if said == "slide":
        return 0, 0
    with Slide(slide["slide_path"]) as opened:
        corner = opened.bounds[:2]
    return corner if said == "scan" or corner == (0, 0) else None


def _labels(outline: Annotation) -> bool:
    """Say whether QuPath means an outline as an annotation of a class that counts."""
    kind = outline.feature.get("properties", {}).get("objectType", "annotation")
    return kind == "annotation" and not outline.label.endswith("*")


def _read_classes(path: Path) -> dict[int, str]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {int(value): str(name) for value, name in said.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise TableError(
            f'{path} must name the class of each value, {{"0": "", "1": "normal"}}: {error}'
        ) from error


def _find_file(slide_id: str, folder: Path | None, truth_path: str | None) -> Path | None:
    if folder is None:
        return Path(truth_path) if truth_path and Path(truth_path).is_file() else None
    known = (*SUFFIXES, *MASK_SUFFIXES)
    there = [p for p in folder.glob(f"{glob.escape(slide_id)}.*") if p.suffix.lower() in known]
    if len(there) > 1:
        raise TableError(
            f"{slide_id} has labels in {' and '.join(path.name for path in there)}; keep one"
        )
    return next(iter(there), None)


def _check_names(folder: Path | None, slide_ids: set[str]) -> None:
    if folder is None:
        return
    stems = {p.stem for p in folder.iterdir() if p.suffix.lower() in (*SUFFIXES, *MASK_SUFFIXES)}
    stems.discard(Path(CLASSES_FILE).stem)
    if stems and not stems & slide_ids:
        raise TableError(
            f"no file in {folder} is named as a slide: there is {min(stems)}, a slide is "
            f"{min(slide_ids)}; rename the files as `histo-nb slides` lists the slides"
        )


def _check_classes(found: set[str], known: Sequence[str], *, where: str) -> None:
    unknown = sorted(found - set(known)) if known else []
    if unknown:
        raise TableError(
            f"{where} holds the class {', '.join(unknown)}, which is none of {', '.join(known)}; "
            "rename it there, or name it with --classes"
        )


def _check_inside(outlines: list[Annotation], *, size: tuple[int, int], where: str) -> None:
    slide = shapely.box(0, 0, *size)
    for i, annotation in enumerate(outlines):
        if not annotation.outline.intersects(slide):
            raise TableError(
                f"{where}, outline {i} ({annotation.label}) lies outside the slide of "
                f"{size[0]} × {size[1]} px; it is of another slide, or not in level-0 px"
            )
