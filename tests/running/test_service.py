"""The service: parts that come back, a door that closes, a log without names, a clean end."""

import io
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import analysed
import numpy as np
import pandas as pd
import psutil
import pytest
from click.testing import CliRunner
from dicom_peers import TITLE, store
from dicoms import write_series
from serviced import Service

from histo_nb.errors import CatalogAwayError, CatalogError, SpecError
from histo_nb.home import Home, open_home
from histo_nb.model.registry import promote
from histo_nb.running.cli import main
from histo_nb.running.cohort.engine import EngineLostError
from histo_nb.running.service import analysis, logfile
from histo_nb.running.service import channel as channel_module
from histo_nb.running.service import child as child_module
from histo_nb.running.service.channel import Channel
from histo_nb.running.service.child import Child
from histo_nb.running.service.door import Door
from histo_nb.running.service.notify import notify
from histo_nb.running.service.spec import ServiceSpec, plan_parts
from histo_nb.running.service.status import read_status
from histo_nb.running.service.waiting import (
    count_waiting,
    find_failed,
    find_unreported,
    find_waiting,
    note_failed,
)
from histo_nb.scanning.dicom.receiver import DicomReceiver
from histo_nb.scanning.dicom.spool import FULL, STORED
from histo_nb.scanning.hotfolder import HotFolder, HotFolderSpec
from histo_nb.schema import WORK

UNIT = Path(__file__).parents[2] / "deploy" / "histo-nb.service"
NAMES = ("mustermann", "erika", "4711")  # planted in names of files and folders, and in DICOM
QUIET = ("--quiet", 0.5, "--workers", 1)


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "Erika Mustermann"
    folder.mkdir()
    return folder


def add_rows(home: Home, *names: str) -> None:
    """Slides of which only the catalogue knows."""
    for name in names:
        row = {"slide_id": name, "slide_path": "/a", "sha256": name, "n_bytes": 1, "width": 9,
               "height": 9, "n_levels": 1, "slide_mpp": 0.5, "mpp_source": "file",
               "source": "test"}  # fmt: skip
        home.catalog.add_slide(row)


def add_result(home: Home, slide_id: str, model_id: str = "M-1") -> None:
    row = {"slide_id": slide_id, "model_id": model_id, "slide_class": "normal", "confidence": 1.0,
           "abnormal_fraction": 0.0, "n_tiles": 1, "n_regions": 0, "n_failures": 0,
           "result_path": "/r"}  # fmt: skip
    home.catalog.put_result(row)


def drop_slides(drop: Path, n: int, *, first: int = 0) -> None:
    for number in range(first, first + n):
        path = drop / f"Mustermann-{number}.svs"
        part = analysed.write_slide(path.with_suffix(".part"), 60 + number)
        part.rename(path)


def n_analysed(home: Home) -> int:
    return len(home.catalog.results())


def counts(home: Home) -> dict[str, int]:
    """How often each slide was analysed, as the catalogue's events say."""
    return home.catalog.events(what="slide analysed").subject.value_counts().to_dict()


# ------------------------------------------------------------------------------ what it is told
@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"max_waiting": 0}, "max_waiting=0"),
        ({"min_free_gb": -1}, "min_free_gb=-1"),
        ({"n_workers": -1}, "n_workers=-1"),
        ({"quiet_s": -1}, "quiet_s=-1"),
        ({"hang_s": 0}, "hang_s=0"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        ServiceSpec(**wrong)


@pytest.mark.parametrize(
    ("line", "said"), [("--no-pages", "nothing to do"), ("--dicom 0", "--dicom-allow")]
)
def test_a_wrong_call_is_told(home: Home, line: str, said: str) -> None:
    result = CliRunner().invoke(main, ["serve", *line.split()])
    assert result.exit_code == 2
    assert said in result.stderr


def test_parts_are_named_without_folders(home: Home, tmp_path: Path) -> None:
    spec = ServiceSpec(watch=(tmp_path / "Erika", tmp_path / "b"), dicom={"port": 0}, pages={})
    plan = plan_parts(spec, home)
    assert list(plan) == ["intake 1", "intake 2", "dicom", "analysis", "pages"]
    assert list(plan_parts(ServiceSpec(watch=(tmp_path,)), home)) == ["intake", "analysis"]


# ------------------------------------------------------------------------------ what waits
@pytest.mark.databases
def test_the_oldest_wait_first_and_what_has_a_result_keeps_it(home: Home) -> None:
    add_rows(home, "S-c", "S-a", "S-b", "S-d")
    add_result(home, "S-a", "M-old")
    assert find_waiting(home, "M-new", limit=9) == ["S-c", "S-b", "S-d"]
    assert find_waiting(home, "M-new", limit=2) == ["S-c", "S-b"]
    assert count_waiting(home, None) == 3


@pytest.mark.databases
def test_what_failed_waits_again_with_another_model_or_mask_only(home: Home) -> None:
    add_rows(home, "S-a", "S-b")
    note_failed(home, "S-a", "M-1")
    assert find_waiting(home, "M-1", limit=1) == ["S-b"]
    assert (count_waiting(home, "M-1"), find_failed(home, "M-1")) == (1, {"S-a"})
    assert find_waiting(home, "M-2", limit=9) == ["S-a", "S-b"]
    (home.masks / "S-a.png").write_bytes(b"a mask")
    assert find_waiting(home, "M-1", limit=9) == ["S-a", "S-b"]
    note_failed(home, "S-a", "M-1")
    assert find_waiting(home, "M-1", limit=9) == ["S-b"]
    add_result(home, "S-a")  # by a person, with `histo-nb analyse`
    assert find_failed(home, "M-1") == set()


# ------------------------------------------------------------------------------ the door
def add_report(home: Home, slide_id: str, state: str, *, at: str = "2026-01-02") -> None:
    row = {"work_key": f"{slide_id}/{at}", "slide_id": slide_id, "stage": "report", "state": state}
    with home.catalog.writing("") as connection:
        connection.execute(WORK.insert(), {**row, "attempts": 1, "updated_at": at})


@pytest.mark.databases
def test_a_report_that_was_begun_and_not_finished_is_known(home: Home) -> None:
    names = ("S-a", "S-b", "S-c", "S-d", "S-e", "S-f")
    add_rows(home, *names)
    for name, model_id in zip(names, ("M-1", "M-1", "M-1", "M-1", "M-2"), strict=False):
        add_result(home, name, model_id)
    for name, state in zip(names, ("leased", "waiting", "done", "failed", "leased"), strict=False):
        add_report(home, name, state)
    add_report(home, "S-c", "leased", at="2026-01-01")  # by an earlier version
    assert find_unreported(home, "M-1") == ["S-a", "S-b"]


class FakeBench:
    """Notes what it is to analyse."""

    is_open = False

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def run(self, slide_ids: list[str], model_id: str) -> pd.DataFrame:
        self.asked.append(slide_ids)
        self.is_open = True
        return pd.DataFrame({"state": ["done"] * len(slide_ids)})


def test_a_fresh_bench_finishes_reports_that_were_broken_off(home: Home) -> None:
    model_id = analysed.copy_model(home).name
    add_rows(home, "S-a", "S-b")
    add_result(home, "S-b", model_id)
    add_report(home, "S-b", "leased")
    channel: Any = FakeChannel(home)
    bench: Any = FakeBench()
    with ThreadPoolExecutor(1) as pool:
        for _ in range(2):
            analysis.look(channel, bench, pool)
    assert bench.asked == [["S-b", "S-a"], ["S-a"]]


class FakeChannel:
    """Keeps what was said, and is to stop after that."""

    def __init__(self, home: Home) -> None:
        self.home, self.settings, self.stop = home, {"n_workers": 1}, threading.Event()
        self.said: list[str] = []

    def tell(self, doing: str, *, trouble: bool = False, **_: Any) -> None:
        if trouble:
            self.said.append(doing)
            self.stop.set()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (SpecError("n_workers=x"), "its settings cannot be used"),
        (EngineLostError("gone"), "the Dask scheduler does not answer"),
        (CatalogAwayError("gone"), "the catalogue does not answer"),
        (CatalogError("odd"), "the catalogue cannot be used"),
    ],
)
def test_analysis_waits_with_words_and_has_a_new_cohort_then(
    home: Home, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    analysed.copy_model(home)
    add_rows(home, "S-a")
    opened = []

    class Lost:
        def __init__(self, *_: object, **__: object) -> None:
            opened.append(self)
            self.is_closed = False

        def __enter__(self) -> "Lost":
            return self

        def __exit__(self, *_: object) -> None:
            self.is_closed = True

        def run(self, *_: object, **__: object) -> None:
            raise error

    monkeypatch.setattr(analysis, "Cohort", Lost)
    monkeypatch.setattr(analysis, "RETRY_S", 0.0)
    channel: Any = FakeChannel(home)
    analysis.work(channel)
    assert channel.said == [f"waiting: {words}"]
    bench = analysis.Bench(channel)
    for n in (2, 3):
        with pytest.raises(type(error)):
            bench.run(["S-a"], "M-1")
        assert len(opened) == n
    assert all(cohort.is_closed for cohort in opened)


def test_door_closes_above_the_limit_and_opens_below_four_fifths(home: Home) -> None:
    door = Door(home, ServiceSpec(max_waiting=5, min_free_gb=0))
    add_rows(home, *(f"S-{i}" for i in range(5)))
    assert door.look() is None
    add_rows(home, "S-5")
    assert "more than 5 slides" in (door.look() or "")
    add_result(home, "S-0")
    assert door.look(), "five wait: not yet"
    add_result(home, "S-1")
    assert door.look() is None
    assert door.look() is None
    said = [what for what in home.catalog.events().what if what.startswith("service")]
    assert said == ["service takes slides again", "service takes no slides"]


def test_door_closes_while_the_catalogue_is_away(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = Door(home, ServiceSpec(min_free_gb=0))
    with monkeypatch.context() as patch:
        patch.setenv("HISTO_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
        assert "cannot be found out" in (door.look() or "")
    assert door.look() is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 40 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_hot_folder_that_is_held_leaves_files_where_they_are(home: Home, drop: Path) -> None:
    drop_slides(drop, 2)
    held: list[str | None] = ["too many slides wait"]
    clock = [0.0]
    spec = HotFolderSpec(quiet_s=1)
    hot = HotFolder(drop, home, spec=spec, hold=lambda: held[0], now=lambda: clock[0])
    for _ in range(3):
        clock[0] += 2
        assert list(hot.poll()) == []
    assert set(hot.waiting().values()) == {"too many slides wait"}
    assert set(home.catalog.waiting().reason) == {"too many slides wait"}
    assert not list(home.staging.glob("*/*")) and len(list(drop.iterdir())) == 2
    held[0] = None
    assert len(list(hot.poll())) == 2


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A DICOM slide; its attributes name a patient."""
    return write_series(tmp_path_factory.mktemp("sent"), analysed.draw(99, (512, 512)))


def test_receiver_that_is_held_is_out_of_resources(home: Home, series: list[Path]) -> None:
    held = [True]
    with DicomReceiver(home, allowed=[TITLE], is_held=lambda: held[0]) as receiver:
        assert store(receiver.port, *series) == [FULL] * len(series)
        assert not list((home.root / "dicom").rglob("*.part"))
        assert not list((home.root / "dicom").rglob("*.dcm"))
        held[0] = False
        assert store(receiver.port, *series) == [STORED] * len(series)
        assert receiver.is_alive()
    assert not receiver.is_alive()


# ------------------------------------------------------------------------------ parts that end
def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def look_until(child: Child, condition: Callable[[], Any], *, hang_s: float = 30.0) -> None:
    until(lambda: child.look(None, hang_s=hang_s) or condition())


@pytest.fixture
def intake(home: Home, drop: Path) -> Iterator[Child]:
    child = Child("intake", plan_parts(ServiceSpec(watch=(drop,)), home)["intake"])
    yield child
    child.end()


def test_a_part_that_dies_at_once_is_started_with_growing_pauses(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_module, "FIRST_PAUSE_S", 0.01)
    child = Child("nonsense", {"kind": "nonsense", "home": str(home.root)})
    try:
        look_until(child, lambda: child.state()["restarts"] == 1)
        assert child.state()["state"] == "ended"
        look_until(child, lambda: child.state()["restarts"] == 5)
        assert child.state()["state"] == "failing again and again"
        assert child.pause_s() == pytest.approx(0.01 * 2**5)
        monkeypatch.setattr(child_module, "FIRST_PAUSE_S", 100.0)
        assert child.pause_s() == 60.0
    finally:
        child.end()


def test_a_part_that_hangs_is_started_again(intake: Child) -> None:
    look_until(intake, lambda: intake.facts)
    assert intake.process
    first = intake.process.pid
    os.kill(first, signal.SIGSTOP)
    look_until(intake, lambda: intake.process is None, hang_s=3.0)
    assert not psutil.pid_exists(first)
    look_until(intake, lambda: intake.state()["state"] == "running")
    assert intake.state()["restarts"] == 1


def test_a_part_that_has_just_ended_is_asked_to_stop_and_ended(intake: Child) -> None:
    look_until(intake, lambda: intake.facts)
    process = intake.process
    assert process
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    intake.ask_to_stop()
    assert process.returncode is None, "until it is waited for its number is its own"
    assert child_module.has_ended(process)
    intake.end()
    assert process.returncode == -signal.SIGKILL


def test_nobody_is_killed_by_a_number_that_is_free_again(
    intake: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_until(intake, lambda: intake.facts)
    process = intake.process
    assert process
    process.kill()
    os.waitpid(process.pid, 0)  # by somebody who knows nothing of it
    assert child_module.has_ended(process)
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("that number is another's by now"))
    intake.ask_to_stop()
    intake.end()


def test_a_part_that_runs_well_has_short_pauses_again(
    intake: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_until(intake, lambda: intake.facts)
    assert intake.process
    os.kill(intake.process.pid, signal.SIGKILL)
    look_until(intake, lambda: intake.pause_s() == 2.0)
    look_until(intake, lambda: intake.facts and intake.process)
    monkeypatch.setattr(child_module, "WELL_S", 0.0)
    look_until(intake, lambda: intake.pause_s() == 1.0)


class Harmless(Channel):
    """A part's side of the line in the test's own process."""

    def end_all(self) -> None:
        pass


def test_a_part_is_silent_when_its_work_does_not_get_on(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_module, "BEAT_S", 0.05)
    commands, tell = os.pipe()
    hear, facts = os.pipe()
    os.write(tell, b'{"kind": "intake", "home": "/h", "hold": "not yet", "n": 3}\n')
    channel = Harmless(commands, facts)
    assert (channel.kind, channel.settings, channel.hold) == ("intake", {"n": 3}, "not yet")
    channel.tell("watching", patience_s=1e6)
    with open(hear, "rb", buffering=0) as lines:  # noqa: PTH123 - a handle
        assert [lines.readline() for _ in range(3)] == [b'{"beat": {"doing": "watching"}}\n'] * 3
        channel.tell("watching", patience_s=0.0)
        while select.select([hear], [], [], 1.0)[0]:  # what is still under way
            lines.readline()
    os.write(tell, b'{"hold": null}\n')
    until(lambda: channel.hold is None)
    assert not channel.stop.is_set()
    os.close(tell)
    assert channel.stop.wait(30)


# ------------------------------------------------------------------------------ all of it
@pytest.fixture
def ready(home: Home) -> Home:
    """A home with a model in production."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HISTO_DATABASE_URL", raising=False)
        analysed.prepared()  # in a catalogue of its own
    analysed.copy_model(home)
    return home


def test_parts_killed_in_turn_come_back_and_each_slide_is_analysed_once(
    ready: Home, drop: Path, series: list[Path]
) -> None:
    options = ("--watch", drop, "--dicom", 0, "--dicom-allow", TITLE, "--port", 0, *QUIET)
    with Service(ready, *options) as service:
        service.wait_for(service.is_running)
        for number, name in enumerate(("intake", "dicom", "analysis", "pages")):
            drop_slides(drop, 2, first=2 * number)
            os.kill(service.pid_of(name), signal.SIGKILL)
            service.wait_for(lambda name=name: service.part(name).get("restarts") == 1)
            service.wait_for(service.is_running)
        service.wait_for(lambda: n_analysed(ready) == 8)
        status = read_status(ready)
        assert (status["waiting"], status["failed"], status["trouble"]) == (0, 0, [])
        assert status["analysed_today"] == 8
        service.stop()
        assert service.left() == []
    assert counts(ready) == dict.fromkeys(ready.catalog.slides().slide_id, 1)
    assert not list(ready.staging.glob("*/slide"))


def test_no_name_reaches_log_status_or_events(
    ready: Home, drop: Path, series: list[Path], tmp_path: Path
) -> None:
    (drop / "Mustermann bad.svs").write_bytes(b"no slide at all")
    cut = analysed.write_slide(tmp_path / "cut.svs", 5).read_bytes()
    (drop / "Mustermann cut.tif").write_bytes(cut[: len(cut) // 2])
    blank = np.full((640, 832, 3), 255, np.uint8)
    analysed.write_slide(drop / "Mustermann blank.svs", 0, image=blank)
    drop_slides(drop, 1)
    options = ("--watch", drop, "--dicom", 0, "--dicom-allow", TITLE, "--port", 0, *QUIET)
    with Service(ready, *options) as service:
        service.wait_for(service.is_running)
        assert set(store(service.port_of("dicom"), *series)) == {STORED}
        service.wait_for(lambda: n_analysed(ready) == 2 and read_status(ready)["failed"] == 1)
        os.kill(service.pid_of("dicom"), signal.SIGABRT)
        service.wait_for(lambda: service.part("dicom").get("restarts") == 1)
        status = read_status(ready)
        service.stop()
    assert "could not be analysed: 1" in str(status["trouble"])
    told = service.log() + str(status) + ready.catalog.events().to_string()
    told += ready.catalog.waiting().to_string() + str(list((ready.root / "service").iterdir()))
    told += (ready.root / "service" / "status.json").read_text()
    assert "filed S-" in told and "refused Q-" in told and "failed at" in told
    assert [name for name in NAMES if name in told.lower().replace(str(drop).lower(), "")] == []
    token = service.said.partition("token=")[2].split()[0]
    assert len(token) > 20
    assert token not in told and "token" not in told


def test_of_what_a_part_writes_to_stderr_no_name_is_kept(home: Home, tmp_path: Path) -> None:
    child = Child("intake", {"kind": "mustermann", "home": str(home.root)})  # stands in its error
    with logfile.logging_to(tmp_path):
        look_until(child, lambda: child.state()["restarts"] == 1)
        until(lambda: "ModuleNotFoundError" in (tmp_path / "service.log").read_text())
        child.end()
    said = (tmp_path / "service.log").read_text()
    assert "at service/part.py:" in said
    assert "mustermann" not in said


def test_log_is_rotated_and_long_lines_are_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logfile, "MAX_BYTES", 1000)
    with logfile.logging_to(tmp_path):
        for _ in range(1000):
            logfile.log.info("filed S-0123456789")
    assert len(list(tmp_path.iterdir())) == 1 + logfile.N_KEPT
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    long = b"x" * 100_000 + b"\n"
    assert max(map(len, child_module.read_lines(io.BytesIO(long + b"end\n")))) <= child_module.LINE


def test_a_second_service_is_told_who_runs(home: Home, drop: Path) -> None:
    with Service(home, "--watch", drop, "--no-pages", *QUIET) as service:
        service.wait_for(lambda: read_status(home)["state"] == "running")
        with Service(home, "--watch", drop, "--no-pages") as second:
            _, said = second.process.communicate(timeout=60)
        assert second.process.returncode == 1
        assert f"process {service.process.pid} " in said
        service.stop()
    assert read_status(home)["state"] == "not running"


def test_nothing_survives_a_supervisor_that_was_killed(ready: Home, drop: Path) -> None:
    drop_slides(drop, 3)
    options = ("--watch", drop, "--dicom", 0, "--dicom-allow", TITLE, "--port", 0, *QUIET)
    with Service(ready, *options) as service:
        service.wait_for(service.is_running)
        service.wait_for(lambda: n_analysed(ready) > 0)
        assert len(service.family()) >= 5
        service.process.kill()
        service.process.wait()
        assert service.left() == []
    assert read_status(ready)["state"] == "not running"
    with Service(ready, *options) as service:
        service.wait_for(service.is_running)
        service.wait_for(lambda: n_analysed(ready) == 3)
        service.stop()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(ready: Home, drop: Path, how: signal.Signals) -> None:
    with Service(ready, "--watch", drop, "--port", 0, *QUIET) as service:
        service.wait_for(service.is_running)
        drop_slides(drop, 2)
        service.wait_for(lambda: len(ready.catalog.slide_files()) == 2)
        assert service.stop(how=how) == {"served": str(ready.root), "status": 0}
        assert service.left() == []
    assert "Traceback" not in service.said


def test_a_second_signal_ends_it_at_once(home: Home, drop: Path) -> None:
    with Service(home, "--watch", drop, "--no-pages", *QUIET) as service:
        service.wait_for(service.is_running)
        os.kill(service.pid_of("intake"), signal.SIGSTOP)  # it would be waited for
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(3)
        service.stop()
        assert service.left() == []


def test_without_a_model_it_waits_and_a_new_one_is_used_from_then_on(
    home: Home, drop: Path
) -> None:
    drop_slides(drop, 1)
    with Service(home, "--watch", drop, "--no-pages", *QUIET) as service:
        service.wait_for(lambda: read_status(home)["waiting"] == 1)
        service.wait_for(lambda: "no model" in service.part("analysis").get("doing", ""))
        assert "no model is in production" in str(read_status(home)["trouble"])
        first = analysed.copy_model(home)
        service.wait_for(lambda: n_analysed(home) == 1)
        home_, dataset = analysed.learnt()
        second = home_.models / analysed.put_learnt(home_, dataset, seed=1)
        from histo_nb.training.prepare import prepare_model  # noqa: PLC0415

        prepare_model(home_, second.name)
        shutil.copytree(second, home.models / second.name)
        promote(home, second.name, reason="test")
        drop_slides(drop, 1, first=1)
        service.wait_for(lambda: n_analysed(home) == 2)
        service.stop()
    assert home.catalog.results().model_id.value_counts().to_dict() == {
        first.name: 1,
        second.name: 1,
    }


def test_too_many_waiting_slides_stay_outside_until_they_are_analysed(
    home: Home, drop: Path, series: list[Path]
) -> None:
    add_rows(home, "S-a", "S-b", "S-c")  # no model: they wait
    drop_slides(drop, 1)
    options = ("--watch", drop, "--dicom", 0, "--dicom-allow", TITLE, "--no-pages", *QUIET)
    with Service(home, *options, "--max-waiting", 2) as service:
        service.wait_for(lambda: "taking nothing" in service.part("intake").get("doing", ""))
        service.wait_for(lambda: "refusing all" in service.part("dicom").get("doing", ""))
        port = service.port_of("dicom")
        assert set(store(port, *series)) == {FULL}
        assert "more than 2 slides" in str(read_status(home)["trouble"])
        service.wait_for(lambda: not home.catalog.waiting().empty)
        assert len(home.catalog.slide_files()) == 0
        for name in ("S-a", "S-b"):
            add_result(home, name)
        service.wait_for(lambda: len(home.catalog.slide_files()) == 1)
        service.wait_for(lambda: "listening" in service.part("dicom").get("doing", ""))
        assert read_status(home)["held"] is None
        assert set(store(port, *series)) == {STORED}
        service.stop()
    said = home.catalog.events()
    assert (said.what == "service takes no slides").sum() == 1


def test_a_full_disk_closes_the_door_and_space_opens_it(
    small_disk: Path, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISTO_DATABASE_URL", raising=False)
    home = open_home(small_disk / "home")
    analysed.copy_model(home)
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - 10_000_000))
    drop_slides(drop, 2)
    options = ("--watch", drop, "--no-pages", "--min-free-gb", 0.015, *QUIET)
    with Service(home, *options) as service:
        service.wait_for(lambda: "taking nothing" in service.part("intake").get("doing", ""))
        assert "less than 0.015 GB" in str(read_status(home)["trouble"])
        assert len(home.catalog.slide_files()) == 0
        filler.unlink()
        service.wait_for(lambda: n_analysed(home) == 2)
        assert read_status(home)["trouble"] == []
        service.stop()
    home.catalog.engine.dispose()


def test_service_goes_on_where_not_a_byte_is_left(
    small_disk: Path, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HISTO_DATABASE_URL", raising=False)
    home = open_home(small_disk / "home")
    analysed.copy_model(home)
    with Service(home, "--watch", drop, "--no-pages", "--min-free-gb", 0, *QUIET) as service:
        service.wait_for(service.is_running)
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * shutil.disk_usage(small_disk).free)
        drop_slides(drop, 2)
        service.wait_for(lambda: set(home.catalog.waiting().reason) or "no space" in service.log())
        assert not list(home.slides.iterdir())
        filler.unlink()
        service.wait_for(lambda: n_analysed(home) == 2)
        service.wait_for(lambda: read_status(home)["trouble"] == [])
        service.stop()
    assert "Logging error" not in service.said and "Traceback" not in service.said
    assert counts(home) == dict.fromkeys(home.catalog.slides().slide_id, 1)
    home.catalog.engine.dispose()


# ------------------------------------------------------------------------------ systemd
@pytest.mark.parametrize("is_abstract", [False, True])
def test_systemd_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_abstract: bool
) -> None:
    name = f"@histo-{os.getpid()}" if is_abstract else str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0", 1) if is_abstract else name)
        line.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        notify("READY=1", "STATUS=all well")
        assert line.recv(200) == b"READY=1\nSTATUS=all well"
    notify("READY=1")  # nobody listens any more
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_service_tells_systemd_when_it_is_ready_lives_and_stops(
    home: Home, drop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(str(tmp_path / "s"))
        line.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "s"))
        said: list[str] = []

        def hear(word: str) -> bool:
            while True:
                try:
                    said.extend(line.recv(4096).decode().splitlines())
                except BlockingIOError:
                    return word in said

        with Service(home, "--watch", drop, "--no-pages", *QUIET) as service:
            service.wait_for(lambda: hear("READY=1"))
            service.wait_for(lambda: hear("WATCHDOG=1"))
            service.wait_for(lambda: hear("STATUS=2 of 2 parts run"))
            assert "STOPPING=1" not in said
            service.stop()
        assert hear("STOPPING=1")


def test_unit_is_what_systemd_understands(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing")
    text = UNIT.read_text()
    (start,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    program, *options = start.removeprefix("ExecStart=").split()
    assert Path(program).name == "histo-nb"
    ours = Path(sys.executable).with_name("histo-nb")
    unit = tmp_path / "histo-nb.service"
    unit.write_text(text.replace(program, str(ours)))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (checked.returncode, checked.stderr) == (0, "")
    known = {name for parameter in main.commands["serve"].params for name in parameter.opts}
    asked = {word for word in options if word.startswith("--")} - {"serve"}
    assert asked <= known
