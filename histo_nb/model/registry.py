"""Candidates, the one model in production, and why it is there. Loads no torch."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.catalog import now
from histo_nb.errors import BundleError
from histo_nb.files import write_json
from histo_nb.home import Home
from histo_nb.model.card import read_card

PRODUCTION = "production.json"


def find_model(home: Home, model_id: str) -> Path:
    """Return a model's folder.

    Raises
    ------
    BundleError
        There is no such model.
    """
    folder = home.models / model_id
    if Path(model_id).name != model_id or not (folder / "card.json").is_file():
        raise BundleError(f"no model {model_id!r} in the registry; see `histo-nb models`")
    return folder


def list_models(home: Home) -> pd.DataFrame:
    """Return one row a model: its id, when it was made, what the gate said, whether it serves."""
    current = production_entry(home) or {}
    rows = []
    for path in sorted(home.models.glob("M-*/card.json")):
        card = read_card(path)
        gate_path = path.with_name("gate.json")
        gate = json.loads(gate_path.read_text()) if gate_path.is_file() else {}
        rows.append(
            {
                "model_id": card.model_id,
                "created_at": card.created_at,
                "network": card.network,
                "recipe": card.recipe.get("name"),
                "validation_balanced_accuracy": card.validation.get("balanced_accuracy"),
                "gate_passed": gate.get("passed"),
                "production": card.model_id == current.get("model_id"),
            }
        )
    return pd.DataFrame(rows)


def promote(home: Home, model_id: str, *, reason: str) -> Path:
    """Put a model into production, atomically, with the reason on record; return its folder."""
    folder = find_model(home, model_id)
    entry = {"model_id": model_id, "since": now(), "reason": reason}
    write_json(home.models / PRODUCTION, entry)
    home.catalog.note("model promoted", model_id, reason)
    return folder


def production_entry(home: Home) -> dict[str, Any] | None:
    """Return `model_id`, `since` and `reason` of the model in production, if there is one."""
    path = home.models / PRODUCTION
    if not path.is_file():
        return None
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def production_model(home: Home) -> Path:
    """Return the folder of the model in production.

    Raises
    ------
    BundleError
        There is none.
    """
    entry = production_entry(home)
    if entry is None:
        raise BundleError(
            "no model is in production; train one with `histo-nb train` and pass `histo-nb gate`"
        )
    return find_model(home, entry["model_id"])


def newest_model(home: Home) -> str:
    """Return the id of the model trained last.

    Raises
    ------
    BundleError
        There is none.
    """
    cards = sorted(home.models.glob("M-*/card.json"), key=lambda path: path.stat().st_mtime)
    if not cards:
        raise BundleError("no model yet; train one with `histo-nb train`")
    return cards[-1].parent.name
