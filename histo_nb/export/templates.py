"""Pages that stand alone: their templates, every text escaped, and pictures inside them."""

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,  # every text is text, whatever stands in it
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def jpeg_uri(jpeg: bytes) -> str:
    """Return a picture as an address that holds it.

    >>> jpeg_uri(b"picture")
    'data:image/jpeg;base64,cGljdHVyZQ=='
    """
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
