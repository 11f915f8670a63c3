"""Small pictures of a slide's first regions, for the panel beside it."""

import logging
from collections.abc import Iterator

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult
from histo_nb.slide import Slide
from histo_nb.widgets.detail import plan_view, read_view

log = logging.getLogger(__name__)

PICTURED = 12  # regions, the largest first
PICTURE_PX = 200  # of the longer side, for fine screens
SHAPE = 4 / 3  # width to height


def read_regions(home: Home, result: SlideResult) -> Iterator[tuple[int, bytes]]:
    """Yield the number of a region and its JPEG; the rest is left out where one cannot be read."""
    try:
        row = home.catalog.slide(result.slide_id)
        with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
            for index, region in enumerate(result.regions[:PICTURED]):
                x, y, right, bottom = region.outline.bounds
                width = max(right - x, (bottom - y) * SHAPE)
                height = width / SHAPE
                request = {
                    "x": (x + right - width) / 2,
                    "y": (y + bottom - height) / 2,
                    "width": width,
                    "height": height,
                    "downsample": width / PICTURE_PX,
                }
                downsamples = slide.level_downsamples
                plan = plan_view(request, size=slide.size, level_downsamples=downsamples)
                if plan:
                    yield index, read_view(slide, plan)
    except HistoError:
        log.exception("the regions of %s cannot be pictured", result.slide_id)
