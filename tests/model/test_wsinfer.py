"""A model in a folder for WSInfer: its probabilities are ours, on its own way of reading."""

import getpass
import importlib.util
import json
import os
import subprocess
import tempfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import openslide
import pandas as pd
import pytest
import torch
from analysed import CLASSES, TILE, draw, learnt, put_learnt, write_slide
from torchvision import transforms

from histo_nb.balancing.pixels import read_tile, resize_tile
from histo_nb.errors import BundleError, StorageError
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.model.bundle import open_bundle
from histo_nb.model.torchscript import OnPatches, write_torchscript
from histo_nb.model.wsinfer import describe, write_wsinfer
from histo_nb.slide import Slide, shrink

WSINFER = os.environ.get("HISTO_TEST_WSINFER")
CLI = Path(__file__).parents[2] / "benchmarks/peers/wsinfer_cli.py"
MPPS = (0.5, 0.25, 0.2431)  # the last gives 132 px, no multiple of 64


@pytest.fixture(scope="module")
def bundle():
    home, dataset = learnt()
    changes = {"temperature": 0.5, "validation": {"balanced_accuracy": 0.5}}
    return open_bundle(home.models / put_learnt(home, dataset, **changes))


@pytest.fixture(scope="module")
def folder(bundle, tmp_path_factory):
    return write_wsinfer(bundle, tmp_path_factory.mktemp("wsinfer") / "model")


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    made, names = {}, tmp_path_factory.mktemp("wsinfer_slides")
    for mpp in MPPS:  # the same glass
        image = cv2.resize(draw(1), None, fx=0.5 / mpp, fy=0.5 / mpp)
        made[mpp] = write_slide(names / f"S{mpp}.svs", 0, mpp=mpp, image=image)
    return made


def load(folder):
    """The model as WSInfer loads it; executes the file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit", FutureWarning)  # it is to go
        return torch.jit.load(folder / "torchscript_model.pt", map_location="cpu")


def ours(bundle, path, places, size):
    """Our probabilities of patches whose top-left corners are `places`."""
    row = {"level": 0, "read_path": "level0", "tile_size": TILE, "read_size": size, "size_l0": size}
    with Slide(path) as slide:
        tiles = [read_tile(slide, row | {"x": x, "y": y}) for x, y in places]
    return np.array(list(classify_tiles(TorchRuntime(bundle), tiles)))


def read_as_wsinfer(path, places, size):
    """Patches as WSInfer hands them on with a config that asks for ToTensor only."""
    with openslide.OpenSlide(path) as slide:
        read = [slide.read_region(place, 0, (size, size)).convert("RGB") for place in places]
    return torch.stack([transforms.ToTensor()(image) for image in read])


@pytest.mark.parametrize("mpp", MPPS)
def test_whoever_reads_as_wsinfer_does_gets_our_probabilities(bundle, folder, slides, mpp):
    config = json.loads((folder / "config.json").read_text())
    size = round(config["patch_size_pixels"] * config["spacing_um_px"] / mpp)
    places = [(x, y) for x in range(3, 832 - TILE, 97) for y in range(7, 640 - TILE, 97)]
    places = [(round(x * 0.5 / mpp), round(y * 0.5 / mpp)) for x, y in places]
    model = load(folder)
    with torch.no_grad():
        found = model(read_as_wsinfer(slides[mpp], places, size)).softmax(dim=1).numpy()
    expected = ours(bundle, slides[mpp], places, size)
    assert np.abs(found - expected).max() <= 1e-4
    assert len(np.unique(expected.argmax(axis=1))) == 3
    assert expected.max() > 0.6  # nor are they all alike


@pytest.mark.skipif(not WSINFER, reason="HISTO_TEST_WSINFER names no Python that has WSInfer")
def test_wsinfer_itself_gives_our_probabilities(bundle, folder, slides, tmp_path):
    results = tmp_path / "results"
    command = [WSINFER, CLI, "run", "--wsi-dir", slides[0.5].parent, "--results-dir", results,
               "--config", folder / "config.json", "--model-path", folder / "torchscript_model.pt",
               "--num-workers", "1"]  # fmt: skip
    environment = os.environ | {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for mpp, path in slides.items():
        table = pd.read_csv(results / "model-outputs-csv" / f"{path.stem}.csv")
        size = round(TILE * 0.5 / mpp)
        assert set(table.width) == {size}
        with Slide(path) as slide:
            width, height = slide.size
        table = table[(table.minx + size <= width) & (table.miny + size <= height)]
        assert len(table) > 20
        expected = ours(bundle, path, zip(table.minx, table.miny, strict=True), size)
        found = table[[f"prob_{name}" for name in CLASSES]].to_numpy()
        assert np.abs(found - expected).max() <= 1e-4
        assert len(np.unique(expected.argmax(axis=1))) > 1


@pytest.mark.parametrize("side", [64, 128, 192, 256, 384, 640, 65, 132, 211])
def test_the_network_is_shown_the_same_grey_values(bundle, side):
    noise = np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    for image in (noise, cv2.blur(noise, (5, 5)), draw(side, (side, side))):
        expected = resize_tile(shrink(image, 64), 32).astype(int)
        patch = torch.from_numpy(image).permute(2, 0, 1) / 255
        found = OnPatches(bundle.network, bundle.card).show(patch).permute(1, 2, 0).numpy()
        different = np.abs(found - expected)  # none; OpenCV may sum otherwise on another processor
        assert different.max() <= 1
        assert (different > 0).mean() < 1e-3


def test_the_config_is_valid_by_the_schema_of_the_model_zoo(bundle, folder):
    zoo = importlib.util.find_spec("wsinfer_zoo")  # not imported: it would make a folder at home
    schema = Path(zoo.submodule_search_locations[0]) / "schemas/model-config.schema.json"
    config = json.loads((folder / "config.json").read_text())
    jsonschema.validate(config, json.loads(schema.read_text()))
    assert config["class_names"] == bundle.card.classes
    assert (config["patch_size_pixels"], config["spacing_um_px"]) == (64, 0.5)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "config.json", "torchscript_model.pt",
    ]  # fmt: skip


def test_the_folder_names_nothing_of_this_machine_and_nobody(folder):
    with zipfile.ZipFile(folder / "torchscript_model.pt") as archive:
        parts = [archive.read(name) + name.encode() for name in archive.namelist()]
    parts += [path.read_bytes() for path in folder.iterdir()]
    home, _ = learnt()
    planted = [str(Path.cwd()), tempfile.gettempdir(), str(Path.home()), str(home.root), "P-T0",
               ".svs", "site-packages", "debug_pkl", f"/{getpass.getuser()}/"]  # fmt: skip
    for words in planted:
        assert not any(words.encode() in part for part in parts), words


def test_wsinfer_finds_a_parameter_in_the_file(folder):
    model = load(folder)
    assert next(model.parameters()).device.type == "cpu"  # `--speedup` asks for it
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_readme_tells_what_the_model_is(bundle, folder):
    text = (folder / "README.md").read_text()
    assert text.startswith("---\nlicense: other\n")
    assert "**Research use only. Not a medical device, not for diagnosis.**" in text
    for told in (bundle.card.model_id, "`adenoma`, `carcinoma`, `normal`", "64 px at 0.5 µm/px",
                 bundle.card.weights_sha256, "temperature 0.5", "It passed its gate."):  # fmt: skip
        assert told in text
    assert "$" not in text


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        (None, "It stood before no gate: nothing is known of patients it never saw."),
        ({"passed": False, "n_tiles": 90, "n_patients": 4, "balanced_accuracy": 0.25,
          "intervals": {"balanced_accuracy": [0.1, 0.5]}},
         "It did **not** pass its gate. On 90 tiles of 4 patients it never saw: balanced accuracy "
         "0.250 (95 % interval 0.100–0.500)."),
        ({"passed": True, "n_tiles": 9, "n_patients": None, "balanced_accuracy": float("nan"),
          "intervals": {"balanced_accuracy": [None, None]}},
         "On 9 tiles of an unknown number of patients it never saw: balanced accuracy unknown."),
    ],
)  # fmt: skip
def test_the_readme_tells_what_the_gate_said(bundle, gate, says):
    assert says in describe(replace(bundle, gate=gate))


@pytest.mark.parametrize("read_path", ["level0/2", "pyramid", "pyramid/4"])
def test_a_model_that_reads_otherwise_is_refused(bundle, tmp_path, read_path):
    other = replace(bundle, card=replace(bundle.card, read_path=read_path))
    with pytest.raises(BundleError, match=f"read_path='{read_path}'.* trained on level0"):
        write_wsinfer(other, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_loose_images_is_written_if_their_scale_is_known(bundle, tmp_path):
    of_images = replace(bundle, card=replace(bundle.card, read_path="image"))
    assert write_wsinfer(of_images, tmp_path / "model").is_dir()
    unknown = replace(bundle, card=replace(of_images.card, mpp=None))
    with pytest.raises(BundleError, match="unknown scale"):
        write_wsinfer(unknown, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("shape", [(63, 63), (64, 128)])
def test_patches_that_are_too_small_or_no_squares_are_refused(folder, shape):
    model = load(folder)
    with pytest.raises(torch.jit.Error, match=r"squares of 64 px or more.*spacing_um_px in config"):
        model(torch.zeros(1, 3, *shape))


def test_a_folder_that_is_there_is_kept(bundle, tmp_path):
    kept = tmp_path / "model"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        write_wsinfer(bundle, kept)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "mine.txt"]


@pytest.mark.parametrize("shift", [1e-2, float("nan")])
def test_a_file_that_answers_otherwise_is_not_written(bundle, tmp_path, monkeypatch, shift):
    load = torch.jit.load

    def other(path):
        model = load(path)
        return lambda patches: model(patches) + torch.tensor([shift, 0, 0])

    monkeypatch.setattr(torch.jit, "load", other)
    with pytest.raises(BundleError, match=r"differs by .* use the bundle itself"):
        write_torchscript(bundle, tmp_path / "model.pt")
    with pytest.raises(BundleError, match=r"differs by"):
        write_wsinfer(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_bundle_is_left_as_it_was(bundle, folder):
    again = open_bundle(bundle.folder)
    assert all(
        torch.equal(tensor, bundle.network.state_dict()[name])
        for name, tensor in again.network.state_dict().items()
    )
    assert all(parameter.requires_grad for parameter in bundle.network.parameters())
