"""Drawn glass slides: procedural H&E colon tissue of three architectures, with its truth.

The plane is painted in blocks whose place and size depend on the scale alone, so whatever
rectangle is asked for is cut from the same blocks.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.annotations import Annotation
from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.scanning.brushes import REACH_UM, Brushes, make_brushes
from histo_nb.scanning.cells import Cells, grow_anatomy
from histo_nb.scanning.glands import ARCHITECTURES, MAP_UM
from histo_nb.scanning.outline import AREA_UM, grow_areas, trace
from histo_nb.scanning.stain import colour, mix_stain

BLOCK_PX = (512, 256)  # width, height; a strip of stored tiles is one row of blocks
COARSEST_PAINT_UM = 2.0  # coarser views are painted at up to this mpp and averaged
BUCKET_UM = 64.0  # cells are found by squares of this side
RIM_PX = 2  # painted beyond a block for the blur of the lens
LEAST_UM = 2000.0  # shortest side of a glass that has room for two class areas


@dataclass(frozen=True, kw_only=True)
class DrawnSpec:
    """What is drawn on a glass slide."""

    size_um: tuple[float, float] = (6000.0, 4500.0)  # width, height to scan
    classes: tuple[str, ...] = ("normal", "adenoma", "carcinoma")  # benign first
    stain_spread: float = 1.0  # how much stains differ between slides; 0 not at all

    def __post_init__(self) -> None:
        check_positive(width_um=self.size_um[0], height_um=self.size_um[1])
        if min(self.size_um) < LEAST_UM:
            raise SpecError(f"size_um={self.size_um} is too small; each side needs ≥ {LEAST_UM:g}")
        unknown = sorted(set(self.classes) - set(ARCHITECTURES))
        if unknown or not self.classes or len(set(self.classes)) < len(self.classes):
            raise SpecError(
                f"classes={self.classes} must name different ones of {tuple(ARCHITECTURES)}"
            )
        if not 0 <= self.stain_spread <= 2:
            raise SpecError(f"stain_spread={self.stain_spread:g} must lie in 0–2")


def draw_glass(
    patient_id: str, *, diagnosis: str, seed: int, spec: DrawnSpec | None = None
) -> "DrawnGlass":
    """Draw one patient's glass slide; the same arguments give the same pixels.

    Raises
    ------
    SpecError
        `diagnosis` is not among the spec's classes, or `seed` is negative.

    >>> glass = draw_glass("P-1", diagnosis="adenoma", seed=1, spec=DrawnSpec(size_um=(3500, 2500)))
    >>> glass.look(0, 0, size=(8, 4), mpp=0.5).shape
    (4, 8, 3)
    """
    spec = spec or DrawnSpec()
    if diagnosis not in spec.classes:
        raise SpecError(f"diagnosis={diagnosis!r} is unknown; choose one of {spec.classes}")
    if seed < 0:
        raise SpecError(f"seed={seed} must be 0 or more")
    return DrawnGlass(patient_id, diagnosis, seed, spec=spec)


class DrawnGlass:
    """A virtual glass slide with drawn tissue; see `Glass`."""

    def __init__(self, patient_id: str, diagnosis: str, seed: int, *, spec: DrawnSpec) -> None:
        self.patient_id = patient_id
        self.diagnosis = diagnosis
        self.size_um = spec.size_um
        shape_rng, stain_rng, tissue_rng = np.random.default_rng(seed).spawn(3)
        areas = grow_areas(shape_rng, spec.size_um, diagnosis=diagnosis, classes=spec.classes)
        self._truth = trace(areas, spec.classes)
        self._table = mix_stain(stain_rng, spread=spec.stain_spread).table()
        self._anatomy = grow_anatomy(tissue_rng, areas, spec.classes)
        self._planes = {
            name: _Buckets(getattr(self._anatomy, name)) for name in ("nuclei", "pale", "red")
        }

    def truth(self) -> list[Annotation]:
        """Return the class outlines in µm; see `Glass.truth`."""
        return list(self._truth)

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`.

        Raises
        ------
        SpecError
            `mpp` or `size` is not above 0.
        """
        check_positive(mpp=mpp, width=size[0], height=size[1])
        view = np.empty((size[1], size[0], 3), np.uint8)
        shrink = max(int(np.ceil(mpp / COARSEST_PAINT_UM - 1e-9)), 1)
        width, height = (max(extent // shrink, 8) for extent in BLOCK_PX)
        for row in range(y_px // height, -(-(y_px + size[1]) // height)):
            for column in range(x_px // width, -(-(x_px + size[0]) // width)):
                block = self._block(column * width, row * height, (width, height), mpp, shrink)
                left, top = column * width - x_px, row * height - y_px
                target = view[max(top, 0) : top + height, max(left, 0) : left + width]
                dy, dx = max(-top, 0), max(-left, 0)
                target[:] = block[dy : dy + target.shape[0], dx : dx + target.shape[1]]
        return view

    def _block(
        self, x_px: int, y_px: int, size: tuple[int, int], mpp: float, shrink: int
    ) -> np.ndarray:
        fine = (size[0] * shrink, size[1] * shrink)
        painted = self._paint(x_px * shrink, y_px * shrink, fine, mpp / shrink)
        if shrink == 1:
            return painted
        return np.asarray(cv2.resize(painted, size, interpolation=cv2.INTER_AREA))

    def _paint(self, x_px: int, y_px: int, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return one block painted at `mpp`; the only place where pixels are made."""
        brushes = make_brushes(mpp)
        frame = _Frame(
            x_px - RIM_PX, y_px - RIM_PX, size[0] + 2 * RIM_PX, size[1] + 2 * RIM_PX, mpp
        )
        tissue = frame.sample(self._anatomy.tissue, MAP_UM)
        if tissue.max() < 100:
            h = e = np.zeros((size[1], size[0]), np.uint8)
        else:
            h, e = self._dyes(frame, brushes, tissue)
        rgb = colour(h, e, self._table)
        sensor = brushes.texture("sensor", x_px, y_px, size)
        return np.asarray(cv2.subtract(rgb, cv2.merge([sensor] * 3)))

    def _dyes(
        self, frame: "_Frame", brushes: Brushes, tissue: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the haematoxylin and eosin planes of a frame less its rim."""
        anatomy = self._anatomy
        epithelium = frame.sample(anatomy.epithelium, MAP_UM)
        lumen = frame.sample(anatomy.lumen, MAP_UM)
        nuclei, pale, red = (
            frame.stamp(self._planes[name], brushes) for name in ("nuclei", "pale", "red")
        )
        place = (frame.x_px, frame.y_px, (frame.width, frame.height))
        grain = brushes.texture("grain", *place)
        fibres = brushes.texture("loose", *place).copy()
        dense = cv2.compare(frame.sample(anatomy.dense, AREA_UM), 127, cv2.CMP_GT)
        cv2.copyTo(brushes.texture("dense", *place), dense, fibres)
        e = cv2.LUT(fibres, _STROMA_EOSIN)
        inside = cv2.compare(epithelium, 127, cv2.CMP_GT)
        cv2.copyTo(cv2.LUT(grain, _CELL_EOSIN), inside, e)
        e = cv2.multiply(e, frame.sample(anatomy.tone, AREA_UM), scale=1 / 128)
        border = cv2.LUT(lumen, _BRUSH_BORDER)
        e = cv2.add(e, cv2.add(border, cv2.LUT(epithelium, _MEMBRANE)))
        mucin = cv2.LUT(brushes.texture("grain", frame.x_px + 377, frame.y_px, place[2]), _MUCIN)
        mucin = cv2.bitwise_and(mucin, inside)
        hole = cv2.max(cv2.LUT(lumen, _HOLE), pale)
        e = cv2.multiply(e, 255 - hole, scale=1 / 255)
        content = cv2.multiply(hole, mucin, scale=1 / 255)
        plasm = cv2.multiply(cv2.LUT(epithelium, _BASOPHIL), 255 - hole, scale=1 / 255)
        h = cv2.max(nuclei, cv2.add(content, plasm))
        e = cv2.max(cv2.add(cv2.subtract(e, cv2.LUT(nuclei, _DISPLACED)), content // 3), red)
        solid = cv2.LUT(tissue, _SOLID)
        h, e = (cv2.multiply(plane, solid, scale=1 / 255) for plane in (h, e))
        lens = cv2.GaussianBlur
        h, e = (lens(p, (3, 3), 0.7)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] for p in (h, e))
        return h, e


@dataclass(frozen=True)
class _Frame:
    """A rectangle of the plane at a scale."""

    x_px: int
    y_px: int
    width: int
    height: int
    mpp: float

    def sample(self, raster: np.ndarray, cell_um: float) -> np.ndarray:
        """Return a raster's values, linear between its cells, 0 outside it."""
        step = self.mpp / cell_um
        x, y = ((at + 0.5) * step - 0.5 for at in (self.x_px, self.y_px))
        left, top = int(np.floor(x)) - 1, int(np.floor(y)) - 1
        columns = int(self.width * step) + 5
        rows = int(self.height * step) + 5
        part = raster[max(top, 0) : max(top + rows, 0), max(left, 0) : max(left + columns, 0)]
        if part.size == 0:
            return np.zeros((self.height, self.width), raster.dtype)
        matrix = np.array([[step, 0, x - max(left, 0)], [0, step, y - max(top, 0)]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(part, matrix, (self.width, self.height), flags=flags))

    def stamp(self, buckets: "_Buckets", brushes: Brushes) -> np.ndarray:
        """Return a plane with all stamps that reach into the frame, darkest on top."""
        pad = int(np.ceil(REACH_UM / self.mpp)) + 1
        plane = np.zeros((self.height + 2 * pad, self.width + 2 * pad), np.uint8)
        half = REACH_UM / 2 + self.mpp
        found = buckets.find(
            self.x_px * self.mpp - half,
            self.y_px * self.mpp - half,
            (self.x_px + self.width) * self.mpp + half,
            (self.y_px + self.height) * self.mpp + half,
        )
        xs = (np.floor(found.x_um / self.mpp).astype(np.int64) - self.x_px + pad).tolist()
        ys = (np.floor(found.y_um / self.mpp).astype(np.int64) - self.y_px + pad).tolist()
        stamps = brushes.stamps
        for x, y, number in zip(xs, ys, found.stamp.tolist(), strict=True):
            mark = stamps[number]
            n = len(mark)
            top, left = y - n // 2, x - n // 2
            under = plane[top : top + n, left : left + n]
            np.maximum(under, mark, under)
        return plane[pad:-pad, pad:-pad]


class _Buckets:
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
        first = min(max(int(left // BUCKET_UM), 0), self._columns)
        last = min(max(int(right // BUCKET_UM) + 1, 0), self._columns)
        rows = range(
            min(max(int(top // BUCKET_UM), 0), self._rows),
            min(max(int(bottom // BUCKET_UM) + 1, 0), self._rows),
        )
        starts = self._starts
        runs = [
            np.arange(starts[r * self._columns + first], starts[r * self._columns + last])
            for r in rows
        ]
        found = np.concatenate([np.zeros(0, np.int64), *runs])
        x, y = self._cells.x_um[found], self._cells.y_um[found]
        inside = (x >= left) & (x < right) & (y >= top) & (y < bottom)
        return Cells(x_um=x[inside], y_um=y[inside], stamp=self._cells.stamp[found][inside])


def _ramp(low: float, high: float, start: float, stop: float) -> np.ndarray:
    """Return a lookup table: `start` up to level `low`, `stop` from `high`, linear between."""
    return np.interp(np.arange(256), [low, high], [start, stop]).round().astype(np.uint8)


_SOLID = _ramp(112, 142, 0, 255)
_HOLE = _ramp(118, 142, 0, 255)
_STROMA_EOSIN = np.interp(np.arange(256), [0, 16, 60, 255], [14, 48, 78, 142]).astype(np.uint8)
_CELL_EOSIN = np.interp(np.arange(256), [0, 16, 60, 255], [34, 58, 80, 134]).astype(np.uint8)
_MUCIN = _ramp(40, 255, 4, 26)
_BASOPHIL = _ramp(110, 145, 10, 24)  # cytoplasm is a little bluer than stroma
_BRUSH_BORDER = np.interp(np.arange(256), [10, 60, 110, 130], [0, 34, 34, 0]).astype(np.uint8)
_MEMBRANE = np.interp(np.arange(256), [50, 90, 120, 140], [0, 22, 22, 0]).astype(np.uint8)
_DISPLACED = _ramp(0, 255, 0, 70)  # nuclei hold little eosin
