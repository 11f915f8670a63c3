"""Which machine this is, and whether one of its processes still lives."""

import hashlib
import platform
from functools import cache
from math import inf
from pathlib import Path


def started(pid: int) -> float:
    """Return when a process of this machine started, in seconds since 1970; inf = it has ended."""
    import psutil  # noqa: PLC0415 - seldom needed

    try:
        process = psutil.Process(pid)
        return inf if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return inf


@cache
def machine() -> str:
    """Return 16 digits that stand for this machine, since it was started.

    Containers of one machine have the same kernel, but do not see each other's processes: they
    count as machines.
    """
    boot, own = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = (
        platform.node(),
        boot.read_text() if boot.exists() else "",
        str(own.readlink()) if own.exists() else "",
    )
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
