"""The house's rules that no linter knows. What linters know is checked by `make check`."""

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path

import nbformat
import papermill
import pytest

import histo_nb

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
DASHBOARDS = sorted(ROOT.glob("dashboards/*.ipynb"))
SOURCES = sorted(ROOT.glob("histo_nb/**/*.py"))
ROOMS = [m.name for m in pkgutil.walk_packages(histo_nb.__path__, "histo_nb.") if m.ispkg]
UNSAFE = re.compile(
    r"pickle\.load|(?<!safetensors\.)torch\.load|[Ll]earn(?:er)?\.export|allow_pickle=True|joblib"
)

# What needs neither torch nor fastai nor matplotlib: the ground floor, the technician's desk, the
# worklist and the results. A dashboard kernel with torch takes ten times the memory.
LIGHT = [
    *(f"histo_nb.{m.name}" for m in pkgutil.iter_modules(histo_nb.__path__) if not m.ispkg),
    *(f"histo_nb.{room}" for room in ("scanning", "masking", "tiling", "export")),
    "histo_nb.widgets.review",
    "histo_nb.widgets.operations",
    "histo_nb.widgets.rack_panel",
    "histo_nb.widgets.board",
    "histo_nb.widgets.studio",
    "histo_nb.widgets.patient",
    "histo_nb.inference.result",
    "histo_nb.inference.regions",
    "histo_nb.inference.predictions",
    "histo_nb.inference.pipeline",
    "histo_nb.inference.openvino_runtime",
]


def modules(package):
    """A package and all modules in it; a plain module is itself."""
    found = importlib.util.find_spec(package).submodule_search_locations or []
    return [package, *(m.name for m in pkgutil.walk_packages(found, f"{package}."))]


def test_imports_point_downwards():
    # in a process of its own: import-linter switches off all loggers there are
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    child = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout


def test_light_modules_load_no_torch():
    code = f"""if True:
        import importlib, sys
        for name in {[module for name in LIGHT for module in modules(name)]}:
            importlib.import_module(name)
            heavy = {{"torch", "fastai", "matplotlib"}} & set(sys.modules)
            assert not heavy, f"{{name}} loads {{heavy}}"
    """
    child = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=False)
    assert child.returncode == 0, child.stderr.decode()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_flows_in_and_out(room):
    said = inspect.getdoc(importlib.import_module(room)) or ""
    assert re.search(r"\bIn: .*\bOut: ", said, re.DOTALL), said


@pytest.mark.parametrize("path", [*SOURCES, *NOTEBOOKS, *DASHBOARDS], ids=lambda path: path.name)
def test_nothing_executes_code_on_load(path):
    assert not UNSAFE.findall(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_calls_and_does_not_define(path):
    cells = nbformat.read(path, as_version=4).cells
    trees = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    defined = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While)
    assert not [ast.unparse(node) for node in nodes if isinstance(node, defined)]
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1


def spec_defaults(room):
    """Each field of the room's specs with its defaults: `{"mpp": [0.5], …}`."""
    found = {}
    for module in map(importlib.import_module, modules(f"histo_nb.{room}")):
        for name, spec in vars(module).items():
            if name.endswith(("Spec", "Rule")) and is_dataclass(spec):
                for field in fields(spec):
                    made = field.default_factory
                    default = field.default if made is MISSING else made()
                    if default is not MISSING:
                        plain = list(default) if isinstance(default, tuple) else default
                        found.setdefault(field.name, []).append(plain)
    return found


ROOMS = {"cohort": "running.cohort", "report": "export", "exports": "export"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_parameter_starts_at_its_specs_default(path):
    name = path.stem.split("_", 1)[1]
    defaults = spec_defaults(ROOMS.get(name, name))
    parameters = papermill.inspect_notebook(path)
    (cell,) = (
        cell
        for cell in nbformat.read(path, as_version=4).cells
        if "parameters" in cell.metadata.get("tags", [])
    )
    assigned = [n.target.id for n in ast.parse(cell.source).body if isinstance(n, ast.AnnAssign)]
    assert list(parameters) == assigned, "papermill must see every parameter: name: type = value"
    for name, said in parameters.items():
        assert said["help"], f"{name} lacks its comment: meaning, unit"
        if name in defaults:
            assert ast.literal_eval(said["default"]) in defaults[name], name
