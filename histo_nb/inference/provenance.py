"""What an answer was made from: slide, model, code, parameters, packages. Loads no torch."""

import importlib.metadata
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from histo_nb import __version__
from histo_nb.files import hash_content, hash_file
from histo_nb.model.card import Card, installed_versions

PACKAGE = Path(__file__).parents[1]
# The code that decides an answer; pages, reports and desks may change without a slide being redone.
DECIDES = ("geometry.py", "annotations.py", "slide.py", "stored.py", "image.py", "tables.py",
           "balancing/pixels.py", "masking", "tiling", "model", "inference")  # fmt: skip


@cache
def code_facts() -> dict[str, Any]:
    """Return `version`, `source_sha256` of the code that decides answers, and the git `commit`.

    The commit is None where this is no checkout, or git is not there; `dirty` says whether files
    differ from it.
    """
    commit = _git("rev-parse", "HEAD")
    return {
        "version": __version__,
        "source_sha256": _hash_sources(),
        "commit": commit,
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")) if commit else None,
    }


def _hash_sources() -> str:
    found = [path for name in DECIDES for path in _sources(PACKAGE / name)]
    return hash_content({str(path.relative_to(PACKAGE)): hash_file(path) for path in found})


def _sources(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _git(*arguments: str) -> str | None:
    if not (PACKAGE.parent / ".git").exists():
        return None  # another project's repository may lie around an installed package
    command = ["git", "-C", str(PACKAGE.parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@cache
def environment_facts() -> dict[str, str]:
    """Return the versions of Python and of the packages that can change an answer."""
    openvino = {"openvino": importlib.metadata.version("openvino")}
    return {"python": platform.python_version(), **installed_versions(), **openvino}


def model_facts(
    card: Card, *, prepared: str | None, gate: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return which model it was: its id, the hash of its weights, of its runtimes' files and of
    what its gate said.
    """
    return {
        "model_id": card.model_id,
        "weights_sha256": card.weights_sha256,
        "prepared_sha256": prepared,
        "gate_sha256": gate.get("sha256") if gate else None,
    }


def slide_facts(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return which slide it was, from its row in the catalogue."""
    return {name: row[name] for name in ("slide_id", "sha256", "slide_mpp", "mpp_source")}
