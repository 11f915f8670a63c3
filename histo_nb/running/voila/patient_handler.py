"""`/patient/<token>`: the way in without login, to one page that is a text and nothing else."""

import asyncio
import logging
from collections import deque
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

import tornado.web
from jinja2 import Environment, FileSystemLoader

from histo_nb.errors import HistoError, LinkError
from histo_nb.home import Home, open_home
from histo_nb.running.links import open_link
from histo_nb.running.patient import BusyError, PatientPages
from histo_nb.running.serve import dashboards_folder

log = logging.getLogger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex, nofollow, noarchive",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# Whatever is wrong, the page looks the same and says nothing of what there is.
SAYS = {
    403: ("This link is not valid", "Please check that you opened the whole address, or ask "
          "your doctor for a new link."),
    410: ("This link shows nothing any more", "It may have expired, or your result is being looked "
          "at again. Please ask your doctor for a new link."),
    429: ("Please wait a moment", "There were many attempts with links that are not valid. Please "
          "try again in a minute."),
    503: ("Please wait a moment", "Many people are reading just now. Please load this page again "
          "in a minute."),
    500: ("This page cannot be shown at the moment", "Your result is not lost. Please try again "
          "later, or ask your doctor."),
}  # fmt: skip
MAX_BAD, BAD_S = 20, 60.0  # links that are none, from one address in so many seconds
TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "template"), autoescape=True
)


class BadLinks:
    """Counts links that were none, by the address they came from."""

    def __init__(self) -> None:
        self._times: dict[str, deque[float]] = {}

    def add(self, address: str) -> bool:
        """Count one more; return whether there were too many of late."""
        since = monotonic() - BAD_S
        self._times = {a: t for a, t in self._times.items() if t[-1] > since}
        times = self._times.setdefault(address, deque(maxlen=MAX_BAD + 1))
        times.append(monotonic())
        return len(times) > MAX_BAD and times[0] > since


class PatientHandler(tornado.web.RequestHandler):
    """Checks a personal link and sends its page; nothing else is understood."""

    SUPPORTED_METHODS = ("GET",)  # type: ignore[assignment]
    _bad = BadLinks()

    def initialize(self) -> None:
        """Keep the token out of every log."""
        self.request.uri = self.request.path = "/patient/…"

    def set_default_headers(self) -> None:
        """Close all doors of the page."""
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def check_xsrf_cookie(self) -> None:
        """Ask for none: nothing can be sent here."""

    def compute_etag(self) -> None:
        """Give none: what is signed may change, and nothing is kept."""

    async def get(self, token: str | None = None) -> None:
        """Send the page of a link."""
        loop = asyncio.get_running_loop()
        try:
            slide_id, signed_at = await loop.run_in_executor(None, open_link, _home(), token or "")
            page = await asyncio.wrap_future(_pages().page(slide_id, signed_at))
        except LinkError as error:
            too_many = not error.is_ours and self._bad.add(self.request.remote_ip or "")
            self.send_error(410 if error.is_ours else 429 if too_many else 403)
        except BusyError:
            self.send_error(503)
        except HistoError:
            log.exception("a patient's page failed")
            self.send_error(500)
        else:
            self.finish(TEMPLATES.get_template("patient.html").render(body=page))

    def write_error(self, status_code: int, **_: Any) -> None:
        """Send a calm page, the same for all that is wrong with a request."""
        status = status_code if status_code in SAYS else 500 if status_code > 500 else 403
        title, text = SAYS[status]
        self.finish(TEMPLATES.get_template("patient.html").render(title=title, text=text))


@cache
def _home() -> Home:
    return open_home()


@cache
def _pages() -> PatientPages:
    return PatientPages(_home(), dashboards_folder() / "patient.ipynb")
