"""Painting: a rectangle of drawn tissue → the two planes of dye in it."""

from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.virtual.drawing.anatomy import Anatomy
from histo_nb.scanning.virtual.drawing.brushes import REACH_UM, Brushes, make_brushes
from histo_nb.scanning.virtual.drawing.cells import Cells
from histo_nb.scanning.virtual.drawing.rasters import AREA_UM, MAP_UM

BUCKET_UM = 64.0  # cells are found by squares of this side
RIM_PX = 2  # painted beyond the rectangle, for the blur of the lens


@dataclass(frozen=True)
class Frame:
    """A rectangle of the plane: top-left and size in px at `mpp`."""

    x_px: int
    y_px: int
    width: int
    height: int
    mpp: float

    def widened(self, by_px: int) -> "Frame":
        """Return the frame grown to all sides."""
        width, height = self.width + 2 * by_px, self.height + 2 * by_px
        return Frame(self.x_px - by_px, self.y_px - by_px, width, height, self.mpp)

    def sample(self, raster: np.ndarray, cell_um: float) -> np.ndarray:
        """Return a raster's values, linear between its cells, 0 outside it."""
        step = self.mpp / cell_um
        x, y = ((at + 0.5) * step - 0.5 for at in (self.x_px, self.y_px))
        left, top = max(int(np.floor(x)) - 1, 0), max(int(np.floor(y)) - 1, 0)
        right, bottom = (int(np.ceil(x + self.width * step)), int(np.ceil(y + self.height * step)))
        part = raster[top : max(bottom + 2, 0), left : max(right + 2, 0)]
        if part.size == 0:
            return np.zeros((self.height, self.width), raster.dtype)
        matrix = np.array([[step, 0, x - left], [0, step, y - top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(part, matrix, (self.width, self.height), flags=flags))

    def texture(self, name: str, *, shift_px: int = 0) -> np.ndarray:
        """Return a texture as it lies in the frame."""
        size = (self.width, self.height)
        return make_brushes(self.mpp).texture(name, self.x_px + shift_px, self.y_px, size)


class Painter:
    """Paints any rectangle of one slide."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._anatomy = anatomy
        self._buckets = {plane: Buckets(cells) for plane, cells in anatomy.cells.items()}

    def paint(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return the haematoxylin and eosin planes, (height, width) uint8 each."""
        wide = frame.widened(RIM_PX)
        tissue = wide.sample(self._anatomy.tissue, MAP_UM)
        if tissue.max() < BARE:
            bare = np.zeros((frame.height, frame.width), np.uint8)
            return bare, bare
        solid = cv2.LUT(tissue, SOLID)
        h, e = (cv2.multiply(plane, solid, scale=1 / 255) for plane in self._dyes(wide))
        h, e = (cv2.GaussianBlur(plane, (3, 3), 0.7) for plane in (h, e))  # the lens
        inner = np.s_[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX]
        return h[inner], e[inner]

    def shade(self, frame: Frame) -> np.ndarray:
        """Return the grey levels that lamp and sensor take away, (height, width) uint8."""
        lamp = frame.sample(self._anatomy.shade, AREA_UM)
        return np.asarray(cv2.add(lamp, frame.texture("sensor")))

    def _dyes(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return both planes as if there were tissue everywhere."""
        epithelium = frame.sample(self._anatomy.epithelium, MAP_UM)
        lumen = frame.sample(self._anatomy.lumen, MAP_UM)
        nuclei, pale, red = (_stamp(frame, b) for b in self._buckets.values())
        hole = cv2.max(cv2.LUT(lumen, HOLE), pale)
        solid = 255 - hole
        inside = cv2.compare(epithelium, 127, cv2.CMP_GT)
        e = cv2.multiply(self._eosin(frame, epithelium, lumen, inside), solid, scale=1 / 255)
        mucin = cv2.bitwise_and(cv2.LUT(frame.texture("grain", shift_px=377), MUCIN), inside)
        mucin = cv2.multiply(mucin, hole, scale=1 / 255)
        plasm = cv2.multiply(cv2.LUT(epithelium, BASOPHIL), solid, scale=1 / 255)
        h = cv2.max(nuclei, cv2.add(mucin, plasm))
        e = cv2.add(cv2.subtract(e, cv2.LUT(nuclei, DISPLACED)), mucin // 3)
        return h, cv2.max(e, red)

    def _eosin(
        self, frame: Frame, epithelium: np.ndarray, lumen: np.ndarray, inside: np.ndarray
    ) -> np.ndarray:
        """Return the eosin of stroma, cytoplasm, basement membranes and brush borders."""
        fibres = frame.texture("loose").copy()
        dense = cv2.compare(frame.sample(self._anatomy.dense, AREA_UM), 127, cv2.CMP_GT)
        cv2.copyTo(frame.texture("dense"), dense, fibres)
        e = cv2.LUT(fibres, STROMA_EOSIN)
        cv2.copyTo(cv2.LUT(frame.texture("grain"), CELL_EOSIN), inside, e)
        e = cv2.multiply(e, frame.sample(self._anatomy.tone, AREA_UM), scale=1 / 128)
        lines = cv2.add(cv2.LUT(lumen, BRUSH_BORDER), cv2.LUT(epithelium, MEMBRANE))
        return np.asarray(cv2.add(e, lines))


class Buckets:
    """Cells sorted by squares of the plane, so that those of a rectangle lie in a few runs."""

    def __init__(self, cells: Cells) -> None:
        column = np.floor(cells.x_um / BUCKET_UM).astype(np.int64).clip(0)
        row = np.floor(cells.y_um / BUCKET_UM).astype(np.int64).clip(0)
        self._columns = int(column.max(initial=0)) + 1
        self._rows = int(row.max(initial=0)) + 1
        number = row * self._columns + column
        order = np.argsort(number, kind="stable")
        self._cells = Cells(
            x_um=cells.x_um[order], y_um=cells.y_um[order], stamp=cells.stamp[order]
        )
        self._starts = np.searchsorted(number[order], np.arange(self._rows * self._columns + 1))

    def find(self, left: float, top: float, right: float, bottom: float) -> Cells:
        """Return the cells whose middles lie in a rectangle (µm)."""
        first, last = _squares(left, right, self._columns)
        runs = [
            np.arange(self._starts[row + first], self._starts[row + last])
            for row in self._columns * np.arange(*_squares(top, bottom, self._rows))
        ]
        found = np.concatenate([np.zeros(0, np.int64), *runs])
        x, y = self._cells.x_um[found], self._cells.y_um[found]
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        return Cells(x_um=x[inside], y_um=y[inside], stamp=self._cells.stamp[found][inside])


def _squares(low_um: float, high_um: float, n: int) -> tuple[int, int]:
    """Return the range of squares, of `n` there are, that an interval touches."""
    first, last = int(low_um // BUCKET_UM), int(high_um // BUCKET_UM) + 1
    return min(max(first, 0), n), min(max(last, 0), n)


def _stamp(frame: Frame, buckets: Buckets) -> np.ndarray:
    """Return a plane with all stamps that reach into the frame, darkest on top.

    Stamps are laid whole, on a plane with room for them, so none depends on the frame.
    """
    brushes: Brushes = make_brushes(frame.mpp)
    pad = int(np.ceil(REACH_UM / frame.mpp)) + 1
    wide = frame.widened(pad)
    plane = np.zeros((wide.height, wide.width), np.uint8)
    near = frame.widened(pad // 2)
    left, top = near.x_px * near.mpp, near.y_px * near.mpp
    found = buckets.find(left, top, left + near.width * near.mpp, top + near.height * near.mpp)
    xs = (np.floor(found.x_um / frame.mpp).astype(np.int64) - wide.x_px).tolist()
    ys = (np.floor(found.y_um / frame.mpp).astype(np.int64) - wide.y_px).tolist()
    for x, y, number in zip(xs, ys, found.stamp.tolist(), strict=True):
        mark = brushes.stamps[number]
        n = len(mark)
        under = plane[y - n // 2 : y - n // 2 + n, x - n // 2 : x - n // 2 + n]
        np.maximum(under, mark, out=under)
    return plane[pad:-pad, pad:-pad]


def _curve(levels: list[int], values: list[int]) -> np.ndarray:
    """Return a lookup table, linear between the given points and level beyond."""
    return np.interp(np.arange(256), levels, values).round().astype(np.uint8)


BARE = 100  # a frame whose tissue map stays below shows glass only
SOLID = _curve([112, 142], [0, 255])  # from the tissue map
HOLE = _curve([118, 142], [0, 255])  # from the lumen map
BRUSH_BORDER = _curve([10, 60, 110, 130], [0, 34, 34, 0])
BASOPHIL = _curve([110, 145], [10, 24])  # from the epithelium map: cytoplasm is a little bluer
MEMBRANE = _curve([50, 90, 120, 140], [0, 22, 22, 0])
# From textures, which share one histogram: stroma and cytoplasm take up eosin alike.
STROMA_EOSIN = _curve([0, 16, 60, 255], [14, 48, 78, 142])
CELL_EOSIN = _curve([0, 16, 60, 255], [34, 58, 80, 134])
MUCIN = _curve([40, 255], [4, 26])
DISPLACED = _curve([0, 255], [0, 70])  # nuclei hold little eosin
