"""What makes a bundle whole: checksums, a name made from its content, a gate that is its own.

Loads no torch, and opens no weights: their bytes are hashed, their header is read as text.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histo_nb.errors import BundleError
from histo_nb.files import hash_content, hash_file, locked, storage_errors, write_json
from histo_nb.model.card import Card, read_card

WEIGHTS, CARD, GATE, HISTORY = "model.safetensors", "card.json", "gate.json", "history.csv"
SEAL = "checksums.json"
SEALED = (CARD, WEIGHTS, HISTORY)  # the gate comes later and seals itself
NOT_IN_NAME = ("model_id", "created_at", "validation")  # they hold times; all else decides
MAX_HEADER = 100_000_000  # bytes; the limit of safetensors itself
AGAIN = "restore it from a copy, or train again with `histo-nb train`"


@contextmanager
def registry_locked(models: Path) -> Iterator[None]:
    """Hold the one lock under which bundles are put in place and models promoted."""
    with storage_errors(models / ".lock"):
        models.mkdir(parents=True, exist_ok=True)
        with locked(models / ".lock"):
            yield


def name_model(card: Mapping[str, Any]) -> str:
    """Return the id that a card's content gives; it holds the hash of the weights.

    >>> name_model({"normal_class": "a"}) == name_model({"normal_class": "b"})
    False
    """
    content = {name: value for name, value in card.items() if name not in NOT_IN_NAME}
    return f"M-{hash_content(content)[:10]}"


def write_seal(folder: Path) -> Path:
    """Write the checksums of a bundle's files, the last step of its making; return the path."""
    return write_json(folder / SEAL, {name: hash_file(folder / name) for name in SEALED})


def check_bundle(folder: Path, *, weights: bool = True) -> Card:
    """Return a bundle's card after all its files were found to be those that were written.

    Parameters
    ----------
    weights
        False leaves out their hash, for a quick look: their length is still checked.

    Raises
    ------
    BundleError
        A file is missing, cut off, changed, of another model, or could execute something.
    """
    sums = read_object(folder / SEAL)
    for name in SEALED:
        _check_sum(folder / name, sums.get(name), hashed=weights or name != WEIGHTS)
    check_header(folder / WEIGHTS)
    card, content = read_card(folder / CARD), read_object(folder / CARD)
    named = {"its folder": folder.name, "its content": name_model(content)}
    for what, name in named.items():
        if name != card.model_id:
            raise BundleError(f"{folder}: the card says {card.model_id}, {what} {name}; {AGAIN}")
    if card.weights_sha256 != sums[WEIGHTS]:
        raise BundleError(f"{folder}: the card belongs to other weights; {AGAIN}")
    if card.normal_class not in card.classes or len(set(card.classes)) < len(card.classes):
        raise BundleError(
            f"{folder}: classes {card.classes} must differ and hold the normal class "
            f"{card.normal_class!r}; {AGAIN}"
        )
    return card


def check_header(weights: Path) -> None:
    """Raise `BundleError` unless a file is safetensors from its first byte to its last."""
    size = weights.stat().st_size
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if 2 <= length <= min(size - 8, MAX_HEADER) else b""
    try:
        entries = {k: v for k, v in json.loads(text).items() if k != "__metadata__"}
        end = 8 + length + max(int(entry["data_offsets"][1]) for entry in entries.values())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise BundleError(
            f"{weights} is no safetensors file; others, such as pickles, can execute code when "
            f"opened and are refused unopened: {AGAIN}"
        ) from error
    if end != size:
        raise BundleError(f"{weights} has {size} bytes, its header tells of {end}; {AGAIN}")


def read_gate(folder: Path) -> dict[str, Any] | None:
    """Return what the gate said of a model; None if it never stood before one.

    Raises
    ------
    BundleError
        The file was changed, or was measured on other weights or under another card.
    """
    path = folder / GATE
    if not path.is_file():
        return None
    gate, card = read_object(path), read_card(folder / CARD)
    again = f"move it away and pass `histo-nb gate {folder.name}` again; what was said is on record"
    if gate.get("sha256") != hash_sealed(gate):
        raise BundleError(f"{path} is not as the gate wrote it (SHA-256 differs); {again}")
    if (gate.get("model_id"), gate.get("weights_sha256")) != (card.model_id, card.weights_sha256):
        raise BundleError(f"{path} is the gate of another model, {gate.get('model_id')}; {again}")
    return gate


def is_passed(gate: Mapping[str, Any] | None) -> bool:
    """Say whether a model passed its gate, and by no lowered criteria."""
    return bool(gate and gate.get("passed") and not gate.get("lowered"))


def write_gate(folder: Path, gate: Mapping[str, Any]) -> dict[str, Any]:
    """Write what the gate said beside the card it said it of, sealed; return it as written."""
    card = read_card(folder / CARD)
    own = {"model_id": card.model_id, "weights_sha256": card.weights_sha256}
    content: dict[str, Any] = json.loads(json.dumps({**gate, **own}))
    content["sha256"] = hash_sealed(content)
    write_json(folder / GATE, content)
    return content


def read_object(path: Path, *, way_out: str = AGAIN) -> dict[str, Any]:
    """Return the object in a JSON file of a bundle or the registry.

    Raises
    ------
    BundleError
        It is missing, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is missing or damaged ({error}); {way_out}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds no JSON object; {way_out}")
    return content


def _check_sum(path: Path, sha256: str | None, *, hashed: bool) -> None:
    if not path.is_file() or (hashed and hash_file(path) != sha256):
        raise BundleError(
            f"{path} is missing or not the file its model was written with (SHA-256 differs); "
            f"{AGAIN}"
        )


def hash_sealed(content: Mapping[str, Any]) -> str:
    """Return the hash that a sealed object holds as its `sha256`: of all else in it."""
    return hash_content({name: value for name, value in content.items() if name != "sha256"})
