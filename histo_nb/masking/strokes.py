"""Tissue drawn by hand: strokes of a brush that add to a mask or erase from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.masking.tissue import TissueMask

MOST_POINTS = 100_000  # of one stroke


@dataclass(frozen=True)
class Stroke:
    """One stroke: the brush's way over the slide, its width, and what it does."""

    points: np.ndarray  # (N, 2) float, level-0 px
    width_l0: float  # level-0 px
    adds: bool  # False: erases

    @classmethod
    def parse(cls, said: Any) -> "Stroke":
        """Return a stroke from a browser's `{points: [[x, y], …], width, adds}`.

        Raises
        ------
        SpecError
            It is no stroke.
        """
        try:
            points = np.array(said["points"], dtype=float).reshape(-1, 2)
            stroke = cls(points, float(said["width"]), said["adds"] is True)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise SpecError(f"a stroke needs points, a width and adds ({error!r})") from error
        check_positive(width=stroke.width_l0)
        if not 0 < len(points) <= MOST_POINTS or not np.isfinite(points).all():
            raise SpecError(f"a stroke has 1–{MOST_POINTS} finite points; this has {len(points)}")
        return stroke


def apply_strokes(mask: TissueMask, strokes: Sequence[Stroke]) -> TissueMask:
    """Return a mask with strokes drawn into it, in their order; round ends, as the brush shows."""
    drawn = mask.array.astype(np.uint8)
    height, width = drawn.shape
    for stroke in strokes:
        far = 4 * max(width, height)  # OpenCV's coordinates are 16 bits and a fraction
        points = np.clip(stroke.points / mask.downsample - 0.5, -far, far).round().astype(np.int32)
        thickness = int(np.clip(round(stroke.width_l0 / mask.downsample), 1, min(far, 1000)))
        value = int(stroke.adds)
        cv2.polylines(drawn, [points[:, None]], isClosed=False, color=value, thickness=thickness)
        for end in (points[0], points[-1]):
            cv2.circle(drawn, end.tolist(), thickness // 2, value, thickness=-1)
    return replace(mask, array=drawn > 0)
