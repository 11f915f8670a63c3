"""What models say of tiles that may be labelled: results, and tiles asked for. Loads no torch."""

import logging

import pandas as pd

from histo_nb.errors import HistoError
from histo_nb.files import writing
from histo_nb.home import Home
from histo_nb.inference.result import read_result
from histo_nb.tiling.queue import measure_uncertainty

log = logging.getLogger(__name__)

ASKED = "asked.parquet"  # beside the tile table


def read_predictions(home: Home, tiles: pd.DataFrame) -> pd.DataFrame:
    """Return what was last said of tiles: `said`, `uncertainty` (0–1), by `tile_id`.

    Said by a model whose doubts were put to the board (`write_asked`), else by the latest result
    of the slide.
    """
    found = [read_asked(home)]
    for path in home.catalog.results(tiles.slide_id.unique()).result_path:
        try:
            result = read_result(path)
        except HistoError:
            log.exception("the result in %s cannot be read", path)
            continue
        found.append(_say(result.predictions, result.classes))
    known = pd.concat([table for table in found if len(table)] or found)
    known = known[~known.index.duplicated()]
    return known[known.index.isin(tiles.tile_id)]


def write_asked(home: Home, predictions: pd.DataFrame) -> int:
    """Put predictions of unlabelled tiles to the label board, instead of earlier ones.

    Parameters
    ----------
    predictions
        Rows with `tile_id`, `prediction` and `prob_<class>`.

    Returns
    -------
    How many tiles there are.
    """
    classes = [name[5:] for name in predictions.columns if name.startswith("prob_")]
    with writing(home.tiles / ASKED) as temporary:
        _say(predictions, classes).reset_index().to_parquet(temporary, index=False)
    return len(predictions)


def read_asked(home: Home) -> pd.DataFrame:
    """Return `said` and `uncertainty` of the tiles put to the board, by `tile_id`."""
    path = home.tiles / ASKED
    if not path.is_file():
        return pd.DataFrame(columns=["said", "uncertainty"])
    return pd.read_parquet(path).set_index("tile_id")


def _say(rows: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    probabilities = rows[[f"prob_{label}" for label in classes]].to_numpy()
    best = probabilities.max(axis=1)
    said = [f"{label} {p:.0%}" for label, p in zip(rows.prediction, best, strict=True)]
    index = pd.Index(rows.tile_id, name="tile_id")
    return pd.DataFrame(
        {"said": said, "uncertainty": measure_uncertainty(probabilities)}, index=index
    )
