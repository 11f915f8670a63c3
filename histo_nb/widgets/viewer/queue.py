"""Wishes of a browser for tiles, answered in threads: the newest first, none that was withdrawn."""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger(__name__)

N_THREADS = 2  # reading one tile takes milliseconds; more threads would only take them from others
MOST_WAITING = 400  # tiles: four large screens
AT_ONCE = 16  # tiles in one message

Wish = tuple[int, int, int, int]  # its number, and step, column, row
Answer = tuple[int, bytes | None]  # number, tile; None = it cannot be read
GIVEN_UP = b""  # in a tile's place: too many waited, it may be asked for again


class TileQueue:
    """Reads tiles until it is closed.

    Parameters
    ----------
    read
        Step, column, row → a tile.
    send
        Is given answers as they come; one call at a time, from one of the threads.
    """

    def __init__(
        self, read: Callable[[int, int, int], bytes], send: Callable[[Sequence[Answer]], None]
    ) -> None:
        self._read = read
        self._send = send
        self._waiting: dict[int, tuple[int, Wish]] = {}  # by number: batch, wish
        self._batch = 0
        self._answers: list[Answer] = []
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._pool = ThreadPoolExecutor(N_THREADS, thread_name_prefix="tiles")

    def ask(self, wishes: Iterable[Wish]) -> None:
        """Read tiles, in this order, before those that were asked for earlier.

        Where too many wait, the oldest are given up, and said to be.
        """
        new = {wish[0]: wish for wish in wishes}
        with self._lock:
            self._batch += 1
            self._waiting |= {number: (self._batch, wish) for number, wish in new.items()}
            late = [*self._waiting][: max(len(self._waiting) - MOST_WAITING, 0)]
            for number in late:
                del self._waiting[number]
            self._answers += [(number, GIVEN_UP) for number in late]
        for _ in new:
            self._pool.submit(self._serve_one)

    def drop(self, numbers: Iterable[int]) -> None:
        """Forget wishes; what is being read is answered nevertheless."""
        with self._lock:
            for number in numbers:
                self._waiting.pop(number, None)

    def close(self, then: Callable[[], None]) -> None:
        """Forget all wishes, and do `then` when nothing is read any more; returns at once."""
        with self._lock:
            self._waiting.clear()
        self._send = _send_nothing
        threading.Thread(target=self._end, args=(then,), daemon=True).start()

    def _end(self, then: Callable[[], None]) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        then()

    def _next(self) -> Wish | None:
        with self._lock:
            if not self._waiting:
                return None
            newest = max(batch for batch, _ in self._waiting.values())
            number = next(n for n, (batch, _) in self._waiting.items() if batch == newest)
            return self._waiting.pop(number)[1]

    def _serve_one(self) -> None:
        wish = self._next()
        if wish is None:
            return
        number, *place = wish
        try:
            tile: bytes | None = self._read(*place)
        except Exception:  # every wish is answered
            log.exception("tile %s cannot be read", place)
            tile = None
        with self._lock:
            self._answers.append((number, tile))
        self._flush()

    def _flush(self) -> None:
        # Whoever finds nobody sending sends for all; what comes meanwhile goes into its next round.
        while self._answers and self._sending.acquire(blocking=False):
            try:
                with self._lock:
                    now, self._answers = self._answers[:AT_ONCE], self._answers[AT_ONCE:]
                if now:
                    self._send(now)
            finally:
                self._sending.release()


def _send_nothing(answers: Sequence[Answer]) -> None:
    """Take the place of a channel that is closed."""
