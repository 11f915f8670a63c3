"""What a run was made from: files and slides it reads, the model that serves, code, packages."""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histo_nb.errors import NotebookError
from histo_nb.files import hash_file
from histo_nb.home import Home
from histo_nb.inference.provenance import code_facts, environment_facts
from histo_nb.model.card import read_card
from histo_nb.model.registry import production_entry, production_model
from histo_nb.running.outputs import hash_output
from histo_nb.tiling.table import tile_table_path


def find_inputs(values: Mapping[str, Any], home: Home, *, cwd: Path) -> dict[str, Any]:
    """Return the SHA-256 of what parameters name, `files` that exist and `slides`; and `home`.

    `home` says what lies there already, see `find_starts`.

    `slide_ids` names slides of the catalogue; empty, it means all of them.

    Raises
    ------
    CatalogError
        A slide that is named is not in the catalogue.
    NotebookError
        A file that is named cannot be read.
    """
    files = {name: found for name in values if (found := _hash_files(name, values[name], cwd))}
    return {"files": files, "slides": _slides(values, home), "home": find_starts(home)}


def find_starts(home: Home) -> dict[str, Any]:
    """Return what a home holds that a run may start from: `tiles`, the hash of its table of tiles
    (None: there is none), and the names of its `datasets` and `models`.
    """
    table = tile_table_path(home)
    return {
        "tiles": hash_output(table) if table.is_file() else None,
        "datasets": sorted(path.name for path in home.datasets.glob("D-*")),
        "models": sorted(path.name for path in home.models.glob("M-*")),
    }


def _hash_files(name: str, value: Any, cwd: Path) -> dict[str, str]:
    texts = [item for item in _as_list(value) if isinstance(item, str) and item]
    try:
        return {text: hash_file(cwd / text) for text in texts if (cwd / text).is_file()}
    except OSError as error:
        raise NotebookError(
            f"parameter {name} names a file that cannot be read: {error}"
        ) from error


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _slides(values: Mapping[str, Any], home: Home) -> dict[str, str]:
    if "slide_ids" not in values:
        return {}
    named = _as_list(values["slide_ids"] or [])
    rows = home.catalog.slides(named) if named else home.catalog.slides_since("")
    return dict(zip(rows.slide_id, rows.sha256, strict=True))


def find_model_facts(home: Home) -> dict[str, str] | None:
    """Return id and hash of the model in production; None: there is none."""
    if production_entry(home) is None:
        return None
    card = read_card(production_model(home) / "card.json")
    return {"model_id": card.model_id, "weights_sha256": card.weights_sha256}


def find_software() -> dict[str, Any]:
    """Return the code, and the packages it runs on."""
    packages = {**environment_facts(), "platform": platform.platform()}
    return {"code": code_facts(), "packages": packages}


def find_seeds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are seeds: `seed`, `train_seed` …"""
    return {name: value for name, value in values.items() if name.endswith("seed")}
