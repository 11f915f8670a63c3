"""A run says what it made from what, and can be repeated to the same hashes."""

import json
import shutil
from pathlib import Path
from typing import Any

import analysed
import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from distributed import LocalCluster
from rocrate.rocrate import ROCrate

from histo_nb.errors import CatalogError, RunError
from histo_nb.export.crate import CRATE
from histo_nb.files import hash_file, write_json
from histo_nb.home import Home
from histo_nb.inference.result import PROVENANCE, find_result
from histo_nb.model.registry import production_entry
from histo_nb.running.cli import main
from histo_nb.running.cohort.record import run_cohort
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.notebook import Run, run_notebook
from histo_nb.running.outputs import hash_output
from histo_nb.running.reproduce import _fresh_home, reproduce
from histo_nb.schema import SLIDE_FILES
from histo_nb.tables import LABELLED_TILES, TILES, read_table, write_table

ANALYSE = """from histo_nb.home import open_home
from histo_nb.inference.pipeline import analyse_slides
folders, failures = analyse_slides(open_home(), slide_ids)"""
NAMES = ["S0", "S1"]
PATIENT = "Planted Patient Name"


@pytest.fixture
def ward(home: Home) -> Home:
    """A home with a model and two slides."""
    analysed.copy_model(home)
    for name, path in zip(NAMES, analysed.slides(), strict=False):
        own = shutil.copy(path, home.slides / f"{name}.svs")
        analysed.add_slide(home, Path(own), name)
    return home


def write(path: Path, *cells: str, parameters: str) -> Path:
    content = nbformat.v4.new_notebook()
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    content.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    nbformat.write(content, path)
    return path


def run_analysis(home: Home, folder: Path, *, code: str = ANALYSE, **given: Any) -> Run:
    parameters = "slide_ids: list[str] = []\nseed: int = 3\nannotations: str = ''"
    notebook = write(folder / "answers.ipynb", code, parameters=parameters)
    return run_notebook(notebook, home, parameters=given)


def change_record(run: Path, **changes: Any) -> dict[str, Any]:
    facts = json.loads((run / "run.json").read_text())
    write_json(run / "run.json", facts | changes)
    return facts


# -- what a run says ------------------------------------------------------------------------------


def test_a_run_notes_what_it_made(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    facts = json.loads((run.folder / "run.json").read_text())
    folders = {name: find_result(ward, name) for name in NAMES}
    assert facts["outputs"] == {
        folder.relative_to(ward.root).as_posix(): hash_output(folder) for folder in folders.values()
    }
    assert not (run.folder / "written").exists()


def test_a_run_that_only_looks_made_nothing(ward, tmp_path):
    run = run_analysis(ward, tmp_path, code="slide_ids")
    assert json.loads((run.folder / "run.json").read_text())["outputs"] == {}
    with pytest.raises(RunError, match="noted nothing"):
        reproduce(ward, run.run_id)


def test_a_crate_tells_what_was_made_from_what(ward, tmp_path):
    path = tmp_path / f"{PATIENT}.geojson"
    path.write_text("{}")
    run = run_analysis(ward, tmp_path, slide_ids=["S1"], annotations=str(path))
    facts = json.loads((run.folder / "run.json").read_text())
    crate = ROCrate(run.folder)
    (action,) = (e for e in crate.get_entities() if e.type == "CreateAction")
    used = {e["name"]: e for e in action["object"]}
    assert used["slide S1"]["sha256"] == ward.catalog.slide("S1")["sha256"]
    assert used["seed"]["value"] == 3
    assert used["seed"]["description"] == "a seed"
    assert used["file 1 of parameter annotations"]["sha256"] == hash_file(path)
    assert any(name.startswith("model M-") for name in used)
    made = {e["name"]: e for e in action["result"]}
    (output,) = facts["outputs"]
    assert made[output]["sha256"] == facts["outputs"][output]
    assert made["run.json"]["sha256"] == hash_file(run.folder / "run.json")
    assert facts["code"]["source_sha256"] in action["instrument"]["description"]
    assert action["actionStatus"].endswith("CompletedActionStatus")
    assert used["annotations"]["value"].startswith("given, SHA-256")
    assert PATIENT not in (run.folder / CRATE).read_text()
    assert ".svs" not in (run.folder / CRATE).read_text()


def test_a_failed_run_says_so_in_its_crate(ward, tmp_path):
    with pytest.raises(RunError):
        run_analysis(ward, tmp_path, code="1 / 0")
    (folder,) = ward.runs.iterdir()
    (action,) = (e for e in ROCrate(folder).get_entities() if e.type == "CreateAction")
    assert action["actionStatus"].endswith("FailedActionStatus")
    assert "ZeroDivisionError" in action["error"]
    with pytest.raises(RunError, match="did not end well"):
        reproduce(ward, json.loads((folder / "run.json").read_text())["run_id"])


# -- to run it again ------------------------------------------------------------------------------


def test_a_notebooks_run_is_repeated_to_the_same_hashes(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    before = {path: hash_output(path) for path in ward.results.glob("*/M-*")}
    done = reproduce(ward, run.run_id)
    assert (done.n_same, len(done.outputs)) == (2, 2)
    assert done.changed == [
        "answers.ipynb: the notebook was changed since; the copy of the run is used"
    ]  # it lies in none of our folders
    assert before == {path: hash_output(path) for path in ward.results.glob("*/M-*")}
    assert [path.name for path in ward.runs.iterdir()] == [run.run_id]
    assert [path.name for path in ward.staging.iterdir()] == [".sweeping"]


def test_a_cohort_is_repeated_to_the_same_hashes(ward):
    run = run_cohort(ward, NAMES, spec=CohortSpec(n_workers=1))
    assert (run.folder / CRATE).is_file()
    done = reproduce(ward, run.cohort_id)
    assert (done.n_same, len(done.outputs), done.changed) == (2, 2, [])


def test_what_comes_out_otherwise_is_told(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    outputs = json.loads((run.folder / "run.json").read_text())["outputs"]
    of_s0 = next(name for name in outputs if "/S0/" in name)
    change_record(run.folder, outputs=outputs | {of_s0: "0" * 64})
    answer = CliRunner().invoke(main, ["reproduce", run.run_id, "--home", str(ward.root), "--json"])
    said = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert [row["output"] for row in said["failures"]] == [of_s0]
    assert said["n_same"] == 1


def test_what_has_changed_since_is_told(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    facts = json.loads((run.folder / "run.json").read_text())
    inputs = facts["inputs"] | {"slides": {"S0": "0" * 64}}
    code = facts["code"] | {"source_sha256": "a" * 64}
    packages = facts["packages"] | {"numpy": "1.0"}
    change_record(run.folder, inputs=inputs, code=code, packages=packages)
    changed = reproduce(ward, run.run_id).changed
    assert any(said.startswith("code: sources aaaaaaaaaaaa, now") for said in changed)
    assert any(said.startswith("numpy: 1.0, now") for said in changed)
    assert "slide S0: other bytes" in changed


def test_it_runs_with_the_model_of_then(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    _, dataset = analysed.learnt()
    other = analysed.put_learnt(ward, dataset, seed=1)
    from histo_nb.model.registry import promote  # noqa: PLC0415

    promote(ward, other, reason="a later model")
    assert reproduce(ward, run.run_id).n_same == 2
    assert production_entry(ward)["model_id"] == other


def test_an_output_that_is_not_made_again_is_not_the_same(ward, tmp_path, make_tiles):
    run = run_analysis(ward, tmp_path)
    outputs = json.loads((run.folder / "run.json").read_text())["outputs"]
    table = write_table(make_tiles(("S", "P", 3)), ward.tiles / "tiles.parquet", TILES)
    change_record(run.folder, outputs=outputs | {"tiles/tiles.parquet": hash_output(table)})
    (row,) = (row for row in reproduce(ward, run.run_id).outputs if not row["same"])
    assert (row["output"], row["is"]) == ("tiles/tiles.parquet", None)


def test_runs_that_are_not_there_are_named(ward):
    with pytest.raises(CatalogError, match="no run R-1"):
        reproduce(ward, "R-1")


def test_nothing_of_the_home_is_written_through(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    (ward.datasets / "pixels").mkdir()
    part, whole = (ward.datasets / "pixels" / name for name in ("P-1.part.npy", "P-2.npy"))
    part.write_bytes(b"half")
    whole.write_bytes(b"whole")
    facts = json.loads((run.folder / "run.json").read_text())
    with _fresh_home(ward, tmp_path / "fresh", facts) as fresh:
        assert (fresh.datasets / "pixels" / "P-2.npy").samefile(whole)
        assert not (fresh.datasets / "pixels" / "P-1.part.npy").exists()
        linked = [p for p in fresh.root.rglob("*") if p.is_file() and p.stat().st_nlink > 1]
        assert {p.suffix for p in linked} == {".npy", ".safetensors"}


def test_slides_that_came_later_are_not_taken(ward, tmp_path):
    run = run_analysis(ward, tmp_path)  # of all slides
    third = shutil.copy(analysed.slides()[2], ward.slides / "S2.svs")
    analysed.add_slide(ward, Path(third), "S2")
    facts = json.loads((run.folder / "run.json").read_text())
    with _fresh_home(ward, tmp_path / "fresh", facts) as fresh:
        assert sorted(fresh.catalog.slides().slide_id) == NAMES


def test_a_slide_whose_bytes_changed_is_named(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    with ward.catalog.writing("") as connection:
        connection.execute(SLIDE_FILES.insert(), [
            {"slide_id": name, "name": f"{name}.svs", "n_bytes": 1,
             "sha256": hash_file(ward.slides / f"{name}.svs")} for name in NAMES
        ])  # fmt: skip
    assert not any("other bytes" in said for said in reproduce(ward, run.run_id).changed)
    shutil.copy(analysed.slides()[2], ward.slides / "S1.svs")
    done = reproduce(ward, run.run_id)
    assert "slide S1: other bytes" in done.changed
    assert done.n_same == 1


def test_pixels_of_a_data_set_are_decoded_again(ward, tmp_path):
    analysed.add_slide(ward, Path(shutil.copy(analysed.slides()[2], ward.slides / "S2.svs")), "S2")
    tiles = analysed.label_tiles(ward, [*NAMES, "S2"]).groupby("slide_id").head(12)
    write_table(tiles, ward.tiles / "tiles.parquet", LABELLED_TILES)
    code = """from histo_nb.balancing.dataset import StoreSpec, make_dataset
from histo_nb.home import open_home
from histo_nb.tiling.table import read_tiles
home = open_home()
make_dataset(read_tiles(home), home, store=StoreSpec(search_duplicates=False))"""
    run = run_analysis(ward, tmp_path, code=code)
    assert reproduce(ward, run.run_id).n_same == 1
    shutil.copy(ward.slides / "S0.svs", ward.slides / "S1.svs")  # other pixels in the same places
    (row,) = reproduce(ward, run.run_id).outputs
    assert not row["same"]


def test_a_table_of_tiles_that_changed_is_named(ward, tmp_path, make_tiles):
    table = write_table(make_tiles(("S", "P", 3)), ward.tiles / "tiles.parquet", LABELLED_TILES)
    run = run_analysis(ward, tmp_path)
    write_table(make_tiles(("S", "P", 4)), table, LABELLED_TILES)
    assert any("other tiles or labels" in said for said in reproduce(ward, run.run_id).changed)


def test_a_run_that_does_not_run_any_more_says_why(ward, tmp_path):
    run = run_analysis(ward, tmp_path)
    for path in ward.slides.glob("*.svs"):
        path.unlink()
    notebook = run.folder / "answers.ipynb"
    notebook.write_text(notebook.read_text().replace("folders, failures =", "1 / 0, "))
    with pytest.raises(RunError, match="does not run to its end any more") as refused:
        reproduce(ward, run.run_id)
    assert "staging" not in str(refused.value)


def test_workers_of_a_scheduler_are_noted_too(ward, tmp_path, monkeypatch):
    code = """from histo_nb.home import open_home
from histo_nb.running.cohort.record import run_cohort
run_cohort(open_home(), slide_ids)"""
    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1",
                      dashboard_address=None) as cluster:  # fmt: skip
        monkeypatch.setenv("HISTO_SCHEDULER", cluster.scheduler_address)
        run = run_analysis(ward, tmp_path, code=code)
    outputs = json.loads((run.folder / "run.json").read_text())["outputs"]
    assert {name.split("/")[1] for name in outputs if name.startswith("results/")} == set(NAMES)


# -- what is compared -----------------------------------------------------------------------------


def test_times_are_no_part_of_a_table(tmp_path, make_tiles):
    tiles = make_tiles(("S", "P", 3))
    one = write_table(tiles.assign(labelled_at="2026"), tmp_path / "a.parquet", TILES)
    two = write_table(tiles.assign(labelled_at="2027"), tmp_path / "b.parquet", TILES)
    other = write_table(tiles.assign(x=tiles.x + 1), tmp_path / "c.parquet", TILES)
    assert hash_output(one) == hash_output(two) != hash_output(other)
    assert isinstance(read_table(one, TILES), pd.DataFrame)


def test_a_models_hash_is_that_of_its_content(ward):
    folder = next(ward.models.glob("M-*"))
    was = hash_output(folder)
    card = json.loads((folder / "card.json").read_text())
    write_json(folder / "card.json", card | {"created_at": "2030"})
    assert hash_output(folder) == was
    write_json(folder / "card.json", card | {"normal_class": "x"})
    assert hash_output(folder) != was


def test_an_answers_hash_is_not_that_of_the_code(ward, tmp_path):
    run_analysis(ward, tmp_path)
    folder = find_result(ward, "S0")
    was = hash_output(folder)
    write_json(folder / PROVENANCE, {"code": "of another commit"})
    assert hash_output(folder) == was
    facts = json.loads((folder / "result.json").read_text())
    write_json(folder / "result.json", facts | {"slide_class": "other"})
    assert hash_output(folder) != was
