"""The tile-label board in a real browser: labels by keyboard, none lost, several annotators."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reviewed import (
    CLASSES,
    EVALUATED,
    NO_CHROMIUM,
    add_result,
    make_predictions,
    new_page,
    open_browser,
)

from histo_nb.catalog import Catalog
from histo_nb.home import Home, open_home
from histo_nb.running.serve import serve_dashboards
from histo_nb.tables import LABELLED_TILES, check_table, read_table
from histo_nb.tiling.table import file_tiles, tile_table_path

pytestmark = [pytest.mark.browser, NO_CHROMIUM]
LOOKED_AT = ".hb-grid:not([data-loading]) .hb-cell[aria-selected]:not([data-state=waiting])"
SECRET = "P-secret"  # patient_id of all tiles


def fill(home: Home) -> None:
    add_result(home, "S-1", abnormal=[(3, 3), (4, 3)])
    rows = make_predictions("S-1", home.slides / "slide.svs", [])
    labels = {"label": CLASSES[0], "label_fraction": 1.0, "label_source": "S-1.geojson"}
    told = {"labelled_by": "ada", "labelled_at": "2026-01-01", "pen": 0.0, "soft": 0.0}
    rows = rows.assign(patient_id=SECRET, **labels, **told)
    rows.loc[5:, "label"] = None
    rows.loc[[0, 1], "label"] = CLASSES[1:]
    rows.loc[7, "slide_path"] = str(home.slides / "gone.svs")
    rows.loc[9, "soft"] = 0.9
    file_tiles(check_table(rows, LABELLED_TILES), home)


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Any]:
    """Open a board in a browser context of its own, as another person at another machine."""
    home = open_home(tmp_path / "home")
    fill(home)
    with serve_dashboards(home, port=0) as server, open_browser() as chromium:

        def open_board(name: str = "") -> Any:
            page = new_page(chromium, **EVALUATED)
            page.goto(server.url.replace("/?", "/voila/render/board.ipynb?"))
            page.wait_for_selector(".hb-cell[data-state=shown]", timeout=60_000)
            if name:
                say_who(page, name)
            return page

        yield open_board, home.catalog


def say_who(page: Any, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Enter")
    page.locator(".hb-grid").focus()


def press(page: Any, *keys: str) -> None:
    page.locator(".hb-grid").focus()
    for key in keys:
        page.wait_for_selector(LOOKED_AT)  # nobody labels what is not there yet
        page.keyboard.press(key)
    wait_saved(page)


def wait_saved(page: Any) -> None:
    page.wait_for_function("document.querySelector('.hb-saved').textContent === 'All saved'")


def shown(page: Any) -> list[str]:
    return page.locator(".hb-cell").evaluate_all("all => all.map(cell => cell.dataset.label)")


def focused(page: Any) -> str:
    return page.locator(".hb-cell[aria-selected]").get_attribute("data-tile")


def said(catalog: Catalog, name: str) -> dict[str, str]:
    rows = catalog.hand_labels()
    rows = rows[rows.annotator == name]
    return dict(zip(rows.tile_id, rows.label, strict=True))


def test_a_hundred_labels_by_keyboard_survive_a_reload(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board("ada")
    keys = [str(1 + i % 3) for i in range(100)]
    press(page, *keys)
    rows = catalog.hand_labels()
    assert rows.label.tolist() == [CLASSES[int(key) - 1] for key in keys], "each key, in order"
    assert rows.tile_id.is_unique
    assert set(rows.annotator) == {"ada"}
    page.reload()
    page.wait_for_selector(".hb-cell[data-state=shown]", timeout=60_000)
    page.get_by_text("100 of 192 labelled by you").wait_for()
    page.wait_for_selector(".hb-cell[data-label=adenoma]")
    n = len(shown(page))
    assert shown(page) == rows.label.tolist()[:n], "the same order, the same labels"
    assert page.wrong == []
    assert SECRET not in page.content()


def test_the_connection_of_an_open_page_is_not_cut(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board()
    opened = [address for address in page.asked if address.startswith("ws:")]
    assert opened
    page.wait_for_timeout(33_000)  # the server asks every 30 s whether the page is there
    again = [address for address in page.asked if address.startswith("ws:")]
    assert again == opened, "the page had to connect again"
    say_who(page, "ada")
    press(page, "1")
    assert len(catalog.hand_labels()) == 1


def test_undo_takes_back_over_a_page_and_says_so_in_the_catalogue(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board("ada")
    n = len(shown(page))
    press(page, *"1" * (n - 1), "2")
    before = said(catalog, "ada")
    page.get_by_text(f"Page 2 of {-(-192 // n)}").wait_for()
    press(page, "u")
    page.get_by_text(f"Page 1 of {-(-192 // n)}").wait_for()
    page.wait_for_function(f"document.querySelectorAll('[data-label=normal]').length === {n - 1}")
    last = focused(page)
    assert before[last] == "adenoma"
    assert said(catalog, "ada") == {name: label for name, label in before.items() if name != last}
    press(page, "3", "PageUp", "Home", "0", "Control+z")
    assert said(catalog, "ada") == before | {last: "carcinoma"}


def test_two_annotators_at_once_see_their_conflict_and_nobody_is_led(pages: Any) -> None:
    open_board, catalog = pages
    ada, bob = open_board("ada"), open_board("bob")
    for key in "1231231231":  # at the same time, on the same tiles: the order is one for all
        for page, pressed in ((ada, key), (bob, "1")):
            page.wait_for_selector(LOOKED_AT)
            page.keyboard.press(pressed)
    wait_saved(ada)
    wait_saved(bob)
    assert list(said(catalog, "ada")) == list(said(catalog, "bob"))
    assert list(said(catalog, "bob").values()) == ["normal"] * 10
    press(ada, "Home", "ArrowRight")
    ada.get_by_role("button", name="Renew").click()
    ada.get_by_text("6 tiles in conflict").wait_for()
    ada.wait_for_function("document.querySelectorAll('.hb-conflict').length === 6")
    agreement = ada.locator(".hb-agreement")
    agreement.get_by_text("40% of 10 tiles alike").wait_for()
    assert "κ 0.00" in agreement.inner_text()
    ada.get_by_label("Show").select_option("conflict")
    ada.get_by_text("Page 1 of 1 · 6 tiles").wait_for()

    cid = open_board("cid")
    facts = cid.locator(".hb-facts").inner_text()
    assert "told when you have labelled" in facts
    assert "ada" not in facts
    press(cid, "1", "ArrowLeft")
    cid.wait_for_function("document.querySelector('.hb-facts').textContent.includes('ada')")
    assert "bob" in cid.locator(".hb-facts").inner_text()


def test_tiles_are_filtered_ordered_and_zoomed(pages: Any) -> None:
    open_board, _ = pages
    page = open_board("ada")
    show = page.get_by_label("Show")
    show.select_option("marked")
    page.get_by_text("Page 1 of 1 · 1 tiles").wait_for()
    press(page, "3")
    show.select_option("class:carcinoma")
    page.get_by_text("Page 1 of 1 · 1 tiles").wait_for()
    assert shown(page) == ["carcinoma"]
    show.select_option("class:adenoma")
    page.get_by_text("No tile is to be shown here").wait_for()
    show.select_option("unlabelled")
    page.get_by_text("· 191 tiles").wait_for()
    show.select_option("mine")
    page.get_by_text("Page 1 of 1 · 1 tiles").wait_for()
    assert shown(page) == ["carcinoma"]
    page.wait_for_selector(".hb-context img")
    wide = page.locator(".hb-box").bounding_box()["width"]
    page.locator(".hb-grid").focus()
    page.keyboard.press(" ")
    page.wait_for_function(
        f"document.querySelector('.hb-box').getBoundingClientRect().width < {wide * 0.8}"
    )
    show.select_option("all")
    page.get_by_text("· 192 tiles").wait_for()
    page.get_by_label("Order").select_option("uncertain")
    page.wait_for_timeout(500)
    press(page, "2")
    assert page.get_by_role("alert").is_hidden()
    slide = page.locator(".hb-cell[data-state=unreadable]")
    for _ in range(10):
        if slide.count():
            break
        page.get_by_role("button", name="Next page").click()
        page.wait_for_timeout(700)
    assert slide.count() == 1, "a tile that cannot be read says so"


def test_a_new_class_gets_the_next_key_and_a_nameless_person_is_asked(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board("ada")
    page.get_by_label("Add a class").fill("artefact")
    page.get_by_label("Add a class").press("Enter")
    page.get_by_role("button", name="Label as artefact, key 4").wait_for()
    press(page, "4")
    assert list(said(catalog, "ada").values()) == ["artefact"]
    say_who(page, " ")
    page.wait_for_selector(LOOKED_AT)
    page.keyboard.press("1")
    page.get_by_text("Say who you are first").wait_for()
    assert len(catalog.hand_labels()) == 1


def test_a_label_of_tiles_cut_anew_is_refused_and_shown_as_such(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board("ada")
    home = Home(Path(catalog.engine.url.database).parent)
    file_tiles(read_table(tile_table_path(home), LABELLED_TILES), home)
    press(page, "1")
    page.get_by_text("tiled anew meanwhile; reload the page").wait_for()
    assert catalog.hand_labels().empty
    assert set(shown(page)) == {""}, "what was not saved is not shown as a label"


def test_a_label_without_an_answer_is_sent_again_and_written_once(pages: Any) -> None:
    open_board, catalog = pages
    page = open_board("ada")
    page.wait_for_timeout(1000)
    with catalog.engine.begin() as busy:  # the catalogue is locked: the answer is late
        busy.exec_driver_sql("delete from waiting")
        page.wait_for_selector(LOOKED_AT)
        page.keyboard.press("1")
        page.get_by_text("Labels are not being saved yet").wait_for(timeout=15_000)
        page.wait_for_timeout(5000)
    wait_saved(page)
    page.wait_for_timeout(1000)
    with catalog.engine.connect() as connection:
        n = connection.exec_driver_sql("select count(*) from hand_labels").scalar()
    assert n == 1, "sent several times, written once"
    assert page.get_by_role("alert").is_hidden()
