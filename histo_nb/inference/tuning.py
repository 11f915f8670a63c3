"""Chooses the rule that gets most validation slides right. Loads no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.inference.rule import USUAL, SlideRule
from histo_nb.inference.scores import KINDS, Cohort, Kind, can_measure, gather_cohort, score_slides
from histo_nb.inference.slide_calibration import fit_slide_calibration
from histo_nb.inference.verdict import true_slide_classes

LEAVE_ONE_OUT = 50  # patients at most; from then on, folds of patients: the same for less work
N_FOLDS = 10


@dataclass(frozen=True)
class ScoredSlides:
    """What one kind of score says of slides, beside the truth."""

    kind: Kind
    scores: np.ndarray  # (S,)
    abnormal: np.ndarray  # (S,) bool, the truth
    named: np.ndarray  # (S,) bool: if abnormal, then of the class that is said

    def take(self, chosen: np.ndarray) -> "ScoredSlides":
        """Return some of the slides."""
        return ScoredSlides(
            self.kind, self.scores[chosen], self.abnormal[chosen], self.named[chosen]
        )

    def count_right(self, threshold: float) -> np.ndarray:
        """Return how many slides are rightly abnormal or not, and how many of the right class."""
        side = (self.scores >= threshold) == self.abnormal
        return np.array([side.sum(), (side & (self.named | ~self.abnormal)).sum()])


def tune_rule(predictions: pd.DataFrame, *, classes: list[str], normal_class: str) -> SlideRule:
    """Choose kind and threshold that get most validation slides right, and calibrate it.

    Each kind's threshold is tuned on all patients but those of a fold and tried on these: one
    patient a fold, or ten folds if there are more than 50 (slides, if all are of one patient). The
    kind with most slides rightly abnormal or not wins, then the one with most right classes, then
    the simplest; its threshold is tuned on all slides. If these are all normal or all abnormal,
    nothing can be chosen: it is a tenth of the tissue.

    Parameters
    ----------
    predictions
        Validation tiles of several slides with `slide_id`, `label` and predictions as `judge_slide`
        needs them; `patient_id` where it is known. Kind "region" is tried if all have a scale.

    Returns
    -------
    Its `cross_validation` has `n_slides, n_patients, n_folds` and `right`: for each kind the
    number of slides that are rightly `abnormal` or not, and of the right `class`.

    Raises
    ------
    TableError, BundleError
        As `verdict.judge_slides`.
    """
    cohort = gather_cohort(predictions, classes=classes, normal_class=normal_class)
    truth = true_slide_classes(predictions.label, predictions.slide_id, normal_class).to_numpy()
    abnormal = truth != normal_class
    if abnormal.all() or not abnormal.any():
        return SlideRule()
    patients = _number_patients(predictions, cohort)
    folds = plan_folds(patients, abnormal)
    kinds = KINDS if can_measure(predictions) else [kind for kind in KINDS if kind != "region"]
    scored = {kind: _score(cohort, kind, truth) for kind in kinds}
    right = {kind: _cross_validate(slides, folds) for kind, slides in scored.items()}
    best = max(kinds, key=lambda kind: tuple(right[kind]))  # the first of equal ones
    return SlideRule(
        kind=best,
        threshold=tune_threshold(scored[best]),
        calibration=fit_slide_calibration(scored[best].scores, abnormal, folds),
        cross_validation=_report(right, patients=patients, folds=folds),
    )


def tune_threshold(slides: ScoredSlides) -> float:
    """Return the threshold in the middle of a gap between scores that gets most slides right.

    Of equally good gaps it is the widest; of kind "area", the usual threshold if one holds it.
    Where no gap divides normal from abnormal slides, it is the usual one of the kind.
    """
    usual = USUAL[slides.kind]
    if slides.abnormal.all() or not slides.abnormal.any():
        return usual
    scores = np.unique(slides.scores)
    if len(scores) < 2:
        return usual
    low, high = scores[:-1], scores[1:]
    right = _count_right(slides, high)
    best = (right == right.max()).nonzero()[0]
    low, high = low[best], high[best]
    if slides.kind == "area" and ((low < usual) & (usual <= high)).any():
        return usual
    widest = (high - low).round(12).argmax()
    return float((low[widest] + high[widest]) / 2)


def plan_folds(patients: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """Return the fold (S,) of each slide: patients stay whole, both sides are spread evenly."""
    n = int(patients.max()) + 1
    if n <= LEAVE_ONE_OUT:
        return patients
    sick = np.bincount(patients, weights=abnormal, minlength=n) > 0
    folds = np.empty(n, int)
    folds[np.argsort(sick, kind="stable")] = np.arange(n) % N_FOLDS
    return folds[patients]


def _count_right(slides: ScoredSlides, cuts: np.ndarray) -> np.ndarray:
    """Return one number a cut (n,), by which to compare: right sides first, then classes."""
    order = np.argsort(slides.scores)
    below = np.searchsorted(slides.scores[order], cuts)  # slides under each cut
    abnormal, named = slides.abnormal[order], slides.named[order]

    def above(what: np.ndarray) -> np.ndarray:
        return what.sum() - np.concatenate([[0], np.cumsum(what)])[below]

    normal_right = np.concatenate([[0], np.cumsum(~abnormal)])[below]
    sides, classes = normal_right + above(abnormal), normal_right + above(abnormal & named)
    return sides * (len(order) + 1) + classes


def _score(cohort: Cohort, kind: Kind, truth: np.ndarray) -> ScoredSlides:
    scores, labels = score_slides(cohort, kind)
    normal_class = cohort.classes[cohort.normal]
    return ScoredSlides(
        kind, scores, truth != normal_class, np.array(cohort.classes)[labels] == truth
    )


def _number_patients(predictions: pd.DataFrame, cohort: Cohort) -> np.ndarray:
    """Return the patient (S,) of each slide; a slide of an unknown one stands for itself.

    If all slides are of one patient, each stands for itself too.
    """
    first = predictions.drop_duplicates("slide_id").set_index("slide_id")
    known = first.get("patient_id", pd.Series(None, index=first.index, dtype=object))
    names = [
        f"slide {slide_id}" if pd.isna(patient) else f"patient {patient}"
        for slide_id, patient in known.reindex(cohort.slide_ids).items()
    ]
    numbers, found = pd.factorize(np.array(names, object), sort=True)
    return np.arange(len(names)) if len(found) == 1 else numbers


def _cross_validate(slides: ScoredSlides, folds: np.ndarray) -> np.ndarray:
    """Return how many slides are right by thresholds that were tuned without their fold."""
    right = np.zeros(2, int)
    for fold in np.unique(folds):
        threshold = tune_threshold(slides.take(folds != fold))
        right += slides.take(folds == fold).count_right(threshold)
    return right


def _report(
    right: dict[Kind, np.ndarray], *, patients: np.ndarray, folds: np.ndarray
) -> dict[str, Any]:
    return {
        "n_slides": len(patients),
        "n_patients": len(np.unique(patients)),
        "n_folds": len(np.unique(folds)),
        "right": {
            kind: {"abnormal": int(sides), "class": int(named)}
            for kind, (sides, named) in right.items()
        },
    }
