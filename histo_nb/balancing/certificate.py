"""The split certificate: proof that nothing leaks between training, validation and test."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import shapely

from histo_nb.balancing.duplicates import find_duplicates
from histo_nb.balancing.pixels import Pixels, originals
from histo_nb.errors import DatasetError
from histo_nb.files import hash_content
from histo_nb.tables import TRAINING_TILES, check_table
from histo_nb.tiling.images import patients_unknown

# all that decides which pixels stand for which label, and on which side
SIGNED = [
    *("tile_id", "slide_id", "patient_id", "label", "split", "parent_id", "angle", "flip"),
    *("x", "y", "size_l0", "level", "read_size", "tile_size", "mpp", "read_path"),
]

SHARED = ["slide_path", "slide_id", "patient_id", "label", "x", "y", "size_l0", "read_size"]


def make_certificate(
    rows: pd.DataFrame, *, groups: Sequence[str] = (), pixels: Pixels | None = None
) -> dict[str, Any]:
    """Check training rows for leaks and return what was checked, with the rows' hash.

    Parameters
    ----------
    groups
        More columns whose values must stand on one side: site, visual field …
    pixels
        Of `pixels.originals(rows)`, in which near-duplicates are searched across the cut; without
        them the certificate says that nobody looked.

    Raises
    ------
    DatasetError
        A patient, a slide, a group, a place on a slide, or a copy and its parent are on two sides,
        a copy lies outside the training part, or two tiles on two sides show the same.
    """
    rows = check_table(rows, TRAINING_TILES)
    for column in ("patient_id", "slide_id", *groups):
        _check_once(rows, column)
    _check_copies(rows)
    _check_places(rows)
    if pixels is not None:
        _check_duplicates(originals(rows), pixels)
    own = rows[rows.parent_id.isna()]
    alone = patients_unknown(own)
    return {
        "sha256": hash_rows(rows),
        # the locked part by its patients, however they are cut or labelled
        "test_sha256": hash_content(sorted(set(rows.patient_id[rows.split == "test"]))),
        "checked": [
            *(f"no {column} on two sides" for column in ("patient", "slide", *groups)),
            "no place of a slide on two sides",
            "copies only in training, beside their parent",
            *(["no near-duplicates on two sides"] if pixels is not None else []),
        ],
        "unknown": [
            *(["patients: each image stands for one"] if alone else []),
            *(["near-duplicates: nobody looked"] if pixels is None else []),
        ],
        "groups": list(groups),
        "tiles": _counts(own, None),
        "slides": _counts(own, "slide_id"),
        "patients": _counts(own, "patient_id"),
        "copies": rows[rows.parent_id.notna()].groupby("label").size().to_dict(),
        "share_of_tiles": (own.split.value_counts() / len(own)).round(4).to_dict(),
    }


def check_certificate(rows: pd.DataFrame, certificate: dict[str, Any]) -> None:
    """Raise `DatasetError` unless `rows` are the very rows the certificate was made for."""
    if hash_rows(rows) != certificate["sha256"]:
        raise DatasetError(
            "the training table is not the one its certificate was made for; "
            "make split and certificate again with `histo-nb balance`"
        )


def hash_rows(rows: pd.DataFrame) -> str:
    """Return the SHA-256 of what the certificate is about, whatever the order of the rows."""
    signed = rows[SIGNED].astype(str).sort_values("tile_id")
    return hash_content(signed.to_numpy().tolist())


def _check_once(rows: pd.DataFrame, column: str) -> None:
    sides = rows.groupby(column).split.nunique()
    leaks = sides.index[sides > 1].tolist()
    if leaks:
        raise DatasetError(
            f"{column} {leaks[:5]} stands on two sides of the split; split again by patient"
        )


def _check_copies(rows: pd.DataFrame) -> None:
    copies = rows[rows.parent_id.notna()]
    sides = rows.set_index("tile_id").split
    orphans = copies[(copies.split != "train") | (copies.parent_id.map(sides) != "train")]
    own = rows.set_index("tile_id")[SHARED]
    same = own.reindex(copies.parent_id).reset_index(drop=True)
    if not orphans.size and not same.equals(copies[SHARED].reset_index(drop=True)):
        raise DatasetError("a copy shows another place than its parent; balance again")
    if len(orphans):
        raise DatasetError(
            f"{len(orphans)} copies lie outside the training part or away from their parent, "
            f"first {orphans.tile_id.iloc[0]}; balance again after the split"
        )


def _check_duplicates(own: pd.DataFrame, pixels: Pixels) -> None:
    """Tiles that show the same, turned, mirrored or stored anew, must be on one side."""
    found = find_duplicates(pixels, own.split.to_numpy())
    if len(found):
        first, second = own.iloc[int(found.i.iloc[0])], own.iloc[int(found.j.iloc[0])]
        raise DatasetError(
            f"{len(found)} pairs of tiles on two sides of the split show the same, first "
            f"{first.tile_id} ({first.split}) and {second.tile_id} ({second.split}): name what "
            "belongs together by a group column, or join look-alikes with --join-duplicates"
        )


def _check_places(rows: pd.DataFrame) -> None:
    """Tiles of one file that overlap must be on one side, whatever their slide_id says."""
    for path, tiles in rows[rows.parent_id.isna()].groupby("slide_path"):
        if tiles.split.nunique() == 1:
            continue
        squares = shapely.box(tiles.x, tiles.y, tiles.x + tiles.size_l0, tiles.y + tiles.size_l0)
        sides = {side: shapely.union_all(squares[tiles.split == side]) for side in set(tiles.split)}
        if shapely.union_all(list(sides.values())).area < sum(s.area for s in sides.values()) - 1:
            raise DatasetError(f"tiles of {path} overlap across the split; split again by patient")


def _counts(rows: pd.DataFrame, column: str | None) -> dict[str, dict[str, int]]:
    groups = rows.groupby(["split", "label"])
    table = groups.size() if column is None else groups[column].nunique()
    return {side: table[side].to_dict() for side in table.index.unique("split")}
