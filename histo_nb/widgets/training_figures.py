"""Pictures of a model: how it learnt, what it is worth, where it looks. All return their Axes."""

from collections.abc import Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histo_nb.inference.rule import SlideRule, slide_calibration_table
from histo_nb.widgets.figures import COLOURS, SURE, class_colours
from histo_nb.widgets.palette import paint_probabilities

PURPOSE = "Research use only — not for diagnosis"
GREY = "#6b7280"
N_BINS = 15  # of the reliability diagram, as the figures have it


def show_history(history: pd.DataFrame, *, best_epoch: int) -> np.ndarray:
    """Draw losses and balanced accuracy over the epochs, the kept epoch marked; return Axes."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.5), layout="constrained")
    axes[0].plot(history.epoch, history.train_loss, color=COLOURS[0], label="training")
    axes[0].plot(history.epoch, history.valid_loss, color=COLOURS[2], label="validation")
    axes[0].set_ylabel("cross-entropy")
    axes[0].legend(fontsize=8)
    axes[1].plot(history.epoch, history.balanced_accuracy, color=COLOURS[2])
    axes[1].set_ylabel("balanced accuracy, validation")
    axes[1].set_ylim(0, 1.02)
    for ax in axes:
        ax.axvline(best_epoch, color="grey", linestyle=":", linewidth=1)
        ax.set_xlabel("epoch")
    _small_print(figure)
    return np.asarray(axes)


def show_learning_curve(curve: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw balanced accuracy, and the recall of each class, over the number of patients."""
    ax = ax or _new_axes(6, 3.5)
    names = [str(name) for name in curve if str(name).startswith("recall_")]
    for name, colour in zip(names, class_colours(names).values(), strict=True):
        ax.plot(curve.patients, curve[name], "o--", color=colour, linewidth=1, label=name[7:])
    ax.plot(curve.patients, curve.balanced_accuracy, "o-", color="black", label="balanced")
    ax.set_ylim(0, 1.02)
    ax.set_xlabel("patients to learn from")
    ax.set_ylabel("recall, validation")
    ax.legend(fontsize=8)
    return ax


def show_confusion(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], *, ax: Axes | None = None
) -> Axes:
    """Draw a confusion matrix: truth down, prediction across; counts, and shares of the truth."""
    ax = ax or _new_axes(1.3 * len(classes) + 1.6, 1.1 * len(classes) + 1.4)
    counts = np.asarray(confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = min(11, 63 / len(classes))
    for (row, column), n in np.ndenumerate(counts):
        ink: dict[str, Any] = {
            "color": "white" if shares[row, column] > 0.5 else "black",
            "ha": "center",
        }
        share = f"{shares[row, column]:.0%}" if counts[row].any() else "–"
        ax.text(column, row, share, va="bottom", fontsize=size, **ink)
        ax.text(column, row + 0.06, f"{n:,}", va="top", fontsize=0.8 * size, **ink)
    turn = 0 if len(classes) <= 4 else 45  # so that names do not run into one another
    side: dict[str, Any] = {"ha": "right", "rotation_mode": "anchor"} if turn else {}
    ax.set_xticks(range(len(classes)), classes, fontsize=9, rotation=turn, **side)
    ax.set_yticks(range(len(classes)), classes, fontsize=9, rotation=90 - 2 * turn, va="center")
    ax.tick_params(length=0)
    ax.set_xlabel("predicted")
    ax.set_ylabel("true")
    return ax


def show_against_colour(figures: dict[str, float], *, ax: Axes | None = None) -> Axes:
    """Draw balanced accuracies by name, the model's last."""
    ax = ax or _new_axes(6, 2.2)
    names = list(figures)
    ax.barh(
        names, [figures[name] for name in names], color=[COLOURS[5]] * (len(names) - 1) + [SURE]
    )
    for i, name in enumerate(names):
        ax.text(figures[name], i, f" {figures[name]:.2f}", va="center", fontsize=9)
    ax.set_xlim(0, 1.1)
    ax.set_xlabel("balanced accuracy, patients never seen")
    return ax


def show_intervals(
    figures: dict[str, Any], *, name: str = "balanced_accuracy", ax: Axes | None = None
) -> Axes:
    """Draw a figure of the model and of its baselines with 95 % intervals; the higher is better.

    Parameters
    ----------
    figures
        Of `training.evaluate`.
    name
        One that has an interval: accuracy, balanced_accuracy or auc_macro.
    """
    rivals = {figures.get("model_id", "the model"): figures, **figures["baseline_figures"]}
    ax = ax or _new_axes(6.5, 0.45 * len(rivals) + 1.2)
    for place, measured in enumerate(rivals.values()):
        colour = GREY if place else SURE
        low, high = measured["intervals"][name]
        if low is not None:
            ax.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.45)
        ax.plot(measured[name], place, "s" if place else "o", color=colour, markersize=8)
        ax.text(1.03, place, f"{measured[name]:.2f}", va="center", fontsize=9, color=colour)
    chance = 1 / len(figures["recall"])
    if name == "balanced_accuracy" and chance < 1:
        ax.axvline(chance, color=GREY, linewidth=1, linestyle=":")
        ax.text(chance, -0.45, " chance", fontsize=8, color=GREY, va="top")
    ax.set_yticks(range(len(rivals)), [rival.replace("_", " ") for rival in rivals], fontsize=9)
    ax.set_ylim(len(rivals) - 0.5, -0.5)
    ax.set_xlim(0, 1.01)
    ax.set_xlabel(f"{name.replace('_', ' ')}, 95 % interval over patients")
    return _tidy(ax, grid="x")


def show_roc(figures: dict[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw the ROC curve of each class against the rest, its AUC in the legend."""
    ax = ax or _new_axes(4.6, 4.4)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="chance: 0.50")
    styles = ("-", "--", "-.")
    for place, (label, colour) in enumerate(class_colours(figures["classes"]).items()):
        curve = figures["roc"][label] or {"fpr": [], "tpr": []}
        auc = figures["auc"][label]
        said = f"{label}: {'undefined' if auc is None else f'{auc:.2f}'}"
        ax.plot(curve["fpr"], curve["tpr"], styles[place % 3], color=colour, label=said)
    ax.set_xlim(-0.01, 1.01)
    ax.set_ylim(-0.01, 1.01)
    ax.set_aspect("equal")
    ax.set_xlabel("false positives, share of the rest")
    ax.set_ylabel("true positives, share of the class")
    ax.legend(fontsize=8, loc="lower right", title="area under the curve", title_fontsize=8)
    return _tidy(ax)


def show_slide_calibration(rule: SlideRule, *, ax: Axes | None = None) -> Axes:
    """Draw how often validation slides were abnormal that got a probability; numbers are slides."""
    ax = ax or _new_axes(4.6, 4.4)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    table = slide_calibration_table(rule)
    ax.plot(table.predicted, table.observed, "o-", color=COLOURS[0])
    for row in table.itertuples():
        ax.annotate(f" {row.n}", (row.predicted, row.observed), fontsize=8, va="top")
    ax.set_xlim(-0.02, 1.02)
    ax.set_ylim(-0.02, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("probability that the slide is abnormal")
    ax.set_ylabel("share that was")
    known = rule.calibration
    ax.set_title(
        f"{known.n_slides} validation slides, Brier score {known.brier:.3f}"
        if known
        else "not calibrated: too few validation slides",
        fontsize=10,
    )
    return _tidy(ax)


def show_reliability(figures: dict[str, Any], *, ax: Axes | None = None) -> Axes:
    """Draw how often a claimed probability was right, and how often it was claimed (grey bars).

    Parameters
    ----------
    figures
        Of `training.evaluate` or `training.calibration`. Dashed: before the temperature, if any.
    """
    ax = ax or _new_axes(4.6, 4.4)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
    rows = pd.DataFrame(figures["reliability"])
    shares = rows.n / rows.n.sum()
    places = (np.ceil(rows.confidence * N_BINS).clip(1, N_BINS) - 0.5) / N_BINS
    ax.bar(places, shares, 0.9 / N_BINS, color=GREY, alpha=0.25, label="share of the tiles")
    before = figures.get("uncalibrated")
    if before:
        raw = pd.DataFrame(before["reliability"])
        said = f"before temperature {figures['temperature']:.2f}"
        ax.plot(raw.confidence, raw.accuracy, "s--", color=COLOURS[2], markersize=4, linewidth=1,
                label=said)  # fmt: skip
    ax.plot(rows.confidence, rows.accuracy, "o-", color=COLOURS[0], label="as the model answers")
    ax.set_xlim(0, 1.01)
    ax.set_ylim(0, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("probability claimed")
    ax.set_ylabel("share that was right")
    ax.set_title(
        f"ECE {figures['ece']:.3f}" + (f", before {before['ece']:.3f}" if before else ""),
        fontsize=10,
    )
    ax.legend(fontsize=8, loc="upper left")
    return _tidy(ax)


def show_evaluation(figures: dict[str, Any]) -> np.ndarray:
    """Draw the page that says what a model is worth; return its (2, 2) Axes.

    Confusion and ROC curves above; reliability, and the model against colour alone, below.
    """
    figure, axes = plt.subplots(2, 2, figsize=(11.5, 9.2), layout="constrained")
    show_confusion(figures["confusion"], figures["classes"], ax=axes[0, 0])
    axes[0, 0].set_title("confusion: share of the truth, tiles", fontsize=10)
    show_roc(figures, ax=axes[0, 1]).set_title("each class against the rest", fontsize=10)
    reliability = show_reliability(figures, ax=axes[1, 0])
    reliability.set_title(f"can it be believed? {reliability.get_title()}", fontsize=10)
    show_intervals(figures, ax=axes[1, 1]).set_title("against colour alone", fontsize=10)
    counts = [f"{figures[f'n_{unit}s']:,} {unit}(s)" for unit in ("tile", "slide", "patient")]
    part = f", {figures['split']} part" if "split" in figures else ""
    figure.suptitle(f"{figures['model_id']}{part}: {', '.join(counts)}", fontsize=12)
    _small_print(figure)
    return np.asarray(axes)


def show_gradcam(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    titles: Sequence[str],
    *,
    columns: int = 4,
) -> np.ndarray:
    """Draw tiles, and below each the tile under its map: what its class was decided by.

    Parameters
    ----------
    images
        (H, W, 3) uint8 each.
    maps
        (h, w) each, 0–1, of any size: stretched over their images.
    """
    columns = min(columns, max(len(images), 1))
    rows = max(-(-len(images) // columns), 1)
    figure, axes = plt.subplots(
        2 * rows, columns, figsize=(2.4 * columns, 4.9 * rows + 0.6), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for ax in axes.flat:
        ax.set_axis_off()
    for place, (image, heat, title) in enumerate(zip(images, maps, titles, strict=True)):
        above, below = axes[2 * (place // columns) :, place % columns][:2]
        above.imshow(image)
        above.set_title(title, fontsize=9)
        below.imshow(image)
        height, width = image.shape[:2]
        below.imshow(paint_probabilities(heat), extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                     alpha=0.65, interpolation="bilinear")  # fmt: skip
    _small_print(figure, "yellow decided most, clear least · ")
    return np.asarray(axes)


def _new_axes(width: float, height: float) -> Axes:
    figure, ax = plt.subplots(figsize=(width, height), layout="constrained")
    _small_print(figure)
    return ax


def _small_print(figure: Figure, said: str = "") -> None:
    figure.supxlabel(said + PURPOSE, x=0.99, ha="right", fontsize=7, color=GREY)


def _tidy(ax: Axes, *, grid: Literal["both", "x"] = "both") -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#e5e7eb", linewidth=0.7)
    ax.set_axisbelow(True)
    return ax
