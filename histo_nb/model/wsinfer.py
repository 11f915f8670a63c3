"""A model as a folder that WSInfer runs: its TorchScript, `config.json`, a model card to read.

WSInfer (Kaczmarzyk et al., npj Precision Oncology 8, 9, 2024) cuts patches from level 0, hands
them on as its `config.json` says and takes the softmax of what the model answers. Checked against
its version 0.6.1 by `benchmarks/elsewhere.py`.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import torch

from histo_nb import __version__
from histo_nb.files import write_json, writing_folder
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card
from histo_nb.model.torchscript import check_level0, write_torchscript

SCRIPT, CONFIG, README = "torchscript_model.pt", "config.json", "README.md"  # WSInfer's own names
CARD_TEXT = Path(__file__).with_name("wsinfer.md")


def write_wsinfer(bundle: Bundle, folder: Path) -> Path:
    """Write a model as a new folder for `wsinfer run`; return the folder.

    Raises
    ------
    BundleError
        The model cannot classify patches of level 0, or the file answers otherwise than the
        bundle by more than 1e-4 of a probability.
    StorageError
        The folder is there already, or cannot be written.
    """
    check_level0(bundle.card)
    with writing_folder(folder) as temporary:
        write_torchscript(bundle, temporary / SCRIPT)
        write_json(temporary / CONFIG, make_config(bundle.card))
        (temporary / README).write_text(describe(bundle), encoding="utf-8")
    return Path(folder)


def make_config(card: Card) -> dict[str, Any]:
    """Return what WSInfer must know, by its schema 1.0; all else is inside the TorchScript."""
    return {
        "spec_version": "1.0",
        "architecture": card.network,
        "num_classes": len(card.classes),
        "patch_size_pixels": card.tile_size,
        "spacing_um_px": card.mpp,
        "class_names": card.classes,
        "transform": [{"name": "ToTensor"}],
    }


def describe(bundle: Bundle) -> str:
    """Return the model card in the form of the WSInfer model zoo, as Markdown."""
    card = bundle.card
    return Template(CARD_TEXT.read_text(encoding="utf-8")).substitute(
        vars(card),
        n_classes=len(card.classes),
        classes=", ".join(f"`{name}`" for name in card.classes),
        recipe=card.recipe.get("name", "unknown"),
        version=__version__,
        torch=torch.__version__,
        evaluation=_evaluation(bundle),
    )


def _evaluation(bundle: Bundle) -> str:
    """Return the figures of the gate, else that there are none."""
    gate, chosen = bundle.gate, f"On the part that chose the epoch ({bundle.card.select_on}): "
    validation = chosen + f"balanced accuracy {_number(bundle.card.validation)}."
    if gate is None:
        return f"It stood before no gate: nothing is known of patients it never saw.\n{validation}"
    said = "passed" if gate["passed"] else "did **not** pass"
    low, high = gate.get("intervals", {}).get("balanced_accuracy", (None, None))
    interval = "" if low is None else f" (95 % interval {low:.3f}–{high:.3f})"
    tested = f"balanced accuracy {_number(gate)}{interval}"
    return (
        f"It {said} its gate. On {gate.get('n_tiles', 'unknown')} tiles of "
        f"{gate.get('n_patients') or 'an unknown number of'} patients it never saw: {tested}.\n"
        f"{validation}"
    )


def _number(figures: Mapping[str, Any]) -> str:
    value = figures.get("balanced_accuracy")
    return "unknown" if value is None or math.isnan(value) else f"{value:.3f}"
