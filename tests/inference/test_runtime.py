"""Runtimes: which one is taken, that each says what fp32 says, and nothing else decides a bit."""

import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from analysed import IMAGE, TILE, change_prepared, copy_model, prepared
from bundles import make_card, put_model, reseal
from torchvision.transforms import v2

from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.errors import BundleError, SpecError
from histo_nb.inference import runtime as module
from histo_nb.inference.openvino_runtime import OpenVinoRuntime
from histo_nb.inference.runtime import classify_tiles, in_batches, open_runtime, prepare
from histo_nb.inference.runtime import probabilities as to_probabilities
from histo_nb.inference.torch_runtime import TorchRuntime, card_transform
from histo_nb.model.bundle import open_bundle
from histo_nb.model.features import WithFeatures
from histo_nb.model.network import make_network
from histo_nb.model.openvino_files import read_network
from histo_nb.model.prepared import PREPARED, find_cpu, read_prepared
from histo_nb.model.seal import check_bundle

N = 37  # images: two batches of torch and a part, nine of OpenVINO and a part


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(module, "GPU", Path("/nowhere"))


@pytest.fixture
def folder(home) -> Path:
    """A prepared bundle that a test may spoil."""
    return copy_model(home, serves=False)


@pytest.fixture(scope="module")
def images() -> list[tuple[int, np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = [(2, 2), (7, 7), (IMAGE, IMAGE)]
    found = []
    for i in range(N):
        coarse = rng.integers(0, 256, (*sizes[i % 3], 3)).astype(np.uint8)
        repeat = -(-IMAGE // coarse.shape[0])
        wide = coarse.repeat(repeat, 0).repeat(repeat, 1)
        found.append((i, np.ascontiguousarray(wide[:IMAGE, :IMAGE])))
    return found


def ask(runtime, images) -> dict[int, tuple[bytes, bytes]]:
    """What a runtime says of images, to the last bit; looked at when all was said."""
    said = {}
    for key, answers in list(runtime.run(iter(images))):
        assert answers.logits.shape[0] == answers.features.shape[0] == 1
        assert answers.logits.dtype == answers.features.dtype == np.float32
        said[key] = answers.logits.tobytes(), answers.features.tobytes()
    return said


def open_ov(precision: str, *, n_threads: int | None = 1) -> OpenVinoRuntime:
    card = check_bundle(prepared())
    network = read_network(prepared(), precision)
    return OpenVinoRuntime(network, card, precision=precision, n_threads=n_threads)


# ------------------------------------------------------------------------ what the network sees
@pytest.mark.parametrize(
    ("store", "size"),
    [(64, 32), (64, 64), (64, 63), (64, 1), (100, 33), (512, 224), (512, 299), (256, 224),
     (224, 224), (37, 36), (512, 480)],
)  # fmt: skip
@pytest.mark.parametrize("normalize", ["std", "variance"])
def test_it_is_what_training_shows_it_to_the_last_bit(store, size, normalize):
    rng = np.random.default_rng(store + size)
    card = make_card(store_size=store, image_size=size, normalize=normalize)
    whole = evaluation_transform(image_size=size, statistics=card.statistics, normalize=normalize)
    noise = rng.integers(0, 256, (store, store, 3)).astype(np.uint8)
    ramp = np.linspace(0, 255, store * store * 3).reshape(store, store, 3).astype(np.uint8)
    checks = (255 * (np.indices((store, store)).sum(0)[..., None] % 2)).repeat(3, 2)
    tiles = [noise, ramp, checks.astype(np.uint8), noise[:, ::-1], noise.transpose(1, 0, 2)]
    given = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)
    batched = whole(given)
    for tile, one, in_batch in zip(tiles, given, batched, strict=True):
        small = prepare(tile, card)
        assert (small.shape, small.dtype) == ((size, size, 3), np.uint8)
        shown = torch.from_numpy(small.copy()).permute(2, 0, 1)
        torchvision = v2.functional.resize(one, [size, size], antialias=True)
        assert (shown.int() - torchvision.int()).abs().max() <= 1 + (size == 480)
        normalised = card_transform(card)(shown[None])[0].numpy()
        np.testing.assert_array_equal(normalised, whole(one).numpy())
        np.testing.assert_array_equal(normalised, whole(one.contiguous()).numpy())
        np.testing.assert_array_equal(normalised, in_batch.numpy())


@pytest.mark.parametrize("size", [32, 63, 65, 128])
def test_a_tile_of_another_size_is_refused(size):
    with pytest.raises(BundleError, match=rf"tiles of {size} px.*reads 64 px"):
        prepare(np.zeros((size, size, 3), np.uint8), make_card())


def test_the_tile_itself_is_not_changed():
    tile = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    before = tile.copy()
    prepare(tile, make_card())
    np.testing.assert_array_equal(tile, before)


# --------------------------------------------------------------------------- the same answers
def test_openvino_says_what_torch_says(images):
    card = check_bundle(prepared())
    first, second = (
        np.concatenate([said.logits for _, said in runtime.run(iter(images))])
        for runtime in (TorchRuntime(open_bundle(prepared())), open_ov("fp32"))
    )
    assert np.ptp(first, axis=0).min() > 0.1, "a network that says the same of all tells nothing"
    difference = to_probabilities(first, card) - to_probabilities(second, card)
    assert np.abs(difference).max() < 1e-5
    features = [
        np.concatenate([said.features for _, said in runtime.run(iter(images))])
        for runtime in (TorchRuntime(open_bundle(prepared())), open_ov("fp32"))
    ]
    np.testing.assert_allclose(*features, rtol=1e-4, atol=1e-4)


def test_torch_says_what_the_network_says(images):
    bundle = open_bundle(prepared())
    batch = torch.from_numpy(np.stack([image for _, image in images])).permute(0, 3, 1, 2)
    with torch.inference_mode():
        expected = bundle.network(card_transform(bundle.card)(batch)).numpy()
    found = [said.logits[0] for _, said in TorchRuntime(open_bundle(prepared())).run(iter(images))]
    np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_gives_a_tile_the_same_bits_whatever_is_around_it(images, precision):
    usual = ask(open_ov(precision), images)
    assert list(usual) == list(range(N))
    for n_threads in (1, 2, 3, None):
        runtime = open_ov(precision, n_threads=n_threads)
        for some in (images, images[::-1], images[:1], images[20:], images[3:8], images * 2):
            said = ask(runtime, some)
            assert said == {key: usual[key] for key, _ in some}
    assert list(ask(runtime, images[::-1])) == list(range(N))[::-1], "answers come in order"


def test_torch_gives_a_tile_the_same_bits_whatever_is_around_it(images):
    n_before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        usual = ask(TorchRuntime(open_bundle(prepared())), images)
        assert list(usual) == list(range(N))
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            runtime = TorchRuntime(open_bundle(prepared()))
            for some in (images, images[::-1], images[:1], images[20:], images[3:8], images * 2):
                assert ask(runtime, some) == {key: usual[key] for key, _ in some}
    finally:
        torch.set_num_threads(n_before)


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 9])
def test_batches_have_one_size_and_lose_no_image(images, n):
    batches = list(in_batches(iter(images[:n]), 4))
    assert all(batch.shape == (4, IMAGE, IMAGE, 3) for _, batch in batches)
    assert [key for keys, _ in batches for key in keys] == list(range(n))
    for keys, batch in batches:
        for i in range(4):
            expected = images[keys[min(i, len(keys) - 1)]][1]
            np.testing.assert_array_equal(batch[i], expected)


def test_no_image_gives_no_answer(images):
    for runtime in (open_ov("fp32"), TorchRuntime(open_bundle(prepared()))):
        assert ask(runtime, []) == {}
        assert len(ask(runtime, images[:2])) == 2


def test_a_run_that_was_broken_off_harms_none_after_it(images):
    runtime = open_ov("fp32", n_threads=2)
    usual = ask(runtime, images)
    for n in range(8):
        run = runtime.run(iter(images))
        for _ in range(n + 1):
            next(run)
        run.close()
        assert ask(runtime, images) == usual

    def fails():
        yield from images[:30]
        raise RuntimeError("the reader")

    with pytest.raises(RuntimeError, match="the reader"):
        list(runtime.run(fails()))
    assert ask(runtime, images) == usual


def test_images_are_taken_as_they_are_needed(images):
    """Memory stays bounded: the reader is not asked for all tiles first."""
    taken = []

    def count():
        for key, image in images * 10:
            taken.append(key)
            yield key, image

    for runtime, most in ((open_ov("fp32"), 16), (TorchRuntime(open_bundle(prepared())), 16)):
        taken.clear()
        next(runtime.run(count()))
        assert len(taken) <= most


def test_probabilities_are_calibrated_by_the_card():
    logits = np.array([[1.0, 3.0, 2.0], [800.0, -800.0, 0.0]], np.float32)
    card = make_card(classes=["a", "b", "c"], normal_class="c", temperature=2.0)
    found = to_probabilities(logits, card)
    expected = torch.softmax(torch.from_numpy(logits).double() / 2, dim=1).float().numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)


def test_tiles_are_classified_through_the_one_transform(images):
    rng = np.random.default_rng(1)
    tiles = [rng.integers(0, 256, (TILE, TILE, 3)).astype(np.uint8) for _ in range(5)]
    runtime = open_ov("fp32")
    found = list(classify_tiles(runtime, tiles))
    shown = [(None, prepare(tile, runtime.card)) for tile in tiles]
    said = np.concatenate([answers.logits for _, answers in runtime.run(shown)])
    np.testing.assert_array_equal(found, to_probabilities(said, runtime.card))
    with pytest.raises(BundleError, match="tiles of 32 px"):
        list(classify_tiles(runtime, [tiles[0][:32, :32]]))


# ------------------------------------------------------------------------------ which is taken
def passes(**speeds: float):
    """Say that runtimes passed, with these milliseconds a tile; all others did not."""

    def change(facts):
        measured = facts["runtimes"]
        for name in measured:
            key = name.replace(" ", "_")
            measured[name] |= {"passed": key in speeds, "faults": ["it says something else"]}
            measured[name]["ms_per_tile"] = speeds.get(key, 0.001)

    return change


@pytest.mark.parametrize(
    ("speeds", "asked", "name"),
    [
        ({"openvino_fp32": 5, "openvino_int8": 1, "torch_fp32": 9}, {}, "openvino int8"),
        ({"openvino_fp32": 1, "openvino_int8": 5, "torch_fp32": 9}, {}, "openvino fp32"),
        ({"openvino_fp32": 5, "torch_fp32": 1}, {}, "torch fp32"),
        ({"openvino_fp32": 5, "torch_fp32": 1}, {"runtime": "openvino"}, "openvino fp32"),
        ({"openvino_fp32": 1, "torch_fp32": 5}, {"runtime": "torch"}, "torch fp32"),
        ({"openvino_fp32": 5, "openvino_int8": 1}, {"precision": "fp32"}, "openvino fp32"),
        ({"openvino_int8": 5}, {"precision": "int8"}, "openvino int8"),
        ({"openvino_int8": 5}, {"precision": "fp32"}, "torch fp32"),
        ({}, {}, "torch fp32"),
    ],
)
def test_the_fastest_that_passed_is_taken(folder, speeds, asked, name):
    change_prepared(folder, passes(**speeds))
    assert open_runtime(folder, **asked).name == name


def test_torch_is_taken_where_there_is_a_gpu(folder, monkeypatch, tmp_path):
    change_prepared(folder, passes(openvino_fp32=1, torch_fp32=5))
    monkeypatch.setattr(module, "GPU", tmp_path)
    assert open_runtime(folder).name == "torch fp32"
    assert open_runtime(folder, runtime="openvino").name == "openvino fp32"


def test_what_was_measured_on_a_gpu_is_not_computed_without_one(folder):
    """On the CPU, half precision was never compared with anything."""

    def on_gpu(facts):
        exact = facts["runtimes"]["torch fp32"]
        speeds = {"torch fp32 on GPU": 0.2, "torch bf16 on GPU": 0.1, "torch fp16 on GPU": 0.1}
        facts["runtimes"] = {name: exact | {"ms_per_tile": ms} for name, ms in speeds.items()}

    change_prepared(folder, on_gpu)
    assert open_runtime(folder).name == "torch fp32"
    assert open_runtime(folder, runtime="torch").name == "torch fp32"
    with pytest.raises(BundleError):
        open_runtime(folder, precision="bf16")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "int8"}, r"int8.*refused: openvino int8.*it says something else"),
        ({"runtime": "openvino", "precision": "int8"}, r"openvino int8 did not give the answers"),
        ({"runtime": "openvino", "precision": "fp16"}, "does not exist on this machine"),
        ({"runtime": "torch", "precision": "int8"}, "does not exist on this machine"),
        ({"runtime": "torch", "precision": "bf16"}, "does not exist on this machine"),
    ],
)
def test_what_did_not_pass_is_refused_by_name(folder, asked, said):
    change_prepared(folder, passes(openvino_fp32=1, torch_fp32=1))
    with pytest.raises(BundleError, match=said) as error:
        open_runtime(folder, **asked)
    assert folder.name in str(error.value)


def test_openvino_is_refused_if_none_of_it_passed(folder):
    change_prepared(folder, passes(torch_fp32=1))
    with pytest.raises(BundleError, match=r"refused.*openvino \w+ did not give the answers"):
        open_runtime(folder, runtime="openvino")
    assert open_runtime(folder).name == "torch fp32"


def test_what_was_measured_on_another_processor_is_refused(folder, monkeypatch):
    change_prepared(folder, passes(openvino_fp32=1, openvino_int8=1, torch_fp32=9))
    monkeypatch.setattr(module, "find_cpu", lambda: "another CPU avx2")
    for asked in ({"runtime": "openvino"}, {"precision": "int8"}):
        said = r"measured on .*, this is another CPU avx2.*prepare-model.*here too"
        with pytest.raises(BundleError, match=said):
            open_runtime(folder, **asked)
    assert open_runtime(folder).name == "torch fp32"
    assert open_runtime(folder, runtime="torch", precision="fp32").name == "torch fp32"


CPUS = {
    "one": "model name\t: Chip 1\nflags\t\t: fpu avx2 amx_int8 sse\n",
    "another": "model name\t: Chip 2\nflags\t\t: fpu avx2 amx_int8 sse\n",
    "less able": "model name\t: Chip 1\nflags\t\t: fpu avx2 sse\n",
    "ARM": "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimd\n",
    "other ARM": "CPU implementer\t: 0x41\nCPU part\t: 0xd40\nFeatures\t: fp asimd\n",
    "able ARM": "CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimd bf16\n",
}


def test_processors_are_told_apart_by_what_they_compute_with(monkeypatch):
    def found(text, machine):
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_text", lambda *_, **__: 2 * text)
            patch.setattr(platform, "machine", lambda: machine)
            return find_cpu()

    names = [found(text, machine) for text in CPUS.values() for machine in ("x86_64", "aarch64")]
    assert len(set(names)) == 2 * len(CPUS)
    irrelevant = CPUS["one"].replace("sse", "sse svm") + "cpu MHz : 2000.1\n"
    assert found(irrelevant, "x86_64") == found(CPUS["one"], "x86_64")


def test_a_model_that_was_not_prepared_has_torch_only(home):
    folder = home.models / put_model(home)
    assert read_prepared(folder) is None
    for asked in ({}, {"runtime": "torch"}, {"precision": "fp32"}):
        assert open_runtime(folder, **asked).name == "torch fp32"
    for asked in (
        {"runtime": "openvino"},
        {"precision": "int8"},
        {"precision": "bf16"},
        {"runtime": "torch", "precision": "fp16"},
    ):
        with pytest.raises(BundleError, match=r"was not measured.*histo-nb prepare-model"):
            open_runtime(folder, **asked)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"runtime": "onnx"}, "runtime='onnx'; choose one of auto, torch, openvino"),
        ({"runtime": None}, "runtime=None"),
        ({"runtime": "Torch"}, "runtime='Torch'"),
        ({"precision": "int4"}, "precision='int4'; choose one of auto, fp32, bf16, fp16, int8"),
        ({"precision": ""}, "precision=''"),
    ],
)
def test_an_unknown_name_is_refused_before_the_bundle_is_looked_at(tmp_path, asked, said):
    with pytest.raises(SpecError, match=said):
        open_runtime(tmp_path / "nowhere", **asked)


# ---------------------------------------------------------------------------------- tampering
def forge(folder: Path, name: str, how: str) -> None:
    path = folder / PREPARED / name
    if how == "gone":
        path.unlink()
    elif how == "edited":
        facts = json.loads(path.read_text())
        facts["runtimes"]["openvino int8"] |= {"passed": True, "ms_per_tile": 1e-9}
        path.write_text(json.dumps(facts))
    elif how == "garbage":
        path.write_bytes(b"\x00\x01garbage")
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "how"),
    [("runtimes.json", "edited"), ("runtimes.json", "garbage"),
     ("fp32.xml", "flipped"), ("fp32.xml", "gone"), ("fp32.bin", "flipped"), ("fp32.bin", "gone"),
     ("fp32.bin", "garbage")],
)  # fmt: skip
def test_files_that_are_not_those_measured_are_refused(folder, name, how):
    change_prepared(folder, passes(openvino_fp32=1))
    forge(folder, name, how)
    for asked in ({}, {"runtime": "openvino"}, {"runtime": "openvino", "precision": "fp32"}):
        with pytest.raises(BundleError, match=r"prepare-model"):
            open_runtime(folder, **asked)


def test_what_was_measured_of_another_model_is_refused(home, folder):
    other = home.models / put_model(home)
    (folder / PREPARED).rename(other / PREPARED)
    with pytest.raises(BundleError, match="of another model"):
        open_runtime(other)


def test_a_forged_network_that_is_none_is_named(folder):
    for content in (b"", b"<net>", b"\x00" * 100):
        (folder / PREPARED / "fp32.xml").write_bytes(content)
        change_prepared(folder, passes(openvino_fp32=1))
        with pytest.raises(BundleError, match=r"fp32\.xml cannot be read.*prepare-model"):
            open_runtime(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ["adenoma", "normal"]},
        {"classes": ["a", "b", "c", "normal"]},
        {"image_size": 48},
    ],
    ids=str,
)
def test_a_network_of_other_classes_or_sizes_is_refused(changes):
    card = replace(check_bundle(prepared()), **changes)
    with pytest.raises(BundleError, match=r"its card says otherwise.*prepare-model"):
        OpenVinoRuntime(read_network(prepared(), "fp32"), card, precision="fp32")


def test_a_bundle_whose_classes_were_changed_is_refused(folder):
    reseal(folder, classes=["adenoma", "normal"])
    for runtime in ("auto", "openvino", "torch"):
        with pytest.raises(BundleError, match="the card says"):
            open_runtime(folder, runtime=runtime)


# ------------------------------------------------------------------------------ what is loaded
LOADED = """
import sys
from pathlib import Path
import numpy as np
from histo_nb.inference.runtime import classify_tiles, open_runtime

runtime = open_runtime(Path(sys.argv[1]), runtime="openvino", precision="fp32", n_threads=1)
(found,) = classify_tiles(runtime, [np.zeros((64, 64, 3), np.uint8)])
assert found.shape == (3,)
print([name for name in sys.argv[2:] if sys.modules.get(name) is not None])
"""


def test_openvino_needs_no_torch_and_tells_nobody():
    unwanted = ["torch", "torchvision", "fastai", "nncf", "openvino_telemetry", "matplotlib"]
    call = [sys.executable, "-c", LOADED, str(prepared()), *unwanted]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr[-2000:]


def test_preparing_told_nobody_either():
    prepared()  # here, if no test before did
    assert "nncf" in sys.modules
    assert sys.modules.get("openvino_telemetry") is None
    assert not [name for name in sys.modules if name.startswith("openvino_telemetry.")]


# ------------------------------------------------------------------------------------ features
NETWORKS = {
    "histonet33": ({"width": 0.125}, 256),
    "resnet34_taps": ({}, 256),
    "resnet18": ({}, 512),
    "mobilenet_v3_small": ({}, 1024),
    "vgg11": ({}, 4096),
    "squeezenet1_1": ({}, 3),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_last_layer_is_given(name):
    arguments, width = NETWORKS[name]
    torch.manual_seed(0)
    network = make_network(name, 3, **arguments).eval()
    with_features = WithFeatures(network).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network(images)
        logits, features = with_features(images)
        assert torch.equal(logits, expected)
        assert features.shape == (2, width)
        linear = [module for module in network.modules() if isinstance(module, torch.nn.Linear)]
        again = linear[-1](features) if linear else features
    assert torch.equal(again, logits)
    assert set(with_features.state_dict()) == {f"network.{key}" for key in network.state_dict()}


def test_hooks_are_gone_after_use_also_after_an_error():
    network = make_network("resnet18", 3).eval()
    with_features = WithFeatures(network)
    with torch.inference_mode():
        for _ in range(3):
            with_features(torch.zeros(1, 3, 32, 32))
        with pytest.raises(RuntimeError):
            with_features(torch.zeros(1, 5, 32, 32))
    assert not any(module._forward_pre_hooks for module in network.modules())
    assert not any(module._forward_hooks for module in network.modules())
