"""Files that are either whole or absent: atomic writes, content hashes, free space."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from histo_nb.errors import DiskFullError, HistoError, StorageError
from histo_nb.processes import machine, started

HASH_CHUNK = 1 << 22  # bytes read at a time: large enough for disks, small enough for memory

NEARLY_FULL = 1 << 20  # bytes; a write that failed with less than this left has met a full disk

WRITTEN = "HISTO_WRITTEN"  # environment variable: a file that notes what was written, a path a line

NEW, OLD = "n", "o"  # temporary names: of what is being written, and of what it replaces
LEFT = re.compile(
    r"\.(?P<kind>[no])(?P<machine>[0-9a-f]{16})-(?P<pid>\d+)-[0-9a-f]{8}-(?P<name>.+)", re.DOTALL
)
DAY_S = 86400.0  # nothing is written for so long; nor do two clocks differ so much
QUICK_S, REST = 0.001, 100  # a look through a folder that took longer is not repeated for 100 times
_SWEEP_AT: dict[Path, float] = {}  # clock; when a large folder is looked through again

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
    left behind. The suffix is kept, since writers choose the format by it. What a killed process
    left in the folder is swept by the next that writes there.

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
            _sweep(path.parent)
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
        note_written(path)
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
    temporary, retired = _beside(path), _beside(path, OLD)
    if not replace and path.exists():  # said before the work, not after it
        raise StorageError(f"cannot write {path}: {REFUSALS[errno.EEXIST]}, then run again")
    try:
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep(path.parent)
            temporary.mkdir()
            yield temporary
            if replace:
                with suppress(FileNotFoundError):
                    path.rename(retired)
            temporary.rename(path)
            sync(path.parent)
        shutil.rmtree(retired, ignore_errors=True)
        note_written(path)
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
def locked(path: Path, *, timeout_s: float | None = None) -> Iterator[None]:
    """Hold the lock of a file; another process that wants it waits.

    Raises
    ------
    TimeoutError
        Another has held it for `timeout_s`; None = waits for ever.
    """
    handle = _lock(path, wait=True) if timeout_s is None else _lock_within(path, timeout_s)
    try:
        yield
    finally:
        _unlock(handle)


def _unlock(handle: int) -> None:
    fcntl.flock(handle, fcntl.LOCK_UN)  # a child that was forked meanwhile has the handle too
    os.close(handle)


def _lock_within(path: Path, timeout_s: float) -> int:
    with suppress(BlockingIOError):
        return _lock(path)
    # Asked in a thread, which waits in the system's queue: to ask again and again lets some starve.
    waiting: Future[int] = Future()
    threading.Thread(target=_lock_later, args=(path, waiting), daemon=True).start()
    try:
        return waiting.result(timeout_s)
    except BaseException:
        if not waiting.cancel() and not waiting.exception():  # it came in this very moment
            _unlock(waiting.result())
        raise


def _lock_later(path: Path, waiting: "Future[int]") -> None:
    try:
        handle = _lock(path, wait=True)
    except OSError as error:
        waiting.set_exception(error)
        return
    if waiting.set_running_or_notify_cancel():
        waiting.set_result(handle)
    else:
        _unlock(handle)


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
    retired = _beside(target, OLD)
    if target.is_dir():  # set aside first: deleting it takes time, and a kill would leave half
        target.rename(retired)
    path.rename(target)
    sync(target.parent)
    shutil.rmtree(retired, ignore_errors=True)
    note_written(target)
    return target


def note_written(path: Path) -> None:
    """Note what a run has written, if its runner asked for it; a short line is whole.

    What is written is there already: a note that fails undoes nothing.
    """
    if log := os.environ.get(WRITTEN):
        with suppress(OSError), Path(log).open("a", encoding="utf-8") as file:
            file.write(json.dumps(str(path.absolute())) + "\n")


def read_written(log: Path) -> list[Path]:
    """Return the paths that were written while `WRITTEN` named a file, each once."""
    paths: dict[Path, None] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        with suppress(ValueError):  # a killed process left half of it
            paths[Path(json.loads(line))] = None
    return list(paths)


def _beside(path: Path, kind: str = NEW) -> Path:
    who = f"{kind}{machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{who}-{path.name}")


def _sweep(folder: Path) -> None:
    """Delete what killed processes left in a folder; a large one is looked through seldom."""
    began = time.monotonic()
    if began < _SWEEP_AT.get(folder, 0.0):
        return
    with suppress(PermissionError):  # it may be written, but not be read
        for path in folder.iterdir():
            if (found := LEFT.fullmatch(path.name)) and _is_left(folder, found):
                shutil.rmtree(path, ignore_errors=True)
                with suppress(OSError):
                    path.unlink()
    took_s = time.monotonic() - began
    if took_s > QUICK_S:
        _SWEEP_AT[folder] = time.monotonic() + REST * took_s


def _is_left(folder: Path, found: "re.Match[str]") -> bool:
    if found["kind"] == OLD and not (folder / found["name"]).exists():
        return False  # killed between two renames: it is all there is
    try:
        written = (folder / found[0]).lstat().st_mtime
    except OSError:  # just renamed
        return False
    if found["machine"] != machine():  # of processes elsewhere nothing is known
        return time.time() - written > DAY_S
    return started(int(found["pid"])) > written + DAY_S


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


def hash_folder(folder: Path, *, without: Collection[str] = ()) -> str:
    """Return the SHA-256 of the names and bytes of a folder's files, but for some at its top."""
    there = [path for path in folder.iterdir() if path.name not in without]  # it must be there
    inside = [path for top in there if top.is_dir() for path in top.rglob("*") if path.is_file()]
    paths = [*(path for path in there if not path.is_dir()), *inside]
    return hash_content({path.relative_to(folder).as_posix(): hash_file(path) for path in paths})


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
