"""A Dask cluster of real processes on loopback, as of two machines, that may be killed piecewise.

What a service manager does for a site is done here by `keep`: what has ended is started again.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from histo_nb.home import Home
from histo_nb.running.cohort.engine import SCHEDULER

BIN = Path(sys.executable).parent
COUNTING = Path(__file__).with_name("counting.py")  # counts classified tiles in each worker
COUNT_FILE = "HISTO_TEST_COUNT"
UNFINISHED = 75


class Cluster:
    """A scheduler, machines with workers, and the driver of one cohort."""

    def __init__(self, home: Home, folder: Path, *, machines: int = 2, workers: int = 2) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.home, self.folder, self.counted = home, folder, folder / "classified"
        self._n_machines, self._n_workers = machines, workers
        self._port = _free_port()
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._driver: list[str] = []
        self.ended: list[int] = []  # exit statuses of the driver

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for part in self._parts.values():
            for process in _family(part.pid):
                _kill(process)
            part.wait()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._port}"

    def run(self, *slides: str, options: tuple[str, ...] = ()) -> None:
        """Begin a cohort."""
        self._driver = ["cohort", "--json", "--home", str(self.home.root), *options, *slides]
        self.keep()

    def keep(self) -> bool:
        """Start what has ended; say whether the cohort is still to be finished."""
        self._keep("scheduler", "dask", "scheduler", "--port", str(self._port))
        for number in range(self._n_machines):
            self._keep(
                f"machine {number}", "dask", "worker", self.address,
                "--nworkers", str(self._n_workers), "--nthreads", "1", "--death-timeout", "60",
                "--local-directory", str(self.folder), "--preload", str(COUNTING),
            )  # fmt: skip
        driver = self._parts.get("driver")
        if driver is None or driver.poll() in (UNFINISHED, -signal.SIGKILL):
            if driver:
                self.ended.append(driver.returncode)
            self._start("driver", "histo-nb", *self._driver)
            return True
        if driver.poll() is not None:
            self.ended.append(driver.returncode)
            return False
        return True

    def finish(self, *, timeout_s: float = 300) -> dict[str, Any]:
        """Wait until the cohort is over; return what its driver answered."""
        deadline = time.monotonic() + timeout_s
        while self.keep():
            assert time.monotonic() < deadline, "the cohort does not come to its end"
            time.sleep(0.2)
        return json.loads((self.folder / "driver.out").read_text())

    def kill(self, what: str, rng: random.Random) -> bool:
        """Kill -9 the driver, the scheduler or one of the workers; say whether there was one."""
        if what == "worker":
            machines = [part for name, part in self._parts.items() if name.startswith("machine")]
            found = [p for part in machines for p in _family(part.pid)[1:] if _is_worker(p)]
        else:
            found = _family(self._parts[what].pid)[:1]
        if not found:
            return False
        _kill(rng.choice(found))
        return True

    def n_classified(self) -> int:
        """Return how many tiles went through the network so far, whoever was killed meanwhile."""
        return self.counted.stat().st_size if self.counted.exists() else 0

    def _keep(self, name: str, *command: str) -> None:
        part = self._parts.get(name)
        if part is None or part.poll() is not None:
            for process in _family(part.pid) if part else []:
                _kill(process)
            self._start(name, *command, "--host", "127.0.0.1", "--no-dashboard")

    def _start(self, name: str, command: str, *arguments: str) -> None:
        with (
            (self.folder / f"{name}.out").open("wb") as out,
            (self.folder / f"{name}.err").open("ab") as err,
        ):
            self._parts[name] = subprocess.Popen(
                [str(BIN / command), *arguments],
                stdout=out,
                stderr=err,
                env=os.environ
                | {
                    SCHEDULER: self.address,
                    COUNT_FILE: str(self.counted),
                    "OMP_NUM_THREADS": "1",
                    "TQDM_DISABLE": "1",
                    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1000",
                },
            )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()
