"""The server process: Voila's standalone app with the doors closed that Voila leaves open."""

import json
import logging
import os
import re
import socket
import sys
import threading
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import tornado.ioloop
import tornado.netutil
from jinja2 import ChoiceLoader, FileSystemLoader
from jupyter_server.base.handlers import Template404
from jupyter_server.services.kernels.handlers import KernelHandler
from jupyter_server.utils import url_path_join
from tornado.httpserver import HTTPServer
from traitlets.config import Config
from voila.app import Voila
from voila.paths import collect_static_paths
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

from histo_nb.running.voila.doors import HEADERS, MESSAGES, Connection, Door
from histo_nb.running.voila.handlers import (
    AssetHandler,
    FirstPageHandler,
    KernelFactHandler,
    PageHandler,
    ShutdownHandler,
    SocketHandler,
)
from histo_nb.running.voila.kernels import VisitorKernels
from histo_nb.running.voila.patient_handler import PatientHandler

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "template"
ANSI_COLOUR = re.compile("\x1b\\[[0-9;]*m")
HUB_DOOR = f"{__package__}.hub.HubDoor"  # by name: JupyterHub need not be installed
IMPORTS = "imports"  # tag of the cells that a waiting kernel has run
EXTENSIONS = (
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "anywidget",
)
# Of all that Voila answers, this is left, and ours answers instead.
OURS = {
    TornadoVoilaHandler: PageHandler,
    VoilaShutdownKernelHandler: ShutdownHandler,
    VoilaKernelWebsocketHandler: SocketHandler,
    KernelHandler: KernelFactHandler,
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the server is asked to do; it comes from `histo_nb.running.serve`."""

    folder: str
    pages: list[str]
    token: str  # "" = whoever reaches `socket` may come in
    port: int
    socket: str  # path; "" = the port
    base_url: str
    hub: bool  # JupyterHub says who may come in
    max_visitors: int
    n_warm: int
    settings: dict[str, dict[str, Any]]  # more of Voila's, for tests


class Dashboards(Voila):  # type: ignore[misc]
    """Voila with our templates, our handlers and a login."""

    template_paths: list[str]
    asked: Asked

    def setup_template_dirs(self) -> None:
        """Put our templates before Voila's."""
        super().setup_template_dirs()
        self.template_paths = [str(TEMPLATE), *self.template_paths]

    def init_settings(self) -> Any:
        """Use our login page instead of Jupyter's, and let a page send messages of widgets only."""
        settings = super().init_settings()
        environment = settings["jinja2_env"]
        environment.loader = ChoiceLoader([FileSystemLoader(str(TEMPLATE)), environment.loader])
        self.kernel_manager.allowed_message_types = sorted(MESSAGES)
        busy_url = f"{_asset_url(self.base_url, 'static')}/busy.js"
        return settings | {
            "histo_pages": self.asked.pages,
            "headers": HEADERS,
            "jinja_template_vars": {"busy_url": busy_url},
        }

    def init_handlers(self) -> list[Any]:
        """Keep what the pages need; everything else is a calm "there is no such page"."""
        base = self.base_url
        kept = [
            (pattern, OURS[handler], *rest)
            for pattern, handler, *rest in super().init_handlers()
            if handler in OURS
        ]
        folders = {"static": _static_folders(), "labextensions": self.labextensions_path}
        return [
            (f"{base}patient(?:/(.*))?", PatientHandler),
            (base, FirstPageHandler, {"page": self.asked.pages[0]}),
            *(
                (url_path_join(base, pattern), *rest)
                for pattern, *rest in self.identity_provider.get_handlers()
            ),
            *kept,
            *(
                (f"{_asset_url(base, name)}/(.*)", AssetHandler, {"paths": paths})
                for name, paths in folders.items()
            ),
            (".*", Template404),
        ]

    def listen(self) -> None:
        """Serve, tell the port on stdout, and stop when stdin closes."""
        try:
            sockets = self._bind()
        except OSError as error:
            _tell({"error": error.strerror or str(error)})
            return
        HTTPServer(self.app).add_sockets(sockets)
        self.ioloop = tornado.ioloop.IOLoop.current()
        threading.Thread(target=_wait_for_parent, args=(self.ioloop,), daemon=True).start()
        self.ioloop.add_callback(self.kernel_manager.fill)
        _tell({"port": 0 if self.asked.socket else sockets[0].getsockname()[1]})
        try:
            self.ioloop.start()
        finally:
            self.stop()

    def _bind(self) -> list[socket.socket]:
        if self.asked.socket:
            return [tornado.netutil.bind_unix_socket(self.asked.socket, mode=0o600)]
        return tornado.netutil.bind_sockets(self.asked.port, "127.0.0.1")


def configuration(asked: Asked) -> Config:
    """Return Voila's settings; each closes something or saves something."""
    transport = "tcp" if os.name == "nt" else "ipc"  # ipc: kernels no other account can reach
    config = Config(
        {
            "Voila": {
                "root_dir": asked.folder,
                "base_url": asked.base_url,
                "open_browser": False,
                "log_level": "ERROR",
                "config_file_paths": [],  # no voila.json of whatever folder this starts in
                "identity_provider_class": HUB_DOOR if asked.hub else Door,
                "kernel_websocket_connection_class": Connection,
                "tornado_settings": {
                    # No pings: Jupyter Server's cut a page off after each interval unless the
                    # time-out is longer, which Tornado forbids. A page on this machine that is
                    # closed closes its connection.
                    "ws_ping_interval": 0,
                    "log_function": _log_nothing,
                    "compress_response": bool(asked.socket),  # behind a proxy there is a network
                },
            },
            "VoilaConfiguration": {
                "file_allowlist": [],
                "strip_sources": True,
                "show_tracebacks": False,
                "allow_template_override": "NO",
                "allow_theme_override": "NO",
                "extension_allowlist": list(EXTENSIONS),
                "extension_denylist": [],
                "multi_kernel_manager_class": VisitorKernels,
                "page_config_hook": _page_config,
            },
            "VoilaExecutor": {"on_cell_error": _log_cell_error},
            "PasswordIdentityProvider": {
                "cookie_options": {"samesite": "Strict", "expires_days": None}
            },
            "MappingKernelManager": {"cull_idle_timeout": 60, "cull_interval": 15},
            "VisitorKernels": {
                "max_visitors": asked.max_visitors,
                "n_warm": asked.n_warm,
                "warm_code": _import_code(Path(asked.folder), asked.pages),
            },
            "KernelManager": {"transport": transport},
        }
    )
    config.merge(Config(asked.settings))
    return config


def _import_code(folder: Path, pages: list[str]) -> str:
    notebooks = [nbformat.read(folder / f"{page}.ipynb", as_version=4) for page in pages]
    cells = [cell for notebook in notebooks for cell in notebook.cells]
    return "\n".join(cell.source for cell in cells if IMPORTS in cell.metadata.get("tags", []))


def _static_folders() -> list[str]:
    return [str(TEMPLATE / "static"), *collect_static_paths(["voila"], "lab")]


def _asset_url(base_url: str, name: str) -> str:
    """Return where scripts lie: an address that changes with what lies there."""
    packages = [version(name) for name in ("voila", "jupyterlab_widgets", "anywidget")]
    files = [path.read_bytes() for path in sorted((TEMPLATE / "static").iterdir())]
    digest = sha256("".join(packages).encode() + b"".join(files)).hexdigest()[:12]
    return url_path_join(base_url, "voila", name, digest)


def _page_config(config: dict[str, Any], *, base_url: str, **_: Any) -> dict[str, Any]:
    return config | {
        "fullStaticUrl": _asset_url(base_url, "static"),
        "fullLabextensionsUrl": _asset_url(base_url, "labextensions"),
        "preload": sorted(AssetHandler.used),
    }


def _log_cell_error(
    cell: dict[str, Any], cell_index: int, execute_reply: dict[str, Any], **_: Any
) -> None:
    """Tell the person who runs the server what the visitor is spared."""
    content = execute_reply["content"]
    if content.get("status") == "error":
        log.error("a page failed:\n%s", ANSI_COLOUR.sub("", "\n".join(content["traceback"])))


def _log_nothing(_: Any) -> None:
    """Keep addresses, which may hold the token, out of the server's messages."""


def _tell(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def _wait_for_parent(loop: tornado.ioloop.IOLoop) -> None:
    # Unbuffered: a thread that waits in a buffer aborts the interpreter's own ending.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    loop.add_callback(loop.stop)


def main() -> None:
    """Read what is asked from stdin, and serve.

    The token comes this way because arguments are seen by every account, and kernels inherit the
    environment.
    """
    asked = Asked(**json.loads(sys.stdin.buffer.readline()))
    app = Dashboards(config=configuration(asked))
    app.asked = asked
    app.initialize([])
    app.token = asked.token
    app.start()


if __name__ == "__main__":
    main()
