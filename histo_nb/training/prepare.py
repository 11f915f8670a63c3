"""Makes a model ready to analyse slides: quick runtimes whose answers are measured, a reference.

Each runtime answers the validation tiles and is compared with fp32 on torch, which trained and
gated the model. One that says something else is refused by name from then on.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import Dataset, open_dataset
from histo_nb.catalog import now
from histo_nb.errors import BundleError, DatasetError, SlideError
from histo_nb.files import locked, writing_folder
from histo_nb.home import Home
from histo_nb.inference.answer import make_predictions
from histo_nb.inference.openvino_runtime import OpenVinoRuntime
from histo_nb.inference.reference import Reference, fit_reference, write_reference
from histo_nb.inference.rule import SlideRule
from histo_nb.inference.runtime import Runtime, prepare, probabilities
from histo_nb.inference.stain import COLOURS, slide_colours, tile_colour
from histo_nb.inference.torch_runtime import TorchRuntime, card_transform
from histo_nb.inference.trust import scanner_of
from histo_nb.inference.verdict import judge_slides
from histo_nb.model.bundle import Bundle, open_bundle
from histo_nb.model.card import Card
from histo_nb.model.openvino_files import (
    FILES,
    N_CALIBRATION,
    can_compute,
    convert_network,
    openvino,
    quantize_network,
    with_normalization,
    write_networks,
)
from histo_nb.model.prepared import PREPARED, REFERENCE, find_cpu, seal_prepared
from histo_nb.model.registry import find_model
from histo_nb.slide import Slide
from histo_nb.stored import N_THREADS
from histo_nb.training.evaluate import evaluate_predictions

MAX_CHANGED = 0.005  # share of the validation tiles that may get another class; always one tile
MIN_PATIENTS = 5  # of the validation part; an interval over fewer says nothing
MAX_DIFFERENCE = 0.25  # of a probability; half the way to another class
N_REFERENCE = 2000  # training tiles that are looked at; more tell nothing new
AGREEMENT = ("max_difference", "changed", "balanced_accuracy", "slides_changed", "ms_per_tile")


@dataclass(frozen=True)
class Sample:
    """Tiles of a part of a data set, and as the network is shown them."""

    rows: pd.DataFrame
    images: list[np.ndarray]  # (I, I, 3) uint8


def prepare_model(home: Home, model_id: str) -> dict[str, Any]:
    """Prepare a model for slides on this machine; return what was measured.

    Writes the folder `prepared` of the bundle: its networks for OpenVINO, what its training tiles
    look like (`Reference`), and `runtimes.json`: for each runtime whether it passed, the largest
    difference of a probability from fp32 on torch, the share of validation tiles and the number of
    validation slides that get another class, balanced accuracy,
    and milliseconds a tile on all cores. May be called again, on another machine too.

    Raises
    ------
    BundleError, DatasetError
        The model or its data set is gone or damaged.
    """
    folder = find_model(home, model_id)
    bundle = open_bundle(folder)
    dataset = open_dataset(home.datasets / bundle.card.dataset_id)
    if dataset.certificate["sha256"] != bundle.card.certificate_sha256:
        raise BundleError(
            f"data set {dataset.dataset_id} was made anew since model {model_id} was trained; "
            "train again"
        )
    with locked(home.models / ".prepare.lock"):
        valid = _sample(dataset, bundle, "valid", len(dataset.rows))
        train = _sample(dataset, bundle, "train", N_REFERENCE)
        torch_runtime = TorchRuntime(bundle)
        fp32 = _ask(torch_runtime, valid)
        reference = _learn_reference(torch_runtime, train=train, valid=fp32)
        others, networks = _other_runtimes(bundle, folder, train)
        measured = {torch_runtime.name: _compare(fp32, fp32, valid, bundle.card)}
        for runtime in others:
            measured[runtime.name] = _compare(_ask(runtime, valid), fp32, valid, bundle.card)
        facts = {
            "at": now(),
            "cpu": find_cpu(),
            "n_threads": N_THREADS,
            "packages": {"openvino": openvino().__version__, "torch": torch.__version__},
            "n_tiles": len(valid.rows),
            "n_slides": int(valid.rows.slide_id.nunique()),
            "runtimes": measured,
        }
        with writing_folder(folder / PREPARED, replace=True) as temporary:
            write_reference(reference, temporary / REFERENCE)
            write_networks(networks, temporary)
            return seal_prepared(temporary, bundle.card, facts)


def runtimes_table(prepared: dict[str, Any]) -> pd.DataFrame:
    """Return what was measured, a row a runtime, the quickest first."""
    rows = {
        name: {**{key: facts.get(key) for key in AGREEMENT}, "passed": facts["passed"],
               "faults": "; ".join(facts["faults"])}
        for name, facts in prepared["runtimes"].items()
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").sort_values("ms_per_tile")


@dataclass(frozen=True)
class Said:
    """What a runtime says of a sample."""

    probabilities: np.ndarray
    features: np.ndarray
    seconds: float


def _sample(dataset: Dataset, bundle: Bundle, split: str, at_most: int) -> Sample:
    indices = dataset.indices(split)
    indices = indices[dataset.rows.parent_id.iloc[indices].isna()]
    if not len(indices):
        raise DatasetError(f"data set {dataset.dataset_id} has no tile in its part {split!r}")
    chosen = indices[np.linspace(0, len(indices) - 1, min(at_most, len(indices))).astype(int)]
    bar = tqdm(chosen, desc=f"reading {split} tiles", unit="tile", leave=False)
    images = [prepare(np.asarray(dataset.pixels[int(i)]), bundle.card) for i in bar]
    return Sample(dataset.rows.iloc[chosen].reset_index(drop=True), images)


def _ask(runtime: Runtime, sample: Sample) -> Said:
    bar = tqdm(sample.images, desc=runtime.name, unit="tile", leave=False)
    started = time.perf_counter()
    answers = [said for _, said in runtime.run((None, image) for image in bar)]
    seconds = time.perf_counter() - started
    logits = np.concatenate([said.logits for said in answers])
    features = np.concatenate([said.features for said in answers])
    return Said(probabilities(logits, runtime.card), features, seconds)


def _other_runtimes(
    bundle: Bundle, folder: Path, train: Sample
) -> tuple[list[Runtime], dict[str, Any]]:
    """Return what is to be compared with torch's fp32, and OpenVINO's networks by precision."""
    runtimes: list[Runtime] = []
    if torch.cuda.is_available():
        runtimes += [TorchRuntime(open_bundle(folder), precision=p) for p in ("bf16", "fp16")]
    network, card = convert_network(bundle.network, bundle.card), bundle.card
    quantized = quantize_network(network.clone(), _calibration_images(train, card))
    networks = {
        "fp32": with_normalization(network, card),
        "int8": with_normalization(quantized, card),
    }
    runtimes += [
        OpenVinoRuntime(networks[FILES[precision]], card, precision=precision)
        for precision in FILES
        if can_compute(precision)
    ]
    return runtimes, networks


def _calibration_images(train: Sample, card: Card) -> np.ndarray:
    """Return normalised training tiles (N, 3, I, I) float32 that stand for all."""
    n = min(N_CALIBRATION, len(train.images))
    chosen = np.linspace(0, len(train.images) - 1, n).astype(int)
    pixels = torch.from_numpy(np.stack([train.images[i] for i in chosen])).permute(0, 3, 1, 2)
    images: np.ndarray = card_transform(card)(pixels).contiguous().numpy()
    return images


def _compare(said: Said, fp32: Said, valid: Sample, card: Card) -> dict[str, Any]:
    """Return how far a runtime's answers are from those of fp32, and what is wrong with them."""
    milliseconds = 1000 * said.seconds / len(valid.images)
    if not np.isfinite(said.probabilities).all():
        faults = ["a probability is not a number"]
        return {"ms_per_tile": milliseconds, "passed": False, "faults": faults}
    usual, other = (
        make_predictions(valid.rows, s.probabilities, card.classes) for s in (fp32, said)
    )
    first, second = (evaluate_predictions(predictions, card) for predictions in (usual, other))
    changed = said.probabilities.argmax(axis=1) != fp32.probabilities.argmax(axis=1)
    slides = _slide_classes(other, card) != _slide_classes(usual, card)
    facts = {
        "max_difference": float(np.abs(said.probabilities - fp32.probabilities).max()),
        "changed": float(changed.mean()),
        "balanced_accuracy": second["balanced_accuracy"],
        "slides_changed": int(slides.sum()),
        "ms_per_tile": milliseconds,
    }
    low, high = first["intervals"]["balanced_accuracy"]
    faults = []
    if changed.sum() > max(MAX_CHANGED * len(changed), 1):
        faults.append(f"{changed.sum()} of {len(changed)} validation tiles get another class")
    if facts["max_difference"] > MAX_DIFFERENCE:
        faults.append(f"a probability differs by {facts['max_difference']:.2f}")
    if facts["slides_changed"]:
        faults.append(f"{slides.sum()} of {len(slides)} validation slides get another class")
    many = (first["n_patients"] or 0) >= MIN_PATIENTS
    if many and not low <= facts["balanced_accuracy"] <= high:
        faults.append(
            f"balanced accuracy {facts['balanced_accuracy']:.3f} is outside {low:.3f}–{high:.3f}"
        )
    return {**facts, "passed": not faults, "faults": faults}


def _slide_classes(predictions: pd.DataFrame, card: Card) -> np.ndarray:
    verdicts = judge_slides(
        predictions,
        classes=card.classes,
        normal_class=card.normal_class,
        rule=SlideRule.from_card(card.slide_rule),
    )
    return np.array([verdict.slide_class for verdict in verdicts.values()])


def _learn_reference(runtime: Runtime, *, train: Sample, valid: Said) -> Reference:
    codes = {label: i for i, label in enumerate(runtime.card.classes)}
    colours = np.stack([tile_colour(image) for image in train.images])
    rows = train.rows.assign(**dict(zip(COLOURS, colours.T, strict=True)))
    return fit_reference(
        _ask(runtime, train).features,
        train.rows.label.map(codes).to_numpy(int),
        valid_features=valid.features,
        colours=slide_colours(rows),
        scanners=_scanners(rows),
    )


def _scanners(rows: pd.DataFrame) -> list[str]:
    """Return the scanners of training slides; loose images have none, nor slides that are gone."""
    first = rows.drop_duplicates("slide_id").to_dict("records")
    names = []
    for row in first:
        if row["read_path"] == "image" or not Path(row["slide_path"]).is_file():
            continue
        with (
            suppress(SlideError),
            Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide,
        ):
            names.append(scanner_of(slide))
    return names
