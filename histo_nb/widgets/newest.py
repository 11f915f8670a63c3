"""A thread that does the newest job it was given, so that a kernel stays free to answer."""

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Newest:
    """Do jobs one at a time in a thread of their own; a job that still waits is replaced.

    Someone who moves quickly over a slide wants the last view only.
    """

    def __init__(self) -> None:
        self._job: Callable[[], None] | None = None
        self._wake = threading.Condition()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    def do(self, job: Callable[[], None]) -> None:
        """Do `job` next; what it raises is logged."""
        with self._wake:
            self._job = job
            self._idle.clear()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="viewer")
                self._thread.start()
            self._wake.notify()

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is left to do; return False if that takes longer."""
        return self._idle.wait(timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._job is None:
                    self._idle.set()
                    self._wake.wait()
                job, self._job = self._job, None
            try:
                job()
            except Exception:
                log.exception("a picture of a slide could not be made")
