"""Make the README's pictures from the home that `HISTO_HOME` names (or the first argument).

`docs/img/review.png` is the review page; `docs/img/notebook.png` a notebook in JupyterLab, the
last one executed, else the first one of `notebooks/`.
"""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from time import monotonic, sleep

from playwright.sync_api import Browser, sync_playwright

from histo_nb.home import Home, open_home
from histo_nb.running.demo import home_with_results
from histo_nb.running.serve import serve_dashboards

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "img"
SIZE = {"width": 1280, "height": 800}
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
START_S = 60.0
SCROLL_PX = 300


def picture_review(browser: Browser, home: Home) -> Path:
    """Write the picture of the review page with its first slide."""
    with serve_dashboards(home, port=0) as server:
        page = browser.new_page(viewport=SIZE)
        page.goto(server.url)
        page.wait_for_selector(".hv-stage[data-state=ready]", timeout=60_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=PICTURES / "review.png")
        page.close()
    return PICTURES / "review.png"


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
    """Write both pictures and print their paths."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("screenshots: Chromium is not installed")
    home = home_with_results(open_home(*sys.argv[1:2]))
    if home.catalog.results().empty:
        raise SystemExit(f"screenshots: {home.root} holds no results; run `histo-nb demo` first")
    PICTURES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        print(picture_review(browser, home))
        notebook = find_notebook(home)
        if notebook is None:
            print("screenshots: no notebook yet, no picture of one", file=sys.stderr)
        else:
            print(picture_notebook(browser, notebook))
        browser.close()


if __name__ == "__main__":
    main()
