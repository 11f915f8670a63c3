"""From a slide's score to the probability that it is abnormal. Loads no torch."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

MIN_SLIDES = 10  # to calibrate by; two numbers are fitted, and a table is shown
MIN_OF_EACH = 3  # normal ones and abnormal ones
N_BINS = 5  # of the reliability table; more would hold a slide or two each


@dataclass(frozen=True, kw_only=True)
class SlideCalibration:
    """A logistic curve over scores, and what it was worth on slides that it was not fitted on."""

    slope: float  # per unit of the score, ≥ 0
    intercept: float
    n_slides: int
    n_abnormal: int
    brier: float  # mean squared distance of P(abnormal) from the truth, 0–1; 0.25 = a coin
    reliability: list[dict[str, float]]  # a row `predicted, observed, n` a bin that is not empty

    def probability(self, scores: np.ndarray) -> np.ndarray:
        """Return P(abnormal), 0–1, for scores."""
        return _logistic(self.slope * scores + self.intercept)

    def to_card(self) -> dict[str, Any]:
        """Return the calibration as the card keeps it."""
        return asdict(self)


def fit_slide_calibration(
    scores: np.ndarray, abnormal: np.ndarray, folds: np.ndarray
) -> SlideCalibration | None:
    """Fit P(abnormal) to scores (S,) of slides, given the truth (S,) bool and folds (S,).

    Platt scaling ("Probabilistic outputs for support vector machines", 1999) with his targets,
    which keep P off 0 and 1; a higher score never makes a slide less probably abnormal. The Brier
    score and the reliability table are of curves fitted without the fold of the slide. They are
    still somewhat too good: network and kind of score were chosen by the same slides.

    Returns
    -------
    None: fewer than 10 slides, or fewer than 3 normal or abnormal ones.
    """
    n_abnormal = int(abnormal.sum())
    if len(scores) < MIN_SLIDES or min(n_abnormal, len(scores) - n_abnormal) < MIN_OF_EACH:
        return None
    unseen = np.zeros(len(scores))
    for fold in np.unique(folds):
        held, rest = folds == fold, folds != fold
        slope, intercept = _fit_curve(scores[rest], abnormal[rest])
        unseen[held] = _logistic(slope * scores[held] + intercept)
    slope, intercept = _fit_curve(scores, abnormal)
    return SlideCalibration(
        slope=slope,
        intercept=intercept,
        n_slides=len(scores),
        n_abnormal=n_abnormal,
        brier=float(np.sort((unseen - abnormal) ** 2).mean()),
        reliability=_reliability(unseen, abnormal),
    )


def reliability_table(calibration: SlideCalibration | None) -> pd.DataFrame:
    """Return `predicted` P(abnormal), `observed` share and `n` slides of each bin; maybe no row."""
    rows = calibration.reliability if calibration else []
    return pd.DataFrame(rows, columns=["predicted", "observed", "n"]).astype({"n": int})


def _fit_curve(scores: np.ndarray, abnormal: np.ndarray) -> tuple[float, float]:
    """Return slope and intercept of P(abnormal)."""
    from scipy.optimize import minimize  # noqa: PLC0415 - judging a slide does not need it

    n_abnormal, n_normal = abnormal.sum(), (~abnormal).sum()
    targets = np.where(abnormal, (n_abnormal + 1) / (n_abnormal + 2), 1 / (n_normal + 2))
    middle, spread = scores.mean(), scores.std() or 1.0
    scaled = (scores - middle) / spread

    def loss(curve: np.ndarray) -> tuple[float, np.ndarray]:
        logits = curve[0] * scaled + curve[1]
        off = _logistic(logits) - targets
        value = (np.logaddexp(0, logits) - targets * logits).sum()
        return float(value), np.array([off @ scaled, off.sum()])

    found = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B",
                     bounds=[(0, None), (None, None)],
                     options={"ftol": 1e-14, "gtol": 1e-9})  # fmt: skip
    slope, intercept = found.x
    return float(slope / spread), float(intercept - slope * middle / spread)


def _reliability(predicted: np.ndarray, abnormal: np.ndarray) -> list[dict[str, float]]:
    bins = np.minimum((predicted * N_BINS).astype(int), N_BINS - 1)
    return [
        {
            "predicted": float(np.sort(predicted[bins == number]).mean()),
            "observed": float(abnormal[bins == number].mean()),
            "n": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def _logistic(logits: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -logits))
