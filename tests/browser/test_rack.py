"""The rack panel in a real browser: a technician starts the rack and sees its slots fill."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewed import EVALUATED, NO_CHROMIUM, cell_page, open_browser

from histo_nb.home import Home

pytestmark = [pytest.mark.browser, NO_CHROMIUM]

CELL = """
from histo_nb.home import open_home
from histo_nb.scanning.console import ScannerConsole
from histo_nb.scanning.virtual.rack import RackSpec, fill_rack
from histo_nb.scanning.virtual.scanner import Fault, VirtualScanner
from histo_nb.widgets.rack_panel import show_rack

rack = fill_rack(RackSpec(patients_per_class=1, width_um=1500, height_um=1200))
faults = [Fault(1, "barcode", 9), Fault(2, "focus", 3), Fault(3, "jam")]
show_rack(ScannerConsole(VirtualScanner(rack, faults=faults), open_home()))
"""


@pytest.fixture
def page(home: Home, tmp_path: Path) -> Iterator[Any]:
    with (
        open_browser() as browser,
        cell_page(browser, home, tmp_path / "pages", CELL, **EVALUATED) as page,
    ):
        page.wait_for_selector(".hk-slot", timeout=60_000)
        yield page


def words(page: Any) -> list[str]:
    return [text.lower() for text in page.locator(".hk-words").all_inner_texts()]


def test_a_technician_starts_the_rack_and_sees_it_fill(page: Any) -> None:
    assert words(page) == ["waiting"] * 3
    assert page.locator(".hk-image:visible").count() == 0
    page.get_by_role("button", name="Start the rack").click()
    page.get_by_text("The rack is done").wait_for(timeout=120_000)
    page.locator(".hk-image:visible").nth(1).wait_for()
    assert words(page) == ["done", "failed", "done"]
    labels = page.locator(".hk-label").all_inner_texts()
    assert labels == ["label unreadable", "label read", "label read"]
    sizes = page.locator(".hk-image:visible").evaluate_all("all => all.map(i => i.naturalWidth)")
    assert sizes == [320, 320]
    assert "look it up by hand" in page.locator(".hk-slot").first.inner_text()

    page.get_by_role("button", name="Scan again: slot 2").click()
    page.locator(".hk-slot[data-state=done]").nth(2).wait_for(timeout=120_000)
    page.locator(".hk-image:visible").nth(2).wait_for()
    assert page.locator(".hk-slot").nth(1).locator(".hk-reason").inner_text() == ""
    assert page.wrong == []
    assert "P00" not in page.content(), "no patient on the page"
