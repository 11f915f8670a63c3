"""Splits whole patients into training, validation and test parts."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.errors import DatasetError, SpecError
from histo_nb.tables import LABELLED_TILES, check_table

EXHAUSTIVE_PATIENTS = 14  # up to 2**14 subsets all are tried, above that as many random ones
N_RANDOM = 1 << EXHAUSTIVE_PATIENTS
BATCH = 1 << 12  # subsets scored at once: bounds memory for thousands of patients


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How patients are parted."""

    test_share: float = 0.2  # of all tiles; CN 113887377 A [0070]
    valid_share: float = 0.2  # of the tiles that are not for the test
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("test_share", "valid_share"):
            if not 0 < getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} is a share; choose 0–1")


def split_patients(tiles: pd.DataFrame, *, spec: SplitSpec | None = None) -> pd.DataFrame:
    """Return the labelled rows of `tiles` with a `split` column; no patient is on two sides.

    Of all ways to choose whole patients (of many random ones, where there are too many) the one is
    taken whose tiles come nearest to the asked shares, overall and within each class, and which
    leaves every class on every side where that is possible.

    Raises
    ------
    DatasetError
        There are no labels, fewer than two classes, a tile without a patient, a class with one
        patient only, or no split that has every class in training and test.
    """
    spec = spec or SplitSpec()
    labelled = check_table(tiles, LABELLED_TILES).dropna(subset=["label"])
    _check_patients(labelled)
    counts = labelled.groupby(["patient_id", "label"]).size().unstack(fill_value=0)
    rng = np.random.default_rng(spec.seed)
    test = _choose(counts, spec.test_share, rng, keep=2)  # one to learn from, one to validate
    rest = counts[~test]
    valid = (
        rest.index[_choose(rest, spec.valid_share, rng, keep=1)]
        if len(rest) > 1
        else rest.index[:0]
    )
    split = pd.Series("train", index=counts.index)
    split[test] = "test"
    split[valid] = "valid"
    for side in ("train", "test"):
        totals = counts[split == side].sum()
        missing = [str(label) for label in totals.index[totals == 0]]
        if missing:
            raise DatasetError(
                f"no split of these patients has {', '.join(missing)} in the {side} part; "
                "collect another patient of that class"
            )
    if not (split == "valid").any():
        raise DatasetError("too few patients for a validation part; collect at least three")
    rows = labelled.assign(split=labelled.patient_id.map(split))
    return rows.reset_index(drop=True)


def _check_patients(labelled: pd.DataFrame) -> None:
    if labelled.empty:
        raise DatasetError(
            "no tile has a label; give outlines with `histo-nb tile --annotations FOLDER`"
        )
    unknown = labelled.patient_id.isna()
    if unknown.any():
        slides = sorted(set(labelled.slide_id[unknown]))
        raise DatasetError(
            f"slides without a patient: {', '.join(slides[:5])}; splits are by patient, "
            "name one with `histo-nb intake --patient`"
        )
    patients = labelled.groupby("label").patient_id.nunique()
    if len(patients) < 2:
        raise DatasetError(
            f"only the class {patients.index[0]} is labelled; at least two are needed"
        )
    if (patients < 2).any():
        alone = ", ".join(patients.index[patients < 2])
        raise DatasetError(
            f"class {alone} has labelled tiles of one patient only; it cannot be both learnt and "
            "tested: collect at least one more patient of it, better three"
        )


def _choose(
    counts: pd.DataFrame, share: float, rng: np.random.Generator, *, keep: int
) -> np.ndarray:
    """Return which patients (bool) make the part of `share` best.

    `keep` patients of each class should stay outside it.
    """
    table = counts.to_numpy(float)
    best, best_cost = np.zeros(len(table), bool), np.inf
    for subsets in _subsets(len(table), share, rng):
        cost = _cost(subsets, table, share, keep)
        cheapest = int(cost.argmin())
        if cost[cheapest] < best_cost:
            best, best_cost = subsets[cheapest], cost[cheapest]
    return best


def _subsets(n: int, share: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return batches of subsets (bool), in random order so that ties fall by the seed."""
    if n <= EXHAUSTIVE_PATIENTS:
        numbers = rng.permutation(np.arange(1, 2**n - 1))
        every = (numbers[:, None] >> np.arange(n)) & 1 == 1
        return [every]
    return [rng.random((BATCH, n)) < share for _ in range(N_RANDOM // BATCH)]


def _cost(subsets: np.ndarray, table: np.ndarray, share: float, keep: int) -> np.ndarray:
    """Return how far each subset is from the asked share; a class missing on a side costs most."""
    part = subsets @ table
    total = table.sum(axis=0)
    overall = np.abs(part.sum(axis=1) / total.sum() - share)
    by_class = np.abs(part / total - share).mean(axis=1)
    missing = (part == 0).sum(axis=1) + (part == total).sum(axis=1)
    left = (~subsets).astype(int) @ (table > 0).astype(int)
    too_few_left = (left < keep).sum(axis=1)
    return np.asarray(overall + by_class + 10.0 * missing + 1.0 * too_few_left)
