"""Tiles as small pictures, alone or among their neighbours."""

import logging
from collections.abc import Mapping
from typing import Any

from histo_nb.errors import SlideError
from histo_nb.slide import Slide
from histo_nb.widgets.detail import plan_view, read_view

log = logging.getLogger(__name__)

OPEN_SLIDES = 4


class TilePictures:
    """Reads tiles; the slides read last are kept open. For one thread."""

    def __init__(self) -> None:
        self._open: dict[str, Slide] = {}

    def read(
        self, row: Mapping[Any, Any], *, widened: float, side_px: int
    ) -> tuple[bytes, list[float]]:
        """Return a JPEG of a tile's surroundings, `widened` times as wide, and the tile in it.

        The tile is `left, top, width, height` as shares of the picture; b"" = cannot be read.
        """
        size = row["size_l0"] * widened
        left, top = (row[axis] - (size - row["size_l0"]) / 2 for axis in ("x", "y"))
        request = {"x": left, "y": top, "width": size, "height": size, "downsample": size / side_px}
        try:
            slide = self._slide(row)
            plan = plan_view(request, size=slide.size, level_downsamples=slide.level_downsamples)
            if plan is None:
                return b"", []
            picture = read_view(slide, plan)
        except SlideError:
            log.exception("tile %s cannot be shown", row["tile_id"])
            self._forget(row["slide_path"])
            return b"", []
        width, height = plan.size_l0
        inside = (row["x"] - plan.x) / width, (row["y"] - plan.y) / height
        return picture, [*inside, row["size_l0"] / width, row["size_l0"] / height]

    def _slide(self, row: Mapping[Any, Any]) -> Slide:
        path = row["slide_path"]
        slide = self._open.pop(path, None) or Slide(path, slide_mpp=row["slide_mpp"])
        self._open[path] = slide  # the last one used comes last
        if len(self._open) > OPEN_SLIDES:
            self._forget(next(iter(self._open)))
        return slide

    def _forget(self, path: str) -> None:
        if path in self._open:
            self._open.pop(path).close()
