"""Figures against hand-counted ones, scikit-learn's, and cohorts whose truth is known."""

import json
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn import metrics

from histo_nb.errors import BundleError, DatasetError, TableError
from histo_nb.inference.rule import SlideRule
from histo_nb.model.card import Card
from histo_nb.training import colour
from histo_nb.training.evaluate import evaluate_predictions, figures_table
from histo_nb.training.measures import bootstrap_patients, measure, measure_predictions

CLASSES = ["adenoma", "carcinoma", "normal"]


def predict(probabilities, targets, *, patients=None, classes=CLASSES):
    """Rows of predictions as `make_predictions` makes them, a slide a patient."""
    probabilities, labels = np.asarray(probabilities, float), np.array(classes, object)
    patients = [f"P{i}" for i in range(len(targets))] if patients is None else patients
    rows = pd.DataFrame(probabilities, columns=[f"prob_{label}" for label in classes])
    return rows.assign(
        label=labels[np.asarray(targets)],
        prediction=labels[probabilities.argmax(axis=1)],
        patient_id=patients,
        slide_id=patients,
        tissue=1.0,
    )


def cohort(rng, *, n_patients=20, n=15, sharpness=1.5):
    """Tiles of patients of one class each, who are differently difficult."""
    patients = np.repeat(np.arange(n_patients), n)
    targets = patients % len(CLASSES)
    difficulty = rng.normal(0, 1, (n_patients, len(CLASSES)))[patients]
    logits = sharpness * np.eye(len(CLASSES))[targets] + difficulty
    logits += rng.normal(0, 1, logits.shape)
    return predict(softmax(logits, axis=1), targets, patients=[f"P{i}" for i in patients])


def card(**changes):
    content = dict.fromkeys(f.name for f in fields(Card)) | {
        "model_id": "M-1",
        "classes": CLASSES,
        "normal_class": "normal",
        "slide_rule": SlideRule(threshold=0.5).to_card(),
        "temperature": 1.0,
    }
    return Card(**(content | changes))


def test_labels_are_counted_as_by_hand():
    truth = pd.Series(["adenoma"] * 4 + ["normal"] * 2)
    said = pd.Series(["adenoma", "adenoma", "adenoma", "normal", "normal", "adenoma"])
    figures = measure(truth, said, CLASSES)
    assert figures["accuracy"] == pytest.approx(4 / 6)
    assert figures["recall"] == {"adenoma": 3 / 4, "normal": 1 / 2}  # carcinoma does not occur
    assert figures["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert figures["precision"] == {"adenoma": 3 / 4, "carcinoma": None, "normal": 1 / 2}
    assert figures["f1"] == {"adenoma": 3 / 4, "carcinoma": None, "normal": 1 / 2}
    assert figures["n"] == {"adenoma": 4, "carcinoma": 0, "normal": 2}
    assert figures["confusion"] == [[3, 0, 1], [0, 0, 0], [1, 0, 1]]


def test_figures_are_those_of_scikit_learn():
    rows = cohort(np.random.default_rng(1))
    figures = measure_predictions(rows, CLASSES)
    truth, said = rows.label, rows.prediction
    probabilities = rows[[f"prob_{label}" for label in CLASSES]].to_numpy()
    shares = metrics.precision_recall_fscore_support(truth, said, labels=CLASSES)
    for name, expected in zip(("precision", "recall", "f1", "n"), shares, strict=True):
        assert list(figures[name].values()) == pytest.approx(expected.tolist())
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(truth, said))
    expected = metrics.balanced_accuracy_score(truth, said)
    assert figures["balanced_accuracy"] == pytest.approx(expected)
    assert (figures["confusion"] == metrics.confusion_matrix(truth, said, labels=CLASSES)).all()
    assert figures["nll"] == pytest.approx(metrics.log_loss(truth, probabilities, labels=CLASSES))
    expected = metrics.roc_auc_score(truth, probabilities, multi_class="ovr", labels=CLASSES)
    assert figures["auc_macro"] == pytest.approx(expected)
    briers = [metrics.brier_score_loss(truth == c, rows[f"prob_{c}"]) for c in CLASSES]
    assert figures["brier"] == pytest.approx(sum(briers))


def test_roc_points_are_few_and_hold_the_area():
    rows = cohort(np.random.default_rng(2), n=200)
    figures = measure_predictions(rows, CLASSES)
    for label, curve in figures["roc"].items():
        assert len(curve["fpr"]) <= 100
        assert (curve["fpr"][0], curve["tpr"][-1]) == (0, 1)
        area = metrics.auc(curve["fpr"], curve["tpr"])
        assert area == pytest.approx(figures["auc"][label], abs=0.003)


def test_a_perfect_and_a_useless_classifier():
    targets = np.arange(60) % 3
    perfect = measure_predictions(predict(np.eye(3)[targets], targets), CLASSES)
    for name in ("accuracy", "balanced_accuracy", "auc_macro"):
        assert perfect[name] == 1
        assert perfect["intervals"][name] == [1, 1]
    assert (perfect["nll"], perfect["brier"], perfect["ece"]) == (0, 0, 0)
    useless = measure_predictions(predict(np.full((60, 3), 1 / 3), targets), CLASSES)
    assert useless["balanced_accuracy"] == pytest.approx(1 / 3)
    assert useless["auc_macro"] == 0.5
    assert useless["intervals"]["auc_macro"] == [0.5, 0.5]  # ties count half in every draw
    assert useless["nll"] == pytest.approx(np.log(3))
    assert useless["brier"] == pytest.approx(2 / 3)


def test_a_draws_figures_are_those_of_its_tiles(monkeypatch):
    rows = cohort(np.random.default_rng(3), n_patients=7, n=5).round(1)  # with ties
    times = [2, 0, 1, 1, 0, 3, 0]
    drawn = [rows[rows.patient_id == f"P{i}"] for i, n in enumerate(times) for _ in range(n)]
    expected = measure_predictions(pd.concat(drawn), CLASSES)
    rigged = SimpleNamespace(multinomial=lambda *_, **__: np.array([times]))
    monkeypatch.setattr(np.random, "default_rng", lambda _: rigged)
    for name, interval in bootstrap_patients(rows, CLASSES).items():
        assert interval == pytest.approx([expected[name]] * 2), name


def test_intervals_hold_the_truth_in_about_19_of_20_cohorts():
    rng = np.random.default_rng(4)
    names = ("accuracy", "balanced_accuracy", "auc_macro")
    truth = measure_predictions(cohort(rng, n_patients=1000, n=5), CLASSES)
    rounds, held = 100, dict.fromkeys(names, 0)
    for _ in range(rounds):
        intervals = bootstrap_patients(cohort(rng, n_patients=40, n=5), CLASSES)
        for name in names:
            held[name] += intervals[name][0] <= truth[name] <= intervals[name][1]
    assert all(0.87 <= n / rounds <= 0.99 for n in held.values()), held


def test_patients_are_drawn_not_tiles():
    rng = np.random.default_rng(5)
    rows = cohort(rng, n_patients=12, n=50)
    low, high = bootstrap_patients(rows, CLASSES)["accuracy"]
    alone = rows.assign(patient_id=[f"P{i}" for i in range(len(rows))])
    narrow_low, narrow_high = bootstrap_patients(alone, CLASSES)["accuracy"]
    assert high - low > 2 * (narrow_high - narrow_low)


@pytest.mark.parametrize("patients", [["P1"] * 6, ["P1", "P2", None] * 2])
def test_one_or_unknown_patients_give_no_interval(patients):
    rows = predict(np.eye(3)[[0, 1, 2, 0, 1, 2]], [0, 1, 2, 0, 1, 1], patients=patients)
    intervals = bootstrap_patients(rows, CLASSES)
    assert set(intervals) == {"accuracy", "balanced_accuracy", "auc_macro", "ece"}
    assert all(interval == [None, None] for interval in intervals.values())


def test_a_class_that_does_not_occur_leaves_the_rest_defined():
    targets = np.array([0, 0, 2, 2, 2, 0])
    probabilities = np.array([[0.6, 0.3, 0.1]] * 2 + [[0.1, 0.3, 0.6]] * 3 + [[0.2, 0.7, 0.1]])
    figures = measure_predictions(predict(probabilities, targets), CLASSES)
    assert figures["auc"]["carcinoma"] is None
    assert figures["roc"]["carcinoma"] is None
    assert figures["auc_macro"] == 1
    assert figures["precision"]["carcinoma"] == 0  # predicted once, never right
    assert None not in figures["intervals"]["auc_macro"]


def test_unknown_labels_are_no_class():
    with pytest.raises(DatasetError, match="'polyp' is unknown"):
        measure(pd.Series(["polyp"]), pd.Series(["normal"]), CLASSES)


def test_an_evaluation_is_json_and_holds_what_the_gate_asks():
    rows = cohort(np.random.default_rng(6))
    baselines = {"mean_rgb": measure_predictions(rows, CLASSES)}
    figures = evaluate_predictions(rows, card(temperature=2.0), baselines=baselines)
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert (figures["n_tiles"], figures["n_slides"], figures["n_patients"]) == (300, 20, 20)
    assert figures["baselines"] == {"mean_rgb": figures["balanced_accuracy"]}
    assert figures["uncalibrated"]["nll"] != figures["nll"]
    assert evaluate_predictions(rows, card())["uncalibrated"] is None


def test_slides_are_judged_by_the_cards_rule():
    kinds = [(0, 0, 0, 2), (0, 2, 2, 2), (2, 2, 2, 2)]  # what the model says of each tile
    said = np.eye(3)[np.concatenate(kinds)]
    rows = predict(said, [0] * 8 + [2] * 4, patients=np.repeat(["P1", "P2", "P3"], 4))
    figures = evaluate_predictions(rows, card())
    assert figures["slides"]["confusion"] == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert figures["slide_correct"] == figures["slides"]["accuracy"] == pytest.approx(2 / 3)
    assert figures["slides"]["balanced_accuracy"] == pytest.approx(3 / 4)


def test_bad_predictions_are_refused_with_a_way_out():
    rows = cohort(np.random.default_rng(7))
    with pytest.raises(BundleError, match="'polyp' is unknown to model M-1; it knows adenoma"):
        evaluate_predictions(rows.assign(label="polyp"), card())
    with pytest.raises(TableError, match="no label; label them"):
        evaluate_predictions(rows.assign(label=None), card())
    with pytest.raises(TableError, match="0 of 0"):
        evaluate_predictions(rows.head(0), card())
    for broken in (rows.drop(columns="prob_normal"), rows.assign(prob_normal=np.nan)):
        with pytest.raises(BundleError, match="missing or not a number"):
            evaluate_predictions(broken, card())


def test_the_table_says_overall_figures_then_classes():
    rows = cohort(np.random.default_rng(8))
    figures = evaluate_predictions(rows, card())
    table = figures_table(figures)
    assert list(table.index[-3:]) == CLASSES
    low, high = figures["intervals"]["accuracy"]
    assert table.loc["accuracy", "95 % interval"] == f"{low:.3f}–{high:.3f}"
    assert table.loc["adenoma", "recall"] == f"{figures['recall']['adenoma']:.3f}"
    one = figures_table(evaluate_predictions(rows.assign(patient_id="P1"), card()))
    assert (one["95 % interval"] == "").all()


class Tiles:
    """A lazy store: one tile by one int, and nothing else."""

    def __init__(self, tiles):
        self.tiles, self.asked = tiles, []

    def __getitem__(self, number):
        assert type(number) is int
        self.asked.append(number)
        return self.tiles[number]


def test_colour_baselines_learn_from_originals_one_tile_at_a_time(make_tiles):
    rng = np.random.default_rng(9)
    groups = [(f"{part}{i}-{label}", label, 4) for part in ("train", "test") for i in range(3)
              for label in ("adenoma", "normal")]  # fmt: skip
    rows = make_tiles(*groups)
    rows = rows.assign(
        split=rows.patient_id.str.extract("^(train|test)", expand=False), parent_id=None
    )
    red = np.where(rows.label == "adenoma", 200, 120)
    tiles = [np.stack([np.full((8, 8), r)] + [np.full((8, 8), 90)] * 2, axis=-1) for r in red]
    pixels = Tiles([(t + rng.integers(0, 9, t.shape)).astype(np.uint8) for t in tiles])
    copies = rows[rows.split == "train"].head(5).assign(parent_id=rows.tile_id)
    rows = pd.concat([rows, copies], ignore_index=True)
    parts = {name: np.flatnonzero(rows.split == name) for name in ("train", "test")}

    dataset = SimpleNamespace(rows=rows, pixels=pixels, indices=parts.get, classes=CLASSES)
    figures = colour.colour_baselines(dataset)
    assert list(figures) == ["mean_rgb", "colour_histogram", "colour_and_contrast"]
    for measured in figures.values():  # carcinoma was never learnt, and does no harm
        assert measured["balanced_accuracy"] == measured["accuracy"] == 1
    assert sorted(pixels.asked) == list(range(48))  # no copy, none twice


def test_colour_features_are_as_by_hand():
    tile = np.zeros((2, 2, 3), np.uint8)
    tile[0] = 255
    assert colour.mean_rgb(tile) == pytest.approx([127.5] * 3)
    histogram = colour.colour_histogram(tile)
    assert (histogram[0], histogram[63], histogram.sum()) == (0.5, 0.5, 1)
    half = np.log10(256) / 2  # black is log10(256), white 0: mean and deviation are half of it
    assert colour.colour_and_contrast(tile) == pytest.approx([half] * 6)
