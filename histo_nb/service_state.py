"""What of a service is known to others: who runs it, and how its parts are.

`HISTO_HOME/service/lock` is held by the one service of a home, and says who that is; when it dies,
however it dies, the lock is free. `status.json` beside it is what that service last said.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from histo_nb.catalog import account, now, stamp
from histo_nb.errors import HistoError
from histo_nb.files import storage_errors

STATUS = "status.json"
WELL = ("running", "starting")  # states of a part
TAKE_S, PAUSE_S = 2.0, 0.05  # who looks holds the lock as well, for a moment
STALE = timedelta(seconds=30)  # a supervisor that has said nothing for so long does not answer


def service_folder(root: Path) -> Path:
    """Return the folder of the service below HISTO_HOME; made for this account only."""
    folder = root / "service"
    with storage_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Be the one service of a home.

    Raises
    ------
    HistoError
        Another is at work.
    """
    with storage_errors(folder):
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _take(handle):
            raise HistoError(
                f"a service runs here already ({_say(_read(folder / 'lock'))}); stop that one "
                "first, or name another --home"
            )
        os.truncate(handle, 0)
        who = {"pid": os.getpid(), "who": account(), "since": now()}
        os.pwrite(handle, json.dumps(who).encode(), 0)
        yield
    finally:
        os.close(handle)


def who_runs(root: Path) -> dict[str, Any] | None:
    """Return `pid`, `who` and `since` of the service of a home; None if there is none."""
    try:
        handle = os.open(root / "service" / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _read(root / "service" / "lock")
    finally:
        os.close(handle)
    return None


def write_state(folder: Path, facts: dict[str, Any]) -> None:
    """Leave what is known for others; where the disk is full, at least that this one lives."""
    path = folder / STATUS
    fresh = path.with_suffix(".new")  # ours alone: there is one service
    try:
        fresh.write_text(json.dumps({**facts, "pid": os.getpid()}), encoding="utf-8")
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            os.utime(path)  # takes no room


def read_state(root: Path) -> dict[str, Any]:
    """Return `state` ("running", "not answering", "not running"), `since`, `parts` and `held`.

    Of a service that does not run nothing is told but that.
    """
    who = who_runs(root)
    if who is None:
        return {"state": "not running", "since": None, "parts": [], "held": None}
    path = root / "service" / STATUS
    said, told_at = _read(path), _written(path)
    if "parts" not in said or said["pid"] != who.get("pid"):  # it has just begun, or says nothing
        said, told_at = {"parts": [], "held": None}, who.get("since", "")
    known = {"since": who.get("since"), "pid": who.get("pid")}
    if told_at < stamp(datetime.now(UTC) - STALE):
        return {"state": "not answering", **known, "parts": [], "held": None}
    return {"state": "running", **known, "parts": said["parts"], "held": said["held"]}


def is_ill(part: dict[str, Any]) -> bool:
    """Say whether a part of a service needs a person."""
    return part["state"] not in WELL or part["trouble"]


def _take(handle: int) -> bool:
    end = time.monotonic() + TAKE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() > end:
                return False
        time.sleep(PAUSE_S)


def _read(path: Path) -> dict[str, Any]:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _written(path: Path) -> str:
    try:
        return stamp(datetime.fromtimestamp(path.stat().st_mtime, UTC))
    except OSError:
        return ""


def _say(who: dict[str, Any]) -> str:
    return f"process {who.get('pid', '?')} of {who.get('who', '?')} since {who.get('since', '?')}"
