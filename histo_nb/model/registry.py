"""Candidates, the one model in production, and why it is there. Loads no torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.errors import BundleError, GateFailed
from histo_nb.home import Home
from histo_nb.model.prepared import read_prepared
from histo_nb.model.production import number_before, production_history, write_entry
from histo_nb.model.seal import check_bundle, read_gate, registry_locked

COLUMNS = ["model_id", "created_at", "network", "recipe", "normal_class",
           "validation_balanced_accuracy", "gate_passed", "gate_lowered", "production",
           "fault"]  # fmt: skip


def find_model(home: Home, model_id: str) -> Path:
    """Return a model's folder.

    Raises
    ------
    BundleError
        There is no such model.
    """
    folder = home.models / model_id
    if Path(model_id).name != model_id or model_id[:2] != "M-" or not folder.is_dir():
        raise BundleError(f"no model {model_id!r} in the registry; see `histo-nb registry list`")
    return folder


def list_models(home: Home) -> pd.DataFrame:
    """Return one row a model: its id, when it was made, what the gate said, whether it serves.

    A damaged model has its `fault` in words, and is listed with what can still be known. Weights
    are measured, but not hashed here: `describe_model` and `promote` do.
    """
    current = (production_entry(home) or {}).get("model_id")
    folders = sorted(path for path in home.models.glob("M-*") if path.is_dir())
    rows = [{**_list(path), "production": path.name == current} for path in folders]
    return pd.DataFrame(rows, columns=COLUMNS).astype(object).where(lambda t: t.notna(), None)


def describe_model(home: Home, model_id: str) -> dict[str, Any]:
    """Return a model's card, its gate, and when and why it served.

    Raises
    ------
    BundleError
        There is no such model, or it is damaged.
    """
    folder = find_model(home, model_id)
    card, entries = check_bundle(folder), production_history(home)
    ends = [entry["since"] for entry in entries[1:]] + [None]
    periods = [{**entry, "until": end} for entry, end in zip(entries, ends, strict=False)]
    return {
        "model_id": model_id,
        "production": bool(entries) and entries[-1]["model_id"] == model_id,
        "served": [period for period in periods if period["model_id"] == model_id],
        "gate": read_gate(folder),
        "prepared": _prepared(folder),
        "card": asdict(card),
        "path": folder,
    }


def _prepared(folder: Path) -> dict[str, Any] | None:
    """Return what was measured of a model, or what is wrong with it: the model itself is whole."""
    try:
        return read_prepared(folder)
    except BundleError as error:
        return {"error": str(error)}


def promote(
    home: Home, model_id: str, *, reason: str, who: str = "", despite_gate: bool = False
) -> Path:
    """Put a model into production, atomically, with the reason on record; return its folder.

    Parameters
    ----------
    who
        Who decided; "" is the account at work.
    despite_gate
        Also without a passed gate. That is recorded, and every page says so.

    Raises
    ------
    BundleError
        There is no such model, or it is damaged.
    GateFailed
        It has not passed its gate.
    """
    folder = find_model(home, model_id)
    with registry_locked(home.models):
        check_bundle(folder)
        gate = read_gate(folder) or {}
        passed = gate.get("passed") is True
        if not (passed or despite_gate):
            said = "; ".join(gate.get("reasons", [])) or "it never stood before one"
            raise GateFailed(
                f"model {model_id} has not passed its gate ({said}); pass `histo-nb gate "
                f"{model_id}`, or take responsibility: `histo-nb registry promote {model_id} "
                "--despite-gate --reason …`, which every page will say"
            )
        write_entry(home, model_id, reason, who, gate_passed=passed)
    home.catalog.note("model promoted", model_id, reason)
    return folder


def rollback(home: Home, *, reason: str, who: str = "") -> Path:
    """Put back the model that served before the one in production; return its folder.

    Going back twice goes back two models. That it went back, and why, is one more entry.

    Raises
    ------
    BundleError
        No model served before, or the one that did is damaged: none is skipped.
    """
    if production_entry(home) is None:
        raise BundleError("no model is in production, so there is nothing to go back from")
    with registry_locked(home.models):
        entries = production_history(home)
        number = number_before(entries)
        model_id = entries[number]["model_id"]
        folder = find_model(home, model_id)
        check_bundle(folder)
        passed = (read_gate(folder) or {}).get("passed") is True
        write_entry(home, model_id, reason, who, gate_passed=passed, back_to=number)
    home.catalog.note("model rolled back", model_id, reason)
    return folder


def production_entry(home: Home) -> dict[str, Any] | None:
    """Return `model_id`, `since`, `reason` … of the model in production, if there is one."""
    entries = production_history(home)
    return entries[-1] if entries else None


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


def _list(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"model_id": folder.name}
    try:
        card = check_bundle(folder, weights=False)
        row |= {
            "created_at": card.created_at,
            "network": card.network,
            "recipe": card.recipe.get("name"),
            "normal_class": card.normal_class,
            "validation_balanced_accuracy": card.validation.get("balanced_accuracy"),
        }
        gate = read_gate(folder) or {}
        row |= {"gate_passed": gate.get("passed"), "gate_lowered": bool(gate.get("lowered"))}
    except (BundleError, OSError) as error:
        row["fault"] = str(error)
    return row
