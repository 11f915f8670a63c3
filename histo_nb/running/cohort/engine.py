"""What runs the work of a cohort: Dask's workers, on this machine or on a cluster.

An engine may lose everything at any moment; the ledger knows what was done. Dask sends its tasks
as pickles: its ports belong on this machine, in a closed network, or behind TLS.
"""

import logging
import os
import queue
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from histo_nb.errors import HistoError
from histo_nb.running.cohort.worker import Job, Outcome, work_slide

if TYPE_CHECKING:
    from distributed import Client, Future

SCHEDULER = "HISTO_SCHEDULER"  # the address of a Dask scheduler; unset = processes of this machine
CONNECT_S = 10.0
CLOSE_S = 10.0  # what workers get to end by themselves
COUNT_S = 1.0
AHEAD = 2  # jobs a worker that wait in its own queue, so that it never waits for the next
SETTINGS = {
    # The ledger counts how often a slide kills its worker; Dask would blame those that waited.
    "distributed.scheduler.allowed-failures": 1_000_000,
    "distributed.scheduler.worker-ttl": None,  # the worker itself ends what hangs
    "distributed.worker.profile.enabled": False,  # it grows, and nobody looks at it;
    "distributed.admin.low-level-log-length": 1000,  # so does this
    # Memory is the libraries', not Dask's, which could neither spill it nor wait for it to go; at
    # 0.95 of its share a worker is still ended.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    # Before a worker starts: no bars of tiles beside the cohort's. (One thread is Dask's default.)
    "distributed.nanny.pre-spawn-environ.TQDM_DISABLE": 1,
    "distributed.comm.timeouts.connect": f"{CONNECT_S:g}s",
}

Ended = tuple[Job, Outcome | BaseException]


class EngineLostError(HistoError):
    """The engine is gone with all it was given; what is done stands in the ledger."""

    exit_code = 75  # EX_TEMPFAIL: a scheduler may try again


class Engine(Protocol):
    """Runs jobs; in which order, and where, is its own affair."""

    @property
    def n_workers(self) -> int:
        """Processes that work; more may come while it runs."""
        ...

    def room(self) -> int:
        """Return how many jobs it may be given now."""
        ...

    def submit(self, job: Job) -> None:
        """Take one job."""
        ...

    def ended(self, timeout_s: float) -> list[Ended]:
        """Return the jobs that have ended, waiting for one a while; maybe none."""
        ...

    def close(self) -> None:
        """End it; what runs is broken off."""
        ...


class DaskEngine:
    """Workers of a Dask scheduler; those that join while it runs get their share.

    All stages of a slide run in one worker, one after another, so that its bytes are near.

    Parameters
    ----------
    start
        Connects to the scheduler.

    Raises
    ------
    EngineLostError
        It does not answer.
    """

    def __init__(self, start: "Callable[[], Client]") -> None:
        with _lost_by_name():
            self._client = start()
        self._given: dict[str, tuple[Job, Future]] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._counted_at, self._n_workers = 0.0, 0

    @property
    def n_workers(self) -> int:
        """Processes that work; asked for once a second."""
        if time.monotonic() - self._counted_at > COUNT_S:
            with _lost_by_name():
                self._n_workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
            self._counted_at = time.monotonic()
        return self._n_workers

    def room(self) -> int:
        """Return how many jobs it may be given now."""
        return max(self.n_workers, 1) * AHEAD - len(self._given)

    def submit(self, job: Job) -> None:
        """Take one job."""
        # Never one of an earlier try; and one name before the dash: Dask keeps records of each.
        key = f"slide-{secrets.token_hex(16)}"
        with _lost_by_name():
            future = self._client.submit(work_slide, job, key=key, pure=False, retries=0)
        self._given[key] = (job, future)
        future.add_done_callback(lambda future: self._ended.put(str(future.key)))

    def ended(self, timeout_s: float) -> list[Ended]:
        """Return the jobs that have ended, waiting for one a while; maybe none."""
        found: list[Ended] = []
        try:
            found.append(self._take(self._ended.get(timeout=timeout_s)))
            while True:
                found.append(self._take(self._ended.get_nowait()))
        except queue.Empty:
            return found

    def close(self) -> None:
        """End it; what runs is broken off."""
        cluster = self._client.cluster
        for part in (self._client, *([cluster] if cluster else [])):
            with suppress(OSError, TimeoutError):
                part.close(timeout=CLOSE_S)

    def _take(self, key: str) -> Ended:
        job, future = self._given.pop(key)
        if future.status == "cancelled":
            raise EngineLostError("the connection to the Dask scheduler was lost")
        with _lost_by_name():
            error = future.exception(timeout=CONNECT_S)
            return job, error or future.result(timeout=CONNECT_S)


def open_engine(n_workers: int) -> Engine:
    """Return the engine that `HISTO_SCHEDULER` names, else processes of this machine.

    Parameters
    ----------
    n_workers
        Processes here; 0 = one a core. A cluster has its own.

    Raises
    ------
    EngineLostError
        The scheduler does not answer.
    """
    from dask import config  # noqa: PLC0415 - takes a second

    config.set(SETTINGS)
    if not is_local():
        address = os.environ[SCHEDULER]
        return DaskEngine(lambda: _connect(address))
    return DaskEngine(lambda: _start_here(n_workers or os.cpu_count() or 1))


def is_local() -> bool:
    """Say whether the workers are processes of this one."""
    return not os.environ.get(SCHEDULER)


def _connect(address: str) -> "Client":
    from distributed import Client  # noqa: PLC0415

    return Client(address, timeout=CONNECT_S, set_as_default=False)


def _start_here(n_workers: int) -> "Client":
    from distributed import Client, LocalCluster  # noqa: PLC0415

    cluster = LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # a free port; and no dashboard behind it
        scheduler_kwargs={"dashboard": False},
        silence_logs=logging.ERROR,  # that a worker was killed is said in the ledger
    )
    return Client(cluster, set_as_default=False)


@contextmanager
def _lost_by_name() -> Iterator[None]:
    from distributed.client import FutureCancelledError  # noqa: PLC0415
    from distributed.comm import CommClosedError  # noqa: PLC0415

    try:
        yield
    except (OSError, TimeoutError, CommClosedError, FutureCancelledError) as error:
        raise EngineLostError(
            f"the Dask scheduler does not answer ({error}); start it, or leave {SCHEDULER} out"
        ) from error
