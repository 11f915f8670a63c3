"""The scanner's rack on the screen: its slots as small glass slides, and the buttons to run it.

Pictures come from filed slides alone; neither barcode nor label is ever shown.
"""

import logging
from contextlib import suppress
from typing import Any, get_args

import ipywidgets
import traitlets

from histo_nb.errors import HistoError, ScannerError
from histo_nb.scanning.console import ScannerConsole
from histo_nb.scanning.slots import ENDED, SlotState, State
from histo_nb.widgets.detail import small_picture
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.widget import Widget, bundle, style

log = logging.getLogger(__name__)

PICTURE_PX = 320  # longest side of a slot's picture; twice what the page shows, for fine screens
WORDS = {"filing": "being filed", "known": "scanned before"}  # other states say it themselves


def show_rack(console: ScannerConsole) -> ipywidgets.Widget:
    """Draw the rack in and return its panel, to be shown by a notebook or a page.

    A scanner that needs attention says so on the panel; nothing is raised.
    """
    with suppress(ScannerError):  # the panel tells it
        console.load()
    return RackPanel(console)


class RackPanel(Widget):
    """A rack to start, pause and stop; slots fill with pictures as their slides are filed."""

    _esm = traitlets.Unicode(bundle("rack_panel")).tag(sync=True)
    _css = traitlets.Unicode(style("rack_panel")).tag(sync=True)
    rack = traitlets.Dict().tag(sync=True)  # see `rack_words`
    slots = traitlets.List().tag(sync=True)  # see `slot_words`
    progress = traitlets.Float().tag(sync=True)  # of the slot that is scanned, 0–1
    pictures = traitlets.Dict().tag(sync=True)  # slide_id → JPEG

    def __init__(self, console: ScannerConsole) -> None:
        super().__init__()
        self._console = console
        self._newest = Newest()
        self._refresh()
        self.on_msg(self._receive)
        console.on_change(self._follow)
        self._follow()  # what has changed meanwhile

    def wait(self, timeout_s: float) -> bool:
        """Wait until the panel shows what the console says; False if that takes longer."""
        return self._newest.wait(timeout_s)

    def _follow(self) -> None:
        self._newest.do(self._refresh)  # the scanner does not wait for pictures

    def _refresh(self) -> None:
        slots = self._console.slots
        running = [slot.progress for slot in slots if slot.state == "scanning"]
        self.progress = round(sum(running), 2)
        self.rack = rack_words(self._console)
        self.slots = [slot_words(slot) for slot in slots]
        for slide_id in {slot.slide_id for slot in slots if slot.slide_id} - set(self.pictures):
            picture = small_picture(self._console.home, slide_id, longest_px=PICTURE_PX)
            self.pictures = self.pictures | {slide_id: picture}

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind, slot = message.get("kind"), message.get("slot")
        try:
            if kind in ("start", "pause", "stop"):
                getattr(self._console, kind)()
            elif kind == "rescan" and isinstance(slot, int):
                self._rescan(slot)
            elif kind == "leave_out" and isinstance(slot, int):
                self._console.leave_out(slot)
        except HistoError as error:
            log.exception("the rack panel's button %s failed", kind)
            self.rack = self.rack | {"warning": str(error)}

    def _rescan(self, slot: int) -> None:
        self._console.rescan(slot)
        if self._console.status == "finished":
            self._console.start()

    def leave(self) -> dict[str, Any]:
        """Return its state in words."""
        said = f"Rack {self.rack['rack_id']}: {self.rack['summary']}"
        return {"text/plain": said}


def rack_words(console: ScannerConsole) -> dict[str, Any]:
    """Put a console's state into words.

    Returns
    -------
    `rack_id`, `status`, `title`, `summary`, `share` of the slots that are dealt with (0–1),
    `warning` (or ""), and `buttons` as `[action, text]`, the main one first.
    """
    slots, status = console.slots, console.status
    ended = sum(slot.state in ENDED for slot in slots)
    return {
        "rack_id": console.rack_id,
        "status": status,
        "title": _title(status, slots),
        "summary": _summary(slots),
        "share": ended / len(slots) if slots else 0.0,
        "warning": console.reason or "",
        "buttons": _buttons(status, slots),
    }


def slot_words(slot: SlotState) -> dict[str, Any]:
    """Put a slot into words: `slot, state, words, slide_id, reason, label, action`.

    `label` says whether the label was read, never what it says; `action` is the button of the
    slot, `[action, text]` or nothing.
    """
    action = ["rescan", "Scan again"] if slot.state in ENDED else []
    if slot.state == "waiting" and slot.attempts:
        action = ["leave_out", "Leave out"]
    unread = "label unreadable" if slot.attempts and slot.state != "waiting" else ""
    return {
        "slot": slot.slot,
        "state": slot.state,
        "words": WORDS.get(slot.state, slot.state),
        "slide_id": slot.slide_id or "",
        "reason": slot.reason or "",
        "label": "label read" if slot.slide_tag else unread,
        "action": action,
    }


def _title(status: str, slots: list[SlotState]) -> str:
    busy = [slot.slot for slot in slots if slot.state in ("scanning", "filing")]
    words = {
        "idle": "Ready to scan",
        "running": f"Scanning slot {busy[0]}" if busy else "Scanning",
        "pausing": "Pausing after this slide",
        "paused": "Paused",
        "stopping": "Stopping",
        "stopped": "Stopped",
        "finished": "The rack is done",
        "needs attention": "The scanner needs attention",
    }
    waiting = any(slot.state == "waiting" for slot in slots)
    return "Ready to scan again" if status == "finished" and waiting else words[status]


def _summary(slots: list[SlotState]) -> str:
    states = [slot.state for slot in slots]
    counts = [
        f"{states.count(state)} {WORDS.get(state, state)}"
        for state in get_args(State)
        if state in states
    ]
    return f"{len(slots)} slide{'' if len(slots) == 1 else 's'} · " + " · ".join(counts)


def _buttons(status: str, slots: list[SlotState]) -> list[list[str]]:
    if status in ("running", "stopping"):
        return [["pause", "Pause"], ["stop", "Stop"]]
    if status in ("pausing", "paused"):
        return [["start", "Continue"], ["stop", "Stop"]]
    if status == "needs attention":
        return [["start", "Try again"]]
    if not any(slot.state == "waiting" for slot in slots):
        return []
    return [["start", "Start the rack" if status == "idle" else "Continue"]]
