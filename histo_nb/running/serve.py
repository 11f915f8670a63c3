"""The dashboards as pages in the browser: Voila in a process of its own, on this machine only."""

import json
import os
import re
import secrets
import signal
import stat
import subprocess
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from html import escape
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from histo_nb.errors import HistoError, NotebookError, SpecError
from histo_nb.home import Home

PAGES = ("review", "board", "operations")
BASE_URL = re.compile(r"/([\w.~@%-]+/)*")
STOP_S = 15.0  # what kernels get to end by themselves


class DashboardServer:
    """A running server; a context manager that stops it. It also stops when this process ends."""

    def __init__(self, process: "subprocess.Popen[bytes]", *, url: str, token: str) -> None:
        self.process = process
        self.url = url  # with its token: whoever has it may read the page
        self.token = token
        self._way_in: Path | None = None  # leads a browser here; see `show`

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
    def port(self) -> int:
        """The port; 0 where it listens on a socket file."""
        found = re.match(r"http://127\.0\.0\.1:(\d+)/", self.url)
        return int(found[1]) if found else 0

    def wait(self) -> int:
        """Wait until the server ends, or Ctrl-C or SIGTERM ends it; return its exit status."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return self.process.wait()
        except KeyboardInterrupt:
            return self.stop()

    def show(self) -> None:
        """Open the first page in a browser; the token stands in a file, not in its arguments."""
        handle, name = tempfile.mkstemp(prefix="histo-nb-", suffix=".html")  # for this account only
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0; url={escape(self.url)}">')
        self._way_in = Path(name)
        webbrowser.open(self._way_in.as_uri())

    def stop(self) -> int:
        """Stop the server and its kernels; return its exit status."""
        if self._way_in:
            self._way_in.unlink(missing_ok=True)
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
    pages: Sequence[str] = PAGES,
    port: int = 8866,
    socket: Path | None = None,
    base_url: str = "/",
    token: str | None = None,
    user: str | None = None,
    hub: bool = False,
    max_visitors: int = 10,
    n_warm: int = 1,
    announce: bool = True,
    open_browser: bool = False,
    folder: Path | None = None,
    settings: dict[str, dict[str, Any]] | None = None,
) -> DashboardServer:
    """Serve dashboards of `home` on this machine and return the running server.

    The address, with its token, is printed to stderr, unless `announce` is False.

    Parameters
    ----------
    pages
        Names of the notebooks that are served; the first is where `/` leads.
    port
        On 127.0.0.1; 0 takes a free one.
    socket
        Listen on this file instead of a port. Its folder must be closed to other accounts
        (`chmod 700`).
    base_url
        What addresses begin with, behind a proxy.
    token
        What a visitor must show; a random one by default. "" lets everyone in whom a proxy in
        front has let in: with `socket` only, which no one else can reach.
    user
        Who the visitors are, if the server in front knows; pages sign as nobody else.
    hub
        JupyterHub has started this and says who may come in; see `hub_place`.
    max_visitors
        Kernels at once; the next visitor is asked to wait.
    n_warm
        Kernels that have started before a visitor comes, about 100 MB each; 0 = none.
    folder
        Where the dashboards lie, if not those of this package.
    settings
        Settings of Voila that replace ours.

    Raises
    ------
    SpecError
        A parameter lies outside its rule.
    HistoError
        The port is taken, or the server does not start.
    """
    folder = folder or dashboards_folder()
    _check_pages(pages, folder)
    _check_address(base_url, token, max_visitors, is_guarded=hub or socket is not None)
    if socket is not None:
        _check_closed(socket.absolute().parent)
    token = secrets.token_urlsafe(24) if token is None else token
    asked = {
        "folder": str(folder),
        "pages": list(pages),
        "token": token,
        "port": port,
        "socket": str(socket or ""),
        "base_url": base_url,
        "hub": hub,
        "max_visitors": max_visitors,
        "n_warm": n_warm,
        "settings": settings or {},
    }
    named = {"HISTO_USER": user} if user else {}
    if hub:
        named["HISTO_LOGOUT"] = f"{base_url}logout"
    process = subprocess.Popen(
        [sys.executable, "-m", "histo_nb.running.voila.app"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for this process, which then stops the server
        env={**os.environ, "HISTO_HOME": str(home.root), "HISTO_PAGES": ",".join(pages), **named},
    )
    try:
        port = _start(process, asked)
    except BaseException:
        process.kill()
        process.wait()
        raise
    host = f"unix:{socket}:" if socket else f"http://127.0.0.1:{port}"
    query = f"?token={token}" if token else ""
    server = DashboardServer(process, url=f"{host}{base_url}{query}", token=token)
    if announce:
        print(f"Serving {', '.join(pages)}: {server.url}", file=sys.stderr, flush=True)
    if open_browser:
        server.show()
    return server


def hub_place() -> dict[str, Any]:
    """Return where JupyterHub wants the server that it starts here, and for whom.

    Raises
    ------
    SpecError
        JupyterHub has not started this.
    """
    try:
        port = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port
        base_url, user = (os.environ[f"JUPYTERHUB_{name}"] for name in ("SERVICE_PREFIX", "USER"))
    except KeyError as error:
        raise SpecError(f"{error} is not set: --hub is for JupyterHub; leave it out") from None
    return {"hub": True, "port": port, "base_url": base_url, "user": user, "token": ""}


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


def _check_pages(pages: Sequence[str], folder: Path) -> None:
    there = {path.stem for path in folder.glob("*.ipynb")}
    for page in pages:
        if page not in there:
            raise SpecError(f"page={page!r} is none of {', '.join(sorted(there))}; choose of these")
    if not pages:
        raise SpecError("pages=() serves nothing; name at least one page")


def _check_address(
    base_url: str, token: str | None, max_visitors: int, *, is_guarded: bool
) -> None:
    if not BASE_URL.fullmatch(base_url):
        raise SpecError(f"base_url={base_url!r} must begin and end with /, such as /user/ada/")
    if token is not None and not token.strip() and (token or not is_guarded):
        raise SpecError(
            f"token={token!r} would let everybody in; leave it out for a random one, or let a "
            "proxy in front ask who it is and reach this server by socket="
        )
    if max_visitors < 1:
        raise SpecError(f"max_visitors={max_visitors} lets nobody in; choose 1 or more")


def _check_closed(folder: Path) -> None:
    """Refuse a folder that other accounts can enter or replace the socket in."""
    found = folder.stat() if folder.is_dir() else None
    if found is None or found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SpecError(
            f"the folder of socket, {folder}, must be yours and closed to other accounts; "
            "make one with `mkdir -m 700`"
        )


def _start(process: "subprocess.Popen[bytes]", asked: dict[str, Any]) -> int:
    assert process.stdin and process.stdout
    process.stdin.write(json.dumps(asked).encode() + b"\n")
    process.stdin.flush()
    line = process.stdout.readline()
    told = json.loads(line) if line else {"error": "it ended at once; see its messages above"}
    if "error" in told:
        raise HistoError(
            f"the page does not start on {asked['socket'] or 'port ' + str(asked['port'])} "
            f"({told['error']}); choose another port, or 0 for a free one"
        )
    return int(told["port"])
