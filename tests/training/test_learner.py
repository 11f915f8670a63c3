"""Training: the same weights again, also over a kill; what it refuses."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from textures import draw_folder

from histo_nb.balancing.dataset import StoreSpec, make_dataset
from histo_nb.errors import DatasetError, SpecError
from histo_nb.model.bundle import open_bundle
from histo_nb.tiling.images import tile_images
from histo_nb.training import recipe as recipes
from histo_nb.training.learner import TrainSpec, checkpoint_folder, fit, make_learner, train
from histo_nb.training.loader import TileDataset

SPEC = TrainSpec(
    network_args={"width": 0.125}, image_size=32, recipe="quick", epochs=4, precision="fp32"
)


@pytest.fixture
def dataset(home, tmp_path):
    """24 small tiles of each of two textures, six patients a class."""
    tiles, _ = tile_images(draw_folder(tmp_path / "images"), groups="manifest.csv:patient")
    return make_dataset(tiles, home, store=StoreSpec(search_duplicates=False))


@pytest.fixture
def add_recipe(monkeypatch):
    """Put a recipe beside ours for one test."""

    def add(**changes):
        made = replace(recipes.RECIPES["quick"], name="tested", **changes)
        monkeypatch.setitem(recipes.RECIPES, "tested", made)
        return replace(SPEC, recipe="tested", epochs=0)

    return add


def weights(trained):
    return {name: value.clone() for name, value in trained.network.state_dict().items()}


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(dataset):
    first = weights(fit(dataset, SPEC))
    assert same(first, weights(fit(dataset, SPEC)))
    assert not same(first, weights(fit(dataset, replace(SPEC, train_seed=1))))


def test_textures_are_learnt(dataset):
    trained = fit(dataset, replace(SPEC, epochs=8))
    assert trained.record["balanced_accuracy"] > 0.9
    assert len(trained.records) == 8
    assert trained.logits.shape == (len(dataset.indices("valid")), 2)
    assert all(0 <= record["waiting"] < 1 for record in trained.records)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.01, "schedule": "step"},
        {"mixup": 0.4, "label_smoothing": 0.0},
    ],
)
def test_every_kind_of_recipe_goes_on_after_its_last_epoch(dataset, add_recipe, tmp_path, changes):
    spec = add_recipe(epochs=4, **changes)
    whole = fit(dataset, spec)

    class CutError(Exception):
        pass

    learner = make_learner(dataset, torch.nn.Flatten(), spec=spec, checkpoints=tmp_path)
    checkpoint = type(learner.checkpoint)
    before = checkpoint.after_epoch

    def after_epoch(self):
        before(self)
        if self.epoch == 1:
            raise CutError("after two epochs")

    checkpoint.after_epoch = after_epoch
    try:
        with pytest.raises(CutError):
            fit(dataset, spec, checkpoints=tmp_path)
    finally:
        checkpoint.after_epoch = before
    again = fit(dataset, spec, checkpoints=tmp_path)
    assert same(weights(whole), weights(again))
    steady = ("epoch", "train_loss", "valid_loss", "balanced_accuracy")
    assert [[r[k] for k in steady] for r in whole.records] == [
        [r[k] for k in steady] for r in again.records
    ]


def test_a_training_killed_in_mid_epoch_ends_with_the_same_weights(dataset, home, tmp_path):
    spec = replace(SPEC, epochs=12)
    script = tmp_path / "training.py"
    script.write_text(
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from histo_nb.home import open_home\n"
        "from histo_nb.balancing.dataset import open_dataset\n"
        "from histo_nb.training.learner import TrainSpec, train\n"
        f"spec = TrainSpec(**{ {k: getattr(spec, k) for k in spec.__dataclass_fields__}!r})\n"
        "print(train(open_dataset(Path(sys.argv[1])), open_home(sys.argv[2]), spec=spec))\n"
    )
    command = [sys.executable, str(script), str(dataset.folder), str(home.root)]
    state = checkpoint_folder(dataset, home, spec) / "state.safetensors"
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not state.exists() and killed.poll() is None:
        time.sleep(0.005)
    time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert state.exists(), "the kill came too late to prove anything"
    assert not list(home.models.glob("M-*"))
    model_id = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    torch.set_num_threads(1)
    whole = fit(dataset, spec)
    resumed = open_bundle(home.models / model_id)
    assert same(weights(whole), resumed.network.state_dict())
    assert len((resumed.folder / "history.csv").read_text().splitlines()) == 13
    assert not state.parent.exists()


def test_a_damaged_checkpoint_starts_anew(dataset, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    trained = fit(dataset, replace(SPEC, epochs=1), checkpoints=tmp_path)
    assert len(trained.records) == 1


def test_training_ends_early_when_it_does_not_get_better(dataset, add_recipe):
    spec = add_recipe(epochs=50, patience=3, learning_rate=1e-9)
    trained = fit(dataset, spec)
    assert trained.epoch + 3 == len(trained.records) - 1


def test_a_loss_that_is_no_number_is_a_named_error(dataset, add_recipe):
    with pytest.raises(DatasetError, match="loss is not a number"):
        fit(dataset, add_recipe(optimizer="sgd", learning_rate=1e30))


def test_half_precision_learns_too(dataset):
    trained = fit(dataset, replace(SPEC, epochs=8, precision="bf16"))
    assert trained.record["balanced_accuracy"] > 0.9
    assert next(trained.network.parameters()).dtype == torch.float32


def test_stored_and_live_pixels_are_the_same(home, tmp_path):
    folder = draw_folder(tmp_path / "images", images=5)
    (folder / "bad/p0_4.png").unlink()  # one class is rarer: there are copies
    tiles, _ = tile_images(folder, groups="manifest.csv:patient")
    trust = StoreSpec(search_duplicates=False)
    live = make_dataset(tiles, home, store=replace(trust, stored=False))
    assert type(live.pixels).__name__ == "LivePixels"
    pixels = [live.pixels[i] for i in range(len(live.rows))]
    stored = make_dataset(tiles, home, store=trust)
    assert stored.dataset_id == live.dataset_id
    assert type(stored.pixels).__name__ == "StoredPixels"
    assert all(np.array_equal(stored.pixels[i], tile) for i, tile in enumerate(pixels))


def test_the_card_says_what_changes_an_answer(dataset, home):
    card = open_bundle(home.models / train(dataset, home, spec=replace(SPEC, epochs=1))).card
    assert (card.tile_size, card.mpp, card.read_path, card.store_size) == (64, None, "image", 64)
    assert card.recipe["precision"] == "fp32"
    assert card.temperature > 0
    assert card.certificate_sha256 == dataset.certificate["sha256"]


def test_the_divisor_is_the_variance_where_it_is_asked_for(dataset, home):
    spec = replace(SPEC, epochs=1, normalize="variance")
    bundle = open_bundle(home.models / train(dataset, home, spec=spec))
    assert bundle.card.normalize == "variance"
    items = make_learner(dataset, bundle.network, spec=spec).dls.valid.dataset
    image = items[0][0]
    whole = dataset.pixels[int(dataset.indices("valid")[0])] / 255
    statistics = dataset.statistics
    expected = (whole.mean(axis=(0, 1)) - statistics["mean"]) / statistics["variance"]
    np.testing.assert_allclose(image.mean(dim=(1, 2)), expected, atol=0.1)


def test_what_cannot_be_trained_is_said_first(dataset):
    with pytest.raises(DatasetError, match="image_size ≤ 64"):
        fit(dataset, replace(SPEC, image_size=65))
    with pytest.raises(DatasetError, match="normal_class='benign'"):
        fit(dataset, replace(SPEC, normal_class="benign"))
    with pytest.raises(SpecError, match="precision"):
        TrainSpec(precision="fp8")
    with pytest.raises(SpecError, match="normalize"):
        TrainSpec(normalize="median")
    with pytest.raises(SpecError, match="epochs"):
        TrainSpec(epochs=-1)


def test_tiles_come_in_order_and_whole(dataset):
    items = TileDataset(dataset, dataset.indices("valid"), torch.nn.Identity())
    image, label = items[0]
    row = dataset.indices("valid")[0]
    assert np.array_equal(image.permute(1, 2, 0).numpy(), dataset.pixels[int(row)])
    assert dataset.classes[label] == dataset.rows.label[row]


def test_no_pickle_is_written(dataset, home):
    train(dataset, home, spec=replace(SPEC, epochs=1))
    kinds = {Path(name).suffix for _, _, names in os.walk(home.root) for name in names}
    assert not kinds & {".pkl", ".pth", ".pt", ".bin"}
