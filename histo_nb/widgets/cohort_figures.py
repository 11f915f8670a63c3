"""Pictures of a cohort for its notebook: the slides at a glance, and where the time went."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from histo_nb.export.cohort_page import STAGES, suspicious_first
from histo_nb.export.words import say_duration
from histo_nb.widgets.figures import SURE


def show_cohort(
    slides: pd.DataFrame, *, normal: str = "normal", n: int = 24, columns: int = 6
) -> np.ndarray:
    """Draw the `n` most suspicious slides of a cohort's table that have an answer; return the Axes.

    Abnormal ones, and those with reasons to doubt the answer, have a title in another colour.
    """
    shown = suspicious_first(slides, normal=normal).head(n)
    rows = max(-(-len(shown) // columns), 1)
    _, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.8 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, shown.to_dict("records"), strict=False):
        _show_overview(row["overview_path"], ax)
        doubts = f", doubts: {row['n_doubts']:.0f}" if row["n_doubts"] else ""
        title = f"{row['slide_id']}\n{row['slide_class']} {row['confidence']:.0%}{doubts}"
        ax.set_title(title, fontsize=8, color=SURE if row["is_abnormal"] or doubts else "black")
    return np.asarray(axes)


def _show_overview(path: object, ax: Axes) -> None:
    """Draw the picture of a slide; that there is none is no reason to show nothing."""
    try:
        with Image.open(str(path)) as picture:
            ax.imshow(np.asarray(picture.convert("RGB")))
    except OSError:
        ax.text(0.5, 0.5, "no picture", ha="center", transform=ax.transAxes)


def show_stage_times(slides: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw what each stage took: boxes from quarter to quarter, whiskers over 90 % of slides."""
    ax = ax or plt.subplots(figsize=(9, 3))[1]
    seconds = [slides[f"seconds_{stage}"].dropna().astype(float) for stage in STAGES]
    names = [
        f"{name}, {say_duration(s.sum())} in all"
        for name, s in zip(STAGES.values(), seconds, strict=True)
    ]
    ax.boxplot(seconds, tick_labels=names, orientation="horizontal", whis=(5, 95))
    ax.invert_yaxis()
    if any((s > 0).any() for s in seconds):
        ax.set_xscale("log")
    ax.set_xlabel("seconds a slide")
    return ax
