"""The process that a notebook runs in: how papermill starts it, limits it, and loses it.

An engine of our own under papermill, because its own forgets what became of a dead kernel.
"""

import os
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager, papermill_engines
from traitlets.config import Config

from histo_nb.errors import RunError, SpecError
from histo_nb.files import WRITTEN
from histo_nb.running.notebook_exit import Exit, count_oom_kills, death_fault

ENGINE = "histo-nb"
STDERR = 2  # what cells' child processes print must not mix with the answer on stdout
STARTUP_S = 180  # for a kernel on a busy machine
OUTPUT_S = 120  # for outputs that are on their way; papermill's 4 s are not enough when busy


@dataclass(frozen=True, kw_only=True)
class KernelSpec:
    """Where a kernel runs, and how long it may."""

    cwd: Path
    home: Path  # HISTO_HOME, in the kernel's environment only
    written: Path | None = None  # file in which what the notebook writes is noted
    timeout_s: float | None = None  # for one cell
    total_timeout_s: float | None = None  # for the whole notebook
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        for name in ("timeout_s", "total_timeout_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise SpecError(f"{name}={value} must be above 0 s, or none for no limit")

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this process, with HISTO_HOME."""
        noted = {WRITTEN: str(self.written)} if self.written else {}
        return {**os.environ, "HISTO_HOME": str(self.home), **noted}

    def left_s(self, _cell: Any = None) -> float | None:
        """Return the seconds that a cell which starts now may take; None: any."""
        limits = [self.timeout_s] if self.timeout_s is not None else []
        if self.total_timeout_s is not None:
            limits.append(self.since + self.total_timeout_s - time.monotonic())
        return max(min(limits), 0.01) if limits else None

    @property
    def is_over(self) -> bool:
        """Whether the whole notebook has had its time."""
        total = self.total_timeout_s
        return total is not None and time.monotonic() >= self.since + total


class Client(PapermillNotebookClient):  # type: ignore[misc]
    """Papermill's client that knows its kernel's process, and in which cell it was lost."""

    process: "subprocess.Popen[bytes] | None" = None
    lost_in: int | None = None  # index of a cell

    def start_new_kernel(self, **options: Any) -> None:
        """Start the kernel, and remember its process."""
        super().start_new_kernel(**options)
        self.process = self.km.provisioner.process

    def execute_cell(self, cell: Any, cell_index: int, **options: Any) -> Any:
        """Run a cell; one that ends neither well nor in an error of its own is marked failed."""
        try:
            return super().execute_cell(cell, cell_index, **options)
        except CellExecutionError:
            raise
        except BaseException:
            self.lost_in = cell_index
            self.nb_man.cell_exception(cell, cell_index=cell_index)
            self.shutdown_kernel = "immediate"  # what hangs would not answer
            raise

    def end(self) -> int | None:
        """Kill what may be left of the kernel and of its children; return its return code."""
        if self.process is None:
            return None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # it leads a session of its own
        return self.process.wait()


class Engine(NBClientEngine):  # type: ignore[misc]
    """Papermill's engine with a `kernel: KernelSpec`; a lost kernel is a `RunError`."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, *, kernel: KernelSpec, **_: Any
    ) -> None:
        """Run the cells of a notebook in a kernel of its own."""
        killed_before = count_oom_kills()
        with tempfile.TemporaryDirectory(prefix="histo-nb-") as sockets:
            client = Client(
                nb_man,
                kernel_name=kernel_name,
                config=_connection(Path(sockets)),
                timeout_func=kernel.left_s,
                startup_timeout=STARTUP_S,
                iopub_timeout=OUTPUT_S,
            )
            try:
                client.execute(cwd=str(kernel.cwd), env=kernel.environment, stdout=STDERR)
            except CellTimeoutError as error:
                raise _timeout_fault(client, kernel) from error
            except (DeadKernelError, RuntimeError, TimeoutError) as error:
                oom_killed = (count_oom_kills() or 0) > (killed_before or 0)
                raise _lost_fault(client, error, oom_killed=oom_killed) from error
            finally:
                client.end()


def _connection(folder: Path) -> Config:
    """Return how to reach a kernel: by files of a folder of its own, no port that may be taken."""
    where = {"transport": "ipc", "connection_file": str(folder / "kernel.json")}
    return Config({"AsyncKernelManager": where})


def _timeout_fault(client: Client, kernel: KernelSpec) -> RunError:
    cell = f"cell {(client.lost_in or 0) + 1}"
    if kernel.is_over:
        words = f"it took longer than {kernel.total_timeout_s:g} s, the time was up in {cell}"
    elif kernel.timeout_s is None:
        words = f"the outputs of {cell} did not arrive within {OUTPUT_S} s"
    else:
        words = f"{cell} took longer than {kernel.timeout_s:g} s"
    return RunError(words, exit_code=Exit.TIMED_OUT)


def _lost_fault(client: Client, error: Exception, *, oom_killed: bool) -> RunError:
    if client.lost_in is None:
        return RunError(f"the kernel did not start ({error})")
    returncode = client.process.poll() if client.process else None
    fault = death_fault(returncode, oom_killed=oom_killed)
    return RunError(f"cell {client.lost_in + 1}: {fault}", exit_code=fault.exit_code)


papermill_engines.register(ENGINE, Engine)
