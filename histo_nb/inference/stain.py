"""The colour of a slide's tissue, and whether slides like it were learnt from. Loads no torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.errors import DatasetError

COLOURS = ("od_red", "od_green", "od_blue")  # mean optical density of the tissue, by channel
DENSITY = -np.log10((np.arange(256) + 1) / 256).astype(np.float32)  # of a uint8 value; 0 is white
EVERY = 4  # pixel, of each side: 3,000 of a 224 px tile give its mean to 0.01
LEAST_DENSITY = 0.06  # mean of the channels; paler pixels are glass, however much a tile has of it
LEAST_SCALE = 0.04  # optical density; one lab's slides differ by that from week to week
MAD_TO_SD = 1.4826  # of a normal distribution


@dataclass(frozen=True, kw_only=True, eq=False)
class StainRange:
    """Colours of the training slides: median, and robust standard deviation with a floor."""

    centre: np.ndarray  # (3,) optical density of red, green, blue
    scale: np.ndarray  # (3,)
    n_slides: int  # 0 = nothing is known

    def distance(self, colour: np.ndarray) -> float:
        """Return how far a slide's colour (3,) is from the training slides, in deviations.

        It is that of the channel which differs most. NaN: nothing is known of one of both.
        """
        if not self.n_slides or not np.isfinite(colour).all():
            return float("nan")
        return float((np.abs(colour - self.centre) / self.scale).max())


def tile_colour(tile: np.ndarray) -> np.ndarray:
    """Return the mean optical density (3,) of the stained pixels of a (S, S, 3) uint8 tile.

    NaN if there is none. Every 4th pixel of every 4th row is looked at.
    """
    channels = [DENSITY[tile[::EVERY, ::EVERY, number]] for number in range(len(COLOURS))]
    stained = sum(channels) >= LEAST_DENSITY * len(COLOURS)
    if not stained.any():
        return np.full(len(COLOURS), np.nan)
    return np.array([density[stained].mean(dtype=np.float64) for density in channels])


def slide_colours(tiles: pd.DataFrame) -> pd.DataFrame:
    """Return the colour of each slide: the mean over its tiles, weighted by their tissue.

    Parameters
    ----------
    tiles
        Rows with `slide_id`, `tissue`, `od_red`, `od_green`, `od_blue` of `tile_colour`; rows
        without a colour do not count.

    Returns
    -------
    `od_red, od_green, od_blue` by `slide_id`, sorted; slides without any colour are left out.
    """
    known = tiles[tiles[list(COLOURS)].notna().all(axis=1)].sort_values([*COLOURS, "tissue"])
    weights = known.tissue.groupby(known.slide_id).sum()
    weighted = known[list(COLOURS)].mul(known.tissue, axis=0)
    return weighted.groupby(known.slide_id).sum().div(weights, axis=0)


def fit_stain(colours: pd.DataFrame) -> StainRange:
    """Return the range of training slides' colours, a row a slide.

    Raises
    ------
    DatasetError
        A column is missing.
    """
    missing = [name for name in COLOURS if name not in colours]
    if missing:
        raise DatasetError(f"the slides' colours lack {', '.join(missing)}; see `slide_colours`")
    values = colours[list(COLOURS)].dropna().to_numpy(float)
    if not len(values):
        return StainRange(centre=np.zeros(3), scale=np.full(3, LEAST_SCALE), n_slides=0)
    centre = np.median(values, axis=0)
    spread = MAD_TO_SD * np.median(np.abs(values - centre), axis=0)
    return StainRange(centre=centre, scale=np.maximum(spread, LEAST_SCALE), n_slides=len(values))
