"""Which slides of a run are to be given out, are given out, or are over."""

import threading
import time
from collections import deque
from typing import Any

from histo_nb.errors import CatalogAwayError, HistoError, SpecError
from histo_nb.running.cohort.worker import Job, Outcome

PAUSE_S = 1.0  # before a slide that another worker holds, or that went wrong, is looked at again
CRASHES = 5  # of a slide's job without a word from the ledger, until it counts as failed
AWAY_S = 600.0  # for a catalogue that does not answer
MISFIT_S = 60.0  # for a worker with the right code, while others do not fit


class JobQueue:
    """The jobs of one run.

    Parameters
    ----------
    stop
        Once it is set, no more jobs are due and the run is over.
    """

    def __init__(self, jobs: list[Job], *, stop: threading.Event) -> None:
        self.stop = stop
        self.error: HistoError | None = None  # that no job can get around
        self._waiting = deque(jobs)
        self._later: list[tuple[float, Job]] = []  # from when on
        self._given: dict[str, Job] = {}
        self._outcomes: dict[str, Outcome] = {}
        self._crashes: dict[str, int] = {}
        self._since: dict[type[HistoError], float] = {}  # when a trouble was met first
        self.n_failed = 0  # slides

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do, or nothing more can be done."""
        left = self._waiting or self._later or self._given
        return self.stop.is_set() or self.error is not None or not left

    @property
    def given(self) -> list[str]:
        """Slides that are given out."""
        return list(self._given)

    def due(self, room: int) -> list[Job]:
        """Return the jobs to give out now, at the most `room`."""
        clock = time.monotonic()
        self._waiting += [job for at, job in self._later if at <= clock]
        self._later = [(at, job) for at, job in self._later if at > clock]
        jobs = [self._waiting.popleft() for _ in range(min(room, len(self._waiting)))]
        self._given |= {job.slide_id: job for job in jobs}
        return jobs

    def note(self, job: Job, outcome: Outcome | BaseException) -> bool:
        """Note what became of a job; say whether its slide is over."""
        if self._given.pop(job.slide_id, None) is None:
            return False  # of an earlier run that was stopped
        if isinstance(outcome, BaseException):
            return self._note_crash(job, outcome)
        if outcome.state == "stopped":
            return self._note_stop(job, outcome.error)
        self._since = {}
        if outcome.state in ("done", "failed"):
            return self._end(outcome)
        return self._put_off(job)

    def forget_given(self) -> None:
        """Give out again what was given: the engine has lost it."""
        self._waiting.extendleft(self._given.values())
        self._given = {}

    def row(self, slide_id: str) -> dict[str, Any]:
        """Return what is known of a slide, as a row of the cohort's table."""
        outcome = self._outcomes.get(slide_id) or Outcome(slide_id=slide_id, state="waiting")
        named = ("slide_id", "state", "stage", "reason", "attempts")
        return {**{name: getattr(outcome, name) for name in named}, **outcome.facts}

    def _put_off(self, job: Job) -> bool:
        self._later.append((time.monotonic() + PAUSE_S, job))
        return False

    def _note_crash(self, job: Job, error: BaseException) -> bool:
        """Dask could not run a job, or lost its worker; what the slide did stands in the ledger."""
        if isinstance(error, ImportError | AttributeError):
            return self._note_stop(job, SpecError(f"a worker lacks our code ({error})"))
        n = self._crashes[job.slide_id] = self._crashes.get(job.slide_id, 0) + 1
        if n < CRASHES:
            return self._put_off(job)
        reason = f"its worker could not say what happened: {type(error).__name__}: {error}"
        return self._end(Outcome(slide_id=job.slide_id, state="failed", reason=reason, attempts=n))

    def _end(self, outcome: Outcome) -> bool:
        self._outcomes[outcome.slide_id] = outcome
        self.n_failed += outcome.state == "failed"
        return True

    def _note_stop(self, job: Job, error: HistoError | None) -> bool:
        patience = {CatalogAwayError: AWAY_S, SpecError: MISFIT_S}  # it may come back; others fit
        kind = next((kind for kind in patience if isinstance(error, kind)), None)
        if kind:
            since = self._since.setdefault(kind, time.monotonic())
            if time.monotonic() - since < patience[kind]:
                return self._put_off(job)
        self.error = error
        return False
