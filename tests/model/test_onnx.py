import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from histo_nb import __version__
from histo_nb.errors import BundleError
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.model import onnx as written
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card
from histo_nb.model.network import make_network
from histo_nb.model.onnx import write_onnx

SIZE = 64


def bundle_of(net, **changes):
    card = {
        "model_id": "M-0123456789",
        "classes": ["normal", "tumeur in situ, été"],
        "normal_class": "normal",
        "network": "histonet33",
        "network_args": {},
        "tile_size": 512,
        "mpp": 0.5,
        "read_path": "area",
        "store_size": 128,
        "image_size": SIZE,
        "normalize": "std",
        "statistics": {"mean": [0.5, 0.4, 0.6], "std": [0.1, 0.2, 0.3], "variance": [1, 4, 9]},
        "recipe": {},
        "best_epoch": 0,
        "select_on": "valid",
        "validation": {},
        "slide_rule": {},
        "dataset_id": "D-1",
        "certificate_sha256": "",
        "weights_sha256": "ab" * 32,
        "packages": {},
        "created_at": "",
        "temperature": 1.0,
    }
    return Bundle(Path("nowhere"), Card(**card | changes), net.eval(), None)


def shaken(network):
    """Give every norm weights and statistics, as after training, so that each layer counts."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0, 0.1)
    with torch.no_grad():  # logits of about 1, whose softmax can be told from 0
        logits = network.eval()(torch.randn(8, 3, SIZE, SIZE))
        network.head[-1].weight /= logits.std()
    return network


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))


def made(network):
    network(torch.zeros(1, 3, SIZE, SIZE))
    return network


@pytest.mark.parametrize(
    ("name", "arguments"), [("histonet33", {"width": 0.125}), ("resnet34_taps", {})]
)
def test_the_file_gives_the_logits_of_the_network(tmp_path, name, arguments):
    network = shaken(make_network(name, 2, **arguments)).eval()
    path = write_onnx(bundle_of(network, network=name), tmp_path / "deep" / "model.onnx")
    assert path == tmp_path / "deep" / "model.onnx"
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path))
    for n in (1, 2, 5):
        images = torch.randn(n, 3, SIZE, SIZE)
        with torch.no_grad():
            logits = network(images).log_softmax(dim=1).numpy()
        (found,) = session.run(["probabilities"], {"images": images.numpy()})
        np.testing.assert_allclose(np.log(found), logits, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory):
    bundle = bundle_of(made(tiny()), temperature=4.0, normalize="variance")
    return bundle, write_onnx(bundle, tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_the_temperature_is_in_the_file(small_file):
    bundle, path = small_file
    images = 3 * torch.randn(3, 3, SIZE, SIZE)
    (found,) = onnxruntime.InferenceSession(str(path)).run(None, {"images": images.numpy()})
    with torch.no_grad():
        logits = bundle.network(images)
    np.testing.assert_allclose(found, (logits / 4).softmax(dim=1), atol=1e-5)
    assert np.abs(found - logits.softmax(dim=1).numpy()).max() > 0.01
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_the_file_says_how_it_is_fed(small_file):
    model = onnx.load(small_file[1])
    assert [(used.domain, used.version) for used in model.opset_import] == [("", 18)]
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["model_id"] == "M-0123456789"
    assert json.loads(told["classes"]) == ["normal", "tumeur in situ, été"]
    assert json.loads(told["mean"]) == [0.5, 0.4, 0.6]
    assert json.loads(told["divisor"]) == [1, 4, 9]  # of "variance"
    assert (told["image_size"], told["tile_size"], told["mpp"]) == ("64", "512", "0.5")
    assert (told["read_path"], told["store_size"], told["temperature"]) == ("area", "128", "4.0")
    assert told["written_by"] == f"histo_nb {__version__}"
    assert told["use"] == "research use only"
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param
    assert [d.dim_value for d in shape[1:]] == [3, SIZE, SIZE]


def test_the_same_model_gives_the_same_bytes(small_file, tmp_path):
    again = write_onnx(small_file[0], tmp_path / "again.onnx")
    assert again.read_bytes() == small_file[1].read_bytes()


def test_whoever_does_what_the_file_says_gets_our_probabilities(tmp_path):
    network, tiles = made(tiny()), np.random.default_rng(0).integers(0, 256, (4, 200, 200, 3))
    bundle = bundle_of(network, temperature=2.0)
    session = onnxruntime.InferenceSession(str(write_onnx(bundle, tmp_path / "model.onnx")))
    told = session.get_modelmeta().custom_metadata_map
    store, size = int(told["store_size"]), int(told["image_size"])
    mean, divisor = (np.float32(json.loads(told[name])) for name in ("mean", "divisor"))
    small = [cv2.resize(tile, (store, store), interpolation=cv2.INTER_AREA)
             for tile in tiles.astype(np.uint8)]  # fmt: skip
    shown = [Image.fromarray(tile).resize((size, size), Image.Resampling.BILINEAR)
             for tile in small]  # fmt: skip
    images = ((np.stack(shown) / np.float32(255) - mean) / divisor).transpose(0, 3, 1, 2)
    (found,) = session.run(None, {"images": images})
    expected = list(classify_tiles(TorchRuntime(bundle), small))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_file_names_no_folder_of_this_machine(small_file):
    content = small_file[1].read_bytes()
    assert b".py" not in content
    assert str(Path.cwd()).encode() not in content


def test_the_bundle_is_left_as_it_was(small_file):
    bundle, _ = small_file
    expected = made(tiny()).eval().state_dict()
    assert all(torch.equal(expected[key], t) for key, t in bundle.network.state_dict().items())
    assert all(p.requires_grad for p in bundle.network.parameters())


@pytest.mark.parametrize("shift", [1e-3, float("nan")])
def test_a_file_that_answers_otherwise_is_not_written(tmp_path, monkeypatch, shift):
    answers = onnxruntime.InferenceSession.run
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "run", lambda *args: [answers(*args)[0] + shift]
    )
    with pytest.raises(BundleError, match=r"differs by .* use the bundle itself"):
        write_onnx(bundle_of(made(tiny())), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_onnx_cannot_say_is_refused(tmp_path):
    network = nn.Sequential(nn.AdaptiveMaxPool2d(7), nn.Flatten(), nn.Linear(3 * 49, 2))
    with pytest.raises(BundleError, match=r"adaptive_max_pool2d.*multiple of 32") as caught:
        write_onnx(bundle_of(network), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_network_beyond_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(written, "LIMIT", 1000)
    with pytest.raises(BundleError, match="smaller network"):
        write_onnx(bundle_of(made(tiny())), tmp_path / "model.onnx")
