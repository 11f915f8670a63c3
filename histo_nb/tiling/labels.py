"""Outlines with classes → labels of tiles, with who said so and when."""

from pathlib import Path

import numpy as np
import pandas as pd
import shapely

from histo_nb.annotations import Annotation, read_geojson
from histo_nb.catalog import account, now
from histo_nb.errors import SpecError
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
    """Label a tile table from `<slide_id>.geojson` files in `annotations`, else from the truth.

    Virtual slides bring their truth; a slide without outlines keeps its tiles, unlabelled.
    """
    check_table(tiles, TILES)
    slides = home.catalog.slides(list(tiles.slide_id.unique()))
    truth_paths = dict(zip(slides.slide_id, slides.truth_path, strict=True))
    labelled = []
    for slide_id, rows in tiles.groupby("slide_id", sort=False):
        truth = Path(truth_paths[slide_id] or "none")
        path = annotations / f"{slide_id}.geojson" if annotations else truth
        outlines = read_geojson(path) if path.is_file() else []
        labelled.append(
            label_tiles(rows, outlines, min_label_fraction=min_label_fraction, source=path.name)
        )
    return pd.concat(labelled, ignore_index=True)
