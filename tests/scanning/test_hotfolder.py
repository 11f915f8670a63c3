"""The hot folder: nothing taken too early, nothing missed, nothing twice."""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import writers
from counts import count
from glasses import PlaneGlass, waves

from histo_nb.errors import SpecError
from histo_nb.files import hash_file
from histo_nb.home import open_home
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.hotfolder import HotFolder, HotFolderSpec, watch_folder
from histo_nb.scanning.intake import Arrival, IntakeSpec, receive
from histo_nb.scanning.virtual.scanner import write_scan

QUIET_S = count(quick=1, full=4)
NOISE = 3.0  # s, beside the quiet time, in which a whole slide is filed


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.s = 0.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def drop(tmp_path) -> Path:
    folder = tmp_path / "drop"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    """Different small slides, outside of any hot folder."""
    folder = tmp_path_factory.mktemp("scans")
    return [
        write_scan(PlaneGlass(waves(400 + 8 * i, 400)), folder / f"{i}.svs", spec=ScanSpec())
        for i in range(len(writers.KINDS))
    ]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hot(drop, home, clock) -> HotFolder:
    return HotFolder(drop, home, spec=HotFolderSpec(quiet_s=10, stale_s=100), now=clock)


def look(hot: HotFolder, clock: Clock, *, later_s: float = 0.0) -> list[Arrival]:
    clock.s += later_s
    return list(hot.poll())


def test_a_slide_is_taken_after_its_quiet_time_and_never_again(hot, clock, drop, scans, home):
    shutil.copy(scans[0], drop / "a.svs")
    assert look(hot, clock) == []
    assert look(hot, clock, later_s=9) == []
    (arrival,) = look(hot, clock, later_s=2)
    row = home.catalog.slide(arrival.slide_id)
    assert (row["sha256"], row["source"]) == (hash_file(scans[0]), "hot folder")
    assert hash_file(drop / "a.svs") == row["sha256"], "the original is left as it was"
    assert look(hot, clock, later_s=100) == []
    again = HotFolder(drop, home, spec=hot.spec, now=clock)
    assert look(again, clock) == look(again, clock, later_s=100) == []
    assert again.waiting() == {}


def test_a_slide_that_still_changes_starts_its_quiet_time_anew(hot, clock, drop, scans):
    path = drop / "a.svs"
    shutil.copy(scans[0], path)
    look(hot, clock)
    for _ in range(4):
        os.utime(path, (clock.s, clock.s))
        assert look(hot, clock, later_s=8) == []
    assert len(look(hot, clock, later_s=11)) == 1


def test_half_a_slide_waits_however_quiet_it_is_and_is_reported_once(hot, clock, drop, scans, home):
    content = scans[0].read_bytes()
    (drop / "Maria.svs").write_bytes(content[: len(content) // 2])
    for _ in range(12):
        assert look(hot, clock, later_s=11) == []
    events = home.catalog.events()
    assert events.what.tolist() == ["file incomplete"]
    assert "Maria" not in events.to_string() + home.catalog.waiting().to_string()
    assert home.catalog.waiting().reason.tolist() == ["it is not whole yet"]
    (drop / "Maria.svs").write_bytes(content)
    look(hot, clock)
    assert len(look(hot, clock, later_s=11)) == 1
    assert home.catalog.waiting().empty


def test_a_file_that_is_no_slide_goes_to_quarantine_and_strangers_stay(hot, clock, drop, home):
    (drop / "a.svs").write_bytes(b"<html>not found</html>" * 100)
    for name in ("Thumbs.db", "readme.txt", ".hidden.svs", "~a.svs", "b.svs.part", "c.tmp"):
        (drop / name).write_bytes(b"something")
    look(hot, clock)
    (arrival,) = look(hot, clock, later_s=11)
    assert arrival.quarantine_id
    assert look(hot, clock, later_s=11) == []
    assert len(home.catalog.refusals()) == 1


@pytest.mark.parametrize("name", ["a.svs.sha256", "a.sha256", "a.svs.md5"])
def test_a_checksum_decides(hot, clock, drop, scans, name):
    content = scans[0].read_bytes()
    digest = hashlib.new("md5" if name.endswith("md5") else "sha256", content).hexdigest()
    (drop / "a.svs").write_bytes(content[:-1])
    (drop / name).write_text(f"{digest} *a.svs\n")
    look(hot, clock)
    assert look(hot, clock, later_s=100) == []
    (drop / "a.svs").write_bytes(content)
    assert len(look(hot, clock, later_s=1)) == 1, "no quiet time is needed"


def test_a_wrong_checksum_keeps_a_whole_slide_out_until_it_is_put_right(hot, clock, drop, scans):
    shutil.copy(scans[0], drop / "a.svs")
    (drop / "a.svs.sha256").write_text("0" * 64)
    for _ in range(3):
        assert look(hot, clock, later_s=50) == []
    (drop / "a.svs.sha256").write_text(hash_file(scans[0]))
    assert len(look(hot, clock)) == 1


@pytest.mark.parametrize(
    "name",
    [
        b"M\xfcller.svs",
        b"two\nlines.svs",
        "\u202egnp.svs".encode(),
        "سلايد.svs".encode(),
        b"x" * 251 + b".svs",
        b"'; DROP TABLE slides; --.svs",
    ],
)
def test_odd_names_do_not_stop_it(hot, clock, drop, scans, name):
    target = os.path.join(os.fsencode(drop), name)  # noqa: PTH118 - bytes
    shutil.copy(os.fsencode(scans[0]), target)
    shutil.copy(scans[1], drop / "z.svs")
    look(hot, clock)
    arrivals = look(hot, clock, later_s=11)
    assert len({a.slide_id for a in arrivals} - {None}) == 2
    assert look(hot, clock, later_s=11) == []


def test_slides_of_several_files_wait_for_all_of_them(hot, clock, drop):
    main, folder = drop / "a.mrxs", drop / "a"
    main.write_bytes(b"\xff\xd8 overview \xff\xd9")
    look(hot, clock)
    assert look(hot, clock, later_s=50) == []
    assert set(hot.waiting().values()) == {"some of its files are not there yet"}
    folder.mkdir()
    (folder / "Slidedat.ini").write_text("[DATAFILE]\nFILE_0 = Data0.dat\nINDEXFILE = Index.dat\n")
    (folder / "Data0.dat").write_bytes(b"1" * 50)
    assert look(hot, clock, later_s=50) == []
    (folder / "Index.dat").write_bytes(b"2" * 50)
    look(hot, clock)
    assert look(hot, clock, later_s=8) == []
    (folder / "Data0.dat").write_bytes(b"1" * 60)
    assert look(hot, clock, later_s=8) == [], "a companion changed"
    assert set(hot.waiting().values()) == {"it is still being written"}
    look(hot, clock, later_s=11)
    assert set(hot.waiting().values()) == {"it is not whole yet"}, "a stub was looked into"


def test_a_folder_that_goes_away_is_told_once_and_goes_on_when_it_is_back(
    hot, clock, drop, scans, home
):
    aside = drop.with_name("aside")
    drop.rename(aside)
    for _ in range(3):
        assert look(hot, clock, later_s=1) == []
    assert home.catalog.events().what.tolist() == ["hot folder in trouble"]
    aside.rename(drop)
    shutil.copy(scans[0], drop / "a.svs")
    look(hot, clock)
    assert len(look(hot, clock, later_s=11)) == 1
    assert "hot folder goes on" in set(home.catalog.events().what)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_waits(hot, clock, drop, scans):
    shutil.copy(scans[0], drop / "a.svs")
    (drop / "a.svs").chmod(0)
    look(hot, clock)
    assert look(hot, clock, later_s=11) == []
    (drop / "a.svs").chmod(0o600)
    assert len(look(hot, clock)) == 1


@pytest.mark.parametrize("wrong", [{"quiet_s": -1}, {"poll_s": 0}, {"stale_s": 0}])
def test_what_cannot_be_waited_for_is_refused(wrong):
    with pytest.raises(SpecError):
        HotFolderSpec(**wrong)


def test_a_full_disk_stops_it_and_space_lets_it_go_on(tmp_path, drop, clock, scans):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no small disk can be mounted here")
    try:
        home = open_home(disk / "home")
        hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=10), now=clock)
        for i, scan in enumerate(scans):
            shutil.copy(scan, drop / f"{i}.svs")
        receive(scans[0], home)
        filler = disk / "filler"
        free = shutil.disk_usage(disk).free
        filler.write_bytes(b"x" * (free - 3 * scans[0].stat().st_size))
        look(hot, clock)
        taken = look(hot, clock, later_s=11)
        assert len(taken) < len(scans) - 1
        assert {hash_file(p) for p in home.slides.iterdir()} == set(home.catalog.slides().sha256)
        assert "there is no space left" in set(hot.waiting().values())
        told = home.catalog.events()
        assert (told.what == "hot folder in trouble").sum() == 1
        filler.unlink()
        look(hot, clock, later_s=1)
        assert len(home.catalog.slides()) == len(scans)
        assert {hash_file(p) for p in home.slides.iterdir()} == {hash_file(p) for p in scans}
        home.catalog.engine.dispose()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def without_events(folder: Path) -> Iterator[Path]:
    """Mount a folder through FUSE, where no event of the other side arrives."""
    mounted = folder.with_name("mounted")
    mounted.mkdir()
    try:
        subprocess.run(["bindfs", str(folder), str(mounted)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no FUSE folder can be mounted here (bindfs)")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


@pytest.fixture(params=["local", "without events"])
def seen_as(request, drop) -> Iterator[Path]:
    """The drop folder, as the service sees it."""
    if request.param == "local":
        yield drop
    else:
        yield from without_events(drop)


def test_nine_writers_are_taken_when_they_are_done_and_not_before(home, drop, seen_as, scans):
    arrived: dict[str, float] = {}
    stop = threading.Event()
    spec = HotFolderSpec(quiet_s=QUIET_S, poll_s=0.25, slide=IntakeSpec(source="hot folder"))

    def note(arrival: Arrival) -> None:
        arrived[home.catalog.slide(arrival.slide_id)["sha256"]] = time.monotonic()

    watcher = threading.Thread(
        target=watch_folder, args=(seen_as, home),
        kwargs={"spec": spec, "stop": stop, "on_arrival": note},
    )  # fmt: skip
    watcher.start()
    whole: dict[str, float] = {}
    try:
        running = {}
        for kind, scan in zip(writers.KINDS, scans, strict=True):
            target = drop / f"{kind.replace(' ', '_')}.svs"
            command = [sys.executable, writers.__file__, kind, str(scan), str(target), str(QUIET_S)]
            running[hash_file(scan)] = subprocess.Popen(command, stdout=subprocess.PIPE)

        def wait_for(sha256: str, child: "subprocess.Popen[bytes]") -> None:
            assert child.stdout
            if child.stdout.readline():
                whole[sha256] = time.monotonic()
            child.wait()

        threads = [threading.Thread(target=wait_for, args=item) for item in running.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(QUIET_S + NOISE)
        end = time.monotonic() + 60  # on a busy machine; how long it took is not asserted
        while len(arrived) < len(whole) and time.monotonic() < end:
            time.sleep(0.2)
        time.sleep(QUIET_S)
        descriptors = [os.path.realpath(d) for d in Path("/proc/self/fd").iterdir()]
    finally:
        stop.set()
        watcher.join()
    late = {sha256: arrived[sha256] - whole[sha256] for sha256 in whole}
    assert len(whole) == len(writers.KINDS) - 2, "two are killed"
    assert set(arrived) == set(whole), "none too early, none missed"
    assert all(seconds > -0.5 for seconds in late.values()), late
    assert not [d for d in descriptors if "inotify" in d]
    assert {hash_file(p) for p in home.slides.iterdir()} == set(whole)
    assert home.catalog.waiting().empty


def test_many_slides_dropped_at_once_are_all_filed(home, drop, clock):
    n_slides = count(quick=8, full=100)
    for i in range(n_slides):
        write_scan(PlaneGlass(waves(300 + i, 300)), drop / f"{i}.svs", spec=ScanSpec())
    hot = HotFolder(drop, home, spec=HotFolderSpec(quiet_s=10), now=clock)
    look(hot, clock)
    assert len(look(hot, clock, later_s=11)) == n_slides
    assert set(home.catalog.slides().sha256) == {hash_file(p) for p in drop.iterdir()}
    assert {hash_file(p) for p in home.slides.iterdir()} == set(home.catalog.slides().sha256)
    assert home.catalog.waiting().empty
