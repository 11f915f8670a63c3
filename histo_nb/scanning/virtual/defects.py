"""What goes wrong with glass slides: flaws laid over a virtual one, for quality checks to find.

Each flaw is a pure function of the place in µm, as the glass below it is.
"""

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
import shapely.affinity

from histo_nb.annotations import Annotation
from histo_nb.errors import SpecError
from histo_nb.scanning.virtual.glass import GLASS_RGB, Bump, Glass, make_barcode

GLASS = np.array(GLASS_RGB, np.float32)
INKS = ((30, 70, 150), (25, 110, 60), (20, 20, 25))  # RGB of pens: blue, green, black
Box = tuple[float, float, float, float]  # µm: left, top, right, bottom
Paint = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Takes float32 RGB (H, W, 3) and places in µm, (1, W) and (H, 1); returns the RGB seen there."""


@dataclass(frozen=True, kw_only=True)
class Flaw:
    """One flaw of a glass slide."""

    box: Box  # outside, nothing changes
    paint: Paint | None = None
    bumps: tuple[Bump, ...] = ()


def spoil_glass(glass: Glass, defect: str, *, seed: int = 0) -> Glass:
    """Return a glass slide with one of `DEFECTS`; the same arguments give the same pixels.

    It has a label of its own, so that a console does not know it by the unspoilt one's.

    Raises
    ------
    SpecError
        There is no such defect.
    """
    check_defects((defect,))
    if defect == "empty":
        spoilt: _Spoilt = EmptyGlass(glass)
    elif defect == "border":
        spoilt = CroppedGlass(glass)
    else:
        rng = np.random.default_rng((seed, zlib.crc32(f"{glass.barcode} {defect}".encode())))
        spoilt = FlawedGlass(glass, _MAKERS[defect](rng, glass))
    spoilt.barcode = make_barcode(glass.barcode, defect, seed)
    return spoilt


def check_defects(defects: Sequence[str]) -> None:
    """Raise `SpecError` unless all of them are known."""
    if unknown := sorted(set(defects) - set(DEFECTS)):
        raise SpecError(f"defects={unknown} are unknown; choose from {', '.join(DEFECTS)}")


class _Spoilt:
    """A glass slide as the one below, unless a subclass says otherwise."""

    def __init__(self, glass: Glass) -> None:
        self._glass = glass
        self.patient_id, self.diagnosis = glass.patient_id, glass.diagnosis
        self.barcode, self.size_um, self.bumps = glass.barcode, glass.size_um, glass.bumps

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`."""
        return self._glass.look(x_px, y_px, size=size, mpp=mpp)

    def truth(self) -> list[Annotation]:
        """Return the class outlines in µm; see `Glass.truth`."""
        return self._glass.truth()


class EmptyGlass(_Spoilt):
    """A glass slide from which the tissue was washed off."""

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return bare glass; see `Glass.look`."""
        return np.full((size[1], size[0], 3), GLASS_RGB, np.uint8)

    def truth(self) -> list[Annotation]:
        """Return nothing; see `Glass.truth`."""
        return []


class CroppedGlass(_Spoilt):
    """A glass slide whose tissue reaches over the border of the scanned area."""

    GRID_UM = 8.0  # the corner lies on a whole px at all usual scales

    def __init__(self, glass: Glass) -> None:
        super().__init__(glass)
        left, top, right, bottom = _tissue_box(glass)
        self._corner = [
            self.GRID_UM * round((low + (high - low) / 3) / self.GRID_UM)
            for low, high in ((left, right), (top, bottom))
        ]
        self.size_um = (
            min(right - self._corner[0], glass.size_um[0] - self._corner[0]),
            min(bottom - self._corner[1], glass.size_um[1] - self._corner[1]),
        )
        self.bumps = [
            Bump(b.x_um - self._corner[0], b.y_um - self._corner[1], b.radius_um, b.height_um)
            for b in glass.bumps
        ]

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`."""
        x, y = (round(um / mpp) for um in self._corner)
        return self._glass.look(x_px + x, y_px + y, size=size, mpp=mpp)

    def truth(self) -> list[Annotation]:
        """Return the class outlines inside the scanned area; see `Glass.truth`."""
        area = shapely.box(0, 0, *self.size_um)
        moved = [
            (shapely.affinity.translate(a.outline, -self._corner[0], -self._corner[1]), a.label)
            for a in self._glass.truth()
        ]
        return [
            Annotation(part, label)
            for outline, label in moved
            for part in shapely.get_parts(outline.intersection(area))
            if isinstance(part, shapely.Polygon) and part.area > 0
        ]


class FlawedGlass(_Spoilt):
    """A glass slide with flaws on it."""

    def __init__(self, glass: Glass, flaws: Sequence[Flaw]) -> None:
        super().__init__(glass)
        self._flaws = flaws
        self.bumps = [*glass.bumps, *(bump for flaw in flaws for bump in flaw.bumps)]

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`."""
        view = np.array(self._glass.look(x_px, y_px, size=size, mpp=mpp))
        for flaw in self._flaws:
            columns, rows = (
                _overlap(flaw.box[axis], flaw.box[axis + 2], first, n, mpp)
                for axis, first, n in ((0, x_px, size[0]), (1, y_px, size[1]))
            )
            if flaw.paint is None or not (len(columns) and len(rows)):
                continue
            part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            x = ((x_px + columns + 0.5) * mpp)[None].astype(np.float32)
            y = ((y_px + rows + 0.5) * mpp)[:, None].astype(np.float32)
            view[part] = cv2.convertScaleAbs(flaw.paint(view[part].astype(np.float32), x, y))
        return view


def _overlap(low_um: float, high_um: float, first: int, n: int, mpp: float) -> np.ndarray:
    """Return those of `n` px, numbered from 0, that lie between two places in µm."""
    return np.arange(
        max(int(np.floor(low_um / mpp)) - first, 0), min(int(np.ceil(high_um / mpp)) - first, n)
    )


# ------------------------------------------------------------------------------ the flaws
def _make_out_of_focus(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """A patch of tissue that stands up, between two focus points."""
    x, y = _place_on_tissue(rng, glass)
    radius = rng.uniform(350, 550)
    return [Flaw(box=_around(x, y, radius), bumps=(Bump(x, y, radius, rng.uniform(7, 12)),))]


def _make_pen(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """A pathologist's stroke around something, in one of three inks."""
    x, y = _place_on_tissue(rng, glass)
    ink = np.array(INKS[rng.integers(len(INKS))], np.float32)
    angles = np.linspace(0, rng.uniform(4.5, 6), 24) + rng.uniform(0, 6)
    radii = rng.uniform(500, 900) * (1 + 0.12 * np.sin(2 * angles + rng.uniform(0, 6)))
    path = np.stack([x + radii * np.cos(angles), y + 0.8 * radii * np.sin(angles)], axis=1)
    width = rng.uniform(140, 240)

    def paint(rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        away = _distance(path, x, y)
        share = 0.85 * np.clip((width / 2 - away) / 12 + 0.5, 0, 1)[..., None]
        return rgb * (1 - share) + share * ink * (0.35 + 0.65 * rgb / GLASS)

    return [Flaw(box=_hull(path, width), paint=paint)]


def _make_fold(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """Tissue that lies twice over along a line: twice the dye, and off the focal plane."""
    x, y = _place_on_tissue(rng, glass)
    angle, length, width = rng.uniform(0, np.pi), rng.uniform(900, 1600), rng.uniform(45, 90)
    along = np.linspace(-0.5, 0.5, 12)[:, None] * length
    heading = np.array([[np.cos(angle), np.sin(angle)]])
    across = 60 * np.sin(np.linspace(0, 5, 12))[:, None] * heading[:, ::-1] * [1, -1]
    path = np.array([[x, y]]) + along * heading + across

    def paint(rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        share = np.clip((width / 2 - _distance(path, x, y)) / 3 + 0.5, 0, 1)[..., None]
        doubled = GLASS * (rgb / GLASS).clip(0, 1) ** 2
        return rgb + share * (doubled - rgb)

    bumps = tuple(Bump(float(px), float(py), width, 4.0) for px, py in path[::2])
    return [Flaw(box=_hull(path, width), paint=paint, bumps=bumps)]


def _make_bubble(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """Air under the coverslip: a dark rim, what lies inside is pale and out of focus."""
    centre, radius = _place_on_tissue(rng, glass), rng.uniform(300, 600)
    bump = Bump(*centre, radius, -8.0)

    def paint(rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        away = np.hypot(x - centre[0], y - centre[1]) - radius
        rim = np.exp(-((away / 14) ** 2))[..., None]
        inside = np.clip(-away / 8, 0, 1)[..., None]
        pale = rgb + 0.3 * inside * (GLASS + 6 - rgb)
        return pale * (1 - 0.75 * rim)

    return [Flaw(box=_around(*centre, radius + 40), paint=paint, bumps=(bump,))]


def _make_faint(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """Stain that was washed out: a quarter of the dye is left."""
    left = rng.uniform(0.2, 0.3)

    def paint(rgb: np.ndarray, _: np.ndarray, __: np.ndarray) -> np.ndarray:
        return GLASS * (rgb / GLASS).clip(1e-3, 1) ** left

    return [Flaw(box=(0, 0, *glass.size_um), paint=paint)]


def _make_coverslip(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """The edge of a coverslip that was put on askew, across the right part of the slide."""
    place, slope = glass.size_um[0] * rng.uniform(0.8, 0.9), rng.uniform(-0.04, 0.04)
    box = (place - 0.05 * glass.size_um[1] - 60, 0.0, *glass.size_um)

    def paint(rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        beyond = (x - place - slope * y)[..., None]
        line = 0.6 * np.exp(-((beyond / 9) ** 2)) - 0.12 * np.exp(-(((beyond + 30) / 12) ** 2))
        dry = np.where(beyond > 0, 0.93, 1.0)  # without mounting medium light is scattered
        return rgb * dry * (1 - line)

    return [Flaw(box=box, paint=paint)]


def _make_dust(rng: np.random.Generator, glass: Glass) -> list[Flaw]:
    """Specks on top of the coverslip, dark and soft, since they lie off the focal plane."""
    n = rng.poisson(60)
    places = rng.uniform(0, 1, (n, 2)) * glass.size_um
    return [
        _make_speck(x, y, radius=rng.uniform(4, 25), depth=rng.uniform(0.35, 0.85))
        for x, y in places
    ]


def _make_speck(centre_x: float, centre_y: float, *, radius: float, depth: float) -> Flaw:
    def paint(rgb: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        away = np.hypot(x - centre_x, y - centre_y) / radius
        return rgb * (1 - depth * np.exp(-(away**4))[..., None])

    return Flaw(box=_around(centre_x, centre_y, 1.6 * radius), paint=paint)


# ------------------------------------------------------------------------------ places
def _place_on_tissue(rng: np.random.Generator, glass: Glass) -> tuple[float, float]:
    """Return a place well inside the largest outline, in µm; the middle if there is none."""
    outlines = sorted((a.outline for a in glass.truth()), key=lambda o: o.area)
    if not outlines:
        return glass.size_um[0] / 2, glass.size_um[1] / 2
    inside = shapely.maximum_inscribed_circle(outlines[-1])
    x, y = inside.coords[0]
    reach = inside.length / 3
    return float(x + rng.uniform(-reach, reach)), float(y + rng.uniform(-reach, reach))


def _tissue_box(glass: Glass) -> Box:
    outlines = [a.outline for a in glass.truth()]
    if not outlines:
        return 0.0, 0.0, *glass.size_um
    return tuple(float(side) for side in shapely.total_bounds(outlines))  # type: ignore[return-value]


def _around(x: float, y: float, radius: float) -> Box:
    return x - radius, y - radius, x + radius, y + radius


def _hull(path: np.ndarray, width: float) -> Box:
    (left, top), (right, bottom) = path.min(axis=0) - width, path.max(axis=0) + width
    return float(left), float(top), float(right), float(bottom)


def _distance(path: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the distance (µm) of each place to a path (n, 2)."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, np.float32)
    for (ax, ay), (bx, by) in itertools.pairwise(path):
        dx, dy = bx - ax, by - ay
        along = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        np.minimum(nearest, np.hypot(x - ax - along * dx, y - ay - along * dy), out=nearest)
    return nearest


_MAKERS: dict[str, Callable[[np.random.Generator, Glass], list[Flaw]]] = {
    "out_of_focus": _make_out_of_focus,
    "pen": _make_pen,
    "fold": _make_fold,
    "bubble": _make_bubble,
    "faint": _make_faint,
    "coverslip": _make_coverslip,
    "dust": _make_dust,
}
DEFECTS = (*_MAKERS, "empty", "border")
