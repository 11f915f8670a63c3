"""The C-STORE receiver: what it acknowledges it has, what is not whole nobody sees."""

import random
import resource
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from counts import count
from dicom_peers import TITLE, associate, store
from dicoms import write_instance, write_series
from pydicom import dcmread

from histo_nb.errors import HistoError, SpecError
from histo_nb.scanning.dicom.keeper import Keeper
from histo_nb.scanning.dicom.receiver import DicomReceiver
from histo_nb.scanning.dicom.series import read_instance
from histo_nb.scanning.dicom.spool import DUPLICATE, FULL, MISMATCH, STORED, Incoming, Spool
from histo_nb.scanning.dicom.walk import DicomFile
from histo_nb.scanning.structure.bytefile import ByteFile

PEERS = Path(__file__).parents[1] / "dicom_peers.py"
QUICK = {"quiet_s": 0.3, "poll_s": 0.05, "allowed": [TITLE]}
needs_storescu = pytest.mark.skipif(
    not shutil.which("storescu"), reason="storescu is missing: install dcmtk"
)


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> list[Path]:
    """A slide of noise: its level 0 takes long enough to be cut off half way."""
    image = np.random.default_rng(3).integers(1, 255, (1536, 1536, 3), np.uint8)
    return write_series(tmp_path_factory.mktemp("sent"), image)


def data_set(path: Path) -> bytes:
    """What a sender's file and ours have in common: all but the first group."""
    with ByteFile(path) as file:
        start = DicomFile(file).start
    return path.read_bytes()[start:]


def wait_for(condition, *, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def spooled(home) -> list[Path]:
    return sorted((home.root / "dicom").glob("[0-9]*/*.dcm"))


def temporaries(home) -> list[Path]:
    return list((home.root / "dicom").rglob("*.part"))


def marks(home) -> list[Path]:
    return list((home.root / "dicom").rglob(".open-*"))


def n_slides(home) -> int:
    return len(home.catalog.slide_files().slide_id.unique())


# ------------------------------------------------------------------------------- what arrives
@needs_storescu
def test_series_sent_by_storescu_is_filed_byte_by_byte_and_once(home, series):
    arrivals = []
    with DicomReceiver(home, on_arrival=arrivals.append, **QUICK) as receiver:
        command = ["storescu", "-xy", "-R", "-aet", TITLE, "127.0.0.1", str(receiver.port)]
        for _ in range(2):
            n = len(arrivals)
            subprocess.run([*command, *map(str, series)], check=True)
            wait_for(lambda n=n: len(arrivals) > n)
    assert [arrival.new for arrival in arrivals] == [True, False]
    row = home.catalog.slide(arrivals[0].slide_id)
    assert (row["source"], row["slide_mpp"], row["width"], row["n_levels"]) == (
        "dicom",
        0.5,
        1536,
        2,
    )
    filed = sorted(Path(row["slide_path"]).parent.iterdir())
    assert {data_set(path) for path in filed} == {data_set(path) for path in series}
    assert not spooled(home) and not temporaries(home)


def test_series_waits_for_its_full_resolution_without_being_seen(home, series):
    arrivals = []
    with DicomReceiver(home, on_arrival=arrivals.append, **QUICK) as receiver:
        assert store(receiver.port, *series[1:]) == [STORED, STORED]
        wait_for(lambda: any("full-resolution" in reason for _, reason in receiver.waiting()))
        assert n_slides(home) == 0 and not arrivals
        assert "1.2." not in str(receiver.waiting())
        wait_for(lambda: not home.catalog.waiting().empty)
        assert list(home.catalog.waiting().source) == ["dicom"]
        assert store(receiver.port, series[0]) == [STORED]
        wait_for(lambda: arrivals)
        wait_for(lambda: home.catalog.waiting().empty)
    assert n_slides(home) == 1 and not spooled(home)


def test_series_left_by_an_earlier_receiver_is_filed(home, series):
    with DicomReceiver(home, **QUICK | {"quiet_s": 1e6}) as receiver:
        store(receiver.port, *series)
        wait_for(lambda: not marks(home))
    assert len(spooled(home)) == 3
    arrivals = []
    with DicomReceiver(home, on_arrival=arrivals.append, **QUICK):
        wait_for(lambda: arrivals)
    assert arrivals[0].slide_id and not spooled(home)


def test_series_of_a_sender_that_broke_off_waits_for_the_rest(home, series):
    with DicomReceiver(home, **QUICK) as receiver:
        association = associate(receiver.port)
        assert association.send_c_store(dcmread(series[0])).Status == STORED
        association.abort()
        wait_for(lambda: any("broke off" in reason for _, reason in receiver.waiting()))
        assert n_slides(home) == 0
        store(receiver.port, *series)
        wait_for(lambda: n_slides(home) == 1)
    (slide,) = home.catalog.slides().to_dict("records")
    assert slide["n_levels"] == 2


def test_series_of_a_sender_that_stays_silent_is_filed(home, series):
    with DicomReceiver(home, **QUICK | {"timeout_s": 1}) as receiver:
        association = associate(receiver.port)
        association.send_c_store(dcmread(series[0]))
        wait_for(lambda: n_slides(home) == 1)
        assert not association.is_established


def test_sender_that_goes_on_to_another_slide_has_sent_the_first(home, series, tmp_path):
    image = np.random.default_rng(5).integers(1, 255, (600, 600, 3), np.uint8)
    other = write_instance(tmp_path / "other.dcm", image)
    with DicomReceiver(home, **QUICK) as receiver:
        association = associate(receiver.port)
        for path in (*series, other):
            association.send_c_store(dcmread(path))
        wait_for(lambda: n_slides(home) == 1 and len(spooled(home)) == 1)
        association.release()
        wait_for(lambda: n_slides(home) == 2)


def test_bad_series_goes_to_quarantine(home, tmp_path):
    image = np.random.default_rng(4).integers(1, 255, (512, 512, 3), np.uint8)
    path = write_instance(
        tmp_path / "a.dcm", image, Rows=128, Columns=128, DimensionOrganizationType="TILED_SPARSE"
    )
    arrivals = []
    with DicomReceiver(home, on_arrival=arrivals.append, **QUICK) as receiver:
        assert store(receiver.port, path) == [STORED]
        wait_for(lambda: arrivals)
    assert arrivals[0].quarantine_id and not spooled(home)


def test_same_instance_again_is_acknowledged_and_another_of_its_name_refused(
    home, series, tmp_path
):
    other = tmp_path / "other.dcm"
    dataset = dcmread(series[1])
    dataset.PatientComments = "changed"
    dataset.save_as(other)
    with DicomReceiver(home, **QUICK | {"quiet_s": 1e6}) as receiver:
        assert store(receiver.port, series[1], series[1], other) == [STORED, STORED, DUPLICATE]
    (kept,) = spooled(home)
    assert data_set(kept) == data_set(series[1])


def test_instance_sent_again_after_its_slide_was_filed_does_not_wait(home, series):
    with DicomReceiver(home, **QUICK) as receiver:
        store(receiver.port, *series)
        wait_for(lambda: n_slides(home) == 1 and not spooled(home))
        assert store(receiver.port, series[2]) == [STORED]
        wait_for(lambda: not spooled(home) and not receiver.waiting())
    assert n_slides(home) == 1


# ------------------------------------------------------------------------------ what is refused
EVIL = ["../../evil", "/tmp/evil", "..", ".", "1.2/../../../3"]
UIDS = [(keyword, uid) for keyword in ("SOPInstanceUID", "SeriesInstanceUID") for uid in EVIL]


@pytest.mark.parametrize(("keyword", "uid"), [*UIDS, ("SeriesInstanceUID", "1." * 40 + "1")])
@pytest.mark.filterwarnings("ignore:.*Invalid value for VR UI")
@pytest.mark.filterwarnings("ignore:.*exceeds the maximum length")
def test_uids_that_are_paths_write_nothing_anywhere(home, series, tmp_path, keyword, uid):
    dataset = dcmread(series[1])
    setattr(dataset, keyword, uid)
    with DicomReceiver(home, **QUICK) as receiver:
        before = set(tmp_path.rglob("*"))
        association = associate(receiver.port)
        status = association.send_c_store(dataset)
        association.release()
        assert status.get("Status", FULL) != STORED
        wait_for(lambda: not temporaries(home))
        assert {p for p in set(tmp_path.rglob("*")) - before if "catalog" not in p.name} == set()
    assert not Path("/tmp/evil").exists() and not Path("/tmp/evil.dcm").exists()


def test_instance_under_anothers_name_is_refused(tmp_path, series):
    spool = _spool(tmp_path)
    incoming = _arriving(spool, series[1])
    assert spool.keep(incoming.path, "1.2.3") == MISMATCH
    assert not list(tmp_path.rglob("*.dcm"))


def test_nothing_is_taken_without_space(home, series):
    with DicomReceiver(home, **QUICK | {"min_free": 1 << 60}) as receiver:
        assert store(receiver.port, *series[1:]) == [FULL, FULL]
    assert not spooled(home) and not temporaries(home)


def test_disk_that_fills_up_half_way_ends_nothing(tmp_path):
    spool, limits = _spool(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    incoming = spool.open_incoming()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, limits[1]))
    try:
        for _ in range(100):
            incoming.write(bytes(1 << 14))
        assert spool.keep(incoming.path, "1.2") == FULL
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert incoming.path.stat().st_size == 0


def test_titles_that_are_not_listed_are_refused(home):
    with DicomReceiver(home, **QUICK) as receiver:
        assert not associate(receiver.port, title="STRANGER").is_established
        association = associate(receiver.port)
        assert association.send_c_echo().Status == 0
        association.release()


def test_deflated_data_are_not_even_negotiated(home):
    with DicomReceiver(home, **QUICK) as receiver:
        association = associate(receiver.port, syntax="1.2.840.10008.1.2.1.99")
        accepted = [context.abstract_syntax for context in association.accepted_contexts]
        association.release()
    assert accepted == ["1.2.840.10008.1.1"]


def test_one_receiver_a_home_and_a_process(home):
    with DicomReceiver(home, **QUICK), pytest.raises(HistoError, match="this process"):
        DicomReceiver(home, **QUICK).start()
    child = _start("receive", home.root, 1)
    try:
        assert child.stdout.readline()
        with pytest.raises(HistoError, match="another process"):
            DicomReceiver(home, **QUICK).start()
    finally:
        child.communicate("")
    with DicomReceiver(home, **QUICK):
        pass


@pytest.mark.parametrize(
    "settings",
    [{"port": 70_000}, {"aet": ""}, {"aet": "A" * 17}, {"allowed": ["Ü"]}, {"quiet_s": -1}],
)
def test_wrong_settings_are_named(home, settings):
    with pytest.raises(SpecError):
        DicomReceiver(home, **settings)


def test_taken_port_is_named(home):
    with DicomReceiver(home, **QUICK) as receiver:
        port = receiver.port
    with socket.create_server(("127.0.0.1", port)), pytest.raises(SpecError, match="--port"):
        DicomReceiver(home, **QUICK | {"port": port}).start()


# ------------------------------------------------------------------------------------ the keeper
def _spool(folder: Path) -> Spool:
    (folder / "incoming").mkdir()
    return Spool(folder, folder / "incoming", min_free=0)


def _arriving(spool: Spool, path: Path) -> Incoming:
    incoming = spool.open_incoming()
    incoming.write(path.read_bytes())
    incoming.settle()
    return incoming


def test_series_is_not_taken_while_one_of_its_instances_arrives(home, series, tmp_path):
    spool, clock = _spool(tmp_path), [0.0]
    arrivals = []
    keeper = Keeper(
        spool, home, quiet_s=10, stale_s=1e6, now=lambda: clock[0], on_arrival=arrivals.append
    )
    for path in (series[0], series[2]):
        spool.keep(_arriving(spool, path).path, read_instance(path).sop_uid)
    spool.senders.finish(threading.current_thread())
    late = _arriving(spool, series[1])
    for clock[0] in (0.0, 11.0, 30.0):
        keeper.look()
    assert not arrivals and [reason for _, reason in keeper.waiting()] == ["it is still arriving"]
    spool.keep(late.path, read_instance(series[1]).sop_uid)
    spool.senders.finish(threading.current_thread())
    for clock[0] in (31.0, 42.0):
        keeper.look()
    assert home.catalog.slide(arrivals[0].slide_id)["n_levels"] == 2


def test_series_of_a_lost_sender_is_taken_as_it_is_after_an_hour(home, series, tmp_path):
    spool, clock = _spool(tmp_path), [0.0]
    keeper = Keeper(spool, home, quiet_s=10, stale_s=3600, now=lambda: clock[0])
    incoming = _arriving(spool, series[0])
    incoming.writer = threading.Thread()  # one that is not alive
    spool.keep(incoming.path, read_instance(series[0]).sop_uid)
    for clock[0] in (0.0, 20.0, 3500.0):
        keeper.look()
        assert n_slides(home) == 0
    clock[0] = 3700.0
    keeper.look()
    assert n_slides(home) == 1 and not keeper.waiting() and not list(tmp_path.rglob(".open-*"))


def test_series_that_never_completes_is_reported_once(home, series, tmp_path):
    spool, clock = _spool(tmp_path), [0.0]
    keeper = Keeper(spool, home, quiet_s=10, stale_s=3600, now=lambda: clock[0])
    spool.keep(_arriving(spool, series[1]).path, read_instance(series[1]).sop_uid)
    spool.senders.finish(threading.current_thread())
    for clock[0] in (0.0, 20.0, 3700.0, 8000.0):
        keeper.look()
    events = home.catalog.events()
    (event,) = events[events.what == "series incomplete"].to_dict("records")
    assert "full-resolution" in event["detail"] and "1.2." not in event["subject"] + event["detail"]


# ---------------------------------------------------------------------------- kills and crowds
def _start(*words: object) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(PEERS), *map(str, words)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@contextmanager
def _receiving(home, quiet_s: float):
    child = _start("receive", home.root, quiet_s)
    try:
        yield child, int(child.stdout.readline())
    finally:
        child.kill()
        child.communicate()


def _check_kept(home, acknowledged: set[str], series: list[Path]) -> None:
    """What was acknowledged is there, and what is there is whole."""
    true = {read_instance(path).sop_uid: data_set(path) for path in series}
    found = {}
    for path in [*spooled(home), *home.slides.rglob("*.dcm")]:
        found[read_instance(path).sop_uid] = data_set(path)
    assert acknowledged <= set(found), "an acknowledged instance is missing"
    assert all(true[uid] == content for uid, content in found.items()), "a partial instance"
    assert n_slides(home) in (0, 1)
    for folder in home.slides.iterdir():
        assert len(list(folder.iterdir())) == len(series), "a partial series"


def test_killed_senders_leave_nothing_half(home, series):
    rng, acknowledged = random.Random(7), set()
    with DicomReceiver(home, **QUICK) as receiver:
        for _ in range(count(quick=3, full=30)):
            child = _start("send", receiver.port, *series)
            assert child.stdout.readline() == "connected\n"
            time.sleep(rng.uniform(0, 0.12))
            child.kill()
            acknowledged |= set(child.communicate()[0].split())
            wait_for(lambda: not temporaries(home))
            _check_kept(home, acknowledged, series)
        child = _start("send", receiver.port, *series)
        assert len(child.communicate()[0].split()) == 4
        wait_for(lambda: n_slides(home) == 1 and not spooled(home))
    _check_kept(home, acknowledged, series)


def test_killed_receivers_lose_nothing_they_acknowledged(home, series):
    rng, acknowledged = random.Random(8), set()
    for number in range(count(quick=3, full=30)):
        with _receiving(home, 0.2) as (child, port):
            sender = _start("send", port, *series)
            assert sender.stdout.readline() == "connected\n"
            # by turns within the transfer, and within the intake that follows it
            time.sleep(rng.uniform(0, 0.12 if number % 2 else 2.5))
            child.kill()
            child.wait()
            acknowledged |= set(sender.communicate()[0].split())
        _check_kept(home, acknowledged, series)
    with _receiving(home, 0.2) as (_, port):
        assert len(_start("send", port, *series).communicate()[0].split()) == 4
        wait_for(lambda: n_slides(home) == 1 and not spooled(home))
        assert not temporaries(home)
    _check_kept(home, acknowledged, series)


def test_many_associations_at_once_are_all_accepted(home):
    n = count(quick=40, full=200)
    everyone_is_in = threading.Barrier(n, timeout=120)

    def talk(_: int) -> bool:
        association = associate(receiver.port)
        association.dul._run_loop_delay = 0.1  # 200 busy senders in one process starve the receiver
        association.network_timeout = None
        everyone_is_in.wait()
        answered = association.is_established and association.send_c_echo().Status == 0
        association.release()
        return answered

    patient = QUICK | {"timeout_s": 300}  # the first wait for the last
    with DicomReceiver(home, **patient) as receiver, ThreadPoolExecutor(n) as pool:
        assert all(pool.map(talk, range(n)))
