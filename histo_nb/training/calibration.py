"""Temperature scaling: one number that makes probabilities mean what they say.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Logits are divided by a
temperature fitted on the validation part; no prediction changes, only how sure it claims to be.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from histo_nb.errors import DatasetError, SpecError

LOWEST, HIGHEST = 0.05, 20.0  # temperatures
N_BINS = 15  # of the calibration error, as Guo et al. chose
LEAST_PROBABILITY = 1e-12  # in logarithms; float32 knows 0

Figures = dict[str, Any]  # fit for JSON; None is undefined


def fit_temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the temperature with the least negative log-likelihood, 0.05–20.

    If every tile is right, the likelihood rises the colder it gets: nothing can be learnt about
    doubt from tiles that leave none, and the answer is 1.

    Parameters
    ----------
    logits
        (N, n_classes), as the network gives them, of tiles it was not trained on.
    targets
        (N,) class numbers.

    Raises
    ------
    SpecError
        The shapes do not fit together, or a target is no class number.
    DatasetError
        There is no tile, or a logit is NaN or infinite.
    """
    _check(logits, targets)
    logits = logits.astype(np.float64)
    if (logits.argmax(axis=1) == targets).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        return float(-scaled[np.arange(len(targets)), targets].mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def measure_calibration(targets: np.ndarray, probabilities: np.ndarray) -> Figures:
    """Return how far probabilities (N, n_classes) can be believed, given class numbers (N,).

    Returns
    -------
    `nll`, the mean negative log-likelihood; `brier`, the mean squared distance from the truth,
    summed over the classes (0–2); `ece`, the expected calibration error of the highest
    probability in 15 bins of equal width (Guo et al., 2017); `reliability`, what it is made of: a
    row `confidence, accuracy, n` a bin that is not empty.
    """
    true = probabilities[np.arange(len(targets)), targets]
    wanted = np.eye(probabilities.shape[1])[targets]
    bins = sum_bins(targets, probabilities, np.zeros(len(targets), int))[0]
    n, confidence, right = bins[:, bins[0] > 0]
    rows = np.transpose([confidence / n, right / n]).tolist()
    return {
        "nll": float(-np.log(np.maximum(true, LEAST_PROBABILITY)).mean()),
        "brier": float(((probabilities - wanted) ** 2).sum(axis=1).mean()),
        "ece": float(calibration_error(bins)),
        "reliability": [
            {"confidence": mean, "accuracy": share, "n": int(number)}
            for (mean, share), number in zip(rows, n, strict=True)
        ],
    }


def uncalibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Return what probabilities (N, n_classes) were before logits were divided by a temperature."""
    return softmax(np.log(np.maximum(probabilities, LEAST_PROBABILITY)) * temperature, axis=1)


def sum_bins(targets: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return (n_groups, 3, N_BINS): of tiles in a bin the number, summed confidence, hits."""
    n_groups = int(groups.max()) + 1
    top = probabilities.max(axis=1)
    bins = np.clip(np.ceil(top * N_BINS) - 1, 0, N_BINS - 1).astype(int)  # (low, high], as Guo
    right = probabilities.argmax(axis=1) == targets
    sums = [
        np.bincount(groups * N_BINS + bins, weights=weights, minlength=n_groups * N_BINS)
        for weights in (np.ones(len(top)), top, right)
    ]
    return np.stack([s.reshape(n_groups, N_BINS) for s in sums], axis=1)


def calibration_error(bins: np.ndarray) -> np.ndarray:
    """Return the expected calibration error of (…, 3, N_BINS) sums."""
    n, confidence, right = np.moveaxis(bins, -2, 0)
    return np.abs(confidence - right).sum(axis=-1) / n.sum(axis=-1)


def _check(logits: np.ndarray, targets: np.ndarray) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise SpecError(
            f"logits {logits.shape} and targets {targets.shape} do not fit; give (N, n_classes) "
            "and (N,)"
        )
    if not len(logits):
        raise DatasetError("no tile to fit a temperature on; the validation part must not be empty")
    if not np.isfinite(logits).all():
        raise DatasetError(
            "the network answers NaN or infinity: training diverged; train again with a lower "
            "learning rate"
        )
    if not ((targets >= 0) & (targets < logits.shape[1])).all():
        raise SpecError(f"targets must be class numbers 0–{logits.shape[1] - 1}, as the logits say")
