"""Which slides a cohort is of, and the command: folders, tables, names; exit statuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import analysed
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from distributed import LocalCluster

from histo_nb.errors import CatalogError, TableError
from histo_nb.home import Home
from histo_nb.running.cli import main
from histo_nb.running.cohort.engine import SCHEDULER
from histo_nb.running.cohort.inputs import find_cohort
from histo_nb.schema import RUNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides in folders of a patient's name, and a file that is none."""
    place = tmp_path / "MUSTERMANN"
    place.mkdir()
    for number, path in enumerate(analysed.slides()[:2]):
        shutil.copy(path, place / f"Erika Mustermann {number}.svs")
    (place / "Erika broken.svs").write_bytes(b"no slide at all")
    return place


@pytest.fixture(scope="module")
def scheduler() -> Any:
    with LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def call(home: Home, scheduler: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(SCHEDULER, scheduler)

    def call(*arguments: str) -> tuple[Result, dict[str, Any]]:
        done = CliRunner().invoke(main, [*arguments, "--home", str(home.root), "--json"])
        return done, json.loads(done.stdout)

    return call


def test_a_folders_slides_are_taken_in_once(home: Home, folder: Path) -> None:
    found, refused = find_cohort(home, [str(folder)])
    assert len(found) == 2
    assert [row["step"] for row in refused] == ["structure"]
    assert "Erika" not in json.dumps(refused)
    copied = {path: path.stat().st_mtime_ns for path in home.slides.rglob("*.svs")}
    again, refused_again = find_cohort(home, [str(folder)])
    assert again == found
    assert refused_again == refused
    assert copied == {path: path.stat().st_mtime_ns for path in home.slides.rglob("*.svs")}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_says_what_is_known_of_its_files(home: Home, folder: Path, kind: str) -> None:
    table = pd.DataFrame(
        {
            "path": [f"Erika Mustermann {i}.svs" for i in range(2)],
            "patient_id": ["P-7", None],
            "slide_mpp": [None, "0.4"],
        }
    )
    path = folder / f"cohort.{kind}"
    table.to_csv(path, index=False) if kind == "csv" else table.to_parquet(path)
    found, refused = find_cohort(home, [str(path)])
    assert not refused
    rows = home.catalog.slides(found)
    assert rows.patient_id.tolist() == ["P-7", None]
    assert rows.slide_mpp.tolist() == [0.5, 0.4]
    named = folder / "named.csv"
    pd.DataFrame({"slide_id": [found[1]]}).to_csv(named, index=False)
    assert find_cohort(home, [str(named), found[0], found[1]])[0] == [found[1], found[0]]
    assert find_cohort(home, [])[0] == home.catalog.slides().slide_id.tolist()


@pytest.mark.parametrize(
    ("text", "says"),
    [("a,b\n1,2\n", "has the columns a, b"), ("", "cannot be read"),
     ("path,slide_mpp\nx.svs,fine\n", "is no number"), ("slide_id,path\n,\n", "neither slide_id"),
     ("slide_id,patient_name\nS,Erika\n", "and no others")],
)  # fmt: skip
def test_a_table_that_tells_nothing_is_refused(
    home: Home, tmp_path: Path, text: str, says: str
) -> None:
    path = tmp_path / "cohort.csv"
    path.write_text(text)
    with pytest.raises(TableError, match=says):
        find_cohort(home, [str(path)])


def test_what_is_not_there_is_said_before_anything_is_taken_in(home: Home, folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(CatalogError, match="no slides in"):
        find_cohort(home, [str(folder / "empty")])
    with pytest.raises(CatalogError, match="no slide S-unknown"):
        find_cohort(home, [str(folder), "S-unknown"])
    assert not list(home.slides.rglob("*.svs"))


def test_the_command_says_what_happened(home: Home, folder: Path, call: Any) -> None:
    done, answer = call("cohort", str(folder))
    assert (done.exit_code, answer["kind"]) == (1, "BundleError"), "no model: nothing is taken in"
    assert not list(home.slides.rglob("*.svs"))
    analysed.copy_model(home)
    done, answer = call("cohort", str(folder))
    assert done.exit_code == 1, "one file was refused"
    assert answer["counts"] == {"done": 2}
    assert [row["step"] for row in answer["failures"]] == ["structure"]
    page = Path(answer["page"]).read_text()
    for name in ("Erika", "MUSTERMANN", "Mustermann", str(home.root)):
        assert name not in page
    slides = pd.read_parquet(answer["slides"])
    assert set(slides.state) == {"done"}
    run = json.loads((Path(answer["page"]).parent / "run.json").read_text())
    assert run["code"]["source_sha256"]
    assert run["spec"]["runtime"] != "auto"
    (folder / "Erika broken.svs").unlink()
    done, answer = call("cohort", str(folder))
    assert (done.exit_code, answer["failures"]) == (0, [])
    assert len(home.catalog.events(what="slide analysed")) == 2
    with home.catalog.reading() as connection:
        runs = connection.execute(RUNS.select()).all()
    assert [(row.notebook, row.status) for row in runs] == [("cohort", "done")] * 2


def test_a_missing_file_of_a_table_is_not_named(
    home: Home, folder: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture
) -> None:
    path = folder / "cohort.csv"
    path.write_text("path\nErika Mustermann 0.svs\nErika gone.svs\n")
    found, refused = find_cohort(home, [str(path)])
    assert len(found) == 1
    assert refused[0]["slide_id"] == "file 2"
    assert "does not exist" in refused[0]["error"] or "no such" in refused[0]["error"].lower()
    shown = json.dumps(refused) + caplog.text + "".join(capsys.readouterr())
    assert "Erika" not in shown
    assert "Mustermann" not in shown
