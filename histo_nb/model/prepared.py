"""What a model was given to analyse slides, in the folder `prepared` of its bundle, sealed.

`runtimes.json` says what was measured; beside it lie the files it was measured of. The folder is
replaced as a whole. Loads no torch.
"""

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histo_nb.errors import BundleError
from histo_nb.files import hash_file, write_json
from histo_nb.model.card import Card, read_card
from histo_nb.model.seal import CARD, hash_sealed, read_object

PREPARED = "prepared"
RUNTIMES_FILE, REFERENCE = "runtimes.json", "reference.safetensors"
PREPARE = "call histo-nb prepare-model"  # before a model's id


def seal_prepared(folder: Path, card: Card, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write what was measured into a folder, with the hash of each file in it; return it."""
    own = {
        "model_id": card.model_id,
        "weights_sha256": card.weights_sha256,
        "files": {path.name: hash_file(path) for path in sorted(folder.iterdir())},
    }
    content: dict[str, Any] = json.loads(json.dumps({**facts, **own}))
    content["sha256"] = hash_sealed(content)
    write_json(folder / RUNTIMES_FILE, content)
    return content


def read_prepared(folder: Path) -> dict[str, Any] | None:
    """Return what was measured of a model's runtimes; None if it was not prepared.

    Raises
    ------
    BundleError
        The file was changed, or is another model's.
    """
    path = folder / PREPARED / RUNTIMES_FILE
    if not path.is_file():
        return None
    content, card = read_object(path, way_out=f"{PREPARE} {folder.name}"), read_card(folder / CARD)
    own = (content.get("model_id"), content.get("weights_sha256"))
    if content.get("sha256") != hash_sealed(content) or own != (card.model_id, card.weights_sha256):
        raise BundleError(
            f"{path} is not as it was written, or of another model; {PREPARE} {folder.name} again"
        )
    return content


def find_file(folder: Path, name: str, prepared: Mapping[str, Any]) -> Path:
    """Return a file of a prepared bundle, which is as it was when it was measured.

    Raises
    ------
    BundleError
        It is missing or has changed.
    """
    path = folder / PREPARED / name
    if not path.is_file() or hash_file(path) != prepared["files"].get(name):
        raise BundleError(
            f"{path} is missing or not what was measured (SHA-256 differs); "
            f"{PREPARE} {folder.name} again"
        )
    return path


def find_cpu() -> str:
    """Return the processor's kind and those of its abilities that decide how it computes."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    said = dict(part for line in lines if len(part := [s.strip() for s in line.split(":", 1)]) == 2)
    name = said.get("model name") or said.get("CPU part") or platform.processor()
    flags = f"{said.get('flags', '')} {said.get('Features', '')}".split()
    return " ".join([platform.machine(), name, *sorted(set(flags) & ABILITIES)])


# of x86 and of ARM: what a compiler of networks chooses its arithmetic by
ABILITIES = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16",
             "amx_int8", "amx_tile", "asimd", "asimddp", "bf16", "i8mm", "sve", "sve2"}  # fmt: skip
