"""Pace and memory of the virtual scanner on a slide of 40,000 × 30,000 px.

`python benchmarks/scanner.py [--width 40000] [--height 30000]`; the goal is at most 1 GiB resident.
The glass repeats a drawn one of 6 × 4.5 mm, so that what is measured is the scanner; the second
line is the drawing of a glass as large as that, in a process of its own.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from histo_nb.scanning.drivers import ScanSpec  # noqa: E402
from histo_nb.scanning.virtual.drawn import DrawnGlass, DrawnSpec, draw_glass  # noqa: E402
from histo_nb.scanning.virtual.scanner import write_scan  # noqa: E402

UNIT_PX = (12_288, 8_960)  # of the repeated glass; whole blocks of its painter


class RepeatedGlass:
    """A drawn glass slide repeated over a larger one."""

    def __init__(self, glass: DrawnGlass, size_um: tuple[float, float]) -> None:
        self._glass, self.size_um = glass, size_um
        self.patient_id, self.diagnosis = glass.patient_id, glass.diagnosis
        self.barcode, self.bumps = glass.barcode, ()

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        assert x_px == 0
        row = self._glass.look(0, y_px % UNIT_PX[1], size=(UNIT_PX[0], size[1]), mpp=mpp)
        return np.tile(row, (1, -(-size[0] // UNIT_PX[0]), 1))[:, : size[0]]

    def truth(self) -> list:
        return []


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure_scan(width: int, height: int) -> dict[str, float]:
    size_um = tuple(px / 2 for px in UNIT_PX)
    drawn = draw_glass("P1", diagnosis="carcinoma", seed=3, spec=DrawnSpec(size_um=size_um))
    before = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        glass = RepeatedGlass(drawn, (width / 2, height / 2))
        path = write_scan(glass, Path(folder) / "large.svs", spec=ScanSpec())
        seconds = time.perf_counter() - start
        n_bytes = path.stat().st_size
    return {
        "Mpx": width * height / 1e6,
        "s": round(seconds, 1),
        "Mpx/s": round(width * height / 1e6 / seconds, 1),
        "MB": round(n_bytes / 1e6),
        "MiB resident before": before,
        "MiB resident at most": peak_mb(),
    }


def measure_drawing(width: int, height: int) -> dict[str, float]:
    start = time.perf_counter()
    spec = DrawnSpec(size_um=(width / 2, height / 2))
    draw_glass("P1", diagnosis="carcinoma", seed=3, spec=spec)
    seconds = time.perf_counter() - start
    return {"drawing, s": round(seconds, 1), "MiB resident at most": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=40_000)
    parser.add_argument("--height", type=int, default=30_000)
    parser.add_argument("--draw", action="store_true", help="measure the drawing instead")
    asked = parser.parse_args()
    measure = measure_drawing if asked.draw else measure_scan
    print(json.dumps(measure(asked.width, asked.height)), flush=True)
    if not asked.draw:
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--draw"], check=True)


if __name__ == "__main__":
    main()
