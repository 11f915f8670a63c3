"""What a cohort costs beside the analysis itself, how it scales, and whether it stays flat.

`python benchmarks/cohort.py [overhead] [speedup] [night] [catalogue] [--slides 60]`. Slides are
small ones of the tests (832 × 640 px, 130 tiles of 64 px), so that what the runner costs is seen;
each worker is bound to a core of its own. Kills are in `tests/chaos`: HISTO_FULL=1 does them all.

- overhead: the same stages of the same slides, one after another in one bound process, without
  ledger and engine; and as a cohort with one bound worker. Interleaved, the median of --rounds.
- speedup: the same cohort with one and with two bound workers.
- night: one cohort of many slides; memory (USS) and open files of driver and workers over time.
- catalogue: 10,000 slides with results: listing, one slide, the latest results.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from histo_nb.home import Home, open_home  # noqa: E402
from histo_nb.running.cohort.runner import Cohort, CohortSpec  # noqa: E402

MAKE = """
import shutil, sys
sys.path.insert(0, sys.argv[3])
import analysed
from pathlib import Path
from histo_nb.home import open_home
home = open_home(sys.argv[1])
analysed.copy_model(home)
for number in range(int(sys.argv[2])):
    path = home.slides / f"S{number}.svs"
    shutil.copy(analysed.slides()[number % 3], path)
    analysed.add_slide(home, path, f"S{number}", mask=False)
"""
BARE = """
import sys, time
import psutil
psutil.Process().cpu_affinity([0])
from histo_nb.home import open_home
from histo_nb.inference.runtime import choose_runtime
from histo_nb.model.registry import production_model
from histo_nb.running.cohort.spec import CohortSpec
from histo_nb.running.cohort.stages import STAGES, Bench, SlideStages
home = open_home(sys.argv[1])
folder = production_model(home)
runtime, precision = choose_runtime(folder, runtime="auto", precision="auto")
bench = Bench(home, folder, spec=CohortSpec(runtime=runtime, precision=precision))
bench.analyser
names = home.catalog.slides().slide_id.tolist()
started = time.perf_counter()
for name in names:
    slide = SlideStages(bench, name)
    for stage in STAGES:
        slide.make(stage)
print(time.perf_counter() - started)
"""


def make_home(folder: Path, n_slides: int) -> Home:
    """Make it in another process: it loads torch, which is not to be measured."""
    command = [sys.executable, "-c", MAKE, str(folder), str(n_slides), str(ROOT / "tests")]
    subprocess.run(command, check=True, capture_output=True)
    return open_home(folder)


@contextmanager
def fresh(home: Home) -> Iterator[Home]:
    """A copy of a home in which nothing was analysed yet."""
    folder = home.root.with_name("copy")
    home.catalog.engine.dispose()
    shutil.copytree(home.root, folder)
    copied = open_home(folder)
    try:
        yield copied
    finally:
        copied.catalog.engine.dispose()
        shutil.rmtree(folder)


def workers() -> list[psutil.Process]:
    mine = psutil.Process().children(recursive=True)
    return [child for child in mine if "spawn_main" in " ".join(child.cmdline())]


def bind(cohort: Cohort) -> None:
    """Bind each worker to a core; and let each open its model before the clock runs."""
    for number, worker in enumerate(workers()):
        cores = [number % psutil.cpu_count()]
        for thread in worker.threads():
            psutil.Process(thread.id).cpu_affinity(cores)
        worker.cpu_affinity(cores)


def run_cohort(home: Home, n_workers: int) -> float:
    """Return the seconds of a cohort on bound workers that are warm."""
    names = home.catalog.slides().slide_id.tolist()
    warm, rest = names[: 4 * n_workers], names[4 * n_workers :]
    with Cohort(home, spec=CohortSpec(n_workers=n_workers)) as cohort:
        bind(cohort)
        cohort.run(warm)
        started = time.perf_counter()
        table = cohort.run(rest)
        assert set(table.state) == {"done"}
        return (time.perf_counter() - started) / len(rest)


def run_bare(home: Home) -> float:
    command = [sys.executable, "-c", BARE, str(home.root)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout) / len(home.catalog.slides())


def measure_overhead(home: Home, n_rounds: int) -> dict[str, Any]:
    bare, ours = [], []
    for _ in range(n_rounds):
        with fresh(home) as copy:
            bare.append(run_bare(copy))
        with fresh(home) as copy:
            ours.append(run_cohort(copy, 1))
    both = [statistics.median(times) for times in (bare, ours)]
    return {
        "bare_ms_per_slide": round(1000 * both[0], 1),
        "cohort_ms_per_slide": round(1000 * both[1], 1),
        "overhead_ms_per_slide": round(1000 * (both[1] - both[0]), 1),
        "rounds_ms": [[round(1000 * t, 1) for t in times] for times in (bare, ours)],
    }


def measure_speedup(home: Home, n_rounds: int) -> dict[str, Any]:
    found: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(n_rounds):
        for n, times in found.items():
            with fresh(home) as copy:
                times.append(run_cohort(copy, n))
    one, two = (statistics.median(times) for times in found.values())
    return {
        "ms_per_slide": {n: [round(1000 * t, 1) for t in times] for n, times in found.items()},
        "speedup_of_2": round(one / two, 2),
    }


def measure_night(home: Home) -> dict[str, Any]:
    names = home.catalog.slides().slide_id.tolist()
    with Cohort(home, spec=CohortSpec(n_workers=2)) as cohort:
        cohort.run(names[:20])
        watched = {"driver": psutil.Process()} | {
            f"worker {i}": process for i, process in enumerate(workers())
        }
        seen: dict[str, list[tuple[float, int]]] = {name: [] for name in watched}
        over = threading.Event()

        def look() -> None:
            while not over.wait(2):
                for name, process in watched.items():
                    seen[name].append((process.memory_full_info().uss / 1e6, process.num_fds()))

        watcher = threading.Thread(target=look)
        watcher.start()
        started = time.perf_counter()
        table = cohort.run(names[20:])
        seconds = time.perf_counter() - started
        over.set()
        watcher.join()
    return {
        "slides": len(table), "done": int((table.state == "done").sum()),
        "seconds": round(seconds, 1), "per_hour": round(3600 * len(table) / seconds),
        "processes": {name: _trend(rows, len(table)) for name, rows in seen.items()},
    }  # fmt: skip


def _trend(rows: list[tuple[float, int]], n_slides: int) -> dict[str, Any]:
    """Return memory and files in each fifth of the time, and the slope of the last three."""
    uss, files = (np.array(column, float) for column in zip(*rows, strict=True))
    when, settled = np.linspace(0, n_slides, len(uss)), 2 * len(uss) // 5
    slope = np.polyfit(when[settled:], uss[settled:], 1)[0]
    return {
        "uss_mb": [round(float(np.median(part)), 1) for part in np.array_split(uss, 5)],
        "slope_mb_per_100_slides": round(100 * float(slope), 2),
        "open_files": [int(np.median(part)) for part in np.array_split(files, 5)],
    }


def measure_catalogue(n: int = 10_000) -> dict[str, Any]:
    """On SQLite, or wherever HISTO_DATABASE_URL points: an empty database."""
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder) / "home")
        _fill(home, n)
        catalog = home.catalog
        calls = {
            "slides": catalog.slides, "results": catalog.results,
            "one slide": lambda: catalog.slide("S00042"),
            "one result": lambda: catalog.result("S00042", "M-1"),
        }  # fmt: skip
        return {name: round(1000 * _median_s(call), 2) for name, call in calls.items()} | {
            "database": catalog.engine.dialect.name
        }


def _median_s(call: Any, n: int = 7) -> float:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _fill(home: Home, n: int) -> None:
    from histo_nb.schema import RESULTS, SLIDES  # noqa: PLC0415

    at = "2026-01-01T00:00:00.000000+00:00"
    slides = [
        {
            "slide_id": f"S{i:05d}", "patient_id": f"P{i // 3}", "slide_path": f"/s/S{i:05d}.svs",
            "sha256": hashlib.sha256(str(i).encode()).hexdigest(), "n_bytes": 10**9,
            "width": 80_000, "height": 60_000, "n_levels": 4, "slide_mpp": 0.25,
            "mpp_source": "file", "objective_power": 40.0, "source": "file", "added_at": at,
        }
        for i in range(n)
    ]  # fmt: skip
    results = [
        {
            "slide_id": f"S{i:05d}", "model_id": f"M-{k}", "slide_class": "normal",
            "confidence": 0.9, "abnormal_fraction": i / n, "n_tiles": 400, "n_regions": 2,
            "n_failures": 0, "result_path": f"/r/S{i:05d}/M-{k}", "analysed_at": at,
            "content_sha256": "0" * 64,
        }
        for i in range(n)
        for k in range(2)
    ]  # fmt: skip
    with home.catalog.writing("") as connection:
        connection.execute(SLIDES.insert(), slides)
        connection.execute(RESULTS.insert(), results)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", default=["overhead", "speedup", "catalogue"])
    parser.add_argument("--slides", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="histo_nb-cohort-") as folder:
        home = make_home(Path(folder) / "home", asked.slides)
        measures = {
            "overhead": lambda: measure_overhead(home, asked.rounds),
            "speedup": lambda: measure_speedup(home, asked.rounds),
            "night": lambda: measure_night(home),
            "catalogue": measure_catalogue,
        }
        for what in asked.what:
            print(json.dumps({what: measures[what]()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
