"""The command line: one JSON object on stdout, all else on stderr, 0 only for a job done."""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
import papermill
import pytest
from click.testing import CliRunner, Result
from glasses import PlaneGlass, waves

from histo_nb.errors import NotebookError
from histo_nb.running import notebook as module
from histo_nb.running.cli import main
from histo_nb.running.notebook import check_parameters, has_errors, run_notebook
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual.scanner import write_scan


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def answer(result: Result) -> dict:
    """What the command says on stdout: exactly one JSON object."""
    (line,) = result.stdout.splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


def leaves(group: click.Group, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command that does something."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *words, name)
        else:
            yield (*words, name)


@pytest.mark.parametrize("words", list(leaves(main)), ids=" ".join)
def test_help_reads_well(words):
    command = main
    for word in words:
        command = command.commands[word]
    result = call(*words, "--help")
    assert result.exit_code == 0
    assert command.help
    assert {"--json", "--home"} <= {o for p in command.params for o in p.opts}
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts


def test_the_list_of_commands_is_whole():
    asked = {"demo", "scan", "intake", "mask", "tile", "balance", "train", "gate", "analyse"}
    assert asked | {"run", "doctor"} <= set(main.commands)


REFUSED = {
    "mask": ("CatalogError", "histo-nb scan"),
    "tile": ("CatalogError", "histo-nb scan"),
    "slides": ("CatalogError", "histo-nb scan"),
    "mask S-1": ("CatalogError", "S-1"),
    "mask --method magic": ("SpecError", "otsu_grey"),
    "tile --tile-size 0": ("SpecError", "tile_size=0"),
    "balance": ("TableError", "step before"),
    "train": ("DatasetError", ""),
    "gate": ("BundleError", ""),
    "analyse": ("BundleError", ""),
    "export S-1 out.geojson": ("CatalogError", "histo-nb slides"),
    "run 99_nothing": ("NotebookError", "03_tiling"),
    "scan --severity normal": ("SpecError", "two classes"),
    "scan --patients-per-class 0": ("SpecError", "patients_per_class=0"),
    "scan --glass-images nowhere": ("DatasetError", "nowhere"),
    "demo --glass-images nowhere": ("DatasetError", "nowhere"),
    "intake release Q-1": ("CatalogError", "histo-nb quarantine"),
    "intake a.svs --verify half": ("SpecError", "sample"),
    "identity show S-1 --to out": ("CatalogError", "S-1"),
    "deidentify S-1 out.svs": ("CatalogError", "histo-nb slides"),
    "to-dicom S-1 out": ("CatalogError", "histo-nb slides"),
    "verify S-1": ("CatalogError", "histo-nb slides"),
    "correct S-1 --patient P1": ("CatalogError", "histo-nb slides"),
}
MISUSED = ["mask --metod otsu", "nonsense", "intake", "watch", "dicom-receive", "watch nowhere"]


@pytest.mark.parametrize("line", MISUSED)
def test_a_wrong_call_is_told_in_json_too(home, line):
    result = call(*line.split(), "--json")
    assert result.exit_code == 2
    assert answer(result)["kind"] == "UsageError"
    assert answer(result)["error"] in result.stderr


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_done_is_named(home, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    kind, said = REFUSED[line]
    result = call(*line.split(), "--json")
    assert result.exit_code == 1, result.output
    assert answer(result)["kind"] == kind
    assert said in answer(result)["error"]
    assert f"{kind}: {answer(result)['error']}" in result.stderr
    assert "Traceback" not in result.output
    plain = call(*line.split())
    assert (plain.exit_code, plain.stdout) == (1, "")
    assert kind in plain.stderr
    for folder in ("slides", "masks", "tiles", "datasets", "models", "results", "runs"):
        assert not list((home.root / folder).iterdir())


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    result = call("slides", "--json", "--home", tmp_path / "file" / "home")
    assert result.exit_code == 1
    assert answer(result)["kind"] == "StorageError"


def test_good_and_broken_files_are_both_told(home, tmp_path):
    scan = write_scan(PlaneGlass(waves(500, 400)), tmp_path / "a.svs", spec=ScanSpec())
    (tmp_path / "broken.svs").write_bytes(b"no slide")
    result = call("intake", "--json", scan, tmp_path / "broken.svs")
    assert result.exit_code == 1
    said = answer(result)
    (slide,) = said["slides"]
    (failure,) = said["failures"]
    assert slide["patient_id"] is None
    assert "broken.svs" in failure["error"]
    result = call("intake", "--json", scan, "--patient", "P1")
    assert (result.exit_code, answer(result)["failures"]) == (0, [])
    assert answer(call("slides", "--json"))["slides"] == [slide | {"patient_id": "P1"}]


def test_unknown_facts_are_null(home):
    row = {"slide_path": "/a", "n_bytes": 1, "width": 9, "height": 9, "n_levels": 1,
           "slide_mpp": 0.5, "mpp_source": "file", "source": "file"}  # fmt: skip
    for i, power in enumerate((20.0, None)):
        home.catalog.add_slide(
            row | {"slide_id": f"S{i}", "sha256": str(i), "objective_power": power}
        )
    listed = answer(call("slides", "--json"))["slides"]
    assert [slide["objective_power"] for slide in listed] == [20.0, None]


def test_home_is_asked_before_the_environment(home, tmp_path):
    scan_rack([PlaneGlass(waves(500, 400))], home)
    assert call("slides", "--json").exit_code == 0
    assert call("slides", "--json", "--home", tmp_path / "other").exit_code == 1


def test_mask_and_tile_write_what_they_say(home):
    scan_rack([PlaneGlass(waves(900, 800))], home)
    masked = call("mask", "--json")
    assert masked.exit_code == 0, masked.output
    assert Path(answer(masked)["masks"][0]["mask_path"]).is_file()
    tiled = answer(call("tile", "--json", "--tile-size", 200))
    assert tiled["tiles"] == tiled["unlabelled"] > 0
    assert Path(tiled["path"]).is_file()
    large = call("tile", "--json")
    assert large.exit_code == 1
    assert "tile_size=1024" in answer(large)["failures"][0]["error"]


def test_doctor(home):
    result = call("doctor", "--json")
    said = answer(result)
    assert result.exit_code == (1 if said["failures"] else 0)
    assert {"python", "packages", "openslide", "gpu", "free_disk_gb"} <= set(said)
    assert "torch" in said["packages"]
    assert said["home"] == str(home.root)


PARAMETERS = """\
name: str = "a"  # a text
count: int = 1  # a number
share: float = 0.5  # a share
really: bool = False  # or not
limit: Optional[float] = None  # where there is one
sizes: List[int] = [1, 2]  # px
"""


@pytest.fixture
def notebook(tmp_path) -> Path:
    """A notebook that writes its parameters down, and divides by `count`."""
    work = (
        "import json, os\n"
        "1 / count\n"
        "seen = [name, count, share, really, limit, sizes]\n"
        "open(os.path.join(os.environ['HISTO_HOME'], 'seen.json'), 'w').write(json.dumps(seen))"
    )
    first = nbformat.v4.new_code_cell("from typing import List, Optional\n" + PARAMETERS)
    first.metadata["tags"] = ["parameters"]
    content = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(work)])
    content.metadata["kernelspec"] = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(content, tmp_path / "tiny.ipynb")
    return tmp_path / "tiny.ipynb"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("name", "007", "007"),
        ("name", "true", "true"),
        ("name", '"; import os', '"; import os'),
        ("count", "7", 7),
        ("share", "1e-3", 0.001),
        ("share", "2", 2.0),
        ("share", 2, 2.0),
        ("really", "true", True),
        ("really", "0", False),
        ("limit", "None", None),
        ("limit", "0.25", 0.25),
        ("sizes", "[3, 4]", [3, 4]),
        ("sizes", [3, 4], [3, 4]),
        ("sizes", "[]", []),
    ],
)
def test_a_text_becomes_the_declared_type(notebook, name, text, value):
    found = check_parameters(notebook, {name: text})[name]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unknown", "1"),
        ("count", "1.5"),
        ("count", 1.5),
        ("count", "x"),
        ("count", ""),
        ("count", None),
        ("count", True),
        ("count", float("inf")),
        ("name", 7),
        ("share", "half"),
        ("really", "maybe"),
        ("limit", "x"),
        ("sizes", "3"),
        ("sizes", "[3"),
        ("sizes", "[3.5]"),
        ("sizes", "[null]"),
        ("sizes", "[[1]]"),
        ("sizes", '{"a": 1}'),
    ],
)
def test_another_type_is_refused_before_anything_starts(home, notebook, name, value, monkeypatch):
    monkeypatch.setattr(module.papermill, "execute_notebook", pytest.fail)
    with pytest.raises(NotebookError, match=name):
        run_notebook(notebook, home, parameters={name: value})
    assert not list(home.runs.iterdir())
    if isinstance(value, str):
        result = call("run", notebook, "-p", name, value, "--json")
        assert (result.exit_code, answer(result)["kind"]) == (1, "NotebookError")


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json"])
def test_what_is_no_notebook_is_named(home, tmp_path, content):
    (tmp_path / "a.ipynb").write_text(content)
    result = call("run", tmp_path / "a.ipynb", "--json")
    assert (result.exit_code, answer(result)["kind"]) == (1, "NotebookError")
    assert not list(home.runs.iterdir())


def test_a_notebook_runs_with_its_parameters(home, notebook):
    result = call("run", notebook, "--json", "-p", "name", "007", "-p", "sizes", "[5]")
    assert result.exit_code == 0, result.output
    said = answer(result)
    assert json.loads((home.root / "seen.json").read_text()) == ["007", 1, 0.5, False, None, [5]]
    executed = Path(said["notebook"])
    assert executed.parent == home.runs / said["run_id"]
    assert not has_errors(executed)
    facts = json.loads((executed.parent / "run.json").read_text())
    assert (facts["status"], facts["parameters"]) == ("done", {"name": "007", "sizes": [5]})


def test_a_notebook_that_fails_is_kept_aside(home, notebook):
    result = call("run", notebook, "--json", "-p", "count", "0")
    assert result.exit_code == 1
    assert "ZeroDivisionError" in answer(result)["error"]
    (folder,) = home.runs.iterdir()
    assert folder.name.endswith(".failed")
    assert has_errors(folder / "tiny.ipynb")
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert not (home.root / "seen.json").exists()


def test_an_interrupted_run_leaves_nothing(home, notebook, monkeypatch):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(papermill, "execute_notebook", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_notebook(notebook, home)
    assert not list(home.runs.iterdir())


@pytest.mark.parametrize("arguments", [
    ("export", "S-1", "thesis.docx"),
    ("export-labels", "S-1", "scan.svs"),
    ("export-model", "M-1", "card.doc"),
    ("export-model", "M-1", "folder"),
])  # fmt: skip
def test_an_export_takes_no_file_of_another_kind_for_its_own(home, tmp_path, arguments):
    *named, name = arguments
    path = tmp_path / name
    path.write_text("mine")
    result = CliRunner().invoke(main, [*named, str(path), "--home", str(home.root), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["kind"] == "SpecError"
    assert path.read_text() == "mine"


def test_an_export_asks_for_what_it_needs(home, tmp_path):
    for arguments in (
        ["export", str(tmp_path / "x.geojson")],
        ["export", "S-1", "S-2", str(tmp_path / "x.geojson")],
        ["export", "S-1", str(tmp_path / "x"), "--source", str(tmp_path)],
        ["send", str(tmp_path), "--to", "ARCHIVE"],
    ):
        result = CliRunner().invoke(main, [*arguments, "--home", str(home.root), "--json"])
        assert result.exit_code == 2, arguments
        assert json.loads(result.stdout)["kind"] == "UsageError"
