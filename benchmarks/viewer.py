"""The slide viewer in Chromium: opening, pans and zooms, a busy kernel, memory, jupyter-islide.

`python benchmarks/viewer.py --setup` makes the environment of jupyter-islide (1 GB, once). Then
`HISTO_DATA=… python benchmarks/viewer.py --json viewer.json` makes the slides that are missing and
prints one table a question; `--what open settle memory lab` measures some of them.

Times are measured in the page, by `peers/ruler.js`, from the first event of a gesture. A viewer has
settled when its view is at rest, its picture no longer changes, and (ours) OpenSeadragon says that
no tile of the view is missing. That includes the movement, which ours draws out over 350 ms: `wait`
is what remains after it. Of another viewer only its canvas can be seen: it has settled when the
last tile has come there (its fading in is not counted) and nothing has come for a while.
`loaded` is the share of gestures that brought new tiles, `loading` the time of those alone.
`complete`: share whose last frame was drawn from tiles of one step only, so that none was stood in
for by a coarser one. `sharp`: picture px a screen px of the sharpest tile in the last frame,
median; below 1 the screen could show more. `late`: gestures that did not settle in a minute.
The walk (`peers/walk.py`) is the same for all: zooms by 2 and drags of a quarter to 0.6 of the
view over tissue, at a fixed seed.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import psutil
from peers.lab import (
    enter_cell,
    find_kernels,
    is_computing,
    memory_mb,
    open_notebook,
    serving_lab,
)
from peers.slides import LEVELS, BenchSlide, make_slide
from peers.walk import Gesture, walk
from playwright.sync_api import Browser, Page, sync_playwright

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from histo_nb.home import open_home  # noqa: E402
from histo_nb.running.serve import DashboardServer, serve_dashboards  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
SCREEN = {"width": 1280, "height": 900}
HEIGHT_PX = 560  # of a viewer; a cell that is run below it leaves it in sight
WARM_S = 6.0  # a waiting kernel has started
LATE_MS = 60_000
ONE_STEP = 0.7  # steps differ by 2; tiles of one differ by their rounding
SEED = 1
SLIDES = {
    "12,000 × 9,000": BenchSlide(name="pyramid", size=(12_000, 9_000), n_tissue=24),
    "40,000 × 30,000": BenchSlide(name="pyramid"),
    "40,000 × 30,000, no pyramid": BenchSlide(name="single", downsamples=LEVELS["single"]),
    "100,000 × 100,000": BenchSlide(name="large", size=(100_000, 100_000)),
}
QUICK = "after 200 quick zooms"
USUAL = "40,000 × 30,000"
PEER = ("jupyter-islide==0.7.6", "openslide-bin", "jupyterlab", "ipykernel", "numpy")
IMPORTS = "from histo_nb.widgets.viewer import SlideViewer"
OURS = f"""{IMPORTS}
viewer = SlideViewer()
viewer.open_slide(SLIDE)
viewer.layout.height = "{HEIGHT_PX}px"
viewer"""
ISLIDE = f"""from islide import SlideViewer
viewer = SlideViewer(SLIDE, canvas_h={HEIGHT_PX})
viewer"""
# Computes while a file is there: Python that holds the lock, and numpy that mostly does not.
BUSY = """import pathlib, time
import numpy as np

def compute(flag):
    square = np.random.default_rng(0).random((400, 400))
    while flag.exists():
        square = np.tanh(square @ square / 400)
        sum(i * i for i in range(100_000))

flag = pathlib.Path(FLAG)
"""
BUSY_CELL = f"{BUSY}compute(flag)"
BUSY_THREAD = f"""{BUSY}
def wait():
    while True:
        compute(flag)
        time.sleep(0.1)

import threading
threading.Thread(target=wait, daemon=True).start()
"""


@dataclass(frozen=True)
class Viewer:
    """How a viewer is shown, known to have settled, and zoomed by 2."""

    cell: str
    selector: str
    quiet_ms: int
    zoom: Callable[[Page, int], None]


def zoom_ours(page: Page, way: int) -> None:
    page.keyboard.press("+" if way > 0 else "-")


def zoom_islide(page: Page, way: int) -> None:
    page.mouse.wheel(0, -way * math.log(2) / 0.002)  # its zoom is exp(-0.002 × wheel)


VIEWERS = {
    "ours": Viewer(OURS, ".hv-stage", 300, zoom_ours),
    # its kernel is asked 120 ms after a movement, and nothing says that it has answered
    "jupyter-islide": Viewer(ISLIDE, ".islide-view canvas", 1500, zoom_islide),
}


class Stage:
    """A viewer in a page."""

    def __init__(self, page: Page, viewer: Viewer) -> None:
        self.page, self.viewer = page, viewer

    def settled(self) -> dict[str, Any]:
        asked = {
            "selector": self.viewer.selector, "quiet": self.viewer.quiet_ms, "limit": LATE_MS
        }  # fmt: skip
        told: dict[str, Any] = self.page.evaluate("asked => ruler.settled(asked)", asked)
        return told

    def ready(self) -> dict[str, Any]:
        """Wait until the first view is there; bring the viewer into sight."""
        self.page.wait_for_selector(self.viewer.selector, timeout=LATE_MS)
        told = self.settled()
        if told.get("late"):
            raise RuntimeError(f"no first view: {told}")
        self.page.locator(self.viewer.selector).first.scroll_into_view_if_needed()
        return told

    @property
    def box(self) -> dict[str, float]:
        found = self.page.locator(self.viewer.selector).first.bounding_box()
        assert found
        return dict(found)

    def go(self, gesture: Gesture) -> dict[str, Any]:
        """Make a gesture; return what the ruler says of it, in ms from its first event."""
        page, box = self.page, self.box
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.move(x - gesture.dx / 2, y - gesture.dy / 2)
        page.evaluate("ruler.begin()")
        if gesture.zoom:
            self.viewer.zoom(page, gesture.zoom)
        else:
            page.mouse.down()
            page.mouse.move(x + gesture.dx / 2, y + gesture.dy / 2)
            page.mouse.up()
        told = self.settled()
        if told["input"] is None:
            raise RuntimeError("the page has not heard the gesture")
        since = {
            name: max((told[name] or 0) - told["input"], 0) for name in ("picture", "view", "ready")
        }
        return told | since | {"settled": max(since.values())}

    def whole(self) -> None:
        """Show the whole slide again (ours)."""
        self.page.locator(self.viewer.selector).first.focus()
        self.page.keyboard.press("0")
        self.settled()

    def fly(self, slide: BenchSlide, n: int) -> float:
        """Zoom n times as fast as events come (ours); return ms from the last to rest.

        Eight notches in, eight out, over tissue, from the whole slide on; it ends near.
        """
        box = self.box
        upp = max(slide.size[0] / box["width"], slide.size[1] / box["height"])
        x = box["x"] + box["width"] / 2 - 0.23 * slide.size[0] / upp
        y = box["y"] + box["height"] / 2
        for i in range(n):
            self.page.mouse.move(x + 37 * i % 60 - 30, y + 23 * i % 80 - 40)
            if i == n - 1:
                self.page.evaluate("ruler.begin()")
            self.page.mouse.wheel(0, 100 if i // 8 % 2 else -100)
        told = self.settled()
        last = max(told[name] or 0 for name in ("picture", "view", "ready"))
        return math.inf if told.get("late") else max(last - told["input"], 0)

    def walk(self, slide: BenchSlide, n: int) -> dict[str, Any]:
        """Walk over the slide from the whole of it; return medians and 90th percentiles, in ms."""
        box = self.box
        steps = islice(walk(slide, (box["width"], box["height"]), seed=SEED), n)
        return summarise([self.go(gesture) for gesture in steps])


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    done = [run for run in runs if not run.get("late")]
    ours = any(run["view"] for run in done)
    values = {
        "settled": [run["settled"] for run in done],
        "loading": [run["settled"] for run in done if run["fresh"]],
        "wait": [max(run["settled"] - run["view"], 0) for run in done if ours],
    }
    told: dict[str, Any] = {"n": len(runs), "loaded": len(values["loading"]) / len(runs)}
    for name, found in values.items():
        told[f"{name} ms"] = round(statistics.median(found)) if found else None
        told[f"{name} p90"] = round(float(np.percentile(found, 90))) if found else None
    uniform = [run["coarsest"] > ONE_STEP * run["finest"] for run in done if ours]
    told["complete"] = statistics.mean(uniform) if uniform else None
    told["sharp"] = statistics.median(run["finest"] for run in done) if done else None
    return told | {"late": len(runs) - len(done)}


class Bench:
    """The slides, a browser, and the pages that show a viewer."""

    def __init__(self, browser: Browser, cache: Path, asked: argparse.Namespace) -> None:
        self.browser, self.cache, self.asked = browser, cache, asked
        self.flag = Path(tempfile.mkdtemp()) / "busy"

    def slide(self, name: str) -> tuple[BenchSlide, Path]:
        return SLIDES[name], make_slide(SLIDES[name], self.cache / "slides")

    @contextmanager
    def page(self) -> Iterator[Page]:
        context = self.browser.new_context(viewport=SCREEN)
        page = context.new_page()
        page.add_init_script(path=HERE / "peers/ruler.js")
        yield page
        context.close()

    @contextmanager
    def busy(self) -> Iterator[None]:
        self.flag.touch()
        try:
            yield
        finally:
            self.flag.unlink()

    @contextmanager
    def serving(self, slide: Path, *, n_warm: int) -> Iterator[DashboardServer]:
        """Serve a page of one viewer, whose kernel computes while `busy`."""
        cells = [IMPORTS, BUSY_THREAD.replace("FLAG", repr(str(self.flag))), show(OURS, slide)]
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
        notebook.cells[0].metadata.tags = ["imports"]
        notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "pages"
            folder.mkdir()
            nbformat.write(notebook, folder / "viewer.ipynb")
            served = serve_dashboards(
                open_home(Path(name) / "home"), pages=("viewer",), port=0, n_warm=n_warm,
                folder=folder, max_visitors=50,
            )  # fmt: skip
            with served as server:
                yield server


def show(cell: str, slide: Path) -> str:
    return cell.replace("SLIDE", repr(str(slide)))


def measure_open(bench: Bench) -> list[dict[str, Any]]:
    """From the address to the first tile and to all tiles of the first view, in s."""
    rows = []
    _, path = bench.slide(USUAL)
    for name, n_warm in (("a kernel waits", 1), ("no kernel waits", 0)):
        runs = []
        with bench.serving(path, n_warm=n_warm) as server:
            for _ in range(bench.asked.opens):
                time.sleep(WARM_S if n_warm else 0.5)
                with bench.page() as page:
                    runs.append(open_once(page, server.url))
        rows.append({"page": name} | medians(runs))
    return rows


def open_once(page: Page, url: str) -> dict[str, float]:
    stage, started = Stage(page, VIEWERS["ours"]), time.time()
    page.goto(url, wait_until="commit")
    told = stage.ready()
    shift = told["origin"] / 1000 - started
    return {"first": shift + told["first"] / 1000, "view": shift + last(told) / 1000}


def last(told: dict[str, Any]) -> float:
    return max(float(told[name] or 0) for name in ("picture", "ready"))


def medians(runs: list[dict[str, float]]) -> dict[str, Any]:
    first, view = ([run[name] for run in runs] for name in ("first", "view"))
    return {"n": len(runs), "first tile s": statistics.median(first),
            "first view s": statistics.median(view), "worst s": max(view)}  # fmt: skip


def measure_settle(bench: Bench) -> list[dict[str, Any]]:
    """Pans and zooms in a page, the same walk each time: calm, after quick zooms, busy kernel."""
    rows = []
    for name in bench.asked.slides or SLIDES:
        slide, path = bench.slide(name)
        with bench.serving(path, n_warm=0) as server:
            for when in ("calm", QUICK, "kernel computes"):
                with bench.page() as page, ExitStack() as stack:
                    page.goto(server.url)
                    stage = Stage(page, VIEWERS["ours"])
                    stage.ready()
                    kernel = find_kernels(server.process.pid)[-1]
                    row: dict[str, Any] = {"slide": name, "when": when}
                    if when == QUICK:
                        row["quick zooms settled ms"] = stage.fly(slide, 200)
                    elif when != "calm":
                        stack.enter_context(bench.busy())
                    stage.whole()
                    before = used(kernel)
                    row |= stage.walk(slide, bench.asked.moves)
                    rows.append(row | {"kernel": share(before, used(kernel))})
    return rows


def used(process: psutil.Process) -> tuple[float, float]:
    """Return CPU seconds so far, and the time."""
    told = process.cpu_times()
    return told.user + told.system, time.monotonic()


def share(before: tuple[float, float], after: tuple[float, float]) -> str:
    return f"{(after[0] - before[0]) / (after[1] - before[1]):.0%} of a core"


def measure_memory(bench: Bench) -> list[dict[str, Any]]:
    """MB of the kernel while somebody walks over the slide."""
    rows: list[dict[str, Any]] = []
    slide, path = bench.slide(USUAL)
    with bench.serving(path, n_warm=0) as server, bench.page() as page:
        stage = Stage(page, VIEWERS["ours"])
        page.goto(server.url)
        stage.ready()
        stage.whole()
        (kernel,) = find_kernels(server.process.pid)
        box, started = stage.box, time.monotonic()
        steps = walk(slide, (box["width"], box["height"]), seed=SEED)
        for n, gesture in enumerate(steps):
            minutes = (time.monotonic() - started) / 60
            if minutes * 8 >= len(rows) * bench.asked.minutes:  # nine rows
                rows.append({"minutes": minutes, "gestures": n} | memory_mb(kernel))
            if minutes >= bench.asked.minutes:
                break
            stage.go(gesture)
    return rows


def measure_lab(bench: Bench) -> list[dict[str, Any]]:
    """In JupyterLab beside jupyter-islide: a cell's run to its first view, the walk, memory."""
    rows = []
    slide, path = bench.slide(USUAL)
    peer = peer_folder(bench.cache)
    pythons = {"ours": Path(sys.executable), "jupyter-islide": peer / "bin/python"}
    for name, python in pythons.items():
        if not (peer / "ready").is_file() and name != "ours":
            rows.append({"viewer": name, "when": "not installed: run --setup"})
            continue
        rows += measure_in_lab(bench, name, python, slide, path)
    return rows


def measure_in_lab(
    bench: Bench, name: str, python: Path, slide: BenchSlide, path: Path
) -> list[dict[str, Any]]:
    viewer = VIEWERS[name]
    cells = [show(viewer.cell, path), BUSY_CELL.replace("FLAG", repr(str(bench.flag)))]
    rows: list[dict[str, Any]] = []
    with serving_lab(python, cells) as (pid, url), bench.page() as page:
        open_notebook(page, url)
        (kernel,) = find_kernels(pid)
        stage = Stage(page, viewer)
        runs = [run_cell(stage)]
        size = f"{stage.box['width']:.0f} × {stage.box['height']:.0f} px"
        before = memory_mb(kernel)
        calm = stage.walk(slide, bench.asked.moves)
        after = memory_mb(kernel)
        memory = {"uss_mb at start": before["uss_mb"], "uss_mb after": after["uss_mb"]}
        runs += [run_cell(stage) for _ in range(bench.asked.opens - 1)]
        opened = {"first cell s": runs[0]["view"], "next cells s": statistics.median(
            [run["view"] for run in runs[1:]] or [float("nan")])}  # fmt: skip
        rows.append({"viewer": name, "stage": size, "when": "calm"} | opened | calm | memory)
        rows.append({"viewer": name, "stage": size} | walk_busy(bench, stage, slide))
    return rows


def run_cell(stage: Stage) -> dict[str, float]:
    """Run the viewer's cell; return s to its first tile and first view."""
    page = stage.page
    enter_cell(page, 0)
    page.evaluate("ruler.begin()")
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(150)  # the former output goes
    told = stage.ready()
    return {name: (value - told["input"]) / 1000
            for name, value in (("first", told["first"]), ("view", last(told)))}  # fmt: skip


def walk_busy(bench: Bench, stage: Stage, slide: BenchSlide) -> dict[str, Any]:
    """Walk while the second cell computes; it must still compute at the end."""
    page = stage.page
    # what is seen of another viewer cannot say that an answer is still to come: wait longer for it
    patient = stage if stage.viewer.quiet_ms < 1000 else Stage(
        page, replace(stage.viewer, quiet_ms=2 * stage.viewer.quiet_ms))  # fmt: skip
    with bench.busy():
        enter_cell(page, 1)
        page.keyboard.press("Control+Enter")
        page.wait_for_timeout(1000)
        page.locator(stage.viewer.selector).first.scroll_into_view_if_needed()
        if stage.viewer.selector == ".hv-stage":
            page.locator(".hv-stage").first.focus()
        told = patient.walk(slide, bench.asked.moves)
        said = "a cell computes" if is_computing(page, 1) else "the cell does not compute"
    return {"when": said} | told


def peer_folder(cache: Path) -> Path:
    return cache / "venvs/islide"


def set_up(cache: Path) -> None:
    """Make the environment of jupyter-islide, with JupyterLab as it is here."""
    folder = peer_folder(cache)
    wanted = [name if "=" in name else f"{name}=={version(name)}" for name in PEER]
    if not (folder / "bin/python").exists():
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "-q", *wanted], check=True)
    (folder / "ready").write_text(" ".join(wanted))


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n### {title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(say(row.get(name)) for name in names)} |", flush=True)


def say(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"  # noqa: PLR0124 (NaN)
    return "–" if value is None else str(value)


WHAT = {"open": measure_open, "settle": measure_settle, "memory": measure_memory,
        "lab": measure_lab}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--setup", action="store_true", help="install jupyter-islide, on its own")
    parser.add_argument("--what", nargs="*", choices=WHAT, default=list(WHAT))
    parser.add_argument("--slides", nargs="*", choices=SLIDES, help="for settle  [default: all]")
    parser.add_argument("-n", "--opens", type=int, default=10)
    parser.add_argument("--moves", type=int, default=40, help="gestures of a walk")
    parser.add_argument("--minutes", type=float, default=2.0, help="of panning, for memory")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/histo_nb/benchmark"))
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    cache = asked.cache.expanduser().absolute()
    if asked.setup:
        return set_up(cache)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    told = {"load": os.getloadavg()[0], "cores": psutil.cpu_count()}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        bench = Bench(browser, cache, asked)
        for name in asked.what:
            told[name] = WHAT[name](bench)
            print_table(WHAT[name].__doc__.splitlines()[0], told[name])
            if asked.json:
                asked.json.write_text(json.dumps(told, indent=1))
    return None


if __name__ == "__main__":
    main()
