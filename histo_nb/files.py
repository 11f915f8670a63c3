"""Files that are either whole or absent: atomic writes, content hashes, free space."""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from histo_nb.errors import StorageError

HASH_CHUNK = 1 << 22  # bytes read at a time: large enough for disks, small enough for memory


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; rename it to `path` if the block succeeds.

    A reader sees the old file or the whole new one, never half of it; after an error nothing is
    left behind. The suffix is kept, since writers choose the format by it.

    Raises
    ------
    StorageError
        The disk is full, read-only, or the folder may not be written.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
        )
        os.close(handle)
    temporary = Path(name)
    try:
        with storage_errors(path):
            yield temporary
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


@contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if the block succeeds.

    Raises
    ------
    StorageError
        As `writing`, or `path` exists already.
    """
    path = Path(path)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        with storage_errors(path):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into `StorageError`."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full; free some space",
            errno.EDQUOT: "the disk quota is used up; free some space",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "no permission; choose a folder you may write",
            errno.ENOTEMPTY: "it exists already; choose another name",
            errno.EEXIST: "it exists already; choose another name",
        }
        reason = reasons.get(error.errno or 0)
        if reason is None:
            raise
        raise StorageError(f"cannot write {path}: {reason}, then run again") from error


def write_json(path: Path, content: Any) -> Path:
    """Write `content` as indented JSON, atomically, and return the path."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False, sort_keys=False))
    return path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def hash_content(content: Any) -> str:
    """Return the SHA-256 of JSON-like content, independent of the order of its keys.

    >>> hash_content({"a": 1, "b": 2}) == hash_content({"b": 2, "a": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def check_free_space(folder: Path, needed: int) -> None:
    """Raise `StorageError` unless `folder`'s disk has `needed` bytes and a tenth more."""
    free = shutil.disk_usage(folder).free
    if free < 1.1 * needed:
        raise StorageError(
            f"{folder} has {free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB are needed; "
            "free some space or set HISTO_HOME to a larger disk"
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
