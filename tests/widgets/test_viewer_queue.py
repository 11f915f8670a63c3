"""Wishes for tiles: newest first, withdrawn ones never read, every other one answered once."""

import threading
from collections.abc import Sequence

from histo_nb.errors import SlideError
from histo_nb.widgets.viewer.queue import GIVEN_UP, MOST_WAITING, Answer, TileQueue

SOON_S = 10.0


class Desk:
    """Records what is read and sent; reading waits while the gate is shut."""

    def __init__(self) -> None:
        self.read: list[tuple[int, int, int]] = []
        self.sent: list[Answer] = []
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Semaphore(0)
        self.came = threading.Condition()
        self.queue = TileQueue(self._read, self._send)

    def _read(self, *place: int) -> bytes:
        self.begun.release()
        self.open.wait(SOON_S)
        self.read.append((place[0], place[1], place[2]))
        if place[0] == 9:
            raise SlideError("this place cannot be read")
        return b"tile %d" % place[1]

    def _send(self, answers: Sequence[Answer]) -> None:
        with self.came:
            self.sent += answers
            self.came.notify_all()

    def wait(self, n: int) -> dict[int, bytes | None]:
        with self.came:
            assert self.came.wait_for(lambda: len(self.sent) >= n, SOON_S)
        return dict(self.sent)

    def hold(self) -> None:
        """Keep both threads busy."""
        self.open.clear()
        self.queue.ask([(1, 0, 1, 0), (2, 0, 2, 0)])
        for _ in range(2):
            assert self.begun.acquire(timeout=SOON_S)


def test_each_wish_is_answered_once() -> None:
    desk = Desk()
    desk.queue.ask([(n, 0, n, 0) for n in range(100)])
    assert desk.wait(100) == {n: b"tile %d" % n for n in range(100)}
    assert len(desk.sent) == 100


def test_newest_wishes_come_first_and_withdrawn_ones_never() -> None:
    desk = Desk()
    desk.hold()
    desk.queue.ask([(n, 0, n, 0) for n in range(10, 20)])
    desk.queue.ask([(n, 0, n, 0) for n in range(20, 30)])
    desk.queue.drop([11, 12, 21, 22])
    desk.open.set()
    answered = desk.wait(18)
    assert sorted(answered) == [1, 2, 10, *range(13, 21), *range(23, 30)]
    order = [column for _, column, _ in desk.read]
    assert {*order[2:8]} <= {20, *range(23, 30)}  # two threads may pass each other


def test_place_that_cannot_be_read_is_said_so() -> None:
    desk = Desk()
    desk.queue.ask([(1, 9, 0, 0), (2, 0, 5, 0)])
    assert desk.wait(2) == {1: None, 2: b"tile 5"}


def test_too_many_wishes_give_the_oldest_up() -> None:
    desk = Desk()
    desk.hold()
    desk.queue.ask([(n, 0, n, 0) for n in range(1000, 1000 + MOST_WAITING)])
    desk.queue.ask([(n, 0, n, 0) for n in range(5000, 5010)])
    desk.open.set()
    answered = desk.wait(MOST_WAITING + 12)
    given_up = [n for n, tile in answered.items() if tile == GIVEN_UP]
    assert given_up == [*range(1000, 1010)]


def test_nothing_is_read_or_sent_after_closing() -> None:
    desk, closed = Desk(), threading.Event()
    desk.hold()
    desk.queue.ask([(n, 0, n, 0) for n in range(10, 20)])
    desk.queue.close(closed.set)
    assert not closed.wait(0.2)  # two tiles are still being read
    desk.open.set()
    assert closed.wait(SOON_S)
    assert len(desk.read) == 2
    assert desk.sent == []
