"""What a worker does with a slide: all its stages that are not done yet, under leases."""

import logging
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from histo_nb.errors import (
    BundleError,
    BusyError,
    CatalogAwayError,
    HistoError,
    SlideError,
    SpecError,
    StorageError,
    TableError,
)
from histo_nb.files import hash_content
from histo_nb.home import Home, open_home
from histo_nb.inference.provenance import code_facts
from histo_nb.inference.result import read_facts
from histo_nb.masking.masks import describe_mask
from histo_nb.running.cohort.ledger import Lease, LeaseLostError, Ledger, Work
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.cohort.stages import STAGES, Bench, SlideStages

log = logging.getLogger(__name__)

NOBODYS = StorageError | BundleError | CatalogAwayError  # no slide's fault: all would meet it


@dataclass(frozen=True)
class Place:
    """Where and with what code work is done; all workers of a cohort must agree."""

    root: str  # of the home
    database: str  # hash of its address, which may hold a password
    source_sha256: str


def find_place(home: Home) -> Place:
    """Return where this process would work on a home."""
    url = home.catalog.engine.url.render_as_string(hide_password=True)
    return Place(str(home.root), hash_content(url), code_facts()["source_sha256"])


@dataclass(frozen=True, kw_only=True)
class Job:
    """One slide for a worker; small, since it travels."""

    slide_id: str
    place: Place
    model_id: str
    spec: CohortSpec
    again: bool = False  # also what failed before


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a slide.

    `state` is "done", "failed", "held" (by another worker), "waiting" (to be tried again), or
    "stopped": nothing can be done for any slide now, `error` says why.
    """

    slide_id: str
    state: str
    stage: str | None = None
    reason: str | None = None
    attempts: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    error: HistoError | None = None


def work_slide(job: Job) -> Outcome:
    """Do what is not done yet of a slide, and say what became of it."""
    try:
        bench = _bench(job.place, job.model_id, job.spec)
        ledger = Ledger(bench.home.catalog, lease_s=job.spec.lease_s, tries=job.spec.tries)
        return _Slide(SlideStages(bench, job.slide_id), ledger, job).run()
    except (SlideError, TableError) as error:
        return Outcome(slide_id=job.slide_id, state="failed", reason=str(error), attempts=1)
    except HistoError as error:  # the home, its catalogue or the model: no slide's fault
        return Outcome(slide_id=job.slide_id, state="stopped", error=error)


@lru_cache(maxsize=1)  # the model is opened once a process
def _bench(place: Place, model_id: str, spec: CohortSpec) -> Bench:
    if not Path(place.root, "models", model_id).is_dir():
        raise SpecError(
            f"a worker on {platform.node()} does not see {place.root}; HISTO_HOME must lie on a "
            "file system that all workers share"
        )
    home = open_home(place.root)
    if find_place(home) != place:
        raise SpecError(
            f"a worker on {platform.node()} has another version of histo_nb, or another "
            "HISTO_DATABASE_URL, than the cohort; give all the same"
        )
    return Bench(home, home.models / model_id, spec=spec)


class _Slide:
    """One slide on its way through the stages."""

    def __init__(self, stages: SlideStages, ledger: Ledger, job: Job) -> None:
        self._stages, self._ledger, self._job = stages, ledger, job
        self._rows = ledger.rows(stages.works.values())

    def run(self) -> Outcome:
        if self._job.again:
            self._reopen(stage for stage in STAGES if self._said(stage, "state") == "failed")
        todo = [self._stages.works[stage] for stage in self._look()]
        held = self._ledger.take(todo[0]) if todo else None
        for work, then in zip(todo, [*todo[1:], None], strict=False):
            if held is None:
                return self._not_ours(work.stage)
            lease = held
            try:
                held = self._do(lease, then)
            except LeaseLostError:
                return self._outcome("held", work.stage)
            except Exception as error:  # of whatever kind: it must not stop the other slides
                return self._gone_wrong(lease, error)
        self._stages.show_result()
        return self._outcome("done", None)

    def _look(self) -> list[str]:
        """Return the stages that are to be done: those whose output is not there."""
        missing = [stage for stage in STAGES if not self._is_done(stage)]
        self._reopen(stage for stage in missing if self._said(stage, "state") == "done")
        return missing

    def _is_done(self, stage: str) -> bool:
        if self._said(stage, "state") != "done":
            return False
        return self._stages.find(stage, self._said(stage, "output_sha256")) is not None

    def _reopen(self, stages: Iterator[str]) -> None:
        works = [self._stages.works[stage] for stage in stages]
        if works:
            self._ledger.reopen(works)
            self._rows = self._ledger.rows(self._stages.works.values())

    def _said(self, stage: str, what: str) -> Any:
        return self._rows.get(self._stages.works[stage].key, {}).get(what)

    def _do(self, lease: Lease, then: Work | None) -> Lease | None:
        stage, started = lease.work.stage, time.perf_counter()
        with _kept(self._ledger, lease, self._job):
            # Somebody may have been killed between the last byte and the commit.
            output = self._stages.find(stage, None) or self._stages.make(stage)
        seconds = time.perf_counter() - started
        return self._ledger.finish(lease, output_sha256=output, seconds=seconds, then=then)

    def _gone_wrong(self, lease: Lease, error: Exception) -> Outcome:
        stage = lease.work.stage
        with suppress(LeaseLostError, CatalogAwayError):  # then the lease runs out
            if isinstance(error, NOBODYS | BusyError):
                self._ledger.give_back(lease)
            elif isinstance(error, SlideError | TableError):
                self._ledger.fail(lease, str(error), for_good=True)
            else:
                log.exception("%s of %s", stage, self._stages.slide_id)
                self._ledger.fail(lease, f"{type(error).__name__}: {error}", for_good=False)
        if isinstance(error, NOBODYS):
            return Outcome(slide_id=self._stages.slide_id, state="stopped", error=error)
        if isinstance(error, BusyError):
            return self._outcome("held", stage)
        return self._not_ours(stage)

    def _not_ours(self, stage: str) -> Outcome:
        """Return what the ledger says of a stage that could not be taken, or was not finished."""
        self._rows = self._ledger.rows(self._stages.works.values())
        states = {"leased": "held", "done": "held"}  # done by another just now: looked at again
        state = self._said(stage, "state") or "held"
        return self._outcome(states.get(state, state), stage)

    def _outcome(self, state: str, stage: str | None) -> Outcome:
        if state == "done":
            self._rows = self._ledger.rows(self._stages.works.values())
        return Outcome(
            slide_id=self._stages.slide_id,
            state=state,
            stage=stage,
            reason=self._said(stage, "reason") if stage else None,
            attempts=max((row["attempts"] for row in self._rows.values()), default=0),
            facts=self._facts() if state == "done" else {},
        )

    def _facts(self) -> dict[str, Any]:
        stages = self._stages
        said = read_facts(stages.result_folder)
        filed = stages.home.catalog.result(stages.slide_id, stages.result_folder.name)
        report, overview = (stages.report_folder / n for n in ("report.html", "overview.jpg"))
        seconds = {f"seconds_{stage}": self._said(stage, "seconds") for stage in STAGES}
        return {
            **{name: said[name] for name in ("slide_class", "confidence", "abnormal_fraction")},
            "n_tiles": filed["n_tiles"] if filed else None,
            "n_doubts": len(said["doubts"] or ()) + (not said["gate_passed"]),
            "quality_flags": describe_mask(stages.home, stages.slide_id)["quality_flags"],
            **seconds,
            "result_path": str(stages.result_folder),
            "report_path": str(report) if report.is_file() else None,
            "overview_path": str(overview) if overview.is_file() else None,
        }


@contextmanager
def _kept(ledger: Ledger, lease: Lease, job: Job) -> Iterator[None]:
    """Renew a lease while work goes on; end the process if it hangs."""
    done = threading.Event()
    thread = threading.Thread(target=_keep, args=(ledger, lease, job, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _keep(ledger: Ledger, lease: Lease, job: Job, done: threading.Event) -> None:
    started = time.monotonic()
    limit_s = job.spec.limit_s
    while not done.wait(min(job.spec.lease_s / 4, limit_s)):
        too_long = time.monotonic() - started >= limit_s
        reason = f"it took longer than {limit_s:g} s" if too_long else None
        try:
            ledger.renew(lease, reason=reason)
        except LeaseLostError:
            return  # what is made of it will not be committed
        except Exception:  # the catalogue is away for a moment; the lease still lasts
            log.warning("a lease could not be renewed", exc_info=True)
        if too_long:  # C code that hangs cannot be stopped otherwise
            os.kill(os.getpid(), signal.SIGKILL)
