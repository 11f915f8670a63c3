"""Work over many slides that neither stops at a bad one nor hides it."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.errors import SlideError

FAILURE_COLUMNS = ["slide_id", "step", "error"]
Made = TypeVar("Made")


def over_slides(
    slides: pd.DataFrame, work: Callable[[dict[str, Any]], Made], *, step: str
) -> tuple[list[Made], pd.DataFrame]:
    """Call `work` on each catalogue row, with a progress bar.

    Returns
    -------
    What `work` made, in the slides' order, and a table `slide_id, step, error` of the slides it
    raised `SlideError` for.
    """
    made, failures = [], []
    rows: Iterable[dict[Any, Any]] = slides.to_dict("records")
    for row in tqdm(list(rows), desc=step, unit="slide", disable=len(slides) < 2):
        try:
            made.append(work(row))
        except SlideError as error:
            failures.append({"slide_id": row["slide_id"], "step": step, "error": str(error)})
    return made, pd.DataFrame(failures, columns=FAILURE_COLUMNS)
