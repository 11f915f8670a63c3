"""Splits whole patients into training, validation and test parts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from histo_nb.errors import DatasetError, SpecError
from histo_nb.tables import LABELLED_TILES, SPLITS, check_table

EXHAUSTIVE_PATIENTS = 14  # up to 2**14 subsets all are tried, above that as many random ones
N_RANDOM = 1 << EXHAUSTIVE_PATIENTS
BATCH_CELLS = 1 << 22  # subsets × patients scored at once: bounds memory
MAX_CELLS = 1 << 28  # in all: with 100,000 patients any of few subsets is near enough


@dataclass(frozen=True, kw_only=True)
class SplitSpec:
    """How patients are parted."""

    test_share: float = 0.2  # of all tiles; CN 113887377 A [0070]
    valid_share: float = 0.2  # of the tiles that are not for the test
    seed: int = 42
    groups: tuple[str, ...] = ()  # more columns whose values stay on one side: site, field …

    def __post_init__(self) -> None:
        for name in ("test_share", "valid_share"):
            if not 0 < getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} is a share; choose 0–1")


def split_patients(
    tiles: pd.DataFrame, *, spec: SplitSpec | None = None, sides: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Return the labelled rows of `tiles` with a `split` column; no patient is on two sides.

    Patients that share a value of another group column are one unit. Of all ways to choose whole
    units (of many random ones, where there are too many) the one is taken whose tiles come nearest
    to the asked shares, overall and within each class, and which leaves every class on every side
    where that is possible.

    Parameters
    ----------
    sides
        Patients of an earlier split and their sides, which they keep: a test part stays locked
        while more patients come. Where all are given, validation and test may lack a class.

    Raises
    ------
    DatasetError
        There are no labels, fewer than two classes, a tile without a patient, a class of fewer
        than three units (one each to learn, to validate, to test), or no split that has every
        class on every side.
    """
    spec = spec or SplitSpec()
    wrong = set((sides or {}).values()) - set(SPLITS)
    if wrong:
        raise SpecError(f"sides {sorted(wrong)} are unknown; choose from {', '.join(SPLITS)}")
    labelled = check_table(tiles, LABELLED_TILES).dropna(subset=["label"])
    _check_patients(labelled)
    unit = find_units(labelled, spec.groups)
    counts = labelled.groupby([unit, "label"]).size().unstack(fill_value=0)
    _check_units(counts)
    kept = _kept_sides(labelled, unit, sides or {})
    rng = np.random.default_rng(spec.seed)
    test = _choose(counts, spec.test_share, rng, keep=2, kept=kept.eq("test").where(kept.notna()))
    rest = counts[~test]
    valid = _choose(rest, spec.valid_share, rng, keep=1, kept=kept.eq("valid").where(kept.notna()))
    split = pd.Series("train", index=counts.index)
    split[test] = "test"
    split[rest.index[valid]] = "valid"
    given = kept.notna().all()  # all by the caller, as in folds: each part is what it is
    for side in ("train",) if given else ("train", "valid", "test"):
        totals = counts[split == side].sum()
        missing = [str(label) for label in totals.index[totals == 0]]
        if missing:
            raise DatasetError(
                f"no split of these patients has {', '.join(missing)} in the {side} part; "
                "collect another patient of that class"
            )
    return labelled.assign(split=unit.map(split)).reset_index(drop=True)


def find_units(rows: pd.DataFrame, groups: Sequence[str] = ()) -> pd.Series:
    """Return what must stay together, for each row: patients joined by what they share.

    >>> rows = pd.DataFrame({"patient_id": ["a", "b", "c"], "site": ["x", "x", "y"]})
    >>> find_units(rows, ["site"]).tolist()
    ['a', 'a', 'c']
    """
    unknown = [name for name in groups if name not in rows]
    if unknown:
        raise DatasetError(f"the tiles have no column {', '.join(unknown)} to group by")
    unit = rows.patient_id.astype(str)
    if not groups:
        return unit
    patient, patients = pd.factorize(unit)
    starts, ends, n = [], [], len(patients)
    for name in groups:
        value, values = pd.factorize(rows[name])  # -1 = unknown: joins nobody
        starts.append(patient[value >= 0])
        ends.append(n + value[value >= 0])
        n += len(values)
    links = (np.concatenate(starts), np.concatenate(ends))
    graph = coo_array((np.ones(len(links[0])), links), shape=(n, n))
    _, part = connected_components(graph, directed=False)
    return unit.groupby(part[patient]).transform("min")


def _kept_sides(labelled: pd.DataFrame, unit: pd.Series, sides: Mapping[str, str]) -> pd.Series:
    """Return the side that each unit had before; none if its patients are all new."""
    side = labelled.patient_id.map(dict(sides))
    torn = side.groupby(unit).nunique()
    if (torn > 1).any():
        raise DatasetError(
            f"patients joined with {torn.index[torn > 1][0]} were on two sides before; split anew, "
            "and have new patients for the test"
        )
    return side.groupby(unit).first()


def _check_units(counts: pd.DataFrame) -> None:
    n = (counts > 0).sum()
    if (n < 3).any():
        few = ", ".join(f"{label} ({number})" for label, number in n[n < 3].items())
        raise DatasetError(
            f"too few patients (or other groups) of {few}; each class needs three at least, one "
            "each to learn, to validate and to test: collect more, or leave the class out"
        )


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
    if labelled.label.nunique() < 2:
        raise DatasetError(
            f"only the class {labelled.label.iloc[0]} is labelled; at least two are needed"
        )


def _choose(
    counts: pd.DataFrame, share: float, rng: np.random.Generator, *, keep: int, kept: pd.Series
) -> np.ndarray:
    """Return which units (bool) make the part of `share` best.

    `keep` units of each class should stay outside it; units that are `kept` (True, False) stay
    where they were, those of which nothing is known (null) are free.
    """
    table = counts.to_numpy(float)
    known = kept.reindex(counts.index)
    fixed = known.notna().to_numpy()
    best, best_cost = known.eq(True).to_numpy(), np.inf
    for subsets in _subsets(len(table), share, rng):
        subsets[:, fixed] = best[fixed]
        cost = _cost(subsets, table, share, keep)
        cheapest = int(cost.argmin())
        if cost[cheapest] < best_cost:
            best, best_cost = subsets[cheapest], cost[cheapest]
    return best


def _subsets(n: int, share: float, rng: np.random.Generator) -> Iterable[np.ndarray]:
    """Return batches of subsets (bool), in random order so that ties fall by the seed."""
    if n < 2:
        return [np.zeros((1, n), bool)]
    if n <= EXHAUSTIVE_PATIENTS:
        numbers = rng.permutation(np.arange(1, 2**n - 1))
        every = (numbers[:, None] >> np.arange(n)) & 1 == 1
        return [every]
    at_once = max(BATCH_CELLS // n, 1)
    n_batches = max(min(N_RANDOM, MAX_CELLS // n) // at_once, 1)
    return (rng.random((at_once, n)) < share for _ in range(n_batches))


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
