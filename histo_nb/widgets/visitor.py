"""What the server tells a page: what its address asks for, and which pages there are."""

import os
import re
from urllib.parse import parse_qsl

NAME = re.compile(r"[a-z][a-z_]{0,31}")
MAX_VALUE = 200  # characters
MAX_ITEMS = 8


def visitor_query() -> dict[str, str]:
    """Return the short, printable values of the page's address; {} outside a served page.

    `?slide=S-17` is `{"slide": "S-17"}`. They come from anyone's hands: look a value up, never
    trust or execute it.

    Examples
    --------
    >>> os.environ["HISTO_QUERY"] = "slide=S-17&Bad=1&note=a%00b"
    >>> visitor_query()
    {'slide': 'S-17'}
    >>> del os.environ["HISTO_QUERY"]
    """
    items = parse_qsl(os.environ.get("HISTO_QUERY", "")[: MAX_ITEMS * MAX_VALUE * 4])
    return {name: value for name, value in items[:MAX_ITEMS] if _is_plain(name, value)}


def is_served(page: str) -> bool:
    """Say whether a dashboard is among those served; in a notebook, all are."""
    served = os.environ.get("HISTO_PAGES")
    return served is None or page in served.split(",")


def _is_plain(name: str, value: str) -> bool:
    return bool(NAME.fullmatch(name)) and len(value) <= MAX_VALUE and value.isprintable()
