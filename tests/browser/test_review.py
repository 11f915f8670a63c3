"""The review page in a real browser: what a pathologist sees, says, and finds again.

Voila answers 200 even when a cell fails, so each test looks at the page itself.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from reviewed import (
    HEIGHT,
    NO_CHROMIUM,
    PATIENT,
    PLANTED,
    TILE,
    WIDTH,
    add_result,
    new_page,
    screen_at,
    settle,
)

from histo_nb.home import Home, open_home
from histo_nb.running.serve import DashboardServer, serve_dashboards

pytestmark = [pytest.mark.browser, NO_CHROMIUM]


@pytest.fixture(scope="module")
def home_of_page(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = open_home(tmp_path_factory.mktemp("home"))
    add_result(home, "S-clean", abnormal=[])
    add_result(home, PLANTED, abnormal=[(2, 3), (3, 3), (12, 8)], gate_passed=False, n_failures=2)
    damaged = add_result(home, "S-damaged", abnormal=[(1, 1)])
    (damaged / "result.json").write_text('{"slide_id": "S-da')
    return home


@pytest.fixture(scope="module")
def server(home_of_page: Home) -> Iterator[DashboardServer]:
    with serve_dashboards(home_of_page, port=0) as running:
        yield running


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = new_page(browser)
    yield page
    page.context.close()


def open_review(page: Any, server: DashboardServer) -> Any:
    page.goto(server.url)
    page.wait_for_selector(".hw-list li[aria-selected=true]", timeout=60_000)
    return page


def say_who(page: Any, name: str) -> None:
    page.get_by_label("Your name").fill(name)
    page.get_by_label("Your name").press("Enter")


@pytest.fixture(scope="module")
def opened(browser: Any, server: DashboardServer) -> Any:
    return open_review(new_page(browser), server)


@pytest.fixture
def review(opened: Any) -> Any:
    """The open page, put back to its first slide; opening it anew takes seconds."""
    opened.get_by_label("Search slides").fill("")
    for name in ("Status", "Class"):
        opened.get_by_label(name, exact=True).select_option("")
    opened.locator(".hw-list li").filter(has_text="S-clean").click()
    opened.locator(".hf-slide", has_text="S-clean").wait_for()
    opened.locator(".hw-list li").first.click()
    opened.locator(".hf-slide", has_text=PLANTED).wait_for()
    settle(opened)
    return opened


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


def test_patient_is_in_no_message_either(review: Any) -> None:
    frames = [frame if isinstance(frame, bytes) else frame.encode() for frame in review.heard]
    assert len(frames) > 20
    assert not [frame for frame in frames if PATIENT.encode() in frame]


def test_doubts_and_research_use_are_visible(review: Any) -> None:
    assert review.get_by_text("Research use only — not for diagnosis").is_visible()
    assert review.get_by_text("did not pass its gate").is_visible()
    assert review.get_by_text("could not be read and are left out").is_visible()


def test_selecting_a_slide_shows_its_class_by_mouse_and_keyboard(review: Any) -> None:
    review.locator(".hw-list li").filter(has_text="S-clean").click()
    review.locator(".hf-slide", has_text="S-clean").wait_for()
    assert review.locator(".hf-class").inner_text().lower() == "normal"
    assert "No abnormal region" in review.locator(".hf").inner_text()
    review.locator(".hw-list").focus()
    review.keyboard.press("Home")
    review.locator(".hf-slide", has_text=PLANTED).wait_for()
    review.locator(".hv-stage").first.focus()
    review.keyboard.press("j")
    review.get_by_text("This result cannot be read").wait_for()
    review.keyboard.press("k")
    review.locator(".hf-slide", has_text=PLANTED).wait_for()


def test_worklist_is_searched_and_filtered(review: Any) -> None:
    review.get_by_label("Search slides").fill("clean")
    assert review.locator(".hw-id").all_inner_texts() == ["S-clean"]
    assert "1 of 3" in review.locator(".hw h2").inner_text()
    review.get_by_label("Search slides").fill("j")  # no command while one types
    assert review.locator(".hf-slide").inner_text() == PLANTED
    review.get_by_label("Search slides").fill("")
    review.get_by_label("Class", exact=True).select_option("normal")
    assert review.locator(".hw-id").all_inner_texts() == ["S-clean"]
    review.get_by_label("Class", exact=True).select_option("")
    review.get_by_label("Status", exact=True).select_option("signed")
    assert review.get_by_text("No slide fits").is_visible()


def test_damaged_result_is_a_calm_message(review: Any) -> None:
    review.locator(".hw-list").focus()
    review.keyboard.press("ArrowDown")
    review.get_by_text("This result cannot be read").wait_for()
    assert "histo-nb analyse S-damaged" in review.locator(".hf").inner_text()
    assert review.get_by_text("Nothing to show for this slide").is_visible()
    frames = [frame if isinstance(frame, bytes) else frame.encode() for frame in review.heard]
    assert not [frame for frame in frames if b"Traceback" in frame]  # the server's log has it
    review.keyboard.press("ArrowUp")
    review.locator(".hf-class", has_text="carcinoma").wait_for()


def test_take_me_there_moves_and_sharpens(review: Any) -> None:
    x, y, width, height = settle(review)
    assert x <= 0
    assert y <= 0
    assert x + width >= WIDTH - 1
    assert y + height >= HEIGHT - 1
    review.get_by_role("button", name="Take me there: region 2").click()
    x, y, width, height = settle(review)
    left, top = 12 * TILE, 8 * TILE
    assert x < left < left + TILE < x + width
    assert y < top < top + TILE < y + height
    assert max(width, height) < WIDTH / 2
    assert review.locator(".hf-picked .hf-number").inner_text() == "2"


def test_regions_have_pictures_with_words(review: Any) -> None:
    picture = review.locator(".hf-thumb").first
    for _ in range(100):
        widths = review.locator(".hf-thumb").evaluate_all("all => all.map((i) => i.naturalWidth)")
        if min(widths) > 50:
            break
        review.wait_for_timeout(100)
    assert min(widths) > 50
    assert picture.get_attribute("alt").startswith("Region 1: carcinoma")


def test_typing_in_an_editor_is_no_command(review: Any) -> None:
    review.evaluate(
        "() => { const e = document.createElement('div'); e.contentEditable = true; e.id = 'ed';"
        " document.body.append(e); e.focus(); }"
    )
    review.keyboard.type("a jukebox")
    assert review.locator("#ed").inner_text() == "a jukebox"
    assert review.locator(".hf-slide").inner_text() == PLANTED
    review.evaluate("() => document.getElementById('ed').remove()")


def test_second_slide_is_shown_beside_and_moves_along(review: Any) -> None:
    review.locator(".hw-list li").filter(has_text="S-clean").hover()
    review.get_by_role("button", name="Show S-clean beside").click()
    review.locator(".hv-stage").nth(1).wait_for()
    before = settle(review, 1)
    settle(review)
    review.locator(".hv-stage").first.hover()
    review.mouse.wheel(0, -600)
    review.wait_for_timeout(500)
    assert settle(review, 1)[2] < 0.8 * before[2]
    review.get_by_role("button", name="Show S-clean beside").click()
    review.locator(".hv-stage").nth(1).wait_for(state="hidden")


# ------------------------------------------------------------------------------ what is said
def judged(page: Any, text: str | re.Pattern[str]) -> None:
    page.locator(".h-toast").filter(has_text=text).wait_for()


def test_worklist_region_judge_reload_still_there(
    page: Any, server: DashboardServer, home_of_page: Home
) -> None:
    open_review(page, server)
    say_who(page, "Ada")
    page.get_by_role("button", name="Take me there: region 1").click()
    page.get_by_role("button", name="Agree with region 1", exact=True).click()
    judged(page, "Region 1: agree")
    page.get_by_role("button", name="Disagree with region 2").click()
    judged(page, "Region 2: disagree")
    page.get_by_label("Class of region 2").select_option("adenoma")
    page.get_by_label("Comment").fill('<b onclick="window.planted=1">not bold</b>')
    page.get_by_role("button", name="Agree: carcinoma").click()
    judged(page, "Read: carcinoma")
    page.locator("[aria-selected=true] .h-chip", has_text="Read").wait_for()

    open_review(page, server)
    page.locator(".hw-list li").first.click()
    page.locator(".hf-slide", has_text=PLANTED).wait_for()
    assert page.get_by_label("Your name").input_value() == "Ada"
    page.wait_for_selector("button[aria-label='Agree with region 1'][aria-pressed=true]")
    page.wait_for_selector("button[aria-label='Disagree with region 2'][aria-pressed=true]")
    page.wait_for_selector(".hf-verdict button[aria-pressed=true]:has-text('Agree')")
    assert page.get_by_label("Class of region 2").input_value() == "adenoma"
    assert page.get_by_label("Comment").input_value().startswith("<b onclick")
    assert page.locator(".hf b[onclick]").count() == 0
    said = home_of_page.catalog.reviews([PLANTED]).set_index(["kind", "subject"]).sort_index()
    assert set(said.reviewer) == {"Ada"}
    assert said.loc["region"].label.tolist() in (["adenoma", "carcinoma"], ["carcinoma", "adenoma"])


def test_signing_closes_reopening_and_undo(
    page: Any, server: DashboardServer, home_of_page: Home
) -> None:
    open_review(page, server)
    page.locator(".hw-list li").filter(has_text="S-clean").click()
    page.locator(".hf-slide", has_text="S-clean").wait_for()
    say_who(page, "Ben")
    assert page.get_by_role("button", name="Sign as").count() == 0
    page.locator(".hv-stage").first.focus()
    page.keyboard.press("a")  # agree
    judged(page, "Read: normal")
    page.get_by_role("button", name="Sign as normal").click()
    assert page.get_by_text("Ben signs: normal").is_visible()
    page.get_by_role("button", name="Sign", exact=True).click()
    judged(page, "Signed: normal")
    page.locator("[aria-selected=true] .h-chip", has_text="Signed").wait_for()
    assert page.get_by_role("button", name="Agree: normal").count() == 0
    reviews = home_of_page.catalog.reviews(["S-clean"])
    assert reviews[reviews.kind == "signature"].reviewer.tolist() == ["Ben"]

    page.get_by_role("button", name="Take the signature back").click()
    judged(page, "taken back")
    page.get_by_role("button", name="Agree: normal").wait_for()
    page.locator(".hv-stage").first.focus()
    page.keyboard.press("a")  # agrees only: it takes nothing back
    page.get_by_role("button", name="Agree: normal").click()  # pressed again: taken back
    page.get_by_text("Agree or choose another class, then sign.").wait_for()
    assert home_of_page.catalog.reviews(["S-clean"]).empty


def test_drawn_place_is_saved_and_shown_again(
    page: Any, server: DashboardServer, home_of_page: Home
) -> None:
    open_review(page, server)
    page.locator(".hw-list li").filter(has_text="S-clean").click()
    page.locator(".hf-slide", has_text="S-clean").wait_for()
    say_who(page, "Ada")
    settle(page)
    page.get_by_role("button", name="Draw a rectangle").click()
    page.mouse.move(*screen_at(page, 500, 500))
    page.mouse.down()
    page.mouse.move(*screen_at(page, 1500, 1400), steps=5)
    page.mouse.up()
    page.get_by_label("Note", exact=True).fill("<i>see</i>")
    page.get_by_role("dialog").get_by_role("button", name="adenoma").click()
    judged(page, "Saved")
    page.locator("g[data-drawn]").wait_for(state="attached")

    open_review(page, server)
    page.locator(".hw-list li").filter(has_text="S-clean").click()
    page.locator("g[data-drawn]").wait_for(state="attached")
    settle(page)
    page.mouse.click(*screen_at(page, 1000, 900))
    card = page.get_by_role("dialog")
    assert "<i>see</i>" in card.inner_text()
    assert card.locator("i").count() == 0
    rows = home_of_page.catalog.reviews(["S-clean"])
    (outline,) = rows[rows.kind == "annotation"].outline
    assert np.isclose(float(re.findall(r"[\d.]+", outline)[0]), 500, atol=20)
    card.get_by_role("button", name="Remove").click()
    judged(page, "Removed")
    page.locator("g[data-drawn]").wait_for(state="detached")


def test_quick_keys_judge_the_slide_they_were_pressed_on_or_none(
    page: Any, server: DashboardServer, home_of_page: Home
) -> None:
    open_review(page, server)
    page.locator(".hw-list li").filter(has_text="S-clean").click()
    page.locator(".hf-slide", has_text="S-clean").wait_for()
    say_who(page, "Eve")
    page.locator(".hv-stage").first.focus()
    page.keyboard.press("a")
    judged(page, "Read: normal")
    for _ in range(3):  # away and agree at once, back and agree at once
        for key in ("k", "a", "j", "a"):
            page.keyboard.press(key)
    page.wait_for_timeout(1500)
    said = home_of_page.catalog.reviews()
    own = said[(said.reviewer == "Eve") & (said.kind == "slide")]
    labels = dict(zip(own.slide_id, own.label, strict=True))
    assert labels["S-clean"] == "normal"
    assert labels.get("S-damaged") is None


@pytest.mark.parametrize(("kind", "begins"), [("PDF", b"%PDF-"), ("HTML", b"<!DOCTYPE html>")])
def test_report_comes_as_a_file(review: Any, kind: str, begins: bytes) -> None:
    with review.expect_download(timeout=60_000) as download:
        review.get_by_role("button", name=f"Report as {kind}").click()
    file = Path(download.value.path()).read_bytes()
    assert file.startswith(begins)
    assert PATIENT.encode() not in file


# --------------------------------------------------------------------------- who may see it
def test_nothing_is_asked_of_anyone_else(review: Any, server: DashboardServer) -> None:
    review.get_by_role("button", name="Take me there: region 1").click()
    settle(review)
    own = (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", "data:", "blob:")
    assert [url for url in review.asked if not url.startswith(own)] == []
    assert len(review.asked) > 5
    assert server.token not in review.url


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
    with serve_dashboards(home, port=0, folder=tmp_path, pages=("review",)) as server:
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


def test_page_loads_no_learning_library(home: Home) -> None:
    code = (
        "import sys; from histo_nb.home import open_home; "
        "from histo_nb.widgets.review import show_review; show_review(open_home()); "
        "print(sorted({'torch', 'fastai', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
