"""Tiles as image files in one folder a class: to look at, to sort by hand, for other programs."""

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from histo_nb.errors import SlideError, StorageError, TableError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.files import check_free_space, writing_folder
from histo_nb.geometry import split_read_path
from histo_nb.image import ImageFile
from histo_nb.slide import Slide
from histo_nb.tiling.reader import read_tiles

UNLABELLED = "unlabelled"  # folder of tiles without a label
NAME = re.compile(r"(?P<slide>.+)_(?P<x>-?\d+)_(?P<y>-?\d+)_(?P<size>\d+)")
NAMES_FILE = re.compile(r'[^./\\:*?"<>|\x00-\x1f][^/\\:*?"<>|\x00-\x1f]*')  # on any system
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


def write_tiles(tiles: pd.DataFrame, folder: Path) -> tuple[Path, pd.DataFrame]:
    """Write each tile as `<label>/<slide_id>_<x>_<y>_<size_l0>.png`, `tile_size` px a side.

    The whole folder appears at once when all are written.

    Returns
    -------
    The folder, and one row `slide_id, step, error` for each tile that could not be read.

    Raises
    ------
    TableError
        A class or a slide cannot be the name of a file.
    StorageError
        The folder exists already, or the disk has not enough room: said before it starts.
    """
    folder = Path(folder)
    if folder.exists():
        raise StorageError(f"{folder} exists already; choose another name")
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_free_space(folder.parent, int((tiles.tile_size.astype("int64") ** 2 * 3).sum()))
    labels = tiles.get("label", pd.Series(None, index=tiles.index, dtype=object))
    names = [_folder_name(label) for label in labels.where(labels.notna(), None)]
    for slide_id in tiles.slide_id.unique():
        check_file_name(slide_id, what="slide")
    failures = []
    with writing_folder(folder) as temporary, _bar(len(tiles)) as bar:
        for name in set(names):
            (temporary / name).mkdir()
        for _, rows in tiles.assign(folder=names).groupby("slide_id", sort=False):
            try:
                unread = _write_slide(rows, temporary, bar)
            except SlideError as error:  # the whole slide is gone
                unread = [str(error)] * len(rows)
            failures += [
                {"slide_id": rows.slide_id.iloc[0], "step": "reading", "error": error}
                for error in unread
            ]
    return folder, pd.DataFrame(failures, columns=FAILURE_COLUMNS)


def _write_slide(rows: pd.DataFrame, folder: Path, bar: Any) -> list[str]:
    """Write the tiles of one slide; return what is wrong with those that cannot be read."""
    records = rows.to_dict("records")
    unread = []
    size = int(rows.tile_size.iloc[0]) // split_read_path(rows.read_path.iloc[0])[1]

    def read(source: Slide | ImageFile, row: dict[Any, Any]) -> np.ndarray:
        return source.read_tile(row, size=size)

    with closing(read_tiles(rows, read, size=size)) as tiles:
        for number, pixels in tiles:
            if isinstance(pixels, SlideError):
                unread.append(str(pixels))
            else:
                path = folder / records[number]["folder"] / _file_name(records[number])
                Image.fromarray(pixels).save(path)
            bar.update()
    return unread


def _bar(n_tiles: int) -> Any:
    return tqdm(total=n_tiles, desc="writing tiles", unit="tile")


def read_sorted_tiles(tiles: pd.DataFrame, folder: Path) -> np.ndarray:
    """Return the class of each tile by the folder its image lies in; None where there is no image.

    Parameters
    ----------
    folder
        As `write_tiles` makes it; a person has moved images to the folders of their classes.

    Raises
    ------
    TableError
        An image is of no tile of this table, or lies in two folders.
    """
    numbers = {name: i for i, name in enumerate(tiles.tile_id)}
    labels = np.full(len(tiles), None, dtype=object)
    seen: dict[str, Path] = {}
    for path in find_sorted_tiles(folder):
        parts = NAME.fullmatch(path.stem)
        tile_id = "{slide}/{x},{y}/{size}".format(**parts.groupdict()) if parts else ""
        if tile_id not in numbers:
            raise TableError(
                f"{path} is of no tile of this table; images are named SLIDE_X_Y_SIZE as "
                "`histo-nb tile --images` names them, and cut with the same mpp and tile_size"
            )
        if tile_id in seen:
            raise TableError(f"{tile_id} lies in {seen[tile_id]} and in {path}; keep one")
        seen[tile_id] = path
        if path.parent.name != UNLABELLED:
            labels[numbers[tile_id]] = path.parent.name
    return labels


def find_sorted_tiles(folder: Path) -> list[Path]:
    """Return the images in the folders of a folder, sorted."""
    found = [path for path in folder.glob("[!.]*/[!.]*") if path.suffix.lower() in SUFFIXES]
    return sorted(found)


def _folder_name(label: str | None) -> str:
    if label is None:
        return UNLABELLED
    if label == UNLABELLED:
        raise TableError(f"{UNLABELLED!r} is the folder of tiles without a class; rename the class")
    check_file_name(str(label), what="class")
    return str(label)


def check_file_name(name: str, *, what: str) -> None:
    """Raise `TableError` unless a file or folder can have that name on any system."""
    if not NAMES_FILE.fullmatch(name):
        raise TableError(f"the {what} {name!r} cannot be the name of a file; rename it")


def _file_name(row: Mapping[Any, Any]) -> str:
    return f"{row['slide_id']}_{row['x']}_{row['y']}_{row['size_l0']}.png"
