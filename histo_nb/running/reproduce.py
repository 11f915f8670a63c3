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
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import stores_of
from histo_nb.errors import CatalogError, NotebookError, RunError, StorageError
from histo_nb.files import hash_file, staging
from histo_nb.home import Home, open_home
from histo_nb.masking.tissue import MaskSpec
from histo_nb.model.registry import production_entry, promote
from histo_nb.running.cohort.record import run_cohort
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.notebook import find_notebook, run_notebook
from histo_nb.running.notebook_facts import find_software, find_starts
from histo_nb.running.outputs import name_output
from histo_nb.scanning.verify import find_damage
from histo_nb.schema import META, RESULTS, RUNS, SLIDES, WORK
from histo_nb.tables import LABELLED_TILES, read_table
from histo_nb.tiling.table import tile_table_path

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
    with staging(home.staging) as working:
        try:
            with _fresh_home(home, working, facts) as fresh:
                made = _repeat(fresh, folder, facts)
        except shutil.Error as error:
            raise StorageError(
                f"what run {run_id} started from cannot be copied: something in {home.root} was "
                "written or deleted meanwhile; try again when nothing else works there"
            ) from error
        except RunError as error:
            said = error.__cause__ or error
            raise RunError(f"run {run_id} does not run to its end any more: {said}") from error
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
    query = sa.select(RUNS.c.run_path).where(RUNS.c.run_id == run_id.removesuffix(".failed"))
    with home.catalog.reading() as connection:
        path = connection.execute(query).scalar()
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
    for slide_id in _find_changed_slides(home, facts):
        yield f"slide {slide_id}: other bytes"
    tiles, name = (
        facts["inputs"].get("home", {}).get("tiles"),
        name_output(home, tile_table_path(home)),
    )
    if tiles and find_starts(home)["tiles"] not in {tiles, facts["outputs"].get(name)}:
        yield f"{name}: other tiles or labels; they are taken as they are"
    if "notebook_sha256" in facts and _find_same_notebook(facts) is None:
        yield f"{facts['notebook']}: the notebook was changed since; the copy of the run is used"


def _find_changed_slides(home: Home, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the slides whose files are not those that were filed, or not those of the run.

    A run that names no slide, but made a data set, has used those of the table of tiles.
    """
    then = dict(facts["inputs"]["slides"])
    table = tile_table_path(home)
    if not then and _makes_datasets(facts) and table.is_file():
        known = read_table(table, LABELLED_TILES).slide_id.unique()
        then = {name: None for name in known if home.catalog.has_slide(name)}
    if not then:
        return
    rows, bad = home.catalog.slides(then), set()
    for slide_id, sha256 in zip(rows.slide_id, rows.sha256, strict=True):
        if then[slide_id] not in (None, sha256):
            bad.add(slide_id)
    files = home.catalog.slide_files(then).to_dict("records")
    for file in tqdm(files, desc="slides", unit="file", disable=not files):
        if find_damage(file, home):
            bad.add(file["slide_id"])
    yield from sorted(bad)


def _makes_datasets(facts: Mapping[str, Any]) -> bool:
    return any(name.startswith("datasets/") for name in facts["outputs"])


@contextmanager
def _fresh_home(home: Home, working: Path, facts: Mapping[str, Any]) -> Iterator[Home]:
    """Yield a home in which a run can be repeated as if it had never been."""
    fresh = open_home(working / "home", own_catalog=True)
    made = {home.root / name for name in facts["outputs"]} | _find_later(home, facts)
    if _makes_datasets(facts):
        made.add(stores_of(home.datasets))  # decoded once more
    for name in STARTS:
        shutil.copytree(
            home.root / name,
            fresh.root / name,
            dirs_exist_ok=True,
            ignore_dangling_symlinks=True,
            copy_function=_carry,
            ignore=lambda folder, names: {n for n in names if _is_left_out(Path(folder) / n, made)},
        )
    _copy_catalog(home, fresh, facts)
    model = facts["inputs"].get("model")
    if model and (production_entry(fresh) or {}).get("model_id") != model["model_id"]:
        promote(fresh, model["model_id"], reason="a run is repeated", despite_gate=True)
    yield fresh


def _find_later(home: Home, facts: Mapping[str, Any]) -> set[Path]:
    """Return the data sets and models that were not there when a run began: it takes the newest."""
    later = set()
    for kind, there in facts["inputs"].get("home", {}).items():
        if kind in ("datasets", "models"):
            folders = {path for path in (home.root / kind).glob("[DM]-*") if path.is_dir()}
            later |= {path for path in folders if path.name not in there}
    return later


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


def _copy_catalog(home: Home, fresh: Home, facts: Mapping[str, Any]) -> None:
    """Copy what is known of slides, and what people said; not what runs made.

    Slides that the run made are left out, and those that came later if it says which it used.
    """
    kept = [table for table in META.sorted_tables if table not in MADE_ANEW]
    made = {Path(name).stem for name in facts["outputs"] if name.startswith("slides/")}
    used = list(facts["inputs"]["slides"])
    with home.catalog.snapshot() as source, fresh.catalog.writing("") as target:
        for table in kept:
            target.execute(table.delete())
            query = sa.select(table)
            if "slide_id" in table.c and (table is SLIDES or table.c.slide_id.foreign_keys):
                among = home.catalog.among(table.c.slide_id, used or made)
                query = query.where(among if used else sa.not_(among))
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
        run_folder = run_notebook(notebook, fresh, parameters=facts["parameters"]).folder
    outputs: dict[str, str] = json.loads((run_folder / "run.json").read_text("utf-8"))["outputs"]
    return outputs


def _find_same_notebook(facts: Mapping[str, Any]) -> Path | None:
    """Return the notebook that was run, if it is still as it was."""
    try:
        notebook = find_notebook(facts["notebook"])
    except NotebookError:
        return None
    return notebook if hash_file(notebook) == facts["notebook_sha256"] else None
