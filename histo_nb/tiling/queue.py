"""In which order an annotator sees tiles, so that each label tells most."""

from typing import Literal, get_args

import numpy as np
import pandas as pd

from histo_nb.errors import SpecError

Order = Literal["random", "uncertain", "disagreement"]
SPREAD_TILES = 6  # neighbours nearer than this many tile sides look alike
MOST_SPREAD = 100  # tiles of one slide that are spread; later ones come by uncertainty alone
OF_THE_FIRST = 1000  # they are chosen from the most uncertain ones


def order_tiles(
    tiles: pd.DataFrame,
    order: Order,
    *,
    uncertainty: pd.Series | None = None,
    settled: pd.DataFrame | None = None,
    seed: int = 42,
) -> np.ndarray:
    """Return the row numbers of `tiles` in the order to be labelled.

    "random"
        The same for everybody with the same seed, so that annotators meet on the same tiles.
    "uncertain"
        Slides in turn; of each the tile where `uncertainty` (0–1, by `tile_id`) times the
        distance to its tiles taken before is highest. Tiles without a prediction come last.
    "disagreement"
        Tiles of which annotators say different things, the most divided first; then those that
        only one has labelled, then the others.

    Parameters
    ----------
    settled
        See `hand.settle`.

    Raises
    ------
    SpecError
        The order is unknown, or needs what is not given.
    """
    if order not in get_args(Order):
        raise SpecError(f"order={order!r} is unknown; choose one of {get_args(Order)}")
    shuffled = np.random.default_rng(seed).permutation(len(tiles))
    if order == "random":
        return shuffled
    if order == "disagreement":
        if settled is None:
            raise SpecError("order='disagreement' needs what annotators said; label some tiles")
        said = settled.reindex(tiles.tile_id.iloc[shuffled])
        divided = said.conflict.eq(True) * (2 - said.share.astype(float).fillna(1))
        once = said.n_annotators.eq(1) * 0.5
        rank = np.asarray(divided.to_numpy(float) + once.to_numpy(float))
        return shuffled[np.argsort(-rank, kind="stable")]
    if uncertainty is None or uncertainty.empty:
        raise SpecError("order='uncertain' needs a model's predictions; analyse the slides first")
    return _order_uncertain(tiles, uncertainty, shuffled)


def measure_uncertainty(probabilities: np.ndarray) -> np.ndarray:
    """Return the entropy of each row of class probabilities, 0 (certain) to 1 (all alike).

    >>> measure_uncertainty(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist()
    [0.0, 1.0]
    """
    p = np.clip(probabilities, 1e-12, 1)
    entropy = -(p * np.log(p)).sum(axis=1) / np.log(max(p.shape[1], 2))
    return np.asarray(np.clip(entropy, 0, 1).round(9))


def _order_uncertain(
    tiles: pd.DataFrame, uncertainty: pd.Series, shuffled: np.ndarray
) -> np.ndarray:
    values = uncertainty.reindex(tiles.tile_id).to_numpy(float)
    places = tiles[["x", "y"]].to_numpy(float) / tiles.size_l0.to_numpy(float)[:, None]
    known = shuffled[~np.isnan(values[shuffled])]
    turn = np.zeros(len(tiles), np.int64)
    slides = pd.Series(known).groupby(tiles.slide_id.to_numpy()[known], sort=False)
    for _, numbers in slides:
        rows = numbers.to_numpy()
        taken = _spread(values[rows], places[rows])
        turn[rows[taken]] = np.arange(len(rows))
    first = known[np.lexsort((-values[known], turn[known]))]
    return np.concatenate([first, shuffled[np.isnan(values[shuffled])]])


def _spread(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return row numbers: highest value times distance (in tile sides) to those taken before."""
    order = np.argsort(-values, kind="stable")
    first = order[:OF_THE_FIRST]
    value, place = values[first], places[first]
    far = np.full(len(first), float(SPREAD_TILES))
    left = np.ones(len(first), bool)
    taken = []
    for _ in range(min(len(first), MOST_SPREAD)):
        best = int(np.where(left, value * far, -1).argmax())
        taken.append(first[best])
        left[best] = False
        far = np.minimum(far, np.hypot(*(place - place[best]).T))
    rest = order[~np.isin(order, taken)]
    return np.array([*taken, *rest], dtype=np.int64)
