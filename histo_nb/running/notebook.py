"""Strict papermill: only declared parameters of the right type reach a notebook."""

import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError

from histo_nb.errors import NotebookError
from histo_nb.files import storage_errors, write_json
from histo_nb.home import Home
from histo_nb.model.card import installed_versions

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Run:
    """One executed notebook."""

    run_id: str
    folder: Path
    notebook: Path  # the executed copy
    seconds: float


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
    try:
        declared = papermill.inspect_notebook(str(notebook))
    except Exception as error:  # nbformat, jsonschema and papermill raise what they like
        raise NotebookError(f"{notebook} does not open as a notebook ({error})") from error
    checked = {}
    for name, value in parameters.items():
        if name not in declared:
            raise NotebookError(
                f"{notebook.name} has no parameter {name!r}; it has {', '.join(declared) or 'none'}"
            )
        kind = declared[name]["inferred_type_name"]
        try:
            checked[name] = _convert(value, kind)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise NotebookError(
                f"parameter {name}={value!r} of {notebook.name} must be {kind}"
            ) from error
    return checked


def _convert(value: Any, kind: str) -> Any:
    if kind.startswith("Optional["):
        return None if value in (None, "None", "") else _convert(value, kind[9:-1])
    if kind.startswith(("List[", "list[")):
        items = json.loads(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise ValueError(value)
        return [_convert(item, kind[5:-1]) for item in items]
    if kind == "bool":
        if str(value).lower() not in TRUTH:
            raise ValueError(value)
        return TRUTH[str(value).lower()]
    if kind == "str":
        if not isinstance(value, str):
            raise ValueError(value)
        return value
    if isinstance(value, bool) or kind not in ("int", "float"):
        raise ValueError(value)
    number = {"int": int, "float": float}[kind](value)
    if isinstance(value, float) and number != value:
        raise ValueError(value)
    return number


def run_notebook(
    notebook: Path,
    home: Home,
    *,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: int | None = None,
) -> Run:
    """Execute a notebook into `runs/<time>_<name>/` and file the run in the catalogue.

    The executed copy is kept also when the notebook failed; its folder then ends in `.failed`.

    Parameters
    ----------
    timeout_s
        Longest time for one cell.

    Raises
    ------
    NotebookError
        A parameter is refused (before anything starts), a cell raised an error, took too long, or
        the kernel died.
    """
    checked = check_parameters(notebook, parameters or {})
    started = datetime.now(UTC)
    run_id = f"{started:%Y%m%dT%H%M%S%f}_{notebook.stem}"
    working = home.runs / f".{run_id}"
    with storage_errors(working):
        working.mkdir()
    clock = time.perf_counter()
    os.environ["HISTO_HOME"] = str(home.root)
    fault = ""
    try:
        papermill.execute_notebook(
            str(notebook),
            str(working / notebook.name),
            parameters=checked,
            kernel_name="python3",
            cwd=str(notebook.parent),
            execution_timeout=timeout_s,
            log_output=False,
        )
    except PapermillExecutionError as error:
        fault = f"cell {error.cell_index + 1}: {error.ename}: {error.evalue}"
    except DeadKernelError:
        fault = "the kernel died, most often for lack of memory"
    except CellTimeoutError:
        fault = f"a cell took longer than {timeout_s} s"
    except BaseException:  # interrupted, or a full disk: no half run is left
        shutil.rmtree(working, ignore_errors=True)
        raise
    seconds = time.perf_counter() - clock
    facts = {
        "run_id": run_id,
        "notebook": notebook.name,
        "status": "failed" if fault else "done",
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": round(seconds, 2),
    }
    folder = home.runs / (f"{run_id}.failed" if fault else run_id)
    details = {"parameters": checked, "fault": fault or None, "packages": installed_versions()}
    write_json(working / "run.json", facts | details)
    working.rename(folder)
    home.catalog.add_run(facts | {"run_path": str(folder)})
    if fault:
        raise NotebookError(f"{notebook.name} failed, {fault} (see {folder / notebook.name})")
    return Run(run_id, folder, folder / notebook.name, seconds)


def has_errors(notebook: Path) -> bool:
    """Return whether any cell of an executed notebook shows an error."""
    content = nbformat.read(notebook, as_version=4)
    outputs = [o for cell in content.cells for o in cell.get("outputs", [])]
    return any(output["output_type"] == "error" for output in outputs)
