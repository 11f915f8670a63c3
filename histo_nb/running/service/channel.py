"""A part's side of the line to its supervisor.

Commands come in on stdin as lines of JSON, facts go out on stdout the same way. Both are moved
aside at once, so that nothing else in this process, and no process it starts, reads or writes them.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from histo_nb.home import Home

log = logging.getLogger("histo_nb.running.service")

BEAT_S = 1.0  # between two signs of life
PATIENCE_S = 30.0  # for a piece of work that says nothing else
ORPHAN_S = 5.0  # what is left to a part whose supervisor has gone
LONGEST = 500  # characters of a message


class Channel:
    """Where a part is told what to do, and says how it is.

    `settings` is what it was started with, `hold` the reason to take no slides now, `stop` is set
    when it is to end.
    """

    def __init__(self, commands: int, facts: int) -> None:
        self._commands = open(commands, "rb", buffering=0)  # noqa: SIM115 - for ever
        self._facts = facts
        self.settings: dict[str, Any] = json.loads(self._commands.readline())
        self.kind: str = self.settings.pop("kind")
        self.home = Home(Path(self.settings.pop("home")))
        self.hold: str | None = self.settings.pop("hold")
        self.stop, self.is_orphan = threading.Event(), False
        self._said: dict[str, Any] = {}
        self._until = 0.0  # clock; until then this part counts as well
        for work in (self._listen, self._beat):
            threading.Thread(target=work, daemon=True).start()

    def tell(self, doing: str, *, patience_s: float = PATIENCE_S, **facts: Any) -> None:
        """Say what is done now; if nothing is said for `patience_s`, this part is seen as hung."""
        self._until = time.monotonic() + patience_s
        if self._said != (said := {"doing": doing, **facts}):
            self._said = said
            self.send({"beat": said})

    def send(self, fact: dict[str, Any]) -> None:
        """Write one fact in one piece; without a supervisor nobody reads it."""
        with suppress(OSError):
            os.write(self._facts, json.dumps(fact).encode() + b"\n")

    def _beat(self) -> None:
        while True:
            if time.monotonic() < self._until:
                self.send({"beat": self._said})
            time.sleep(BEAT_S)

    def _listen(self) -> None:
        while line := self._commands.readline():
            self.hold = json.loads(line)["hold"]
        self.is_orphan = True  # the supervisor has gone
        self.stop.set()
        time.sleep(ORPHAN_S)
        self.end_all()

    def end_all(self) -> None:
        """End this process with all that it has started."""
        os.killpg(0, signal.SIGKILL)


class _Telling(logging.Handler):
    """Sends what this package logs to the supervisor, without anything that others have said."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        is_own = record.name.split(".")[0] == "histo_nb"
        if not is_own and record.levelno < logging.WARNING:
            return
        said = record.getMessage() if is_own else record.name
        if record.exc_info and record.exc_info[0]:
            said += f" ({record.exc_info[0].__name__})"
        self._channel.send({"log": record.levelname, "text": said[:LONGEST]})


def open_channel() -> Channel:
    """Return the channel of this process, which its supervisor has started."""
    commands, facts = os.dup(sys.stdin.fileno()), os.dup(sys.stdout.fileno())
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    channel = Channel(commands, facts)
    logging.basicConfig(level=logging.WARNING, handlers=[_Telling(channel)])
    log.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, lambda *_: channel.stop.set())
    return channel
