"""The part that analyses what waits, with the model in production."""

import os
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from typing import Any

import pandas as pd

from histo_nb.errors import (
    BundleError,
    CatalogAwayError,
    CatalogError,
    HistoError,
    SpecError,
    StorageError,
)
from histo_nb.model.registry import production_entry
from histo_nb.running.cohort.engine import EngineLostError
from histo_nb.running.cohort.runner import Cohort, CohortSpec
from histo_nb.running.service.channel import PATIENCE_S, Channel, log
from histo_nb.running.service.waiting import (
    count_analysed,
    find_unreported,
    find_waiting,
    note_failed,
    rest_s,
)

POLL_S = 1.0
BATCH, A_WORKER = 16, 4  # slides of a batch, at least; a new model waits so long
SLIDE_S = 7200.0  # without any slide being done; the cohort ends a stage that hangs before
RETRY_S = 30.0  # after one of these:
WHY = {
    StorageError: "there is no space left",
    BundleError: "the model in production cannot be used",
    SpecError: "its settings cannot be used",
    CatalogAwayError: "the catalogue does not answer",
    CatalogError: "the catalogue cannot be used",
    EngineLostError: "the Dask scheduler does not answer",
}
TROUBLE: tuple[type[HistoError], ...] = tuple(WHY)


class Bench:
    """The cohort of the model in production; made anew when that is another, or after trouble."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._stack = channel, ExitStack()
        self._model_id: str | None = None
        self._cohort: Any = None

    def __enter__(self) -> "Bench":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_open(self) -> bool:
        """Whether there is a cohort, which sees to the reports of what it analyses."""
        return self._model_id is not None

    def close(self) -> None:
        """End the cohort; the next run makes another."""
        self._model_id = None
        self._stack.close()

    def run(self, slide_ids: list[str], model_id: str) -> pd.DataFrame:
        """Analyse slides until they are done, or this part is to stop."""
        try:
            return self._run(slide_ids, model_id)
        except HistoError:  # its workers may be gone, or work with settings that do not fit
            self.close()
            raise

    def _run(self, slide_ids: list[str], model_id: str) -> pd.DataFrame:
        if model_id != self._model_id:
            self.close()
            spec = CohortSpec(n_workers=self._channel.settings["n_workers"])
            self._cohort = self._stack.enter_context(Cohort(self._channel.home, spec=spec))
            self._model_id = model_id
        return self._cohort.run(slide_ids, stop=self._channel.stop)


def work(channel: Channel) -> None:
    """Analyse what waits, the oldest first, until told to stop."""
    with Bench(channel) as bench, ThreadPoolExecutor(1) as pool:
        while not channel.stop.is_set():
            try:
                wait_s = look(channel, bench, pool)
            except TROUBLE as error:
                wait_s = RETRY_S
                log.warning("the analysis waits (%s)", type(error).__name__)
                why = next(said for kind, said in WHY.items() if isinstance(error, kind))
                channel.tell(f"waiting: {why}", patience_s=2 * RETRY_S, trouble=True)
            channel.stop.wait(wait_s)


def look(channel: Channel, bench: Bench, pool: ThreadPoolExecutor) -> float:
    """Analyse the next batch, if there is one; return the seconds until the next look."""
    model_id = (production_entry(channel.home) or {}).get("model_id")
    if model_id is None:
        channel.tell("waiting: no model is in production")
        return POLL_S
    n_workers, started = channel.settings["n_workers"] or os.cpu_count() or 1, time.monotonic()
    # A report that was broken off is nobody's any more, since its slide has a result.
    slide_ids = [] if bench.is_open else find_unreported(channel.home, model_id)
    slide_ids += find_waiting(channel.home, model_id, limit=max(BATCH, A_WORKER * n_workers))
    if not slide_ids:
        pause_s = rest_s(started)
        channel.tell("no slide waits", patience_s=PATIENCE_S + pause_s)
        return pause_s
    batch = pool.submit(bench.run, slide_ids, model_id)
    follow(channel, batch, slide_ids, model_id)
    table = batch.result()
    for row in table[table.state == "failed"].itertuples():
        log.warning("%s failed at %s", row.slide_id, row.stage)
        note_failed(channel.home, str(row.slide_id), model_id)
    return POLL_S if (table.state == "waiting").all() else 0.0


def follow(
    channel: Channel, batch: "Future[pd.DataFrame]", slide_ids: list[str], model_id: str
) -> None:
    """Say how far a batch is until it is done."""
    said = None
    while not batch.done():
        n_done = count_analysed(channel.home, slide_ids)
        if n_done != said:
            said = n_done
            doing = f"analysing: {n_done} of {len(slide_ids)} done"
            channel.tell(doing, patience_s=SLIDE_S, model_id=model_id)
        wait([batch], timeout=POLL_S)
