"""What GeoJSON for QuPath costs: time, memory, size; written and read back.

`python benchmarks/export.py [--tiles 100000 --mask-px 4000]`, a process a measurement.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from histo_nb.export.findings import Findings, outline_pixels
from histo_nb.export.geojson import read_result_geojson, write_result_geojson
from histo_nb.inference.regions import find_regions

CLASSES = ["normal", "adenoma", "carcinoma"]
SIZE = 512  # level-0 px of a tile


def make_findings(n_tiles: int) -> Findings:
    """Tiles in a square, of classes in clumps, with all digits a probability can have."""
    rng, side = np.random.default_rng(0), int(np.ceil(n_tiles**0.5))
    index = np.arange(n_tiles)
    column, row = index % side, index // side
    noise = rng.dirichlet((1, 1, 1), n_tiles)
    tiles = pd.DataFrame({"x": column * SIZE, "y": row * SIZE, "size_l0": SIZE, "tissue": 0.875})
    tiles["tile_id"] = [f"S-1/{x},{y}/{SIZE}" for x, y in zip(tiles.x, tiles.y, strict=True)]
    hot = (np.sin(column / 9) * np.cos(row / 7) > 0.8).astype(int) * 2
    tiles["prediction"] = np.array(CLASSES)[hot]
    tiles[[f"prob_{name}" for name in CLASSES]] = noise
    return Findings(
        slide_id="S-1",
        model_id="M-1",
        classes=CLASSES,
        normal_class="normal",
        origin=(1024, 512),
        regions=find_regions(tiles, normal_class="normal", slide_mpp=0.25),
        tiles=tiles,
        tissue=None,
        judged=pd.DataFrame(columns=["outline"]),
    )


def make_mask(side: int) -> np.ndarray:
    """Wavy tissue with holes on half of a slide."""
    y, x = np.mgrid[:side, :side] / side * 12
    return np.sin(x * 2 + np.sin(y * 9) / 3) + np.cos(y * 3 + np.sin(x * 11) / 4) > 0.1


def memory_mb(name: str) -> float:
    """Return what the kernel says of this process: VmHWM is the peak of its memory."""
    (found,) = re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found) / 1000


def measure(what: str, path: Path, n_tiles: int, mask_px: int) -> None:
    """Do one thing in this process and print what it took."""
    work: Callable[[], object]
    if what == "write":
        findings = make_findings(n_tiles)
        work = lambda: write_result_geojson(findings, path)  # noqa: E731
    elif what == "read":
        work = lambda: read_result_geojson(path)  # noqa: E731
    else:
        mask = make_mask(mask_px)
        work = lambda: outline_pixels(mask)  # noqa: E731
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew: Linux
    before = memory_mb("VmHWM")
    started = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - started
    grown = memory_mb("VmHWM") - before
    size = path.stat().st_size / 1e6 if path.exists() else 0.0
    print(f"{what:8} {seconds:7.2f} s, {grown:7.1f} MB more memory, file {size:.1f} MB")
    if what == "outline":
        print(f"         {len(json.dumps(made.__geo_interface__)) / 1e6:.1f} MB of outline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=100_000)
    parser.add_argument("--mask-px", type=int, default=4000, help="side of the tissue mask")
    parser.add_argument("--what", choices=["write", "read", "outline"])
    parser.add_argument("--path", type=Path)
    asked = parser.parse_args()
    if asked.what:
        return measure(asked.what, asked.path, asked.tiles, asked.mask_px)
    with TemporaryDirectory() as folder:
        for what in ("write", "read", "outline"):
            numbers = ["--tiles", str(asked.tiles), "--mask-px", str(asked.mask_px)]
            place = ["--what", what, "--path", str(Path(folder) / "slide.geojson")]
            run([sys.executable, __file__, *numbers, *place], check=True)


if __name__ == "__main__":
    main()
