"""Labels that annotators gave by hand: which one counts, and how far annotators agree."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

SOURCE = "board"  # label_source of a label by hand
CONFLICT = "board: annotators disagree"


def settle(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return one row a tile from what annotators said of it: the majority's label.

    Parameters
    ----------
    decisions
        `tile_id, annotator, label, decided_at`, one row an annotator and tile; see
        `Catalog.hand_labels`.

    Returns
    -------
    Indexed by `tile_id`: `label` (None where as many say one thing as another), `n_annotators`,
    `labelled_by` (who said so; of an even split all), `labelled_at` (of the last decision),
    `share` of the annotators who say so, and `conflict`, whether anybody says otherwise.
    """
    columns = ["label", "n_annotators", "labelled_by", "labelled_at", "share", "conflict"]
    if decisions.empty:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="tile_id"))
    counts = decisions.groupby(["tile_id", "label"]).size().unstack(fill_value=0)
    most, total = counts.max(axis=1), counts.sum(axis=1)
    is_tie = counts.eq(most, axis=0).sum(axis=1) > 1
    label = counts.idxmax(axis=1).astype(object).where(~is_tie, None)
    counted = decisions.tile_id.map(label)
    who = decisions[counted.isna() | (counted == decisions.label)].sort_values("annotator")
    return pd.DataFrame(
        {
            "label": label,
            "n_annotators": total,
            "labelled_by": who.groupby("tile_id").annotator.agg(", ".join),
            "labelled_at": decisions.groupby("tile_id").decided_at.max(),
            "share": most / total,
            "conflict": most < total,
        }
    )[columns]


def apply_hand_labels(tiles: pd.DataFrame, decisions: pd.DataFrame) -> pd.DataFrame:
    """Return labelled tile rows in which labels by hand stand before those from files.

    The majority of the annotators counts; where they are even, the tile is unlabelled.
    `label_fraction` of a label by hand is unknown (NaN).
    """
    said = settle(decisions[decisions.tile_id.isin(tiles.tile_id)])
    if said.empty:
        return tiles
    rows = said.reindex(tiles.tile_id).reset_index(drop=True)
    by_hand = rows.n_annotators.notna().to_numpy()
    is_even = rows.label.isna().to_numpy()
    new = {
        "label": rows.label,
        "label_fraction": np.nan,
        "label_source": np.where(is_even, CONFLICT, SOURCE),
        "labelled_by": rows.labelled_by,
        "labelled_at": rows.labelled_at,
    }
    labelled = tiles.reset_index(drop=True).copy()
    for name, values in new.items():
        labelled[name] = labelled[name].mask(by_hand, values)
    return labelled


def measure_agreement(decisions: pd.DataFrame) -> list[dict[str, Any]]:
    """Return how far annotators agree beyond chance, on the tiles that both (all) labelled.

    Cohen's kappa (1960) for each pair of annotators, and Fleiss' (1971) for all where there are
    more than two: `annotators, n_tiles, agreement` (share of tiles, 0–1), `kappa` (NaN where all
    say one class only: chance then explains everything).
    """
    from sklearn.metrics import cohen_kappa_score  # noqa: PLC0415 - a second no other page needs

    coded = decisions.assign(label=pd.factorize(decisions.label)[0])  # numbers compare quicker
    said = coded.pivot(index="tile_id", columns="annotator", values="label")
    found = []
    for pair in combinations(said.columns, 2):
        both = said[list(pair)].dropna().astype(int)
        if len(both):
            first, second = both.iloc[:, 0], both.iloc[:, 1]
            one_class = len({*first, *second}) == 1
            kappa = float("nan") if one_class else float(cohen_kappa_score(first, second))
            found.append(_agreement(pair, len(both), float((first == second).mean()), kappa))
    shared = said.dropna()
    if said.shape[1] > 2 and len(shared):
        found.append(_fleiss(shared))
    return found


def _fleiss(said: pd.DataFrame) -> dict[str, Any]:
    from statsmodels.stats.inter_rater import fleiss_kappa  # noqa: PLC0415

    labels = pd.unique(said.to_numpy().ravel())
    table = np.stack([(said == label).sum(axis=1) for label in labels], axis=1)
    kappa = float(fleiss_kappa(table)) if len(labels) > 1 else float("nan")
    agreed = float((table.max(axis=1) == said.shape[1]).mean())
    return _agreement(tuple(said.columns), len(said), agreed, kappa)


def _agreement(
    annotators: tuple[str, ...], n_tiles: int, agreement: float, kappa: float
) -> dict[str, Any]:
    return {
        "annotators": list(annotators),
        "n_tiles": n_tiles,
        "agreement": agreement,
        "kappa": kappa,
    }
