"""The scanner room's page: what came in, what waits, what was refused, what failed, is all well.

Nothing here names a patient; pictures come from filed slides alone, never from a label.
"""

import logging
from functools import lru_cache
from typing import Any

import ipywidgets
import traitlets

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.scanning.intake import IntakeSpec, release
from histo_nb.widgets.detail import small_picture
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.operations_facts import SHOWS, read_facts
from histo_nb.widgets.page import make_page
from histo_nb.widgets.widget import Widget, bundle, style

log = logging.getLogger(__name__)

PICTURE_PX = 240  # longest side of a slide's picture
KEPT_PICTURES = 200  # 10 kB each
MAX_TEXT = 64  # characters of a search


def show_operations(home: Home) -> ipywidgets.Widget:
    """Return the operations page of `home`, to be shown by a notebook; it renews itself."""
    return make_page("Operations", Operations(home))


class Operations(Widget):
    """The page's content; its front end asks for news every few seconds, and for pictures."""

    _esm = traitlets.Unicode(bundle("operations")).tag(sync=True)
    _css = traitlets.Unicode(style("operations")).tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)  # see `read_facts`
    busy = traitlets.List().tag(sync=True)  # quarantine_ids that are being examined
    message = traitlets.Unicode().tag(sync=True)  # what became of the last one

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.add_class("ho-host")
        self._home = home
        self._show, self._text = "today", ""
        self._examining, self._painting = Newest(), Newest()
        self._picture = lru_cache(KEPT_PICTURES)(self._make_picture)
        self.refresh()
        self.on_msg(self._receive)

    def refresh(self) -> None:
        """Read the catalogue again."""
        try:
            self.facts = read_facts(self._home, show=self._show, text=self._text)
        except HistoError as error:
            log.exception("the catalogue of %s does not open", self._home.root)
            self.facts = {**self.facts, "trouble": f"The catalogue cannot be read. {error}"}

    def wait(self, timeout_s: float) -> bool:
        """Wait until all that was asked for is done; False if that takes longer."""
        return self._examining.wait(timeout_s) and self._painting.wait(timeout_s)

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind = message.get("kind")
        if kind == "refresh":
            self.refresh()
        elif kind == "look":
            self._look(message.get("show"), message.get("text"))
        elif kind == "pictures":
            self._paint(message.get("slide_ids"))
        elif kind == "release" and not self.busy:
            self._examine(message.get("quarantine_id"), message.get("slide_mpp"))

    def _look(self, show: Any, text: Any) -> None:
        if isinstance(show, str) and show in SHOWS and isinstance(text, str):
            self._show, self._text = show, text[:MAX_TEXT]
            self.refresh()

    def _paint(self, slide_ids: Any) -> None:
        """Send the pictures asked for, of slides that the page shows; b"" where there is none."""
        asked = slide_ids if isinstance(slide_ids, list) else []
        shown = [entry["slide_id"] for entry in self.facts.get("slides", [])]

        def send() -> None:
            for slide_id in shown:
                if slide_id in asked:
                    said = {"kind": "picture", "slide_id": slide_id}
                    self.send(said, [self._picture(slide_id)])

        self._painting.do(send)

    def _make_picture(self, slide_id: str) -> bytes:
        return small_picture(self._home, slide_id, longest_px=PICTURE_PX)

    def _examine(self, quarantine_id: Any, slide_mpp: Any) -> None:
        known = [entry["quarantine_id"] for entry in self.facts.get("quarantine", [])]
        if quarantine_id in known and (slide_mpp is None or isinstance(slide_mpp, (int, float))):
            self.busy, self.message = [quarantine_id], ""
            self._examining.do(lambda: self._release(str(quarantine_id), slide_mpp))

    def _release(self, quarantine_id: str, slide_mpp: float | None) -> None:
        try:
            arrival = release(quarantine_id, self._home, spec=IntakeSpec(slide_mpp=slide_mpp))
        except (HistoError, OSError) as error:
            self.message = f"{quarantine_id} stays in quarantine. {error}"
        else:
            self.message = (
                f"{quarantine_id} is filed as {arrival.slide_id}."
                if arrival.slide_id
                else f"{quarantine_id} stays in quarantine: {arrival.reason}"
            )
        finally:
            self.busy = []
        self.refresh()

    def leave(self) -> dict[str, Any]:
        """Return its state in words."""
        said = " · ".join(f"{f['n']} {f['what']}" for f in self.facts.get("figures", []))
        return {"text/plain": f"Operations: {said}"}
