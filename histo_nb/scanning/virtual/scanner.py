"""The virtual 20x scanner: virtual glass slides in, whole-slide files out; a console's driver.

It scans strip by strip over a measured focal plane, evens the light, stitches, and writes while it
scans. The same glass and seed give the same bytes.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
import shapely.affinity

from histo_nb.annotations import Annotation
from histo_nb.errors import ScannerError, SpecError
from histo_nb.scanning.drivers import Scan, ScanSpec
from histo_nb.scanning.virtual.glass import Glass
from histo_nb.scanning.virtual.label import decode_label, take_label, take_macro
from histo_nb.scanning.virtual.optics import MARGIN_PX, OVERLAP_PX, STRIP_PX, Camera
from histo_nb.scanning.virtual.pyramid import TILE_PX, PyramidSpec, write_pyramid
from histo_nb.scanning.virtual.stitching import stitch

Given = TypeVar("Given")
Made = TypeVar("Made")

AHEAD_BYTES = 1 << 27  # of strips made ahead of who takes them
FAULTS = {
    "jam": "the slide is jammed; open the scanner, take it out",
    "barcode": "the label's barcode cannot be read; clean the label",
    "focus": "no focal plane is found; clean the slide, put it in again",
    "connection": "the connection to the scanner was lost; look at its cable",
}
STAYING = ("jam", "connection")  # until somebody looks after them


@dataclass(frozen=True)
class Fault:
    """A fault that the virtual scanner is told to have."""

    slot: int
    kind: Literal["jam", "barcode", "focus", "connection"]
    times: int = 1  # attempts that meet it
    at: float = 0.5  # share of the scan at which a connection is lost, 0–1

    def __post_init__(self) -> None:
        if self.kind not in FAULTS:
            raise SpecError(f"kind={self.kind!r} is no fault; choose one of {tuple(FAULTS)}")


class VirtualScanner:
    """A scanner of virtual glass slides; see `Scanner`.

    Parameters
    ----------
    glasses
        One a slot, from slot 1.
    seed
        Of the optics: tilt, jitter, noise.
    faults
        What goes wrong.
    """

    def __init__(
        self,
        glasses: Sequence[Glass],
        *,
        name: str = "virtual scanner",
        seed: int = 0,
        faults: Iterable[Fault] = (),
    ) -> None:
        self.name = name
        self._glasses, self._seed = list(glasses), seed
        self._faults = list(faults)
        self._left = [fault.times for fault in self._faults]
        self._trouble: str | None = None  # of `STAYING`
        self._aborted = threading.Event()

    def load_rack(self) -> Sequence[int]:
        """Return the slots from 1; see `Scanner.load_rack`."""
        self._check_ready()
        return range(1, len(self._glasses) + 1)

    def read_barcode(self, slot: int) -> str:
        """Return what the label's QR code says; see `Scanner.read_barcode`."""
        self._check_ready()
        self._meet(slot, "barcode")
        return decode_label(take_label(self._glasses[slot - 1]))

    def scan_slot(
        self, slot: int, folder: Path, *, spec: ScanSpec, progress: Callable[[float], None]
    ) -> Scan:
        """Scan one glass slide into an SVS file; see `Scanner.scan_slot`."""
        self._check_ready()
        self._aborted.clear()
        self._meet(slot, "jam")
        self._meet(slot, "focus")
        glass = self._glasses[slot - 1]

        def follow(share: float) -> None:
            progress(share)
            if self._aborted.is_set():
                raise ScannerError("the scan was stopped", fault="aborted")
            self._meet(slot, "connection", share)

        path = folder / f"{glass.barcode}.svs"  # scanners like to name their files so
        write_scan(glass, path, spec=spec, seed=self._seed, progress=follow)
        return Scan(
            path=path,
            patient_id=glass.patient_id,
            truth=tuple(truth_l0(glass, mpp=spec.mpp)),
        )

    def abort(self) -> None:
        """Stop the running scan soon; see `Scanner.abort`."""
        self._aborted.set()

    def recover(self) -> None:
        """Clear a jam, connect again; see `Scanner.recover`."""
        self._trouble = None

    def _check_ready(self) -> None:
        if self._trouble:
            raise ScannerError(FAULTS[self._trouble], fault=self._trouble)

    def _meet(self, slot: int, kind: str, share: float = 1.0) -> None:
        for i, fault in enumerate(self._faults):
            if (fault.slot, fault.kind) == (slot, kind) and share >= fault.at and self._left[i]:
                self._left[i] -= 1
                self._trouble = kind if kind in STAYING else None
                raise ScannerError(FAULTS[kind], fault=kind)


def write_scan(
    glass: Glass,
    path: Path,
    *,
    spec: ScanSpec,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
) -> Path:
    """Scan one glass slide into a pyramidal file, writing while scanning; return its path.

    Memory is bounded by some strips and the second level of the pyramid (1/16 of the pixels).

    Parameters
    ----------
    progress
        Hears the share that is done, 0–1; what it raises ends the scan.

    Raises
    ------
    ScannerError
        No focal plane is found (fault "focus").
    StorageError
        The disk is full.
    """
    size = round(glass.size_um[0] / spec.mpp), round(glass.size_um[1] / spec.mpp)
    label = take_label(glass)
    progress(0.0)
    with _scanning(glass, size, mpp=spec.mpp, seed=seed) as strips:
        return write_pyramid(
            _tile_rows(strips, size[1], progress),
            path,
            spec=PyramidSpec(size=size, mpp=spec.mpp, objective_power=spec.objective_power),
            label=label,
            macro=lambda overview: take_macro(label, overview),
            in_place=spec.in_place,
        )


def truth_l0(glass: Glass, *, mpp: float) -> list[Annotation]:
    """Return the glass's class outlines in level-0 px of a scan at `mpp`."""
    return [
        Annotation(shapely.affinity.scale(a.outline, 1 / mpp, 1 / mpp, origin=(0, 0)), a.label)
        for a in glass.truth()
    ]


@contextmanager
def _scanning(
    glass: Glass, size: tuple[int, int], *, mpp: float, seed: int
) -> Iterator[Iterator[np.ndarray]]:
    """Yield the stitched strips of a scan; threads look and expose ahead of who takes them."""
    width, height = size
    camera = Camera(glass, mpp=mpp, seed=seed)

    def look(top: int) -> np.ndarray:
        return glass.look(0, top, size=(width, min(TILE_PX, height - top)), mpp=mpp)

    n_ahead = max(min(os.cpu_count() or 1, AHEAD_BYTES // (3 * STRIP_PX * width)), 1)
    with ThreadPoolExecutor(n_ahead) as pool:
        bands = _ahead(n_ahead, pool, look, range(0, height, TILE_PX))
        views = enumerate(_move_stage(bands, camera, height))
        exposed = _ahead(n_ahead, pool, lambda numbered: camera.expose(*numbered), views)
        yield stitch(exposed, size=size)


def _ahead(
    n: int, pool: ThreadPoolExecutor, work: Callable[[Given], Made], items: Iterable[Given]
) -> Iterator[Made]:
    """Yield what `work` makes of each item, in order, made in a pool's threads up to `n` ahead."""
    waiting: deque[Future[Made]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= n:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _move_stage(bands: Iterable[np.ndarray], camera: Camera, height: int) -> Iterator[np.ndarray]:
    """Yield what lies under the camera at each strip; beyond the scanned area its edge repeats."""
    bands = iter(bands)
    held, top = [next(bands)], 0  # rows not yet passed, and the first one's place
    for number in range(-(-height // STRIP_PX)):
        x, y = camera.jitter(number)
        first = number * STRIP_PX - OVERLAP_PX // 2 - MARGIN_PX + y
        last = first + STRIP_PX + OVERLAP_PX + 2 * MARGIN_PX
        while top + sum(map(len, held)) < min(last, height):
            held.append(next(bands))
        while top + len(held[0]) <= first:
            top += len(held.pop(0))
        seen = np.concatenate(held)[max(first - top, 0) : last - top]
        margins = max(-first, 0), max(last - height, 0), MARGIN_PX - x, MARGIN_PX + x
        yield cv2.copyMakeBorder(seen, *margins, cv2.BORDER_REPLICATE)


def _tile_rows(
    strips: Iterable[np.ndarray], height: int, progress: Callable[[float], None]
) -> Iterator[np.ndarray]:
    """Yield strips in rows of stored tiles, and tell the share that is done."""
    done = 0
    for strip in strips:
        for top in range(0, len(strip), TILE_PX):
            rows = strip[top : top + TILE_PX]
            done += len(rows)
            yield rows
            progress(done / height)
