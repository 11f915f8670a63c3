"""Hands received DICOM series to the intake desk: each when it is complete, never before."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histo_nb.errors import CatalogError, IncompleteError, SlideError, StorageError
from histo_nb.files import hash_file
from histo_nb.home import Home
from histo_nb.scanning.dicom.series import check_scale, check_series
from histo_nb.scanning.dicom.spool import Spool
from histo_nb.scanning.identity import tag

if TYPE_CHECKING:
    from histo_nb.scanning.intake import Arrival

log = logging.getLogger(__name__)

SOURCE = "dicom"  # as the catalogue says it
RETRY_S = 30.0  # after the desk could not take a series: no space, no catalogue
ARRIVING = "it is still arriving"
BROKEN = "its sender broke off before it was done; send the series again"


@dataclass
class _Waiting:
    signature: object
    changed_at: float  # clock of the last change seen
    seen_at: float
    reason: str = ARRIVING
    checked: object = None  # signature that was found incomplete
    retry_at: float = 0.0
    told: bool = False


class Keeper:
    """Looks after the series of one spool; `look` is one look at all of them."""

    def __init__(
        self,
        spool: Spool,
        home: Home,
        *,
        quiet_s: float,
        stale_s: float,
        on_arrival: "Callable[[Arrival], None] | None" = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool, self._home, self._now = spool, home, now
        self._quiet_s, self._stale_s, self._on_arrival = quiet_s, stale_s, on_arrival
        self._waiting: dict[str, _Waiting] = {}
        self._shown: dict[str, str] | None = None

    def run(self, stop: threading.Event, *, poll_s: float) -> None:
        """Look again and again until `stop` is set; trouble is logged and does not end it."""
        while not stop.wait(poll_s):
            try:
                self.look()
            except Exception as error:  # the port is open: what is acknowledged must be filed
                log.warning("received series wait: %s", type(error).__name__)

    def look(self) -> None:
        """Sweep what senders left half sent, and file the series that are complete."""
        self._spool.sweep()
        found = self._spool.series()
        self._waiting = {uid: state for uid, state in self._waiting.items() if uid in found}
        for uid, paths in found.items():
            try:
                self._look_at(uid, paths)
            except OSError as error:  # the other series do not wait for this one
                log.warning("a received series waits: %s", error.strerror)
        self._show()

    def _look_at(self, uid: str, paths: Sequence[Path]) -> None:
        state = self._note(uid, paths)
        if self._is_ready(uid, paths, state):
            self._hand_over(uid, paths, state)
        self._report_stale(uid, state)

    def waiting(self) -> list[tuple[str, str]]:
        """Return what each series waits for, by its tag; nothing of it names a patient."""
        return [(tag(self._home, uid), state.reason) for uid, state in list(self._waiting.items())]

    def _note(self, uid: str, paths: Sequence[Path]) -> _Waiting:
        signature, clock = tuple((path, path.stat().st_ino) for path in paths), self._now()
        state = self._waiting.setdefault(uid, _Waiting(signature, clock, clock))
        if state.signature != signature:
            state.signature, state.changed_at, state.reason = signature, clock, ARRIVING
        return state

    def _is_ready(self, uid: str, paths: Sequence[Path], state: _Waiting) -> bool:
        clock = self._now()
        quiet_s = clock - state.changed_at
        if quiet_s < self._quiet_s or clock < state.retry_at or state.checked == state.signature:
            return False
        sending = self._spool.state(uid)
        if sending == "open" or (sending == "broken" and quiet_s < self._stale_s):
            state.reason = ARRIVING if sending == "open" else BROKEN
            return False
        try:
            check_series(paths)
        except IncompleteError as error:
            self._wait_on(uid, paths, state, error)
            return False
        except SlideError:  # nothing more will come; the desk says what is wrong with it
            return True
        return quiet_s >= self._stale_s or self._fits_objective(paths, state)

    def _fits_objective(self, paths: Sequence[Path], state: _Waiting) -> bool:
        """Say whether the finest image is as fine as its objective; later, the desk refuses it."""
        try:
            check_scale(paths)
        except IncompleteError as error:
            state.reason, state.retry_at = _unnamed(error, paths), self._now() + RETRY_S
            return False
        return True

    def _wait_on(
        self, uid: str, paths: Sequence[Path], state: _Waiting, error: IncompleteError
    ) -> None:
        if self._is_filed(paths):  # sent again, by a sender that never got our answer
            self._spool.remove(uid, paths)
            del self._waiting[uid]
            return
        state.reason = _unnamed(error, paths)
        state.checked = state.signature

    def _is_filed(self, paths: Sequence[Path]) -> bool:
        filed = self._home.catalog.slide_files()
        sizes = set(filed.n_bytes)
        if not all(path.stat().st_size in sizes for path in paths):
            return False
        return {hash_file(path) for path in paths} <= set(filed.sha256)

    def _hand_over(self, uid: str, paths: Sequence[Path], state: _Waiting) -> None:
        from histo_nb.scanning.intake import IntakeSpec, receive  # noqa: PLC0415 - 5 MB resident

        try:
            arrival = receive(paths[0].parent, self._home, spec=IntakeSpec(source=SOURCE))
        except StorageError:
            state.reason, state.retry_at = "there is no space left", self._now() + RETRY_S
        except CatalogError:
            state.reason = "the catalogue does not take it"
            state.retry_at = self._now() + RETRY_S
        except SlideError:  # an instance came while it was copied
            state.reason, state.changed_at = ARRIVING, self._now()
        else:
            self._spool.remove(uid, paths)
            del self._waiting[uid]
            if self._on_arrival:
                self._on_arrival(arrival)

    def _report_stale(self, uid: str, state: _Waiting) -> None:
        waits = self._waiting.get(uid) is state
        if waits and not state.told and self._now() - state.seen_at >= self._stale_s:
            state.told = True
            self._home.catalog.note("series incomplete", tag(self._home, uid), state.reason)

    def _show(self) -> None:
        """Leave what waits in the catalogue, for the operations page; only when it changed."""
        waiting = dict(self.waiting())
        if waiting != self._shown:
            self._home.catalog.put_waiting(SOURCE, waiting)
            self._shown = waiting


def _unnamed(error: SlideError, paths: Sequence[Path]) -> str:
    """Return a reason without UIDs: a lab may count patients in them."""
    text = str(error)
    for path in paths:
        text = text.replace(path.name, "an instance")
    return text
