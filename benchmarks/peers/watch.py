"""What a command takes: wall and CPU seconds, resident memory with its children, torch or not."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil


def run_measured(
    command: list[str], environment: dict[str, str], timeout_s: float
) -> tuple[str, dict[str, Any]]:
    """Run a command; return what it printed, and what the process and its children took."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        watch = Watch(process.pid, timeout_s)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        took = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        watch.ended.set()
        watch.join()
        out.seek(0)
        err.seek(0)
        if process.returncode:
            late = f"stopped after {timeout_s:g} s; " if took >= timeout_s else ""
            said = [line for line in err.read().splitlines() if line.strip()]
            raise RuntimeError(late + (said[-1] if said else f"exit {process.returncode}"))
        own_mb = usage.ru_maxrss / (1024 if sys.platform == "linux" else 1024**2)
        return out.read(), {"command_s": took, "cpu_s": usage.ru_utime + usage.ru_stime,
                            "mb": max(own_mb, watch.mb), "torch": watch.torch}  # fmt: skip


class Watch(threading.Thread):
    """Looks at a process and its children four times a second, and ends them when time is up."""

    def __init__(self, pid: int, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self.pid, self.ends = pid, time.monotonic() + timeout_s
        self.mb, self.torch, self.ended = 0.0, False, threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.25):
            try:
                main = psutil.Process(self.pid)
                tree = [main, *main.children(recursive=True)]
                self.mb = max(self.mb, sum(map(resident_mb, tree)))
                self.torch = self.torch or any(loads_torch(p.pid) for p in tree)
                if time.monotonic() > self.ends:
                    for process in tree:
                        process.kill()
            except (psutil.Error, OSError):
                continue  # it has just ended


def resident_mb(process: psutil.Process) -> float:
    """Return resident MB; pages that processes share are split between them where known."""
    known = process.memory_full_info()
    return getattr(known, "pss", known.rss) / 1024**2


def loads_torch(pid: int) -> bool:
    maps = Path(f"/proc/{pid}/maps")
    return maps.is_file() and "libtorch" in maps.read_text()
