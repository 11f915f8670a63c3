"""The tile-label board in Chromium with 10,000 tiles: opening, turning pages, labelling.

`python benchmarks/board.py [--tiles 10000]`. Seconds as a person sees them: from the key to the
last picture of the page, and to "All saved".
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from histo_nb.home import Home, open_home  # noqa: E402
from histo_nb.masking.masks import mask_slides  # noqa: E402
from histo_nb.running.serve import serve_dashboards  # noqa: E402
from histo_nb.scanning.console import scan_rack  # noqa: E402
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack  # noqa: E402
from histo_nb.tiling.grid import TileSpec, tile_slides  # noqa: E402
from histo_nb.tiling.labels import label_slides  # noqa: E402
from histo_nb.tiling.table import file_tiles  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu"]
LOOKED_AT = ".hb-grid:not([data-loading]) .hb-cell[aria-selected]:not([data-state=waiting])"
ALL_SHOWN = "!document.querySelector('.hb-cell[data-state=waiting]')"
ALL_SAVED = "document.querySelector('.hb-saved').textContent === 'All saved'"


def fill(home: Home, n_tiles: int) -> int:
    scan_rack(fill_rack(RackSpec(patients_per_class=2)), home)
    mask_slides(home, [])
    tiles, _ = tile_slides(home, [], spec=TileSpec(tile_size=160))
    rows = label_slides(home, tiles.sample(n_tiles, random_state=1).reset_index(drop=True))
    file_tiles(rows, home)
    return len(rows)


def turn(page: Page, n: int) -> list[float]:
    seconds = []
    for _ in range(n):
        before = page.locator(".hb-page").inner_text()
        start = time.perf_counter()
        page.keyboard.press("PageDown")
        page.wait_for_function(f"document.querySelector('.hb-page').textContent !== '{before}'")
        page.wait_for_function(ALL_SHOWN)
        seconds.append(time.perf_counter() - start)
        page.wait_for_timeout(1000)  # a person looks; the next page is fetched meanwhile
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=10_000)
    asked = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder))
        print(f"{fill(home, asked.tiles)} tiles")
        with serve_dashboards(home, port=0) as server, sync_playwright() as play:
            page = play.chromium.launch(executable_path=chromium, args=FLAGS).new_page()
            start = time.perf_counter()
            page.goto(server.url.replace("/?", "/voila/render/board.ipynb?"))
            page.wait_for_selector(".hb-cell[data-state=shown]", timeout=120_000)
            page.wait_for_function(ALL_SHOWN)
            print(f"open: {time.perf_counter() - start:.1f} s")
            page.locator(".hb-grid").focus()
            pages = turn(page, 20)
            print(
                f"a page, fetched ahead: {statistics.median(pages):.2f} s, worst {max(pages):.2f}"
            )
            first = page.locator(".hb-cell").first.get_attribute("data-tile")
            start = time.perf_counter()
            page.locator(".hb-slider").fill("100")
            page.wait_for_selector(f".hb-cell:first-child:not([data-tile='{first}'])")
            page.wait_for_function(ALL_SHOWN)
            print(f"a jump far away: {time.perf_counter() - start:.2f} s")
            page.locator(".hb-grid").focus()
            page.wait_for_timeout(1000)
            start = time.perf_counter()
            for i in range(200):
                page.wait_for_selector(LOOKED_AT)
                page.keyboard.press(str(1 + i % 3))
            page.wait_for_function(ALL_SAVED)
            seconds = time.perf_counter() - start
            saved = len(home.catalog.hand_labels())
            print(f"200 labels as fast as keys come: {seconds:.1f} s, {saved} saved")


if __name__ == "__main__":
    main()
