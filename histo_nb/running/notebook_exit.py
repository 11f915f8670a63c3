"""How a run ends: its exit code, the words for what became of its kernel, and SIGTERM."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import FrameType

from papermill.exceptions import PapermillExecutionError

from histo_nb.errors import RunError

NO_MEMORY = ("annot allocate memory", "can't allocate memory", "Insufficient memory")
NO_SPACE = ("No space left on device", "Disk quota exceeded", "disk is full", "free some space")
CGROUPS = Path("/sys/fs/cgroup")


class Exit(IntEnum):
    """Exit codes of `histo-nb run`; a kernel that died of another signal n gives 128 + n."""

    DONE = 0
    FAILED = 1  # a cell raised an error, or the run was refused before it started
    MISUSED = 2
    DISK_FULL = 75  # EX_TEMPFAIL: free space and run again
    TIMED_OUT = 124  # as `timeout` says it
    INTERRUPTED = 130  # Ctrl-C
    KILLED = 137  # out of memory, or killed
    CRASHED = 139  # SIGSEGV
    TERMINATED = 143  # SIGTERM, to this process


def cell_fault(error: PapermillExecutionError) -> RunError:
    """Return what a cell's error means for the run."""
    words = f"cell {error.cell_index + 1}: {error.ename}: {error.evalue}"
    if any(text in error.evalue for text in NO_SPACE):
        return RunError(words, exit_code=Exit.DISK_FULL)
    if error.ename.endswith("MemoryError") or any(text in error.evalue for text in NO_MEMORY):
        return RunError(f"out of memory, {words}", exit_code=Exit.KILLED)
    return RunError(words, exit_code=Exit.FAILED)


def death_fault(returncode: int | None, *, oom_killed: bool) -> RunError:
    """Return what became of a kernel that is gone, from its process's return code."""
    if returncode is None:
        return RunError("the kernel no longer answers")
    if returncode >= 0:
        return RunError(f"the kernel ended by itself (exit code {returncode})")
    code = 128 - returncode
    if returncode == -signal.SIGKILL and oom_killed:
        return RunError("out of memory: the system killed the kernel", exit_code=code)
    if returncode == -signal.SIGKILL:
        words = "the kernel was killed (signal 9), most often for lack of memory"
        return RunError(words, exit_code=code)
    return RunError(f"the kernel crashed ({_signal_name(-returncode)})", exit_code=code)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def count_oom_kills(root: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return how many processes of our control group the system killed for memory; None: unknown.

    `oom_kill` of memory.events (cgroup v2) or memory.oom_control (v1).
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        name = "memory/{}/memory.oom_control" if controllers else "{}/memory.events"
        for inside in (path.strip("/"), ""):  # a container may see its own group as the root
            count = _read_count(root / name.format(inside).lstrip("/"))
            if count is not None:
                return count
    return None


def _read_count(path: Path) -> int | None:
    try:
        facts = dict(line.split() for line in path.read_text().splitlines())
        return int(facts["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


@contextmanager
def stopping_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as Ctrl-C does, kernel and half run gone; exit code 143."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        signal.signal(signum, signal.SIG_IGN)  # a second one must not disturb the tidying up
        raise SystemExit(Exit.TERMINATED)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
