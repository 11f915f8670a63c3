"""Loose images in class folders → labelled tile rows: half of the public data sets come so."""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.errors import DatasetError, MppError, SlideError, SpecError
from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.files import hash_file
from histo_nb.geometry import MPP_TOLERANCE
from histo_nb.image import SUFFIXES, ImageFile
from histo_nb.tables import LABELLED_TILES, TRAINING_TILES, check_table

PREFIX = "I-"  # of the slide_id of an image
RESERVED = {*TRAINING_TILES.columns, "file", "path", "image_width", "image_height"}


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """How loose images are cut into square tiles, spread evenly so that the whole image is seen."""

    tile_size: int = 0  # px at mpp; 0 = the shortest side of all images
    image_mpp: float | None = None  # µm/px; None = unknown: the model serves images only
    mpp: float | None = None  # µm/px of the tiles; None = that of the images
    centre_only: bool = False  # one tile from the centre: leaves room to turn it by any angle

    def __post_init__(self) -> None:
        if self.tile_size < 0:
            raise SpecError(f"tile_size={self.tile_size} px must not be below 0")
        for name, value in (("image_mpp", self.image_mpp), ("mpp", self.mpp)):
            if value is not None and not 0 < value < math.inf:
                raise SpecError(f"{name}={value} µm/px; choose a number above 0")
        if self.mpp and not self.image_mpp:
            raise SpecError(
                f"tiles of {self.mpp:g} µm/px are asked of images of unknown scale; say it with "
                "--image-mpp"
            )

    @property
    def downsample(self) -> float:
        """How many px of the image one px of a tile stands for."""
        return self.mpp / self.image_mpp if self.mpp and self.image_mpp else 1.0


def tile_images(
    folder: Path, *, groups: str = "", spec: ImageSpec | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labelled tiles of the images in class folders, and the images that failed.

    An image counts as a slide (`slide_id` from its bytes), its folder's name is its label. Its
    patient is what the manifest says; without one each image is a patient of its own, which
    proves nothing about patients, and the certificate says so.

    Parameters
    ----------
    groups
        `manifest.csv:column[,column]`, the path relative to `folder` or absolute: a table with
        `file` (relative to `folder`) and columns whose values must not stand on two sides of a
        split. The first is the patient, by a pseudonym: it is written into tables as it is.

    Returns
    -------
    Rows of `LABELLED_TILES` with `image_width`, `image_height` (px) and the other group columns;
    and `slide_id, step, error` of images that cannot be read (`slide_id` is the file's name).

    Raises
    ------
    DatasetError
        No class folders, an image without a group, or one image under two labels or patients.
    """
    spec = spec or ImageSpec()
    images = _list_images(Path(folder))
    names = group_columns(groups)
    taken = sorted({*names[1:]} & RESERVED | {*names[:1]} & {"file"})
    if len(set(names)) < len(names):
        raise SpecError(f"groups={groups!r} names a column twice")
    if taken:
        raise SpecError(f"a group cannot be called {', '.join(taken)}; rename it in the manifest")
    if names:
        images = _join_groups(images, Path(folder), groups)
    facts, failures = _examine(images)
    images = images.loc[facts.index].join(facts)
    if images.empty:
        return pd.DataFrame(), failures
    if not names:
        images["patient_id"] = images.slide_id
    images = _drop_copies(images, ["label", *(names[1:]), "patient_id"])
    return _cut(images, spec, names[1:]), failures


def group_columns(groups: str) -> list[str]:
    """Return the columns that `manifest.csv:column,column` names."""
    _, _, columns = groups.rpartition(":")
    names = [name.strip() for name in columns.split(",") if name.strip()]
    if groups and (":" not in groups or not names):
        raise SpecError(f"groups={groups!r}; write MANIFEST.csv:COLUMN, for example m.csv:patient")
    return names


def patients_unknown(rows: pd.DataFrame) -> bool:
    """Return whether the rows are of images each of which stands for a patient."""
    images = rows.slide_id.str.startswith(PREFIX)
    return bool((images & (rows.patient_id == rows.slide_id)).all())


def image_sizes(tiles: pd.DataFrame) -> pd.DataFrame:
    """Return `slide_id, width, height` (px), as the catalogue says of slides."""
    sizes = tiles.drop_duplicates("slide_id")
    return sizes.rename(columns={"image_width": "width", "image_height": "height"})[
        ["slide_id", "width", "height"]
    ]


def _list_images(folder: Path) -> pd.DataFrame:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder; name one with a folder of images a class")
    paths = [p for p in sorted(folder.glob("*/*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    if not paths:
        raise DatasetError(
            f"{folder} holds no class folders with images ({', '.join(SUFFIXES)}); make one "
            "folder a class and put its images there"
        )
    deeper = [p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p not in set(paths)]
    if deeper:
        raise DatasetError(
            f"{len(deeper)} images lie outside the class folders of {folder}, first "
            f"{deeper[0].relative_to(folder)}; put each into FOLDER/CLASS, or move them away"
        )
    files = [path.relative_to(folder).as_posix() for path in paths]
    labels = [path.parent.name for path in paths]
    return pd.DataFrame({"file": files, "label": labels, "path": [str(path) for path in paths]})


def _join_groups(images: pd.DataFrame, folder: Path, groups: str) -> pd.DataFrame:
    names = group_columns(groups)
    manifest = folder / groups.rpartition(":")[0]
    try:
        table = pd.read_csv(manifest, dtype=str, keep_default_na=False).map(str.strip)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{manifest} is no table ({error}); save it as CSV in UTF-8") from error
    missing = [name for name in ("file", *names) if name not in table]
    if missing:
        raise DatasetError(
            f"{manifest} has no column {', '.join(missing)}; it has {', '.join(table.columns)}"
        )
    table = table[["file", *names]].replace("", None).drop_duplicates()
    twice = table.file[table.file.duplicated()]
    if len(twice):
        raise DatasetError(f"{manifest} says different things of {twice.iloc[0]}; keep one row")
    table = table.set_index("file")
    joined = images.join(table.rename(columns={names[0]: "patient_id"}), on="file")
    bare = joined[["patient_id", *names[1:]]].isna().any(axis=1)
    if bare.any():
        raise DatasetError(
            f"{bare.sum()} images have no {' or '.join(names)} in {manifest.name}, first "
            f"{joined.file[bare].iloc[0]}; add them, or move them out of the class folders"
        )
    return joined


def _examine(images: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode each image once: an image that cannot be read is found before anything is learnt."""

    def examine(path: str) -> dict[str, Any] | SlideError:
        try:
            with ImageFile(path) as image:
                width, height = image.size
        except SlideError as error:
            return error
        return {"slide_id": f"{PREFIX}{hash_file(Path(path))[:16]}", "image_width": width,
                "image_height": height}  # fmt: skip

    with ThreadPoolExecutor() as pool:
        found = list(
            tqdm(pool.map(examine, images.path), total=len(images), desc="looking", unit="image")
        )
    good = {i: fact for i, fact in zip(images.index, found, strict=True) if isinstance(fact, dict)}
    bad = [
        {"slide_id": file, "step": "reading", "error": str(fault)}
        for file, fault in zip(images.file, found, strict=True)
        if isinstance(fault, SlideError)
    ]
    return pd.DataFrame.from_dict(good, orient="index"), pd.DataFrame(bad, columns=FAILURE_COLUMNS)


def _drop_copies(images: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Keep one of several files with the same bytes; they must say the same."""
    said = images.groupby("slide_id")[list(columns)].nunique().gt(1)
    torn = said.index[said.any(axis=1)]
    if len(torn):
        files = images.file[images.slide_id == torn[0]].tolist()
        column = said.columns[said.loc[torn[0]]][0]
        raise DatasetError(
            f"{' and '.join(files[:2])} are the same image with two values of {column}; remove "
            f"the wrong one ({len(torn)} such images)"
        )
    return images.drop_duplicates("slide_id").sort_values("file", ignore_index=True)


def _cut(images: pd.DataFrame, spec: ImageSpec, extra: Sequence[str]) -> pd.DataFrame:
    shortest = int(images[["image_width", "image_height"]].min().min())
    if spec.downsample < 1 - MPP_TOLERANCE:
        raise MppError(
            f"the images' {spec.image_mpp:g} µm/px are coarser than the {spec.mpp:g} asked; images "
            "are never enlarged"
        )
    tile_size = spec.tile_size or int(shortest / spec.downsample)
    if tile_size < 1:
        raise DatasetError(f"no image is wide enough for a tile at {spec.mpp} µm/px")
    size = max(round(tile_size * spec.downsample), tile_size)
    if size > shortest:
        small = images.file[images[["image_width", "image_height"]].min(axis=1) < size].iloc[0]
        raise DatasetError(
            f"tile_size={tile_size} px needs {size} px of an image, {small} has less; images are "
            f"never enlarged: choose tile_size ≤ {int(shortest / spec.downsample)}"
        )
    rows = []
    for image in images.to_dict("records"):
        left = _starts(image["image_width"], size, spec.centre_only)
        top = _starts(image["image_height"], size, spec.centre_only)
        rows += [_row(image, spec, x=x, y=y, size=size) for y in top for x in left]
    table = pd.DataFrame(rows).assign(tile_size=tile_size)
    own = images.set_index("slide_id")[["image_width", "image_height", *extra]]
    return check_table(table.join(own, on="slide_id"), LABELLED_TILES)


def _starts(extent: int, size: int, centre_only: bool) -> list[int]:
    """Return where tiles start along one side: evenly spread, the first and last at the ends."""
    if centre_only:
        return [(extent - size) // 2]
    n = math.ceil(extent / size)
    return np.linspace(0, extent - size, n).round().astype(int).tolist()


def _row(image: Mapping[Any, Any], spec: ImageSpec, *, x: int, y: int, size: int) -> dict[str, Any]:
    return {
        "tile_id": f"{image['slide_id']}/{x},{y}/{size}",
        "slide_id": image["slide_id"],
        "patient_id": image["patient_id"],
        "slide_path": str(Path(image["path"]).absolute()),
        "slide_mpp": spec.image_mpp,
        "x": x,
        "y": y,
        "size_l0": size,
        "level": 0,
        "read_size": size,
        "mpp": spec.mpp or spec.image_mpp,
        "effective_mpp": spec.mpp or spec.image_mpp,
        "read_path": "image",
        "tissue": 1.0,
        "label": image["label"],
        "label_fraction": 1.0,
        "label_source": "class folder",
        "labelled_by": None,
        "labelled_at": None,
    }
