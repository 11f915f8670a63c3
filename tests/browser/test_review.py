"""The review page in a real browser: what a pathologist sees, and what a stranger does not.

Voila answers 200 even when a cell fails, so each test looks at the page itself.
"""

import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest

from histo_nb.errors import HistoError
from histo_nb.files import hash_content
from histo_nb.home import Home, open_home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.running.serve import DashboardServer, serve_dashboards
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
PLANTED = '<img src=x onerror="window.planted=1">'
PATIENT = "Planted Patient Name"
CLASSES = ["normal", "adenoma", "carcinoma"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


# --------------------------------------------------------------------------- what is served
def write_slide(path: Path) -> Path:
    rng = np.random.default_rng(0)
    strip = rng.normal((215, 160, 200), 12, (256, WIDTH, 3)).clip(0, 255).astype(np.uint8)
    label = np.full((64, 64, 3), 255, np.uint8)
    spec = PyramidSpec(size=(WIDTH, HEIGHT))
    strips = [strip] * (HEIGHT // 256)
    return write_pyramid(strips, path, spec=spec, label=label, macro=lambda _: label)


def predictions(slide_id: str, path: Path, abnormal: list[tuple[int, int]]) -> pd.DataFrame:
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
    table = predictions(slide_id, path, abnormal)
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


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardServer]:
    home = open_home(tmp_path_factory.mktemp("home"))
    add_result(home, "S-clean", abnormal=[])
    add_result(home, PLANTED, abnormal=[(2, 3), (3, 3), (12, 8)], gate_passed=False, n_failures=2)
    damaged = add_result(home, "S-damaged", abnormal=[(1, 1)])
    (damaged / "result.json").write_text('{"slide_id": "S-da')
    with serve_dashboards(home, port=0) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def cell_page(home: Home, folder: Path, code: str) -> Iterator[Any]:
    """A page that shows the widget of one cell, in a browser of its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    folder.mkdir()
    nbformat.write(notebook, folder / "review.ipynb")  # the name the server opens first
    with serve_dashboards(home, port=0, folder=folder) as server, playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = new_page(chromium)
        page.goto(server.url)
        yield page
        chromium.close()


def new_page(browser: Any) -> Any:
    """Return a page that remembers what it asked of whom, and what went wrong in it."""
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.asked, page.wrong = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("websocket", lambda socket: page.asked.append(socket.url))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    return page


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = new_page(browser)
    yield page
    page.context.close()


@pytest.fixture(scope="module")
def opened(browser: Any, server: DashboardServer) -> Any:
    page = new_page(browser)
    page.goto(server.url)
    page.wait_for_selector(".hv-stage[data-state=ready]", timeout=60_000)
    return page


@pytest.fixture
def review(opened: Any) -> Any:
    """The open page, put back to its first slide; opening it anew takes seconds."""
    opened.get_by_role("option").last.click()
    opened.locator(".hf-slide", has_text="S-clean").wait_for()
    opened.get_by_role("option").first.click()
    opened.locator(".hf-slide", has_text=PLANTED).wait_for()
    opened.wait_for_selector(".hv-stage[data-state=ready]")
    return opened


def view_of(page: Any) -> list[float]:
    """Return what the viewer shows: x, y, width, height in level-0 px."""
    return [float(v) for v in page.get_attribute(".hv-outlines", "viewBox").split()]


def at_rest(page: Any) -> list[float]:
    view = view_of(page)
    for _ in range(50):
        page.wait_for_timeout(100)
        before, view = view, view_of(page)
        if before == view:
            break
    return view


# ------------------------------------------------------------------------------ what is seen
def test_suspicious_slide_comes_first_and_is_open(opened: Any) -> None:
    assert opened.locator(".hw-id").all_inner_texts() == [PLANTED, "S-damaged", "S-clean"]
    assert opened.locator("[aria-selected=true] .hw-id").inner_text() == PLANTED
    assert opened.locator(".hf-class").inner_text().lower() == "carcinoma"
    assert "87% confidence" in opened.locator(".hf-answer").inner_text()
    assert "more than 1 % of its tissue" in opened.locator(".hf").inner_text()
    assert opened.wrong == []


def test_html_in_names_is_text_and_no_name_or_traceback_is_shown(review: Any) -> None:
    assert review.evaluate("window.planted") is None
    assert review.locator("img[src=x]").count() == 0
    content = review.content()
    assert PATIENT not in content
    assert "Traceback" not in content
    assert "Error" not in review.inner_text("body")


def test_doubts_and_research_use_are_visible(review: Any) -> None:
    assert review.get_by_text("Research use only — not for diagnosis").is_visible()
    assert review.get_by_text("did not pass its gate").is_visible()
    assert review.get_by_text("could not be read and are left out").is_visible()


def test_selecting_a_slide_shows_its_class_by_mouse_and_keyboard(review: Any) -> None:
    review.get_by_role("option").filter(has_text="S-clean").click()
    review.locator(".hf-slide", has_text="S-clean").wait_for()
    assert review.locator(".hf-class").inner_text().lower() == "normal"
    assert "No abnormal region" in review.locator(".hf").inner_text()
    review.locator(".hw-list").focus()
    review.keyboard.press("Home")
    review.locator(".hf-slide", has_text=PLANTED).wait_for()


def test_damaged_result_is_a_calm_message(review: Any) -> None:
    review.locator(".hw-list").focus()
    review.keyboard.press("ArrowDown")
    review.get_by_text("This result cannot be read").wait_for()
    assert "histo-nb analyse S-damaged" in review.locator(".hf").inner_text()
    assert review.get_by_text("Nothing to show for this slide").is_visible()
    review.keyboard.press("ArrowUp")
    review.locator(".hf-class", has_text="carcinoma").wait_for()


def test_take_me_there_moves_and_sharpens(review: Any) -> None:
    x, y, width, height = at_rest(review)
    assert x <= 0
    assert y <= 0
    assert x + width >= WIDTH
    assert y + height >= HEIGHT
    review.get_by_role("button", name="Take me there: region 2").click()
    review.wait_for_selector(".hv-stage[data-details]")  # a sharp picture has come
    x, y, width, height = at_rest(review)
    left, top = 12 * TILE, 8 * TILE
    assert x < left < left + TILE < x + width
    assert y < top < top + TILE < y + height
    assert max(width, height) < WIDTH / 2
    assert review.locator(".hf-picked").inner_text().startswith("2")


def test_wheel_keeps_the_place_under_the_cursor(review: Any) -> None:
    box = review.locator(".hv-stage").bounding_box()
    dx, dy = 0.3 * box["width"], 0.6 * box["height"]
    x, y, width, _ = at_rest(review)
    before = (x + dx * width / box["width"], y + dy * width / box["width"])
    review.mouse.move(box["x"] + dx, box["y"] + dy)
    review.mouse.wheel(0, -300)
    review.wait_for_selector(".hv-stage[data-details]")
    x, y, narrower, _ = at_rest(review)
    after = (x + dx * narrower / box["width"], y + dy * narrower / box["width"])
    assert narrower < 0.7 * width
    assert np.allclose(before, after, atol=2 * narrower / box["width"])  # 2 CSS px


def test_heatmap_colours_the_abnormal_tiles_only(review: Any) -> None:
    review.wait_for_selector(".hv-stage[data-heatmap=shown]")
    x, y, width, _ = at_rest(review)
    stage = review.locator(".hv-stage").bounding_box()

    def colour(tile: tuple[int, int], opacity: str) -> np.ndarray:
        review.locator(".hv-slider input").fill(opacity)
        review.wait_for_timeout(300)
        scale = stage["width"] / width
        place = [round(((t + 0.5) * TILE - o) * scale) for t, o in zip(tile, (x, y), strict=True)]
        script = "p => [...document.querySelector('.hv-stage canvas').getContext('2d')"
        pixels = review.evaluate(f"{script}.getImageData(p[0], p[1], 4, 4).data]", place)
        return np.reshape(pixels, (-1, 4)).mean(axis=0)[:3]

    change = {tile: colour(tile, "1") - colour(tile, "0") for tile in [(2, 3), (8, 8)]}
    assert change[2, 3][2] < -60  # yellow takes the blue away
    assert np.abs(change[8, 8]).max() < 20


def test_ruler_and_magnification_follow_the_zoom(review: Any) -> None:
    review.get_by_role("button", name="Magnify 20×").click()
    at_rest(review)
    assert review.locator(".hv-power").inner_text() == "20×"
    bar = review.locator(".hv-bar").bounding_box()["width"]
    assert review.locator(".hv-ruler").inner_text() == "50 µm"
    assert bar == pytest.approx(100, abs=1)  # 50 µm at 0.5 µm/px, one slide px a screen px


# --------------------------------------------------------------------------- who may see it
def test_nothing_is_asked_of_anyone_else(review: Any, server: DashboardServer) -> None:
    review.get_by_role("button", name="Take me there: region 1").click()
    review.wait_for_selector(".hv-stage[data-details]")
    own = (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", "data:", "blob:")
    assert [url for url in review.asked if not url.startswith(own)] == []
    assert len(review.asked) > 10
    assert server.token not in review.url


def test_without_the_token_there_is_a_login_and_nothing_else(
    page: Any, server: DashboardServer
) -> None:
    base = f"http://127.0.0.1:{server.port}/"
    for path in ("", "voila/render/review.ipynb", "?token=wrong"):
        page.goto(base + path)
        assert "/login" in page.url
        assert page.get_by_label("Token").is_visible()
        assert "S-clean" not in page.content()
    page.get_by_label("Token").fill(server.token)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".hw-list", timeout=60_000)


@pytest.mark.parametrize(
    "path",
    [
        "voila/files/review.ipynb",
        "voila/files/picture.png",
        "api/kernels/00000000-0000-0000-0000-000000000000",
    ],
)
def test_stranger_gets_no_file_and_no_kernel(server: DashboardServer, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/{path}")
    assert refused.value.code == 403


def test_pages_not_in_the_folder_are_refused(page: Any, server: DashboardServer) -> None:
    page.goto(server.url)
    outside = ("render/missing.ipynb", "render/..%2F..%2Fsetup.ipynb", "render/%2e%2e/x.ipynb")
    for path in (*outside, "tree", "api/contents/"):
        answer = page.goto(f"http://127.0.0.1:{server.port}/voila/{path}")
        assert answer.status == 404
        assert page.get_by_text("There is no such page").is_visible()


# ------------------------------------------------------------------------------ other pages
def test_empty_catalogue_says_what_to_do(page: Any, home: Home) -> None:
    with serve_dashboards(home, port=0, token="a token of mine") as server:
        page.goto(server.url)
        page.get_by_text("No slide has been analysed yet").wait_for(timeout=60_000)
        assert page.get_by_text("histo-nb demo").is_visible()
        assert page.get_by_text("histo-nb analyse").is_visible()
        assert page.get_by_text("Research use only").is_visible()


def test_failing_page_is_a_calm_message(page: Any, home: Home, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "dashboards/review.ipynb", tmp_path / "review.ipynb")
    broken = (tmp_path / "review.ipynb").read_text().replace("show_review(", "secret_failure(")
    (tmp_path / "review.ipynb").write_text(broken)
    with serve_dashboards(home, port=0, folder=tmp_path) as server:
        page.goto(server.url)
        page.get_by_text("This page could not be opened").wait_for(timeout=60_000)
        assert "secret_failure" not in page.content()
        assert "Traceback" not in page.content()


def test_server_and_kernels_end_with_stop(page: Any, home: Home) -> None:
    with serve_dashboards(home, port=0) as server:
        page.goto(server.url)
        page.get_by_text("No slide has been analysed yet").wait_for(timeout=60_000)
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert children
    assert server.process.returncode == 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


def test_taken_port_and_empty_token_are_named_errors(server: DashboardServer, home: Home) -> None:
    with pytest.raises(HistoError, match="choose another port"):
        serve_dashboards(home, port=server.port)
    with pytest.raises(HistoError, match="let everybody in"):
        serve_dashboards(home, port=0, token=" ")


def test_page_loads_no_learning_library(home: Home) -> None:
    code = (
        "import sys; from histo_nb.home import open_home; "
        "from histo_nb.widgets.review import show_review; show_review(open_home()); "
        "print(sorted({'torch', 'fastai', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
