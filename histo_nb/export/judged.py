"""What reviewers said of places on a slide, as GeoJSON for QuPath, and back."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.errors import TableError
from histo_nb.files import write_json

SAID = ("kind", "subject", "verdict", "reviewer", "reviewed_at", "note", "model_id")


def write_judged_geojson(reviews: pd.DataFrame, path: Path) -> Path:
    """Write the judged regions and drawn places of one slide, in level-0 px; return the path.

    A feature for each reviewer and place: polygons and points, with the class (if one was said),
    the words as its description, and who and when in its metadata.

    Parameters
    ----------
    reviews
        Of one slide; see `Catalog.reviews`.
    """
    places = reviews[reviews.outline.notna()].to_dict("records")
    features = [_feature({str(k): v for k, v in row.items()}) for row in places]
    return write_json(path, {"type": "FeatureCollection", "features": features}, indent=None)


def read_judged_geojson(path: Path) -> pd.DataFrame:
    """Return what `write_judged_geojson` wrote: `kind, subject, …, label, outline`, a row a place.

    Raises
    ------
    TableError
        The file is missing, or no such file.
    """
    try:
        features = json.loads(Path(path).read_text(encoding="utf-8"))["features"]
        rows = [
            {
                **{name: feature["properties"]["metadata"].get(name) for name in SAID},
                "label": feature["properties"].get("classification", {}).get("name"),
                "outline": json.dumps(feature["geometry"]),
            }
            for feature in features
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TableError(
            f"{path} holds no reviews ({error!r}); write them with `histo-nb reviews --export`"
        ) from error
    return pd.DataFrame(rows, columns=[*SAID, "label", "outline"], dtype=object)


def _feature(row: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "objectType": "annotation",
        "name": f"{row['verdict']} by {row['reviewer']}",
        "description": row["note"] or "",
        "metadata": {name: row[name] for name in SAID if row[name]},  # QuPath knows texts only
    }
    if row["label"]:
        properties["classification"] = {"name": row["label"]}
    geometry = json.loads(row["outline"])
    return {"type": "Feature", "geometry": geometry, "properties": properties}
