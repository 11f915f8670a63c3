"""A home with results to review, and a browser to review them in."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import nbformat
import numpy as np
import pandas as pd
import pytest

from histo_nb.files import hash_content
from histo_nb.home import Home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.running.serve import serve_dashboards
from histo_nb.scanning.virtual.pyramid import PyramidSpec, write_pyramid

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [  # a quiet browser: nothing of its own on the network
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTH, HEIGHT, TILE = 4096, 3072, 256  # level-0 px
BLUE_TILE = 6, 5  # column, row of a tile that is blue all over; it is normal
PLANTED = '<img src=x onerror="window.planted=1">'
PATIENT = "Planted Patient Name"
CLASSES = ["normal", "adenoma", "carcinoma"]
EVALUATED = {"bypass_csp": True}  # for conditions of a test, which our script policy forbids
NO_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


def write_slide(path: Path) -> Path:
    """Pink noise with one blue tile; a name stands on the label."""
    rng = np.random.default_rng(0)
    strip = rng.normal((215, 160, 200), 12, (TILE, WIDTH, 3)).clip(0, 255).astype(np.uint8)
    with_blue = strip.copy()
    with_blue[:, BLUE_TILE[0] * TILE : (BLUE_TILE[0] + 1) * TILE] = (30, 60, 200)
    strips = [with_blue if row == BLUE_TILE[1] else strip for row in range(HEIGHT // TILE)]
    label = np.full((64, 64, 3), 255, np.uint8)
    spec = PyramidSpec(size=(WIDTH, HEIGHT))
    return write_pyramid(strips, path, spec=spec, label=label, macro=lambda _: label)


def make_predictions(slide_id: str, path: Path, abnormal: list[tuple[int, int]]) -> pd.DataFrame:
    """One row a tile; the tiles in `abnormal` are carcinoma, all others normal."""
    rows = [
        {
            "tile_id": f"{slide_id} {x},{y}",
            "slide_id": slide_id,
            "patient_id": PATIENT,
            "slide_path": str(path),
            "slide_mpp": 0.5,
            "x": x,
            "y": y,
            "size_l0": TILE,
            "level": 0,
            "read_size": TILE,
            "tile_size": TILE,
            "mpp": 0.5,
            "effective_mpp": 0.5,
            "read_path": "level0",
            "tissue": 1.0,
            **dict.fromkeys(("prob_normal", "prob_adenoma"), 0.02),
            "prob_carcinoma": 0.96,
            "prediction": "carcinoma",
        }
        for x in range(0, WIDTH, TILE)
        for y in range(0, HEIGHT, TILE)
    ]
    table = pd.DataFrame(rows)
    normal = [(x // TILE, y // TILE) not in abnormal for x, y in zip(table.x, table.y, strict=True)]
    table.loc[normal, ["prob_normal", "prob_carcinoma", "prediction"]] = [0.96, 0.02, "normal"]
    return table


def add_result(home: Home, slide_id: str, *, abnormal: list[tuple[int, int]], **facts: Any) -> Path:
    """File a slide and its result; return the result's folder."""
    path = home.slides / "slide.svs"
    if not path.exists():
        write_slide(path)
    home.catalog.add_slide(
        {
            "slide_id": slide_id,
            "slide_path": str(path),
            "sha256": hash_content(slide_id),
            "n_bytes": path.stat().st_size,
            "width": WIDTH,
            "height": HEIGHT,
            "n_levels": 3,
            "slide_mpp": 0.5,
            "mpp_source": "file",
            "source": "file",
        }
    )
    table = make_predictions(slide_id, path, abnormal)
    share = len(abnormal) / len(table)
    result = SlideResult(
        slide_id=slide_id,
        model_id="M-1",
        classes=CLASSES,
        normal_class="normal",
        slide_class="carcinoma" if abnormal else "normal",
        confidence=0.87,
        abnormal_fraction=share,
        class_fractions={"normal": 1 - share, "adenoma": 0.0, "carcinoma": share},
        rule="A slide is abnormal when more than 1 % of its tissue is.",
        tissue_mm2=3.1,
        seconds=1.0,
        predictions=table,
        regions=find_regions(table, normal_class="normal", slide_mpp=0.5),
        **({"gate_passed": True, "n_failures": 0} | facts),
    )
    return write_result(result, home, failures=pd.DataFrame(columns=["slide_id", "step", "error"]))


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start a browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def new_page(browser: Any, *, width: int = 1280, height: int = 720, **options: Any) -> Any:
    """Return a page that remembers what it asked of whom, and what went wrong in it."""
    size = {"width": width, "height": height}
    page = browser.new_context(viewport=size, **options).new_page()
    page.asked, page.heard, page.wrong = [], [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("websocket", lambda socket: _listen(page, socket))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    return page


def _hear(page: Any, frame: Any) -> None:
    page.heard.append(frame)  # playwright takes no method of a list


def _listen(page: Any, socket: Any) -> None:
    page.asked.append(socket.url)
    socket.on("framereceived", lambda frame: _hear(page, frame))


@contextmanager
def cell_page(browser: Any, home: Home, folder: Path, code: str, **options: Any) -> Iterator[Any]:
    """A page that shows the widget of one cell, served from a folder made for it."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    folder.mkdir()
    nbformat.write(notebook, folder / "review.ipynb")  # the name the server opens first
    with serve_dashboards(home, port=0, folder=folder, pages=("review",)) as server:
        page = new_page(browser, **options)
        page.goto(server.url)
        yield page
        page.context.close()


def settle(page: Any, n: int = 0) -> list[float]:
    """Wait until the n-th viewer is at rest and has all its tiles; return what it shows.

    `x, y, width, height` in level-0 px.
    """
    stage = page.locator(".hv-stage").nth(n)
    views: list[str] = []
    ready = False
    for _ in range(150):
        page.wait_for_timeout(100)
        views = [*views[-3:], stage.get_attribute("data-view") or ""]
        ready = stage.get_attribute("data-state") == "ready"
        if ready and len(views) == 4 and len(set(views)) == 1 and views[0]:
            return [float(value) for value in views[0].split()]
    raise AssertionError(f"the viewer does not settle: {views}, ready: {ready}")


def colour_at(page: Any, x: float, y: float, n: int = 0) -> np.ndarray:
    """Return the colour on the screen (RGB, layers and all) at a level-0 px."""
    left, top, width, _ = settle(page, n)
    box = page.locator(".hv-stage").nth(n).bounding_box()
    scale = box["width"] / width
    place = {"x": box["x"] + (x - left) * scale - 2, "y": box["y"] + (y - top) * scale - 2}
    file = page.screenshot(clip={**place, "width": 4, "height": 4})
    pixels = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[..., ::-1].reshape(-1, 3).mean(axis=0)


def screen_at(page: Any, x: float, y: float) -> tuple[float, float]:
    """Return where a level-0 px is on the screen."""
    left, top, width, _ = settle(page)
    box = page.locator(".hv-stage").first.bounding_box()
    scale = box["width"] / width
    return box["x"] + (x - left) * scale, box["y"] + (y - top) * scale
