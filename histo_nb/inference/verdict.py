"""Tile classes → slide class, by the rule in the card. Loads no torch."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

THRESHOLDS = np.round(np.arange(0.02, 0.52, 0.02), 2)  # shares of tissue that are tried
USUAL_THRESHOLD = 0.1  # taken among equally good ones: the nearest to it


@dataclass(frozen=True, kw_only=True)
class SlideRule:
    """A slide is abnormal from `min_abnormal` of its tissue on, then of its largest such class."""

    min_abnormal: float = USUAL_THRESHOLD  # share of the classified tissue, 0–1

    def to_card(self) -> dict[str, Any]:
        """Return the rule as the card keeps it."""
        return {"name": "abnormal tissue share", **asdict(self)}

    @classmethod
    def from_card(cls, content: dict[str, Any]) -> "SlideRule":
        """Return the rule a card keeps."""
        return cls(min_abnormal=content["min_abnormal"])

    def describe(self, normal_class: str) -> str:
        """Return the rule in words."""
        return (
            f"A slide is abnormal if at least {self.min_abnormal:.0%} of its tissue is; its class "
            f"is then the largest abnormal one, else {normal_class}. Confidence is the mean "
            "probability of that class over the tiles that have it."
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer for one slide."""

    slide_class: str
    confidence: float  # 0–1
    abnormal_fraction: float  # of the tissue, 0–1
    class_fractions: dict[str, float]


def judge_slide(
    predictions: pd.DataFrame, *, classes: list[str], normal_class: str, rule: SlideRule
) -> Verdict:
    """Return a slide's class from its tiles, each weighted by its tissue.

    Parameters
    ----------
    predictions
        Rows of one slide with `prediction`, `tissue` and `prob_<class>`.
    """
    weights = predictions.tissue.groupby(predictions.prediction).sum() / predictions.tissue.sum()
    fractions = {label: float(weights.get(label, 0.0)) for label in classes}
    abnormal = {label: share for label, share in fractions.items() if label != normal_class}
    share = round(sum(abnormal.values()), 9)  # 0.1 + 0.7 is "at least 0.8" too
    label = max(abnormal, key=lambda c: abnormal[c]) if share >= rule.min_abnormal else normal_class
    tiles = predictions[predictions.prediction == label]
    chosen = tiles if len(tiles) else predictions
    return Verdict(
        slide_class=label,
        confidence=float(chosen[f"prob_{label}"].mean()),
        abnormal_fraction=float(share),
        class_fractions=fractions,
    )


def true_slide_class(labels: pd.Series, normal_class: str) -> str:
    """Return a slide's class from its labelled tiles: the most frequent abnormal one, if any."""
    abnormal = labels[labels.notna() & (labels != normal_class)]
    return str(abnormal.mode().iloc[0]) if len(abnormal) else normal_class


def tune_rule(predictions: pd.DataFrame, *, classes: list[str], normal_class: str) -> SlideRule:
    """Choose the threshold that gets most validation slides right.

    Parameters
    ----------
    predictions
        Validation tiles of several slides with their `label` and predictions.
    """
    slides = [rows for _, rows in predictions.groupby("slide_id")]
    truth = [true_slide_class(rows.label, normal_class) for rows in slides]

    def n_right(threshold: float) -> int:
        rule = SlideRule(min_abnormal=threshold)
        verdicts = [
            judge_slide(rows, classes=classes, normal_class=normal_class, rule=rule)
            for rows in slides
        ]
        return sum(v.slide_class == t for v, t in zip(verdicts, truth, strict=True))

    best = max(THRESHOLDS, key=lambda t: (n_right(t), -abs(t - USUAL_THRESHOLD)))
    return SlideRule(min_abnormal=float(best))
