"""Would more patients help? The same training on a growing share of the training patients."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.balancing.dataset import CURVE, Dataset
from histo_nb.errors import DatasetError, SpecError
from histo_nb.files import writing
from histo_nb.training.learner import TrainSpec, fit
from histo_nb.training.measures import measure

COLUMNS = ["patients", "tiles", "accuracy", "balanced_accuracy"]
LEAST_GAIN = 0.01  # of balanced accuracy; less is no rise


@dataclass(frozen=True)
class _Part(Dataset):
    """A data set with some of its training patients only."""

    patients: frozenset[str]

    def indices(self, split: str) -> np.ndarray:
        numbers = super().indices(split)
        if split != "train":
            return numbers
        return numbers[self.rows.patient_id.iloc[numbers].isin(list(self.patients)).to_numpy()]


def measure_curve(
    dataset: Dataset, *, spec: TrainSpec | None = None, steps: int = 3
) -> pd.DataFrame:
    """Train on 1/`steps`, 2/`steps` … of the training patients; measure on the validation part.

    Each share holds the one before it, and patients of every class. Tiles are normalised by the
    statistics of the whole training part, which changes nothing that matters here. The test part
    is not looked at, unless `select_on` says so.

    Returns
    -------
    One row a share: `patients, tiles, accuracy, balanced_accuracy, recall_<class>`; also written
    into the data set's folder, where `read_curve` finds it.

    Raises
    ------
    DatasetError
        Some share would have no tile of a class, or there are too few patients for the steps.
    """
    if steps < 2:
        raise SpecError(f"steps={steps}: a curve needs 2 points at least")
    spec = spec or TrainSpec()
    rows = []
    for patients in _shares(dataset, steps, spec.train_seed):
        part = _Part(dataset.folder, frozenset(patients))
        learnt = dataset.rows.iloc[part.indices("train")]
        missing = sorted(set(dataset.classes) - set(learnt.label))
        if missing:
            raise DatasetError(
                f"{len(patients)} patients have no tile of {', '.join(missing)}; choose fewer steps"
            )
        trained = fit(part, spec)
        truth = dataset.rows.label.iloc[dataset.indices(spec.select_on)].reset_index(drop=True)
        predicted = pd.Series(np.array(dataset.classes)[trained.logits.argmax(dim=1)])
        figures = measure(truth, predicted, dataset.classes)
        recalls = {f"recall_{label}": value for label, value in figures["recall"].items()}
        counts = {"patients": len(patients), "tiles": int(learnt.parent_id.isna().sum())}
        rows.append(counts | {name: figures[name] for name in COLUMNS[2:]} | recalls)
    curve = pd.DataFrame(rows)
    with writing(dataset.folder / CURVE) as temporary:
        curve.to_csv(temporary, index=False)
    return curve


def read_curve(dataset: Dataset) -> pd.DataFrame:
    """Return the learning curve measured last on a data set; no row if there is none yet."""
    path = dataset.folder / CURVE
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def say_curve(curve: pd.DataFrame) -> str:
    """Return what a curve says about collecting more.

    >>> curve = pd.DataFrame({"patients": [3, 6], "balanced_accuracy": [0.6, 0.8],
    ...                       "recall_normal": [1, 1], "recall_adenoma": [0.2, 0.6]})
    >>> say_curve(curve)
    'from 3 to 6 patients +0.20 balanced accuracy: more will help, of adenoma first (recall 0.60)'
    """
    if len(curve) < 2:
        return "no learning curve yet: histo-nb learning-curve"
    before, last = curve.iloc[-2], curve.iloc[-1]
    gain = float(last.balanced_accuracy) - float(before.balanced_accuracy)
    said = (
        f"from {before.patients:.0f} to {last.patients:.0f} patients {gain:+.2f} balanced accuracy"
    )
    if not gain >= LEAST_GAIN:
        reason = "fell, by chance or for bad labels" if gain < -LEAST_GAIN else "did not rise"
        return f"{said}: it {reason}; more of the same will hardly help"
    recalls = last.filter(like="recall_").astype(float)
    worst = str(recalls.idxmin())
    return f"{said}: more will help, of {worst[7:]} first (recall {recalls[worst]:.2f})"


def _shares(dataset: Dataset, steps: int, seed: int) -> list[list[str]]:
    """Return growing lists of training patients, each with its share of every kind of patient."""
    rows = dataset.rows.iloc[dataset.indices("train")]
    rarity = rows.groupby("label").patient_id.nunique()
    kind = rows.assign(rarity=rows.label.map(rarity)).sort_values("rarity", kind="stable")
    of_kind = kind.groupby("patient_id").label.first()  # the rarest class that a patient has
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(sorted(g.index)).tolist() for _, g in of_kind.groupby(of_kind)]
    shares = [
        [name for group in groups for name in group[: math.ceil(len(group) * step / steps)]]
        for step in range(1, steps + 1)
    ]
    sizes = [len(share) for share in shares]
    if len(set(sizes)) < steps:
        raise DatasetError(
            f"{sizes[-1]} training patients do not give {steps} shares; choose fewer steps, or "
            "collect more patients"
        )
    return shares
