"""The supervisor: starts the parts, sees that they live, tells others how they are, ends them."""

import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from histo_nb.home import Home
from histo_nb.running.service.child import Child, has_ended
from histo_nb.running.service.door import Door
from histo_nb.running.service.logfile import log, logging_to
from histo_nb.running.service.notify import notify
from histo_nb.running.service.spec import ServiceSpec, plan_parts
from histo_nb.service_state import holding, service_folder, write_state

LOOK_S = 0.5
TELL_S = 2.0  # between two entries in the status file
READY_S = 60.0  # then systemd is told that the service is there, also if a part is not


class Stop:
    """Set by a signal; a second signal says: at once."""

    def __init__(self) -> None:
        self.asked, self.at_once = threading.Event(), threading.Event()

    def hear(self, *_: object) -> None:
        """Take a signal."""
        (self.at_once if self.asked.is_set() else self.asked).set()


class Greeting:
    """Says once that the parts have begun, and once where the pages are."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._is_ready = self._has_address = False

    def look(self, children: list[Child]) -> None:
        """Tell systemd and the terminal what has come true."""
        url = next((child.facts["url"] for child in children if "url" in child.facts), None)
        if url and not self._has_address:
            self._has_address = True
            print(f"Serving the pages: {url}", file=sys.stderr, flush=True)
        begun = all(child.facts for child in children)
        if not self._is_ready and (begun or time.monotonic() - self._started > READY_S):
            self._is_ready = True
            notify("READY=1")
            print("The service runs; see `histo-nb status`.", file=sys.stderr, flush=True)


def run_service(home: Home, spec: ServiceSpec) -> dict[str, Any]:
    """Run the service of a home until SIGTERM or Ctrl-C; return what was done.

    Raises
    ------
    HistoError
        Another service runs here.
    """
    folder = service_folder(home.root)
    with ExitStack() as stack:
        stack.enter_context(holding(folder))
        stack.enter_context(logging_to(folder))
        stop = stack.enter_context(_signals())
        children = [
            Child(name, facts) for name, facts in plan_parts(_with_token(spec), home).items()
        ]
        log.info("the service starts: %s", ", ".join(child.name for child in children))
        try:
            _supervise(home, spec, children, stop)
        finally:
            _end(children, spec, stop)
            log.info("the service has stopped")
    return {"served": str(home.root), "status": 0}


def _supervise(home: Home, spec: ServiceSpec, children: list[Child], stop: Stop) -> None:
    folder, door, greeting = service_folder(home.root), Door(home, spec), Greeting()
    door.look()
    threading.Thread(target=door.run, args=(stop.asked,), daemon=True).start()
    told_at = 0.0
    while not stop.asked.wait(LOOK_S):
        for child in children:
            child.look(door.hold, hang_s=spec.hang_s)
        if time.monotonic() - told_at >= TELL_S:
            told_at = time.monotonic()
            _tell(children, door, folder, greeting)


def _end(children: list[Child], spec: ServiceSpec, stop: Stop) -> None:
    """Let the parts end by themselves for a while, then kill what is left."""
    notify("STOPPING=1", "STATUS=stopping")
    for child in children:
        child.ask_to_stop()
    end = time.monotonic() + spec.stop_s
    while time.monotonic() < end and not stop.at_once.is_set():
        if all(child.process is None or has_ended(child.process) for child in children):
            break
        stop.at_once.wait(0.1)
    for child in children:
        child.end()


def _tell(children: list[Child], door: Door, folder: Path, greeting: Greeting) -> None:
    states = [child.state() for child in children]
    write_state(folder, {"parts": states, "held": door.hold})
    n_running = sum(state["state"] == "running" for state in states)
    said = f"{n_running} of {len(states)} parts run" + (f"; {door.hold}" if door.hold else "")
    notify("WATCHDOG=1", f"STATUS={said}")
    greeting.look(children)


def _with_token(spec: ServiceSpec) -> ServiceSpec:
    """Choose the token of the pages here, so that it stays the same when they start again."""
    if spec.pages is None or spec.pages.get("token") is not None:
        return spec
    return replace(spec, pages={**spec.pages, "token": secrets.token_urlsafe(24)})


@contextmanager
def _signals() -> Iterator[Stop]:
    stop = Stop()
    asked = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, stop.hear) for number in asked]
    try:
        yield stop
    finally:
        for number, handler in zip(asked, before, strict=True):
            signal.signal(number, handler)
