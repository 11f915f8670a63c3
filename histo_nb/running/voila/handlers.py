"""What answers a request: pages, their scripts, the channel to a kernel, a page's farewell."""

from typing import Any, ClassVar

import tornado.web
from jupyter_core.utils import ensure_async
from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.services.kernels.handlers import KernelHandler
from voila.shutdown_kernel_handler import VoilaShutdownKernelHandler
from voila.static_file_handler import MultiStaticFileHandler
from voila.tornado.handler import TornadoVoilaHandler
from voila.tornado.kernel_websocket_handler import VoilaKernelWebsocketHandler

YEAR_S = 31_536_000
RETRY_S = 20


class FirstPageHandler(JupyterHandler):  # type: ignore[misc]
    """`/` leads to the first page, and leaves the token out of the address."""

    def initialize(self, page: str) -> None:  # type: ignore[override]
        """Take the name of the page."""
        self.page = page

    @tornado.web.authenticated
    async def get(self) -> None:
        """Redirect; the login cookie is set by now."""
        self.redirect(f"{self.base_url}voila/render/{self.page}.ipynb")


class PageHandler(TornadoVoilaHandler):  # type: ignore[misc]
    """One of the pages that are served; no other notebook, whatever the address says."""

    @tornado.web.authenticated
    async def get(self, path: str | None = None) -> None:
        """Serve the page, as long as there is a place."""
        if path not in {f"{page}.ipynb" for page in self.settings["histo_pages"]}:
            raise tornado.web.HTTPError(404)
        async for html in self.get_generator(path=path):
            # Voila keeps slow connections awake with a script, which our policy forbids.
            self.write(" " if "voila_heartbeat" in html else html)
            self.flush()

    def write_error(self, status_code: int, **options: Any) -> None:
        """Show a calm page."""
        if status_code == 503:
            self.set_header("Retry-After", str(RETRY_S))
        super().write_error(status_code, **options)


class AssetHandler(JupyterHandler, MultiStaticFileHandler):  # type: ignore[misc]
    """Scripts and styles, which a browser keeps: their address holds their version."""

    used: ClassVar[set[str]] = set()  # by pages so far; the next page asks for them all at once

    def initialize(self, paths: list[str]) -> None:  # type: ignore[override]
        """Take the folders where they lie."""
        MultiStaticFileHandler.initialize(self, paths)

    @tornado.web.authenticated
    async def get(self, path: str, include_body: bool = True) -> None:
        """Serve a file, with login."""
        await MultiStaticFileHandler.get(self, path, include_body)
        if path.endswith(".js"):
            self.used.add(self.request.path)

    def set_extra_headers(self, path: str) -> None:
        """Let browsers keep it, others not."""
        self.set_header("Cache-Control", f"private, max-age={YEAR_S}, immutable")

    def compute_etag(self) -> str | None:
        """Return the file's tag."""
        return MultiStaticFileHandler.compute_etag(self)

    @property
    def content_security_policy(self) -> str:
        """A file that is opened by itself does nothing."""
        return "default-src 'none'; frame-ancestors 'none'"


class KernelFactHandler(KernelHandler):  # type: ignore[misc]
    """Says whether a kernel lives; ends none."""

    @tornado.web.authenticated
    @authorized
    async def delete(self, kernel_id: str) -> None:
        """Refuse."""
        raise tornado.web.HTTPError(405)


class ShutdownHandler(VoilaShutdownKernelHandler):  # type: ignore[misc]
    """A closed page gives its kernel back."""

    def check_xsrf_cookie(self) -> None:
        """Accept the page's farewell, which a browser sends without headers (Voila #1458).

        It needs the login cookie and the kernel's random id, so a foreign page cannot forge it.
        """

    @tornado.web.authenticated
    async def post(self, kernel_id: str) -> None:
        """End the kernel of a visitor; once more does nothing."""
        kernels = self.settings["kernel_manager"]
        if kernel_id in kernels.visitors:
            await ensure_async(kernels.shutdown_kernel(kernel_id))
        self.set_status(204)


class SocketHandler(VoilaKernelWebsocketHandler):  # type: ignore[misc]
    """The widgets' channel, to kernels of visitors only; small messages leave at once."""

    async def pre_get(self) -> None:
        """Refuse kernels that nobody was given."""
        if self.kernel_id not in self.settings["kernel_manager"].visitors:
            raise tornado.web.HTTPError(404)
        await super().pre_get()

    async def open(self, *args: Any, **options: Any) -> None:
        """Switch Nagle's algorithm off: it costs 40 ms a message."""
        self.set_nodelay(True)
        await super().open(*args, **options)
