"""A model for other programs: one ONNX file that gives the probabilities, checked when written.

Exported by torch's exporter over `torch.export`: it takes about 10 s. The older one takes under
1 s, but is to be removed from torch and cannot pool to a grid that follows from the image.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn

from histo_nb import __version__
from histo_nb.errors import BundleError
from histo_nb.files import writing
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card

TOLERANCE = 1e-4  # of a probability, between torch and the file
LIMIT = 1 << 31  # bytes of one ONNX file
OPSET = 18  # of ONNX, 2022; the oldest that torch's exporter writes without a converter
N_CHECKED = 3  # images; another number than the exporter saw, so that the batch is free
TOLD = ("model_id", "classes", "normal_class", "image_size", "mpp", "tile_size", "read_path",
        "store_size", "temperature", "weights_sha256")  # fmt: skip
INPUT = "RGB (N, 3, image_size, image_size) float32, (value / 255 - mean) / divisor"
# how the values come about: `slide.shrink` and `pixels.resize_tile`
TILES = (
    "tile_size px at mpp of level 0, averaged over areas to store_size px (OpenCV, INTER_AREA), "
    "resized to image_size px (Pillow, BILINEAR), both as uint8"
)
OUTPUT = "(N, n_classes) float32, in the order of classes; temperature and softmax are inside"


def write_onnx(bundle: Bundle, path: Path) -> Path:
    """Write a model as one ONNX file; return the path.

    The input `images` is (N, 3, image_size, image_size) float32, normalised, N free; the output
    `probabilities` is (N, n_classes) float32, softmax and the card's temperature included. What
    must be known to feed it stands in the file's metadata.

    Raises
    ------
    BundleError
        The network cannot be exported, or the file answers otherwise than torch by more than
        1e-4 of a probability.
    StorageError
        The file cannot be written.
    """
    _check_size(bundle)
    answer = _Probabilities(bundle).eval()
    example = _random_images(2, bundle.card)
    model = _export(answer, example, bundle.card)
    onnx.helper.set_model_props(model, _metadata(bundle.card))
    with writing(path) as temporary:
        onnx.save_model(model, str(temporary), format="protobuf")
        _check_same(answer, temporary, bundle.card)
    return Path(path)


def _check_size(bundle: Bundle) -> None:
    n_bytes = sum(t.numel() * t.element_size() for t in bundle.network.state_dict().values())
    if n_bytes >= LIMIT:
        raise BundleError(
            f"model {bundle.card.model_id} has {n_bytes / 1e9:.1f} GB of weights, one ONNX file "
            f"holds less than {LIMIT / 1e9:.1f}; train a smaller network"
        )


class _Probabilities(nn.Module):
    """A copy of a bundle's network on the CPU, its temperature and softmax."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__()
        self.network = deepcopy(bundle.network).cpu().to(memory_format=torch.contiguous_format)
        self.temperature = bundle.card.temperature

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return (logits / self.temperature).softmax(dim=1)


def _random_images(n: int, card: Card) -> Tensor:
    size, generator = card.image_size, torch.Generator().manual_seed(n)
    return torch.randn(n, 3, size, size, generator=generator)


def _export(answer: nn.Module, example: Tensor, card: Card) -> onnx.ModelProto:
    try:
        program = torch.onnx.export(
            answer,
            (example,),
            input_names=["images"],
            output_names=["probabilities"],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("n")},),
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise BundleError(
            f"model {card.model_id} ({card.network}, image_size={card.image_size}) cannot be "
            f"written as ONNX: {_first_cause(error)}; histonet33 and resnet34_taps need an "
            "image_size that is a multiple of 32"
        ) from error
    # Typed as perhaps None, which is the older exporter's answer.
    return _without_traces(cast(torch.onnx.ONNXProgram, program).model_proto)


def _first_cause(error: BaseException) -> str:
    """Return the first line of the error that started a chain of them."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n")[0]


def _without_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out where in the source each node comes from: it names folders of this machine."""
    for part in (model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input,
                 *model.graph.output, *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
        part.doc_string = ""
    return model


def _metadata(card: Card) -> dict[str, str]:
    """Return what must be known to feed the file; all but plain text is JSON."""
    told = {name: getattr(card, name) for name in TOLD} | {
        "mean": card.statistics["mean"],  # of the training tiles, values 0–1
        "divisor": card.statistics[card.normalize],
        "input": INPUT,
        "tiles": TILES,
        "output": OUTPUT,
        "written_by": f"histo_nb {__version__}",
        "use": "research use only",
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in told.items()
    }


def _check_same(answer: nn.Module, path: Path, card: Card) -> None:
    """Raise `BundleError` unless a file answers as torch does."""
    images = _random_images(N_CHECKED, card)
    with torch.inference_mode():
        expected = answer(images).numpy()
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    difference = np.abs(found - expected).max()
    if not difference <= TOLERANCE:  # so that NaN does not pass
        raise BundleError(
            f"the ONNX file of model {card.model_id} differs by {difference:.2g} of a probability "
            f"from torch, more than {TOLERANCE}; use the bundle itself"
        )
