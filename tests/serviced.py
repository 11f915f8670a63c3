"""A service of a test: started as a process, looked at by what it tells others, ended."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from histo_nb.home import Home
from histo_nb.running.service.status import read_status

ALONE = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}


class Service:
    """`histo-nb serve` with options; a context manager that leaves nothing running."""

    def __init__(self, home: Home, *options: object, stderr: int = subprocess.PIPE) -> None:
        self.home = home
        command = [sys.executable, "-m", "histo_nb.running.cli", "serve", "--json"]
        self.process = subprocess.Popen(
            [*command, *map(str, options)],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env=os.environ | ALONE | {"HISTO_HOME": str(home.root)},
            start_new_session=True,
        )
        self.seen: dict[int, psutil.Process] = {}  # all that it ever started, as far as looked

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.family()
        self.process.kill()
        self.process.communicate()
        for process in self.seen.values():
            if process.is_running():
                process.kill()

    def family(self) -> list[psutil.Process]:
        """Return what it has started and still runs."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self.seen |= {process.pid: process for process in found}
        return found

    def part(self, name: str) -> dict[str, Any]:
        """Return what is said of a part; {} if nothing is."""
        parts = read_status(self.home)["parts"]
        return next((part for part in parts if part["part"] == name), {})

    def pid_of(self, name: str) -> int:
        """Return the process of a part."""
        for process in self.family():
            words = process.cmdline()
            if "histo_nb.running.service.part" in words and words[-1] == name:
                return process.pid
        raise AssertionError(f"{name} does not run")

    def port_of(self, name: str) -> int:
        """Return the port that a part listens on."""
        for connection in psutil.Process(self.pid_of(name)).net_connections():
            if connection.status == "LISTEN":
                return connection.laddr.port
        raise AssertionError(f"{name} does not listen")

    def wait_for(self, condition: Callable[[], Any], *, seconds: float = 120.0) -> Any:
        """Wait until something is true of a service that runs."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, f"{read_status(self.home)}\n{self.log()}"
            self.family()
            time.sleep(0.1)
        return found

    def is_running(self) -> bool:
        """Say whether all parts run."""
        parts = read_status(self.home)["parts"]
        return bool(parts) and all(part["state"] == "running" for part in parts)

    def stop(self, *, how: int = signal.SIGTERM) -> dict[str, Any]:
        """Ask it to stop; return its answer."""
        self.family()
        self.process.send_signal(how)
        out, self.said = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.said
        return json.loads(out)

    def left(self, *, seconds: float = 90.0) -> list[psutil.Process]:
        """Return what of it still lives after a while."""
        return psutil.wait_procs(list(self.seen.values()), timeout=seconds)[1]

    def log(self) -> str:
        """Return its log."""
        path = Path(self.home.root / "service" / "service.log")
        return path.read_text() if path.exists() else ""
