"""A slide's report as one HTML file: no script, no request, readable on a screen and on paper."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from histo_nb.export.pictures import Picture
from histo_nb.export.report import USE, Report

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # every text is text, whatever stands in it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_html(report: Report) -> bytes:
    """Return the report as the bytes of an HTML file."""
    page = _TEMPLATES.get_template("report.html.j2").render(r=report, use=USE, data=data_uri)
    return page.encode("utf-8", "replace")


def data_uri(picture: Picture) -> str:
    """Return a picture as an address that holds it."""
    return f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
