"""How often a slow test repeats: few times on every commit, all of it with `HISTO_FULL=1`."""

import os


def count(*, quick: int, full: int) -> int:
    """Return `full` where `HISTO_FULL` is set, else `quick`."""
    return full if os.environ.get("HISTO_FULL") else quick
