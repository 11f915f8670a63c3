"""How long a page takes from its address to its first slide, and what a visitor costs.

    python benchmarks/dashboard.py                       # warm: a kernel waits
    python benchmarks/dashboard.py --cold                # none does
    python benchmarks/dashboard.py --visitors 10 --cold  # ten at once

Serves the home that HISTO_HOME names, or a demo in it. Prints one line of JSON: seconds from
"go there" until `--until` is visible, the parts of that time, and MB of the kernels.
"""

import argparse
import asyncio
import json
import shutil
import time
from statistics import median
from typing import Any

import psutil
from playwright.async_api import Browser, async_playwright
from playwright.async_api import TimeoutError as LateError

from histo_nb.home import open_home
from histo_nb.running.demo import home_with_results
from histo_nb.running.serve import DashboardServer, serve_dashboards

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
PARTS = """() => { const n = performance.getEntriesByType("navigation")[0];
  return {first_byte: n.responseStart / 1000, kernel_done: n.responseEnd / 1000}; }"""
SETTLE_S = 6.0  # a kernel gets warm


def kernels_mb(server: DashboardServer) -> list[float]:
    children = psutil.Process(server.process.pid).children(recursive=True)
    kernels = [p for p in children if "ipykernel_launcher" in " ".join(p.cmdline())]
    return sorted(round(p.memory_full_info().uss / 1e6, 1) for p in kernels)


async def open_page(browser: Browser, url: str, until: str) -> tuple[dict[str, float], Any]:
    context = await browser.new_context(viewport={"width": 1280, "height": 720})
    page = await context.new_page()
    started = time.perf_counter()
    try:
        await page.goto(url, wait_until="commit")
        await page.wait_for_selector(until, timeout=60_000)
        seconds = time.perf_counter() - started
    except LateError:
        seconds = float("nan")
    return {"seconds": seconds, **await page.evaluate(PARTS)}, context


async def measure(server: DashboardServer, args: argparse.Namespace) -> dict[str, Any]:
    async with async_playwright() as p:
        path = shutil.which("chromium")
        browser = await p.chromium.launch(executable_path=path, args=FLAGS)
        runs = []
        for _ in range(1 if args.visitors > 1 else args.repeat):
            await asyncio.sleep(0 if args.cold else SETTLE_S)
            opened = await asyncio.gather(
                *(open_page(browser, server.url, args.until) for _ in range(args.visitors))
            )
            memory = kernels_mb(server)
            runs += [facts for facts, _ in opened]
            for _, context in opened:
                await context.close()
        await browser.close()
    return {
        "kernels": "cold" if args.cold else "warm",
        "visitors": args.visitors,
        "opened": len(runs),
        **{f"{part}_s": round(median(run[part] for run in runs), 2) for part in runs[0]},
        "slowest_s": round(max(run["seconds"] for run in runs), 2),
        "kernels_mb": memory,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--visitors", type=int, default=1, help="at once")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--until", default=".hv-stage[data-state=ready]", help="what is waited for")
    parser.add_argument("--home", default=None)
    args = parser.parse_args()
    home = home_with_results(open_home(args.home))
    with serve_dashboards(home, port=0, n_warm=0 if args.cold else 1) as server:
        print(json.dumps(asyncio.run(measure(server, args))))


if __name__ == "__main__":
    main()
