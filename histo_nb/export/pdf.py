"""Pages on paper: the same HTML, set as tagged PDF of A4 (PDF/UA-1), with its type inside.

The type is DejaVu, which comes with matplotlib: a document looks the same on a machine without
fonts. The same page gives the same bytes.
"""

import atexit
import base64
import logging
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import ImageFile

from histo_nb.errors import HistoError

FACES = {400: "DejaVuSans.ttf", 700: "DejaVuSans-Bold.ttf"}  # by weight
MISSING = "▯"  # in place of a letter that the type has not: it has µ ² ≥, Greek, Arabic, Hebrew …
MARKS = {0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10)}  # they show nothing
SPACE = {*map(ord, "\t\n\r")}
_ONE_AT_A_TIME = threading.Lock()  # Pango's fonts are no thread's own


class PrintError(HistoError):
    """This machine cannot make a PDF."""


def render_pdf(page: str) -> bytes:
    """Return an HTML page as the bytes of a PDF file; addresses other than `data:` are not opened.

    Raises
    ------
    PrintError
        The system has no Pango, which sets the type.
    """
    html = _open_typesetter().HTML(string=_show_missing(page), url_fetcher=only_data())
    with _ONE_AT_A_TIME:
        style, fonts = _type()
        content: bytes = html.write_pdf(
            stylesheets=[style], font_config=fonts, pdf_variant="pdf/ua-1"
        )
    return content


def only_data() -> Any:
    """Return what opens addresses for the typesetter: it refuses all but `data:`."""
    return _open_typesetter().urls.URLFetcher(allowed_protocols={"data"}, allow_redirects=False)


def _open_typesetter() -> Any:
    """Return WeasyPrint, which is loaded only when paper is asked for."""
    for name in ("weasyprint", "fontTools"):  # they tell each property and table they leave out
        logging.getLogger(name).setLevel(logging.CRITICAL)
    strict = ImageFile.LOAD_TRUNCATED_IMAGES
    try:
        import weasyprint  # noqa: PLC0415
    except OSError as error:
        raise PrintError(
            "no PDF without Pango, which sets its type and is missing on this system; install it "
            "(Debian: apt-get install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0, "
            "macOS: brew install pango), or write .html"
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = strict  # it lets the whole process take half a picture
    return weasyprint


@cache
def _type() -> tuple[Any, Any]:
    """Return the style that sets a page in our type, and the fonts it brings."""
    weasyprint = _open_typesetter()
    from weasyprint.text.fonts import FontConfiguration  # noqa: PLC0415

    atexit.register(_type.cache_clear)  # it removes its files, which it cannot do any later
    fonts = FontConfiguration()
    faces = "".join(
        f'@font-face {{ font-family: Paper; font-weight: {weight}; src: url("{_font_uri(name)}") }}'
        for weight, name in FACES.items()
    )
    rule = "html, body { font-family: Paper !important }"
    style = weasyprint.CSS(string=faces + rule, font_config=fonts, url_fetcher=only_data())
    return style, fonts


def _font_uri(name: str) -> str:
    return f"data:font/ttf;base64,{base64.b64encode(_font_path(name).read_bytes()).decode()}"


def _font_path(name: str) -> Path:
    found = find_spec("matplotlib")  # only looked for: it is not loaded
    assert found and found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "mpl-data/fonts/ttf" / name


def _show_missing(page: str) -> str:
    """Return a page with a sign for each letter that the type has not: none is borrowed.

    A system's own type would make the same report look different, or thousands of pixels large.
    """
    strange = {ord(letter) for letter in set(page)} - _letters() - SPACE
    signs = {letter: None if letter in MARKS else MISSING for letter in strange}
    return page.translate(signs)


@cache
def _letters() -> frozenset[int]:
    from fontTools.ttLib import TTFont  # noqa: PLC0415

    with TTFont(_font_path(FACES[400])) as font:
        return frozenset(font.getBestCmap())
