"""The slide viewer: deep zoom through a widget's own channel; no port, no server, no other host.

In: a slide, what lies over it. Out: what a person drew there. `js/` is its half in the browser,
around OpenSeadragon; `pip install` bundles it.
"""

from histo_nb.widgets.viewer.widget import SlideViewer

__all__ = ["SlideViewer"]
