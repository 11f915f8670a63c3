"""The dashboards as a page in the browser: Voila in a process of its own, on this machine only."""

import json
import os
import secrets
import subprocess
import sys
import webbrowser
from pathlib import Path
from types import TracebackType

from histo_nb.errors import HistoError, NotebookError
from histo_nb.home import Home

STOP_S = 15.0  # what kernels get to end by themselves


class DashboardServer:
    """A running server; a context manager that stops it. It also stops when this process ends."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, port: int, token: str) -> None:
        self.process = process
        self.port = port
        self.token = token

    def __enter__(self) -> "DashboardServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The address with its token: whoever has it may read the page."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    def wait(self) -> int:
        """Wait until the server ends or the keyboard interrupts; return its exit status."""
        try:
            return self.process.wait()
        except KeyboardInterrupt:
            return self.stop()

    def stop(self) -> int:
        """Stop the server and its kernels; return its exit status."""
        if self.process.stdin and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def serve_dashboards(
    home: Home,
    *,
    port: int = 8866,
    token: str | None = None,
    open_browser: bool = False,
    folder: Path | None = None,
) -> DashboardServer:
    """Serve the dashboards of `home` on 127.0.0.1 and return the running server.

    The address, with its token, is printed to stderr.

    Parameters
    ----------
    port
        0 takes a free one.
    token
        What a visitor must show; a random one by default.
    folder
        Where the dashboards lie, if not those of this package.

    Raises
    ------
    HistoError
        The port is taken, the token empty, or the server does not start.
    """
    if token is not None and not token.strip():
        raise HistoError("token='' would let everybody in; leave it out for a random one")
    token = token or secrets.token_urlsafe(24)
    folder = folder or dashboards_folder()
    process = subprocess.Popen(
        [sys.executable, "-m", "histo_nb.running.voila.app"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HISTO_HOME": str(home.root)},
    )
    try:
        server = DashboardServer(process, port=_start(process, folder, port, token), token=token)
    except BaseException:
        process.kill()
        process.wait()
        raise
    print(f"Slide review: {server.url}", file=sys.stderr, flush=True)
    if open_browser:
        webbrowser.open(server.url)
    return server


def dashboards_folder() -> Path:
    """Return the folder of our dashboards: of the checkout, else of the installed package.

    Raises
    ------
    NotebookError
        There is none.
    """
    package = Path(__file__).parents[1]
    for folder in (package.parent / "dashboards", package / "_dashboards"):
        if (folder / "review.ipynb").is_file():
            return folder
    raise NotebookError("the dashboards are missing; install histo-nb again")


def _start(process: "subprocess.Popen[bytes]", folder: Path, port: int, token: str) -> int:
    assert process.stdin and process.stdout
    asked = {"folder": str(folder), "port": port, "token": token}
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    told = json.loads(line) if line else {"error": "it ended at once; see its messages above"}
    if "error" in told:
        raise HistoError(
            f"the page does not start on port {port} ({told['error']}); "
            "choose another port, or 0 for a free one"
        )
    return int(told["port"])
