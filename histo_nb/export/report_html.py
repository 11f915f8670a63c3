"""A slide's report as one HTML file: no script, no request, readable on a screen and on paper."""

from histo_nb.export.report import USE, Report
from histo_nb.export.templates import TEMPLATES, jpeg_uri


def render_html(report: Report) -> bytes:
    """Return the report as the bytes of an HTML file."""
    page = TEMPLATES.get_template("report.html.j2").render(r=report, use=USE, data=jpeg_uri)
    return page.encode("utf-8", "replace")
