"""Repeats a run in a fresh home and compares what it makes with what it made then.

The fresh home sees the same slides, and has the masks, tiles, data sets and models of this home:
copies, but for weights and decoded pixels, which are never written twice and are linked. What the
run made is left out, so that it must be made again.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from histo_nb.errors import CatalogError, NotebookError, RunError
from histo_nb.files import hash_file, staging
from histo_nb.home import Home, open_home
from histo_nb.masking.tissue import MaskSpec
from histo_nb.model.registry import production_entry, promote
from histo_nb.running.cohort.record import run_cohort
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.notebook import find_notebook, run_notebook
from histo_nb.running.notebook_facts import find_software
from histo_nb.schema import META, RESULTS, RUNS, SLIDES, WORK

STARTS = ("masks", "tiles", "datasets", "models")  # what a run may start from, beside slides
LINKED = (".npy", ".safetensors")  # large, and never changed once they have their names
UNDER_WAY = (".part.npy", ".done", ".lock")  # of what is being written just now; so is .name
MADE_ANEW = (RESULTS, RUNS, WORK)  # tables that tell of what runs made


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """What became of a run that was repeated."""

    run_id: str
    n_same: int
    outputs: list[dict[str, Any]]  # `output, was, is, same`
    changed: list[str]  # what is not as it was then: code, packages, notebook, inputs


def reproduce(home: Home, run_id: str) -> Repetition:
    """Repeat the run of a notebook or a cohort, and compare the hashes of its outputs.

    It runs with the code and packages that are installed now; `changed` says what differs.

    Raises
    ------
    CatalogError
        There is no such run, or a slide of it is no longer there.
    RunError
        It failed, made nothing that can be compared, or does not run any more.
    """
    folder = find_run(home, run_id)
    facts = _read_facts(folder)
    changed = [*find_changes(home, facts)]
    with staging(home.staging) as working, _fresh_home(home, working, facts) as fresh:
        made = _repeat(fresh, folder, facts)
    outputs = [
        {"output": name, "was": was, "is": made.get(name), "same": made.get(name) == was}
        for name, was in facts["outputs"].items()
    ]
    return Repetition(
        run_id=run_id,
        n_same=sum(row["same"] for row in outputs),
        outputs=outputs,
        changed=changed,
    )


def find_run(home: Home, run_id: str) -> Path:
    """Return the folder of a run.

    Raises
    ------
    CatalogError
        There is none of that name.
    """
    with home.catalog.reading() as connection:
        path = connection.execute(
            sa.select(RUNS.c.run_path).where(RUNS.c.run_id == run_id)
        ).scalar()
    if path is None or not (Path(path) / "run.json").is_file():
        raise CatalogError(f"no run {run_id} in {home.runs}; its folders are named as the runs are")
    return Path(path)


def _read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if facts["status"] != "done" and "cohort_id" not in facts:
        raise RunError(f"run {folder.name} did not end well; only whole runs can be compared")
    if not facts.get("outputs"):
        raise RunError(
            f"run {folder.name} noted nothing that it made: it only looked, or is of an earlier "
            "version; run its notebook again, then reproduce that run"
        )
    return facts


def find_changes(home: Home, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is not as it was when a run was made."""
    now = find_software()
    sources = "source_sha256"
    if now["code"][sources] != facts["code"][sources]:
        was, is_ = (said["code"][sources][:12] for said in (facts, now))
        yield f"code: sources {was}, now {is_}"
    for name, was in facts["packages"].items():
        if (is_ := now["packages"].get(name)) != was:
            yield f"{name}: {was}, now {is_}"
    slides = facts["inputs"]["slides"]
    for row in home.catalog.slides(slides).to_dict("records") if slides else []:
        if row["sha256"] != slides[row["slide_id"]]:
            yield f"slide {row['slide_id']}: other bytes"
    if "notebook_sha256" in facts and _find_same_notebook(facts) is None:
        yield f"{facts['notebook']}: the notebook was changed since; the copy of the run is used"


@contextmanager
def _fresh_home(home: Home, working: Path, facts: Mapping[str, Any]) -> Iterator[Home]:
    """Yield a home in which a run can be repeated as if it had never been."""
    fresh = open_home(working / "home", own_catalog=True)
    made = {home.root / name for name in facts["outputs"]}
    for name in STARTS:
        shutil.copytree(
            home.root / name,
            fresh.root / name,
            dirs_exist_ok=True,
            copy_function=_carry,
            ignore=lambda folder, names: {n for n in names if _is_left_out(Path(folder) / n, made)},
        )
    _copy_catalog(home, fresh, without={Path(name).stem for name in facts["outputs"]
                                        if name.startswith("slides/")})  # fmt: skip
    model = facts["inputs"].get("model")
    if model and (production_entry(fresh) or {}).get("model_id") != model["model_id"]:
        promote(fresh, model["model_id"], reason="a run is repeated", despite_gate=True)
    yield fresh


def _is_left_out(path: Path, made: set[Path]) -> bool:
    if path.name.startswith(".") or path.name.endswith(UNDER_WAY):
        return True
    # A table of tiles is kept: a run may have replaced some of its rows only.
    return path in made and path.suffix != ".parquet"


def _carry(source: str, target: str) -> None:
    if Path(source).suffix in LINKED:
        with suppress(OSError):  # of another disk
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _copy_catalog(home: Home, fresh: Home, *, without: set[str]) -> None:
    """Copy what is known of slides, and what people said; not what runs made."""
    kept = [table for table in META.sorted_tables if table not in MADE_ANEW]
    with home.catalog.snapshot() as source, fresh.catalog.writing("") as target:
        for table in kept:
            target.execute(table.delete())
            query = sa.select(table)
            if "slide_id" in table.c and (table is SLIDES or table.c.slide_id.foreign_keys):
                query = query.where(table.c.slide_id.not_in(without))
            for rows in source.execute(query).mappings().partitions(1000):
                target.execute(table.insert(), [dict(row) for row in rows])


def _repeat(fresh: Home, folder: Path, facts: Mapping[str, Any]) -> dict[str, str]:
    """Run once more; return the outputs."""
    if "cohort_id" in facts:
        said = facts["spec"]
        spec = CohortSpec(**{**said, "mask": MaskSpec(**said["mask"])})
        run_folder = run_cohort(fresh, list(facts["inputs"]["slides"]), spec=spec).folder
    else:
        notebook = _find_same_notebook(facts) or folder / facts["notebook"]
        given = facts["parameters"]
        run_folder = run_notebook(notebook, fresh, parameters=given).folder
    outputs: dict[str, str] = json.loads((run_folder / "run.json").read_text("utf-8"))["outputs"]
    return outputs


def _find_same_notebook(facts: Mapping[str, Any]) -> Path | None:
    """Return the notebook that was run, if it is still as it was."""
    try:
        notebook = find_notebook(facts["notebook"])
    except NotebookError:
        return None
    return notebook if hash_file(notebook) == facts["notebook_sha256"] else None
