"""Is there enough to learn from? Labelled tiles, slides and patients of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from histo_nb.geometry import check_positive
from histo_nb.tables import LABELLED_TILES, check_table

UNITS = ("patients", "slides", "tiles")  # in the order in which they matter


@dataclass(frozen=True, kw_only=True)
class LedgerSpec:
    """What each class should have before a model of it is worth its training."""

    min_patients: int = 10  # of 8:2 splits: two for the test, two to validate, six to learn from
    min_slides: int = 10
    min_tiles: int = 1000

    def __post_init__(self) -> None:
        check_positive(
            min_patients=self.min_patients, min_slides=self.min_slides, min_tiles=self.min_tiles
        )


def make_ledger(
    tiles: pd.DataFrame, *, classes: Sequence[str] = (), spec: LedgerSpec | None = None
) -> pd.DataFrame:
    """Count the labelled tiles of each class against its targets.

    Parameters
    ----------
    tiles
        Labelled tiles.
    classes
        Classes that must be there, even if no tile has them yet.

    Returns
    -------
    Indexed by class: `patients, slides, tiles` and what is missing of each, `missing_patients,
    missing_slides, missing_tiles`. A slide whose patient is unknown counts as no patient.
    """
    spec = spec or LedgerSpec()
    labelled = check_table(tiles, LABELLED_TILES, empty_ok=True).dropna(subset=["label"])
    counts = labelled.groupby("label").agg(
        patients=("patient_id", "nunique"),
        slides=("slide_id", "nunique"),
        tiles=("tile_id", "size"),
    )
    ledger = counts.reindex(sorted({*counts.index, *classes}), fill_value=0).astype(int)
    for unit in UNITS:
        ledger[f"missing_{unit}"] = (getattr(spec, f"min_{unit}") - ledger[unit]).clip(lower=0)
    return ledger.rename_axis("class")


def say_missing(ledger: pd.DataFrame) -> list[str]:
    """Return what to collect, a sentence a class, the poorest class first; [] = enough.

    A patient brings slides and tiles along, so the rarest unit alone is asked for.

    >>> row = {"patients": 7, "missing_patients": 3, "missing_slides": 1, "missing_tiles": 0}
    >>> say_missing(pd.DataFrame([row], index=["adenoma"]))
    ['collect ≥ 3 more patients of adenoma']
    """
    poorest = ledger.sort_values([f"missing_{unit}" for unit in UNITS], ascending=False)
    sentences = []
    for label, row in poorest.iterrows():
        unit = next((unit for unit in UNITS if row[f"missing_{unit}"]), None)
        if unit is not None:
            n = int(row[f"missing_{unit}"])
            verb = "label" if unit == "tiles" else "collect"
            sentences.append(f"{verb} ≥ {n} more {unit if n > 1 else unit[:-1]} of {label}")
    return sentences
