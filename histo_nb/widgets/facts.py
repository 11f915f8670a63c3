"""What is known of one slide: its class and why, reasons for doubt, its regions."""

from collections.abc import Mapping
from typing import Any

from histo_nb.annotations import Annotation
from histo_nb.inference.result import SlideResult
from histo_nb.inference.trust import reasons_for_doubt
from histo_nb.widgets.palette import class_colours

LISTED = 40  # regions listed; the rest is counted


def slide_facts(result: SlideResult) -> dict[str, Any]:
    """Put a result into words and formatted numbers for the panel."""
    colours = class_colours(result.classes, normal_class=result.normal_class)
    shares = sorted(result.class_fractions.items(), key=lambda item: -item[1])
    return {
        "slide_id": result.slide_id,
        "slide_class": result.slide_class,
        "classes": [{"label": name, "colour": colour} for name, colour in colours.items()],
        "colour": colours.get(result.slide_class, "#6b7280"),
        "confidence": f"{result.confidence:.0%}",
        "rule": result.rule,
        "warnings": reasons_for_doubt(result),
        "shares": [
            {"label": name, "share": share, "text": f"{share:.0%}", "colour": colours.get(name)}
            for name, share in shares
        ],
        "table": [
            ["Abnormal tissue", f"{result.abnormal_fraction:.0%}"],
            ["Tissue examined", f"{result.tissue_mm2:.3g} mm²"],
            ["Tiles", f"{result.n_tiles:,}"],
            ["Model", f"{result.model_id} ({result.runtime})"],
        ],
        "regions": [_region_facts(r, colours) for r in result.regions[:LISTED]],
        "n_more": max(len(result.regions) - LISTED, 0),
    }


def _region_facts(region: Annotation, colours: Mapping[str, str]) -> dict[str, Any]:
    measurements = region.measurements
    return {
        "label": region.label,
        "colour": colours.get(region.label),
        "area": f"{measurements['area_mm2']:.3g} mm²",
        "probability": f"{measurements['probability']:.0%}",
    }
