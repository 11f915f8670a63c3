"""A million tiles in one table: seconds, and memory at most, of each step from grid to file.

`python benchmarks/tiling.py [--slides 100] [--tiles 10000] [--profile]`. Slides without pixels and
masks without glass, so that what is measured is rows. Each step runs in a process of its own and
hands its table on as a file; `ru_maxrss` of that process is "at most", and "before" is what it
held when the step began, its input included.
"""

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from histo_nb.annotations import Annotation  # noqa: E402
from histo_nb.masking.tissue import TissueMask  # noqa: E402
from histo_nb.tables import LABELLED_TILES, check_table, read_table, write_table  # noqa: E402
from histo_nb.tiling.areas import outline_areas  # noqa: E402
from histo_nb.tiling.grid import TileSpec, tile_slide  # noqa: E402
from histo_nb.tiling.labels import label_tiles  # noqa: E402

STEPS = ("tile", "label", "check", "write", "read")
SPEC = TileSpec(tile_size=256, mpp=0.5)
MASK_DOWNSAMPLE = 32.0  # 8 µm/px


def peak_mib() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def tile_slides(n_slides: int, n_tiles: int) -> pd.DataFrame:
    """What `tiling.grid.tile_slides` does, without its files."""
    side = round(n_tiles**0.5) * 512  # level-0 px of 0.25 µm
    rng, made = np.random.default_rng(0), []
    for number in range(n_slides):
        mask = TissueMask(rng.random((side // 32 + 16,) * 2) < 0.9, MASK_DOWNSAMPLE, 0.25)
        left, top = rng.integers(0, 500, 2).tolist()
        slide = SimpleNamespace(
            path=Path(f"/data/slides/2026/S-{number:06d}.svs"), bounds=(left, top, side, side),
            slide_mpp=0.25, level_downsamples=(1.0, 4.0, 16.0),
        )  # fmt: skip
        made.append(
            tile_slide(slide, mask, spec=SPEC, slide_id=f"S-{number:06d}",
                       patient_id=f"P-{number // 2:05d}")
        )  # fmt: skip
    return pd.concat(made, ignore_index=True)


def label_slides(tiles: pd.DataFrame) -> pd.DataFrame:
    """What `tiling.labels.label_slides` does, with 20 round outlines of two classes a slide."""
    side = int(tiles.x.max() + tiles.size_l0[0])
    centres = np.random.default_rng(0).uniform(0, side, (20, 2))
    discs = shapely.buffer(shapely.points(centres), side / 12, quad_segs=64)
    outlines = [
        Annotation(outline=disc, label=("normal", "tumour")[i % 2]) for i, disc in enumerate(discs)
    ]
    labelled = [
        label_tiles(rows, outline_areas(rows, outlines), source=f"{slide_id}.geojson")
        for slide_id, rows in tiles.groupby("slide_id", sort=False)
    ]
    return pd.concat(labelled, ignore_index=True)


def prepare(step: str, folder: Path, asked: argparse.Namespace) -> Callable[[], object]:
    """Read what a step needs; return the step."""
    before, table = folder / f"{STEPS[STEPS.index(step) - 1]}.parquet", folder / "table.parquet"
    if step == "tile":
        return lambda: tile_slides(asked.slides, asked.tiles)
    if step == "read":
        return lambda: read_table(table, LABELLED_TILES)
    rows = pq.read_table(before).to_pandas()
    if step == "label":
        return lambda: label_slides(rows)
    if step == "check":
        return lambda: check_table(rows, LABELLED_TILES)
    return lambda: write_table(rows, table, LABELLED_TILES)


def measure(step: str, folder: Path, asked: argparse.Namespace) -> dict[str, object]:
    work = prepare(step, folder, asked)
    before, profile, start = peak_mib(), cProfile.Profile(), time.perf_counter()
    result = profile.runcall(work) if asked.profile else work()
    measured = {
        "step": step,
        "s": round(time.perf_counter() - start, 2),
        "MiB before": before,
        "MiB at most": peak_mib(),
    }
    if asked.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(8)
    if isinstance(result, Path):
        measured["MB of file"] = round(result.stat().st_size / 1e6, 1)
    else:
        measured["rows"] = len(result)
        result.to_parquet(folder / f"{step}.parquet", index=False)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=100)
    parser.add_argument("--tiles", type=int, default=10_000, help="of a slide, a square number")
    parser.add_argument("--profile", action="store_true", help="say where the seconds go")
    parser.add_argument("--step", choices=STEPS, help="one step, in --folder")
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    if asked.step:
        print(json.dumps(measure(asked.step, asked.folder, asked)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for step in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--step", step, "--folder", folder]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
