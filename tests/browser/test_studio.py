"""The mask studio in a real browser: a slider, a brush, a name; the mask that is kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from glasses import PlaneGlass, bare
from reviewed import EVALUATED, NO_CHROMIUM, cell_page, open_browser

from histo_nb.home import Home
from histo_nb.masking.masks import mask_path, mask_slides, read_mask
from histo_nb.scanning.console import scan_rack

pytestmark = [pytest.mark.browser, NO_CHROMIUM]
CELL = """
from histo_nb.home import open_home
from histo_nb.widgets.studio import show_studio

show_studio(open_home())
"""


@pytest.fixture
def slide_ids(home: Home) -> list[str]:
    tissue, empty = bare(3200, 2400), bare(3200, 2400)
    tissue[400:2000, 400:1400] = tissue[400:2000, 1600:2400] = (190, 110, 165)
    ids = scan_rack([PlaneGlass(tissue), PlaneGlass(empty, patient_id="P2")], home).slide_id
    mask_slides(home, [])
    return list(ids)


@pytest.fixture
def page(home: Home, slide_ids: list[str], tmp_path: Path) -> Iterator[Any]:
    with (
        open_browser() as browser,
        cell_page(browser, home, tmp_path / "pages", CELL, **EVALUATED) as page,
    ):
        page.on("dialog", lambda dialog: dialog.accept())
        page.wait_for_selector(".hm-stage[data-masks]", timeout=60_000)
        yield page


def draw(page: Any, tool: str, *places: tuple[float, float]) -> None:
    """Draw a stroke over places that are shares of the picture."""
    page.get_by_role("button", name=tool).click()
    box = page.locator(".hm-pencil").bounding_box()
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def share(page: Any) -> float:
    text = page.locator(".hm-numbers").inner_text()
    return float(text.split("%")[0].split()[-1])


def test_a_mask_is_corrected_kept_and_given_back(
    page: Any, home: Home, slide_ids: list[str]
) -> None:
    tissue, empty = slide_ids
    items = page.locator(".hm-item")
    assert empty in items.nth(0).inner_text(), "suspicious first"
    assert "no tissue" in items.nth(0).inner_text()
    items.nth(1).click()
    page.wait_for_selector(f".hm-stage[data-slide='{tissue}']")
    page.locator(".hm-method").nth(3).wait_for()
    page.wait_for_function("document.querySelector('.hm-numbers').textContent.includes('3')")
    before = share(page)

    page.get_by_label("Closing, µm").fill("300")  # the gap between both pieces is 100 µm wide
    page.wait_for_function(
        f"parseFloat(document.querySelector('.hm-numbers').textContent.split(', ')[1]) > {before}"
    )
    page.get_by_role("radio", name="otsu grey").click()
    page.wait_for_timeout(500)
    found = share(page)
    draw(page, "Erase", (0.1, 0.5), (0.9, 0.5))
    draw(page, "Add tissue", (0.05, 0.05))
    page.get_by_role("button", name="Undo stroke").click()
    draw(page, "Add tissue", (0.9, 0.1))
    page.get_by_label("Your name").fill("ada")
    page.get_by_role("button", name="Save as this slide's mask").click()
    page.get_by_text("Corrected by ada").wait_for()

    mask = read_mask(mask_path(home, tissue))
    height, width = mask.array.shape
    assert (mask.edited_by, mask.edited_at[:2]) == ("ada", "20")
    assert not mask.array[height // 2, width // 4 : 3 * width // 4].any(), "erased across"
    assert mask.array[height // 3, width // 2 - 4 : width // 2].all(), "the gap is closed"
    assert mask.array[round(0.1 * height), round(0.9 * width)], "added"
    assert not mask.array[round(0.05 * height), round(0.05 * width)], "taken back"
    event = home.catalog.events().iloc[0]
    assert (event.what, event.subject, event.detail[:4]) == ("mask edited", tissue, "ada:")
    rows, _ = mask_slides(home, [])
    assert rows.method.tolist() == ["hand"], "masking again keeps it"
    assert (read_mask(mask_path(home, tissue)).array == mask.array).all()

    page.get_by_role("button", name="Back to the method's mask").click()
    page.wait_for_function("document.querySelector('.hm-edited').textContent === ''")
    assert read_mask(mask_path(home, tissue)).edited_by is None
    (aside,) = (home.masks / "earlier").iterdir()
    assert (read_mask(aside).array == mask.array).all(), "what was drawn is put aside"
    assert share(page) == found, "the same method and lengths, without the strokes"
    assert page.wrong == []


def test_a_nameless_correction_is_not_kept(page: Any, home: Home) -> None:
    page.get_by_label("Your name").fill(" ")
    page.get_by_role("button", name="Save as this slide's mask").click()
    page.get_by_text("Say who you are first").wait_for()
    assert not (home.catalog.events().what == "mask edited").any()
