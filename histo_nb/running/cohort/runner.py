"""Many slides through mask, tile, analyse, report: unattended, resumable, on many processes."""

import logging
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.inference.runtime import choose_runtime
from histo_nb.model.registry import production_model
from histo_nb.model.seal import check_bundle
from histo_nb.running.cohort.engine import Engine, EngineLostError, is_local, open_engine
from histo_nb.running.cohort.jobs import JobQueue
from histo_nb.running.cohort.ledger import Ledger
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.cohort.stages import STAGES
from histo_nb.running.cohort.worker import Job, find_place

log = logging.getLogger(__name__)

ALONE_S = (
    30.0  # without workers on this machine, where Dask starts killed ones again, but not always
)
PATIENCE_S = 600.0  # for a scheduler that does not answer, or has no workers
LOOK_S = 0.5  # what is waited for an answer before it is looked whether there is room for more
COLUMNS = ["slide_id", "state", "stage", "reason", "attempts", "slide_class", "confidence",
           "abnormal_fraction", "n_tiles", "n_doubts", "quality_flags",
           *(f"seconds_{stage}" for stage in STAGES),
           "result_path", "report_path", "overview_path"]  # fmt: skip

__all__ = ["Cohort", "CohortSpec"]


class Cohort:
    """Workers that are kept, with the model opened, from one run to the next.

    Parameters
    ----------
    again
        Slides that failed before are tried again, too.

    Raises
    ------
    BundleError
        No model is in production, it is damaged, or the asked runtime did not pass.
    EngineLostError
        There is no Dask scheduler where `HISTO_SCHEDULER` says.
    """

    def __init__(self, home: Home, *, spec: CohortSpec | None = None, again: bool = False) -> None:
        spec, self.folder = spec or CohortSpec(), production_model(home)
        self.card = check_bundle(self.folder)
        # Chosen here, once: each machine might choose otherwise.
        runtime, precision = choose_runtime(
            self.folder, runtime=spec.runtime, precision=spec.precision
        )
        self.home, self.spec = home, replace(spec, runtime=runtime, precision=precision)
        self._again, self._place = again, find_place(home)
        self._engine: Engine | None = open_engine(spec.n_workers)
        self._left: list[str] = []  # slides that were given out when a run ended
        self._alone_since: float | None = None  # since when there is no worker

    def __enter__(self) -> "Cohort":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def n_workers(self) -> int:
        """Processes that work now."""
        return self._engine.n_workers if self._engine else 0

    def close(self) -> None:
        """End the workers; the slides they were at go on from their journals another time."""
        if self._engine:
            self._engine.close()
        self._engine = None
        if self._left:
            spec = self.spec
            ledger = Ledger(self.home.catalog, lease_s=spec.lease_s, tries=spec.tries)
            ledger.give_back_dead(self._left)
        self._left = []

    def run(self, slide_ids: Iterable[str], *, stop: threading.Event | None = None) -> pd.DataFrame:
        """Do what is not done yet of these slides; return `COLUMNS`, a row a slide, in their order.

        A slide that cannot be used is a row with its reason. With `stop` set no new slide is begun,
        and those that are not finished have the state "waiting".

        Raises
        ------
        StorageError
            There is no space; what is done is kept, and a later run goes on.
        EngineLostError
            The scheduler has not answered, or had no workers, for `PATIENCE_S`.
        """
        table, error = self.work(slide_ids, stop=stop)
        if error:
            raise error
        return table

    def work(
        self, slide_ids: Iterable[str], *, stop: threading.Event | None = None
    ) -> tuple[pd.DataFrame, HistoError | None]:
        """Return the table as `run`, and what broke the run off, if anything."""
        wanted = list(dict.fromkeys(slide_ids))
        known: Iterable[str] = self.home.catalog.slides(wanted).slide_id if wanted else []
        queue = JobQueue([self._job(name) for name in known], stop=stop or threading.Event())
        with tqdm(total=len(wanted), desc="cohort", unit="slide", disable=not wanted) as bar:
            while not queue.is_over:
                try:
                    self._step(queue, bar)
                except EngineLostError:
                    queue.forget_given()
                    self._reopen(queue)
        self._left = queue.given
        table = pd.DataFrame([queue.row(name) for name in wanted], columns=COLUMNS)
        return table, queue.error

    def _job(self, slide_id: str) -> Job:
        return Job(
            slide_id=slide_id,
            place=self._place,
            model_id=self.card.model_id,
            spec=self.spec,
            again=self._again,
        )

    def _step(self, queue: JobQueue, bar: Any) -> None:
        if self._engine is None:
            raise EngineLostError("the workers of the last run were lost")
        self._check_workers(queue)
        for job in queue.due(self._engine.room()):
            self._engine.submit(job)
        for job, outcome in self._engine.ended(LOOK_S):
            if queue.note(job, outcome):
                bar.update()
        per_hour = 3600 * bar.n / max(bar.format_dict["elapsed"], 1e-9)
        said = f"{self.n_workers} workers, {per_hour:,.0f} an hour, {queue.n_failed} failed"
        bar.set_postfix_str(said, refresh=False)

    def _check_workers(self, queue: JobQueue) -> None:
        """Say once that there are none; after a while that is an error."""
        if self.n_workers:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            log.warning("the scheduler has no workers yet; they are waited for")
        elif is_local() and time.monotonic() - self._alone_since > ALONE_S:
            self._alone_since = None
            raise EngineLostError("all workers have ended")  # others are started
        elif time.monotonic() - self._alone_since > PATIENCE_S:
            queue.error = EngineLostError("the scheduler has no workers; start some")

    def _reopen(self, queue: JobQueue) -> None:
        """Wait for the scheduler to come back, with growing pauses."""
        self.close()
        deadline, pause_s = time.monotonic() + PATIENCE_S, 1.0
        while True:
            try:
                self._engine = open_engine(self.spec.n_workers)
                return
            except EngineLostError as error:
                if time.monotonic() > deadline:
                    queue.error = error
                if queue.stop.wait(pause_s) or queue.error:
                    return
                pause_s = min(2 * pause_s, 30.0)
