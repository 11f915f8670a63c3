"""What is said of the service: true also when it does not run, and no word of a former one."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time

import analysed
import pytest
from click.testing import CliRunner

from histo_nb.catalog import now
from histo_nb.home import Home
from histo_nb.running.cli import main
from histo_nb.running.service.status import read_status
from histo_nb.running.service.waiting import note_failed
from histo_nb.service_state import holding, read_state, service_folder, write_state
from histo_nb.widgets.operations_facts import read_facts

PART = {"part": "intake", "state": "running", "since": now(), "restarts": 0,
        "last_beat": now(), "doing": "watching its folder", "trouble": False}  # fmt: skip


def ask() -> tuple[int, dict]:
    result = CliRunner().invoke(main, ["status", "--json"])
    return result.exit_code, json.loads(result.stdout)


def write(home: Home, *parts: dict, held: str | None = None) -> None:
    write_state(service_folder(home.root), {"parts": list(parts), "held": held})


@pytest.fixture
def ready(home: Home) -> Home:
    analysed.copy_model(home)
    return home


def test_where_no_service_ever_ran_that_is_said(home: Home) -> None:
    code, said = ask()
    assert (code, said["state"], said["parts"]) == (1, "not running", [])
    assert (said["waiting"], said["analysed_today"], said["failed"]) == (0, 0, 0)
    assert said["free_gb"] > 0
    assert "histo-nb serve" in said["failures"][0]["trouble"]
    assert not (home.root / "service").exists(), "looking changes nothing"


def test_all_is_well(ready: Home) -> None:
    with holding(service_folder(ready.root)):
        write(ready, PART)
        code, said = ask()
    assert (code, said["state"], said["failures"]) == (0, "running", [])
    assert said["parts"] == [PART]
    assert said["model"].startswith("M-")
    assert said["pid"] == os.getpid()


@pytest.mark.parametrize(
    ("part", "held", "words"),
    [
        (PART | {"state": "failing again and again"}, None, "failing again and again"),
        (PART | {"state": "ended"}, None, "intake is ended"),
        (PART | {"trouble": True, "doing": "waiting: there is no space left"}, None, "no space"),
        (PART, "more than 200 slides wait", "no slides are taken: more than 200"),
    ],
)
def test_what_is_wrong_is_said(ready: Home, part: dict, held: str | None, words: str) -> None:
    with holding(service_folder(ready.root)):
        write(ready, part, held=held)
        code, said = ask()
    assert code == 1
    (failure,) = said["failures"]
    assert words in failure["trouble"]


def test_who_looks_does_not_keep_a_service_from_starting(ready: Home) -> None:
    folder = service_folder(ready.root)
    (folder / "lock").touch()
    looking = os.open(folder / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    threading.Timer(0.2, os.close, (looking,)).start()
    with holding(folder):
        assert read_state(ready.root)["state"] == "running"


def test_a_service_that_was_killed_leaves_no_word(ready: Home) -> None:
    with holding(service_folder(ready.root)):
        write(ready, PART)
    code, said = ask()
    assert (code, said["state"], said["parts"]) == (1, "not running", [])


def test_a_supervisor_that_hangs_does_not_answer(ready: Home) -> None:
    folder = service_folder(ready.root)
    with holding(folder):
        write(ready, PART)
        os.utime(folder / "status.json", (time.time() - 120,) * 2)
        code, said = ask()
    assert (code, said["state"], said["parts"]) == (1, "not answering", [])


def test_a_service_that_has_just_begun_says_nothing_of_a_former_one(ready: Home) -> None:
    folder = service_folder(ready.root)
    with holding(folder):
        write(ready, PART)
        facts = json.loads((folder / "status.json").read_text())
        (folder / "status.json").write_text(json.dumps(facts | {"pid": 1}))
        assert (read_state(ready.root)["state"], read_state(ready.root)["parts"]) == ("running", [])


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": 1}'])
def test_a_damaged_file_is_none(ready: Home, content: str) -> None:
    folder = service_folder(ready.root)
    with holding(folder):
        (folder / "status.json").write_text(content)
        assert read_status(ready)["parts"] == []
    (folder / "lock").write_text(content)
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_status(ready)["state"] == "not answering"


@pytest.mark.databases
def test_slides_are_counted(ready: Home, tmp_path) -> None:
    for number in range(3):
        path = analysed.write_slide(tmp_path / f"{number}.svs", number)
        analysed.add_slide(ready, path, f"S-{number}")
    model_id = read_status(ready)["model"]
    note_failed(ready, "S-1", model_id)
    ready.catalog.put_result(
        {"slide_id": "S-2", "model_id": model_id, "slide_class": "normal", "confidence": 1.0,
         "abnormal_fraction": 0.0, "n_tiles": 1, "n_regions": 0, "n_failures": 0,
         "result_path": "/r"}
    )  # fmt: skip
    status = read_status(ready)
    assert (status["waiting"], status["failed"], status["analysed_today"]) == (1, 1, 1)
    assert "could not be analysed: 1" in str(status["trouble"])


def test_a_catalogue_that_is_away_is_trouble(home: Home, monkeypatch) -> None:
    monkeypatch.setenv("HISTO_DATABASE_URL", "postgresql+psycopg://nobody@127.0.0.1:1/none")
    code, said = ask()
    assert code == 1
    assert said["waiting"] is None
    assert any("catalogue" in failure["trouble"] for failure in said["failures"])


def test_status_loads_no_torch(home: Home) -> None:
    code = (
        "import sys; from histo_nb.home import open_home\n"
        "from histo_nb.running.service.status import read_status\n"
        "read_status(open_home()); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("part", "held", "tone", "words"),
    [
        (PART, None, "ok", "takes slides"),
        (PART, "the disk is nearly full", "warn", "It takes no slides: the disk is nearly full."),
        (PART | {"state": "ended"}, None, "danger", "intake is ended"),
    ],
)
def test_operations_page_says_how_the_service_is(
    home: Home, part: dict, held: str | None, tone: str, words: str
) -> None:
    with holding(service_folder(home.root)):
        write(home, part, held=held)
        (row,) = [row for row in read_facts(home)["health"] if row["what"] == "Service"]
    assert row["tone"] == tone
    assert words in row["said"]


def test_operations_page_says_that_the_service_has_ended(home: Home) -> None:
    assert "Service" not in {row["what"] for row in read_facts(home)["health"]}
    with holding(service_folder(home.root)):
        write(home, PART)
    (row,) = [row for row in read_facts(home)["health"] if row["what"] == "Service"]
    assert (row["tone"], row["said"]) == ("danger", "It is not running. Start it again.")
