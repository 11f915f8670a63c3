"""The scanner's console: a rack of slots, one after another from glass to catalogue.

Every change of a slot is a row and an event in the catalogue, so that a console that is started
again on the same rack goes on where the last one was stopped or killed. A slide that was filed
just before the process was killed is scanned again: the same bytes, which intake files once.
"""

import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, Never

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.catalog import now
from histo_nb.errors import CatalogError, HistoError, ScannerError, StorageError
from histo_nb.files import staging
from histo_nb.home import Home
from histo_nb.scanning.drivers import Scanner, ScanSpec
from histo_nb.scanning.faults import ATTEMPTS, OF_THE_MACHINE, insist, read_barcode
from histo_nb.scanning.identity import tag
from histo_nb.scanning.slots import (
    ENDED,
    SlotState,
    file_scan,
    find_scanned,
    put_slot,
    restore_slots,
    scanned_slides,
)
from histo_nb.scanning.virtual.glass import Glass
from histo_nb.scanning.virtual.scanner import VirtualScanner

log = logging.getLogger(__name__)

Status = Literal[
    "idle", "running", "pausing", "paused", "stopping", "stopped", "finished", "needs attention"
]
UNREAD = "the label could not be read; look it up by hand"
TWIN = "another slide of this rack has the same label; look it up by hand"


class ScannerConsole:
    """A scanner with its rack, a state machine that may be driven from any thread.

    Parameters
    ----------
    rack_id
        Name of the rack in the catalogue; a new one by default. Give the same one to go on with
        the same rack after the process has ended.
    """

    def __init__(
        self,
        scanner: Scanner,
        home: Home,
        *,
        spec: ScanSpec | None = None,
        rack_id: str | None = None,
    ) -> None:
        self.rack_id = rack_id or f"R-{now()[:19].replace(':', '')}-{secrets.token_hex(2)}"
        self.home = home
        self._scanner, self._spec = scanner, spec or ScanSpec()
        self._slots: dict[int, SlotState] = {}
        self._asked: set[int] = set()  # slots to scan although they are known
        self._status: Status = "idle"
        self._trouble: HistoError | None = None
        self._listeners: list[Callable[[], None]] = []
        self._lock, self._loading = threading.RLock(), threading.Lock()
        self._go, self._stopping = threading.Event(), threading.Event()
        self._go.set()
        self._working = False
        self._thread: threading.Thread | None = None

    # ------------------------------------------------------------------ what is seen
    @property
    def slots(self) -> list[SlotState]:
        """The rack's slots in their order; none before it is loaded."""
        with self._lock:
            return [self._slots[number] for number in sorted(self._slots)]

    @property
    def status(self) -> Status:
        """What the console does; "pausing" and "stopping" until the running slide lets it."""
        if self._status == "running" and self._stopping.is_set():
            return "stopping"
        if self._status == "running" and not self._go.is_set():
            return "pausing"
        return self._status

    @property
    def reason(self) -> str | None:
        """Why the scanner needs attention."""
        return str(self._trouble) if self._trouble else None

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after every change, in the thread that made it."""
        self._listeners.append(listener)

    # ------------------------------------------------------------------ what is asked
    def load(self) -> list[SlotState]:
        """Draw the rack in, unless it is, and return its slots.

        Raises
        ------
        ScannerError
            The scanner needs a technician.
        """
        try:
            self._load()
        except ScannerError as error:
            self._need_attention(error)
            raise
        return self.slots

    def start(self) -> None:
        """Scan what waits, in a thread of its own. Goes on after a pause or a stop as well."""
        with self._lock:
            self._stopping.clear()
            self._go.set()
            if not self._working:
                self._working = True
                thread = threading.Thread(target=self._work, daemon=True, name="scanner")
                thread.start()
                self._thread = thread  # only now: one that has not begun cannot be waited for
        self._tell()

    def run(self) -> list[SlotState]:
        """Scan the rack to its end, with a progress bar; return its slots.

        Raises
        ------
        ScannerError
            The scanner needs a technician.
        HistoError
            The disk is full, or the catalogue cannot be written.
        """
        waiting = sum(slot.state not in ENDED for slot in self.load())
        with tqdm(total=waiting, desc="scanning", unit="slide") as bar:
            listener = _advance(bar, self)
            self.on_change(listener)
            try:
                self.start()
                self.wait()
            except KeyboardInterrupt:
                self.stop()
                self.wait()
                raise
            finally:
                self._listeners.remove(listener)
        if self._trouble:
            raise self._trouble
        return self.slots

    def pause(self) -> None:
        """Let the running slide end, then wait."""
        self._go.clear()
        self._tell()

    def resume(self) -> None:
        """Go on after a pause, or after what needed attention was put right."""
        self.start()

    def stop(self) -> None:
        """Stop soon: a slide that is being scanned waits again, one that is being filed ends."""
        self._stopping.set()
        self._go.set()
        if self._working:
            self._scanner.abort()
        self._tell()

    def rescan(self, slot: int) -> None:
        """Let a slot wait again, although it is done, known, refused or has failed.

        Raises
        ------
        ScannerError
            There is no such slot in the rack.
        """
        with self._lock:
            self._asked.add(slot)
            if self._at(slot).state in ENDED:
                self._write(SlotState(slot=slot, slide_tag=self._at(slot).slide_tag))
        self._tell()

    def leave_out(self, slot: int) -> None:
        """Let a waiting slot fail: its slide jams the scanner each time, say.

        Raises
        ------
        ScannerError
            There is no such slot in the rack.
        """
        with self._lock:
            if self._at(slot).state == "waiting":
                self._write(replace(self._at(slot), state="failed", reason="left out by hand"))
        self._tell()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the rack is done, stopped or needs attention; False if that takes longer."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    # ------------------------------------------------------------------ the worker
    def _work(self) -> None:
        try:
            self._load()
            while slot := self._next():
                self._scan(slot)
        except Exception as error:
            self._need_attention(error)

    def _load(self) -> None:
        with self._loading:
            if not self._slots:
                numbers = insist(self._scanner, self._scanner.load_rack)
                with self._lock:
                    self._slots = restore_slots(self.home, self.rack_id, numbers)
        self._tell()

    def _next(self) -> SlotState | None:
        """Claim the next waiting slot; with none left, or after `stop`, the worker is over."""
        if not self._go.is_set():
            self._move("paused")
            self._tell()
            self._go.wait()
        with self._lock:
            slot = next((slot for slot in self.slots if slot.state == "waiting"), None)
            if slot is None or self._stopping.is_set():
                self._working, slot = False, None
                self._move("stopped" if self._stopping.is_set() else "finished")
            else:
                self._move("running")
                self._slots[slot.slot] = replace(slot, state="scanning", reason=None)
        self._tell()
        return slot

    def _scan(self, slot: SlotState) -> None:
        barcode = read_barcode(self._scanner, slot.slot)
        slide_tag = tag(self.home, barcode) if barcode else None
        slot = replace(slot, slide_tag=slide_tag, reason=None)
        twins = self._find_twins(slot)
        if slide_tag and not twins and slot.slot not in self._asked:
            known = find_scanned(self.home, slide_tag, mpp=self._spec.mpp, but=self.rack_id)
            if known:
                self._put(replace(slot, state="known", slide_id=known, progress=1.0))
                return
        ended = self._insist_on(slot, barcode)
        if ended.state == "done":
            look_at = UNREAD if barcode is None else TWIN if twins else None
            ended = replace(ended, reason=look_at)
        if ended.state in ENDED:
            self._asked.discard(slot.slot)
        self._put(ended)

    def _insist_on(self, slot: SlotState, barcode: str | None) -> SlotState:
        """Scan and file a slot, some times if need be, and return what became of it."""
        fault: ScannerError | None = None
        for _ in range(ATTEMPTS):
            if self._stopping.is_set():
                return replace(slot, state="waiting")
            if fault:
                self._scanner.recover()
            slot = replace(slot, attempts=slot.attempts + 1)
            self._put(replace(slot, state="scanning", reason=str(fault) if fault else None))
            try:
                return self._scan_once(slot, barcode)
            except ScannerError as error:
                fault = error
        if self._stopping.is_set():
            return replace(slot, state="waiting")
        if fault and fault.fault in OF_THE_MACHINE:
            raise fault
        return replace(slot, state="failed", reason=str(fault))

    def _scan_once(self, slot: SlotState, barcode: str | None) -> SlotState:
        with staging(self.home.staging) as folder:
            try:
                scan = self._scanner.scan_slot(
                    slot.slot,
                    folder,
                    spec=self._spec,
                    progress=lambda share: self._progress(slot.slot, share),
                )
            except StorageError as error:  # it names the scanner's file, maybe by a barcode
                file = re.escape(str(folder)) + ".*?(?=: |$)"
                said = re.sub(file, f"the scan of slot {slot.slot}", str(error))
                raise StorageError(said) from None
            slot = replace(slot, state="filing", progress=1.0)
            self._put(slot)
            return file_scan(slot, scan, self.home, source=self._scanner.name, barcode=barcode)

    def _find_twins(self, slot: SlotState) -> list[SlotState]:
        """Return the slots with the same label; it tells neither glass, so none is known by it."""
        twins = [
            other
            for other in self.slots
            if other.slide_tag and other.slide_tag == slot.slide_tag and other.slot != slot.slot
        ]
        for twin in twins:
            if twin.state == "known":
                self.rescan(twin.slot)
            elif twin.state == "done":
                self._put(replace(twin, reason=TWIN))
        return twins

    def _need_attention(self, error: Exception) -> None:
        trouble = _in_words(error)
        with self._lock:
            self._working, self._status, self._trouble = False, "needs attention", trouble
            cut_off = [slot for slot in self.slots if slot.state in ("scanning", "filing")]
            self._slots |= {
                s.slot: replace(s, state="waiting", progress=0.0, attempts=max(s.attempts, 1))
                for s in cut_off
            }
        try:
            for slot in cut_off:
                self._put(self._at(slot.slot))
            self.home.catalog.note("scanner needs attention", self.rack_id, str(trouble))
        except CatalogError as refused:  # a slot that stands as running is restored as waiting
            log.error("the state of rack %s is not written: %s", self.rack_id, refused)
        self._tell()

    # ------------------------------------------------------------------ what is told
    def _at(self, slot: int) -> SlotState:
        if slot not in self._slots:
            raise ScannerError(
                f"slot={slot} holds no slide; the rack has {sorted(self._slots)}", fault="slot"
            )
        return self._slots[slot]

    def _put(self, slot: SlotState) -> None:
        with self._lock:
            self._write(slot)
        self._tell()

    def _write(self, slot: SlotState) -> None:
        put_slot(self.home, self.rack_id, slot)
        self._slots[slot.slot] = slot

    def _move(self, status: Status) -> None:
        if status != self._status:
            self._status, self._trouble = status, None
            self.home.catalog.note(f"scanner {status}", self.rack_id)

    def _progress(self, number: int, share: float) -> None:
        with self._lock:
            slot = self._slots[number]
            if slot.state == "scanning":
                self._slots[number] = replace(slot, progress=max(share, slot.progress))
        if self._stopping.is_set():  # `stop` came before the scan had begun
            self._scanner.abort()
        self._tell()

    def _tell(self) -> None:
        for listener in list(self._listeners):
            try:
                listener()
            except Exception:  # who looks on must not stop the scanner
                log.exception("a listener of the console failed")


def _in_words(error: Exception) -> HistoError:
    if isinstance(error, HistoError):
        return error
    said = error.strerror if isinstance(error, OSError) else type(error).__name__
    trace = None if isinstance(error, OSError) else error  # it names the scanner's file
    log.error("scanning stopped: %s", said, exc_info=trace)
    return ScannerError(f"scanning stopped ({said}); look at the log, start again", fault="program")


def _advance(bar: "tqdm[Never]", console: ScannerConsole) -> Callable[[], None]:
    def advance() -> None:
        ended = sum(slot.state in ENDED for slot in console.slots)
        before = len(console.slots) - (bar.total or 0)
        bar.update(max(ended - before - bar.n, 0))

    return advance


def scan_rack(
    glasses: Sequence[Glass], home: Home, *, spec: ScanSpec | None = None
) -> pd.DataFrame:
    """Scan every glass slide of a rack in the virtual scanner; return catalogue rows in its order.

    A slide that was scanned before is not filed twice.

    Raises
    ------
    SlideError
        A slide was refused or failed.
    """
    return scanned_slides(ScannerConsole(VirtualScanner(glasses), home, spec=spec).run(), home)
