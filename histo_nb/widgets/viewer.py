"""A zoomable slide: overview, sharp detail on demand, heatmap and outlines on top.

The browser moves pictures it has at once and asks for the visible rectangle when it comes to
rest; a thread of the kernel answers with one JPEG over the widget's own channel. All coordinates
are level-0 px.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import traitlets

from histo_nb.annotations import Annotation
from histo_nb.errors import HistoError, SlideError
from histo_nb.inference.regions import Heatmap, make_heatmap
from histo_nb.inference.result import SlideResult
from histo_nb.slide import Slide
from histo_nb.widgets.detail import plan_view, read_overview, read_view
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.palette import encode_png, paint_probabilities
from histo_nb.widgets.widget import Widget, script, style

log = logging.getLogger(__name__)

FIRST_PICTURE_S = 30.0  # the longest a static notebook waits for its picture


class SlideViewer(Widget):
    """A slide to pan and zoom. Drag or arrow keys move, wheel or + and − zoom, 0 shows all.

    Where no browser is (papermill, nbconvert), it is a picture of the whole slide.
    """

    _esm = traitlets.Unicode(script("viewer")).tag(sync=True)
    _css = traitlets.Unicode(style("viewer")).tag(sync=True)
    # key: counts slides shown · width, height (px), mpp (µm/px), power (or null)
    slide = traitlets.Dict().tag(sync=True)
    overview = traitlets.Bytes().tag(sync=True)  # JPEG
    heatmap = traitlets.Dict().tag(sync=True)  # png, x, y, width, height (level-0 px)
    regions = traitlets.List().tag(sync=True)  # see `_region_layer`
    selected = traitlets.Int(-1).tag(sync=True)  # index in regions
    opacity = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)  # stands in the picture's place

    def __init__(self) -> None:
        super().__init__()
        self._newest = Newest()
        self._shown: Slide | None = None
        self._key = 0
        self.on_msg(self._receive)

    def open_slide(
        self,
        path: Path | str,
        *,
        slide_mpp: float | None = None,
        heatmap: Heatmap | None = None,
        regions: Sequence[Annotation] = (),
        colours: dict[str, str] | None = None,
    ) -> None:
        """Show a slide; the picture follows as soon as it is read.

        Raises
        ------
        SlideError
            The slide does not open. The viewer shows the former one.
        """
        slide = Slide(path, slide_mpp=slide_mpp)
        width, height = slide.size
        facts = {"width": width, "height": height, "mpp": slide.slide_mpp}
        self._key += 1
        self._shown = slide
        with self.hold_sync():
            self.message, self.overview, self.selected = "", b"", -1
            self.slide = {**facts, "power": slide.objective_power, "key": self._key}
            self.heatmap = _heatmap_layer(heatmap)
            self.regions = [_region_layer(region, colours or {}) for region in regions]
        self._newest.do(partial(self._send_overview, slide, self._key))

    def show_message(self, text: str) -> None:
        """Show a text in the slide's place."""
        self._key += 1
        self._shown = None
        with self.hold_sync():
            self.slide, self.overview, self.heatmap, self.regions = {}, b"", {}, []
            self.message, self.selected = text, -1

    def zoom_to(self, bounds: Sequence[float]) -> None:
        """Move to `x, y, right, bottom` (level-0 px)."""
        self.send({"kind": "zoom_to", "bounds": [float(value) for value in bounds]})

    def zoom_to_region(self, index: int) -> None:
        """Move to a region and mark it."""
        self.selected = index
        self.zoom_to(self.regions[index]["bounds"])

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        # A request for a slide that is no longer shown must not push its successor's aside.
        if message.get("kind") == "view" and message.get("key") == self._key and self._shown:
            self._newest.do(partial(self._send_view, self._shown, message))

    def _send_overview(self, slide: Slide, key: int) -> None:
        try:
            overview = read_overview(slide)
        except HistoError as error:
            self.message = str(error)
            return
        if key == self._key:
            self.overview = overview

    def _send_view(self, slide: Slide, request: dict[str, Any]) -> None:
        plan = plan_view(request, size=slide.size, level_downsamples=slide.level_downsamples)
        if plan is None:
            return
        try:
            picture = read_view(slide, plan)
        except SlideError:
            log.exception("a place on %s cannot be read", slide.path.name)
            self._reopen(slide)
            return
        place = {"x": plan.x, "y": plan.y, "width": plan.size_l0[0], "height": plan.size_l0[1]}
        self.send({"kind": "view", "key": request["key"], **place}, [picture])

    def _reopen(self, slide: Slide) -> None:
        # After one bad place the handle is dead; the rest of the slide can still be seen.
        if self._shown is slide:
            self._shown = Slide(slide.path, slide_mpp=slide.slide_mpp)

    def leave(self) -> dict[str, Any]:
        """Return the whole slide, if it is read soon."""
        ready = self._newest.wait(FIRST_PICTURE_S) and self.overview
        return {"image/jpeg": self.overview} if ready else {}


def abnormal_heatmap(result: SlideResult) -> Heatmap:
    """Lay the abnormal probability of each tile, 1 − that of the normal class, on the grid."""
    predictions = result.predictions
    return make_heatmap(predictions, 1 - predictions[f"prob_{result.normal_class}"])


def _heatmap_layer(heatmap: Heatmap | None) -> dict[str, Any]:
    if heatmap is None:
        return {}
    rows, columns = heatmap.values.shape
    return {
        "png": encode_png(paint_probabilities(heatmap.values)),
        "x": heatmap.x,
        "y": heatmap.y,
        "width": columns * heatmap.step,
        "height": rows * heatmap.step,
    }


def _region_layer(region: Annotation, colours: dict[str, str]) -> dict[str, Any]:
    polygons = getattr(region.outline, "geoms", [region.outline])
    rings = [ring for p in polygons for ring in (p.exterior, *p.interiors)]
    return {
        "label": region.label,
        "colour": colours.get(region.label, "#d55e00"),
        "corner": list(min(rings[0].coords, key=sum)),  # where its number stands
        "bounds": [float(value) for value in region.outline.bounds],
        "rings": [[[float(x), float(y)] for x, y in ring.coords] for ring in rings],
    }
