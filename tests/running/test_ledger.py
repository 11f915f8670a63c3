"""The ledger of cohorts: leases, tries, guarded commits; on every database."""

import subprocess
import sys
import threading
import time

import pytest

from histo_nb.home import Home
from histo_nb.running.cohort import ledger as ledger_module
from histo_nb.running.cohort.ledger import LeaseLostError, Ledger, Work, who

pytestmark = pytest.mark.databases

SLIDE = {"slide_id": "S-1", "patient_id": "P", "slide_path": "/s.svs", "sha256": "0" * 64,
         "n_bytes": 1, "width": 1, "height": 1, "n_levels": 1, "slide_mpp": 0.5,
         "mpp_source": "file", "objective_power": 20.0, "source": "test"}  # fmt: skip
MASK, TILE = Work("a" * 64, "S-1", "mask"), Work("b" * 64, "S-1", "tile")


@pytest.fixture
def ledger(home: Home) -> Ledger:
    home.catalog.add_slide(SLIDE)
    return Ledger(home.catalog, lease_s=60, tries=3)


def state(ledger: Ledger, work: Work = MASK) -> dict:
    return ledger.rows([work])[work.key]


def test_work_is_taken_once_and_done_once(ledger: Ledger) -> None:
    lease = ledger.take(MASK)
    assert lease is not None
    assert lease.attempts == 1
    assert ledger.take(MASK) is None, "somebody has it"
    assert ledger.finish(lease, output_sha256="f" * 64, seconds=1.5) is None
    assert ledger.take(MASK) is None, "it is done"
    row = state(ledger)
    assert (row["state"], row["output_sha256"], row["seconds"]) == ("done", "f" * 64, 1.5)
    with pytest.raises(LeaseLostError, match="mask of S-1 was taken over"):
        ledger.finish(lease, output_sha256="0" * 64, seconds=1)
    assert state(ledger)["output_sha256"] == "f" * 64


def test_the_next_stage_is_taken_in_the_same_moment(ledger: Ledger) -> None:
    first = ledger.take(MASK)
    second = ledger.finish(first, output_sha256="f" * 64, seconds=1, then=TILE)
    assert second.work == TILE
    assert state(ledger, TILE)["state"] == "leased"
    done = ledger.finish(second, output_sha256="e" * 64, seconds=1, then=MASK)
    assert done is None, "it is done already"


def test_a_lease_that_is_not_renewed_runs_out(home: Home, ledger: Ledger) -> None:
    short = Ledger(home.catalog, lease_s=0.2, tries=3)
    first = short.take(MASK)
    time.sleep(0.3)
    second = ledger.take(MASK)
    assert second is not None
    assert second.attempts == 2
    for late in (
        lambda: short.finish(first, output_sha256="f" * 64, seconds=1),
        lambda: short.renew(first),
        lambda: short.fail(first, "late", for_good=True),
        lambda: short.give_back(first),
    ):
        with pytest.raises(LeaseLostError):
            late()
    assert state(ledger)["token"] == second.token


def test_a_renewed_lease_lasts(home: Home, ledger: Ledger) -> None:
    lease = Ledger(home.catalog, lease_s=0.2, tries=3).take(MASK)
    ledger.renew(lease)
    time.sleep(0.3)
    assert ledger.take(MASK) is None


def test_what_fails_for_good_is_not_tried_again_and_the_rest_three_times(ledger: Ledger) -> None:
    assert ledger.fail(ledger.take(TILE), "no tissue", for_good=True) == "failed"
    assert ledger.take(TILE) is None
    said = [ledger.fail(ledger.take(MASK), f"no {n}", for_good=False) for n in range(3)]
    assert said == ["waiting", "waiting", "failed"]
    assert ledger.take(MASK) is None
    assert (state(ledger)["reason"], state(ledger)["attempts"]) == ("no 2", 3)
    ledger.reopen([MASK])
    assert ledger.take(MASK).attempts == 1


def test_what_is_given_back_was_no_try(ledger: Ledger) -> None:
    for _ in range(5):
        ledger.give_back(ledger.take(MASK))
    assert ledger.take(MASK).attempts == 1


def test_only_settled_work_is_reopened(ledger: Ledger) -> None:
    lease = ledger.take(MASK)
    ledger.reopen([MASK])
    assert ledger.finish(lease, output_sha256="f" * 64, seconds=1) is None


TAKE = """
import os, signal, sys
from histo_nb.home import open_home
from histo_nb.running.cohort.ledger import Ledger, Work
lease = Ledger(open_home().catalog, lease_s=600, tries=3).take(Work("a" * 64, "S-1", "mask"))
assert lease, "not taken"
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_kills_its_worker_every_time_fails_with_its_reason(home: Home, ledger: Ledger) -> None:
    for _ in range(3):  # each sees at once that the one before is dead, whatever its lease says
        assert subprocess.run([sys.executable, "-c", TAKE], check=False).returncode == -9
    assert ledger.take(MASK) is None
    row = state(ledger)
    assert row["state"] == "failed"
    assert row["reason"].startswith("tried 3 times, the last time: its worker was killed")


def test_who_was_ended_with_its_watcher_is_not_to_blame(home: Home, ledger: Ledger) -> None:
    watcher = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {TAKE!r}])"
    for _ in range(4):
        subprocess.run([sys.executable, "-c", watcher], check=True)
    assert ledger.take(MASK).attempts == 1


def test_what_a_stopped_worker_had_is_given_back(ledger: Ledger) -> None:
    subprocess.run([sys.executable, "-c", TAKE], check=False)
    lease = ledger.take(TILE)
    ledger.give_back_dead(["S-1"])
    assert state(ledger)["state"] == "waiting"
    assert ledger.take(MASK).attempts == 1
    assert state(ledger, TILE)["token"] == lease.token, "its worker lives"


def test_the_reason_of_who_had_to_be_ended_is_kept(home: Home, ledger: Ledger) -> None:
    once = Ledger(home.catalog, lease_s=0.1, tries=1)
    once.renew(once.take(MASK), reason="it took longer than 5 s")
    time.sleep(0.2)
    assert once.take(MASK) is None
    assert state(ledger)["reason"] == "tried 1 times, the last time: it took longer than 5 s"


def test_a_worker_of_another_machine_is_not_known_to_be_dead(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "who", lambda: "elsewhere/boot/ns/1/1.0/1/1.0")
    assert ledger.take(MASK) is not None
    assert ledger.take(MASK) is None


def test_a_process_that_got_the_number_of_a_dead_one_is_not_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, pid, started, *watcher = who().rsplit("/", 4)
    earlier = "/".join([machine, pid, str(float(started) - 60), *watcher])
    monkeypatch.setattr(ledger_module, "who", lambda: earlier)
    assert ledger.take(MASK) is not None
    assert ledger.take(MASK) is not None, "the earlier process of that number has ended"


def test_many_threads_take_each_work_once(ledger: Ledger) -> None:
    works = [Work(f"{i:064d}", "S-1", "mask") for i in range(20)]
    taken: list[str] = []

    def take_all() -> None:
        taken.extend(work.key for work in works if ledger.take(work))

    threads = [threading.Thread(target=take_all) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [work.key for work in works]
    table = ledger.count()
    assert table.to_dict("records") == [{"stage": "mask", "state": "leased", "n": 20}]
