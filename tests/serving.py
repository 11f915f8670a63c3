"""A server of small pages for tests, and a visitor without a browser."""

import re
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import psutil
from jupyter_client.session import Session
from jupyter_server.services.kernels.connection.base import (
    deserialize_msg_from_ws_v1,
    serialize_msg_to_ws_v1,
)
from websockets.sync.client import ClientConnection, connect

from histo_nb.running.serve import DashboardServer

PROTOCOL = "v1.kernel.websocket.jupyter.org"
IMPORTS = "import ipywidgets\nfrom histo_nb.widgets.visitor import visitor_query"
COUNTER = """
count = ipywidgets.Label("0")
press = ipywidgets.Button(description="Press")
press.on_click(lambda _: setattr(count, "value", str(int(count.value) + 1)))
asked = ipywidgets.Label(visitor_query().get("slide", "nothing asked"))
ipywidgets.VBox([press, count, asked])
"""


def write_page(folder: Path, name: str, *cells: str) -> None:
    """Write a dashboard; of several cells, the first imports."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    if len(cells) > 1:
        notebook.cells[0].metadata.tags = ["imports"]
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(notebook, folder / f"{name}.ipynb")


def write_pages(folder: Path) -> Path:
    """Write a page of widgets, one that fails, one that shows nothing, one not to be served."""
    folder.mkdir()
    write_page(folder, "review", IMPORTS, COUNTER)
    write_page(folder, "broken", "raise ValueError('secret failure')")
    write_page(folder, "silent", "print('<b>a plain text</b>')")
    write_page(folder, "hidden", IMPORTS, "ipywidgets.Label('hidden')")
    (folder / "picture.png").write_bytes(b"planted picture")
    (folder / "data.csv").write_text("planted data")
    return folder


def kernels_of(server: DashboardServer) -> dict[int, psutil.Process]:
    """Return the kernels of a server by their process id."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return {p.pid: p for p in children if _is_kernel(p)}


def _is_kernel(process: psutil.Process) -> bool:
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.Error:  # it ends just now
        return False


class Visitor:
    """Asks a server without a browser; keeps its cookies."""

    def __init__(self, server: DashboardServer, *, base_url: str = "/", path: str = "") -> None:
        self.server, self.base_url, self.path = server, base_url, path
        self.cookies: dict[str, str] = {}
        self.set_cookies: list[str] = []

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> tuple[int, Any, str]:
        """Return status, headers and text; no redirect is followed."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        if self.path:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(self.path)
        connection.request(method, self.base_url + path, headers=headers | self.cookie())
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            self.set_cookies.append(cookie)
            name, _, value = cookie.partition(";")[0].partition("=")
            self.cookies[name] = value
        connection.close()
        return answer.status, answer.headers, text

    def cookie(self) -> dict[str, str]:
        """Return the header of the cookies."""
        pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": pairs} if pairs else {}

    def enter(self) -> "Visitor":
        """Show the token."""
        self.ask("?" + urlsplit(self.server.url).query)
        return self

    def open_page(self, name: str = "review", query: str = "") -> str:
        """Open a page and return its kernel's id."""
        status, _, text = self.ask(f"voila/render/{name}.ipynb{query}")
        assert status == 200, status
        found = re.search(r'"kernelId": "([\w-]+)"', text)
        assert found, text
        return found[1]

    def channel(self, kernel_id: str, **options: Any) -> ClientConnection:
        """Open the channel to a kernel."""
        address = f"ws://127.0.0.1:{self.server.port}/api/kernels/{kernel_id}/channels"
        options = {"subprotocols": [PROTOCOL]} | options
        return connect(address, additional_headers=self.cookie(), **options)


def pack(kind: str, content: dict[str, Any], *, channel: str = "shell") -> bytes:
    """Return a message of the kernel's protocol."""
    session = Session()
    return serialize_msg_to_ws_v1(session.msg(kind, content), channel, session.pack)


def answers(socket: ClientConnection) -> str:
    """Ask the kernel what it is and return all it said until it answered."""
    socket.send(pack("kernel_info_request", {}))
    said = ""
    while "kernel_info_reply" not in said:
        _, parts = deserialize_msg_from_ws_v1(socket.recv(timeout=30))
        said += b" ".join(parts).decode(errors="replace")
    return said
