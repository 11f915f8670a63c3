"""How much of each tile each class covers: of outlines, or of an image of classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import shapely
from PIL import Image

from histo_nb.annotations import Annotation
from histo_nb.errors import TableError
from histo_nb.geometry import box_means

NONE = 1e-12  # share of a rectangle
MASK_SUFFIXES = (".png", ".tif", ".tiff")
INDEXED = ("1", "L", "P", "I;16", "I")  # kinds of images whose pixels are numbers, not colours
MAX_MASK_PX = 64_000_000  # a whole slide at 3 µm/px; finer ones say no more about tiles


@dataclass(frozen=True)
class ClassMask:
    """An image whose pixels name classes, over a whole slide."""

    values: np.ndarray  # (H, W) unsigned integers
    classes: dict[int, str]  # class of a value; values that are absent mean none
    downsample: float  # relative to level 0


def outline_areas(tiles: pd.DataFrame, outlines: Sequence[Annotation]) -> dict[str, np.ndarray]:
    """Return the area (level-0 px²) of each tile that outlines of each class cover, by class.

    Outlines of one class that overlap count once.
    """
    corners = _corners(tiles)
    areas = {}
    for label in sorted({outline.label for outline in outlines}):
        whole = shapely.union_all([o.outline for o in outlines if o.label == label])
        areas[label] = np.zeros(len(tiles))
        _cut(whole, corners, np.arange(len(tiles)), areas[label])
    return areas


def _corners(tiles: pd.DataFrame) -> np.ndarray:
    """Return `left, top, right, bottom` (level-0 px) of each tile."""
    x, y, size = (tiles[name].to_numpy(float) for name in ("x", "y", "size_l0"))
    return np.stack([x, y, x + size, y + size], axis=1)


def _cut(
    area: shapely.Geometry, corners: np.ndarray, numbers: np.ndarray, found: np.ndarray
) -> None:
    """Fill `found[numbers]`, halving tiles and area together: outlines may have 10⁶ points."""
    if not len(numbers):
        return
    left, top = corners[numbers, :2].min(axis=0)
    right, bottom = corners[numbers, 2:].max(axis=0)
    # Made for rectangles: hundreds of times as quick as an intersection, of the same area.
    part = shapely.clip_by_rect(area, left, top, right, bottom)
    share = shapely.area(part) / ((right - left) * (bottom - top))
    if len(numbers) == 1 or share < NONE or share > 1 - NONE:
        sides = corners[numbers, 2:] - corners[numbers, :2]
        found[numbers] = share * sides.prod(axis=1)
        return
    middles = corners[numbers, :2] + corners[numbers, 2:]
    axis = int(np.ptp(middles[:, 0]) < np.ptp(middles[:, 1]))
    for half in np.array_split(numbers[np.argsort(middles[:, axis], kind="stable")], 2):
        _cut(part, corners, half, found)


def mask_areas(tiles: pd.DataFrame, mask: ClassMask) -> dict[str, np.ndarray]:
    """Return the area (level-0 px²) of each tile that a mask's pixels of each class cover."""
    boxes = _corners(tiles) / mask.downsample
    whole = tiles.size_l0.to_numpy(float) ** 2
    return {
        label: box_means(np.isin(mask.values, [v for v, c in mask.classes.items() if c == label]),
                         boxes).clip(0, 1) * whole
        for label in sorted(set(mask.classes.values()))
    }  # fmt: skip


def read_class_mask(path: Path, classes: dict[int, str], *, size: tuple[int, int]) -> ClassMask:
    """Read an image of classes over a slide of `size` (width, height) level-0 px.

    Parameters
    ----------
    classes
        Class of each pixel value; "" means none.

    Raises
    ------
    TableError
        The file is no image of numbers, is too large, has a value without a class, or the shape
        of another slide.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if width * height > MAX_MASK_PX:
                raise TableError(
                    f"{path} has {width} × {height} px; shrink it, by its nearest neighbours, to "
                    f"{MAX_MASK_PX / 1e6:.0f} MP at the most"
                )
            if image.mode not in INDEXED:
                raise TableError(
                    f"{path} is an image of colours ({image.mode}); save it with one number a "
                    "pixel, the number of the class"
                )
            values = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise TableError(f"{path} is not an image that can be read: {error}") from error
    downsample = size[0] / width if width >= height else size[1] / height
    off = abs(width * downsample - size[0]), abs(height * downsample - size[1])
    if max(off) > downsample:  # a side is rounded to whole px of the mask
        raise TableError(
            f"{path} has {width} × {height} px, which is not the shape of a slide of "
            f"{size[0]} × {size[1]} px; it is of another slide, or was cropped"
        )
    unknown = sorted(set(np.unique(values).tolist()) - set(classes))
    if unknown:
        raise TableError(
            f"{path} holds the values {unknown[:5]} without a class; name each in classes.json "
            'beside it: {"0": "", "1": "normal"}, "" is no class'
        )
    return ClassMask(values, {v: name for v, name in classes.items() if name}, downsample)
