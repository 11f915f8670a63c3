"""The service's log, `HISTO_HOME/service/service.log`: rotated, and without names in it.

Of what this package says, all is kept: it speaks of slides by their pseudonyms. What others write
to stderr (libraries in C, warnings, tracebacks) may hold a file's name or a patient's; of that only
the places in code and the kinds of errors are kept.
"""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import RotatingFileHandler
from pathlib import Path

log = logging.getLogger("histo_nb.service")

MAX_BYTES, N_KEPT = 5_000_000, 5  # of one file; files beside it
FRAME = re.compile(r'\s*File "[^"]*?([\w.-]+/[\w.-]+\.py)", line (\d+), in ([\w<>]+)\s*')
KIND = re.compile(r"((?:[a-z]\w*\.)*[A-Z]\w*(?:Error|Exception|Failed|Warning|Interrupt|Exit)):.*")


class _Rotating(RotatingFileHandler):
    """Goes on without the log where the disk is full."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Say nothing: what could not be written must not stand on the terminal either."""


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Write what `log` is told to the log in a folder."""
    path = folder / "service.log"
    handler = _Rotating(path, maxBytes=MAX_BYTES, backupCount=N_KEPT, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def unnamed(line: str) -> str | None:
    """Return what of a line of stderr may be kept; None if nothing.

    >>> unnamed('  File "/opt/x/histo_nb/slide.py", line 7, in read')
    'at histo_nb/slide.py:7 in read'
    >>> unnamed("openslide.OpenSlideError: cannot read Maria.svs")
    'openslide.OpenSlideError'
    >>> unnamed("TIFFOpen: Maria.svs: no such file") is None
    True
    """
    if place := FRAME.fullmatch(line):
        return "at {}:{} in {}".format(*place.groups())
    kind = KIND.fullmatch(line)
    return kind[1] if kind else None
