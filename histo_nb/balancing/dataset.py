"""The data set folder: what training needs, made once, checked whenever it is opened."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.balancing.balance import BalanceSpec, balance_training
from histo_nb.balancing.certificate import check_certificate, hash_rows, make_certificate
from histo_nb.balancing.duplicates import join_duplicates
from histo_nb.balancing.pixels import (
    LivePixels,
    Pixels,
    fill_store,
    measure_statistics,
    open_pixels,
    originals,
    turned,
)
from histo_nb.balancing.split import SplitSpec, split_patients
from histo_nb.errors import DatasetError, HistoError
from histo_nb.files import write_json, writing_folder
from histo_nb.home import Home
from histo_nb.tables import TRAINING_TILES, read_table, write_table
from histo_nb.tiling.images import image_sizes

CURVE = "learning_curve.csv"  # of `training.curve`; it stays when a data set is made again


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What is done with the tiles' pixels when a data set is made."""

    stored: bool = True  # decoded once; False: read from the slides in each epoch
    search_duplicates: bool = True  # tiles on two sides of the split that show the same
    join_duplicates: bool = False  # tiles that look alike become one group before the split


@dataclass(frozen=True)
class Dataset:
    """One data set folder: `tiles.parquet`, `certificate.json`, `statistics.json`.

    Its pixels lie in stores beside it, which data sets of the same tiles share; or nowhere, where
    they are read from the slides each time.
    """

    folder: Path

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Training rows, in the order of the pixels."""
        return read_table(self.folder / "tiles.parquet", TRAINING_TILES)

    @cached_property
    def pixels(self) -> Pixels:
        """`pixels[i]` is the tile of row i, (S, S, 3) uint8; `shape` is (N, S, S, 3)."""
        try:
            return open_pixels(self.rows, stores_of(self.folder.parent))
        except DatasetError:
            if self.certificate["stored"]:
                raise
            return LivePixels(self.rows)

    @cached_property
    def certificate(self) -> dict[str, Any]:
        """What `certificate.make_certificate` found, with the hash of the rows."""
        return _read_json(self.folder / "certificate.json")

    @cached_property
    def statistics(self) -> dict[str, list[float]]:
        """Mean, std and variance of each channel over the training rows, of values 0–1."""
        return _read_json(self.folder / "statistics.json")

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
    sides: Mapping[str, str] | None = None,
    store: StoreSpec | None = None,
) -> Dataset:
    """Split labelled tiles, balance the training part, decode, certify; return the data set.

    Its name comes from its rows: the same tiles, split and seed give the same data set, which is
    then reused.

    Parameters
    ----------
    tiles
        Of slides in the catalogue, or of `tiling.images.tile_images`.
    sides
        Patients that keep the side they had, as `split.split_patients` takes them.

    Raises
    ------
    DatasetError
        The tiles cannot be split without a leak, or differ in mpp or tile size.
    """
    split, store = split or SplitSpec(), store or StoreSpec()
    for name in ("tile_size", "mpp", "read_path"):
        if tiles[name].nunique(dropna=False) > 1:
            raise DatasetError(
                f"tiles of different {name} {sorted(tiles[name].unique())} cannot be learnt "
                "together; tile all slides with one spec"
            )
    if store.join_duplicates:
        labelled = originals(tiles.dropna(subset=["label"]))
        alike = join_duplicates(_pixels(labelled, home, store))
        tiles = labelled.assign(look_alike=[f"L-{number}" for number in alike])
        split = replace(split, groups=(*split.groups, "look_alike"))
    loose = "image_width" in tiles
    slides = image_sizes(tiles) if loose else home.catalog.slides(list(tiles.slide_id.unique()))
    rows = split_patients(tiles, spec=split, sides=sides)
    rows = balance_training(rows, slides, spec=balance)
    folder = home.datasets / f"D-{hash_rows(rows)[:10]}"
    pixels = _pixels(rows, home, store)
    if not _is_made(folder, split.groups, store):
        _write(rows, folder, pixels, home=home, groups=split.groups, store=store)
    os.utime(folder)  # the newest, also if it was there
    return open_dataset(folder)


def _write(
    rows: pd.DataFrame,
    folder: Path,
    pixels: Pixels,
    *,
    home: Home,
    groups: Sequence[str],
    store: StoreSpec,
) -> None:
    searched = _pixels(originals(rows), home, store) if store.search_duplicates else None
    certificate = make_certificate(rows, groups=groups, pixels=searched)
    certificate["stored"] = store.stored
    train = np.flatnonzero(rows.split == "train")
    with writing_folder(folder, replace=True) as temporary:
        write_table(rows, temporary / "tiles.parquet", TRAINING_TILES)
        write_json(temporary / "certificate.json", certificate)
        write_json(temporary / "statistics.json", measure_statistics(pixels, train))
        if (folder / CURVE).is_file():
            shutil.copy(folder / CURVE, temporary / CURVE)


def _pixels(rows: pd.DataFrame, home: Home, store: StoreSpec) -> Pixels:
    """Return the pixels of rows, decoded into stores first unless they are to be read live."""
    if not store.stored:
        return LivePixels(rows)
    folder = stores_of(home.datasets)
    fill_store(originals(rows), folder)
    if "parent_id" in rows and len(free := turned(rows)):
        fill_store(free, folder)
    return open_pixels(rows.assign(parent_id=rows.get("parent_id")), folder)


def _is_made(folder: Path, groups: Sequence[str], store: StoreSpec) -> bool:
    """Return whether a data set is there, whole, and all was checked that is asked for."""
    try:
        certificate = open_dataset(folder).certificate
    except HistoError:
        return False
    looked = "no near-duplicates on two sides" in certificate["checked"]
    return set(groups) <= set(certificate["groups"]) and looked >= store.search_duplicates


def stores_of(datasets: Path) -> Path:
    """Return the folder of the pixel stores that data sets share."""
    return datasets / "pixels"


def open_dataset(folder: Path) -> Dataset:
    """Open a data set folder.

    Raises
    ------
    DatasetError
        It is missing or incomplete, or its rows are not those of its certificate.
    """
    names = ("tiles.parquet", "certificate.json", "statistics.json")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DatasetError(
            f"{folder} lacks {', '.join(missing)}; make a data set with `histo-nb balance`"
        )
    dataset = Dataset(folder)
    check_certificate(dataset.rows, dataset.certificate)
    _ = dataset.pixels, dataset.statistics  # what is gone is said now, not in mid-training
    return dataset


def known_sides(home: Home, tiles: pd.DataFrame) -> dict[str, str]:
    """Return the side that each patient of `tiles` had in the newest data set it is in.

    Raises
    ------
    DatasetError, TableError
        A data set is damaged: nobody can say then who was in its test part.
    """
    sides: dict[str, str] = {}
    for folder in sorted(home.datasets.glob("D-*"), key=lambda path: path.stat().st_mtime):
        dataset = Dataset(folder)
        check_certificate(dataset.rows, dataset.certificate)
        sides |= dict(zip(dataset.rows.patient_id, dataset.rows.split, strict=True))
    return {name: sides[name] for name in tiles.patient_id.unique() if name in sides}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged ({error}); make the data set again with `histo-nb balance`"
        ) from error
    return dict(content)


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
