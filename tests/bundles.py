"""Tiny models for tests: an untrained network and a card made by hand."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from histo_nb.home import Home
from histo_nb.inference.rule import SlideRule
from histo_nb.model.bundle import write_bundle
from histo_nb.model.card import Card
from histo_nb.model.network import HistoNet33
from histo_nb.model.seal import write_gate, write_seal

CLASSES = ["adenoma", "normal"]


def make_card(**changes: Any) -> Card:
    """The card of a model of two classes that reads tiles of 64 px."""
    thirds = {"mean": [0.5] * 3, "std": [0.2] * 3, "variance": [0.04] * 3}
    facts: dict[str, Any] = {
        "model_id": "",
        "classes": CLASSES,
        "normal_class": "normal",
        "network": "histonet33",
        "network_args": {"width": 0.125},
        "tile_size": 64,
        "mpp": 0.5,
        "read_path": "level0",
        "store_size": 64,
        "image_size": 32,
        "normalize": "std",
        "statistics": thirds,
        "recipe": {"name": "quick"},
        "best_epoch": 0,
        "select_on": "valid",
        "validation": {"balanced_accuracy": 0.5, "seconds": 1.0},
        "slide_rule": SlideRule().to_card(),
        "dataset_id": "D-0",
        "certificate_sha256": "0" * 64,
        "weights_sha256": "",
        "packages": {},
        "created_at": "2026-01-01",
    }
    return Card(**facts | changes)


def put_model(home: Home, *, seed: int = 0, gate: bool | None = True, **card: Any) -> str:
    """Write a model of random weights, with a gate that it passed, failed, or (None) never saw."""
    torch.manual_seed(seed)
    history = pd.DataFrame({"epoch": [0]})
    folder = write_bundle(
        HistoNet33(2, width=0.125), make_card(**card), home.models, history=history
    )
    if gate is not None:
        reasons = [] if gate else ["accuracy 0.100 is below 0.8"]
        write_gate(folder, {"passed": gate, "reasons": reasons})
    return folder.name


def reseal(folder: Path, **card: Any) -> Path:
    """Forge a bundle: change its card, and make all checksums fit what now lies there."""
    path = folder / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | card))
    write_seal(folder)
    return folder
