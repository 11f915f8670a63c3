"""One part as its supervisor sees it: started, listened to, ended, started again."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from logging import getLevelNamesMapping
from typing import IO, Any

from histo_nb.catalog import now
from histo_nb.running.service.logfile import log, unnamed

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before it is started again; doubled each time
WELL_S = 60.0  # a part that ran so long is well, and its next pause short again
AGAIN_AND_AGAIN = 5  # ends in a row, after which a person should look
START_S = 120.0  # for the first sign of life
LINE = 4096  # bytes of a line that are looked at


class Child:
    """A part. All but the reading of its lines happens in the thread that calls `look`."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        self.name, self._settings = name, settings
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}  # what it last said
        self._since = now()
        self._last_beat: str | None = None
        self._started = self._heard = 0.0  # clock
        self._start_at = 0.0  # clock
        self._n_ends = 0  # in a row
        self._n_restarts = 0
        self._n_withheld = 0  # lines of stderr that may hold names
        self._told: str | None = None  # the hold it knows of

    def look(self, hold: str | None, *, hang_s: float) -> None:
        """Start it if it is time to, end it if it hangs, and tell it whether to take slides."""
        clock = time.monotonic()
        if self.process is None:
            if clock >= self._start_at:
                self._start(hold)
        elif has_ended(self.process):
            self._bury("it ended")
        elif clock - self._heard > (hang_s if self.facts else START_S):
            self._bury("it hangs")
        else:
            if clock - self._started > WELL_S:
                self._n_ends = 0
            self._tell(hold)

    def state(self) -> dict[str, Any]:
        """Return how it is, for others."""
        doing = self.facts.get("doing", "starting")
        return {
            "part": self.name,
            "state": self._say_state(),
            "since": self._since,
            "restarts": self._n_restarts,
            "last_beat": self._last_beat,
            "doing": doing if self.process else "it is started again soon",
            "trouble": bool(self.facts.get("trouble")),
        }

    def pause_s(self) -> float:
        """Return how long it would wait if it ended now."""
        return min(FIRST_PAUSE_S * 2**self._n_ends, LONGEST_PAUSE_S)

    def ask_to_stop(self) -> None:
        """Ask it to end; `end` makes sure."""
        if self.process and not has_ended(self.process):
            os.kill(self.process.pid, signal.SIGTERM)  # `terminate` might wait for it; see `end`

    def end(self) -> None:
        """Kill it with all that it has started, and forget it."""
        process, self.process = self.process, None
        if process:
            if process.returncode is None:  # nobody has waited for it: the number is its own
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdin:
                with suppress(OSError):
                    process.stdin.close()

    def _say_state(self) -> str:
        if self._n_ends >= AGAIN_AND_AGAIN:
            return "failing again and again"
        if self.process is None:
            return "ended"
        return "running" if self.facts else "starting"

    def _start(self, hold: str | None) -> None:
        try:
            self.process = process = subprocess.Popen(
                [sys.executable, "-m", "histo_nb.running.service.part", self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # signals are for the supervisor, which ends its parts
            )
        except OSError as error:  # no memory, no handles
            self._put_off(f"it cannot be started ({error.strerror})")
            return
        self.facts, self._since = {}, now()
        self._started = self._heard = time.monotonic()
        self._told = hold
        self._send({**self._settings, "hold": hold})
        for listen, pipe in ((self._hear, process.stdout), (self._overhear, process.stderr)):
            threading.Thread(target=listen, args=(process, pipe), daemon=True).start()

    def _bury(self, why: str) -> None:
        assert self.process
        process = self.process
        self.end()
        self._put_off(f"{why} ({process.returncode})")

    def _put_off(self, why: str) -> None:
        pause_s = self.pause_s()
        self._n_ends, self._n_restarts = self._n_ends + 1, self._n_restarts + 1
        self._since, self._start_at = now(), time.monotonic() + pause_s
        log.warning("%s: %s; started again in %.0f s", self.name, why, pause_s)
        if self._n_withheld:
            log.info("%s: %d lines not kept: they may hold names", self.name, self._n_withheld)
            self._n_withheld = 0

    def _tell(self, hold: str | None) -> None:
        if hold != self._told:
            self._told = hold
            self._send({"hold": hold})

    def _send(self, command: dict[str, Any]) -> None:
        assert self.process and self.process.stdin
        with suppress(OSError):  # it has just ended, which is seen soon
            self.process.stdin.write(json.dumps(command).encode() + b"\n")
            self.process.stdin.flush()

    def _hear(self, process: "subprocess.Popen[bytes]", pipe: IO[bytes]) -> None:
        for line in read_lines(pipe):
            fact = json.loads(line)
            if "log" in fact:
                log.log(getLevelNamesMapping()[fact["log"]], "%s: %s", self.name, fact["text"])
            elif process is self.process:
                self.facts, self._last_beat, self._heard = fact["beat"], now(), time.monotonic()
                if "port" in self._settings:  # the same one when it is started again
                    self._settings["port"] = self.facts.get("port", self._settings["port"])

    def _overhear(self, _: "subprocess.Popen[bytes]", pipe: IO[bytes]) -> None:
        for line in read_lines(pipe):
            if kept := unnamed(line.decode(errors="replace").rstrip("\n")):
                log.info("%s: %s", self.name, kept)
            elif line.strip():
                self._n_withheld += 1


def read_lines(pipe: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a pipe until it ends, long ones in pieces."""
    with pipe:
        yield from iter(lambda: pipe.readline(LINE), b"")


def has_ended(process: "subprocess.Popen[bytes]") -> bool:
    """Say whether a process has ended; its number stays taken until it is waited for."""
    if process.returncode is not None:
        return True
    try:
        ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # somebody has waited for it
        process.poll()
        return True
    return ended is not None
