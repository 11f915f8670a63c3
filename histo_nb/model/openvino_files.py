"""A bundle's network in OpenVINO's format: `prepared/<precision>.xml` and `.bin`, data only.

Input (B, I, I, 3) uint8 RGB, as pixels lie in memory; normalisation is part of the network.
Outputs: logits (B, n_classes), features (B, D); float32. Loads no torch until a network is made.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from histo_nb.errors import BundleError
from histo_nb.model.card import Card
from histo_nb.model.prepared import PREPARE, find_file, read_prepared

BATCH = 4  # tiles at once a core; 8 are 1 % faster, and wait twice as long
HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8: of what is not quantised
FILES = {"fp32": "fp32", "bf16": "fp32", "int8": "int8"}  # bf16 is fp32, rounded when loaded
N_CALIBRATION = 300  # tiles; NNCF's own default


def openvino() -> ModuleType:
    """Return OpenVINO, which must not report to its makers from a hospital."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as loaded  # noqa: PLC0415 - 0.3 s that not all need

    return loaded


def can_compute(precision: str) -> bool:
    """Say whether this machine's processor computes in a precision itself."""
    able = openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return precision == "fp32" or precision.upper() in able


def read_network(folder: Path, precision: str) -> Any:
    """Return an `openvino.Model` of a prepared bundle.

    Raises
    ------
    BundleError
        The bundle was not prepared, or a file of it is not what was measured.
    """
    prepared = read_prepared(folder)
    if prepared is None:
        raise BundleError(f"{folder.name} has no network for OpenVINO; {PREPARE} {folder.name}")
    names = (f"{FILES[precision]}.{suffix}" for suffix in ("xml", "bin"))
    xml, weights = (find_file(folder, name, prepared) for name in names)
    try:
        return openvino().Core().read_model(xml, weights)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise BundleError(f"{xml} cannot be read ({said}); {PREPARE} {folder.name}") from error


def write_networks(networks: dict[str, Any], folder: Path) -> None:
    """Write networks by their precisions into a folder."""
    for precision, network in networks.items():
        openvino().save_model(network, folder / f"{precision}.xml", compress_to_fp16=False)


def convert_network(network: Any, card: Card) -> Any:
    """Return a torch network as an `openvino.Model` of normalised images (B, 3, I, I).

    Raises
    ------
    BundleError
        OpenVINO knows no way to compute a part of it.
    """
    import torch  # noqa: PLC0415

    from histo_nb.model.features import WithFeatures  # noqa: PLC0415

    example = torch.zeros(BATCH, 3, card.image_size, card.image_size)
    try:
        with torch.inference_mode():
            program = torch.export.export(WithFeatures(network).eval(), (example,), strict=False)
        converted = openvino().convert_model(program)
        converted.reshape(list(example.shape))
        return converted
    except Exception as error:  # torch and OpenVINO raise all kinds of them
        said = " ".join(str(error).split())[:300]
        raise BundleError(
            f"model {card.model_id} ({card.network}) cannot be written for OpenVINO: {said}; "
            "it is analysed with torch"
        ) from error


def quantize_network(network: Any, images: np.ndarray) -> Any:
    """Return a network in int8, its ranges measured on training images (N, 3, I, I) float32.

    Activations are quantised asymmetrically, since leaky ones go below 0.
    """
    openvino()  # before NNCF, which would report as well
    import nncf  # noqa: PLC0415 - seconds

    n = max(len(images) // BATCH, 1) * BATCH
    images = images[np.arange(n) % len(images)]
    batches = [images[start : start + BATCH] for start in range(0, n, BATCH)]
    return nncf.quantize(
        network,
        nncf.Dataset(batches, lambda batch: {0: batch}),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        fast_bias_correction=True,
    )


def with_normalization(network: Any, card: Card) -> Any:
    """Return a network of pixels: (B, I, I, 3) uint8 in, normalised inside as the card says.

    The network itself is changed.
    """
    ov = openvino()
    divisor = card.statistics[card.normalize]
    steps = ov.preprocess.PrePostProcessor(network)
    steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    steps.input().model().set_layout(ov.Layout("NCHW"))
    change = steps.input().preprocess().convert_element_type(ov.Type.f32)
    change.mean([255 * value for value in card.statistics["mean"]])
    change.scale([255 * value for value in divisor])
    return steps.build()
