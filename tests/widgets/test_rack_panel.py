"""The rack panel without a browser: its words, its buttons, its pictures."""

import io
import json
from typing import Any

import pytest
from glasses import PlaneGlass, waves
from PIL import Image

from histo_nb.home import Home
from histo_nb.scanning.console import UNREAD, ScannerConsole
from histo_nb.scanning.slots import SlotState
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner
from histo_nb.widgets.rack_panel import RackPanel, rack_words, show_rack, slot_words

GLASSES = [PlaneGlass(waves(600, 500, phase=i), patient_id=f"Maria-{i}") for i in range(3)]


def make_console(home: Home, *faults: Fault) -> ScannerConsole:
    return ScannerConsole(VirtualScanner(GLASSES, faults=faults), home)


def press(panel: RackPanel, kind: str, **what: Any) -> None:
    """Send what the browser sends when a button is pressed."""
    panel._handle_custom_msg({"kind": kind, **what}, [])


def shown(panel: RackPanel) -> list[str]:
    assert panel.wait(20)
    return [slot["state"] for slot in panel.slots]


def test_a_rack_that_is_started_fills_with_pictures(home):
    console = make_console(home, Fault(2, "barcode", 9), Fault(3, "focus", 9))
    panel = show_rack(console)
    assert shown(panel) == ["waiting"] * 3
    assert panel.rack["title"] == "Ready to scan"
    assert panel.rack["buttons"] == [["start", "Start the rack"]]
    assert panel.pictures == {}
    press(panel, "start")
    assert console.wait(60)
    assert shown(panel) == ["done", "done", "failed"]
    assert panel.rack["title"] == "The rack is done"
    assert panel.rack["summary"] == "3 slides · 2 done · 1 failed"
    assert (panel.rack["buttons"], panel.rack["share"]) == ([], 1)
    assert [slot["label"] for slot in panel.slots] == [
        "label read",
        "label unreadable",
        "label read",
    ]
    assert [bool(slot["reason"]) for slot in panel.slots] == [False, True, True]
    assert set(panel.pictures) == set(home.catalog.slides().slide_id)
    for jpeg in panel.pictures.values():
        assert Image.open(io.BytesIO(jpeg)).size == (320, 267)


def test_a_slot_is_scanned_again_at_the_press_of_its_button(home):
    console = make_console(home, Fault(3, "focus", 3))
    panel = show_rack(console)
    console.run()
    assert shown(panel) == ["done", "done", "failed"]
    press(panel, "rescan", slot=3)
    assert console.wait(60)
    assert shown(panel) == ["done"] * 3


def test_a_scanner_that_needs_attention_says_so_and_is_tried_again(home):
    console = make_console(home, Fault(1, "jam", 4))
    panel = show_rack(console)
    press(panel, "start")
    assert console.wait(60)
    assert shown(panel) == ["waiting"] * 3
    assert panel.rack["title"] == "The scanner needs attention"
    assert panel.rack["warning"]
    assert panel.rack["buttons"] == [["start", "Try again"]]
    assert panel.slots[0]["action"] == ["leave_out", "Leave out"]
    press(panel, "start")
    assert console.wait(60)
    assert shown(panel) == ["done"] * 3
    assert panel.rack["warning"] == ""


def test_a_press_that_means_nothing_does_nothing(home):
    panel = show_rack(make_console(home))
    for message in ({"kind": "load"}, {"kind": "_work"}, {"kind": "rescan", "slot": "1"}, {}):
        panel._handle_custom_msg(message, [])
    assert shown(panel) == ["waiting"] * 3
    press(panel, "rescan", slot=9)
    assert "slot=9 holds no slide" in panel.rack["warning"]


def test_neither_barcode_nor_name_reaches_the_page(home):
    scanner = VirtualScanner(GLASSES)
    hidden = [scanner.read_barcode(slot) for slot in (1, 2, 3)] + ["Maria"]
    panel = show_rack(ScannerConsole(scanner, home))
    press(panel, "start")
    assert panel._console.wait(60)
    assert shown(panel) == ["done"] * 3
    hidden += [slot.slide_tag for slot in panel._console.slots]
    told = json.dumps([panel.rack, panel.slots])
    assert [word for word in hidden if word in told] == []


def test_a_slide_that_went_away_leaves_its_slot_empty(home):
    console = make_console(home)
    console.run()
    for path in home.slides.iterdir():
        path.unlink()
    panel = show_rack(console)
    assert shown(panel) == ["done"] * 3
    assert set(panel.pictures.values()) == {b""}


def test_without_a_browser_there_is_a_line_of_text(home):
    panel = show_rack(make_console(home))
    data, _ = panel._repr_mimebundle_()
    assert data["text/plain"].endswith(": 3 slides · 3 waiting")
    assert "application/vnd.jupyter.widget-view+json" in data


@pytest.mark.parametrize(
    ("ask", "title", "buttons"),
    [
        ("pause", "Pausing after this slide", [["start", "Continue"], ["stop", "Stop"]]),
        ("stop", "Stopping", [["pause", "Pause"], ["stop", "Stop"]]),
        ("start", "Scanning slot 1", [["pause", "Pause"], ["stop", "Stop"]]),
    ],
)
def test_the_buttons_follow_the_console(home, ask, title, buttons):
    console = make_console(home)
    said: list[dict[str, Any]] = []

    def look() -> None:
        if console.slots and console.slots[0].state == "filing" and not said:
            said.append({})
            getattr(console, ask)()
            said.append(rack_words(console))
            console.stop()

    console.on_change(look)
    console.start()
    assert console.wait(60)
    assert (said[1]["title"], said[1]["buttons"]) == (title, buttons)
    assert rack_words(console)["buttons"] == [["start", "Continue"]]


def test_a_slot_is_put_into_words():
    slot = SlotState(slot=4, state="known", slide_id="S-1", slide_tag="0123456789ab", reason=UNREAD)
    assert slot_words(slot) == {
        "slot": 4,
        "state": "known",
        "words": "scanned before",
        "slide_id": "S-1",
        "reason": UNREAD,
        "label": "label read",
        "action": ["rescan", "Scan again"],
    }
