"""What the latest results say of tiles. Loads no torch."""

import logging

import pandas as pd

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.inference.result import read_result
from histo_nb.tiling.queue import measure_uncertainty

log = logging.getLogger(__name__)


def read_predictions(home: Home, tiles: pd.DataFrame) -> pd.DataFrame:
    """Return what the latest results say of tiles: `said`, `uncertainty` (0–1), by `tile_id`."""
    found = []
    results = home.catalog.results()
    for path in results.result_path[results.slide_id.isin(tiles.slide_id.unique())]:
        try:
            result = read_result(path)
        except HistoError:
            log.exception("the result in %s cannot be read", path)
            continue
        rows = result.predictions
        probabilities = rows[[f"prob_{label}" for label in result.classes]].to_numpy()
        best = probabilities.max(axis=1)
        found.append(
            pd.DataFrame(
                {
                    "said": [f"{c} {p:.0%}" for c, p in zip(rows.prediction, best, strict=True)],
                    "uncertainty": measure_uncertainty(probabilities),
                },
                index=rows.tile_id,
            )
        )
    known = pd.concat(found) if found else pd.DataFrame(columns=["said", "uncertainty"])
    return known[known.index.isin(tiles.tile_id)]
