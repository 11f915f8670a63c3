"""The pathologist's page: worklist, slide and facts side by side."""

import logging
from typing import Any

import ipywidgets
import pandas as pd

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, read_result
from histo_nb.widgets.facts import FactsPanel, slide_facts
from histo_nb.widgets.page import fixed_html, make_page
from histo_nb.widgets.palette import class_colours
from histo_nb.widgets.viewer import SlideViewer, abnormal_heatmap
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


def show_review(home: Home) -> ipywidgets.Widget:
    """Return the review page of the slides analysed in `home`, to be shown by a notebook.

    A result or a slide that cannot be read becomes a message on the page, never an exception.
    """
    try:
        results = home.catalog.results()
    except HistoError:
        log.exception("the catalogue of %s does not open", home.root)
        return make_page(TITLE, fixed_html(UNAVAILABLE))
    if results.empty:
        return make_page(TITLE, fixed_html(EMPTY))
    return Review(home, results).page


class Review:
    """The three parts of the page and what one does to the other; `page` is the widget."""

    def __init__(self, home: Home, results: pd.DataFrame) -> None:
        self._home = home
        self._results = results.set_index("slide_id")
        colours = _colours(results)
        self.worklist = Worklist(results, colours=colours)
        self.viewer = SlideViewer()
        self.facts = FactsPanel()
        self.worklist.observe(lambda change: self._show(change["new"]), "selected")
        self.viewer.observe(lambda change: self._mark(change["new"]), "selected")
        self.facts.on_msg(self._go)
        self._show(self.worklist.selected)
        for part, name in ((self.worklist, "list"), (self.viewer, "slide"), (self.facts, "facts")):
            part.add_class(f"hr-{name}")
        self.page = make_page(TITLE, self.worklist, self.viewer, self.facts)

    def _show(self, slide_id: str) -> None:
        try:
            result = read_result(self._results.result_path[slide_id])
            facts = slide_facts(result)
        except (HistoError, LookupError, TypeError, ValueError):
            log.exception("the result of %s cannot be read", slide_id)
            self._show_damaged(slide_id)
            return
        self.facts.facts, self.facts.selected = facts, -1
        self._show_slide(result)

    def _show_slide(self, result: SlideResult) -> None:
        try:
            row = self._home.catalog.slide(result.slide_id)
            given = row["slide_mpp"] if row["mpp_source"] == "given" else None
            self.viewer.open_slide(
                row["slide_path"],
                slide_mpp=given,
                heatmap=abnormal_heatmap(result),
                regions=result.regions,
                colours=class_colours(result.classes, normal_class=result.normal_class),
            )
        except HistoError as error:
            log.exception("slide %s cannot be shown", result.slide_id)
            self.viewer.show_message(f"The picture of this slide cannot be shown. {error}")

    def _show_damaged(self, slide_id: str) -> None:
        self.viewer.show_message("Nothing to show for this slide.")
        self.facts.facts = {
            "title": "This result cannot be read",
            "text": f"The files of the analysis of {slide_id} are damaged or gone. The slide "
            "itself is not touched; analyse it again:",
            "hint": f"histo-nb analyse {slide_id}",
        }

    def _mark(self, index: int) -> None:
        self.facts.selected = index

    def _go(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        index = message.get("region")
        if isinstance(index, int) and 0 <= index < len(self.viewer.regions):
            self.viewer.zoom_to_region(index)


def _colours(results: pd.DataFrame) -> dict[str, str]:
    """Return the colours of the first result that can be read; one home has one set of classes."""
    for path in results.result_path:
        try:
            result = read_result(path)
        except (HistoError, TypeError, ValueError):
            continue
        return class_colours(result.classes, normal_class=result.normal_class)
    return {}
