"""Raises the rare classes of the training part by rotated and flipped copies, as rows."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.tables import TRAINING_TILES, check_table

RIGHT_ANGLES = (0.0, 90.0, 180.0, 270.0)
FREE_SHARE = 0.5  # of the training rows with room that are turned by any angle


@dataclass(frozen=True, kw_only=True)
class BalanceSpec:
    """How rare classes are raised."""

    balance: bool = True  # False: the training part keeps its proportions
    free_angles: bool = True  # any angle where there is room; False: right angles only
    balance_seed: int = 42


def balance_training(
    rows: pd.DataFrame, slides: pd.DataFrame, *, spec: BalanceSpec | None = None
) -> pd.DataFrame:
    """Return split rows with copies of rare classes, until each is as frequent as the largest.

    A copy is a row with its parent's id, an angle and a flip. A free angle needs a region √2 times
    as wide; where the scan or the image ends before that, the row takes a right angle, so that no
    corner is ever filled in. Half of the rows with room get a free angle, whatever their class,
    copies and tiles of their own alike: a turned tile is interpolated, and if only rare classes
    were, a network could tell them by it. Source: CN 113887377 A [0071].

    Parameters
    ----------
    rows
        Labelled tiles with their `split`.
    slides
        For the `width` and `height` of the slides or images, by `slide_id`.
    """
    spec = spec or BalanceSpec()
    rows = rows.assign(parent_id=None, angle=0.0, flip=False)
    if not spec.balance:
        return check_table(rows, TRAINING_TILES)
    train = rows[rows.split == "train"]
    counts = train.label.value_counts()
    rng = np.random.default_rng(spec.balance_seed)
    copies = [
        _copy(train[train.label == label], counts.max() - n, rng)
        for label, n in counts.sort_index().items()
    ]
    rows = pd.concat([rows, *copies], ignore_index=True)
    free = (rows.split == "train").to_numpy() & (rng.random(len(rows)) < FREE_SHARE)
    if spec.free_angles:
        free &= has_room(rows, slides)
        rows.loc[free, "angle"] = rng.uniform(0, 360, size=free.sum()).round(1)
    return check_table(rows, TRAINING_TILES)


def _copy(parents: pd.DataFrame, n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return `n` copies, each parent as often as any other, at right angles and flipped."""
    n_rounds = max(math.ceil(n / len(parents)), 1)
    order = np.concatenate([rng.permutation(len(parents)) for _ in range(n_rounds)])[:n]
    copies = parents.iloc[order].copy()
    copies["angle"] = rng.choice(RIGHT_ANGLES, size=n)
    copies["flip"] = rng.random(n) < 0.5
    copies["parent_id"] = copies.tile_id
    copies["tile_id"] = [f"{parent}#{i}" for i, parent in enumerate(copies.tile_id)]
    return copies


def has_room(tiles: pd.DataFrame, slides: pd.DataFrame) -> np.ndarray:
    """Return for each tile (bool) whether the scan holds the region that a rotation needs."""
    margin = np.ceil(tiles.size_l0 * (math.sqrt(2) - 1) / 2).to_numpy() + 2
    sizes = slides.set_index(slides.slide_id.to_numpy())
    width = sizes.width.loc[tiles.slide_id].to_numpy()
    height = sizes.height.loc[tiles.slide_id].to_numpy()
    far_x = tiles.x.to_numpy() + tiles.size_l0.to_numpy() + margin
    far_y = tiles.y.to_numpy() + tiles.size_l0.to_numpy() + margin
    near = np.minimum(tiles.x.to_numpy(), tiles.y.to_numpy())
    return np.asarray((near >= margin) & (far_x <= width) & (far_y <= height))
