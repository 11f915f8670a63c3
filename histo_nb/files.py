"""Files that are either whole or absent: atomic writes, content hashes, free space."""

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from histo_nb.errors import DiskFullError, HistoError, StorageError

HASH_CHUNK = 1 << 22  # bytes read at a time: large enough for disks, small enough for memory

NEARLY_FULL = 1 << 20  # bytes; a write that failed with less than this left has met a full disk

REFUSALS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "it is larger than a file may be here; choose another disk",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.EACCES: "no permission; choose a folder you may write",
    errno.EPERM: "no permission; choose a folder you may write",
    errno.ENOTDIR: "a part of the path is a file; choose another folder",
    errno.EISDIR: "it is a folder; choose another name",
    errno.ENOTEMPTY: "it exists already; choose another name",
    errno.EEXIST: "it exists already; choose another name",
}


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
    temporary = _beside(path)
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def writing_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; rename it to `path` if the block succeeds.

    Raises
    ------
    StorageError
        As `writing`, or `path` exists already and is not to be replaced.
    """
    path = Path(path)
    temporary, retired = _beside(path), _beside(path)
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
            yield temporary
            if replace:
                with suppress(FileNotFoundError):
                    path.rename(retired)
            temporary.rename(path)
            sync(path.parent)
        shutil.rmtree(retired, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """Yield a fresh folder in `folder` for what is on its way in; afterwards it is gone.

    What a killed process left there is swept by the next one: a folder whose lock nobody holds.

    Raises
    ------
    StorageError
        The disk is full, read-only, or the folder may not be written.
    """
    folder = Path(folder)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".sweeping"):
            sweep_staging(folder)
            fresh = folder / secrets.token_hex(8)
            fresh.mkdir()
            held = _lock(fresh.with_suffix(".lock"))
    try:
        with storage_errors(fresh):
            yield fresh
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.with_suffix(".lock").unlink(missing_ok=True)
        os.close(held)


def sweep_staging(folder: Path) -> int:
    """Delete the folders that killed processes left in a staging folder; return how many."""
    swept = 0
    for lock in folder.glob("*.lock"):
        try:
            handle = _lock(lock)
        except OSError:  # its process is at work
            continue
        shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(handle)
        swept += 1
    return swept


def _lock(path: Path, *, wait: bool = False) -> int:
    """Return a handle that holds the lock of a file until it is closed or its process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; another process that wants it waits."""
    handle = _lock(path, wait=True)
    try:
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has the handle too
        os.close(handle)


def copy_hashed(source: Path, target: Path) -> str:
    """Copy a file, flush the copy to the disk, and return the SHA-256 of the bytes copied.

    Long runs of zeros take no room in the copy.
    """
    digest, zeros = hashlib.sha256(), bytes(HASH_CHUNK)
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(HASH_CHUNK):
            digest.update(chunk)
            if chunk == zeros:
                writer.seek(len(chunk), os.SEEK_CUR)
            else:
                writer.write(chunk)
        writer.truncate()
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def publish(path: Path, target: Path) -> Path:
    """Rename a whole file or folder to its final name, whatever lay there, and return the name."""
    retired = _beside(target)
    if target.is_dir():  # set aside first: deleting it takes time, and a kill would leave half
        target.rename(retired)
    path.rename(target)
    sync(target.parent)
    shutil.rmtree(retired, ignore_errors=True)
    return target


def _beside(path: Path) -> Path:
    return path.with_name(f".{secrets.token_hex(6)}-{path.name}")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into `StorageError`."""
    try:
        yield
    except HistoError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None) or 0
        if number not in REFUSALS and _is_full(path):  # tifffile, safetensors, OpenCV do not say so
            number = errno.ENOSPC
        if number not in REFUSALS:
            raise
        kind = DiskFullError if number in (errno.ENOSPC, errno.EDQUOT) else StorageError
        raise kind(f"cannot write {path}: {REFUSALS[number]}, then run again") from error


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path.parent).free < NEARLY_FULL
    except OSError:
        return False


def write_json(path: Path, content: Any, *, indent: int | None = 2) -> Path:
    """Write `content` as JSON, atomically, and return the path."""
    with writing(path) as temporary:
        text = json.dumps(content, indent=indent, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8")
    return path


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
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
    """Raise `StorageError` unless `folder`'s disk has `needed` bytes and a tenth more.

    A folder, or a file in one, that does not exist yet is looked for where it will be made.
    """
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if free < 1.1 * needed:
        raise DiskFullError(
            f"{folder} has {free / 1e9:.2f} GB free, about {needed / 1e9:.2f} GB are needed; "
            "free some space or set HISTO_HOME to a larger disk"
        )


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
