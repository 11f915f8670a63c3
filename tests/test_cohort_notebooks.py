"""Notebooks 07 to 09 by papermill, against the same cohort by the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import analysed
import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner

from histo_nb.errors import RunError
from histo_nb.home import Home, open_home
from histo_nb.inference.result import read_result
from histo_nb.running.cli import main
from histo_nb.running.cohort.runner import COLUMNS
from histo_nb.running.notebook import Run, find_notebook, has_errors, run_notebook
from histo_nb.widgets.cohort_figures import show_cohort, show_stage_times
from histo_nb.widgets.figures import SURE

BROKEN = "Doe, Jane.svs"


def furnish(folder: Path) -> tuple[Home, Path]:
    """A home with a model and two slides, and a folder with a file that is no slide."""
    home = open_home(folder / "home")
    analysed.copy_model(home)
    for number, path in enumerate(analysed.slides()[:2]):
        own = Path(shutil.copy(path, home.slides / f"S{number}.svs"))
        analysed.add_slide(home, own, f"S{number}", mask=False)
    broken = Path(shutil.copy(analysed.slides()[2], home.slides / "S2.svs"))
    analysed.add_slide(home, broken, "S2", mask=False)
    broken.write_bytes(b"no slide")
    incoming = folder / "incoming"
    incoming.mkdir()
    (incoming / BROKEN).write_bytes(b"no slide")
    return home, incoming


@pytest.fixture(scope="module")
def by_papermill(tmp_path_factory: Any) -> tuple[Home, Run]:
    home, incoming = furnish(tmp_path_factory.mktemp("papermill"))
    parameters = {"sources": ["S0", "S1", "S2", str(incoming)], "n_workers": 1, "min_tissue": 0.4}
    return home, run_notebook(find_notebook("07_cohort"), home, parameters=parameters)


@pytest.fixture(scope="module")
def by_command_line(tmp_path_factory: Any) -> tuple[Home, dict[str, Any]]:
    home, incoming = furnish(tmp_path_factory.mktemp("command"))
    named = ["cohort", "S0", "S1", "S2", str(incoming), "--workers", "1", "--min-tissue", "0.4"]
    done = CliRunner().invoke(main, [*named, "--json", "--home", str(home.root)])
    assert done.exit_code == 1, "one slide cannot be used"
    return home, json.loads(done.stdout)


def outputs(run: Run) -> str:
    """All that cells show, and nothing of what they were given."""
    cells = nbformat.read(run.notebook, as_version=4).cells
    shown = [output for cell in cells for output in cell.get("outputs", [])]
    return json.dumps(shown, ensure_ascii=False)


def left(home: Home, name: str) -> Path:
    """A file that the cohort of a home left, not the notebook around it."""
    (page,) = home.runs.glob("*_cohort/cohort.html")
    return page.with_name(name)


def test_a_cohort_is_the_same_by_papermill_and_by_the_command_line(by_papermill, by_command_line):
    homes = [home for home, _ in (by_papermill, by_command_line)]
    specs = [json.loads(left(home, "run.json").read_text())["spec"] for home in homes]
    assert specs[0] == specs[1]
    tables = [pd.read_parquet(left(home, "slides.parquet")) for home in homes]
    assert [list(table.columns) for table in tables] == [COLUMNS] * 2
    assert tables[0].state.tolist() == ["done", "done", "failed"]
    own = [name for name in COLUMNS if name.startswith("seconds_") or name.endswith("_path")]
    for table, home in zip(tables, homes, strict=True):
        table["reason"] = table.reason.str.replace(str(home.root.parent), "")
    pd.testing.assert_frame_equal(*(table.drop(columns=own) for table in tables))
    for pair in zip(*(table.result_path.dropna() for table in tables), strict=True):
        results = [read_result(path) for path in pair]
        pd.testing.assert_frame_equal(*(r.predictions.drop(columns="slide_path") for r in results))


def test_the_notebook_shows_slides_failures_and_times_and_names_its_page(by_papermill):
    home, run = by_papermill
    assert not has_errors(run.notebook)
    shown = outputs(run)
    assert shown.count('"image/png"') == 2
    for said in ("S0", "S1", "Tissue mask", "Intake: ", "slides_per_hour", "3 slides, 2 failures"):
        assert said in shown
    assert str(left(home, "cohort.html")) in shown


def test_what_it_shows_names_no_file(by_papermill):
    assert "Jane" not in outputs(by_papermill[1])
    assert "S2.svs" not in outputs(by_papermill[1])


def test_the_page_of_the_command_line_is_there_and_leads_to_reports(by_command_line):
    _, answer = by_command_line
    page = Path(answer["page"])
    words = page.read_text()
    for slide_id in ("S0", "S1"):
        way = f"../../results/{slide_id}/{answer['model_id']}.report/report.html"
        assert f'href="{way}"' in words
        assert (page.parent / way).is_file()


@pytest.fixture(scope="module")
def reported(by_papermill: tuple[Home, Run], tmp_path_factory: Any) -> Run:
    """Notebook 08, with a cell more that looks whether torch is loaded."""
    notebook = nbformat.read(find_notebook("08_report"), as_version=4)
    heavy = '{"torch", "fastai", "torchvision"}'
    cell = nbformat.v4.new_code_cell(f"import sys\nprint('heavy:', {heavy} & set(sys.modules))")
    notebook.cells.append(cell)
    path = tmp_path_factory.mktemp("report") / "08_report.ipynb"
    nbformat.write(notebook, path)
    return run_notebook(path, by_papermill[0], parameters={"slide_id": "S1"})


def test_a_report_loads_no_torch(reported):
    assert not has_errors(reported.notebook)
    assert "heavy: set()" in outputs(reported)


def test_a_report_says_the_answer_and_what_it_was_made_from(by_papermill, reported):
    home, shown = by_papermill[0], outputs(reported)
    assert shown.count('"image/png"') == 1
    for said in (
        "nobody yet",
        "class by the model",
        "slide.sha256",
        home.catalog.slide("S1")["sha256"],
        "model.weights_sha256",
        "code.source_sha256",
        "packages.openvino",
    ):
        assert said in shown
    (page,) = (home.results / "S1").glob("*.html")
    assert "S1" in page.read_text()
    assert str(page) in shown


def test_a_report_of_no_slide_says_what_to_do(home):
    with pytest.raises(RunError, match="no result for any slide"):
        run_notebook(find_notebook("08_report"), home)


@pytest.mark.parametrize("name", ["07_cohort", "08_report", "09_exports"])
def test_it_says_what_it_is(name):
    title = nbformat.read(find_notebook(name), as_version=4).cells[0].source
    assert "on top of the six rooms" in title
    assert all(f"**{word}**" in title for word in ("In", "Out", "Time"))


def row(slide_id: str, **changed: Any) -> dict[str, Any]:
    known = {"slide_id": slide_id, "state": "done", "slide_class": "normal", "confidence": 0.8}
    seconds = {name: 1.0 for name in COLUMNS if name.startswith("seconds_")}
    return dict.fromkeys(COLUMNS) | known | {"n_doubts": 0} | seconds | changed


def titles(axes: Any) -> list[str]:
    return [ax.get_title() for ax in axes.flat if ax.get_title()]


def test_suspicious_slides_are_drawn_first_and_marked():
    rows = [row("S-1"), row("S-2", slide_class="adenoma", n_doubts=2), row("S-3", state="failed")]
    axes = show_cohort(pd.DataFrame(rows, columns=COLUMNS))
    assert titles(axes) == ["S-2\nadenoma 80%, doubts: 2", "S-1\nnormal 80%"]
    assert [ax.title.get_color() for ax in axes.flat[:2]] == [SURE, "black"]
    assert axes.flat[0].texts[0].get_text() == "no picture"
    axes = show_cohort(pd.DataFrame(rows, columns=COLUMNS), normal="adenoma", n=1)
    assert titles(axes) == ["S-1\nnormal 80%"]
    assert axes.flat[0].title.get_color() == SURE
    plt.close("all")


@pytest.mark.parametrize("rows", [[], [row("S-1", state="failed", seconds_mask=None)]])
def test_a_cohort_without_an_answer_can_be_drawn(rows):
    table = pd.DataFrame(rows, columns=COLUMNS)
    assert titles(show_cohort(table)) == []
    ax = show_stage_times(table)
    ax.figure.canvas.draw()
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0] == "Tissue mask, 0 s in all"
    plt.close("all")


def test_exports_are_written_read_back_and_explained_without_torch(by_papermill, tmp_path):
    home, _ = by_papermill
    notebook = nbformat.read(find_notebook("09_exports"), as_version=4)
    cell = 'import sys\nprint("heavy:", {"torch", "fastai"} & set(sys.modules))'
    notebook.cells.append(nbformat.v4.new_code_cell(cell))
    nbformat.write(notebook, tmp_path / "09_exports.ipynb")
    run = run_notebook(tmp_path / "09_exports.ipynb", home, parameters={"slide_id": "S0"})
    assert not has_errors(run.notebook)
    shown = outputs(run)
    assert "heavy: set()" in shown
    assert "left edge, level-0 px" in shown  # the dictionary
    (out,) = (home.root / "exports").iterdir()
    names = {path.name for path in out.iterdir()}
    assert names == {"places.geojson", "qupath", "tables", "report.html", "model_card.html"}
    assert str(out) in shown
