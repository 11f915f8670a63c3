"""Pictures for the notebooks. Each function draws into matplotlib Axes and returns them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Patch, Rectangle

from histo_nb.annotations import Annotation
from histo_nb.home import Home
from histo_nb.inference.regions import Heatmap, make_heatmap
from histo_nb.inference.result import SlideResult
from histo_nb.masking.masks import list_masks, read_mask
from histo_nb.masking.methods import METHODS
from histo_nb.masking.tissue import MaskSpec, clean_mask, find_tissue
from histo_nb.slide import Slide
from histo_nb.tiling.ledger import UNITS

# Okabe and Ito's palette: told apart with any kind of colour vision
COLOURS = ("#0072B2", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442")
SURE = "#D55E00"


def class_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each class, in the order given."""
    return {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}


def show_slides(slides: pd.DataFrame, *, n: int = 6, mpp: float = 16.0) -> np.ndarray:
    """Draw thumbnails of the first `n` slides; return the (1, n) Axes."""
    shown = slides.head(n)
    _, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3), squeeze=False)
    for ax, row in zip(axes[0], shown.to_dict("records"), strict=True):
        with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
            thumbnail, downsample = slide.thumbnail(mpp=mpp)
            show_image(thumbnail, mpp=downsample * slide.slide_mpp, title=row["slide_id"], ax=ax)
    return np.asarray(axes)


def show_image(image: np.ndarray, *, mpp: float, title: str = "", ax: Axes | None = None) -> Axes:
    """Draw an image at `mpp` µm/px with a scale bar."""
    ax = ax or plt.subplots(figsize=(7, 5))[1]
    ax.imshow(image)
    length_um = 10 ** np.floor(np.log10(image.shape[1] * mpp / 2))
    y = image.shape[0] * 0.95
    ax.plot([0, length_um / mpp], [y, y], color="black", linewidth=3, clip_on=False)
    ax.text(0, y * 0.98, f"{length_um:g} µm", va="bottom", fontsize=8)
    ax.set_title(title, fontsize=10)
    ax.set_axis_off()
    return ax


def show_mask_steps(thumbnail: np.ndarray, *, mpp: float, spec: MaskSpec) -> np.ndarray:
    """Draw thumbnail, threshold, cleaned mask and its outline; return the (1, 4) Axes."""
    raw = METHODS[spec.method](thumbnail, mpp=mpp)
    mask = clean_mask(raw, mpp=mpp, spec=spec)
    _, axes = plt.subplots(1, 4, figsize=(16, 3.6), squeeze=False)
    show_image(thumbnail, mpp=mpp, title="thumbnail", ax=axes[0, 0])
    for ax, picture, title in (
        (axes[0, 1], raw, f"threshold: {spec.method}"),
        (axes[0, 2], mask, "opened, closed, specks and holes removed"),
    ):
        ax.imshow(picture, cmap="gray_r", interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.set_axis_off()
    show_image(thumbnail, mpp=mpp, title="outline", ax=axes[0, 3])
    axes[0, 3].contour(mask, levels=[0.5], colors=[SURE], linewidths=1.5)
    return np.asarray(axes)


def show_methods(thumbnail: np.ndarray, *, mpp: float, spec: MaskSpec) -> np.ndarray:
    """Draw the masks of all methods on one thumbnail, side by side; return the (1, n) Axes."""
    _, axes = plt.subplots(1, len(METHODS), figsize=(4 * len(METHODS), 3.6), squeeze=False)
    for ax, method in zip(axes[0], METHODS, strict=True):
        mask = find_tissue(thumbnail, mpp=mpp, spec=replace(spec, method=method))
        show_image(thumbnail, mpp=mpp, title=f"{method}: {mask.mean():.0%}", ax=ax)
        if mask.any() and not mask.all():
            ax.contour(mask, levels=[0.5], colors=[SURE], linewidths=1.2)
    return np.asarray(axes)


def show_contact_sheet(
    home: Home, slide_ids: Sequence[str] = (), *, n: int = 24, columns: int = 6
) -> np.ndarray:
    """Draw the `n` most suspicious masks on their slides, what is wrong above each; return Axes.

    Suspicious are no tissue, almost nothing but tissue, pen, faint stain, many specks, in this
    order; see `list_masks`.
    """
    masks = list_masks(home, list(slide_ids)).head(n)
    rows = -(-len(masks) // columns)
    _, axes = plt.subplots(rows, columns, figsize=(2.6 * columns, 2.8 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, row in zip(axes.flat, masks.to_dict("records"), strict=False):
        slide_row = home.catalog.slide(row["slide_id"])
        with Slide(slide_row["slide_path"], slide_mpp=slide_row["slide_mpp"]) as slide:
            thumbnail, downsample = slide.thumbnail(mpp=max(slide.size) * slide.slide_mpp / 300)
        ax.imshow(thumbnail)
        flags = row["quality_flags"]
        if pd.notna(row["method"]):  # there is a mask that can be read
            mask = read_mask(Path(row["mask_path"]))
            height, width = mask.array.shape
            step = downsample / mask.downsample
            if mask.array.any() and not mask.array.all():
                grid_x, grid_y = np.arange(width) / step, np.arange(height) / step
                ax.contour(grid_x, grid_y, mask.array, levels=[0.5], colors=[SURE], linewidths=1)
        title = f"{row['slide_id']}\n{flags or 'nothing suspicious'}"
        ax.set_title(title, fontsize=8, color=SURE if flags else "black")
    return np.asarray(axes)


def show_tiles_on_slide(
    slide: Slide,
    tiles: pd.DataFrame,
    *,
    outlines: Sequence[Annotation] = (),
    mpp: float = 8.0,
    ax: Axes | None = None,
) -> Axes:
    """Draw a slide with its tiles, coloured by label (grey: none), and class outlines."""
    thumbnail, downsample = slide.thumbnail(mpp=mpp)
    ax = show_image(thumbnail, mpp=downsample * slide.slide_mpp, ax=ax)
    labels = sorted({a.label for a in outlines} | set(tiles.get("label", pd.Series()).dropna()))
    colours = class_colours(labels)
    squares = [
        Rectangle((r["x"] / downsample, r["y"] / downsample), *[r["size_l0"] / downsample] * 2)
        for r in tiles.to_dict("records")
    ]
    shades = [
        colours.get(str(label), "#888888") for label in tiles.get("label", [None] * len(tiles))
    ]
    ax.add_collection(
        PatchCollection(squares, facecolor=shades, edgecolor="white", alpha=0.35, linewidth=0.8)
    )
    for outline in outlines:
        for part in getattr(outline.outline, "geoms", [outline.outline]):
            x, y = np.asarray(part.exterior.coords).T / downsample
            ax.plot(x, y, color=colours[outline.label], linewidth=1.5)
    ax.legend(
        handles=[Patch(color=colours[label], label=label) for label in labels],
        loc="upper right",
        fontsize=8,
    )
    return ax


def show_tile_grid(
    tiles: Sequence[np.ndarray], titles: Sequence[str], *, columns: int = 6
) -> np.ndarray:
    """Draw tiles beside one another with a title each; return the Axes."""
    rows = max(-(-len(tiles) // columns), 1)
    _, axes = plt.subplots(rows, columns, figsize=(2.3 * columns, 2.5 * rows), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, tile, title in zip(axes.flat, tiles, titles, strict=False):
        ax.imshow(tile)
        ax.set_title(title, fontsize=9)
    return np.asarray(axes)


def show_split(rows: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw how many tiles of each class lie in each part; hatched: balanced copies."""
    ax = ax or plt.subplots(figsize=(7, 3.5))[1]
    counts = rows.groupby(["split", rows.parent_id.notna(), "label"]).size()
    labels, parts = sorted(rows.label.unique()), ["train", "valid", "test"]
    for i, (label, colour) in enumerate(class_colours(labels).items()):
        places = np.arange(len(parts)) + (i - len(labels) / 2 + 0.5) * 0.8 / len(labels)
        own = [counts.get((part, False, label), 0) for part in parts]
        copies = [counts.get((part, True, label), 0) for part in parts]
        ax.bar(places, own, 0.8 / len(labels), color=colour, label=label)
        ax.bar(places, copies, 0.8 / len(labels), bottom=own, color="white", edgecolor=colour,
               hatch="///")  # fmt: skip
    ax.set_xticks(range(len(parts)), parts)
    ax.set_ylabel("tiles")
    ax.legend(fontsize=8)
    return ax


def show_ledger(ledger: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the patients, slides and tiles of each class as shares of their targets."""
    ax = ax or plt.subplots(figsize=(7, 0.5 * len(ledger) * len(UNITS) / 2 + 1))[1]
    places = np.arange(len(ledger))
    for i, unit in enumerate(UNITS):
        have = ledger[unit].to_numpy(float)
        share = have / np.maximum(have + ledger[f"missing_{unit}"], 1)
        y = places + (i - 1) * 0.26
        ax.barh(y, share, 0.24, color=COLOURS[i], label=unit)
        for place, x, n in zip(y, share, have, strict=True):
            ax.text(x + 0.01, place, f"{n:,.0f}", va="center", fontsize=8)
    ax.axvline(1, color="black", linewidth=1)
    ax.set_yticks(places, ledger.index)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.15)
    ax.set_xlabel("share of the target")
    ax.legend(fontsize=8, loc="lower right")
    return ax


def show_result(slide: Slide, result: SlideResult, *, mpp: float = 8.0) -> np.ndarray:
    """Draw a slide, its abnormal probability and its regions side by side; return the Axes."""
    thumbnail, downsample = slide.thumbnail(mpp=mpp)
    scale = downsample * slide.slide_mpp
    _, axes = plt.subplots(1, 3, figsize=(16, 4.2), squeeze=False)
    show_image(thumbnail, mpp=scale, title=result.slide_id, ax=axes[0, 0])
    show_image(thumbnail, mpp=scale, title="probability of not normal", ax=axes[0, 1])
    heatmap = make_heatmap(
        result.predictions, 1 - result.predictions[f"prob_{result.normal_class}"]
    )
    _lay(heatmap, downsample, size=thumbnail.shape[1::-1], ax=axes[0, 1])
    show_tiles_on_slide(
        slide, result.predictions.head(0), outlines=result.regions, mpp=mpp, ax=axes[0, 2]
    )
    axes[0, 2].set_title(f"{result.slide_class}, confidence {result.confidence:.2f}", fontsize=10)
    return np.asarray(axes)


def show_class_heatmaps(slide: Slide, result: SlideResult, *, mpp: float = 8.0) -> np.ndarray:
    """Draw the probability of each class over the slide, side by side; return the Axes."""
    thumbnail, downsample = slide.thumbnail(mpp=mpp)
    n = len(result.classes)
    _, axes = plt.subplots(1, n, figsize=(min(5.3 * n, 16), 4.2), squeeze=False)
    for ax, label in zip(axes[0], result.classes, strict=True):
        show_image(thumbnail, mpp=downsample * slide.slide_mpp, title=label, ax=ax)
        heatmap = make_heatmap(result.predictions, f"prob_{label}")
        _lay(heatmap, downsample, size=thumbnail.shape[1::-1], ax=ax)
    return np.asarray(axes)


def _lay(heatmap: Heatmap, downsample: float, *, size: tuple[int, int], ax: Axes) -> None:
    """Lay a heatmap of probabilities over a thumbnail of `size` px that is shown on `ax`."""
    rows, columns = heatmap.values.shape
    left, top = heatmap.x / downsample, heatmap.y / downsample
    step = heatmap.step / downsample
    picture = ax.imshow(
        heatmap.values,
        cmap="cividis",
        vmin=0,
        vmax=1,
        alpha=0.6,
        interpolation="nearest",
        extent=(left, left + columns * step, top + rows * step, top),
    )
    ax.set_xlim(0, size[0])
    ax.set_ylim(size[1], 0)
    ax.figure.colorbar(picture, ax=ax, fraction=0.04)


def show_worklist(results: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the abnormal share of each slide, the most suspicious first."""
    ax = ax or plt.subplots(figsize=(8, 0.32 * len(results) + 1))[1]
    labels = sorted(results.slide_class.unique())
    colours = class_colours(labels)
    ax.barh(results.slide_id, results.abnormal_fraction, color=results.slide_class.map(colours))
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("abnormal share of the tissue")
    ax.legend(handles=[Patch(color=colours[name], label=name) for name in labels], fontsize=8)
    return ax
