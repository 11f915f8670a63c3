"""The worklist: analysed slides, the suspicious first; one of them is selected."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import traitlets

from histo_nb.export.colours import ABNORMAL_COLOURS
from histo_nb.widgets.widget import Widget, bundle, style
from histo_nb.widgets.words import count, share


class Worklist(Widget):
    """A list of slides to choose from, with mouse or keys; `selected` is the choice."""

    _esm = traitlets.Unicode(bundle("worklist")).tag(sync=True)
    _css = traitlets.Unicode(style("worklist")).tag(sync=True)
    # slide_id, slide_class, colour, confidence, abnormal, share (0–1), regions
    entries = traitlets.List().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)  # slide_id → see `find_statuses`; none = to read
    selected = traitlets.Unicode().tag(sync=True)  # slide_id
    beside = traitlets.Unicode().tag(sync=True)  # slide_id of a second slide; "" = none

    def __init__(
        self,
        results: pd.DataFrame,
        *,
        status: Mapping[str, Any],
        selected: str | None = None,
        colours: Mapping[str, str] | None = None,
    ) -> None:
        entries = worklist_entries(results, colours=colours or {})
        names = [entry["slide_id"] for entry in entries]
        waiting = [name for name in names if name not in status]
        first = selected if selected in names else [*waiting, *names, ""][0]
        super().__init__(entries=entries, status=dict(status), selected=first)


def worklist_entries(
    results: pd.DataFrame, *, colours: Mapping[str, str]
) -> Sequence[dict[str, Any]]:
    """Put catalogue results into words, in the order they come."""
    return [
        {
            "slide_id": row["slide_id"],
            "slide_class": row["slide_class"],
            "colour": colours.get(row["slide_class"], ABNORMAL_COLOURS[0]),
            "confidence": f"{row['confidence']:.0%}",
            "abnormal": share(row["abnormal_fraction"]),
            "share": float(row["abnormal_fraction"]),
            "regions": count(row["n_regions"], "region"),
        }
        for row in results.to_dict("records")
    ]
