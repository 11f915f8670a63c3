"""Baselines that see a tile's colour, but no structure: what a model must be better than."""

import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import Dataset
from histo_nb.inference.answer import make_predictions
from histo_nb.training.calibration import Figures
from histo_nb.training.measures import measure_predictions

HISTOGRAM_BINS = 4  # a channel: 64 colours
OPTICAL_DENSITY = -np.log10((np.arange(256) + 1) / 256)  # of a uint8 value; 0 is white
KEPT = ("accuracy", "balanced_accuracy", "recall", "auc_macro", "ece", "intervals")


def colour_baselines(dataset: Dataset, *, split: str = "test") -> dict[str, Figures]:
    """Return the figures of logistic regressions on the colour of the same tiles.

    Each learns from the original training tiles, no copies, with classes weighted to be equal.

    Returns
    -------
    By name of the baseline: `accuracy, balanced_accuracy, recall, auc_macro, ece, intervals`.
    """
    figures = {}
    for name, predictions in colour_predictions(dataset, split=split).items():
        measured = measure_predictions(predictions, dataset.classes)
        figures[name] = {key: measured[key] for key in KEPT}
    return figures


def colour_predictions(dataset: Dataset, *, split: str = "test") -> dict[str, pd.DataFrame]:
    """Return what each baseline says of the tiles of one part, as a network's predictions."""
    train = np.flatnonzero((dataset.rows.split == "train") & dataset.rows.parent_id.isna())
    test = dataset.indices(split)
    learnt, asked = measure_colours(dataset, train), measure_colours(dataset, test)
    labels, rows = dataset.rows.label.iloc[train], dataset.rows.iloc[test]
    answers = {}
    for name in FEATURES:
        probabilities = _classify(learnt[name], labels, asked[name], classes=dataset.classes)
        answers[name] = make_predictions(rows, probabilities, dataset.classes)
    return answers


def measure_colours(dataset: Dataset, numbers: np.ndarray) -> dict[str, np.ndarray]:
    """Return each feature (N, …) float32 of the given rows; one tile is in memory at a time."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in FEATURES}
    for number in tqdm(numbers, desc="measuring colours", unit="tile", leave=False):
        tile = np.asarray(dataset.pixels[int(number)])
        for name, feature in FEATURES.items():
            found[name].append(feature(tile).astype(np.float32))
    return {name: np.stack(values) for name, values in found.items()}


def mean_rgb(tile: np.ndarray) -> np.ndarray:
    """Return the mean of each channel (3,) of a (H, W, 3) uint8 tile."""
    return np.asarray(tile.mean(axis=(0, 1)))


def colour_histogram(tile: np.ndarray) -> np.ndarray:
    """Return the share (64,) of each of 4 × 4 × 4 colours in a (H, W, 3) uint8 tile."""
    bins = (tile // (256 // HISTOGRAM_BINS)).reshape(-1, 3).astype(np.int64)
    code = (bins[:, 0] * HISTOGRAM_BINS + bins[:, 1]) * HISTOGRAM_BINS + bins[:, 2]
    return np.bincount(code, minlength=HISTOGRAM_BINS**3) / len(code)


def colour_and_contrast(tile: np.ndarray) -> np.ndarray:
    """Return mean and deviation (6,) of each channel's optical density in a (H, W, 3) tile."""
    density = OPTICAL_DENSITY[tile].reshape(-1, 3)
    return np.concatenate([density.mean(axis=0), density.std(axis=0)])


FEATURES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean_rgb": mean_rgb,
    "colour_histogram": colour_histogram,
    "colour_and_contrast": colour_and_contrast,
}


def _classify(
    learnt: np.ndarray, labels: pd.Series, asked: np.ndarray, *, classes: list[str]
) -> np.ndarray:
    """Return probabilities (N, n_classes); 0 for a class that was not learnt."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is a baseline as well
        model.fit(learnt, labels)
    probabilities = np.zeros((len(asked), len(classes)))
    probabilities[:, [classes.index(label) for label in model.classes_]] = model.predict_proba(
        asked
    )
    return probabilities
