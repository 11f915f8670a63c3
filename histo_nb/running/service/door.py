"""Whether slides are taken now: not while too many wait for analysis, or the disk is nearly full.

A door that has closed opens again a fifth below the limit of slides, a tenth above that of the
disk, so that it does not open and close with each slide.
"""

import shutil
import threading
import time
from contextlib import suppress

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.model.registry import production_entry
from histo_nb.running.service.logfile import log
from histo_nb.running.service.spec import GB, ServiceSpec
from histo_nb.running.service.waiting import LOOK_S, count_waiting, rest_s

OPEN_WAITING, OPEN_FREE = 0.8, 1.1  # of the limits
MANY, FULL, AWAY = "many", "full", "away"  # why it is closed


class Door:
    """The way in to the service; `look` is one look at it."""

    def __init__(self, home: Home, spec: ServiceSpec) -> None:
        self._home, self._spec = home, spec
        self._why: str | None = None
        self._noted: str | None = None  # as the catalogue was told
        self.hold: str | None = "the service is starting"  # reason in words; None = it is open

    def run(self, stop: threading.Event) -> None:
        """Look again and again until `stop` is set."""
        pause_s = LOOK_S
        while not stop.wait(pause_s):
            started = time.monotonic()
            self.look()
            pause_s = rest_s(started)

    def look(self) -> str | None:
        """Return why no slides are taken, or None; the catalogue and the log are told once."""
        try:
            self._why = self._find_reason()
        except Exception as error:  # whatever it is: no slide is taken until it is over
            if self._why != AWAY:
                log.warning("it is not known how many slides wait (%s)", type(error).__name__)
            self._why = AWAY
        before, self.hold = self.hold, self._why and self._in_words(self._why)
        if self.hold != before:
            log.info("slides are %s", f"not taken: {self.hold}" if self.hold else "taken")
        self._note()
        return self.hold

    def _find_reason(self) -> str | None:
        free, least = shutil.disk_usage(self._home.root).free, self._spec.min_free_gb * GB
        if free < least * (OPEN_FREE if self._why == FULL else 1):
            return FULL
        most = self._spec.max_waiting * (OPEN_WAITING if self._why == MANY else 1)
        model_id = (production_entry(self._home) or {}).get("model_id")
        return MANY if count_waiting(self._home, model_id) > most else None

    def _in_words(self, why: str) -> str:
        spec = self._spec
        return {
            MANY: f"more than {spec.max_waiting} slides wait for analysis",
            FULL: f"less than {spec.min_free_gb:g} GB of the disk are free",
            AWAY: "it cannot be found out how many slides wait",
        }[why]

    def _note(self) -> None:
        """Write one event for each change; while the catalogue cannot be written, later."""
        if self._why in (self._noted, AWAY):
            return
        what = "service takes no slides" if self._why else "service takes slides again"
        with suppress(HistoError):
            self._home.catalog.note(what, "service", self.hold)
            self._noted = self._why
