"""The scanner's console: whatever happens, one slide a glass, and every change on record."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from counts import count
from glasses import PlaneGlass, waves
from hypothesis import given, settings
from hypothesis import strategies as st

from histo_nb.errors import CatalogError, ScannerError, SlideError, StorageError
from histo_nb.files import hash_file
from histo_nb.home import Home, open_home
from histo_nb.scanning.console import TWIN, UNREAD, ScannerConsole, scan_rack
from histo_nb.scanning.drivers import Scan, ScanSpec
from histo_nb.scanning.slots import ENDED, SlotState, scanned_slides
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner

KINDS = ("jam", "barcode", "focus", "connection")


def make_glasses(n: int) -> list[PlaneGlass]:
    return [PlaneGlass(waves(600, 500, phase=i), patient_id=f"P{i}") for i in range(1, n + 1)]


def make_console(home: Home, *faults: Fault, n: int = 3, rack_id: str = "R-1") -> ScannerConsole:
    return ScannerConsole(VirtualScanner(make_glasses(n), faults=faults), home, rack_id=rack_id)


def states(console: ScannerConsole) -> list[str]:
    return [slot.state for slot in console.slots]


def check_whole(home: Home, n_slides: int) -> None:
    """As many slides as glasses; files and rows agree; nothing is left on its way."""
    slides = home.catalog.slides()
    assert len(slides) == n_slides
    assert {hash_file(path) for path in home.slides.iterdir()} == set(slides.sha256)
    assert [path for path in home.staging.iterdir() if path.name != ".sweeping"] == []


def check_recorded(home: Home, console: ScannerConsole) -> None:
    """The catalogue says what the console says."""
    scans = home.catalog.scans()
    rows = scans[scans.rack_id == console.rack_id].fillna("").to_dict("records")
    assert [(row["slot"], row["state"], row["slide_id"], row["reason"]) for row in rows] == [
        (slot.slot, slot.state, slot.slide_id or "", slot.reason or "") for slot in console.slots
    ]


def once(
    console: ScannerConsole, when: Callable[[SlotState], bool], then: Callable[[], None]
) -> None:
    """Do `then` the first time that a slot is as `when` says."""
    left = [then]

    def look() -> None:
        if left and any(when(slot) for slot in console.slots):
            left.pop()()

    console.on_change(look)


# ------------------------------------------------------------------------------ the plain way
def test_a_rack_is_scanned_and_every_change_is_on_record(home):
    console = make_console(home)
    assert console.status == "idle"
    assert states(console) == []
    console.load()
    assert states(console) == ["waiting"] * 3
    shares: list[float] = []
    console.on_change(lambda: shares.append(console.slots[0].progress))
    console.run()
    assert console.status == "finished"
    assert states(console) == ["done"] * 3
    assert [slot.attempts for slot in console.slots] == [1, 1, 1]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2, "progress is told while a slide is scanned"
    check_whole(home, 3)
    check_recorded(home, console)
    events = home.catalog.events()[::-1]
    of_first = events[events.subject == "R-1/1"]
    said = ["slot waiting", "slot scanning", "slot filing", "slot done"]
    assert of_first.what.tolist() == said
    assert events["at"].is_monotonic_increasing
    of_rack = events[events.subject == "R-1"].what.tolist()
    assert of_rack == ["scanner running", "scanner finished"]


def test_slides_come_in_the_order_of_the_rack_with_their_facts(home):
    console = make_console(home)
    rows = scanned_slides(console.run(), home)
    assert rows.patient_id.tolist() == ["P1", "P2", "P3"]
    assert set(rows.source) == {"virtual scanner"}
    assert rows.slide_id.tolist() == [slot.slide_id for slot in console.slots]


# -------------------------------------------------------------------------------------- faults
@pytest.mark.parametrize("kind", ["jam", "focus", "connection"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_fault_that_goes_away_costs_an_attempt_and_no_slide(home, kind, times):
    console = make_console(home, Fault(2, kind, times))
    console.run()
    assert states(console) == ["done"] * 3
    assert console.slots[1].attempts == 1 + times
    assert console.slots[1].reason is None
    check_whole(home, 3)
    events = home.catalog.events()
    again = events[(events.subject == "R-1/2") & (events.what == "slot scanning")]
    assert again.detail.notna().sum() == times, "each new attempt says why"


def test_a_slide_that_cannot_be_focused_fails_and_the_rack_goes_on(home):
    console = make_console(home, Fault(2, "focus", 9))
    slots = console.run()
    assert states(console) == ["done", "failed", "done"]
    assert slots[1].attempts == 3
    assert slots[1].reason
    check_whole(home, 2)
    check_recorded(home, console)
    with pytest.raises(SlideError, match="slot 2 failed: "):
        scanned_slides(slots, home)


@pytest.mark.parametrize(("times", "read"), [(2, True), (9, False)])
def test_a_slide_with_an_unreadable_label_is_scanned_and_flagged(home, times, read):
    console = make_console(home, Fault(2, "barcode", times))
    slots = console.run()
    assert states(console) == ["done"] * 3
    assert (slots[1].slide_tag is not None) == read
    assert slots[1].reason == (None if read else UNREAD)
    check_whole(home, 3)


@pytest.mark.parametrize("kind", ["jam", "connection"])
def test_a_fault_of_the_machine_that_stays_needs_attention(home, kind):
    console = make_console(home, Fault(2, kind, 4))
    with pytest.raises(ScannerError):
        console.run()
    assert console.status == "needs attention"
    assert console.reason
    assert states(console) == ["done", "waiting", "waiting"]
    assert "scanner needs attention" in set(home.catalog.events().what)
    check_recorded(home, console)
    console.resume()  # somebody has looked after it
    console.wait()
    assert (console.status, console.reason) == ("finished", None)
    assert states(console) == ["done"] * 3
    check_whole(home, 3)


def test_a_slide_that_jams_each_time_can_be_left_out(home):
    console = make_console(home, Fault(2, "jam", 99))
    with pytest.raises(ScannerError):
        console.run()
    console.leave_out(2)
    console.run()
    assert states(console) == ["done", "failed", "done"]
    assert console.slots[1].reason == "left out by hand"


class BrokenScanner(VirtualScanner):
    """A virtual scanner whose second slide meets something no driver tells of."""

    def __init__(self, trouble: Exception | None, *, n: int = 3) -> None:
        super().__init__(make_glasses(n))
        self.trouble = trouble

    def scan_slot(self, slot: int, folder: Path, **how: object) -> Scan:
        scan = super().scan_slot(slot, folder, **how)  # type: ignore[arg-type]
        if slot == 2 and self.trouble:
            raise self.trouble
        return scan


@pytest.mark.parametrize(
    ("trouble", "kind", "said"),
    [
        (StorageError("the disk is full"), StorageError, "the disk is full"),
        (OSError(5, "Input/output error", "/scans/Maria Mustermann.svs"), ScannerError, "output"),
        (ZeroDivisionError("Maria Mustermann"), ScannerError, "ZeroDivisionError"),
    ],
    ids=["disk full", "input/output", "bug"],
)
def test_other_trouble_stops_the_console_and_loses_nothing(home, trouble, kind, said):
    scanner = BrokenScanner(trouble)
    console = ScannerConsole(scanner, home, rack_id="R-1")
    with pytest.raises(kind, match=said) as told:
        console.run()
    assert "Mustermann" not in str(told.value)
    assert console.status == "needs attention"
    assert states(console) == ["done", "waiting", "waiting"]
    check_recorded(home, console)
    check_whole(home, 1)
    scanner.trouble = None
    console.run()
    assert states(console) == ["done"] * 3
    check_whole(home, 3)


class CutOffScanner(VirtualScanner):
    """A virtual scanner that loses the end of its second slide, and does not notice."""

    def scan_slot(self, slot: int, folder: Path, **how: object) -> Scan:
        scan = super().scan_slot(slot, folder, **how)  # type: ignore[arg-type]
        if slot == 2:
            scan.path.write_bytes(scan.path.read_bytes()[:-5000])
        return scan


def test_a_slide_that_intake_refuses_is_in_quarantine_and_the_rack_goes_on(home):
    console = ScannerConsole(CutOffScanner(make_glasses(3)), home)
    slots = console.run()
    assert states(console) == ["done", "refused", "done"]
    assert slots[1].reason == home.catalog.refusals().reason[0]
    assert slots[1].slide_id is None
    check_whole(home, 2)


def test_the_same_pixels_of_another_patient_fail_and_name_no_file(home):
    glasses = [PlaneGlass(waves(600, 500), patient_id="P1")]
    scan_rack(glasses, home)
    (slide_id,) = home.catalog.slides().slide_id
    home.catalog.correct(slide_id, patient_id="P9")
    console = ScannerConsole(VirtualScanner(glasses), home)
    console.load()
    console.rescan(1)
    (slot,) = console.run()
    assert slot.state == "failed"
    assert slot.reason.startswith("the scan of slot 1 was filed before")


def test_who_looks_on_cannot_stop_the_scanner(home):
    console = make_console(home, n=1)
    console.on_change(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    console.run()
    assert states(console) == ["done"]


# ---------------------------------------------------------------------- start, pause, stop, again
def test_stop_throws_the_running_scan_away_and_the_slide_waits(home):
    console = make_console(home)
    once(console, lambda slot: slot.slot == 2 and slot.progress >= 0.3, console.stop)
    console.start()
    assert console.wait(60)
    assert console.status == "stopped"
    assert states(console) == ["done", "waiting", "waiting"]
    check_whole(home, 1)
    check_recorded(home, console)
    console.start()
    assert console.wait(60)
    assert states(console) == ["done"] * 3
    check_whole(home, 3)


def test_stop_lets_a_slide_that_is_being_filed_end(home):
    console = make_console(home)
    once(console, lambda slot: slot.state == "filing", console.stop)
    console.start()
    assert console.wait(60)
    assert states(console) == ["done", "waiting", "waiting"]
    check_whole(home, 1)


def test_stop_before_the_scan_has_begun_is_not_lost(home):
    console = make_console(home)
    once(console, lambda slot: slot.state == "scanning", console.stop)
    console.start()
    assert console.wait(60)
    assert states(console) == ["waiting"] * 3


def test_pause_lets_the_running_slide_end(home):
    console = make_console(home)
    seen: list[str] = []
    paused: list[list[str]] = []
    once(console, lambda slot: slot.state == "filing", console.pause)
    console.on_change(lambda: seen.append(console.status))

    def look() -> None:
        if console.status == "paused" and not paused:
            paused.append(states(console))
            console.resume()

    console.on_change(look)
    console.start()
    assert console.wait(60)
    assert paused == [["done", "waiting", "waiting"]]
    assert list(dict.fromkeys(seen)) == ["idle", "running", "pausing", "paused", "finished"]
    assert states(console) == ["done"] * 3


def test_started_and_stopped_all_the_time_it_still_scans_each_slide_once(home):
    console = make_console(home)
    for _ in range(20):
        console.start()
        console.start()
        console.stop()
    console.run()
    assert states(console) == ["done"] * 3
    check_whole(home, 3)


def test_a_slot_is_scanned_again_when_asked(home):
    console = make_console(home, Fault(2, "focus", 3))
    console.run()
    console.rescan(2)
    assert states(console) == ["done", "waiting", "done"]
    console.run()
    assert states(console) == ["done"] * 3
    check_whole(home, 3)
    for refused in (console.rescan, console.leave_out):
        with pytest.raises(ScannerError, match=r"slot=4 holds no slide; the rack has \[1, 2, 3\]"):
            refused(4)


# ------------------------------------------------------------------------------- seen before
def test_a_glass_scanned_in_another_rack_is_known_unless_asked(home):
    first = make_console(home).run()
    second = make_console(home, n=4, rack_id="R-2")
    second.load()
    second.rescan(2)
    slots = second.run()
    assert states(second) == ["known", "done", "known", "done"]
    assert [slot.slide_id for slot in slots[:3]] == [slot.slide_id for slot in first]
    assert [slot.attempts for slot in slots] == [0, 1, 0, 1]
    check_whole(home, 4)
    check_recorded(home, second)


class FineGlass(PlaneGlass):
    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        return np.full((size[1], size[0], 3), (200, 150, 190), np.uint8)


def test_a_glass_scanned_with_another_profile_is_not_known(home):
    glasses = [FineGlass(waves(600, 500))]
    for i, spec in enumerate((ScanSpec(), ScanSpec(mpp=0.25, objective_power=40), ScanSpec())):
        console = ScannerConsole(VirtualScanner(glasses), home, spec=spec, rack_id=f"R-{i}")
        (slot,) = console.run()
        assert slot.state == ("known" if i == 2 else "done")
    assert sorted(home.catalog.slides().slide_mpp) == [0.25, 0.5]


class OneLabelScanner(VirtualScanner):
    def read_barcode(self, slot: int) -> str:
        return "the same for all"


def test_two_glasses_with_one_label_are_both_scanned_and_flagged(home):
    one = ScannerConsole(OneLabelScanner(make_glasses(1)), home)
    one.run()
    both = ScannerConsole(OneLabelScanner(make_glasses(2)[::-1]), home)
    slots = both.run()
    assert states(both) == ["done", "done"], (
        "the first was known by its label, which proves nothing"
    )
    assert [slot.reason for slot in slots] == [TWIN, TWIN]
    assert len({slot.slide_id for slot in slots}) == 2
    later = ScannerConsole(OneLabelScanner(make_glasses(1)), home)
    assert [slot.state for slot in later.run()] == ["done"], "that label tells no glass any more"
    check_whole(home, 2)


def test_a_new_console_goes_on_where_the_last_one_ended(home):
    first = make_console(home, Fault(1, "focus", 9))
    once(first, lambda slot: slot.slot == 2 and slot.state == "done", first.stop)
    first.start()
    assert first.wait(60)
    assert states(first) == ["failed", "done", "waiting"]
    second = make_console(home)
    second.load()
    assert [slot for slot in second.slots if slot.state in ENDED] == first.slots[:2]
    second.run()
    assert states(second) == ["failed", "done", "done"]
    assert second.slots[1].attempts == 1, "it was not scanned again"
    check_recorded(home, second)


def test_the_catalogue_knows_no_barcode(home):
    if home.catalog.engine.dialect.name != "sqlite":
        pytest.skip("this test reads the bytes of SQLite's files")
    scanner = VirtualScanner(make_glasses(2), faults=[Fault(1, "jam"), Fault(2, "focus", 9)])
    barcodes = [VirtualScanner(make_glasses(2)).read_barcode(slot) for slot in (1, 2)]
    ScannerConsole(scanner, home).run()
    home.catalog.engine.dispose()
    written = b"".join(path.read_bytes() for path in home.root.glob("catalog.sqlite*"))
    assert b"slot done" in written
    assert [code for code in barcodes if code.encode() in written] == []


# ------------------------------------------------------------------------------ whatever happens
FAULTS = st.builds(
    Fault, st.integers(1, 3), st.sampled_from(KINDS), st.integers(1, 4), st.floats(0, 1)
)
COMMANDS = st.sampled_from(["pause", "stop", "start", "resume"])


@pytest.fixture(scope="module")
def worn(tmp_path_factory) -> Home:
    """A home in which the rack was scanned: each example files the same bytes again, quickly."""
    home = open_home(tmp_path_factory.mktemp("worn") / "home")
    make_console(home).run()
    return home


@settings(max_examples=count(quick=25, full=500))
@given(
    faults=st.lists(FAULTS, max_size=4),
    commands=st.dictionaries(st.integers(0, 60), COMMANDS, max_size=4),
)
def test_faults_and_commands_in_any_order_end_with_each_slide_once(worn, faults, commands):
    scanner = VirtualScanner(make_glasses(3), faults=faults)
    console = ScannerConsole(scanner, worn, rack_id=f"R-{random.random()}")
    console.load()
    for slot in console.slots:
        console.rescan(slot.slot)
    changes = iter(range(100_000))

    def command() -> None:
        if name := commands.get(next(changes)):
            getattr(console, name)()

    console.on_change(command)
    for _ in range(30):
        console.start()
        while not console.wait(0.2):
            if console.status == "paused":
                console.resume()
        for slot in console.slots:
            if slot.state == "failed":
                console.rescan(slot.slot)
        if states(console) == ["done"] * 3:
            break
    assert states(console) == ["done"] * 3
    assert [slot.slide_id for slot in console.slots] == worn.catalog.slides().slide_id.tolist()
    check_whole(worn, 3)
    check_recorded(worn, console)


CHILD = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    from test_console import KILLED, Fault, make_console
    from histo_nb.home import open_home
    faults = [Fault(1, "connection"), Fault(3, "jam"), Fault(4, "focus")]
    print("ready", flush=True)
    make_console(open_home(), *faults, n=KILLED, rack_id="R-killed").run()
"""
KILLED = 4  # slides of the rack that is killed


def test_killed_at_any_moment_a_rack_ends_with_each_slide_once(home):
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent)]
    paths = [str(Path(__file__).parents[1]), *sys.path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    rng = random.Random(5)
    for _ in range(count(quick=3, full=20)):
        child = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, start_new_session=True)  # fmt: skip
        assert child.stdout
        child.stdout.readline()  # what is killed is the rack, not the imports
        try:
            child.wait(rng.uniform(0, 0.4 * KILLED))
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        child.stdout.close()
        with_rows = len(home.catalog.slide_files())
        assert with_rows <= len(list(home.slides.iterdir())) <= KILLED
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scans = home.catalog.scans()
    assert scans.state.tolist() == ["done"] * KILLED
    assert scans.slide_id.tolist() == home.catalog.slides().slide_id.tolist()
    check_whole(home, KILLED)


def test_a_filed_slide_whose_state_was_not_written_is_one_slide(home, monkeypatch):
    """The moment between the two: the process ends behind intake, before the slot's row."""
    first = make_console(home)
    real = home.catalog.__class__.put_scan

    def put_scan(self: object, row: dict[str, object]) -> None:
        if row["state"] == "done" and row["slot"] == 2:
            raise CatalogError("killed here")
        real(self, row)  # type: ignore[arg-type]

    with monkeypatch.context() as patched, pytest.raises(CatalogError):
        patched.setattr(home.catalog.__class__, "put_scan", put_scan)
        first.run()
    assert len(home.catalog.slides()) == 2
    second = make_console(home)
    second.run()
    assert states(second) == ["done"] * 3
    check_whole(home, 3)


def test_a_rack_with_a_slide_that_cannot_be_scanned_is_an_error(home, monkeypatch):
    monkeypatch.setattr(
        "histo_nb.scanning.console.VirtualScanner",
        lambda glasses: VirtualScanner(glasses, faults=[Fault(1, "focus", 9)]),
    )
    with pytest.raises(SlideError, match=r"1 of 2 slides .* slot 1 failed"):
        scan_rack(make_glasses(2), home)
