"""A model made ready for slides: what is measured, what is refused, what stays as it was."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from analysed import CLASSES, change_prepared, learnt, prepared, put_learnt
from bundles import put_model
from textures import draw_folder

from histo_nb.balancing.dataset import StoreSpec, make_dataset
from histo_nb.errors import BundleError, DatasetError, HistoError
from histo_nb.files import hash_file
from histo_nb.home import Home
from histo_nb.inference.reference import read_reference
from histo_nb.inference.runtime import Answers, open_runtime
from histo_nb.model import openvino_files
from histo_nb.model.bundle import open_bundle
from histo_nb.model.card import read_card
from histo_nb.model.prepared import PREPARED, REFERENCE, RUNTIMES_FILE, find_cpu, read_prepared
from histo_nb.model.registry import production_entry, promote
from histo_nb.model.seal import CARD, check_bundle, read_gate
from histo_nb.tiling.images import tile_images
from histo_nb.training import prepare as module
from histo_nb.training.prepare import prepare_model, runtimes_table

ALWAYS = {"torch fp32", "openvino fp32"}  # bf16 and int8 where the processor has them


@pytest.fixture
def ward(home) -> Home:
    """A home with the prepared model and its data set, whose slides stay where they are."""
    source, _ = learnt()
    prepared()
    shutil.copytree(source.models, home.models, dirs_exist_ok=True)
    shutil.copytree(source.datasets, home.datasets, dirs_exist_ok=True)
    return home


@cache
def converted() -> Any:
    """The network of `prepared` in OpenVINO's format, not normalised yet; copy it."""
    bundle = open_bundle(prepared())
    return module.convert_network(bundle.network, bundle.card)


@pytest.fixture
def converted_once(monkeypatch):
    """Saves the second that it takes each time; for the model of `prepared` only."""
    network = converted()
    monkeypatch.setattr(module, "convert_network", lambda *_: network.clone())


@pytest.fixture
def quickly(monkeypatch):
    """Few training tiles, and no int8."""
    monkeypatch.setattr(module, "N_REFERENCE", 60)
    monkeypatch.setattr(module, "quantize_network", lambda network, _: network)


@pytest.fixture
def quick(ward, quickly, converted_once) -> tuple[Home, Path]:
    """A home where a preparation takes a second, and the folder of its model."""
    return ward, ward.models / prepared().name


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def spoil_answers(monkeypatch, name: str, change) -> None:
    """Let one runtime say something else."""
    original = module.OpenVinoRuntime.run

    def run(self, images):
        for n, (key, said) in enumerate(original(self, images)):
            logits = change(n, said.logits) if self.name == name else said.logits
            yield key, Answers(logits.astype(np.float32), said.features)

    monkeypatch.setattr(module.OpenVinoRuntime, "run", run)


# ----------------------------------------------------------------------------- what is written
def test_it_says_what_was_measured_and_of_what():
    folder = prepared()
    facts, card = read_prepared(folder), check_bundle(folder)
    _, dataset = learnt()
    valid = dataset.rows[dataset.rows.split == "valid"]
    assert (facts["model_id"], facts["weights_sha256"]) == (folder.name, card.weights_sha256)
    assert (facts["cpu"], facts["n_tiles"]) == (find_cpu(), len(valid))
    assert facts["n_slides"] == valid.slide_id.nunique() == 2
    assert {"openvino", "torch"} <= set(facts["packages"])
    assert set(facts["runtimes"]) >= ALWAYS
    for name, measured in facts["runtimes"].items():
        assert measured["ms_per_tile"] > 0
        assert measured["passed"] == (not measured["faults"]), name
        assert 0 <= measured["changed"] <= 1
    exact = facts["runtimes"]["torch fp32"]
    assert (exact["max_difference"], exact["changed"], exact["passed"]) == (0, 0, True)
    near = facts["runtimes"]["openvino fp32"]
    assert 0 < near["max_difference"] < 1e-4
    assert near["balanced_accuracy"] == exact["balanced_accuracy"]
    files = set(contents(folder / PREPARED)) - {RUNTIMES_FILE}
    assert files == {REFERENCE, *(f"{p}.{s}" for p in ("fp32", "int8") for s in ("xml", "bin"))}
    assert set(facts["files"]) == files
    for name, sha256 in facts["files"].items():
        assert hash_file(folder / PREPARED / name) == sha256
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


def test_the_reference_is_of_the_training_tiles_and_their_scanners():
    _, dataset = learnt()
    reference = read_reference(prepared() / PREPARED / REFERENCE)
    train = dataset.rows[(dataset.rows.split == "train") & dataset.rows.parent_id.isna()]
    assert reference.n_tiles == len(train)
    assert reference.centres.shape == (len(CLASSES), 256)
    assert reference.scanners == ("aperio 20x",)
    assert reference.stain.n_slides == train.slide_id.nunique()


def test_the_table_shows_the_fastest_first():
    table = runtimes_table(read_prepared(prepared()))
    assert table.ms_per_tile.is_monotonic_increasing
    assert set(table.index) >= ALWAYS
    assert table.passed["torch fp32"]
    facts = json.loads((prepared() / PREPARED / RUNTIMES_FILE).read_text())
    for name, measured in facts["runtimes"].items():
        assert table.faults[name] == "; ".join(measured["faults"])


def test_nothing_else_of_the_bundle_changes(quick):
    ward, folder = quick
    model_id = folder.name
    promote(ward, model_id, reason="test")
    before, served, gate = contents(folder), production_entry(ward), read_gate(folder)
    card = read_card(folder / CARD)
    prepare_model(ward, model_id)
    after = contents(folder)
    assert {n for n in after if n.startswith(PREPARED)} == {
        n for n in before if n.startswith(PREPARED)
    }
    for name in before:
        assert name.startswith(PREPARED) or after[name] == before[name], name
    assert check_bundle(folder) == card
    assert (production_entry(ward), read_gate(folder)) == (served, gate)
    assert not [name for name in after if Path(name).name.startswith(".")]


def test_called_again_it_gives_the_same_answers(ward):
    folder = ward.models / prepared().name
    before = contents(folder / PREPARED)
    facts = prepare_model(ward, folder.name)
    assert facts == read_prepared(folder)
    after = contents(folder / PREPARED)
    assert set(after) == set(before)
    for name in (REFERENCE, "fp32.bin", "int8.bin"):
        assert after[name] == before[name], name
    first = json.loads(before[RUNTIMES_FILE])
    for name, measured in facts["runtimes"].items():
        timeless = {**measured, "ms_per_tile": 0}
        assert timeless == {**first["runtimes"][name], "ms_per_tile": 0}


def test_a_model_without_its_preparation_is_given_one(quick):
    ward, folder = quick
    shutil.rmtree(folder / PREPARED)
    prepare_model(ward, folder.name)
    assert set(read_prepared(folder)["runtimes"]) >= ALWAYS
    assert open_runtime(folder, runtime="openvino", precision="fp32").name == "openvino fp32"


# ----------------------------------------------------------------------------------- agreement
CHANGES = {
    "other classes": (
        lambda n, logits: logits[:, [1, 2, 0]],
        r"of 260 validation tiles get another class",
    ),
    "one tile in fifty": (
        lambda n, logits: -logits if n % 50 == 0 else logits,
        r"\d of 260 validation tiles get another class",
    ),
    "the same, but surer": (
        lambda n, logits: logits + 40 * (logits == logits.max()) * (n < 60),
        r"a probability differs by 0\.\d\d",
    ),
    "not a number": (
        lambda n, logits: logits * (np.nan if n == 3 else 1),
        "a probability is not a number",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_runtime_that_says_something_else_does_not_pass(quick, monkeypatch, what):
    (ward, folder), (change, said) = quick, CHANGES[what]
    spoil_answers(monkeypatch, "openvino fp32", change)
    measured = prepare_model(ward, folder.name)["runtimes"]
    assert measured["torch fp32"]["passed"]
    spoilt = measured["openvino fp32"]
    assert not spoilt["passed"]
    assert pd.Series(spoilt["faults"]).str.contains(said).any(), spoilt["faults"]
    with pytest.raises(BundleError, match=r"openvino fp32 did not give the answers of fp32"):
        open_runtime(folder, runtime="openvino", precision="fp32")
    assert (what == "not a number") or spoilt["max_difference"] > 0.1
    json.loads((folder / PREPARED / RUNTIMES_FILE).read_text(), parse_constant=pytest.fail)
    assert not runtimes_table(read_prepared(folder)).passed["openvino fp32"]


def test_answers_within_the_limits_pass(quick, monkeypatch):
    """One tile of 260 gets another class."""
    monkeypatch.setattr(module, "MAX_DIFFERENCE", 1.0)
    spoil_answers(monkeypatch, "openvino fp32", lambda n, x: x[:, [1, 2, 0]] if n == 5 else x)
    measured = prepare_model(quick[0], quick[1].name)["runtimes"]["openvino fp32"]
    assert measured["changed"] == pytest.approx(1 / 260)
    assert (measured["passed"], measured["faults"]) == (True, [])


def test_a_precision_that_the_processor_lacks_is_not_measured(quick, monkeypatch):
    ward, folder = quick
    monkeypatch.setattr(module, "can_compute", lambda precision: precision == "fp32")
    assert set(prepare_model(ward, folder.name)["runtimes"]) == ALWAYS


def test_fp32_can_be_computed_everywhere():
    assert openvino_files.can_compute("fp32")
    assert not openvino_files.can_compute("int3")


# ---------------------------------------------------------------------------- small data sets
@pytest.mark.parametrize("n", [1, 5])
def test_few_training_tiles_are_enough_to_quantise(n):
    images = np.random.default_rng(0).normal(size=(n, 3, 32, 32)).astype(np.float32)
    quantized = openvino_files.quantize_network(converted().clone(), images)
    assert any(step.get_type_name() == "FakeQuantize" for step in quantized.get_ops())


def test_one_validation_patient_allows_no_interval_but_a_preparation(quick, monkeypatch):
    ward, folder = quick
    original = module._sample

    def of_one_patient(dataset, bundle, split, at_most):
        sample = original(dataset, bundle, split, at_most)
        return module.Sample(sample.rows.assign(patient_id="P"), sample.images)

    monkeypatch.setattr(module, "_sample", of_one_patient)
    assert prepare_model(ward, folder.name)["runtimes"]["openvino fp32"]["passed"]


def test_a_part_without_a_tile_is_named(quick, monkeypatch):
    ward, folder = quick
    original = module.Dataset.indices

    def indices(self, split):
        return original(self, split)[: 0 if split == "valid" else None]

    monkeypatch.setattr(module.Dataset, "indices", indices)
    with pytest.raises(DatasetError, match="has no tile in its part 'valid'"):
        prepare_model(ward, folder.name)


# ------------------------------------------------------------------------------- what is gone
def check_untouched(folder: Path, before: dict[str, bytes]) -> None:
    assert contents(folder) == before
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("gone", ["datasets", "pixels", "rows"])
def test_a_data_set_that_is_gone_is_named(ward, gone):
    folder = ward.models / prepared().name
    before = contents(folder)
    dataset = ward.datasets / learnt()[1].dataset_id
    if gone == "datasets":
        shutil.rmtree(dataset)
    elif gone == "pixels":
        shutil.rmtree(ward.datasets / "pixels")
    else:
        (dataset / "tiles.parquet").write_bytes(b"")
    with pytest.raises(HistoError, match=r"histo-nb balance|make it again"):
        prepare_model(ward, folder.name)
    check_untouched(folder, before)


def test_training_slides_that_are_gone_leave_the_scanners_unknown(quick, monkeypatch):
    ward, folder = quick
    original = module._sample

    def of_gone_slides(*arguments):
        sample = original(*arguments)
        return module.Sample(sample.rows.assign(slide_path="/nowhere.svs"), sample.images)

    monkeypatch.setattr(module, "_sample", of_gone_slides)
    prepare_model(ward, folder.name)
    assert read_reference(folder / PREPARED / REFERENCE).scanners == ()


def test_a_model_of_another_certificate_is_refused(ward):
    _, dataset = learnt()
    model_id = put_model(ward, dataset_id=dataset.dataset_id)
    before = contents(ward.models / model_id)
    with pytest.raises(BundleError, match=rf"{dataset.dataset_id} was made anew.*train again"):
        prepare_model(ward, model_id)
    check_untouched(ward.models / model_id, before)


@pytest.mark.parametrize("name", ["M-0", "", "../x", "production.json"])
def test_an_unknown_model_is_named(ward, name):
    with pytest.raises(BundleError, match="no model"):
        prepare_model(ward, name)


def test_a_damaged_model_is_not_prepared(ward):
    folder = ward.models / prepared().name
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(BundleError, match="SHA-256 differs"):
        prepare_model(ward, folder.name)


STEPS = ["_other_runtimes", "_compare", "write_networks", "seal_prepared"]


@pytest.mark.parametrize("step", STEPS)
def test_what_is_broken_off_leaves_the_model_as_it_was(quick, monkeypatch, step):
    """It serves meanwhile."""
    ward, folder = quick
    before = contents(folder)

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, step, stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_model(ward, folder.name)
    check_untouched(folder, before)
    assert open_runtime(folder, runtime="openvino", precision="fp32").name == "openvino fp32"


def test_a_network_that_openvino_cannot_take_is_named(ward, quickly, monkeypatch):
    def fails(*_, **__):
        raise ValueError("no such\n  operation")

    monkeypatch.setattr(torch.export, "export", fails)
    folder = ward.models / prepared().name
    before = contents(folder)
    with pytest.raises(BundleError, match="cannot be written for OpenVINO: no such operation"):
        prepare_model(ward, folder.name)
    check_untouched(folder, before)


# ------------------------------------------------------------------------------- loose images
@pytest.mark.parametrize("groups", ["manifest.csv:patient", ""])
def test_a_model_of_loose_images_is_prepared_without_scanners(home, tmp_path, quickly, groups):
    """Also where nobody knows whose the images are: then there is no interval."""
    tiles, _ = tile_images(
        draw_folder(tmp_path / "images", classes=("bad", "normal")), groups=groups
    )
    dataset = make_dataset(tiles, home, store=StoreSpec(search_duplicates=False))
    size = dataset.pixels.shape[1]
    model_id = put_learnt(
        home, dataset, classes=dataset.classes, mpp=None, read_path="image",
        tile_size=size, store_size=size,
    )  # fmt: skip
    facts = prepare_model(home, model_id)
    assert facts["runtimes"]["openvino fp32"]["max_difference"] < 1e-4
    folder = home.models / model_id
    reference = read_reference(folder / PREPARED / REFERENCE)
    assert reference.scanners == ()
    assert reference.n_tiles == min(len(dataset.indices("train")), 60)
    assert open_runtime(folder, runtime="openvino", precision="fp32").card.mpp is None


def test_what_was_measured_cannot_be_changed_by_hand(ward):
    folder = ward.models / prepared().name
    path = folder / PREPARED / RUNTIMES_FILE
    facts = json.loads(path.read_text())
    for change in ({"cpu": "mine"}, {"runtimes": {}}, {"sha256": "0"}, {"model_id": "M-1"}):
        path.write_text(json.dumps(facts | change))
        with pytest.raises(BundleError, match="not as it was written"):
            read_prepared(folder)
    path.write_text(json.dumps(facts))
    assert read_prepared(folder) == facts
    change_prepared(folder, lambda content: content.update(model_id="M-1"))
    assert read_prepared(folder)["model_id"] == folder.name
