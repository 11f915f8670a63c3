"""Heatmap and regions as DICOM segmentations, one pixel a tile cell or a part of it.

Never the full resolution: the pixel spacing says how large a pixel is on the glass, and the origin
where the first one lies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from highdicom import PixelMeasuresSequence, PlanePositionSequence
from highdicom.seg import Segmentation, SegmentDescription
from numpy.typing import NDArray

from histo_nb.export.dicom.job import Job, category, class_concept, say
from histo_nb.inference.regions import Heatmap, make_heatmap

FRAME_PX = 256  # side of a frame
MAX_FINE = 8  # pixels of the regions to a step of the tiles, along one side
MAX_PX = 16_000_000  # pixels of the regions, a class
QUANTUM = 255  # a probability of 1; the error is half a step of it, 0.002


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where pixels lie on level 0: from `x, y`, `fine` of them to `step` level-0 px."""

    x: int
    y: int
    step: int
    fine: int = 1

    def __str__(self) -> str:
        return f"{self.fine} px = {self.step} px of level 0 from {self.x}, {self.y}"


def make_heatmap_segmentation(job: Job) -> Segmentation:
    """Return the probabilities of all classes, a segment a class, 8 bits; no tile there: 0."""
    result = job.result
    maps = [make_heatmap(result.predictions, f"prob_{label}") for label in result.classes]
    first = maps[0]
    values = np.stack([np.nan_to_num(each.values, nan=0.0) for each in maps], axis=-1)
    return _make(
        job,
        "heatmap",
        number=1,
        pixels=values.clip(0, 1),
        labels=result.classes,
        grid=Grid(x=first.x, y=first.y, step=first.step),
        segmentation_type="FRACTIONAL",
        fractional_type="PROBABILITY",
        max_fractional_value=QUANTUM,
    )


def make_region_segmentation(job: Job) -> Segmentation:
    """Return the tiles of each abnormal class, a segment a class.

    A pixel is as large as gives the squares of the tiles exactly, but not finer than an eighth of
    the step: then their far sides are off by half a pixel at most.
    """
    result = job.result
    labels = [label for label in result.classes if label != result.normal_class]
    first = make_heatmap(result.predictions, f"prob_{labels[0]}")
    size = int(result.predictions.size_l0.iloc[0])
    fine = find_fineness(first, size=size)
    layers = [
        paint_tiles(first, result.predictions, label, size=size, fine=fine) for label in labels
    ]
    return _make(
        job,
        "regions",
        number=2,
        pixels=np.stack(layers, axis=-1),
        labels=labels,
        grid=Grid(x=first.x, y=first.y, step=first.step, fine=fine),
        segmentation_type="BINARY",
    )


def find_fineness(heatmap: Heatmap, *, size: int) -> int:
    """Return how many pixels a step is parted into, along one side.

    >>> find_fineness(Heatmap(np.zeros((9, 9)), 0, 0, 96), size=128)
    3
    """
    exact = heatmap.step // int(np.gcd(heatmap.step, size))
    affordable = int(np.sqrt(MAX_PX / heatmap.values.size))
    return max(1, min(exact, MAX_FINE, affordable))


def paint_tiles(
    heatmap: Heatmap, predictions: Any, label: str, *, size: int, fine: int
) -> NDArray[np.uint8]:
    """Return where tiles of a class lie, (rows, columns) of 0 and 1, `fine` px to a step."""
    side = max(1, round(size * fine / heatmap.step))
    rows, columns = heatmap.values.shape
    corners = np.zeros(((rows - 1) * fine + side, (columns - 1) * fine + side), np.uint8)
    tiles = predictions[predictions.prediction == label]
    y, x = (
        (tiles[axis].to_numpy() - start) // heatmap.step * fine
        for axis, start in (("y", heatmap.y), ("x", heatmap.x))
    )
    corners[y, x] = 1
    # Each corner grows to a square down and to the right: its anchor is the kernel's last pixel.
    square = np.ones((side, side), np.uint8)
    return cv2.dilate(corners, square, anchor=(side - 1, side - 1), borderValue=0)  # type: ignore[return-value]


def _make(
    job: Job,
    name: str,
    *,
    number: int,
    pixels: np.ndarray,
    labels: Sequence[str],
    grid: Grid,
    **options: Any,
) -> Segmentation:
    spacing = job.source.spacing_mm * grid.step / grid.fine
    middle = (grid.step / grid.fine - 1) / 2  # of the first pixel, from that of level 0
    place = (*job.source.place_mm(grid.x + middle, grid.y + middle), 0.0)
    measures = job.source.level0.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    return Segmentation(
        source_images=[job.source.level0],
        further_source_images=job.source.levels[1:],
        pixel_array=pixels[np.newaxis],
        segment_descriptions=[_describe(job, label, i) for i, label in enumerate(labels, 1)],
        pixel_measures=PixelMeasuresSequence([spacing, spacing], measures.SliceThickness),
        plane_positions=[PlanePositionSequence("SLIDE", place, (1, 1))],
        tile_pixel_array=True,
        tile_size=(min(FRAME_PX, pixels.shape[0]), min(FRAME_PX, pixels.shape[1])),
        omit_empty_frames=bool(pixels.any()),  # else there would be none
        content_label=name.upper(),
        content_description=str(grid),
        **options,
        **job.options(name, number),
    )


def _describe(job: Job, label: str, number: int) -> SegmentDescription:
    return SegmentDescription(
        segment_number=number,
        segment_label=say(label),
        segmented_property_category=category(label, normal_class=job.result.normal_class),
        segmented_property_type=class_concept(label),
        algorithm_type="AUTOMATIC",
        algorithm_identification=job.algorithm,
        display_color=job.colour(label),
    )
