"""A slide with what the analysis says of it, in the viewer."""

from typing import Any

from histo_nb.errors import HistoError
from histo_nb.export.colours import class_colours
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult
from histo_nb.masking.masks import mask_path, read_mask
from histo_nb.widgets.viewer.layers import heatmap_layer, tissue_layer
from histo_nb.widgets.viewer.widget import SlideViewer


def view_result(home: Home, result: SlideResult) -> SlideViewer:
    """Return a viewer of an analysed slide: probabilities, tissue and regions over it.

    Raises
    ------
    HistoError
        The slide is not in the catalogue, or does not open.
    """
    viewer = SlideViewer()
    open_result(viewer, home, result)
    viewer.layout.height = "600px"
    return viewer


def open_result(viewer: SlideViewer, home: Home, result: SlideResult) -> None:
    """Show an analysed slide in a viewer; errors as `view_result`."""
    row = home.catalog.slide(result.slide_id)
    viewer.open_slide(
        row["slide_path"],
        slide_mpp=row["slide_mpp"] if row["mpp_source"] == "given" else None,
        heatmap=heatmap_layer(result),
        tissue=_tissue(home, result.slide_id),
        regions=result.regions,
        colours=class_colours(result.classes, normal_class=result.normal_class),
    )


def _tissue(home: Home, slide_id: str) -> dict[str, Any]:
    try:
        return tissue_layer(read_mask(mask_path(home, slide_id)))
    except HistoError:
        return {}  # a slide can be read without it
