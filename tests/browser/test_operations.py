"""The operations page in a real browser: a technician sees what came in, and lets a slide in."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from glasses import PlaneGlass, waves
from reviewed import NO_CHROMIUM, new_page, open_browser

from histo_nb.home import Home
from histo_nb.running.serve import serve_dashboards
from histo_nb.scanning.console import ScannerConsole
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import IntakeSpec, receive
from histo_nb.scanning.verify import verify_slides
from histo_nb.scanning.virtual.label import patient_name
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner, write_scan

pytestmark = [pytest.mark.browser, NO_CHROMIUM]
NAMED = "MUSTERMANN-ERIKA.svs"


@pytest.fixture
def busy(home: Home, tmp_path: Path) -> Home:
    """A home after a morning: a rack with a failure, a refused file, a file that waits."""
    glasses = [PlaneGlass(waves(600, 500, phase=i), patient_id=f"P{i}") for i in range(3)]
    scanner = VirtualScanner(glasses, faults=[Fault(2, "focus", 9)])
    slots = ScannerConsole(scanner, home, rack_id="R-1").run()
    silent = write_scan(PlaneGlass(waves(640, 480)), tmp_path / NAMED, spec=ScanSpec())
    content = silent.read_bytes()
    silent.write_bytes(content.replace(b"|MPP = 0.5", b"|MPX = 0.5"))
    assert receive(silent, home, spec=IntakeSpec(source="hot folder")).step == "mpp"
    home.catalog.put_waiting("hot folder", {"0123456789ab": "not whole yet: it still grows"})
    (home.slides / Path(home.catalog.slide(str(slots[2].slide_id))["slide_path"]).name).write_bytes(
        b"rotten"
    )
    verify_slides(home)
    return home


@pytest.fixture
def page(busy: Home) -> Iterator[Any]:
    pages = ("operations", "review")
    with serve_dashboards(busy, pages=pages, port=0) as server, open_browser() as browser:
        page = new_page(browser)
        page.goto(server.url)
        page.wait_for_selector(".ho-figure", timeout=60_000)
        yield page


def figures(page: Any) -> dict[str, int]:
    texts = page.locator(".ho-figure").all_inner_texts()
    return {text.split(maxsplit=1)[1]: int(text.split()[0]) for text in texts}


def test_a_technician_sees_the_day_and_lets_a_slide_in(page: Any, busy: Home) -> None:
    before = {"filed today": 2, "waiting": 1, "in quarantine": 1, "failures": 2}
    before |= {"not analysed": 2, "to judge": 0, "to sign": 0}
    assert figures(page) == before
    assert page.locator(".ho-slot").evaluate_all("all => all.map(i => i.dataset.state)") == [
        "done",
        "failed",
        "done",
    ]
    page.locator(".ho-image:visible").first.wait_for()
    assert page.locator(".ho-image:visible").first.evaluate("i => i.naturalWidth") == 240
    assert "it still grows" in page.locator(".ho-panel-waiting").inner_text()
    failures = page.locator(".ho-panel-failures").inner_text()
    assert "could not be scanned" in failures
    assert "damaged" in failures
    assert "Research use only" in page.locator(".hr-use").inner_text()

    quarantine = page.locator(".ho-panel-quarantine")
    assert "scale unknown" in quarantine.inner_text()
    assert "--slide-mpp" not in quarantine.inner_text(), "the page has a field for it"
    assert "1 file damaged" in page.locator(".ho-health").inner_text()
    assert "2 slides in 7 days" in page.locator(".ho-week").inner_text()
    page.get_by_role("button", name="Examine and release").click()
    page.get_by_text("stays in quarantine").wait_for(timeout=30_000)
    page.locator(".ho-mpp").fill("0.5")
    page.get_by_role("button", name="Examine and release").click()
    page.get_by_text("is filed as").wait_for(timeout=30_000)
    page.get_by_text("Nothing was refused.").wait_for()
    assert figures(page) == before | {"filed today": 3, "in quarantine": 0, "not analysed": 3}
    given = busy.catalog.slides().slide_mpp[busy.catalog.slides().mpp_source == "given"]
    assert given.tolist() == [0.5]
    assert page.wrong == []


def test_the_page_renews_itself_and_names_nobody(page: Any, busy: Home, tmp_path: Path) -> None:
    page.locator(".ho-image").first.wait_for()
    page.locator(".ho-card").first.focus()
    kept = page.evaluate("document.activeElement.dataset.key")
    glass = PlaneGlass(waves(520, 400), patient_id="Pseudonym-17")
    path = write_scan(glass, tmp_path / NAMED.replace("ERIKA", "MARIA"), spec=ScanSpec())
    receive(path, busy, spec=IntakeSpec(source="dicom"), barcode=glass.barcode)
    page.locator(".ho-slides li").nth(2).wait_for(timeout=15_000)
    assert page.evaluate("document.activeElement.dataset.key") == kept
    page.locator(".ho-image").nth(1).wait_for()
    shown = page.content()
    for word in ("MUSTERMANN", "MARIA", "Pseudonym", "HN-2026", patient_name(glass)):
        assert word not in shown
    assert page.wrong == []


def test_a_slide_is_found_by_keyboard_and_opens_in_the_review(page: Any, busy: Home) -> None:
    first, second = busy.catalog.slides().slide_id
    page.keyboard.press("/")
    page.keyboard.type("nobody")
    page.get_by_text("No slide here is called “nobody”.").wait_for()
    page.keyboard.press("Escape")
    page.locator(".ho-card").nth(1).wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    card = page.locator(".ho-card:focus")
    assert card.get_attribute("href") == f"review.ipynb?slide={first}"
    assert "not analysed" in card.inner_text()
    page.get_by_role("button", name="to judge").click()
    page.get_by_text("No analysed slide waits").wait_for()
    page.get_by_role("button", name="not analysed").click()
    page.locator(f".ho-card[data-key='{second}']").wait_for()
    assert page.get_by_label("Show").input_value() == "unanalysed"
    assert page.wrong == []


@pytest.mark.parametrize("size", [(1280, 720), (1024, 768), (820, 1180)])
def test_the_page_fits_a_screen_and_a_tablet_and_follows_the_system(
    page: Any, size: tuple[int, int]
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.reload()
    page.wait_for_selector(".ho-figure", timeout=60_000)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    # A list that scrolls by itself needs room to be read.
    assert page.locator(".ho-panel-slides").bounding_box()["height"] > 200
    ground = "getComputedStyle(document.querySelector('.hr')).backgroundColor"
    day = page.evaluate(ground)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(ground) != day
    page.evaluate("delete document.body.dataset.voila")  # as in JupyterLab, whose theme is light
    assert page.evaluate(ground) == day
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    assert page.evaluate(ground) != day


def test_a_catalogue_that_cannot_be_read_is_told_and_the_page_stays(page: Any, busy: Home) -> None:
    with closing(sqlite3.connect(busy.root / "catalog.sqlite")) as connection:
        connection.execute("DROP TABLE quarantine")
    page.get_by_text("The catalogue cannot be read").wait_for(timeout=30_000)
    assert figures(page)["filed today"] == 2
