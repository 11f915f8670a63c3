"""A slide's report on paper: PDF pages of A4, with the type they need inside."""

import io
import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from fpdf import FPDF, FontFace, XPos, YPos
from fpdf.fonts import TTFFont
from PIL import Image

from histo_nb.export.pictures import Picture
from histo_nb.export.report import USE, Report

INK, QUIET, LINE = (24, 33, 47), (84, 95, 112), (223, 228, 234)
OK, OK_SOFT = (26, 112, 70), (230, 244, 236)
WARN, WARN_SOFT, WARN_LINE = (122, 46, 14), (255, 243, 232), (201, 116, 47)
MARGIN, WIDTH = 18.0, 174.0  # mm
OVERVIEW_MM = 120.0  # the highest a slide may stand on a page
NEAR_MM, GAP_MM = 54.0, 6.0  # three places from near beside one another
MISSING = "▯"
FONT = "DejaVu"  # has µ ² ≥ and the letters of Europe's names; it comes with matplotlib

logging.getLogger("fontTools").setLevel(logging.WARNING)  # it tells each table it leaves out


def render_pdf(report: Report) -> bytes:
    """Return the report as the bytes of a PDF file."""
    paper = _Paper(report.slide_id)
    _write_answer(paper, report)
    _write_lines(paper, "What reviewers say of the class", report.opinions)
    if report.doubts:
        paper.heading("Reasons for doubt")
        paper.box([(doubt, 9.5, "") for doubt in report.doubts], WARN, WARN_SOFT, WARN_LINE)
    _write_overview(paper, report)
    _write_places(paper, report)
    _write_near(paper, report)
    _write_comments(paper, report)
    _write_facts(paper, report)
    return bytes(paper.output())


class _Paper(FPDF):
    """A4 with our type, a heading and a foot on each page."""

    def __init__(self, slide_id: str) -> None:
        super().__init__(format="A4")
        self._slide_id = slide_id
        for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
            self.add_font(FONT, style, _font_folder() / file)
        self.set_margins(MARGIN, 26, MARGIN)
        self.c_margin = 0  # text stands flush with pictures
        self.set_auto_page_break(True, margin=22)
        self.set_title(f"Slide report {slide_id}")
        self.set_lang("en")
        self.add_page()

    def normalize_text(self, text: str) -> str:
        """Return text with a sign in place of each letter that the type has not."""
        known = cast(TTFFont, self.fonts[FONT.lower()]).cmap
        return "".join(c if c == "\n" or ord(c) in known else MISSING for c in text)

    def header(self) -> None:
        """Write what each page must say."""
        self.set_y(12)
        self.type(8.5, "B", INK)
        self.cell(WIDTH / 2, 5, f"Slide report {self._slide_id}"[:60])
        self.type(8.5, "B", WARN)
        self.cell(WIDTH / 2, 5, USE, align="R", new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.set_draw_color(*INK)
        self.line(MARGIN, 19, MARGIN + WIDTH, 19)
        self.set_y(26)

    def footer(self) -> None:
        """Write the number of the page."""
        self.set_y(-15)
        self.type(8, "", QUIET)
        self.cell(WIDTH, 5, f"Page {self.page_no()} of {{nb}}", align="R")

    def type(self, size: float, style: str, colour: tuple[int, int, int]) -> None:
        """Choose size (pt), style and colour of what is written next."""
        self.set_font(FONT, style, size)
        self.set_text_color(*colour)

    def heading(self, text: str, *, with_mm: float = 20) -> None:
        """Write a heading, on the next page if `with_mm` of what follows do not fit below it."""
        if self.will_page_break(12 + with_mm):
            self.add_page()
        self.ln(5)
        self.type(12, "B", INK)
        self.cell(WIDTH, 7, text, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        self.ln(1)

    def lines(self, text: str, size: float, style: str = "", colour: Any = INK) -> None:
        """Write text over as many lines and pages as it takes."""
        self.type(size, style, colour)
        self.multi_cell(WIDTH, size * 0.5, text, align="L", new_x=XPos.LMARGIN, new_y=YPos.NEXT)

    def box(
        self,
        lines: Sequence[tuple[str, float, str]],
        colour: tuple[int, int, int],
        fill: tuple[int, int, int],
        edge: tuple[int, int, int],
        *,
        x: float = MARGIN,
        width: float = WIDTH,
        least_mm: float = 0.0,
    ) -> float:
        """Write lines (text, pt, style) into a coloured box; return where it ends."""
        inner, start = width - 8, self.get_y()
        heights = []
        for text, size, style in lines:
            self.type(size, style, colour)
            needed = self.multi_cell(inner, size * 0.5, text, dry_run=True, output="HEIGHT")
            heights.append(cast(float, needed) + 1)
        height = max(sum(heights) + 6, least_mm)
        if self.will_page_break(height) and height < self.eph:
            self.add_page()
            start = self.get_y()
        self.set_draw_color(*edge)
        self.set_fill_color(*fill)
        self.rect(x, start, width, height, style="DF", round_corners=True, corner_radius=1.5)
        self.set_y(start + 3)
        for text, size, style in lines:
            self.set_x(x + 4)
            self.type(size, style, colour)
            self.multi_cell(inner, size * 0.5, text, align="L", new_x=XPos.LEFT, new_y=YPos.NEXT)
            self.ln(1)
        self.set_xy(MARGIN, start + height)
        return start + height

    def picture(self, picture: Picture, *, x: float, width: float, what: str) -> None:
        """Draw a picture at the present height."""
        self.image(Image.open(io.BytesIO(picture.jpeg)), x=x, w=width, alt_text=what)


def _font_folder() -> Path:
    found = find_spec("matplotlib")  # only looked for: it is not loaded
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "mpl-data/fonts/ttf"


def _write_answer(paper: _Paper, report: Report) -> None:
    signed, half, top = report.signature, (WIDTH - 6) / 2, paper.get_y()
    name = report.answer[:1].upper() + report.answer[1:]
    says = (
        f"The model says {report.model_class}, with {report.confidence} confidence."
        if signed
        else f"{report.confidence} confidence; see the rule below."
    )
    title = "Signed result" if signed else "Answer of the model"
    answer = [(title, 9, "B"), (name, 17, "B"), (says, 9, "")]
    if signed:
        when = f"{signed['reviewed_at']}, as {signed['label']}"
        said = [("Signed by", 9, "B"), (signed["reviewer"], 17, "B"), (when, 9, "")]
        colours = (OK, OK_SOFT, OK)
    else:
        nobody = "Nobody has taken responsibility for this answer."
        said = [("Signature", 9, "B"), ("NOT SIGNED", 17, "B"), (nobody, 9, "")]
        colours = (WARN, WARN_SOFT, WARN_LINE)
    end = paper.box(answer, INK, (255, 255, 255), LINE, width=half)
    paper.set_y(top)
    other = paper.box(said, *colours, x=MARGIN + half + 6, width=half, least_mm=end - top)
    paper.set_y(max(end, other))


def _write_lines(paper: _Paper, heading: str, lines: list[str]) -> None:
    if lines:
        paper.heading(heading)
        for line in lines:
            paper.lines(line, 9.5)


def _write_overview(paper: _Paper, report: Report) -> None:
    if report.overview is None:
        paper.heading("The slide")
        paper.lines("The picture of this slide cannot be shown: its file cannot be read.", 9.5)
        return
    height, width = report.overview.rgb.shape[:2]
    shown = min(WIDTH, OVERVIEW_MM * width / height)
    paper.heading("The slide", with_mm=shown * height / width + 10)
    what = f"The whole slide, {report.overview.width_mm:.1f} mm wide."
    paper.picture(report.overview, x=MARGIN + (WIDTH - shown) / 2, width=shown, what=what)
    paper.ln(2)
    marks = "Numbers are those of the table." if report.places else "No place on it is marked."
    paper.lines(f"{what} {marks}", 8.5, colour=QUIET)


def _write_places(paper: _Paper, report: Report) -> None:
    paper.heading("Places")
    if not report.places:
        paper.lines("The model found no abnormal region, and nobody drew one.", 9.5)
        return
    paper.type(9, "", INK)
    paper.set_draw_color(*LINE)
    paper.set_fill_color(255)
    head = FontFace(emphasis="BOLD", color=QUIET, fill_color=(255, 255, 255))
    with paper.table(
        col_widths=(10, 34, 24, 24, 82),
        text_align=("LEFT", "LEFT", "RIGHT", "RIGHT", "LEFT"),
        borders_layout="HORIZONTAL_LINES",
        headings_style=head,
        line_height=4.6,
        padding=(1.4, 3, 1.4, 0),
        width=WIDTH,
        v_align="T",
    ) as table:
        table.row(("No.", "Class", "Area", "Probability", "Judged"))
        for number, place in enumerate(report.places, 1):
            judged = "\n".join(place.judged) or "by nobody"
            table.row((str(number), place.label, place.area, place.probability, judged))
    if report.n_more:
        more = f"{report.n_more} smaller regions of the model are not listed."
        paper.lines(more, 8.5, colour=QUIET)


def _write_near(paper: _Paper, report: Report) -> None:
    near = [(n, place, place.near) for n, place in enumerate(report.places, 1) if place.near]
    if near:
        paper.heading("From near", with_mm=NEAR_MM + 10)
    for first in range(0, len(near), 3):
        if paper.will_page_break(NEAR_MM + 10):
            paper.add_page()
        top = paper.get_y()
        for column, (number, place, picture) in enumerate(near[first : first + 3]):
            x = MARGIN + column * (NEAR_MM + GAP_MM)
            paper.set_y(top)
            what = f"{number}  {place.label}, {picture.width_mm:.2g} mm wide"
            paper.picture(picture, x=x, width=NEAR_MM, what=what)
            paper.set_xy(x, top + NEAR_MM + 1)
            paper.type(8.5, "", QUIET)
            paper.cell(NEAR_MM, 5, what[:40])
        paper.set_xy(MARGIN, top + NEAR_MM + 9)


def _write_comments(paper: _Paper, report: Report) -> None:
    if report.comments:
        paper.heading("Comments")
    for who, words in report.comments:
        if paper.will_page_break(15):
            paper.add_page()
        paper.lines(who, 8.5, colour=QUIET)
        paper.lines(words, 9.5)
        paper.ln(3)


def _write_facts(paper: _Paper, report: Report) -> None:
    paper.heading("How this was found")
    for name, value in (*report.facts, ("Written", report.written_at)):
        paper.lines(name, 8.5, colour=QUIET)
        paper.lines(value, 9.5)
        paper.ln(1.5)
