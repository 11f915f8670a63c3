"""The virtual 20x scanner: virtual glass slides in, whole-slide files in the catalogue out."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import shapely
import shapely.affinity
from tqdm.auto import tqdm

from histo_nb.annotations import Annotation
from histo_nb.home import Home
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.glass import Glass
from histo_nb.scanning.intake import file_slide
from histo_nb.scanning.pyramid import TILE_PX, PyramidSpec, write_pyramid

N_SCANNERS = 2  # slides scanned side by side


def scan_rack(
    glasses: Sequence[Glass], home: Home, *, spec: ScanSpec | None = None
) -> pd.DataFrame:
    """Scan every glass slide of a rack and file it; return the catalogue rows in rack order.

    A slide that was scanned before (the same bytes) is not filed twice.
    """
    spec = spec or ScanSpec()
    with ThreadPoolExecutor(N_SCANNERS) as pool:
        scans = pool.map(lambda glass: scan_glass(glass, home, spec=spec), glasses)
        slide_ids = list(tqdm(scans, desc="scanning", unit="slide", total=len(glasses)))
    return home.catalog.slides(slide_ids)


def scan_glass(glass: Glass, home: Home, *, spec: ScanSpec) -> str:
    """Scan one glass slide, file it with its truth, and return its `slide_id`."""
    inbox = home.slides / f".scanning-{secrets.token_hex(6)}.svs"
    try:
        write_scan(glass, inbox, spec=spec)
        return file_slide(
            inbox,
            home,
            patient_id=glass.patient_id,
            source="virtual scanner",
            truth=truth_l0(glass, mpp=spec.mpp),
        )
    finally:
        inbox.unlink(missing_ok=True)


def write_scan(glass: Glass, path: Path, *, spec: ScanSpec) -> Path:
    """Scan one glass slide strip by strip into a pyramidal file; return its path."""
    width, height = (round(extent / spec.mpp) for extent in glass.size_um)
    return write_pyramid(
        _strips(glass, width, height, spec.mpp),
        path,
        spec=PyramidSpec(size=(width, height), mpp=spec.mpp, objective_power=spec.objective_power),
        label=_label_image(glass.patient_id),
        macro=_macro_image(glass),
    )


def truth_l0(glass: Glass, *, mpp: float) -> list[Annotation]:
    """Return the glass's class outlines in level-0 px of a scan at `mpp`."""
    return [
        Annotation(shapely.affinity.scale(a.outline, 1 / mpp, 1 / mpp, origin=(0, 0)), a.label)
        for a in glass.truth()
    ]


def _strips(glass: Glass, width: int, height: int, mpp: float) -> Iterator[np.ndarray]:
    for top in range(0, height, TILE_PX):
        yield glass.look(0, top, size=(width, min(TILE_PX, height - top)), mpp=mpp)


def _label_image(text: str) -> np.ndarray:
    """Paper label as a real slide has it: it names the patient, so nothing may ever show it."""
    label = np.full((400, 400, 3), 250, np.uint8)
    cv2.putText(label, text[:18], (20, 200), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (20, 20, 20), 2)
    for i, byte in enumerate(text.encode()[:24]):
        label[260:360, 20 + 15 * i : 22 + 15 * i + byte % 11] = 20
    return label


def _macro_image(glass: Glass) -> np.ndarray:
    """Overview camera's picture: the label at the left, the scanned area at the right."""
    macro = np.full((400, 1200, 3), 235, np.uint8)
    macro[:, :400] = _label_image(glass.patient_id)
    cv2.rectangle(macro, (440, 40), (1160, 360), (215, 190, 205), -1)
    return macro
