"""The patient's page, made here and sent as a text: whoever reads it reaches no kernel.

`dashboards/patient.ipynb` runs in a kernel of its own, which knows one slide and is gone before
the page is sent.
"""

import os
import tempfile
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

from histo_nb.errors import NotebookError
from histo_nb.home import Home

AT_ONCE = 2  # kernels; each takes about a second and 200 MB
WAITING = 8  # pages that may be on their way; more visitors are asked to come back
KEEP_S = 300.0  # a page that was made is given again; what is signed does not change
RUN_S = 30  # longest time for the kernel to start, and for a cell
SLIDE_VARIABLE = "HISTO_PATIENT_SLIDE"  # read by `widgets.patient`
# What the kernel gets of the server's surroundings. The database's address may hold a password,
# and is needed.
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
             "VIRTUAL_ENV", "PYTHONPATH", "LD_LIBRARY_PATH", "HISTO_DATABASE_URL")  # fmt: skip


class BusyError(Exception):
    """Too many pages are being made."""


class PatientPages:
    """Makes pages, a few at once, and keeps each for some minutes."""

    def __init__(self, home: Home, notebook: Path) -> None:
        self._home = home
        self._notebook = notebook
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="patient")
        self._pages: dict[tuple[str, str], tuple[float, Future[str]]] = {}
        self._lock = threading.Lock()

    def page(self, slide_id: str, signed_at: str) -> "Future[str]":
        """Return the HTML of a slide as it was signed; made once, whoever else asks meanwhile.

        Raises
        ------
        BusyError
            Too many others are being made.
        """
        key = (slide_id, signed_at)
        with self._lock:
            self._forget_old()
            if key not in self._pages:
                if sum(not page.done() for _, page in self._pages.values()) >= WAITING:
                    raise BusyError
                made = self._workers.submit(run_page, self._home, slide_id, self._notebook)
                self._pages[key] = (monotonic(), made)
            return self._pages[key][1]

    def _forget_old(self) -> None:
        for key, (since, page) in [*self._pages.items()]:
            if page.done() and (monotonic() - since > KEEP_S or page.exception()):
                del self._pages[key]


def run_page(home: Home, slide_id: str, notebook: Path) -> str:
    """Run a notebook in a kernel that knows one slide; return the HTML of its last cell.

    Raises
    ------
    NotebookError
        It failed, or shows nothing.
    """
    page = nbformat.read(notebook, as_version=4)
    try:
        with tempfile.TemporaryDirectory(prefix="histo_nb-") as private:
            client = NotebookClient(
                page,
                timeout=RUN_S,
                startup_timeout=RUN_S,
                kernel_name="python3",
                resources={"metadata": {"path": str(notebook.parent)}},
                shutdown_kernel="immediate",
                config=_connection(Path(private)),
            )
            done = client.execute(env=kernel_environment(home, slide_id))
        return str(done.cells[-1].outputs[-1].data["text/html"])
    except Exception as error:  # nbclient, jupyter_client and zmq raise what they like
        raise NotebookError(f"{notebook.name} shows no page ({error})") from error


def _connection(folder: Path) -> Config:
    """Return how to reach a kernel: by files of a folder that no other account can enter."""
    transport = "tcp" if os.name == "nt" else "ipc"
    where = {"transport": transport, "connection_file": str(folder / "kernel.json")}
    return Config({"AsyncKernelManager": where})


def kernel_environment(home: Home, slide_id: str) -> dict[str, str]:
    """Return all that the kernel of a patient's page is told."""
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    told = {"HISTO_HOME": str(home.root), SLIDE_VARIABLE: slide_id, "OMP_NUM_THREADS": "1"}
    return {**passed, **told}
