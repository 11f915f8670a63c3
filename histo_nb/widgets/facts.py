"""What is known of one slide: its class and why, reasons for doubt, its regions."""

from collections.abc import Mapping
from typing import Any

from histo_nb.annotations import Annotation
from histo_nb.export.colours import class_colours
from histo_nb.inference.result import SlideResult
from histo_nb.inference.trust import reasons_for_doubt
from histo_nb.widgets.words import share

LISTED = 40  # regions listed; the rest is counted


def slide_facts(result: SlideResult) -> dict[str, Any]:
    """Put a result into words and formatted numbers for the panel."""
    colours = class_colours(result.classes, normal_class=result.normal_class)
    shares = sorted(result.class_fractions.items(), key=lambda item: -item[1])
    return {
        "slide_id": result.slide_id,
        "slide_class": result.slide_class,
        "classes": [{"label": name, "colour": colour} for name, colour in colours.items()],
        "colour": colours[result.slide_class],
        "confidence": f"{result.confidence:.0%}",
        "rule": result.rule,
        "warnings": reasons_for_doubt(result),
        "shares": [
            {"label": name, "share": part, "text": share(part), "colour": colours.get(name)}
            for name, part in shares
        ],
        "table": [
            ["Abnormal tissue", share(result.abnormal_fraction)],
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
