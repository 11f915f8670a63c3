"""The pathologist's page: worklist, slide and reading side by side."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ipywidgets
import pandas as pd

from histo_nb.errors import HistoError, ReviewError
from histo_nb.export.colours import class_colours
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, read_classes, read_result
from histo_nb.widgets.facts import slide_facts
from histo_nb.widgets.judging import STATUS_KINDS, Judging, find_statuses
from histo_nb.widgets.page import fixed_html, make_page
from histo_nb.widgets.reading import ReadingPanel
from histo_nb.widgets.region_pictures import read_regions
from histo_nb.widgets.viewer import SlideViewer
from histo_nb.widgets.viewer.layers import drawn_layer
from histo_nb.widgets.viewer.result import open_result
from histo_nb.widgets.visitor import visitor_query
from histo_nb.widgets.worklist import Worklist

log = logging.getLogger(__name__)

TITLE = "Slide review"
EMPTY = """
<div class="hr-empty"><h2>No slide has been analysed yet</h2>
<p>Analysed slides appear here by themselves, the suspicious ones first. Reload this page after
one of these has run:</p>
<dl><dt><code>histo-nb demo</code></dt><dd>makes virtual slides and takes them all the way</dd>
<dt><code>histo-nb analyse</code></dt><dd>analyses slides of the catalogue</dd></dl></div>"""
UNAVAILABLE = """
<div class="hr-empty"><h2>The worklist cannot be read</h2>
<p>The catalogue of slides did not open. Ask the person who runs this page to look at
<code>histo-nb doctor</code>, then reload.</p></div>"""
FAILED = "That did not work, and nothing was written. Reload the page."
MOVED_ON = "Another slide has come up meanwhile; nothing was written. Look again."
LINKED = "beside"  # the word by which two viewers move together
NO_PICTURE = (
    "The picture of this slide cannot be shown. Ask the person who runs this page to look at its "
    "messages."
)
MIME = {"html": "text/html", "pdf": "application/pdf"}
BAD_RESULT = (HistoError, LookupError, TypeError, ValueError)


def show_review(home: Home, *, slide_id: str | None = None) -> ipywidgets.Widget:
    """Return the review page of the slides analysed in `home`, to be shown by a notebook.

    A result or a slide that cannot be read becomes a message on the page, never an exception.

    Parameters
    ----------
    slide_id
        The slide to begin with; else the one that the page's address names (`?slide=`), else the
        most suspicious one that nobody has read.
    """
    slide_id = slide_id or visitor_query().get("slide")
    try:
        results = home.catalog.results()
        reviews = home.catalog.reviews(kinds=STATUS_KINDS)
    except HistoError:
        log.exception("the catalogue of %s does not open", home.root)
        return make_page(TITLE, fixed_html(UNAVAILABLE))
    if results.empty:
        return make_page(TITLE, fixed_html(EMPTY))
    return Review(home, results, reviews, slide_id=slide_id).page


class Review:
    """The parts of the page and what one does to the other; `page` is the widget.

    What takes long is done in threads, so that the kernel always answers.
    """

    def __init__(
        self, home: Home, results: pd.DataFrame, reviews: pd.DataFrame, *, slide_id: str | None
    ) -> None:
        self._home = home
        classes, normal_class = _find_classes(results)
        # A rule may call a slide abnormal for a small area: it comes before all normal ones.
        results = results.sort_values(
            "slide_class", key=lambda said: said == normal_class, kind="stable"
        )
        self._results = results.set_index("slide_id")
        self._result: SlideResult | None = None
        self._viewed: SlideResult | None = None  # whose slide the viewer shows
        self._judging = Judging(home)
        self._working = ThreadPoolExecutor(1, thread_name_prefix="review")
        self._painting = ThreadPoolExecutor(1, thread_name_prefix="thumbs")
        self.worklist = Worklist(
            results,
            status=find_statuses(reviews),
            selected=slide_id,
            colours=class_colours(classes, normal_class=normal_class),
        )
        self.viewer, self.beside = SlideViewer(), SlideViewer()
        self.reading = ReadingPanel(
            reviewer=self._judging.reviewer, is_known=self._judging.is_known
        )
        self._show(self.worklist.selected)
        self._listen()
        self.page = self._make_page()

    def _make_page(self) -> ipywidgets.Widget:
        parts = {
            "list": self.worklist,
            "slide": self.viewer,
            "beside": self.beside,
            "reading": self.reading,
        }
        for name, part in parts.items():
            part.add_class(f"hr-{name}")
        self.beside.layout.display = "none"
        return make_page(TITLE, *parts.values())

    def _listen(self) -> None:
        self.worklist.observe(self._choose, "selected")
        self.worklist.observe(self._choose_beside, "beside")
        self.viewer.observe(self._mark, "selected")
        self.viewer.on_draw(self._draw)
        self.reading.on_msg(self._receive)

    # ---------------------------------------------------------------------------- the slide
    def _choose(self, change: dict[str, Any]) -> None:
        self._do(self._show, change["new"])

    def _show(self, slide_id: str) -> None:
        if slide_id != self.worklist.selected:
            return  # the reader has moved on
        try:
            result = read_result(self._results.result_path[slide_id])
            facts = slide_facts(result)
            state = self._judging.state(result)
        except BAD_RESULT:
            log.exception("the result of %s cannot be read", slide_id)
            self._result = None
            self._show_damaged(slide_id)
            return
        self._result = result
        with self.reading.hold_sync():
            self.reading.facts, self.reading.judged, self.reading.selected = facts, state, -1
        self._viewed = None
        _open(self._home, self.viewer, result)
        self._viewed = result
        self._show_drawn(result, is_closed=state["signature"] is not None)

    def _choose_beside(self, change: dict[str, Any]) -> None:
        self._do(self._show_beside, change["new"])

    def _show_beside(self, slide_id: str) -> None:
        self.beside.layout.display = "" if slide_id else "none"
        self.viewer.link = self.beside.link = LINKED if slide_id else ""
        if not slide_id:
            self.beside.close_slide()
            return
        try:
            _open(self._home, self.beside, read_result(self._results.result_path[slide_id]))
        except BAD_RESULT:
            log.exception("the result of %s cannot be read", slide_id)
            self.beside.show_message("Nothing to show for this slide.")

    def _show_damaged(self, slide_id: str) -> None:
        self.viewer.show_message("Nothing to show for this slide.")
        self.reading.facts = {
            "title": "This result cannot be read",
            "text": f"The files of the analysis of {slide_id} are damaged or gone. The slide "
            "itself is not touched; analyse it again:",
            "hint": f"histo-nb analyse {slide_id}",
        }

    def _send_thumbs(self, result: SlideResult) -> None:
        for index, picture in read_regions(self._home, result):
            if self._result is not result:
                return
            said = {"kind": "thumb", "slide_id": result.slide_id, "region": index}
            self.reading.send(said, [picture])

    def _mark(self, change: dict[str, Any]) -> None:
        self.reading.selected = change["new"]

    # --------------------------------------------------------------------------- the reader
    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind, result = message.get("kind"), self._result
        if kind == "name":
            self._do(self._name, str(message.get("reviewer", "")))
        elif kind == "undo":
            self._do(self._undo)
        elif result is None:
            return
        elif message.get("slide") != result.slide_id:  # it was meant for the slide before
            self.reading.send({"kind": "trouble", "text": MOVED_ON})
        elif kind == "go":
            self._go(message.get("region"))
        elif kind == "thumbs":
            self._painting.submit(self._send_thumbs, result)
        elif kind == "report":
            self._painting.submit(self._tell_trouble, self._report, result, message)
        elif kind in ("slide", "region", "sign", "reopen"):
            self._do(self._judge, result, message)

    def _go(self, index: Any) -> None:
        if isinstance(index, int) and 0 <= index < len(self.viewer.regions):
            self.viewer.zoom_to_region(index)

    def _name(self, reviewer: str) -> None:
        self._judging.name(reviewer)
        self.reading.reviewer = self._judging.reviewer
        if self._result:
            self._refresh(self._result)

    def _judge(self, result: SlideResult, message: dict[str, Any]) -> None:
        said = _judge(self._judging, result, message)
        self._tell_saved(result, said)

    def _draw(self, place: dict[str, Any]) -> None:
        result = self._viewed
        if result is None or result is not self._result:
            raise ReviewError(MOVED_ON)
        self._judging.draw(result, place)
        self._tell_saved(result, "Saved." if place.get("kind") == "draw" else "Removed.")

    def _undo(self) -> None:
        slide_id = self._judging.undo()
        if self._result:
            self._refresh(self._result)
        said = f"Taken back: {slide_id}"
        self.reading.send({"kind": "saved", "text": said, "can_undo": False})

    def _tell_saved(self, result: SlideResult, said: str) -> None:
        self._refresh(result)
        can_undo = self.reading.judged.get("can_undo", False)
        self.reading.send({"kind": "saved", "text": said, "can_undo": can_undo})

    def _refresh(self, result: SlideResult) -> None:
        catalog = self._home.catalog
        self.worklist.status = find_statuses(catalog.reviews(kinds=STATUS_KINDS))
        if result is not self._result:
            return
        state = self._judging.state(result)
        self.reading.judged = state
        self._show_drawn(result, is_closed=state["signature"] is not None)

    def _show_drawn(self, result: SlideResult, *, is_closed: bool) -> None:
        colours = class_colours(result.classes, normal_class=result.normal_class)
        drawn = self._home.catalog.reviews([result.slide_id], kinds=["annotation"])
        self.viewer.drawn = drawn_layer(drawn, colours, reviewer=self._judging.reviewer)
        self.viewer.classes = [] if is_closed else self.reading.facts.get("classes", [])

    def _report(self, result: SlideResult, message: dict[str, Any]) -> None:
        from histo_nb.export.report import make_report  # noqa: PLC0415 - few readers want one
        from histo_nb.export.templates import check_kind  # noqa: PLC0415

        kind = check_kind(str(message.get("format")))
        file = make_report(self._home, result.slide_id, kind=kind)
        name = f"report-{result.slide_id}.{kind}"
        self.reading.send({"kind": "report", "name": name, "mime": MIME[kind]}, [file])

    def _do(self, work: Callable[..., None], *given: Any) -> None:
        self._working.submit(self._tell_trouble, work, *given)

    def _tell_trouble(self, work: Callable[..., None], *given: Any) -> None:
        try:
            work(*given)
        except ReviewError as error:
            self.reading.send({"kind": "trouble", "text": str(error)})
        except Exception:  # the words of other errors may name files
            log.exception("the review page failed")
            self.reading.send({"kind": "trouble", "text": FAILED})


def _judge(judging: Judging, result: SlideResult, message: dict[str, Any]) -> str:
    """Write what a reader says; return it in words."""
    kind, verdict = message["kind"], message.get("verdict") or None
    label = message.get("label") if message.get("label") in result.classes else None
    if kind == "sign":
        return f"Signed: {judging.sign(result, label=label)}."
    if kind == "reopen":
        judging.reopen(result)
        return "The signature is taken back."
    if kind == "slide":
        note = str(message.get("note") or "")
        judging.judge_slide(result, verdict=verdict, label=label, note=note)
        return f"Read: {label}." if verdict else "Taken back."
    index = message.get("region")
    if not isinstance(index, int) or not 0 <= index < len(result.regions):
        raise ReviewError("there is no such region; reload the page")
    judging.judge_region(result, index, verdict=verdict, label=label)
    return f"Region {index + 1}: {verdict or 'taken back'}."


def _open(home: Home, viewer: SlideViewer, result: SlideResult) -> None:
    try:
        open_result(viewer, home, result)
    except BAD_RESULT:  # its words may name a file, which may name a patient
        log.exception("slide %s cannot be shown", result.slide_id)
        viewer.show_message(NO_PICTURE)


def _find_classes(results: pd.DataFrame) -> tuple[list[str], str]:
    """Return the classes, and the normal one, of the first result that can be read."""
    for path in results.result_path:
        try:
            return read_classes(path)
        except HistoError:
            continue
    return [], ""
