"""Virtual glass whose every pixel is known."""

import zlib
from collections.abc import Sequence

import numpy as np

from histo_nb.annotations import Annotation
from histo_nb.scanning.virtual.glass import GLASS_RGB, Bump, make_barcode


class PlaneGlass:
    """A glass slide that shows one array, seen at 0.5 µm/px."""

    def __init__(
        self, plane: np.ndarray, *, patient_id: str = "P1", truth: tuple[Annotation, ...] = ()
    ) -> None:
        self.plane = plane
        self.patient_id = patient_id
        self.diagnosis = "normal"
        self.size_um = (plane.shape[1] * 0.5, plane.shape[0] * 0.5)
        self.barcode = make_barcode(patient_id, plane.shape, zlib.crc32(plane.tobytes()))
        self.bumps: Sequence[Bump] = ()
        self._truth = list(truth)

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        assert mpp == 0.5
        return self.plane[y_px : y_px + size[1], x_px : x_px + size[0]]

    def truth(self) -> list[Annotation]:
        return self._truth


def waves(width: int, height: int, *, phase: float = 0.0) -> np.ndarray:
    """Slow ramps in red and green, waves of 96 px in blue: a shift of a few pixels shows."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.sin(2 * np.pi * x / 96 + phase) * np.sin(2 * np.pi * y / 96)
    channels = [40 + 180 * x / width, 40 + 180 * y / height, 128 + 100 * wave]
    return np.stack(channels, axis=-1).astype(np.uint8)


def bare(width: int, height: int) -> np.ndarray:
    """Glass without anything on it."""
    return np.full((height, width, 3), GLASS_RGB, np.uint8)
