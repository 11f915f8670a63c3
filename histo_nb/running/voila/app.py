"""The server process: Voila's standalone app with the doors closed that Voila leaves open."""

import json
import logging
import os
import re
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import tornado.ioloop
import tornado.netutil
import tornado.web
from jinja2 import ChoiceLoader, FileSystemLoader
from jupyter_server.base.handlers import JupyterHandler, Template404
from tornado.httpserver import HTTPServer
from traitlets.config import Config
from voila.app import Voila
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.tornado.contentshandler import VoilaContentsHandler
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler
from voila.tornado.treehandler import TornadoVoilaTreeHandler

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "template"
ANSI_COLOUR = re.compile("\x1b\\[[0-9;]*m")
FIRST_PAGE = "review.ipynb"
MAX_KERNELS = 12  # one a visitor, about 150 MB each
CULL_IDLE_S = 60  # a kernel nobody is connected to goes after that
# Scripts and styles of Jupyter's front end stand inline and are evaluated; nothing else may load.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws: wss:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'"
)


class FirstPageHandler(JupyterHandler):
    """`/` leads to the review page, and leaves the token out of the address."""

    @tornado.web.authenticated
    async def get(self) -> None:
        """Redirect; the login cookie is set by now."""
        self.redirect(f"{self.base_url}voila/render/{FIRST_PAGE}")


class PageHandler(TornadoVoilaHandler):  # type: ignore[misc]
    """A dashboard of the folder itself, as long as there is room for one more kernel."""

    async def get(self, path: str | None = None) -> None:
        """Serve the page, with login."""
        if self.current_user:
            folder = Path(self.contents_manager.root_dir)
            if path not in {page.name for page in folder.glob("*.ipynb")}:
                raise tornado.web.HTTPError(404)
            if len(self.kernel_manager.list_kernel_ids()) >= MAX_KERNELS:
                raise tornado.web.HTTPError(503, reason="Busy")
        await super().get(path)


class ShutdownHandler(VoilaShutdownKernelHandler):  # type: ignore[misc]
    """A closed page gives its kernel back."""

    def check_xsrf_cookie(self) -> None:
        """Accept the page's farewell, which a browser sends without headers (Voila #1458).

        It needs the login cookie and the kernel's random id, so a foreign page cannot forge it.
        """


class SocketHandler(VoilaKernelWebsocketHandler):  # type: ignore[misc]
    """The widgets' channel; small messages leave at once."""

    async def open(self, *args: Any, **options: Any) -> None:
        """Switch Nagle's algorithm off: it costs 40 ms a message."""
        self.set_nodelay(True)
        await super().open(*args, **options)


OURS = {
    TornadoVoilaHandler: PageHandler,
    VoilaShutdownKernelHandler: ShutdownHandler,
    VoilaKernelWebsocketHandler: SocketHandler,
}
CLOSED = (TornadoVoilaTreeHandler, VoilaContentsHandler)


class Dashboards(Voila):  # type: ignore[misc]
    """Voila with our templates, our handlers and a login."""

    template_paths: list[str]

    def setup_template_dirs(self) -> None:
        """Put our templates before Voila's."""
        super().setup_template_dirs()
        self.template_paths = [str(TEMPLATE), *self.template_paths]

    def init_settings(self) -> Any:
        """Use our login page instead of Jupyter's."""
        settings = super().init_settings()
        environment = settings["jinja2_env"]
        ours = FileSystemLoader(str(TEMPLATE))
        environment.loader = ChoiceLoader([ours, environment.loader])
        return settings

    def init_handlers(self) -> list[Any]:
        """Swap in our handlers and close the list of files."""
        handlers = [
            (pattern, OURS.get(handler, handler), *rest)
            for pattern, handler, *rest in super().init_handlers()
            if handler not in CLOSED
        ]
        return [(self.server_url, FirstPageHandler), *handlers, (".*", Template404)]

    def listen(self) -> None:
        """Serve on one port, tell it on stdout, and stop when stdin closes."""
        try:
            sockets = tornado.netutil.bind_sockets(self.port, self.ip)
        except OSError as error:
            _tell({"error": error.strerror or str(error)})
            return
        HTTPServer(self.app).add_sockets(sockets)
        self.ioloop = tornado.ioloop.IOLoop.current()
        threading.Thread(target=_wait_for_parent, args=(self.ioloop,), daemon=True).start()
        _tell({"port": sockets[0].getsockname()[1]})
        try:
            with suppress(KeyboardInterrupt):  # Ctrl-C reaches the whole group of processes
                self.ioloop.start()
        finally:
            self.stop()


def configuration(folder: str, port: int) -> Config:
    """Return Voila's settings; each closes something or saves something."""
    transport = "tcp" if os.name == "nt" else "ipc"  # ipc: kernels no other account can reach
    return Config(
        {
            "Voila": {
                "ip": "127.0.0.1",
                "port": port,
                "root_dir": folder,
                "open_browser": False,
                "log_level": "ERROR",
                "config_file_paths": [],  # no voila.json of whatever folder this starts in
                "tornado_settings": {
                    "headers": {"Content-Security-Policy": CONTENT_SECURITY_POLICY},
                    # No pings: Jupyter Server's cut a page off after each interval unless the
                    # time-out is longer, which Tornado forbids. A page on this machine that is
                    # closed closes its connection.
                    "ws_ping_interval": 0,
                },
            },
            "VoilaConfiguration": {
                "file_allowlist": [],  # else pictures are served without login
                "strip_sources": True,
                "show_tracebacks": False,
                "allow_template_override": "NO",
                "allow_theme_override": "NO",
                "extension_allowlist": [
                    "@jupyter-widgets/jupyterlab-manager",
                    "@voila-dashboards/widgets-manager8",
                    "anywidget",
                ],
                "extension_denylist": [],
            },
            "VoilaExecutor": {"on_cell_error": _log_cell_error},
            "MappingKernelManager": {"cull_idle_timeout": CULL_IDLE_S, "cull_interval": 15},
            "KernelManager": {"transport": transport},
        }
    )


def _log_cell_error(
    cell: dict[str, Any], cell_index: int, execute_reply: dict[str, Any], **_: Any
) -> None:
    """Tell the person who runs the server what the visitor is spared."""
    content = execute_reply["content"]
    if content.get("status") == "error":
        log.error("a page failed:\n%s", ANSI_COLOUR.sub("", "\n".join(content["traceback"])))


def _tell(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def _wait_for_parent(loop: tornado.ioloop.IOLoop) -> None:
    # Unbuffered: a thread that waits in a buffer aborts the interpreter's own ending.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    loop.add_callback(loop.stop)


def main() -> None:
    """Read `folder`, `port` and `token` from stdin, and serve.

    The token comes this way because arguments are seen by every account, and kernels inherit the
    environment.
    """
    asked = json.loads(sys.stdin.buffer.readline())
    app = Dashboards(config=configuration(asked["folder"], asked["port"]))
    app.initialize([])
    app.token = asked["token"]
    app.start()


if __name__ == "__main__":
    main()
