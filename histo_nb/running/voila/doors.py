"""What keeps strangers out, and what those who are in may do."""

import asyncio
import hmac
import logging
from typing import Any

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.auth.identity import PasswordIdentityProvider, User
from jupyter_server.services.kernels.connection.base import deserialize_msg_from_ws_v1
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from voila.voila_identity_provider import VoilaLoginHandler

log = logging.getLogger(__name__)

PROTOCOL = "v1.kernel.websocket.jupyter.org"
# Whatever a page may send its kernel: messages of widgets that are there. None of them is code.
MESSAGES = frozenset(
    {"comm_msg", "comm_close", "comm_info_request", "kernel_info_request", "comm_open"}
)
# What a kernel may say to a page: its widgets' state. What it prints (a traceback, say, with the
# names of files) is for those who run the server.
ANSWERS = frozenset(
    {"comm_open", "comm_msg", "comm_close", "comm_info_reply", "kernel_info_reply", "status"}
)
TARGETS = frozenset({"jupyter.widget.control"})  # asks for the state of widgets; opens none
MAX_PARTS = 1000
WRONG_S = 1.0  # one wrong guess at a time, a second each

# Scripts come from files of ours and from the widgets' own modules (blob:). None stands in a page,
# none is made of text. Styles stand in the page: widgets set them.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


class Door(PasswordIdentityProvider):  # type: ignore[misc]
    """Opens for the token, compared in constant time; wrong ones wait."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._guesses = asyncio.Lock()

    def get_handlers(self) -> list[tuple[str, type]]:  # type: ignore[override]
        """Return the login form; there is no account to log out of."""
        return [("/login", LoginHandler)]

    async def fits(self, given: str) -> bool:
        """Say whether `given` is the token."""
        if hmac.compare_digest(given.encode(), self.token.encode()):
            return True
        async with self._guesses:
            await asyncio.sleep(WRONG_S)
        return False

    async def get_user_token(self, handler: Any) -> User | None:
        """Return the user of a request that shows the token."""
        given = self.get_token(handler)
        if not given or not self.token or not await self.fits(given):
            return None
        return await super().get_user_token(handler)


class LoginHandler(VoilaLoginHandler):  # type: ignore[misc]
    """The login form."""

    @allow_unauthenticated
    async def post(self) -> None:
        """Let in, or say that the token is wrong."""
        provider: Door = self.identity_provider
        if not await provider.fits(self.get_argument("password", "")):
            self.set_status(401)
            self._render(message={"error": "This is not the token."})
            return
        super().post()


class Connection(ZMQChannelsWebsocketConnection):  # type: ignore[misc]
    """A page's way to its kernel: messages of widgets, no code."""

    def handle_incoming_message(self, incoming_msg: Any) -> None:
        """Pass a harmless message on; anything else is dropped."""
        is_bytes = isinstance(incoming_msg, bytes)
        if is_bytes and self.subprotocol == PROTOCOL and self._is_harmless(incoming_msg):
            super().handle_incoming_message(incoming_msg)

    def handle_outgoing_message(self, stream: str, outgoing_msg: list[Any]) -> None:
        """Pass on what widgets say; what a kernel prints goes to the server's own messages."""
        _, parts = self.session.feed_identities(outgoing_msg)
        kind = self.session.unpack(parts[1])["msg_type"]
        if kind in ANSWERS:
            super().handle_outgoing_message(stream, outgoing_msg)
        elif kind == "stream":
            log.error("a page says:\n%s", self.session.unpack(parts[4]).get("text", ""))

    def _is_harmless(self, message: bytes) -> bool:
        if int.from_bytes(message[:8], "little") > MAX_PARTS:  # would be counted up to
            return False
        try:
            channel, parts = deserialize_msg_from_ws_v1(message)  # type: ignore[no-untyped-call]
            kind = self.session.unpack(parts[0])["msg_type"]
            target = self.session.unpack(parts[3]).get("target_name")
        except Exception:  # whatever a stranger may send
            return False
        return (
            channel == "shell" and kind in MESSAGES and (kind != "comm_open" or target in TARGETS)
        )

    def on_kernel_restarted(self) -> None:
        """Close the page's channel: a new kernel knows nothing of the page."""
        self.on_restart_failed()

    def on_restart_failed(self) -> None:
        """End what is left of a dead kernel; the page says that it lost its connection."""
        self.websocket_handler.close()
        kernels = self.multi_kernel_manager
        if self.kernel_id in kernels:
            self._ending = asyncio.ensure_future(kernels.shutdown_kernel(self.kernel_id, now=True))
