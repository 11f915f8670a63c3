"""What predictions are worth in numbers: arrays and tables in, figures fit for JSON out.

Figures that are undefined, the AUC of a class that does not occur, say, are None.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score, roc_curve

from histo_nb.errors import DatasetError
from histo_nb.training.calibration import (
    Figures,
    calibration_error,
    measure_calibration,
    sum_bins,
)

N_BOOTSTRAP = 1000
INTERVAL = (0.025, 0.975)  # quantiles: 95 %
MAX_BLOCKS = 400  # above so many patients, blocks of them are drawn for the AUC: it takes n² room
ROC_POINTS = 100  # of a class, at most


def measure_predictions(predictions: pd.DataFrame, classes: list[str]) -> Figures:
    """Return all figures of classified tiles.

    Parameters
    ----------
    predictions
        Rows with `label, patient_id, prediction` and `prob_<class>` (0–1) of each class.

    Returns
    -------
    Those of `measure` and `measure_probabilities`, and `intervals` of `bootstrap_patients`.
    """
    targets = number_labels(predictions.label, classes)
    probabilities = class_probabilities(predictions, classes)
    return {
        **measure(predictions.label, predictions.prediction, classes),
        **measure_probabilities(targets, probabilities, classes),
        "intervals": bootstrap_patients(predictions, classes),
    }


def measure(truth: pd.Series, predicted: pd.Series, classes: list[str]) -> Figures:
    """Return the figures of labels alone.

    Returns
    -------
    `accuracy`; `balanced_accuracy`, over the classes that occur; `recall` of these; `precision`,
    `f1` and the number `n` of tiles of each class; `confusion`: truth down, prediction across.
    """
    targets, guesses = number_labels(truth, classes), number_labels(predicted, classes)
    confusion = _confusions(targets, guesses, len(classes), np.zeros(len(targets), int))[0]
    rates = {name: plain(rate) for name, rate in _rates(confusion).items()}
    by_class = {
        name: dict(zip(classes, rates[name], strict=True)) for name in ("recall", "precision", "f1")
    }
    known = {label: recall for label, recall in by_class["recall"].items() if recall is not None}
    return {
        "accuracy": rates["accuracy"],
        "balanced_accuracy": rates["balanced_accuracy"],
        **by_class,
        "recall": known,
        "n": dict(zip(classes, confusion.sum(axis=1).tolist(), strict=True)),
        "confusion": confusion.tolist(),
    }


def measure_probabilities(
    targets: np.ndarray, probabilities: np.ndarray, classes: list[str]
) -> Figures:
    """Return the figures of probabilities (N, n_classes), given class numbers (N,).

    Returns
    -------
    `auc` of each class against the rest, their mean `auc_macro`, `roc` (points `fpr, tpr` of each
    class), and what `measure_calibration` returns.
    """
    aucs, curves = {}, {}
    for number, label in enumerate(classes):
        positive, scores = targets == number, probabilities[:, number]
        mixed = 0 < positive.sum() < len(positive)
        aucs[label] = float(roc_auc_score(positive, scores)) if mixed else None
        curves[label] = _roc(positive, scores) if mixed else None
    known = [auc for auc in aucs.values() if auc is not None]
    return {
        "auc": aucs,
        "auc_macro": float(np.mean(known)) if known else None,
        "roc": curves,
        **measure_calibration(targets, probabilities),
    }


def bootstrap_patients(predictions: pd.DataFrame, classes: list[str]) -> dict[str, list[Any]]:
    """Return 95 % intervals `[low, high]` over patients drawn again with replacement.

    Tiles of one patient resemble one another: it is patients that a study has many or few of.
    The percentile interval is somewhat too narrow below about 20 patients; that of `ece` lies
    high, as each draw adds noise, which ECE takes for miscalibration.

    Returns
    -------
    `accuracy, balanced_accuracy`, and `auc_macro, ece` where there are `prob_<class>`. One
    patient, or a tile whose patient is unknown, allows no interval: `[None, None]`.
    """
    patients, names = pd.factorize(predictions.patient_id, sort=True)
    n = len(names)
    targets, guesses = (number_labels(predictions[c], classes) for c in ("label", "prediction"))
    scored = all(f"prob_{label}" in predictions for label in classes)
    if n < 2 or (patients < 0).any():
        keys = ("accuracy", "balanced_accuracy", *(("auc_macro", "ece") if scored else ()))
        return {name: [None, None] for name in keys}
    draws = _draw(n)
    confusions = _confusions(targets, guesses, len(classes), patients)
    rates = _rates(np.tensordot(draws, confusions, axes=1))
    samples = {name: rates[name] for name in ("accuracy", "balanced_accuracy")}
    if scored:
        probabilities = class_probabilities(predictions, classes)
        blocks, drawn = patients, draws
        if n > MAX_BLOCKS:
            blocks = np.random.default_rng(1).permutation(n)[patients] % MAX_BLOCKS
            drawn = _draw(MAX_BLOCKS)
        samples["auc_macro"] = _drawn_auc(targets, probabilities, blocks, drawn)
        bins = np.tensordot(draws, sum_bins(targets, probabilities, patients), axes=1)
        samples["ece"] = calibration_error(bins)
    return {name: _interval(values) for name, values in samples.items()}


def plain(value: np.ndarray) -> Any:
    """Return an array as Python numbers, None where it is NaN."""
    return np.where(np.isnan(value), np.array(None), value).tolist()


def number_labels(labels: pd.Series, classes: list[str]) -> np.ndarray:
    """Return the class numbers (N,) of labels.

    Raises
    ------
    DatasetError
        A label is none of the classes.
    """
    numbers = pd.Index(classes).get_indexer(pd.Index(labels))
    if (numbers < 0).any():
        unknown = labels[numbers < 0].iloc[0]
        raise DatasetError(f"label {unknown!r} is unknown; choose one of {', '.join(classes)}")
    return numbers


def class_probabilities(predictions: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return the probabilities (N, n_classes) of rows with `prob_<class>`."""
    return predictions[[f"prob_{label}" for label in classes]].to_numpy(float)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1e-300), np.nan)


def _confusions(
    targets: np.ndarray, guesses: np.ndarray, n_classes: int, groups: np.ndarray
) -> np.ndarray:
    """Return (n_groups, n_classes, n_classes) counts: truth down, prediction across."""
    n_groups = int(groups.max()) + 1
    cells = (groups * n_classes + targets) * n_classes + guesses
    counts = np.bincount(cells, minlength=n_groups * n_classes**2)
    return counts.reshape(n_groups, n_classes, n_classes)


def _rates(confusions: np.ndarray) -> dict[str, np.ndarray]:
    """Return the rates of confusion matrices (…, n_classes, n_classes); NaN where undefined."""
    right = np.diagonal(confusions, axis1=-2, axis2=-1)
    true, guessed = confusions.sum(axis=-1), confusions.sum(axis=-2)
    recall = _ratio(right, true)
    return {
        "accuracy": _ratio(right.sum(axis=-1), true.sum(axis=-1)),
        "balanced_accuracy": _mean_known(recall),
        "recall": recall,
        "precision": _ratio(right, guessed),
        "f1": _ratio(2 * right, true + guessed),
    }


def _mean_known(values: np.ndarray) -> np.ndarray:
    return _ratio(np.nansum(values, axis=-1), (~np.isnan(values)).sum(axis=-1))


def _roc(positive: np.ndarray, scores: np.ndarray) -> dict[str, list[float]]:
    """Return the ROC curve, thinned evenly along its length."""
    fpr, tpr, _ = roc_curve(positive, scores)
    kept = np.unique(
        np.searchsorted(fpr + tpr, np.linspace(0, 2, ROC_POINTS)).clip(0, len(fpr) - 1)
    )
    return {"fpr": fpr[kept].round(4).tolist(), "tpr": tpr[kept].round(4).tolist()}


def _drawn_auc(
    targets: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, draws: np.ndarray
) -> np.ndarray:
    """Return the macro AUC of each draw, exactly: it is a sum over pairs of patients."""
    aucs = []
    for number in range(probabilities.shape[1]):
        positive = targets == number
        wins = _wins(probabilities[:, number], positive, patients, draws.shape[1])
        counts = [np.bincount(patients[p], minlength=draws.shape[1]) for p in (positive, ~positive)]
        pairs = (draws @ counts[0]) * (draws @ counts[1])
        aucs.append(_ratio(((draws @ wins) * draws).sum(axis=1), pairs))
    return _mean_known(np.stack(aucs, axis=1))


def _wins(scores: np.ndarray, positive: np.ndarray, patients: np.ndarray, n: int) -> np.ndarray:
    """Return (n, n): pairs of a positive tile of a patient above a negative of another; ties ½."""
    wins = np.zeros((n, n))
    order = np.flatnonzero(positive)[np.argsort(scores[positive])]  # a sorted search is quicker
    high, own = scores[order], patients[order]
    for other in range(n):
        low = np.sort(scores[~positive & (patients == other)])
        beaten = (np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")) / 2
        wins[:, other] = np.bincount(own, weights=beaten, minlength=n)
    return wins


def _draw(n: int) -> np.ndarray:
    """Return (N_BOOTSTRAP, n): how often each of n patients is drawn."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_BOOTSTRAP)


def _interval(values: np.ndarray) -> list[Any]:
    known = values[~np.isnan(values)]
    return np.quantile(known, INTERVAL).tolist() if len(known) else [None, None]
