"""A whole run of a cohort, and what is left of it: its folder below `runs`."""

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.catalog import stamp
from histo_nb.errors import HistoError
from histo_nb.export.cohort_page import write_cohort_page
from histo_nb.export.crate import write_crate
from histo_nb.files import hash_content, note_written, write_json, writing_folder
from histo_nb.home import Home
from histo_nb.inference.provenance import code_facts, environment_facts
from histo_nb.inference.result import result_folder
from histo_nb.model.seal import is_passed, read_gate
from histo_nb.running.cohort.inputs import find_cohort
from histo_nb.running.cohort.runner import Cohort
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.outputs import hash_output, name_output


class UnfinishedError(HistoError):
    """A cohort was stopped before its end; the same command goes on where it was."""

    exit_code = 75  # as batch systems say "try again later"

    def __init__(self, message: str, *, facts: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.facts = facts or {}


@dataclass(frozen=True, kw_only=True)
class CohortRun:
    """What a run of a cohort left."""

    cohort_id: str
    folder: Path
    slides: pd.DataFrame  # `runner.COLUMNS`, a row a slide
    refused: list[dict[str, Any]]  # files that were not taken in: `slide_id, step, error`
    facts: dict[str, Any]

    @property
    def page(self) -> Path:
        """The page that says what happened."""
        return self.folder / "cohort.html"

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Slides that failed and files that were refused: `slide_id, step, error`."""
        failed = self.slides[self.slides.state == "failed"]
        columns = failed[["slide_id", "stage", "reason"]]
        named = columns.set_axis(["slide_id", "step", "error"], axis=1)
        rows: list[dict[Any, Any]] = named.to_dict("records")
        return [*self.refused, *rows]


def run_cohort(
    home: Home,
    sources: Sequence[str] = (),
    *,
    spec: CohortSpec | None = None,
    again: bool = False,
    stop: threading.Event | None = None,
) -> CohortRun:
    """Take slides through mask, tile, analyse and report, and write what happened.

    Parameters
    ----------
    sources
        See `find_cohort`; none = all slides of the catalogue.
    again
        Slides that failed before are tried again, too.
    stop
        No more slides are begun once it is set.

    Raises
    ------
    BundleError
        No model is in production, or it cannot be used; then no file is taken in either.
    StorageError, CatalogAwayError, EngineLostError
        There is no space, no catalogue, no scheduler. What is done is kept, and stands on the page;
        the same call goes on.
    """
    started, clock = datetime.now(UTC), time.perf_counter()
    with Cohort(home, spec=spec, again=again) as cohort:
        slide_ids, refused = find_cohort(home, sources, stop=stop)
        begun = time.perf_counter()
        slides, error = cohort.work(slide_ids, stop=stop)
        seconds = time.perf_counter() - begun
        facts = _facts(cohort, slides, started=started, seconds=seconds)
    facts |= {
        "seconds_in_all": round(time.perf_counter() - clock, 2),
        "failures_of_intake": refused,
        "stopped_by": str(error) if error else None,
    }
    if error:
        with suppress(HistoError):  # the disk may be full
            _write(home, slides, facts)
        raise error
    folder = _write(home, slides, facts)
    _note_results(home, facts)
    return CohortRun(
        cohort_id=facts["cohort_id"], folder=folder, slides=slides, refused=refused, facts=facts
    )


def _facts(
    cohort: Cohort, slides: pd.DataFrame, *, started: datetime, seconds: float
) -> dict[str, Any]:
    n_done = int((slides.state == "done").sum())
    n_left = len(slides) - n_done
    cohort_id = f"{started:%Y%m%dT%H%M%S%f}_cohort"
    return {
        "run_id": cohort_id,
        "notebook": "cohort",
        "cohort_id": cohort_id,
        "status": "failed" if n_left else "done",
        "fault": f"{n_left} of {len(slides)} slides are not done" if n_left else None,
        "started_at": stamp(started),
        "ended_at": stamp(datetime.now(UTC)),
        "seconds": round(seconds, 2),
        "n_workers": cohort.n_workers,
        "slides_per_hour": round(3600 * n_done / seconds, 1) if seconds else None,
        "counts": slides.state.value_counts().to_dict(),
        "model_id": cohort.card.model_id,
        "normal_class": cohort.card.normal_class,
        "gate_passed": is_passed(read_gate(cohort.folder)),
        "spec": asdict(cohort.spec),
        "code": code_facts(),
        "packages": environment_facts(),
        "slides_sha256": hash_content(sorted(slides.slide_id)),
        "declared": {name: {"value": value} for name, value in asdict(cohort.spec).items()},
        "inputs": _inputs(cohort, slides),
        "outputs": _outputs(cohort, slides),
    }


def _inputs(cohort: Cohort, slides: pd.DataFrame) -> dict[str, Any]:
    card, wanted = cohort.card, slides.slide_id.tolist()
    rows = cohort.home.catalog.slides(wanted) if wanted else slides.assign(sha256="")
    return {
        "slides": dict(zip(rows.slide_id, rows.sha256, strict=True)),
        "model": {"model_id": card.model_id, "weights_sha256": card.weights_sha256},
    }


def _outputs(cohort: Cohort, slides: pd.DataFrame) -> dict[str, str]:
    """Return the hashes of the results by their names in the home."""
    home, model_id = cohort.home, cohort.card.model_id
    done = sorted(slides.slide_id[slides.state == "done"])
    folders = [result_folder(home, name, model_id) for name in done]
    return {
        name_output(home, folder): hash_output(folder)
        for folder in folders
        if folder.is_dir()  # nobody has deleted it meanwhile
    }


def _note_results(home: Home, facts: dict[str, Any]) -> None:
    """Note the results for the notebook that runs us: workers elsewhere do not know of it."""
    for name in facts["outputs"]:
        note_written(home.root / name)


def _write(home: Home, slides: pd.DataFrame, facts: dict[str, Any]) -> Path:
    folder = home.runs / facts["cohort_id"]
    with writing_folder(folder) as temporary:
        slides.to_parquet(temporary / "slides.parquet", index=False)
        write_cohort_page(facts, slides, temporary / "cohort.html")
        write_json(temporary / "run.json", facts)
        write_crate(temporary, facts)
    home.catalog.add_run(
        {
            "run_id": facts["cohort_id"],
            "notebook": "cohort",
            "status": facts["status"],
            "started_at": facts["started_at"],
            "seconds": facts["seconds"],
            "run_path": str(folder),
        }
    )
    return folder
