"""What reviewers said of places on a slide, as GeoJSON for QuPath, and back."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from shapely.geometry import mapping, shape

from histo_nb.annotations import move, read_features, said_origin, write_features
from histo_nb.errors import TableError

SAID = ("kind", "subject", "verdict", "reviewer", "reviewed_at", "note", "model_id")
JUDGED = [*SAID, "label", "outline"]
BROKEN = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)


def write_judged_geojson(
    reviews: pd.DataFrame, path: Path, *, origin: tuple[int, int] = (0, 0)
) -> Path:
    """Write the judged regions and drawn places of one slide; return the path.

    A feature for each reviewer and place: polygons and points, with the class (if one was said),
    the words as its description, and who and when in its metadata.

    Parameters
    ----------
    reviews
        Of one slide, in level-0 px of all of it; see `Catalog.reviews`.
    origin
        The file's 0, 0 on the slide; see `findings.scan_origin`.
    """
    return write_features(judged_features(reviews, origin), path, header={"origin": origin})


def judged_features(reviews: pd.DataFrame, origin: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield a feature for each place that a reviewer judged or drew, counted from `origin`."""
    for row in reviews[reviews.outline.notna()].to_dict("records"):
        yield _feature({str(k): v for k, v in row.items()}, origin)


def read_judged_geojson(path: Path) -> pd.DataFrame:
    """Return what `write_judged_geojson` wrote: `kind, subject, …, label, outline`, a row a place.

    Raises
    ------
    TableError
        The file is missing, or no such file.
    """
    features, header = read_features(path)
    try:
        return judged_rows(features, said_origin(header, where=str(path)) if header else (0, 0))
    except BROKEN as error:
        raise TableError(
            f"{path} holds no reviews ({error!r}); write them with `histo-nb reviews --export`"
        ) from error


def judged_rows(features: Iterable[Any], origin: tuple[int, int]) -> pd.DataFrame:
    """Return the rows that `judged_features` were made of, or raise one of `BROKEN`."""
    rows = [
        {
            **{name: feature["properties"]["metadata"].get(name) for name in SAID},
            "note": feature["properties"]["description"],
            "label": feature["properties"].get("classification", {}).get("name"),
            "outline": json.dumps(_moved(feature["geometry"], origin)),
        }
        for feature in features
    ]
    return pd.DataFrame(rows, columns=JUDGED, dtype=object)


def _feature(row: dict[str, Any], origin: tuple[int, int]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "objectType": "annotation",
        "name": f"{row['verdict']} by {row['reviewer']}",
        "description": row["note"] or "",
        "metadata": {name: row[name] for name in SAID if row[name]},  # QuPath knows texts only
    }
    if row["label"]:
        properties["classification"] = {"name": row["label"]}
    x, y = origin
    geometry = _moved(json.loads(row["outline"]), (-x, -y))
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _moved(geometry: dict[str, Any], by: tuple[int, int]) -> dict[str, Any]:
    return dict(mapping(move(shape(geometry), by)))
