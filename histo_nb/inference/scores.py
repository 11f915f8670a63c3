"""What a slide's tiles add up to: one number a slide, in each of three ways. Loads no torch.

Sums are taken in sorted order and scores are rounded, so that neither the order of the rows nor
the other slides beside them change a score.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from histo_nb.errors import BundleError, TableError
from histo_nb.inference.regions import measure_regions

Kind = Literal["area", "top_k", "region"]

KINDS: tuple[Kind, ...] = get_args(Kind)  # the simplest first
TOP_K = 5  # tiles; one tile alone is easily wrong, a small tumour has few more
DIGITS = 9  # that scores are rounded to: 0.1 + 0.7 is "at least 0.8" too


@dataclass(frozen=True)
class Cohort:
    """The tiles of one slide or of many, as arrays."""

    rows: pd.DataFrame
    slide_ids: list[str]  # (S,) sorted
    slides: np.ndarray  # (N,) number of the slide a tile is of
    classes: list[str]  # (C,)
    normal: int  # number of the normal class
    said: np.ndarray  # (N,) number of the class predicted
    tissue: np.ndarray  # (N,) share, 0–1
    probabilities: np.ndarray  # (N, C)

    @property
    def abnormal(self) -> np.ndarray:
        """Numbers of the abnormal classes, (C - 1,)."""
        return np.delete(np.arange(len(self.classes)), self.normal)

    @property
    def fractions(self) -> np.ndarray:
        """Share of each slide's classified tissue that each class has, (S, C)."""
        n, width = len(self.slide_ids), len(self.classes)
        areas = sum_groups(self.tissue, self.slides * width + self.said, n * width)
        return areas.reshape(n, width) / sum_groups(self.tissue, self.slides, n)[:, None]


def gather_cohort(predictions: pd.DataFrame, *, classes: list[str], normal_class: str) -> Cohort:
    """Return predictions as arrays; rows without `slide_id` are of one slide.

    Raises
    ------
    TableError
        There is no row.
    BundleError
        A prediction, or the normal class, is none of the classes.
    """
    if predictions.empty:
        raise TableError("there is no classified tile to judge a slide by; tile the slide again")
    known = pd.Index(classes)
    said = known.get_indexer(pd.Index(predictions.prediction))
    strange = {normal_class, *predictions.prediction[said < 0]} - set(classes)
    if strange:
        raise BundleError(
            f"class {min(strange)!r} is unknown to the model, which knows {', '.join(classes)}; "
            "classify the tiles again"
        )
    names = predictions.get("slide_id", pd.Series("", index=predictions.index))
    slides, slide_ids = pd.factorize(names, sort=True)
    probabilities = predictions[[f"prob_{label}" for label in classes]].to_numpy(float)
    return Cohort(predictions, slide_ids.tolist(), slides, classes, classes.index(normal_class),
                  said, predictions.tissue.to_numpy(float), probabilities)  # fmt: skip


def score_slides(cohort: Cohort, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """Return how abnormal each slide is, and which abnormal class says so.

    Returns
    -------
    Scores (S,): 0–1, of kind "region" in mm². Class numbers (S,), the first of equal ones.

    Raises
    ------
    BundleError
        The kind is "region", and the scale of a slide is unknown.
    """
    scores, labels = _SCORES[kind](cohort)
    return scores.round(DIGITS), labels


def can_measure(predictions: pd.DataFrame) -> bool:
    """Return whether regions have an area: all tiles have a place and a scale."""
    needed = ("x", "y", "size_l0", "slide_mpp")
    return all(name in predictions and predictions[name].notna().all() for name in needed)


def sum_groups(values: np.ndarray, groups: np.ndarray, n: int) -> np.ndarray:
    """Return the sum (n,) of values (N,) in each group, whatever the order of the rows."""
    order = np.lexsort((values, groups))
    return np.bincount(groups[order], weights=values[order], minlength=n)


def _score_area(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    shares = cohort.fractions[:, cohort.abnormal]
    return shares.sum(axis=1), cohort.abnormal[shares.argmax(axis=1)]


def _score_top_k(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    means = [_top_mean(cohort.probabilities[:, c], cohort) for c in cohort.abnormal]
    scores = _top_mean(1 - cohort.probabilities[:, cohort.normal], cohort)
    return scores, cohort.abnormal[np.argmax(means, axis=0)]


def _score_region(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    if not can_measure(cohort.rows):
        raise BundleError(
            "this model judges slides by the largest abnormal region in mm², but the scale of "
            "these tiles is unknown; give it (--image-mpp, --slide-mpp) or take another model"
        )
    scores = np.zeros(len(cohort.slide_ids))
    labels = np.full(len(cohort.slide_ids), cohort.abnormal[0])
    normal_class = cohort.classes[cohort.normal]
    for number, (_, rows) in enumerate(cohort.rows.groupby(cohort.slides)):
        found = measure_regions(
            rows, normal_class=normal_class, slide_mpp=float(rows.slide_mpp.iloc[0])
        )
        if found:
            label, scores[number] = max(found, key=lambda r: (r[1], -cohort.classes.index(r[0])))
            labels[number] = cohort.classes.index(label)
    return scores, labels


_SCORES: dict[Kind, Callable[[Cohort], tuple[np.ndarray, np.ndarray]]] = {
    "area": _score_area,
    "top_k": _score_top_k,
    "region": _score_region,
}


def _top_mean(values: np.ndarray, cohort: Cohort) -> np.ndarray:
    """Return the mean (S,) of the `TOP_K` highest values (N,) of each slide, or of all it has."""
    n = len(cohort.slide_ids)
    order = np.lexsort((-values, cohort.slides))
    slides, counts = cohort.slides[order], np.bincount(cohort.slides, minlength=n)
    rank = np.arange(len(order)) - (np.cumsum(counts) - counts)[slides]
    top = rank < TOP_K
    return np.bincount(slides[top], weights=values[order][top]) / np.minimum(counts, TOP_K)
