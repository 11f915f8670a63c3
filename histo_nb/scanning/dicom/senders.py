"""Which sender is at work on which series: a sender that broke off has more to send.

DICOM has no word for "this series is complete". What tells most is how the connection ended:
released by the sender, or lost. A mark in the series' folder stands for each connection until it
is released or goes on to another series; so it also tells of senders that were cut off when our
own process was killed.
"""

import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from weakref import WeakKeyDictionary

MARK = ".open-"


@dataclass
class _Sender:
    mark: str = field(default_factory=lambda: MARK + secrets.token_hex(6))
    folder: Path | None = None  # of the series it sends just now
    made_good: tuple[str, ...] = ()  # marks of senders that were gone when it began


class Senders:
    """The connections of one receiver; each is known by the thread that reads from it."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[threading.Thread, _Sender] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def begin(self, thread: threading.Thread, folder: Path) -> None:
        """Note that an instance of a series has come; of an earlier series, all has then."""
        with self._lock:
            sender = self._known.setdefault(thread, _Sender())
            if sender.folder != folder:
                self._finish(sender)
                sender.folder, sender.made_good = folder, self._gone(folder)
            (folder / sender.mark).touch()

    def finish(self, thread: threading.Thread) -> None:
        """Note that a sender has released its connection: all of its series has come."""
        with self._lock:
            if sender := self._known.get(thread):
                self._finish(sender)

    def state(self, folder: Path) -> Literal["open", "broken", "done"]:
        """Say whether a series has senders at work, or such that broke off."""
        with self._lock:
            marks = {path.name for path in folder.glob(f"{MARK}*")}
            if marks - set(self._gone(folder)):
                return "open"
            return "broken" if marks else "done"

    def _finish(self, sender: _Sender) -> None:
        if sender.folder:
            for mark in (sender.mark, *sender.made_good):
                (sender.folder / mark).unlink(missing_ok=True)
        sender.folder = None

    def _gone(self, folder: Path) -> tuple[str, ...]:
        at_work = {s.mark for thread, s in self._known.items() if thread.is_alive()}
        return tuple(p.name for p in folder.glob(f"{MARK}*") if p.name not in at_work)


def forget_senders(folder: Path) -> None:
    """Delete the marks in the folder of a series that was filed."""
    for path in folder.glob(f"{MARK}*"):
        with suppress(OSError):
            path.unlink()
