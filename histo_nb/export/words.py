"""Times, shares and figures as reports say them; what is unknown is said to be so."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

UNKNOWN = "unknown"


def say_time(at: str) -> str:
    """Return a time of the catalogue in words.

    >>> say_time("2026-03-01T09:05:11.000001+00:00")
    '1 March 2026, 09:05 UTC'
    """
    time = datetime.fromisoformat(at)
    return f"{time.day} {time:%B %Y, %H:%M} UTC"


def say_duration(seconds: float) -> str:
    """Return a time span in words.

    >>> say_duration(0.25), say_duration(119.7), say_duration(9000), say_duration(200_000)
    ('0.25 s', '2 min 0 s', '2 h 30 min', '2 d 7 h')
    """
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    seconds = round(seconds)
    for unit, size, smaller, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds // 60} min {seconds % 60} s"


def say_code(code: Any) -> str:
    """Return which code it was.

    >>> say_code({"source_sha256": "ab" * 32, "commit": "cd" * 20, "dirty": True})
    'commit cdcdcdcdcd, changed since; sources abababababab'
    """
    if not isinstance(code, Mapping):
        return str(code)
    sources = f"sources {code['source_sha256'][:12]}"
    if not code.get("commit"):
        return sources
    changed = ", changed since" if code.get("dirty") else ""
    return f"commit {code['commit'][:10]}{changed}; {sources}"


def say_number(value: float | None) -> str:
    """Return a figure with three decimals.

    >>> say_number(0.8), say_number(None)
    ('0.800', '—')
    """
    return "—" if value is None else f"{value:.3f}"


def say_interval(interval: Sequence[float | None] | None) -> str:
    """Return an interval.

    >>> say_interval([0.7, 0.91]), say_interval([None, None])
    ('0.700 – 0.910', '—')
    """
    low, high = interval or (None, None)
    return "—" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def say_count(n: int, what: str) -> str:
    """Return how many of something there are.

    >>> say_count(1, "slide"), say_count(1200, "tile")
    ('1 slide', '1,200 tiles')
    """
    return f"{n:,} {what}" if n == 1 else f"{n:,} {what}s"
