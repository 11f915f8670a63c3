"""The data set folder: what training needs, made once, checked whenever it is opened."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.balancing.balance import BalanceSpec, balance_training
from histo_nb.balancing.certificate import check_certificate, make_certificate
from histo_nb.balancing.pixels import measure_statistics, read_pixels, write_pixels
from histo_nb.balancing.split import SplitSpec, split_patients
from histo_nb.errors import DatasetError
from histo_nb.files import write_json, writing_folder
from histo_nb.home import Home
from histo_nb.tables import TRAINING_TILES, read_table, write_table


@dataclass(frozen=True)
class Dataset:
    """One data set folder: `tiles.parquet`, `pixels.npy`, `certificate.json`, `statistics.json`."""

    folder: Path

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Training rows, in the order of the pixels."""
        return read_table(self.folder / "tiles.parquet", TRAINING_TILES)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(N, S, S, 3) uint8, memory-mapped."""
        return read_pixels(self.folder / "pixels.npy")

    @cached_property
    def certificate(self) -> dict[str, Any]:
        """What `certificate.make_certificate` found, with the hash of the rows."""
        content: dict[str, Any] = json.loads((self.folder / "certificate.json").read_text())
        return content

    @cached_property
    def statistics(self) -> dict[str, list[float]]:
        """Mean, std and variance of each channel over the training rows, of values 0–1."""
        content: dict[str, list[float]] = json.loads((self.folder / "statistics.json").read_text())
        return content

    @property
    def dataset_id(self) -> str:
        """The folder's name, made from the content."""
        return self.folder.name

    @property
    def classes(self) -> list[str]:
        """The labels, sorted: the order of the network's output."""
        return sorted(self.rows.label.unique())

    def indices(self, split: str) -> np.ndarray:
        """Return the row numbers of one part."""
        return np.flatnonzero(self.rows.split == split)


def make_dataset(
    tiles: pd.DataFrame,
    home: Home,
    *,
    split: SplitSpec | None = None,
    balance: BalanceSpec | None = None,
) -> Dataset:
    """Split labelled tiles, balance the training part, certify, decode; return the data set.

    Its name comes from its rows: the same tiles, split and seed give the same data set, which is
    then reused.

    Raises
    ------
    DatasetError
        The tiles cannot be split without a leak, or differ in mpp or tile size.
    """
    for name in ("tile_size", "mpp", "read_path"):
        if tiles[name].nunique() > 1:
            raise DatasetError(
                f"tiles of different {name} {sorted(tiles[name].unique())} cannot be learnt "
                "together; tile all slides with one spec"
            )
    slides = home.catalog.slides(list(tiles.slide_id.unique()))
    rows = balance_training(split_patients(tiles, spec=split), slides, spec=balance)
    certificate = make_certificate(rows)
    folder = home.datasets / f"D-{certificate['sha256'][:10]}"
    if not folder.exists():
        with writing_folder(folder) as temporary:
            write_table(rows, temporary / "tiles.parquet", TRAINING_TILES)
            write_json(temporary / "certificate.json", certificate)
            write_pixels(rows, temporary / "pixels.npy")
            pixels = read_pixels(temporary / "pixels.npy")
            train = np.flatnonzero(rows.split == "train")
            write_json(temporary / "statistics.json", measure_statistics(pixels, train))
    return open_dataset(folder)


def open_dataset(folder: Path) -> Dataset:
    """Open a data set folder.

    Raises
    ------
    DatasetError
        It is missing or incomplete, or its rows are not those of its certificate.
    """
    names = ("tiles.parquet", "pixels.npy", "certificate.json", "statistics.json")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DatasetError(
            f"{folder} lacks {', '.join(missing)}; make a data set with `histo-nb balance`"
        )
    dataset = Dataset(folder)
    check_certificate(dataset.rows, dataset.certificate)
    if len(dataset.pixels) != len(dataset.rows):
        raise DatasetError(f"{folder}: pixels and rows differ in number; remove it, make it again")
    return dataset


def find_dataset(home: Home, dataset_id: str = "") -> Dataset:
    """Open a data set by its id, or the newest one.

    Raises
    ------
    DatasetError
        There is none of that id, or none at all.
    """
    folders = sorted(home.datasets.glob("D-*"), key=lambda path: path.stat().st_mtime)
    if dataset_id:
        folders = [folder for folder in folders if folder.name == dataset_id]
    if not folders:
        raise DatasetError(f"no data set {dataset_id or 'yet'}; make one with `histo-nb balance`")
    return open_dataset(folders[-1])
