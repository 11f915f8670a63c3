"""The viewer's half in the kernel. All coordinates are level-0 px."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import traitlets

from histo_nb.annotations import Annotation
from histo_nb.errors import HistoError, ReviewError
from histo_nb.slide import Slide
from histo_nb.widgets.palette import encode_jpeg
from histo_nb.widgets.viewer.layers import draw_regions, region_layer
from histo_nb.widgets.viewer.queue import GIVEN_UP, Answer, TileQueue
from histo_nb.widgets.viewer.tiles import SlideTiles
from histo_nb.widgets.widget import Widget, bundle, style

log = logging.getLogger(__name__)

PICTURE_PX = 1200  # longest side of what is left where no browser is
JPEG_QUALITY = 85
MOST_ASKED = 1000  # tiles in one message


class SlideViewer(Widget):
    """A slide to pan and zoom as under a microscope, with layers over it.

    Where no browser is (papermill, nbconvert), it is a picture of the whole slide with its regions.
    """

    _esm = traitlets.Unicode(bundle("viewer")).tag(sync=True)
    _css = traitlets.Unicode(style("viewer/viewer")).tag(sync=True)
    # key: counts slides shown · width, height (px), mpp (µm/px), power (or null), steps
    slide = traitlets.Dict().tag(sync=True)
    heatmap = traitlets.Dict().tag(sync=True)  # see `layers.heatmap_layer`
    tissue = traitlets.Dict().tag(sync=True)  # see `layers.tissue_layer`
    regions = traitlets.List().tag(sync=True)  # see `layers.region_layer`
    drawn = traitlets.List().tag(sync=True)  # see `layers.drawn_layer`
    classes = traitlets.List().tag(sync=True)  # {label, colour}: what may be drawn; [] = nothing
    selected = traitlets.Int(-1).tag(sync=True)  # index in regions
    opacity = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    link = traitlets.Unicode().tag(sync=True)  # viewers with the same word move together
    message = traitlets.Unicode().tag(sync=True)  # stands in the picture's place

    def __init__(self) -> None:
        super().__init__()
        self._tiles: SlideTiles | None = None
        self._queue: TileQueue | None = None
        self._key = 0
        self._draw: Callable[[dict[str, Any]], None] | None = None
        self._saving = ThreadPoolExecutor(1, thread_name_prefix="drawn")
        self.on_msg(self._receive)

    def open_slide(
        self,
        path: Path | str,
        *,
        slide_mpp: float | None = None,
        heatmap: Mapping[str, Any] | None = None,
        tissue: Mapping[str, Any] | None = None,
        regions: Sequence[Annotation] = (),
        colours: Mapping[str, str] | None = None,
    ) -> None:
        """Show a slide.

        Parameters
        ----------
        heatmap, tissue
            See `layers.heatmap_layer`, `layers.tissue_layer`.
        colours
            A CSS colour for each class.

        Raises
        ------
        SlideError
            The slide does not open. The viewer shows the former one.
        """
        tiles = SlideTiles(path, slide_mpp=slide_mpp)
        slide = tiles.slide
        facts = {"mpp": slide.slide_mpp, "power": slide.objective_power}
        self.close_slide()
        self._tiles = tiles
        self._queue = TileQueue(tiles.read, partial(self._send_tiles, self._key))
        width, height = slide.size
        with self.hold_sync():
            self.message, self.selected = "", -1
            self.slide = facts | {
                "key": self._key,
                "width": width,
                "height": height,
                "steps": [
                    {"downsample": step.downsample, "size": step.size, "tile": step.tile}
                    for step in tiles.steps
                ],
            }
            self.heatmap, self.tissue = dict(heatmap or {}), dict(tissue or {})
            self.regions = [region_layer(region, colours or {}) for region in regions]
            self.drawn = []

    def show_message(self, text: str) -> None:
        """Show a text in the slide's place."""
        self.close_slide()
        with self.hold_sync():
            self.slide, self.heatmap, self.tissue, self.regions, self.drawn = {}, {}, {}, [], []
            self.message, self.selected = text, -1

    def zoom_to(self, bounds: Sequence[float]) -> None:
        """Move to `x, y, right, bottom` (level-0 px)."""
        self.send({"kind": "zoom_to", "bounds": [float(value) for value in bounds]})

    def zoom_to_region(self, index: int) -> None:
        """Move to a region and mark it."""
        self.selected = index
        self.zoom_to(self.regions[index]["bounds"])

    def on_draw(self, callback: Callable[[dict[str, Any]], None]) -> None:
        """Call `callback` with what a person drew or erased.

        `{"kind": "draw", "id", "label", "note", "geometry"}` (GeoJSON), or
        `{"kind": "erase", "id"}`. What it raises of ours is told in the browser.
        """
        self._draw = callback

    def close_slide(self) -> None:
        """Give the slide's file back; nothing is read any more."""
        self._key += 1
        if self._queue and self._tiles:
            self._queue.close(then=self._tiles.close)
        self._queue, self._tiles = None, None

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        kind = message.get("kind")
        # A wish for a slide that is no longer shown must not be answered with its successor's.
        if kind == "tiles" and message.get("key") == self._key and self._queue:
            self._queue.drop(_numbers(message.get("drop")))
            self._queue.ask(_wishes(message.get("ask")))
        elif kind in ("draw", "erase") and self._draw:
            self._saving.submit(self._take_drawn, self._draw, message)

    def _take_drawn(self, take: Callable[[dict[str, Any]], None], message: dict[str, Any]) -> None:
        answer = {"kind": "taken", "id": message.get("id")}
        try:
            if message.get("key") != self._key:
                raise ReviewError("another slide has come up meanwhile; nothing was saved")
            take(message)
        except HistoError as error:
            answer["reason"] = str(error)
        except Exception:
            log.exception("what was drawn could not be saved")
            answer["reason"] = "That did not work. Reload the page."
        self.send(answer)

    def _send_tiles(self, key: int, answers: Sequence[Answer]) -> None:
        message = {
            "kind": "tiles",
            "key": key,
            "read": [number for number, tile in answers if tile],
            "failed": [number for number, tile in answers if tile is None],
            "late": [number for number, tile in answers if tile == GIVEN_UP],
        }
        self.send(message, [tile for _, tile in answers if tile])

    def leave(self) -> dict[str, Any]:
        """Return a picture of the whole slide with its regions."""
        if not self._tiles:
            return {}
        slide = self._tiles.slide
        try:
            picture, downsample = slide.thumbnail(mpp=_picture_mpp(slide))
        except HistoError:
            log.exception("%s cannot be pictured", slide.path.name)
            return {}
        draw_regions(picture, self.regions, scale=1 / downsample)
        return {"image/jpeg": encode_jpeg(picture, quality=JPEG_QUALITY)}


def _picture_mpp(slide: Slide) -> float:
    return slide.slide_mpp * max(max(slide.size) / PICTURE_PX, 1)


def _numbers(said: Any) -> list[int]:
    return [n for n in said if isinstance(n, int)] if isinstance(said, list) else []


def _wishes(said: Any) -> list[tuple[int, int, int, int]]:
    rows = said[:MOST_ASKED] if isinstance(said, list) else []
    plain = [r for r in rows if isinstance(r, list) and len(r) == 4 and len(_numbers(r)) == 4]
    return [(r[0], r[1], r[2], r[3]) for r in plain]
