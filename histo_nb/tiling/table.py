"""The home's table of labelled tiles: labels from files as cut, what people say when it is read."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from histo_nb.errors import TableError
from histo_nb.files import locked
from histo_nb.home import Home
from histo_nb.tables import LABELLED_TILES, check_table, read_table, write_table
from histo_nb.tiling.hand import apply_hand_labels
from histo_nb.tiling.reviewed import apply_reviews, find_normal_classes


def tile_table_path(home: Home) -> Path:
    """Return where the home's tile table lies."""
    return home.tiles / "tiles.parquet"


def file_tiles(tiles: pd.DataFrame, home: Home, *, slide_ids: Sequence[str] = ()) -> Path:
    """Write labelled tiles as the home's tile table; return its path.

    With `slide_ids`, the slides that were tiled anew, the rows of all other slides are kept;
    several processes may do so at once.

    Raises
    ------
    TableError
        The rows that are kept have another mpp or tile size.
    """
    path = tile_table_path(home)
    with locked(path.with_suffix(".lock")):
        kept = pd.DataFrame()
        if slide_ids and path.exists():
            earlier = read_table(path, LABELLED_TILES, empty_ok=True)
            kept = earlier[~earlier.slide_id.isin(list(slide_ids))]
        whole = pd.concat([kept, tiles], ignore_index=True) if len(kept) else tiles
        for name in ("mpp", "tile_size"):
            if whole[name].nunique() > 1:
                raise TableError(
                    f"the other slides were tiled with {name}={kept[name].iloc[0]:g}, these with "
                    f"{tiles[name].iloc[0]:g}; tile all slides again, or these as the others"
                )
        return write_table(check_table(whole, LABELLED_TILES), path, LABELLED_TILES)


def count_orphans(tiles: pd.DataFrame, decisions: pd.DataFrame) -> int:
    """Return how many tiles that were labelled by hand are not in a tile table."""
    return int((~pd.Series(decisions.tile_id.unique()).isin(tiles.tile_id)).sum())


def read_tiles(home: Home, path: Path | None = None) -> pd.DataFrame:
    """Read the home's tile table (or another one) with what people said of its tiles.

    Labels by hand, from the board, stand before those from reviews of slides and of places on
    them, and these before those from files.

    Raises
    ------
    TableError
        The table is missing, damaged or breaks its contract.
    """
    tiles = read_table(path or tile_table_path(home), LABELLED_TILES)
    reviews = home.catalog.reviews()
    tiles = apply_reviews(tiles, reviews, normal_classes=find_normal_classes(home, reviews))
    return apply_hand_labels(tiles, home.catalog.hand_labels())
