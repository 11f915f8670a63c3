"""Pictures of a slide for paper: the whole of it with numbered places, and one place from near."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from PIL import Image, ImageDraw, ImageFont
from shapely.geometry.base import BaseGeometry

from histo_nb.slide import Slide

LONGEST_PX = 1600  # of the whole slide: 200 dpi on a page
NEAR_PX = 480  # side of a place from near
MAX_READ_PX = 4000  # side of what is decoded for one; a slide without a pyramid is cut closer
MARGIN = 1.3  # what a place from near shows, relative to its larger side
LEAST_UM = 250.0  # and at least: a nest of cells with what is around it
INK, HALO = (24, 33, 47), (255, 255, 255)  # dark on white reads on any stain, and in grey


@dataclass(frozen=True)
class Picture:
    """A picture and how wide the tissue in it is."""

    rgb: np.ndarray  # (H, W, 3) uint8
    width_mm: float

    @property
    def jpeg(self) -> bytes:
        """The picture as the bytes of a JPEG file."""
        bgr = cv2.cvtColor(self.rgb, cv2.COLOR_RGB2BGR)
        return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def paint_overview(
    slide: Slide,
    outlines: Sequence[BaseGeometry],
    *,
    longest_px: int = LONGEST_PX,
    number_px: int = 52,
) -> Picture:
    """Return the whole slide with outlines (level-0 px), numbered from 1 in discs of number_px."""
    mpp = slide.slide_mpp * max(slide.size) / longest_px
    rgb, downsample = slide.thumbnail(mpp=mpp)
    scaled = [shapely.transform(outline, lambda xy: xy / downsample) for outline in outlines]
    _draw_outlines(rgb, scaled)
    for number, outline in reversed([*enumerate(scaled, 1)]):  # 1 lies on top
        point = outline.representative_point()
        _draw_number(rgb, number, (round(point.x), round(point.y)), radius=number_px // 2)
    return Picture(rgb, slide.size[0] * slide.slide_mpp / 1000)


def paint_place(slide: Slide, outline: BaseGeometry) -> Picture:
    """Return a place (level-0 px) and what is around it, from the level that is fine enough."""
    left, top, right, bottom = outline.bounds
    side = max(MARGIN * (right - left), MARGIN * (bottom - top), LEAST_UM / slide.slide_mpp)
    fine = [d for d in slide.level_downsamples if d <= max(side / NEAR_PX, 1)]
    level = slide.level_downsamples.index(max(fine))
    downsample = slide.level_downsamples[level]
    n_px = max(min(round(side / downsample), MAX_READ_PX), 1)
    middle = outline.representative_point()
    wide = round(side / downsample) > MAX_READ_PX
    x, y = (middle.x, middle.y) if wide else ((left + right) / 2, (top + bottom) / 2)
    x, y = round(x - n_px * downsample / 2), round(y - n_px * downsample / 2)
    rgb = slide.read_region(x, y, level=level, size=(n_px, n_px))
    shown = min(NEAR_PX, n_px)
    rgb = cv2.resize(rgb, (shown, shown), interpolation=cv2.INTER_AREA)
    scale = shown / (n_px * downsample)
    _draw_outlines(rgb, [shapely.transform(outline, lambda xy: (xy - (x, y)) * scale)])
    return Picture(rgb, n_px * downsample * slide.slide_mpp / 1000)


def _draw_outlines(rgb: np.ndarray, outlines: Sequence[BaseGeometry]) -> None:
    thin = max(max(rgb.shape) // 600, 2)
    for colour, width in ((HALO, 3 * thin), (INK, thin)):
        for outline in outlines:
            _draw_lines(rgb, outline, colour=colour, width=width)


def _draw_lines(
    rgb: np.ndarray, outline: BaseGeometry, *, colour: tuple[int, int, int], width: int
) -> None:
    for part in shapely.get_parts(outline):
        if part.geom_type == "Point":
            cv2.circle(rgb, (round(part.x), round(part.y)), 5 * width, colour, width, cv2.LINE_AA)
            continue
        lines = [
            np.round(ring.coords).astype(np.int32) for ring in (part.exterior, *part.interiors)
        ]
        cv2.polylines(rgb, lines, True, colour, width, cv2.LINE_AA)


def _draw_number(rgb: np.ndarray, number: int, at: tuple[int, int], *, radius: int) -> None:
    cv2.circle(rgb, at, radius + 2, HALO, -1, cv2.LINE_AA)
    cv2.circle(rgb, at, radius, INK, -1, cv2.LINE_AA)
    image = Image.fromarray(rgb)
    font = ImageFont.load_default(size=radius * (1.3 if number < 100 else 0.9))
    ImageDraw.Draw(image).text(at, str(number), fill=HALO, font=font, anchor="mm")
    rgb[:] = np.asarray(image)
