"""Figures of a model on patients it never saw, beside baselines that see colour only."""

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import Dataset
from histo_nb.errors import BundleError, DatasetError, TableError
from histo_nb.inference.answer import make_predictions
from histo_nb.inference.rule import SlideRule
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.inference.verdict import judge_slides, true_slide_classes
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card
from histo_nb.tiling.images import patients_unknown
from histo_nb.training.calibration import Figures, measure_calibration, uncalibrate
from histo_nb.training.colour import colour_baselines
from histo_nb.training.measures import (
    bootstrap_patients,
    class_probabilities,
    measure,
    measure_predictions,
    number_labels,
)

OVERALL = {  # rows of `figures_table`: what it says, where it stands
    "accuracy": "accuracy",
    "balanced accuracy": "balanced_accuracy",
    "AUC, mean of the classes": "auc_macro",
    "calibration error (ECE)": "ece",
    "log-likelihood, negative": "nll",
    "Brier score": "brier",
}


def evaluate(bundle: Bundle, dataset: Dataset, *, split: str = "test") -> Figures:
    """Return a model's figures on one part of a data set, fit for JSON.

    Returns
    -------
    `split`, and what `evaluate_predictions` returns, with the colour baselines on the same tiles.

    Raises
    ------
    BundleError
        The classes, the tiles or the split are not those the model was trained with.
    DatasetError
        The part has no tile.
    """
    card = bundle.card
    if card.certificate_sha256 != dataset.certificate["sha256"]:
        raise BundleError(
            f"model {card.model_id} was trained under another split certificate than data set "
            f"{dataset.dataset_id}; test patients may have been learnt: take {card.dataset_id}"
        )
    predictions = _classify(bundle, dataset, split)
    baselines = colour_baselines(dataset, split=split)
    return {"split": split, **evaluate_predictions(predictions, card, baselines=baselines)}


def evaluate_predictions(
    predictions: pd.DataFrame, card: Card, *, baselines: dict[str, Figures] | None = None
) -> Figures:
    """Return what a model's predictions are worth, fit for JSON.

    Parameters
    ----------
    predictions
        Rows with `label, patient_id, slide_id, tissue, prediction, prob_<class>`, as `Runtime`
        classified them: calibrated by the card's temperature.
    baselines
        Figures of other classifiers of the same tiles by name, see `colour.colour_baselines`.

    Returns
    -------
    `model_id, classes, n_tiles, n_slides, n_patients` (None: each image stands for one, also in the
    intervals); what `measures.measure_predictions`
    returns; `temperature`, and `uncalibrated`: the calibration figures without it, None if it is
    1; `slides`: the figures of the slide classes, with `slide_correct`, their accuracy;
    `baselines`: the balanced accuracy of each, and all else in `baseline_figures`.

    Raises
    ------
    BundleError
        A label is unknown to the model, or a probability is missing or not a number.
    TableError
        There is no row, or one without a label.
    """
    _check(predictions, card)
    slides = measure_slides(predictions, card)
    return {
        "model_id": card.model_id,
        "classes": card.classes,
        "n_tiles": len(predictions),
        "n_slides": int(predictions.slide_id.nunique()),
        "n_patients": None
        if patients_unknown(predictions)
        else int(predictions.patient_id.nunique()),
        **measure_predictions(predictions, card.classes),
        "temperature": card.temperature,
        "uncalibrated": _uncalibrated(predictions, card),
        "slide_correct": slides["accuracy"],
        "slides": slides,
        "baselines": {name: f["balanced_accuracy"] for name, f in (baselines or {}).items()},
        "baseline_figures": baselines or {},
    }


def measure_slides(predictions: pd.DataFrame, card: Card) -> Figures:
    """Return the figures of the slides' classes by the card's rule, with `n_slides`."""
    rule = SlideRule.from_card(card.slide_rule)
    verdicts = judge_slides(
        predictions, classes=card.classes, normal_class=card.normal_class, rule=rule
    )
    truth = true_slide_classes(predictions.label, predictions.slide_id, card.normal_class)
    patients = predictions.groupby("slide_id").patient_id.first()
    slides = pd.DataFrame(
        {
            "patient_id": patients[list(verdicts)].to_numpy(),
            "label": truth[list(verdicts)].to_numpy(),
            "prediction": [verdict.slide_class for verdict in verdicts.values()],
        }
    )
    return {
        "n_slides": len(slides),
        **measure(slides.label, slides.prediction, card.classes),
        "intervals": bootstrap_patients(slides, card.classes),
    }


def figures_table(figures: Figures) -> pd.DataFrame:
    """Return the figures to read: overall ones with their 95 % interval, then a row a class."""
    rows = {
        said: {
            "value": _text(figures[name]),
            "95 % interval": _text(*figures["intervals"].get(name, ())),
            "n": f"{figures['n_tiles']:,} tiles",
        }
        for said, name in OVERALL.items()
    }
    rows["slides right"] = {
        "value": _text(figures["slide_correct"]),
        "95 % interval": _text(*figures["slides"]["intervals"]["accuracy"]),
        "n": f"{figures['n_slides']:,} slides",
    }
    for label in figures["classes"]:
        shares = {name: _text(figures[name].get(label)) for name in ("recall", "precision", "f1")}
        n = {"n": f"{figures['n'][label]:,} tiles"}
        rows[label] = n | shares | {"AUC": _text(figures["auc"][label])}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("")


def _text(*values: float | None) -> str:
    return "–".join("" if value is None else f"{value:.3f}" for value in values).strip("–")


def _classify(bundle: Bundle, dataset: Dataset, split: str) -> pd.DataFrame:
    """Return the rows of a part with the model's predictions; tiles are read one by one."""
    indices = dataset.indices(split)
    if not len(indices):
        raise DatasetError(
            f"data set {dataset.dataset_id} has no tile in its part {split!r}; choose train, valid "
            "or test"
        )
    tiles = (np.asarray(dataset.pixels[int(i)]) for i in indices)
    bar = tqdm(tiles, total=len(indices), desc="evaluating", unit="tile")
    probabilities = np.array(list(classify_tiles(TorchRuntime(bundle), bar)))
    return make_predictions(dataset.rows.iloc[indices], probabilities, bundle.card.classes)


def _uncalibrated(predictions: pd.DataFrame, card: Card) -> Figures | None:
    if card.temperature == 1:
        return None
    probabilities = class_probabilities(predictions, card.classes)
    targets = number_labels(predictions.label, card.classes)
    return measure_calibration(targets, uncalibrate(probabilities, card.temperature))


def _check(predictions: pd.DataFrame, card: Card) -> None:
    if predictions.empty or predictions.label.isna().any():
        raise TableError(
            f"{predictions.label.isna().sum()} of {len(predictions)} tiles have no label; label "
            "them or leave them out: without truth there are no figures"
        )
    unknown = sorted(set(predictions.label) - set(card.classes))
    if unknown:
        raise BundleError(
            f"label {unknown[0]!r} is unknown to model {card.model_id}; it knows "
            f"{', '.join(card.classes)}"
        )
    columns = [f"prob_{label}" for label in card.classes]
    if not np.isfinite(predictions.reindex(columns=columns).to_numpy(float)).all():
        raise BundleError(
            f"a probability is missing or not a number; classify the tiles with {card.model_id} "
            "again, or train again if they stay so"
        )
