"""Reviews of slides and of places on them → labels of tiles, when a tile table is read."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import shapely

from histo_nb.annotations import Annotation, Outline
from histo_nb.home import Home
from histo_nb.reviews import find_signature, settle_places
from histo_nb.tiling.areas import outline_areas
from histo_nb.tiling.labels import MIN_LABEL_FRACTION, class_shares

SOURCE = "review"  # label_source of a tile in a place that reviewers gave a class
SIGNED = "review: signed as normal"  # of a slide
MIXED = "review: mixed"  # a place of another class reaches so far into a tile that none is right
NORMAL = "normal"  # the normal class of a slide that was never analysed
_COLUMNS = ("label", "label_fraction", "label_source", "labelled_by", "labelled_at")


def apply_reviews(
    tiles: pd.DataFrame, reviews: pd.DataFrame, *, normal_classes: Mapping[str, str]
) -> pd.DataFrame:
    """Return labelled tile rows in which what reviewers said stands before labels from files.

    A slide that was signed as normal is normal all over, except where a place on it has another
    class. A tile has a place's class if that class covers three quarters of its tissue, as with
    outlines from files; it has no label if more than a quarter is of another class than it had.
    Places on which reviewers differ, or that have no class, change nothing.

    Parameters
    ----------
    reviews
        See `Catalog.reviews`.
    normal_classes
        The normal class of each signed slide; see `find_normal_classes`.
    """
    places = {str(s): rows for s, rows in settle_places(reviews).groupby("slide_id")}
    normal = _signed_as_normal(reviews, normal_classes)
    rows = tiles.reset_index(drop=True).copy()
    touched = rows.slide_id[rows.slide_id.isin([*places, *normal])]
    if touched.empty:
        return tiles
    labels = {name: rows[name].to_numpy(dtype=object, copy=True) for name in _COLUMNS}
    for slide_id, numbers in touched.groupby(touched).groups.items():
        at, name = numbers.to_numpy(), str(slide_id)
        if name in normal:
            _write(labels, at, (normal[name]["label"], 1.0, SIGNED), normal[name])
        if name in places:
            _apply_places(labels, rows.iloc[at], at, places[name])
    for name, values in labels.items():  # texts stay objects: an unknown one is None
        rows[name] = pd.Series(values, dtype=float if name == "label_fraction" else object)
    return rows


def _signed_as_normal(
    reviews: pd.DataFrame, normal_classes: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Return the signature of each slide that was signed as its normal class."""
    signed = reviews[reviews.kind == "signature"]
    found = {str(s): find_signature(rows) for s, rows in signed.groupby("slide_id")}
    return {s: said for s, said in found.items()
            if said and said["label"] == normal_classes.get(s, NORMAL)}  # fmt: skip


def find_normal_classes(home: Home, reviews: pd.DataFrame) -> dict[str, str]:
    """Return the normal class of each signed slide that was analysed, as its latest result says."""
    signed = set(reviews.slide_id[reviews.kind == "signature"])
    found = {}
    for row in home.catalog.results().itertuples() if signed else ():
        if row.slide_id in signed:
            found[str(row.slide_id)] = _read_normal_class(Path(str(row.result_path)))
    return found


def _read_normal_class(folder: Path) -> str:
    # `inference.read_result` stands above this room, and reads a table that is not needed here.
    try:
        said = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        return str(said["normal_class"])
    except (OSError, ValueError, LookupError, TypeError):
        return NORMAL


def _apply_places(
    labels: dict[str, np.ndarray], tiles: pd.DataFrame, at: np.ndarray, places: pd.DataFrame
) -> None:
    """Write the classes of one slide's places into the label columns, at the rows of its tiles."""
    places = places.sort_values("reviewed_at")  # where two say the same, the last one is named
    # Half a pixel smaller: neighbours of a region made of tiles share no more than a border.
    squares = shapely.STRtree(_squares(tiles, less=0.5))
    outlines = [place.outline for place in places.annotation]
    of_place, inside = squares.query(outlines, predicate="intersects")
    touched = np.unique(inside)
    if not len(touched):
        return
    rows = tiles.iloc[touched]
    classes, shares = class_shares(rows, _areas(rows, places))
    had = labels["label"][at[touched]]
    fraction, found = shares.max(axis=1), classes[shares.argmax(axis=1)]
    known = fraction >= MIN_LABEL_FRACTION
    other = (shares * (classes != had[:, None])).sum(axis=1)
    mixed = ~known & (had != np.array(None)) & (other > 1 - MIN_LABEL_FRACTION)
    for number, place in enumerate(places.to_dict("records")):
        own = np.isin(touched, inside[of_place == number])
        said, unclear = own & known & (found == place["label"]), own & mixed
        values = (place["label"], fraction[said], SOURCE)
        _write(labels, at[touched[said]], values, place)
        _write(labels, at[touched[unclear]], (None, np.nan, MIXED), place)


def _areas(tiles: pd.DataFrame, places: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return `outline_areas` of places, cutting only the tiles that are not wholly inside."""
    tree, areas = shapely.STRtree(_squares(tiles)), {}
    for label, of_label in places.groupby("label"):
        whole = shapely.union_all([place.outline for place in of_label.annotation])
        inside = tree.query(whole, predicate="covers")
        cut = np.setdiff1d(tree.query(whole, predicate="intersects"), inside)
        areas[str(label)] = area = np.zeros(len(tiles))
        area[inside] = tiles.size_l0.to_numpy(float)[inside] ** 2
        area[cut] = outline_areas(tiles.iloc[cut], [Annotation(cast(Outline, whole), str(label))])[
            str(label)
        ]
    return areas


def _squares(tiles: pd.DataFrame, *, less: float = 0.0) -> np.ndarray:
    """Return the outlines (level-0 px) of tiles, smaller by `less` on each side."""
    x, y, size = (tiles[name].to_numpy(float) for name in ("x", "y", "size_l0"))
    return shapely.box(x + less, y + less, x + size - less, y + size - less)


def _write(
    labels: dict[str, np.ndarray],
    at: np.ndarray,
    values: tuple[str | None, Any, str],
    said: Mapping[Any, Any],
) -> None:
    """Write label, fraction and source into rows, with who said so and when."""
    values_of = zip(_COLUMNS, (*values, said["reviewer"], said["reviewed_at"]), strict=True)
    for name, value in values_of:
        labels[name][at] = value
