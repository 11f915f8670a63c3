"""The protected store of what names a person: label and macro images, barcodes, file names.

It lies in `HISTO_HOME/identity`, one folder a slide, readable by its account only. Nothing but
`histo-nb identity show` reads it, and that leaves an event with who and when.
"""

import hashlib
import hmac
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from histo_nb.errors import CatalogError
from histo_nb.files import publish, staging, storage_errors, sync, write_json
from histo_nb.home import Home

TAG_DIGITS = 12  # 48 bits: two of a million slides share one with a chance of 1 in 500
FACTS = "facts.json"
LEAST_WORD = 6  # letters; shorter words stand in compressed pixels by chance


def tag(home: Home, text: str) -> str:
    """Return a keyed hash that stands for a barcode or a file's place where neither may be seen.

    Barcodes can be counted through, so that a hash without a key would be none: the key never
    leaves the store.
    """
    digest = hmac.new(secret(home, "key"), text.encode("utf-8", "surrogateescape"), hashlib.sha256)
    return digest.hexdigest()[:TAG_DIGITS]


def put_identity(home: Home, name: str, folder: Path, facts: Mapping[str, Any]) -> None:
    """Keep the images in `folder` and the facts of a slide or a refused file, or replace them."""
    write_json(folder / FACTS, dict(facts))
    for path in folder.iterdir():
        path.chmod(0o600)
    publish(folder, home.identity / name)


def kept_facts(home: Home, name: str) -> dict[str, Any]:
    """Return the `file_name` and `barcode` of a slide or refused file, for the desk's own use."""
    path = home.identity / name / FACTS
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return facts


def identity_words(home: Home, name: str) -> list[str]:
    """Return the words by which a slide's copies can be searched for its patient."""
    facts = kept_facts(home, name)
    stem = Path(facts.get("file_name") or "").stem
    return [word for word in (stem, facts.get("barcode") or "") if len(word) >= LEAST_WORD]


def show_identity(home: Home, name: str, folder: Path) -> dict[str, Any]:
    """Copy what names a slide into a folder of the caller's, note who asked, return the facts.

    Raises
    ------
    CatalogError
        There is nothing of that name.
    StorageError
        `folder` cannot be written.
    """
    kept = home.identity / name
    if not (kept / FACTS).is_file():
        raise CatalogError(
            f"nothing is kept of {name}; name a slide (`histo-nb slides`) or a refused file "
            "(`histo-nb quarantine`)"
        )
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.catalog.note("identity shown", name)
        images = [Path(shutil.copy(path, folder)) for path in sorted(kept.glob("*.png"))]
    return kept_facts(home, name) | {"images": [str(path) for path in images]}


def forget_identity(home: Home, name: str) -> None:
    """Delete what is kept of a name."""
    shutil.rmtree(home.identity / name, ignore_errors=True)


def secret(home: Home, name: str) -> bytes:
    """Return a key of this home, 32 random bytes that never leave the store; made once."""
    path = home.identity / name
    if not path.exists():
        with staging(home.staging) as folder:
            fresh = folder / "key"
            fresh.touch(mode=0o600)
            fresh.write_bytes(secrets.token_bytes(32))
            sync(fresh)
            with suppress(FileExistsError):  # another process was first: one key for ever
                os.link(fresh, path)
            sync(home.identity)
    return path.read_bytes()
