"""A model on disk: `model.safetensors`, `card.json`, `gate.json`. Loading executes nothing."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
from torch import nn

from histo_nb.errors import BundleError
from histo_nb.files import hash_file, write_json, writing_folder
from histo_nb.model.card import Card, read_card, write_card
from histo_nb.model.network import make_network

WEIGHTS, CARD, GATE, HISTORY = "model.safetensors", "card.json", "gate.json", "history.csv"


@dataclass(frozen=True)
class Bundle:
    """A loaded model: its network in evaluation mode, its card, its gate if it stood before one."""

    folder: Path
    card: Card
    network: nn.Module
    gate: dict[str, Any] | None


def write_bundle(network: nn.Module, card: Card, models: Path, *, history: pd.DataFrame) -> Path:
    """Write a candidate under `models`, named after its weights; return its folder.

    `model_id` and `weights_sha256` of the card are filled in here.
    """
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    digest = models / f".{card.dataset_id}.safetensors"
    safetensors.torch.save_file(state, digest)
    sha256 = hash_file(digest)
    folder = models / f"M-{sha256[:10]}"
    try:
        if not folder.exists():
            with writing_folder(folder) as temporary:
                digest.rename(temporary / WEIGHTS)
                write_card(
                    replace(card, model_id=folder.name, weights_sha256=sha256), temporary / CARD
                )
                history.to_csv(temporary / HISTORY, index=False)
    finally:
        digest.unlink(missing_ok=True)
    return folder


def open_bundle(folder: Path) -> Bundle:
    """Load a bundle after its checksum was verified.

    Raises
    ------
    BundleError
        A file is missing, damaged or tampered with, or weights and card do not fit together.
    """
    card = read_card(folder / CARD)
    weights = folder / WEIGHTS
    if not weights.is_file() or hash_file(weights) != card.weights_sha256:
        raise BundleError(
            f"{weights} is missing or not the file its card names (SHA-256 differs); "
            "restore it from a copy, or train again"
        )
    network = make_network(card.network, len(card.classes), **card.network_args)
    try:
        network.load_state_dict(safetensors.torch.load_file(weights))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise BundleError(f"{weights} does not fit its card: {error}") from error
    return Bundle(folder, card, network.eval(), read_gate(folder))


def read_gate(folder: Path) -> dict[str, Any] | None:
    """Return what the gate said of a model; None if it never stood before one."""
    path = folder / GATE
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def write_gate(folder: Path, gate: dict[str, Any]) -> Path:
    """Write what the gate said beside the card; return the path."""
    return write_json(folder / GATE, gate)
