"""Bundles: named after all that decides, whole or refused, and nothing executed on the way."""

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from bundles import make_card, put_model, reseal

from histo_nb.errors import BundleError
from histo_nb.files import hash_file
from histo_nb.model.bundle import open_bundle, write_bundle
from histo_nb.model.card import Card, read_card
from histo_nb.model.network import HistoNet33
from histo_nb.model.registry import find_model
from histo_nb.model.seal import check_bundle, name_model, read_gate, write_gate

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(home):
    return find_model(home, put_model(home))


def rewrite(folder, content):
    """Put other weights into a bundle and forge everything that names them."""
    (folder / WEIGHTS).write_bytes(content)
    reseal(folder, weights_sha256=hash_file(folder / WEIGHTS))
    name = name_model(json.loads((folder / "card.json").read_text()))
    reseal(folder, model_id=name)
    return folder.rename(folder.with_name(name))


def state(folder):
    return safetensors.torch.load_file(folder / WEIGHTS)


def test_a_bundle_comes_back_as_it_was_written(home):
    torch.manual_seed(3)
    network, card = HistoNet33(2, width=0.125).eval(), make_card(temperature=1.5)
    history = pd.DataFrame({"epoch": [0, 1]})
    bundle = open_bundle(write_bundle(network, card, home.models, history=history))
    named = replace(card, model_id=bundle.card.model_id, weights_sha256=bundle.card.weights_sha256)
    assert (bundle.card, bundle.gate) == (named, None)
    tile = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(bundle.network(tile), network(tile))
    assert not bundle.network.training


def test_another_card_is_another_model_and_another_time_is_not(home):
    model_id = put_model(home)
    assert put_model(home, created_at="2027-01-01") == model_id
    assert put_model(home, validation={"balanced_accuracy": 0.5, "seconds": 9.0}) == model_id
    others = [put_model(home, seed=1), put_model(home, normal_class="adenoma")]
    others += [put_model(home, temperature=2.0), put_model(home, classes=["b", "normal"])]
    assert len({model_id, *others}) == 5
    assert open_bundle(find_model(home, others[1])).card.normal_class == "adenoma"


def test_a_card_of_an_earlier_version_lacks_what_has_a_default(tmp_path):
    content = asdict(make_card())
    del content["temperature"]
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert read_card(tmp_path / "card.json") == make_card()
    del content["mpp"]
    (tmp_path / "card.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="mpp"):
        read_card(tmp_path / "card.json")


# --------------------------------------------------------------------------------- damage
def flip(path, *, at=-100):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "a flipped bit": lambda f: flip(f / WEIGHTS),
    "cut off": lambda f: os.truncate(f / WEIGHTS, 5000),
    "one byte short": lambda f: os.truncate(f / WEIGHTS, (f / WEIGHTS).stat().st_size - 1),
    "empty": lambda f: os.truncate(f / WEIGHTS, 0),
    "a tail of zeros": lambda f: (
        (size := (f / WEIGHTS).stat().st_size),
        os.truncate(f / WEIGHTS, size // 2),
        os.truncate(f / WEIGHTS, size),
    ),
    "longer": lambda f: (f / WEIGHTS).open("ab").write(b"0"),
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "a card of another normal class": lambda f: (f / "card.json").write_text(
        (f / "card.json")
        .read_text()
        .replace('"normal_class": "normal"', '"normal_class": "adenoma"')
    ),
    "a card of another temperature": lambda f: (f / "card.json").write_text(
        (f / "card.json").read_text().replace('"temperature": 1.0', '"temperature": 9.0')
    ),
    "an edited validation": lambda f: (f / "card.json").write_text(
        (f / "card.json").read_text().replace('"balanced_accuracy": 0.5', '"balanced_accuracy": 1')
    ),
    "a card of nothing": lambda f: (f / "card.json").write_text("{}"),
    "no card": lambda f: (f / "card.json").unlink(),
    "no history": lambda f: (f / "history.csv").unlink(),
    "no checksums": lambda f: (f / "checksums.json").unlink(),
    "checksums of nothing": lambda f: (f / "checksums.json").write_text("{}"),
    "checksums that are a list": lambda f: (f / "checksums.json").write_text("[]"),
    "checksums cut off": lambda f: os.truncate(f / "checksums.json", 20),
    "forged: another normal class": lambda f: reseal(f, normal_class="adenoma"),
    "forged: other weights": lambda f: (flip(f / WEIGHTS), reseal(f)),
    "forged: other weights, named": lambda f: (
        flip(f / WEIGHTS),
        reseal(f, weights_sha256=hash_file(f / WEIGHTS)),
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_bundle_that_is_not_as_it_was_written_is_refused(folder, name):
    DAMAGE[name](folder)
    with pytest.raises(BundleError, match="restore it from a copy, or train again") as refused:
        open_bundle(folder)
    assert folder.name in str(refused.value)


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (os.environ["BOMB"],))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_by_its_first_bytes(folder, tmp_path, monkeypatch, zipped):
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "pickle.pt"
    torch.save({"weights": Bomb()}, path, _use_new_zipfile_serialization=zipped)
    forged = rewrite(folder, path.read_bytes())
    with pytest.raises(BundleError, match=r"no safetensors file.*refused unopened"):
        open_bundle(forged)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x02",
        (1 << 60).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (14).to_bytes(8, "little") + b'{"a":"weights"',
        (13).to_bytes(8, "little") + b'{"a":"weigh"}',
        (len(b"[" * 9000)).to_bytes(8, "little") + b"[" * 9000,
    ],
)
def test_weights_of_a_strange_header_are_refused(folder, content):
    with pytest.raises(BundleError, match="no safetensors file"):
        check_bundle(rewrite(folder, content))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(folder, value):
    weights = state(folder)
    weights["head.3.bias"][1] = value
    with pytest.raises(BundleError, match=r"head\.3\.bias is not finite; train"):
        open_bundle(rewrite(folder, safetensors.torch.save(weights)))


def test_weights_of_another_network_are_refused(folder):
    few = dict(list(state(folder).items())[:-1])
    with pytest.raises(BundleError, match=r"does not fit its card.*Missing key"):
        open_bundle(rewrite(folder, safetensors.torch.save(few)))


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"classes": ["adenoma", "carcinoma", "normal"]}, "does not fit its card"),
        ({"classes": ["normal"]}, "does not fit its card"),
        ({"classes": ["normal", "normal"]}, "must differ"),
        ({"classes": ["adenoma", "carcinoma"]}, "normal class"),
        ({"network": "resnet9000"}, "does not fit its card"),
        ({"network_args": {"depth": 7}}, "does not fit its card"),
        ({"network_args": {"width": 0.25}}, "does not fit its card"),
    ],
)
def test_a_card_that_does_not_fit_the_weights_is_refused(home, card, said):
    folder = find_model(home, put_model(home, gate=None, **card))
    with pytest.raises(BundleError, match=said):
        open_bundle(folder)


def test_a_bundle_under_another_name_is_refused_and_other_files_are_not(folder):
    (folder / "notes.txt").write_text("looked good")
    assert open_bundle(folder).gate["passed"]
    with pytest.raises(BundleError, match="the card says"):
        open_bundle(folder.rename(folder.with_name("M-0123456789")))


# ----------------------------------------------------------------------------------- gate
def test_the_gate_of_another_model_is_refused(home, folder):
    other = find_model(home, put_model(home, seed=1, gate=None))
    same_weights = find_model(home, put_model(home, gate=None, normal_class="adenoma"))
    for target in (other, same_weights):
        assert open_bundle(target).gate is None
        shutil.copy(folder / "gate.json", target / "gate.json")
        with pytest.raises(BundleError, match="gate of another model") as refused:
            open_bundle(target)
        assert f"histo-nb gate {target.name}" in str(refused.value)


def test_an_edited_gate_is_refused(home):
    folder = find_model(home, put_model(home, gate=False))
    path = folder / "gate.json"
    path.write_text(path.read_text().replace('"passed": false', '"passed": true'))
    with pytest.raises(BundleError, match="not as the gate wrote it"):
        read_gate(folder)
    path.write_text("{")
    with pytest.raises(BundleError, match="damaged"):
        read_gate(folder)


def test_a_gate_holds_figures_that_are_no_numbers(folder):
    written = write_gate(folder, {"passed": False, "accuracy": float("nan"), "low": None})
    assert str(read_gate(folder)) == str(written)


# ------------------------------------------------------------------------------- two at once
def test_trainings_of_one_data_set_that_end_at_once_all_end_whole(home):
    """The lock is one of open files: threads of a process meet it as processes do."""
    networks = [HistoNet33(2, width=0.125) for _ in range(2)]
    start = threading.Barrier(6)

    def write(number):
        start.wait(60)
        history = pd.DataFrame({"epoch": [number]})
        return write_bundle(networks[number % 2], make_card(), home.models, history=history)

    with ThreadPoolExecutor(6) as pool:
        folders = list(pool.map(write, range(6)))
    assert len(set(folders)) == 2
    assert set(home.models.iterdir()) == {home.models / ".lock", *folders}
    for folder in folders:
        assert isinstance(open_bundle(folder).card, Card)


def test_training_again_puts_a_damaged_bundle_right_and_keeps_its_gate(home, folder):
    flip(folder / WEIGHTS)
    assert put_model(home, gate=None) == folder.name
    assert open_bundle(folder).gate["passed"]
