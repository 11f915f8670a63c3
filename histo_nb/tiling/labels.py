"""Outlines with classes → labels of tiles, with who said so and when."""

from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from histo_nb.annotations import SUFFIXES, Annotation, read_annotations
from histo_nb.catalog import account, now
from histo_nb.errors import SpecError, TableError
from histo_nb.home import Home
from histo_nb.tables import LABELLED_TILES, TILES, check_table


def label_tiles(
    tiles: pd.DataFrame,
    annotations: list[Annotation],
    *,
    min_label_fraction: float = 0.75,
    source: str,
) -> pd.DataFrame:
    """Label the tiles of one slide by the class that covers most of their tissue.

    A tile is labelled if outlines of one class cover at least `min_label_fraction` of its tissue
    (of the tile, times its tissue share) and of all that is outlined in it; else it is mixed and
    stays unlabelled.

    Parameters
    ----------
    tiles
        Rows of one slide's tile table.
    annotations
        Outlines in level-0 px.
    source
        Where the outlines came from.
    """
    if not 0 < min_label_fraction <= 1:
        raise SpecError(f"min_label_fraction={min_label_fraction} is a share; choose 0–1")
    squares = shapely.box(tiles.x, tiles.y, tiles.x + tiles.size_l0, tiles.y + tiles.size_l0)
    labels = sorted({a.label for a in annotations})
    shares = np.zeros((len(tiles), max(len(labels), 1)))
    for column, label in enumerate(labels):
        area = shapely.union_all([a.outline for a in annotations if a.label == label])
        shapely.prepare(area)
        shares[:, column] = shapely.area(shapely.intersection(squares, area))
    tissue = tiles.size_l0.to_numpy(float) ** 2 * tiles.tissue.to_numpy()
    # Outlines of two classes may overlap, or both reach over glass: neither may then count as all.
    shares /= np.maximum(tissue, shares.sum(axis=1))[:, None]
    best = shares.argmax(axis=1)
    fraction = shares.max(axis=1)
    known = fraction >= min_label_fraction
    return check_table(
        tiles.assign(
            label=_where(known, np.array(labels or [""], dtype=object)[best]),
            label_fraction=np.where(known, fraction, np.nan),
            label_source=_where(known, source),
            labelled_by=_where(known, account()),
            labelled_at=_where(known, now()),
        ),
        LABELLED_TILES,
    )


def _where(known: np.ndarray, value: str | np.ndarray) -> np.ndarray:
    return np.where(known, np.asarray(value, dtype=object), np.array(None, dtype=object))


def label_slides(
    home: Home,
    tiles: pd.DataFrame,
    *,
    min_label_fraction: float = 0.75,
    annotations: Path | None = None,
) -> pd.DataFrame:
    """Label a tile table from files in `annotations` named as their slides, else from the truth.

    Files are GeoJSON or the XML of ASAP. Virtual slides bring their truth; a slide without
    outlines keeps its tiles, unlabelled.

    Raises
    ------
    TableError
        A file is damaged, a slide has two, or an outline lies outside its slide.
    """
    check_table(tiles, TILES)
    rows_of = home.catalog.slides(list(tiles.slide_id.unique())).to_dict("records")
    slides = {row["slide_id"]: row for row in rows_of}
    labelled = []
    for slide_id, rows in tiles.groupby("slide_id", sort=False):
        slide = slides[slide_id]
        path = _find_outlines(str(slide_id), annotations, slide["truth_path"])
        outlines = read_annotations(path) if path else []
        _check_inside(outlines, size=(slide["width"], slide["height"]), where=f"{path}")
        source = path.name if path else "none"
        labelled.append(
            label_tiles(rows, outlines, min_label_fraction=min_label_fraction, source=source)
        )
    return pd.concat(labelled, ignore_index=True)


def _find_outlines(slide_id: str, folder: Path | None, truth_path: str | None) -> Path | None:
    if folder is None:
        return Path(truth_path) if truth_path and Path(truth_path).is_file() else None
    there = [path for s in SUFFIXES if (path := folder / f"{slide_id}{s}").is_file()]
    if len(there) > 1:
        raise TableError(
            f"{slide_id} has outlines in {' and '.join(path.name for path in there)}; keep one"
        )
    return next(iter(there), None)


def _check_inside(outlines: list[Annotation], *, size: tuple[int, int], where: str) -> None:
    slide = shapely.box(0, 0, *size)
    for i, annotation in enumerate(outlines):
        if not annotation.outline.intersects(slide):
            raise TableError(
                f"{where}, outline {i} ({annotation.label}) lies outside the slide of "
                f"{size[0]} × {size[1]} px; it is of another slide, or not in level-0 px"
            )
