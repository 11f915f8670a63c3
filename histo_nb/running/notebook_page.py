"""An executed notebook as one page to read: text, tables and pictures, no code, no requests."""

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import Environment
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from traitlets.config import Config

# What a page may show; scripts and widgets cannot run in it, and it can load nothing.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex",
         "text/plain"]  # fmt: skip
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; " \
         "base-uri 'none'; form-action 'none'"  # fmt: skip
# Tags that leave the page in spite of that policy, or already connect; they become text.
LEAVING = re.compile(r"<(?=(?:meta|base|link|i?frame|object|embed|form)\b)", re.IGNORECASE)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ facts.run_id }}</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 70rem; margin: 0 auto; padding: 0 1rem 3rem; }
.banner, .fault { margin: 0 -1rem 1rem; padding: .5rem 1rem; font-weight: 600; }
.banner { background: light-dark(#fff3e8, #38261a); color: light-dark(#7a2e0e, #ffc9a3); }
.fault { background: light-dark(#fdebe4, #3d2119); color: light-dark(#b3360a, #ff9d76); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; font-size: .85rem; }
dd { margin: 0; overflow-wrap: anywhere; }
pre { overflow-x: auto; white-space: pre-wrap; font-size: .85rem; }
img, svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; display: block; overflow-x: auto; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #8888; }
.anchor-link { display: none; }
</style>
</head>
<body>
<p class="banner" role="note">Research use only. Not for diagnosis.</p>
{% if facts.fault %}<p class="fault" role="alert">This run failed: {{ facts.fault }}</p>{% endif %}
<dl>
{% for name in ("run_id", "notebook", "status", "started_at", "seconds") -%}
<dt>{{ name }}</dt><dd>{{ facts[name] }}</dd>
{% endfor -%}
{% for name, value in facts.parameters.items() %}<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor -%}
</dl>
<main>
{{ body }}
</main>
</body>
</html>
"""


def make_page(executed: Path, facts: dict[str, Any]) -> str:
    """Return an executed notebook as HTML; what cannot be shown is said in it."""
    try:
        content = nbformat.read(executed, as_version=4)
        body, _ = _exporter().from_notebook_node(_without_code(content))
    except Exception as error:  # nbformat, nbconvert and mistune raise what they like; a run is
        body = _say_unshown(error)  # not lost because it cannot be shown
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(facts=facts, body=_Whole(LEAVING.sub("&lt;", body)), policy=POLICY)


class _Whole(str):
    """HTML that nbconvert has made already."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)


def _say_unshown(error: Exception) -> str:
    words = Environment(autoescape=True).from_string(
        "<p>This notebook cannot be shown as a page ({{ error }}); open the executed copy.</p>"
    )
    return words.render(error=error)


@cache
def _exporter() -> HTMLExporter:
    config = Config({"NbConvertBase": {"display_data_priority": SHOWN}})
    log = logging.getLogger(__name__)
    log.setLevel(logging.ERROR)  # it warns of each picture without words, in the middle of the bar
    return HTMLExporter(
        config=config,
        log=log,
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
    )


def _without_code(content: NotebookNode) -> NotebookNode:
    """Take the code out of tracebacks too."""
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                output.traceback = [f"{output.ename}: {output.evalue}"]
    return content
