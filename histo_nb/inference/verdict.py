"""Tile classes → slide class, by the rule in the card. Loads no torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.inference.rule import SlideRule
from histo_nb.inference.scores import DIGITS, Cohort, gather_cohort, score_slides, sum_groups


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The answer for one slide."""

    slide_class: str
    score: float  # abnormal from the rule's threshold on: 0–1, of kind "region" in mm²
    confidence: float  # 0–1; `SlideRule.describe` says what it means
    abnormal_fraction: float  # of the tissue, 0–1
    class_fractions: dict[str, float]


def judge_slide(
    predictions: pd.DataFrame, *, classes: list[str], normal_class: str, rule: SlideRule
) -> Verdict:
    """Return a slide's class from its tiles.

    Parameters
    ----------
    predictions
        Rows of one slide with `prediction`, `tissue` and `prob_<class>`; for a rule of kind
        "region" also `x, y, size_l0, slide_mpp`.

    Raises
    ------
    TableError, BundleError
        As `judge_slides`.
    """
    verdicts = judge_slides(predictions, classes=classes, normal_class=normal_class, rule=rule)
    (verdict,) = verdicts.values()
    return verdict


def judge_slides(
    predictions: pd.DataFrame, *, classes: list[str], normal_class: str, rule: SlideRule
) -> dict[str, Verdict]:
    """Return the verdict of each `slide_id`, in sorted order: those of `judge_slide`, at once.

    Raises
    ------
    TableError
        There is no row.
    BundleError
        A prediction is none of the classes, or the rule needs a scale that is unknown.
    """
    cohort = gather_cohort(predictions, classes=classes, normal_class=normal_class)
    scores, strongest = score_slides(cohort, rule.kind)
    abnormal = scores >= rule.threshold
    labels = np.where(abnormal, strongest, cohort.normal)
    confidence = _mean_probability(cohort, labels)
    if rule.calibration:
        probability = rule.calibration.probability(scores)
        confidence = np.where(abnormal, probability, 1 - probability)
    fractions = cohort.fractions
    return {
        slide_id: Verdict(
            slide_class=classes[labels[i]],
            score=float(scores[i]),
            confidence=float(confidence[i]),
            abnormal_fraction=round(float(fractions[i, cohort.abnormal].sum()), DIGITS),
            class_fractions=dict(zip(classes, fractions[i].tolist(), strict=True)),
        )
        for i, slide_id in enumerate(cohort.slide_ids)
    }


def true_slide_class(labels: pd.Series, normal_class: str) -> str:
    """Return a slide's class from its labelled tiles: the most frequent abnormal one, if any."""
    one = pd.Series("", index=labels.index)
    return str(true_slide_classes(labels, one, normal_class).get("", normal_class))


def true_slide_classes(labels: pd.Series, slides: pd.Series, normal_class: str) -> pd.Series:
    """Return the true class of each slide by its id, in sorted order.

    Parameters
    ----------
    labels, slides
        Label (None = unlabelled) and slide of each tile.
    """
    table = pd.DataFrame({"label": labels, "slide": slides})
    counts = table[labels.notna() & (labels != normal_class)].value_counts(["slide", "label"])
    frequent = counts.rename("n").reset_index().sort_values(["n", "label"], ascending=[False, True])
    first = frequent.drop_duplicates("slide").set_index("slide").label
    return first.reindex(np.unique(slides), fill_value=normal_class)


def _mean_probability(cohort: Cohort, labels: np.ndarray) -> np.ndarray:
    """Return the mean probability (S,) of each slide's class over the tiles that have it.

    If none has it, as can be where few tiles decide, over all tiles.
    """
    n, slides = len(cohort.slide_ids), cohort.slides
    chosen = cohort.said == labels[slides]
    chosen |= (np.bincount(slides[chosen], minlength=n) == 0)[slides]
    values = cohort.probabilities[np.arange(len(slides)), labels[slides]]
    return sum_groups(values[chosen], slides[chosen], n) / np.bincount(slides[chosen])
