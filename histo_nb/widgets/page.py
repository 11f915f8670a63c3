"""What every dashboard has: the design, a header with the way to the others, a body."""

import os
from html import escape

import ipywidgets

from histo_nb.widgets.visitor import is_served
from histo_nb.widgets.widget import style

PAGES = {
    "Slide review": "review.ipynb",
    "Tile labels": "board.ipynb",
    "Operations": "operations.ipynb",
}


def make_page(title: str, *parts: ipywidgets.Widget) -> ipywidgets.Widget:
    """Return a page with its parts side by side; `title` is one of `PAGES`."""
    # The design lies in the page itself: a page without a slide needs it too.
    design = fixed_html(f"<style>{style('page')}</style>")
    design.add_class("hr-style")
    body = ipywidgets.Box(parts)
    body.add_class("hr-body")
    page = ipywidgets.VBox([design, fixed_html(_header(title)), body])
    page.add_class("histo")
    page.add_class("hr")
    return page


def fixed_html(text: str) -> ipywidgets.HTML:
    """Return fixed text of ours; what comes from outside never passes here."""
    return ipywidgets.HTML(text)


def _header(title: str) -> str:
    served = {name: address for name, address in PAGES.items() if is_served(address[:-6])}
    links = "".join(
        f'<a href="{address}"{" aria-current=page" * (name == title)}>{name}</a>'
        for name, address in served.items()
    )
    nav = f'<nav class="hr-nav">{links}</nav>' if len(served) > 1 else ""
    return (
        f'<header class="hr-header"><h1>{title}</h1>{nav}{_account()}'
        '<p class="hr-use">Research use only — not for diagnosis</p></header>'
    )


def _account() -> str:
    """Return who reads, and the way out, where the server knows it (see `serve_dashboards`)."""
    name, way_out = os.environ.get("HISTO_USER"), os.environ.get("HISTO_LOGOUT")
    if not (name and way_out):
        return ""
    link = f'<a class="h-button" href="{escape(way_out)}">Log out</a>'
    return f'<p class="hr-account"><span class="h-quiet">{escape(name)}</span> {link}</p>'
