"""Tile pixels → probabilities, by the runtime and precision that were asked, or the fastest.

A runtime other than fp32 on torch is used only if `histo-nb prepare-model` measured that it gives
the same answers. Loads neither torch nor OpenVINO before it is known which one is needed.
"""

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from histo_nb.balancing.pixels import resize_tile
from histo_nb.errors import BundleError, SpecError
from histo_nb.model.card import Card, read_card
from histo_nb.model.prepared import PREPARE, find_cpu, read_prepared
from histo_nb.model.seal import CARD, check_bundle

RUNTIMES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8")
GPU = Path("/proc/driver/nvidia/version")  # there if a GPU can be used; asking torch takes seconds

Key = TypeVar("Key")


@dataclass(frozen=True)
class Answers:
    """What a network says of some tiles."""

    logits: np.ndarray  # (N, n_classes) float32
    features: np.ndarray  # (N, D) float32, what the last layer is given


class Runtime(Protocol):
    """A model ready to classify tiles.

    The same tile gets the same answer, to the last bit, whatever tiles are classified with it and
    on however many threads. (On torch some networks, `resnet34_taps` for one, round otherwise with
    another number of torch's own threads.)
    """

    card: Card
    name: str  # "openvino int8"

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Generator[tuple[Key, Answers]]:
        """Yield what the network says of single (I, I, 3) uint8 images of `prepare`, in order."""
        ...


def prepare(tile: np.ndarray, card: Card) -> np.ndarray:
    """Return what the network is shown of a tile: (I, I, 3) uint8, I = the card's image size.

    The same pixels as `balancing.transforms.evaluation_transform` gives in training.

    Raises
    ------
    BundleError
        The tile has another size than those the model was trained on.
    """
    if tile.shape[0] != card.store_size:
        raise BundleError(
            f"tiles of {tile.shape[0]} px were given to model {card.model_id}, which reads "
            f"{card.store_size} px; tile the slides as its card says"
        )
    return resize_tile(tile, card.image_size)


def classify_tiles(runtime: Runtime, tiles: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the probabilities (n_classes,) of tiles (S, S, 3), one by one."""
    images = ((None, prepare(tile, runtime.card)) for tile in tiles)
    for _, answers in runtime.run(images):
        yield from probabilities(answers.logits, runtime.card)


def probabilities(logits: np.ndarray, card: Card) -> np.ndarray:
    """Return calibrated probabilities (N, n_classes) float32: logits by temperature, softmax."""
    scaled = logits.astype(np.float64) / card.temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def open_runtime(
    folder: Path, *, runtime: str = "auto", precision: str = "auto", n_threads: int | None = None
) -> Runtime:
    """Open a bundle to classify tiles with it.

    Parameters
    ----------
    runtime, precision
        "auto" takes the fastest of those that gave the same answers as fp32 when the model was
        prepared; torch where there is a GPU, and for models that were not prepared.
    n_threads
        All cores by default.

    Raises
    ------
    BundleError
        The bundle is damaged, or what was asked did not give the same answers, was not measured,
        or this machine cannot do it.
    """
    check_asked(runtime, precision)
    card = check_bundle(folder)
    runtime, precision = choose_runtime(folder, runtime=runtime, precision=precision)
    if runtime == "torch":
        from histo_nb.inference.torch_runtime import open_torch  # noqa: PLC0415 - takes seconds

        return open_torch(folder, precision=precision)
    from histo_nb.inference.openvino_runtime import OpenVinoRuntime  # noqa: PLC0415
    from histo_nb.model.openvino_files import read_network  # noqa: PLC0415

    network = read_network(folder, precision)
    return OpenVinoRuntime(network, card, precision=precision, n_threads=n_threads)


def check_asked(runtime: str, precision: str) -> None:
    """Raise `SpecError` unless a runtime and a precision of these names exist."""
    if runtime not in RUNTIMES:
        raise SpecError(f"runtime={runtime!r}; choose one of {', '.join(RUNTIMES)}")
    if precision not in PRECISIONS:
        raise SpecError(f"precision={precision!r}; choose one of {', '.join(PRECISIONS)}")


def in_batches(
    images: Iterable[tuple[Key, np.ndarray]], size: int
) -> Iterator[tuple[list[Key], np.ndarray]]:
    """Yield keys and (size, I, I, 3) images; the last batch is filled up with its last image.

    All batches have one size, since kernels, and with them the last bits, may depend on it.
    """
    stream = iter(images)
    while some := list(islice(stream, size)):
        keys = [key for key, _ in some]
        padded = [image for _, image in some] + [some[-1][1]] * (size - len(some))
        yield keys, np.stack(padded)


def choose_runtime(folder: Path, *, runtime: str, precision: str) -> tuple[str, str]:
    """Return the runtime and the precision that `open_runtime` takes on this machine.

    Raises
    ------
    BundleError
        As `open_runtime`.
    """
    card, prepared = read_card(folder / CARD), read_prepared(folder)
    passed = _passed(prepared) if prepared else {}
    if runtime == "auto" and GPU.exists() and precision != "int8":
        runtime = "torch"
    asked = {
        name: facts
        for name, facts in passed.items()
        if runtime in ("auto", name.split()[0]) and precision in ("auto", name.split()[1])
    }
    if asked:
        best = min(asked, key=lambda name: asked[name]["ms_per_tile"])
        return best.split()[0], best.split()[1]
    if runtime in ("auto", "torch") and precision in ("auto", "fp32"):
        return "torch", "fp32"
    raise BundleError(_refuse(card, prepared, runtime, precision))


def _passed(prepared: dict[str, Any]) -> dict[str, Any]:
    """Return the runtimes that passed, and were measured on a processor like this one.

    What a processor's own arithmetic decides (bf16, int8) may round otherwise on another.
    """
    if prepared["cpu"] != find_cpu():
        return {}
    return {
        name: facts
        for name, facts in prepared["runtimes"].items()
        if facts["passed"] and (name.startswith("openvino") or ("GPU" in name) == GPU.exists())
    }


def _refuse(card: Card, prepared: dict[str, Any] | None, runtime: str, precision: str) -> str:
    asked = f"runtime={runtime}, precision={precision} of model {card.model_id}"
    if prepared is None:
        return f"{asked} was not measured; {PREPARE} {card.model_id} first"
    measured = {
        name: facts
        for name, facts in prepared["runtimes"].items()
        if runtime in ("auto", name.split()[0]) and precision in ("auto", name.split()[1])
    }
    if not measured:
        return f"{asked} does not exist on this machine; take the default"
    if prepared["cpu"] != find_cpu():
        return (
            f"{asked} was measured on {prepared['cpu']}, this is {find_cpu()}; {PREPARE} "
            f"{card.model_id} here too"
        )
    name, facts = next(iter(measured.items()))
    return (
        f"{asked} is refused: {name} did not give the answers of fp32 ({'; '.join(facts['faults'])}"
        "); take the default"
    )
