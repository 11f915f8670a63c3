"""Make the README's pictures from the home that `HISTO_HOME` names (or the first argument).

`docs/img/review.png` and `review-dark.png` are the review page; `docs/img/patient.png` the page of
a personal link and `docs/img/report.png` a report, of a slide that is signed here for them;
`docs/img/board.png` the tile-label board with two annotators and `docs/img/studio.png` the mask
studio, over slides that are spoilt here; `docs/img/operations.png` the operations page and
`docs/img/rack.png` the rack panel after a morning that is played here: a rack with spoilt slides
and faults, two files that are refused; `docs/img/evaluation.png` and `docs/img/gradcam.png` what
the model in production is worth and where it looks, `docs/img/card.png` its card;
`docs/img/analysis.png` the most suspicious slide; `docs/img/cohort.png` the page of a cohort of all
slides; `docs/img/notebook.png` a notebook in JupyterLab, the last one executed, else the first one
of `notebooks/`.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

import nbformat
from playwright.sync_api import Browser, sync_playwright
from shapely.geometry import mapping

from histo_nb.balancing.dataset import open_dataset
from histo_nb.export.model_card import make_model_card
from histo_nb.export.report import make_report
from histo_nb.home import Home, open_home
from histo_nb.inference.result import read_result
from histo_nb.masking.masks import mask_slides
from histo_nb.model.bundle import open_bundle
from histo_nb.model.registry import production_model
from histo_nb.reviews import Judgement, find_signature, judge, region_key
from histo_nb.running.cohort.record import run_cohort
from histo_nb.running.demo import home_with_results
from histo_nb.running.links import make_link
from histo_nb.running.serve import serve_dashboards
from histo_nb.scanning.console import scan_rack
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import IntakeSpec, receive
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.tiling.labels import label_slides
from histo_nb.tiling.table import file_tiles
from histo_nb.training.look import look_at
from histo_nb.widgets.figures import show_class_heatmaps
from histo_nb.widgets.training_figures import show_evaluation, show_gradcam

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "img"
SIZE = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
RACK_CELL = """
from histo_nb.home import open_home
from histo_nb.scanning.console import ScannerConsole
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner
from histo_nb.widgets.rack_panel import show_rack

spec = RackSpec(patients_per_class=3, width_um=4800, height_um=3600,
                defects=("pen", "bubble", "faint", "coverslip"))
faults = [Fault(2, "jam"), Fault(3, "focus", 9), Fault(5, "barcode", 9)]
show_rack(ScannerConsole(VirtualScanner(fill_rack(spec), faults=faults), open_home()))
"""
STUDIO_CELL = """
from histo_nb.home import open_home
from histo_nb.widgets.studio import show_studio

show_studio(open_home())
"""
LOOKED_AT = ".hb-grid:not([data-loading]) .hb-cell[aria-selected]:not([data-state=waiting])"
START_S = 60.0
SCROLL_PX = 300


def pictures_review(browser: Browser, home: Home) -> Iterator[Path]:
    """Write the pictures of the review page by day and by night, at its first region."""
    with serve_dashboards(home, port=0) as server:
        for name, scheme in (("review.png", "light"), ("review-dark.png", "dark")):
            page = browser.new_page(viewport=SIZE, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(server.url)
            page.wait_for_selector(".hv-stage[data-state=ready]", timeout=60_000)
            page.get_by_role("button", name="Take me there: region 1").click()
            page.wait_for_timeout(1500)
            page.screenshot(path=PICTURES / name)
            page.close()
            yield PICTURES / name


def pictures_signed(browser: Browser, home: Home) -> Iterator[Path]:
    """Sign the most suspicious slide; write pictures of its report and its patient's page."""
    result = read_result(home.catalog.results().result_path.iloc[0])
    region = result.regions[0]
    said = {"slide_id": result.slide_id, "model_id": result.model_id, "label": region.label}
    place = {"subject": region_key(region.outline), "outline": json.dumps(mapping(region.outline))}
    if find_signature(home.catalog.reviews([result.slide_id])) is None:
        for judgement in (
            Judgement(kind="region", verdict="agree", **said, **place),
            Judgement(kind="slide", verdict="agree", **said),
            Judgement(kind="signature", verdict="signed", **said),
        ):
            judge(home, judgement, reviewer="Dr Ada")
    page = browser.new_page(viewport={"width": 900, "height": 1000})
    page.set_content(make_report(home, result.slide_id, kind="html").decode())
    page.screenshot(path=PICTURES / "report.png")
    yield PICTURES / "report.png"
    with serve_dashboards(home, port=0) as server:
        link = make_link(home, result.slide_id, base_url=server.url.split("?")[0])
        page.goto(link.address)
        page.locator("img").wait_for(timeout=60_000)
        page.screenshot(path=PICTURES / "patient.png")
        page.close()
    yield PICTURES / "patient.png"


def picture_card(browser: Browser, home: Home) -> Path:
    """Write the picture of the card of the model in production."""
    page = browser.new_page(viewport={"width": 900, "height": 900})
    page.set_content(make_model_card(home, production_model(home).name).decode())
    page.screenshot(path=PICTURES / "card.png")
    page.close()
    return PICTURES / "card.png"


def pictures_evaluation(home: Home) -> list[Path]:
    """Write the page of figures of the model in production, and where it looks."""
    bundle = open_bundle(production_model(home))
    dataset = open_dataset(home.datasets / bundle.card.dataset_id)
    pages = {
        "evaluation.png": show_evaluation(bundle.gate or {}),
        "gradcam.png": show_gradcam(*look_at(bundle, dataset, n=4)),
    }
    for name, axes in pages.items():
        axes.flat[0].figure.savefig(PICTURES / name, dpi=90)
    return [PICTURES / name for name in pages]


def picture_analysis(home: Home) -> Path:
    """Draw the most suspicious slide, the probability of each class, and the doubts."""
    result = read_result(home.catalog.results().result_path.iloc[0])
    row = home.catalog.slide(result.slide_id)
    with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
        axes = show_class_heatmaps(slide, result)
    doubts = " ".join(result.doubts or ["No reason to doubt it was found."])
    said = f"{result.slide_class}, confidence {result.confidence:.2f}. {doubts}"
    figure = axes.ravel()[0].figure
    figure.suptitle(f"{said}\nResearch use only — not for diagnosis", fontsize=10)
    figure.savefig(PICTURES / "analysis.png", dpi=90, bbox_inches="tight")
    return PICTURES / "analysis.png"


def fill_masked(home: Home) -> None:
    """Give a home spoilt slides with masks and labelled tiles."""
    spoilt = ("pen", "faint", "fold", "bubble", "empty")
    scan_rack(fill_rack(RackSpec(patients_per_class=3, defects=spoilt)), home)
    mask_slides(home, [])
    tiles, _ = tile_slides(home, [], spec=TileSpec(tile_size=512))
    file_tiles(label_slides(home, tiles), home)


def picture_board(browser: Browser, home: Home) -> Path:
    """Write the picture of the tile-label board, on which two annotators have begun."""
    with serve_dashboards(home, port=0) as server:
        for name, keys in (("Ben", "1132111311"), ("Ada", "1131112311")):
            page = browser.new_page(viewport=SIZE)
            page.goto(server.url)
            page.get_by_role("link", name="Tile labels").click()
            page.wait_for_selector(".hb-cell[data-state=shown]", timeout=60_000)
            page.get_by_label("Your name").fill(name)
            page.get_by_label("Your name").press("Enter")
            page.locator(".hb-grid").focus()
            for key in keys:
                page.wait_for_selector(LOOKED_AT)
                page.keyboard.press(key)
            page.wait_for_timeout(7000)  # the page has counted again
            page.screenshot(path=PICTURES / "board.png")
            page.close()
    return PICTURES / "board.png"


def picture_studio(browser: Browser, home: Home) -> Path:
    """Write the picture of the mask studio on an inked slide."""
    with _serving_cell(home, STUDIO_CELL) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 780})
        page.goto(url)
        page.wait_for_selector(".hm-stage[data-masks]", timeout=120_000)
        page.locator(".hm-item").nth(1).click()
        page.locator(".hm-method").nth(3).wait_for()
        page.wait_for_timeout(3000)
        page.locator(".hm").screenshot(path=PICTURES / "studio.png")
        page.close()
    return PICTURES / "studio.png"


def picture_operations(browser: Browser, home: Home) -> Path:
    """Write the picture of the operations page of a home."""
    with serve_dashboards(home, port=0) as server:
        page = browser.new_page(viewport=SIZE)
        page.goto(server.url)
        page.get_by_role("link", name="Operations").click()
        page.wait_for_selector(".ho-image:visible", timeout=60_000)
        page.wait_for_timeout(2000)
        page.screenshot(path=PICTURES / "operations.png")
        page.close()
    return PICTURES / "operations.png"


def picture_rack(browser: Browser, home: Home) -> Path:
    """Write the picture of the rack panel while its third slide is scanned."""
    with _serving_cell(home, RACK_CELL) as url:
        page = browser.new_page(viewport=SIZE)
        page.goto(url)
        page.get_by_role("button", name="Start the rack").click(timeout=120_000)
        page.locator(".hk-slot[data-state=scanning]").nth(0).wait_for()
        page.locator(".hk-image:visible").nth(3).wait_for(timeout=120_000)
        page.wait_for_timeout(1500)
        page.locator(".hk").screenshot(path=PICTURES / "rack.png")
        page.get_by_text("The rack is done").wait_for(timeout=120_000)
        page.close()
    return PICTURES / "rack.png"


@contextmanager
def _serving_cell(home: Home, code: str) -> Iterator[str]:
    """Serve a page of one cell; yield its address."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    with tempfile.TemporaryDirectory() as name:
        nbformat.write(notebook, Path(name) / "review.ipynb")  # the page a server opens first
        with serve_dashboards(home, port=0, folder=Path(name), pages=("review",)) as server:
            yield server.url


def picture_cohort(browser: Browser, home: Home, bad: list[Path]) -> Path:
    """Take all slides, and files that are refused, through a cohort; write its page's picture."""
    names = home.catalog.slides().slide_id.tolist()
    done = run_cohort(home, [*map(str, bad), *names])
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(done.page.as_uri())
    page.screenshot(path=PICTURES / "cohort.png")
    page.close()
    return PICTURES / "cohort.png"


def write_bad_files(folder: Path) -> list[Path]:
    """Write two slides that intake refuses: one does not say its mpp, one is cut off."""
    glass = draw_glass("P9", diagnosis="adenoma", seed=9, spec=DrawnSpec(size_um=(2400, 1800)))
    whole = write_scan(glass, folder / "whole.svs", spec=ScanSpec()).read_bytes()
    silent, cut = folder / "silent.svs", folder / "cut.svs"
    silent.write_bytes(whole.replace(b"|MPP = ", b"|XPP = "))
    cut.write_bytes(whole[: len(whole) * 2 // 3])
    return [silent, cut]


def refuse_files(home: Home, files: list[Path]) -> None:
    """Give a home slides that intake refused, and one that waits."""
    for path in files:
        receive(path, home, spec=IntakeSpec(source="hot folder"))
    home.catalog.put_waiting("hot folder", {"0": "not whole yet: it still grows"})


def picture_notebook(browser: Browser, notebook: Path) -> Path:
    """Write the picture of a notebook in JupyterLab, which is started for it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(notebook, folder)
        port, token = _free_port(), secrets.token_urlsafe()
        lab = _start_lab(Path(folder), port, token)
        try:
            _wait_for(f"http://127.0.0.1:{port}/api?token={token}", lab)
            page = browser.new_page(viewport=SIZE)
            page.goto(f"http://127.0.0.1:{port}/lab/tree/{notebook.name}?token={token}")
            page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=60_000)
            page.wait_for_timeout(3000)
            page.keyboard.press("Control+b")  # the file browser shows nothing of interest
            page.wait_for_timeout(1000)
            page.mouse.move(SIZE["width"] / 2, SIZE["height"] / 2)
            for _ in range(20):  # cells are drawn as they come into view
                if page.locator(".jp-RenderedImage img").count():
                    break
                page.mouse.wheel(0, SCROLL_PX)
                page.wait_for_timeout(300)
            if page.locator(".jp-RenderedImage img").count():
                page.locator(".jp-RenderedImage img").first.scroll_into_view_if_needed()
            page.wait_for_timeout(1000)
            page.screenshot(path=PICTURES / "notebook.png")
            page.close()
        finally:
            lab.terminate()
            lab.wait()
    return PICTURES / "notebook.png"


def find_notebook(home: Home) -> Path | None:
    """Return the last executed notebook, else the first one stored; `None` if there is none."""
    executed = sorted(home.runs.rglob("*.ipynb"), key=lambda path: path.stat().st_mtime)
    stored = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return next(iter([*reversed(executed), *stored]), None)


def _start_lab(folder: Path, port: int, token: str) -> "subprocess.Popen[bytes]":
    # Settings and workspaces of its own: what a person has set up is neither used nor changed.
    own = {
        f"JUPYTERLAB_{name}_DIR": str(folder / f".{name}") for name in ("SETTINGS", "WORKSPACES")
    }
    news = folder / ".SETTINGS/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false"}')  # else JupyterLab asks in front of the notebook
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "Application.log_level": "ERROR",
        "IdentityProvider.token": token,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    arguments = [f"--{name}={value}" for name, value in options.items()]
    return subprocess.Popen([*command, *arguments], env={**os.environ, **own})


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    end = monotonic() + START_S
    while monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url).close()
        except urllib.error.URLError:
            sleep(0.3)
        else:
            return
    raise SystemExit("screenshots: JupyterLab did not start")


def main() -> None:
    """Write the pictures and print their paths."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("screenshots: Chromium is not installed")
    home = home_with_results(open_home(*sys.argv[1:2]))
    if home.catalog.results().empty:
        raise SystemExit(f"screenshots: {home.root} holds no results; run `histo-nb demo` first")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        print(*pictures_review(browser, home), sep="\n")
        print(*pictures_signed(browser, home), sep="\n")
        print(picture_card(browser, home))
        print(*pictures_evaluation(home), sep="\n")
        print(picture_analysis(home))
        notebook = find_notebook(home)
        if notebook is None:
            print("screenshots: no notebook yet, no picture of one", file=sys.stderr)
        else:
            print(picture_notebook(browser, notebook))
        with tempfile.TemporaryDirectory() as name:
            room = open_home(Path(name) / "home")
            bad = write_bad_files(Path(name))
            print(picture_cohort(browser, home, bad))
            refuse_files(room, bad)
            masked = open_home(Path(name) / "masked")
            fill_masked(masked)
            print(picture_board(browser, masked))
            print(picture_studio(browser, masked))
            print(picture_rack(browser, room))
            print(picture_operations(browser, room))
        browser.close()


if __name__ == "__main__":
    main()
