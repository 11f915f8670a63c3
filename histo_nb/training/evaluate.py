"""Figures of a model on patients it never saw, beside baselines that see colour only."""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, recall_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import Dataset
from histo_nb.errors import BundleError
from histo_nb.inference.pipeline import make_predictions
from histo_nb.inference.runtime import Runtime
from histo_nb.inference.verdict import SlideRule, judge_slide, true_slide_class
from histo_nb.model.bundle import Bundle

N_BOOTSTRAP = 1000
HISTOGRAM_BINS = 4  # a channel: 64 colours


def evaluate(bundle: Bundle, dataset: Dataset, *, split: str = "test") -> dict[str, Any]:
    """Return a model's figures on one part of a data set.

    `accuracy` and `balanced_accuracy` come with 95 % intervals from resampled patients;
    `baselines` holds the balanced accuracy of a logistic regression on the mean colour and on the
    colour histogram of the same tiles.

    Raises
    ------
    BundleError
        The classes, the tiles or the split are not those the model was trained with.
    """
    card = bundle.card
    if card.certificate_sha256 != dataset.certificate["sha256"]:
        raise BundleError(
            f"model {card.model_id} was trained under another split certificate than data set "
            f"{dataset.dataset_id}; test patients may have been learnt: take {card.dataset_id}"
        )
    indices = dataset.indices(split)
    runtime = Runtime(bundle)
    tiles = tqdm((dataset.pixels[i] for i in indices), total=len(indices), desc="evaluating",
                 unit="tile")  # fmt: skip
    probabilities = np.array(list(runtime.classify_all(tiles)))
    rows = dataset.rows.iloc[indices].reset_index(drop=True)
    predictions = make_predictions(rows, probabilities, card.classes)
    return {
        "split": split,
        "n_tiles": len(rows),
        "n_slides": int(rows.slide_id.nunique()),
        "n_patients": int(rows.patient_id.nunique()),
        **measure(predictions.label, predictions.prediction, card.classes),
        "intervals": bootstrap_patients(predictions, card.classes),
        "slide_correct": slide_accuracy(predictions, bundle),
        "baselines": colour_baselines(dataset, split=split),
    }


def measure(truth: pd.Series, predicted: pd.Series, classes: list[str]) -> dict[str, Any]:
    """Return accuracy, balanced accuracy (over classes that occur), recalls and confusions."""
    present = [label for label in classes if (truth == label).any()]
    recalls = recall_score(truth, predicted, labels=present, average=None, zero_division=0)
    return {
        "accuracy": float((truth == predicted).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "recall": dict(zip(present, recalls.astype(float).tolist(), strict=True)),
        "confusion": confusion_matrix(truth, predicted, labels=classes).tolist(),
    }


def bootstrap_patients(predictions: pd.DataFrame, classes: list[str]) -> dict[str, list[float]]:
    """Return 95 % intervals of accuracy and balanced accuracy over resampled patients."""
    rng = np.random.default_rng(0)
    tables = [
        confusion_matrix(rows.label, rows.prediction, labels=classes)
        for _, rows in predictions.groupby("patient_id")
    ]
    draws = rng.integers(len(tables), size=(N_BOOTSTRAP, len(tables)))
    confusions = np.array(tables)[draws].sum(axis=1).astype(float)
    right = np.diagonal(confusions, axis1=1, axis2=2)
    totals = confusions.sum(axis=2)
    recalls = np.where(totals > 0, right / np.maximum(totals, 1), np.nan)
    figures = {
        "accuracy": right.sum(axis=1) / totals.sum(axis=1),
        "balanced_accuracy": np.nanmean(recalls, axis=1),
    }
    return {name: np.quantile(v, [0.025, 0.975]).tolist() for name, v in figures.items()}


def slide_accuracy(predictions: pd.DataFrame, bundle: Bundle) -> float:
    """Return the share of slides whose class by the card's rule is that of their labels."""
    card = bundle.card
    rule = SlideRule.from_card(card.slide_rule)
    right = [
        judge_slide(
            rows, classes=card.classes, normal_class=card.normal_class, rule=rule
        ).slide_class
        == true_slide_class(rows.label, card.normal_class)
        for _, rows in predictions.groupby("slide_id")
    ]
    return float(np.mean(right))


def colour_baselines(dataset: Dataset, *, split: str = "test") -> dict[str, float]:
    """Return the balanced accuracy of classifiers that see colour, but no structure."""
    train, test = dataset.indices("train"), dataset.indices(split)
    labels = dataset.rows.label.to_numpy()
    scores = {}
    for name, feature in (("mean_rgb", mean_rgb), ("colour_histogram", colour_histogram)):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
        )
        model.fit(np.stack([feature(dataset.pixels[i]) for i in train]), labels[train])
        predicted = model.predict(np.stack([feature(dataset.pixels[i]) for i in test]))
        figures = measure(pd.Series(labels[test]), pd.Series(predicted), dataset.classes)
        scores[name] = figures["balanced_accuracy"]
    return scores


def mean_rgb(tile: np.ndarray) -> np.ndarray:
    """Return the mean of each channel (3,) of a (H, W, 3) uint8 tile."""
    return np.asarray(tile.mean(axis=(0, 1)))


def colour_histogram(tile: np.ndarray) -> np.ndarray:
    """Return the share (64,) of each of 4 × 4 × 4 colours in a (H, W, 3) uint8 tile."""
    bins = (tile // (256 // HISTOGRAM_BINS)).reshape(-1, 3).astype(np.int64)
    code = (bins[:, 0] * HISTOGRAM_BINS + bins[:, 1]) * HISTOGRAM_BINS + bins[:, 2]
    return np.bincount(code, minlength=HISTOGRAM_BINS**3) / len(code)
