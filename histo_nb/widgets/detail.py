"""Pictures of a slide for the screen: any rectangle at its resolution, and the whole, small."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.slide import Slide
from histo_nb.widgets.palette import encode_jpeg

log = logging.getLogger(__name__)

MAX_VIEW_PX = 4_000_000  # px sent at once: a large screen, whatever a client asks for
MAX_READ_PX = 16_000_000  # px decoded for one view: about 0.3 s
JPEG_QUALITY = 85


@dataclass(frozen=True)
class ViewPlan:
    """How one rectangle of a slide is read for the screen."""

    x: int  # level-0 px, top-left
    y: int
    size_l0: tuple[int, int]  # level-0 px covered
    level: int
    read_size: tuple[int, int]  # px at that level
    out_size: tuple[int, int]  # px sent


def plan_view(
    request: Mapping[str, Any], *, size: tuple[int, int], level_downsamples: Sequence[float]
) -> ViewPlan | None:
    """Plan the answer to a request `x, y, width, height` (level-0 px), `downsample` (asked).

    The coarsest level that is fine enough is read, or a coarser one where that would decode too
    much; nothing is ever enlarged. `None`: nothing of the slide lies there.

    >>> request = {"x": -50, "y": 0, "width": 450, "height": 200, "downsample": 2}
    >>> plan_view(request, size=(1000, 1000), level_downsamples=[1, 4]).out_size
    (200, 100)
    """
    left, top, width, height, asked = (
        float(request[name]) for name in ("x", "y", "width", "height", "downsample")
    )
    if not all(math.isfinite(value) for value in (left, top, width, height, asked)):
        return None
    x, y = max(math.floor(left), 0), max(math.floor(top), 0)
    right, bottom = min(math.ceil(left + width), size[0]), min(math.ceil(top + height), size[1])
    if right <= x or bottom <= y:
        return None
    area = (right - x) * (bottom - y)
    downsample = max(asked, 1.0, math.sqrt(area / MAX_VIEW_PX))
    fitting = [i for i, d in enumerate(level_downsamples) if d <= downsample * 1.001]
    level = max(fitting, key=lambda i: level_downsamples[i], default=0)
    while area / level_downsamples[level] ** 2 > MAX_READ_PX and level + 1 < len(level_downsamples):
        level += 1
    sent = max(downsample, level_downsamples[level])

    def pixels(shrinking: float) -> tuple[int, int]:
        return max(round((right - x) / shrinking), 1), max(round((bottom - y) / shrinking), 1)

    return ViewPlan(
        x, y, (right - x, bottom - y), level, pixels(level_downsamples[level]), pixels(sent)
    )


def read_view(slide: Slide, plan: ViewPlan) -> bytes:
    """Return a planned rectangle as JPEG."""
    pixels = slide.read_region(plan.x, plan.y, level=plan.level, size=plan.read_size)
    if plan.out_size != plan.read_size:
        pixels = cv2.resize(pixels, plan.out_size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(pixels, quality=JPEG_QUALITY)


def small_picture(home: Home, slide_id: str, *, longest_px: int) -> bytes:
    """Return a JPEG of a whole slide, about `longest_px` on its longest side; b"" if unreadable."""
    try:
        row = home.catalog.slide(slide_id)
        with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
            mpp = row["slide_mpp"] * max(slide.size) / longest_px
            pixels, _ = slide.thumbnail(mpp=mpp)
    except HistoError:
        log.exception("slide %s cannot be shown", slide_id)
        return b""
    return encode_jpeg(pixels, quality=JPEG_QUALITY)
