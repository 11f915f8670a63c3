"""Strict papermill: only declared parameters of the right type reach a notebook.

A run is checked before anything starts (`plan_run`), works in a staging folder, and appears in
`runs` whole or not at all.
"""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from histo_nb.errors import BundleError, NotebookError, RunError
from histo_nb.export.crate import write_crate
from histo_nb.files import read_written, staging, sync, write_json
from histo_nb.home import Home
from histo_nb.running.notebook_exit import cell_fault
from histo_nb.running.notebook_facts import (
    find_inputs,
    find_model_facts,
    find_seeds,
    find_software,
)
from histo_nb.running.notebook_kernel import ENGINE, KernelSpec
from histo_nb.running.notebook_page import make_page
from histo_nb.running.notebook_parameters import Parameter, check_values, read_parameters
from histo_nb.running.outputs import find_outputs

ANALYSES = ("analyse_slides(", "run_cohort(", "production_model(")  # a notebook that needs a model
PROMOTES = ("pass_gate(", "promote(")  # … unless it puts one into production itself


@dataclass(frozen=True)
class Run:
    """One executed notebook."""

    run_id: str
    folder: Path
    notebook: Path  # the executed copy
    seconds: float

    @property
    def page(self) -> Path:
        """The run as a page to read, without code."""
        return self.notebook.with_suffix(".html")


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """A run that has been checked and not started."""

    notebook: Path
    content: NotebookNode
    sha256: str  # of the notebook's file
    declared: dict[str, Parameter]
    given: dict[str, Any]
    inputs: dict[str, Any]
    software: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """All parameters, as given, else by default."""
        return _values(self.declared, self.given)

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of the run before it starts."""
        kinds = {name: parameter.kind for name, parameter in self.declared.items()}
        return {
            "notebook": self.notebook.name,
            "notebook_sha256": self.sha256,
            "parameters": self.given,
            "declared": {n: {"type": kinds[n], "value": v} for n, v in self.values.items()},
            "seeds": find_seeds(self.values),
            "inputs": self.inputs,
            **self.software,
        }


def notebooks_folder() -> Path:
    """Return the folder of our notebooks: of the checkout, else of the installed package."""
    package = Path(__file__).parents[1]
    checkout = package.parent / "notebooks"
    return checkout if (checkout / "01_scanning.ipynb").is_file() else package / "_notebooks"


def find_notebook(name: str) -> Path:
    """Return a notebook by path, or one of ours by name (`03_tiling`).

    Raises
    ------
    NotebookError
        There is none.
    """
    for path in (Path(name), notebooks_folder() / name, notebooks_folder() / f"{name}.ipynb"):
        if path.is_file() and path.suffix == ".ipynb":
            return path
    ours = ", ".join(sorted(p.stem for p in notebooks_folder().glob("*.ipynb")))
    raise NotebookError(f"no notebook {name!r}; give a path, or one of {ours}")


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters in their declared types; texts (from a command line) are converted.

    papermill itself only warns of an unknown name, and executes a hostile one.

    Raises
    ------
    NotebookError
        A name is not declared in the notebook's parameters cell, or a value has another type.
    """
    content, _ = _read_notebook(notebook)
    declared = read_parameters(content, notebook.name) if parameters else {}
    return check_values(declared, parameters, notebook=notebook.name)


def plan_run(notebook: Path, home: Home, *, parameters: Mapping[str, Any] | None = None) -> RunPlan:
    """Check all that a run needs, and start nothing.

    Raises
    ------
    NotebookError
        It does not open, or a parameter is refused.
    CatalogError
        A slide that a parameter names is not in the catalogue.
    BundleError
        It analyses, and no model is in production.
    """
    content, sha256 = _read_notebook(notebook)
    given = dict(parameters or {})
    try:
        declared = read_parameters(content, notebook.name)
    except NotebookError:
        if given:
            raise
        declared = {}  # nothing is given, so nothing can go wrong
    checked = check_values(declared, given, notebook=notebook.name)
    values = _values(declared, checked)
    inputs = find_inputs(values, home, cwd=notebook.absolute().parent)
    return RunPlan(
        notebook=notebook,
        content=content,
        sha256=sha256,
        declared=declared,
        given=checked,
        inputs=inputs | {"model": _find_model(content, home)},
        software=find_software(),
    )


def _read_notebook(notebook: Path) -> tuple[NotebookNode, str]:
    try:
        raw = notebook.read_bytes()
        content = nbformat.reads(raw.decode(), as_version=4)
        nbformat.validate(content)
    except Exception as error:  # nbformat and jsonschema raise what they like
        raise NotebookError(f"{notebook} does not open as a notebook ({error})") from error
    # An executed copy that is run again must not keep the values of its last run.
    content.cells = [c for c in content.cells if "injected-parameters" not in _tags(c)]
    return content, hashlib.sha256(raw).hexdigest()


def _tags(cell: NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def _values(declared: Mapping[str, Parameter], given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: given.get(name, parameter.default) for name, parameter in declared.items()}


def _find_model(content: NotebookNode, home: Home) -> dict[str, str] | None:
    code = "\n".join(cell.source for cell in content.cells if cell.cell_type == "code")
    needed = any(word in code for word in ANALYSES) and not any(word in code for word in PROMOTES)
    try:
        model = find_model_facts(home)
    except BundleError:
        if needed:
            raise
        return None
    if needed and model is None:
        raise BundleError(
            "this notebook analyses, and no model is in production; train one with "
            "`histo-nb train` and pass `histo-nb gate`"
        )
    return model


def run_notebook(
    notebook: Path,
    home: Home,
    *,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = None,
    total_timeout_s: float | None = None,
) -> Run:
    """Execute a notebook into `runs/<time>_<name>/` and file the run in the catalogue.

    The folder holds the executed copy, a page without code, `run.json`, and the same as an
    RO-Crate. It is kept also when
    the notebook failed; it then ends in `.failed`. After an interruption nothing is left, and what
    a killed process left in the staging folder is swept by the next run.

    Parameters
    ----------
    timeout_s
        Longest time for one cell.
    total_timeout_s
        Longest time for the whole notebook.

    Raises
    ------
    NotebookError
        A parameter is refused (before anything starts).
    RunError
        A cell raised an error or took too long, or the kernel died; `exit_code` says which.
    CatalogError, BundleError
        See `plan_run`.
    StorageError
        The disk is full, or the folder may not be written.
    """
    kernel = KernelSpec(
        cwd=notebook.absolute().parent,
        home=home.root,
        timeout_s=timeout_s,
        total_timeout_s=total_timeout_s,
    )
    plan = plan_run(notebook, home, parameters=parameters)
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%S%f}_{notebook.stem}"
    clock = time.perf_counter()
    with staging(home.staging) as working:
        executed, noted = working / notebook.name, working / "written"
        fault = _execute(plan, executed, replace(kernel, written=noted))
        outputs = find_outputs(home, read_written(noted))
        noted.unlink(missing_ok=True)
        seconds = time.perf_counter() - clock
        facts = {
            "run_id": run_id,
            "status": "failed" if fault else "done",
            "fault": str(fault) if fault else None,
            "started_at": started.isoformat(timespec="seconds"),
            "ended_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 2),
            **plan.facts,
            "outputs": outputs,
        }
        folder = _file_run(home, working, facts)
    kept = Run(run_id, folder, folder / notebook.name, seconds)
    if fault:
        raise RunError(
            f"{notebook.name} failed, {fault} (see {kept.notebook})",
            exit_code=fault.exit_code,
            facts={"run_id": run_id, "notebook": str(kept.notebook)},
        ) from fault
    return kept


def _execute(plan: RunPlan, executed: Path, kernel: KernelSpec) -> RunError | None:
    """Write a notebook's executed copy; return what went wrong in it."""
    nbformat.write(plan.content, executed)
    path = str(executed).replace("{", "{{").replace("}", "}}")  # papermill takes it for a template
    try:
        papermill.execute_notebook(
            path,
            path,
            parameters=plan.given,
            engine_name=ENGINE,
            kernel_name="python3",
            language="python",
            log_output=False,
            kernel=kernel,
        )
    except PapermillExecutionError as error:
        return cell_fault(error)
    except RunError as error:
        return error
    return None


def _file_run(home: Home, working: Path, facts: dict[str, Any]) -> Path:
    """Complete a run's folder, let it appear in `runs`, and file it in the catalogue."""
    executed = working / facts["notebook"]
    executed.with_suffix(".html").write_text(make_page(executed, facts), encoding="utf-8")
    write_json(working / "run.json", facts)
    write_crate(working, facts)
    sync(executed)
    failed = facts["status"] == "failed"
    folder = home.runs / f"{facts['run_id']}{'.failed' if failed else ''}"
    working.rename(folder)
    sync(home.runs)
    filed = ("run_id", "notebook", "status", "started_at", "seconds")
    home.catalog.add_run({name: facts[name] for name in filed} | {"run_path": str(folder)})
    return folder


def has_errors(notebook: Path) -> bool:
    """Return whether any cell of an executed notebook shows an error."""
    content = nbformat.read(notebook, as_version=4)
    outputs = [o for cell in content.cells for o in cell.get("outputs", [])]
    return any(output["output_type"] == "error" for output in outputs)
