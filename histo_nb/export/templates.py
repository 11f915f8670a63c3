"""Documents that stand alone: one template each, as a page (HTML) or on paper (PDF).

Every text is escaped, pictures are inside, nothing is fetched, nothing runs.
"""

import base64
from pathlib import Path
from typing import Any, Literal, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from histo_nb.errors import SpecError
from histo_nb.export.words import say_interval, say_number
from histo_nb.files import writing

Kind = Literal["html", "pdf"]
USE = "Research use only — not for diagnosis"


def jpeg_uri(jpeg: bytes) -> str:
    """Return a picture as an address that holds it.

    >>> jpeg_uri(b"picture")
    'data:image/jpeg;base64,cGljdHVyZQ=='
    """
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # every text is text, whatever stands in it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"use": USE, "jpeg_uri": jpeg_uri}
TEMPLATES.filters |= {
    "figure": say_number,
    "interval": say_interval,
    "sentence": lambda words: words[:1].upper() + words[1:],
}


def check_kind(kind: str) -> Kind:
    """Return a kind of document that there is, or raise `SpecError`."""
    if kind not in get_args(Kind):
        raise SpecError(f"a report is no {kind!r}; choose {' or '.join(get_args(Kind))}")
    return kind  # type: ignore[return-value]


def kind_of(path: Path) -> Kind:
    """Return the kind that a path's suffix names, or raise `SpecError`."""
    return check_kind(path.suffix.lower()[1:])


def render(template: str, *, kind: Kind = "html", **says: Any) -> bytes:
    """Return a document as the bytes of a file.

    Raises
    ------
    PrintError
        A PDF is asked for, and this machine cannot set type.
    """
    page = TEMPLATES.get_template(template).render(**says)
    if kind == "html":
        return page.encode("utf-8", "replace")
    from histo_nb.export.pdf import render_pdf  # noqa: PLC0415 - pages need no typesetter

    return render_pdf(page)


def write_document(content: bytes, path: Path) -> Path:
    """Write a document, whole or not at all; return the path."""
    with writing(path) as temporary:
        temporary.write_bytes(content)
    return path
