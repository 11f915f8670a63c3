"""A model on disk: weights, card, history, their checksums, gate. Loading executes nothing."""

import hashlib
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors
import safetensors.torch
import torch
from torch import nn

from histo_nb.errors import BundleError, SpecError
from histo_nb.files import writing_folder
from histo_nb.model.card import Card, write_card
from histo_nb.model.network import make_network
from histo_nb.model.seal import (
    AGAIN,
    CARD,
    GATE,
    HISTORY,
    WEIGHTS,
    check_bundle,
    name_model,
    read_gate,
    registry_locked,
    write_seal,
)


@dataclass(frozen=True)
class Bundle:
    """A loaded model: its network in evaluation mode, its card, its gate if it stood before one."""

    folder: Path
    card: Card
    network: nn.Module
    gate: dict[str, Any] | None


def write_bundle(network: nn.Module, card: Card, models: Path, *, history: pd.DataFrame) -> Path:
    """Write a candidate under `models`, named after its weights and its card; return its folder.

    `model_id` and `weights_sha256` of the card are filled in here. The same model is written once;
    a damaged copy of it is replaced.
    """
    state = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    weights = safetensors.torch.save(state)
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
    card = replace(card, model_id=name_model(asdict(card)))
    folder = models / card.model_id
    with registry_locked(models):
        if not _is_whole(folder):
            with writing_folder(folder, replace=True) as temporary:
                (temporary / WEIGHTS).write_bytes(weights)
                write_card(card, temporary / CARD)
                history.to_csv(temporary / HISTORY, index=False)
                if (folder / GATE).is_file():  # it says itself which weights it is of
                    shutil.copy(folder / GATE, temporary / GATE)
                write_seal(temporary)
        (folder / CARD).touch()  # the newest, also if it was there
    return folder


def open_bundle(folder: Path) -> Bundle:
    """Load a bundle after its checksums were verified.

    Raises
    ------
    BundleError
        A file is missing, damaged or tampered with, weights and card do not fit together, the
        weights are not finite, or the gate is another model's.
    """
    card, weights = check_bundle(folder), folder / WEIGHTS
    try:
        network = make_network(card.network, len(card.classes), **card.network_args)
        state = safetensors.torch.load_file(weights)
        network.load_state_dict(state)
    except (RuntimeError, SpecError, TypeError, safetensors.SafetensorError) as error:
        said = " ".join(str(error).split())  # torch says it in many lines
        raise BundleError(f"{weights} does not fit its card: {said}; {AGAIN}") from error
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise BundleError(f"{weights}: {broken[0]} is not finite; train the model again")
    return Bundle(folder, card, network.eval(), read_gate(folder))


def _is_whole(folder: Path) -> bool:
    try:
        return bool(check_bundle(folder))
    except BundleError:
        return False
