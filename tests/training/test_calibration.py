"""Temperatures that are known are found again; calibration errors are as by hand."""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from histo_nb.errors import BundleError, DatasetError, SpecError
from histo_nb.files import write_json
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.model.card import Card, read_card
from histo_nb.training.calibration import (
    fit_temperature,
    measure_calibration,
    uncalibrate,
)


def simulate(n=20_000, *, temperature=1.0, n_classes=3, seed=0):
    """Logits that are `temperature` times those which classes were drawn by."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, n_classes))
    targets = (softmax(logits, axis=1).cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    return logits * temperature, targets


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature):
    logits, targets = simulate(temperature=temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.05)


def test_a_calibrated_classifier_has_next_to_no_error():
    logits, targets = simulate()
    figures = measure_calibration(targets, softmax(logits, axis=1))
    assert figures["ece"] < 0.012
    assert sum(row["n"] for row in figures["reliability"]) == len(targets)
    for row in figures["reliability"]:
        assert row["accuracy"] == pytest.approx(row["confidence"], abs=0.06)


def test_an_overconfident_one_has_the_error_counted_by_hand():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.3, 0.7]] * 10)
    targets = np.array([0] * 6 + [1] * 4 + [1] * 5 + [0] * 5)  # right: 6 of 10, 5 of 10
    figures = measure_calibration(targets, probabilities)
    assert figures["ece"] == pytest.approx((abs(0.9 - 0.6) + abs(0.7 - 0.5)) / 2)
    assert figures["reliability"] == [
        {"confidence": pytest.approx(0.7), "accuracy": 0.5, "n": 10},
        {"confidence": pytest.approx(0.9), "accuracy": 0.6, "n": 10},
    ]
    assert figures["brier"] == pytest.approx(
        2 * (6 * 0.1**2 + 4 * 0.9**2 + 5 * 0.3**2 + 5 * 0.7**2) / 20
    )


def test_bins_are_closed_above():
    figures = measure_calibration(np.array([0, 0]), np.array([[0.8, 0.2], [0.81, 0.19]]))
    assert [row["n"] for row in figures["reliability"]] == [1, 1]  # 0.8 is 12/15
    sure = measure_calibration(np.array([0]), np.array([[1.0, 0.0]]))
    assert (sure["nll"], sure["ece"]) == (0, 0)
    wrong = measure_calibration(np.array([1]), np.array([[1.0, 0.0]]))
    assert np.isfinite(wrong["nll"])


def test_tiles_that_are_all_right_teach_no_temperature():
    logits = np.array([[2.0, 0.0], [0.0, 1.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 1.0
    assert fit_temperature(logits, np.array([1, 0])) == pytest.approx(20, rel=1e-3)


def test_what_was_calibrated_can_be_undone():
    logits, _ = simulate(100)
    probabilities = softmax(logits / 2.5, axis=1).astype(np.float32)
    assert uncalibrate(probabilities, 2.5) == pytest.approx(softmax(logits, axis=1), abs=1e-5)


def test_bad_logits_are_refused():
    logits, targets = simulate(10)
    for broken in (np.nan, np.inf):
        with pytest.raises(DatasetError, match="diverged"):
            fit_temperature(np.where(logits == logits[3, 1], broken, logits), targets)
    with pytest.raises(DatasetError, match="no tile"):
        fit_temperature(logits[:0], targets[:0])
    with pytest.raises(SpecError, match="do not fit"):
        fit_temperature(logits, targets[:5])
    with pytest.raises(SpecError, match="class numbers 0–2"):
        fit_temperature(logits, targets + 1)


class Brightness(torch.nn.Module):
    """Logits from the mean of a picture."""

    def forward(self, batch):
        mean = batch.mean(dim=(1, 2, 3))
        return torch.stack([mean, -mean], dim=1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_runtime_divides_logits_by_the_cards_temperature(temperature):
    statistics = {"mean": [0.5] * 3, "std": [0.25] * 3, "variance": [0.0625] * 3}
    card = SimpleNamespace(model_id="M-1", store_size=8, image_size=8, statistics=statistics,
                           normalize="std", temperature=temperature)  # fmt: skip
    tiles = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 204)])
    runtime = TorchRuntime(SimpleNamespace(card=card, network=Brightness()))
    found = np.array(list(classify_tiles(runtime, tiles)))
    logits = np.array([[-2.0, 2.0], [1.2, -1.2]])
    assert found == pytest.approx(softmax(logits / temperature, axis=1), abs=1e-3)


def test_a_card_without_temperature_is_one_of_1(tmp_path):
    content = dict.fromkeys(f.name for f in fields(Card) if f.name != "temperature")
    assert read_card(write_json(tmp_path / "card.json", content)).temperature == 1.0
    for broken in (0, -1, "warm"):
        path = write_json(tmp_path / "card.json", content | {"temperature": broken})
        with pytest.raises(BundleError, match="temperature"):
            read_card(path)
