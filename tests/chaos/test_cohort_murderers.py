"""Slides that kill, hang or break their worker every time, and disks that are full."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import analysed
import dask
import pytest

from histo_nb.errors import StorageError
from histo_nb.home import Home
from histo_nb.inference.result import hash_result
from histo_nb.running.cohort.engine import SCHEDULER
from histo_nb.running.cohort.record import run_cohort
from histo_nb.running.cohort.runner import Cohort, CohortSpec

MURDEROUS = Path(__file__).parents[1] / "murderous.py"


@pytest.fixture
def ward(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a model and two slides that harm nobody."""
    monkeypatch.delenv(SCHEDULER, raising=False)
    analysed.copy_model(home)
    for number in range(2):
        add(home, f"S{number}", number)
    return home


def add(home: Home, name: str, number: int = 0) -> None:
    path = shutil.copy(analysed.slides()[number], home.slides / f"{name}.svs")
    analysed.add_slide(home, Path(path), name, mask=False)


def test_who_kills_hangs_or_breaks_every_time_fails_with_its_reason_and_the_others_finish(
    ward: Home,
) -> None:
    for name in ("KILLER", "HANGER", "BROKEN"):
        add(ward, name)
    spec = CohortSpec(n_workers=2, limit_s=3, lease_s=4, report="none")
    preload = {"distributed.worker.preload": [str(MURDEROUS)]}
    with dask.config.set(preload), Cohort(ward, spec=spec) as cohort:
        table = cohort.run(["KILLER", "S0", "HANGER", "S1", "BROKEN"]).set_index("slide_id")
    assert table.state.to_dict() == {
        "KILLER": "failed", "S0": "done", "HANGER": "failed", "S1": "done", "BROKEN": "failed"
    }  # fmt: skip
    assert set(table.stage[table.state == "failed"]) == {"mask"}
    assert table.attempts[table.state == "failed"].tolist() == [3, 3, 3]
    assert table.reason["KILLER"].startswith("tried 3 times, the last time: its worker was killed")
    assert table.reason["HANGER"] == "tried 3 times, the last time: it took longer than 3 s"
    assert table.reason["BROKEN"] == "MemoryError: no room for it"
    assert table.attempts["S0"] == table.attempts["S1"] == 1, "who only waited is not to blame"


def test_a_real_file_that_aborts_openslide_fails_with_its_reason(ward: Home, data: Path) -> None:
    bad = next((data / "malformed" / "abort").iterdir())
    row = ward.catalog.slide("S0") | {"slide_id": "BAD", "sha256": "0" * 64, "slide_path": str(bad)}
    del row["added_at"]
    ward.catalog.add_slide(row)
    with Cohort(ward, spec=CohortSpec(n_workers=2, report="none")) as cohort:
        table = cohort.run(["BAD", "S0", "S1"]).set_index("slide_id")
    assert table.state.to_dict() == {"BAD": "failed", "S0": "done", "S1": "done"}
    assert "its worker was killed" in table.reason["BAD"]


@contextmanager
def small_disk(folder: Path, *, size: str) -> Iterator[None]:
    """A disk of its own for a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "histo_nb_test", str(folder)]
    if os.getuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: that takes root")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(path: Path, *, leave_kb: int) -> None:
    """Write a file that leaves so much of its disk."""
    size = shutil.disk_usage(path.parent).free - leave_kb * 1024
    path.write_bytes(bytes(size))
    assert shutil.disk_usage(path.parent).free == leave_kb * 1024


PLACES: dict[str, Callable[[Home], Path]] = {
    "mask": lambda home: home.masks,
    "tile": lambda home: home.tiles / "slides",
    "journal": lambda home: home.results,
    "result": lambda home: home.results,
    "report": lambda home: home.results,
}
LEFT_KB = {"mask": 0, "tile": 0, "journal": 0, "result": 12, "report": 120}


@pytest.mark.parametrize("stage", PLACES)
def test_a_full_disk_is_said_nothing_is_half_written_and_it_goes_on(ward: Home, stage: str) -> None:
    place, spec = PLACES[stage](ward), CohortSpec(n_workers=1, report="html")
    with small_disk(place, size="1m"), Cohort(ward, spec=spec) as cohort:
        filler = place / "filler"
        fill(filler, leave_kb=LEFT_KB[stage])
        with pytest.raises(StorageError, match="disk is full"):
            cohort.run(["S0"])
        half = [path for path in place.rglob(".*") if path.name != ".lock"]
        assert not half, "what was begun is taken away"
        if stage == "report":
            assert len(ward.catalog.results()) == 1
        filler.unlink()
        table = cohort.run(["S0"])
        assert table.state.tolist() == ["done"]
        assert table.attempts.tolist() == [1], "it was not the slide's fault"
        filed = ward.catalog.result("S0", cohort.card.model_id)
        assert filed["content_sha256"] == hash_result(Path(filed["result_path"]))


def test_a_cohort_that_breaks_off_leaves_a_page_that_says_why(ward: Home) -> None:
    with small_disk(ward.masks, size="1m"):
        fill(ward.masks / "filler", leave_kb=0)
        with pytest.raises(StorageError, match="disk is full"):
            run_cohort(ward, spec=CohortSpec(n_workers=1))
    (page,) = ward.runs.glob("*/cohort.html")
    said = page.read_text()
    assert "The run was stopped before its end" in said
    assert "disk is full" in said
    assert str(ward.root) not in said
    assert run_cohort(ward, spec=CohortSpec(n_workers=1)).failures == []
