"""The worklist: analysed slides, the suspicious first; one of them is selected."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import traitlets

from histo_nb.widgets.widget import Widget, script, style


class Worklist(Widget):
    """A list of slides to choose from, with mouse or arrow keys; `selected` is the choice."""

    _esm = traitlets.Unicode(script("worklist")).tag(sync=True)
    _css = traitlets.Unicode(style("worklist")).tag(sync=True)
    # slide_id, slide_class, colour, confidence, abnormal, share (0–1), regions
    entries = traitlets.List().tag(sync=True)
    selected = traitlets.Unicode().tag(sync=True)  # slide_id

    def __init__(self, results: pd.DataFrame, *, colours: Mapping[str, str] | None = None) -> None:
        entries = worklist_entries(results, colours=colours or {})
        super().__init__(entries=entries, selected=entries[0]["slide_id"] if entries else "")


def worklist_entries(
    results: pd.DataFrame, *, colours: Mapping[str, str]
) -> Sequence[dict[str, Any]]:
    """Put catalogue results into words, in the order they come."""
    return [
        {
            "slide_id": row["slide_id"],
            "slide_class": row["slide_class"],
            "colour": colours.get(row["slide_class"], "#6b7280"),
            "confidence": f"{row['confidence']:.0%}",
            "abnormal": f"{row['abnormal_fraction']:.0%}",
            "share": float(row["abnormal_fraction"]),
            "regions": _count(row["n_regions"], "region"),
        }
        for row in results.to_dict("records")
    ]


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
