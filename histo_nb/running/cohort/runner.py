"""Many slides through mask, tile, analyse, report: unattended, resumable, on many processes."""

import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.home import Home
from histo_nb.inference.runtime import choose_runtime
from histo_nb.model.registry import production_model
from histo_nb.model.seal import check_bundle
from histo_nb.running.cohort.engine import Engine, EngineLostError, open_engine
from histo_nb.running.cohort.jobs import JobQueue
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.cohort.stages import STAGES
from histo_nb.running.cohort.worker import Job, find_place

PATIENCE_S = 600.0  # for a scheduler that does not answer
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

    def run(self, slide_ids: Iterable[str], *, stop: threading.Event | None = None) -> pd.DataFrame:
        """Do what is not done yet of these slides; return `COLUMNS`, a row a slide, in their order.

        A slide that cannot be used is a row with its reason. With `stop` set no new slide is begun,
        and those that are not finished have the state "waiting".

        Raises
        ------
        StorageError
            There is no space; what is done is kept, and a later run goes on.
        EngineLostError
            The scheduler has not answered for `PATIENCE_S`.
        """
        wanted = list(dict.fromkeys(slide_ids))
        known: Iterable[str] = self.home.catalog.slides(wanted).slide_id if wanted else []
        queue = JobQueue([self._job(name) for name in known], stop=stop or threading.Event())
        with tqdm(total=len(wanted), desc="cohort", unit="slide", disable=not wanted) as bar:
            while not queue.is_over:
                try:
                    self._step(queue, bar)
                except EngineLostError:
                    queue.forget_given()
                    self._reopen(queue.stop)
        if queue.error:
            raise queue.error
        return pd.DataFrame([queue.row(name) for name in wanted], columns=COLUMNS)

    def _job(self, slide_id: str) -> Job:
        return Job(
            slide_id=slide_id,
            place=self._place,
            model_id=self.card.model_id,
            spec=self.spec,
            again=self._again,
        )

    def _step(self, queue: JobQueue, bar: Any) -> None:
        assert self._engine
        for job in queue.due(self._engine.room()):
            self._engine.submit(job)
        for job, outcome in self._engine.ended(LOOK_S):
            if queue.note(job, outcome):
                bar.update()
        per_hour = 3600 * bar.n / max(bar.format_dict["elapsed"], 1e-9)
        said = f"{self.n_workers} workers, {per_hour:,.0f} an hour, {queue.n_failed} failed"
        bar.set_postfix_str(said, refresh=False)

    def _reopen(self, stop: threading.Event) -> None:
        """Wait for the scheduler to come back, with growing pauses."""
        self.close()
        deadline, pause_s = time.monotonic() + PATIENCE_S, 1.0
        while True:
            try:
                self._engine = open_engine(self.spec.n_workers)
                return
            except EngineLostError:
                if stop.wait(pause_s) or time.monotonic() > deadline:
                    raise
                pause_s = min(2 * pause_s, 30.0)
