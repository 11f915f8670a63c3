"""The slide viewer in a real browser: what is shown lies where it is, and moves as it should."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reviewed import (
    BLUE_TILE,
    HEIGHT,
    NO_CHROMIUM,
    TILE,
    WIDTH,
    add_result,
    cell_page,
    colour_at,
    screen_at,
    settle,
    write_slide,
)

from histo_nb.home import Home, open_home
from histo_nb.slide import Slide

pytestmark = [pytest.mark.browser, NO_CHROMIUM]

VIEWER = """
from histo_nb.home import open_home
from histo_nb.inference.result import find_result, read_result
from histo_nb.export.colours import class_colours
from histo_nb.widgets.viewer import SlideViewer
from histo_nb.widgets.viewer.layers import heatmap_layer

home = open_home()
result = read_result(find_result(home, "S-1"))
colours = class_colours(result.classes, normal_class="normal")
viewer = SlideViewer()
viewer.open_slide(home.catalog.slide("S-1")["slide_path"], heatmap=heatmap_layer(result),
                  regions=result.regions, colours=colours)
viewer.classes = [{"label": name, "colour": colour} for name, colour in colours.items()]
viewer.on_draw(lambda place: home.catalog.note("drawn", "S-1", json.dumps(place)))
viewer.layout.height = "640px"
"""
BLUE = np.array((30, 60, 200))
BLUE_AT = [(place + 0.5) * TILE for place in BLUE_TILE]
ABNORMAL = [(2, 3), (3, 3), (12, 8)]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = open_home(tmp_path_factory.mktemp("home"))
    add_result(home, "S-1", abnormal=ABNORMAL)
    return home


@pytest.fixture(scope="module")
def opened(browser: Any, room: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("pages") / "one"
    with cell_page(browser, room, folder, f"import json\n{VIEWER}\nviewer") as page:
        page.wait_for_selector(".hv-stage[data-state=ready]", timeout=60_000)
        yield page


@pytest.fixture
def page(opened: Any) -> Any:
    """The open viewer, back at the whole slide with its usual layers."""
    opened.keyboard.press("Escape")
    opened.get_by_role("button", name="Whole slide").click()
    opened.get_by_label("Heatmap opacity").fill("0.5")
    opened.locator(".hv-stage").focus()
    settle(opened)
    return opened


def test_whole_slide_is_shown_first(page: Any) -> None:
    x, y, width, height = settle(page)
    assert x <= 0
    assert y <= 0
    assert x + width >= WIDTH - 1
    assert y + height >= HEIGHT - 1
    assert page.wrong == []


@pytest.mark.parametrize("times", [1, 5, 10, 20])
def test_pixels_lie_where_they_are_at_each_magnification(page: Any, times: int) -> None:
    page.keyboard.press("h")  # without the heatmap
    page.get_by_role("button", name=f"Magnify {times}×").click()
    x, y, width, height = settle(page)
    box = page.locator(".hv-stage").bounding_box()
    assert width / box["width"] == pytest.approx(20 / times, rel=0.01)
    for _ in range(40):  # bring the blue tile into view by the keys
        inside = x + width * 0.1 < BLUE_AT[0] < x + width * 0.9
        if inside and y + height * 0.1 < BLUE_AT[1] < y + height * 0.9:
            break
        key = "ArrowRight" if BLUE_AT[0] > x + width / 2 else "ArrowLeft"
        if inside:
            key = "ArrowDown" if BLUE_AT[1] > y + height / 2 else "ArrowUp"
        page.keyboard.press(key)
        x, y, width, height = settle(page)
    assert np.abs(colour_at(page, *BLUE_AT) - BLUE).max() < 12
    beside = BLUE_AT[0] - 0.6 * TILE, BLUE_AT[1]
    if x < beside[0]:
        assert np.abs(colour_at(page, *beside) - BLUE).max() > 60


def test_ruler_and_magnification_follow_the_zoom(page: Any) -> None:
    page.get_by_role("button", name="Magnify 20×").click()
    settle(page)
    assert page.locator(".hv-power").inner_text() == "20×"
    bar = page.locator(".hv-bar").bounding_box()["width"]
    assert page.locator(".hv-ruler").inner_text() == "50 µm"
    assert bar == pytest.approx(100, abs=1)  # 50 µm at 0.5 µm/px, one slide px a screen px


def test_wheel_keeps_the_place_under_the_cursor(page: Any) -> None:
    at = 1500.0, 2000.0
    before, wide = screen_at(page, *at), settle(page)[2]
    page.mouse.move(*before)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(200)
    assert np.allclose(screen_at(page, *at), before, atol=3)
    assert settle(page)[2] < 0.8 * wide


def test_heatmap_colours_the_abnormal_tiles_only(page: Any) -> None:
    changes = {}
    for tile in [(2, 3), (8, 8)]:
        at = [(place + 0.3) * TILE for place in tile]
        page.get_by_label("Heatmap opacity").fill("1")
        strong = colour_at(page, *at)
        page.get_by_label("Heatmap opacity").fill("0")
        changes[tile] = strong - colour_at(page, *at)
    assert changes[2, 3][2] < -60  # yellow takes the blue away
    assert np.abs(changes[8, 8]).max() < 20


def test_map_of_a_class_and_colour_scale_can_be_chosen(page: Any) -> None:
    at = [(place + 0.3) * TILE for place in (8, 8)]
    page.get_by_label("Heatmap opacity").fill("1")
    plain = colour_at(page, *at)
    page.get_by_label("Probability shown").select_option("normal")
    assert page.get_attribute(".hv-stage", "data-heatmap") == "normal"
    assert (colour_at(page, *at) - plain)[2] < -60
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Colour scale").select_option("Magenta")
    changed = colour_at(page, *at)
    assert changed[1] < 20  # its strongest colour has no green
    page.get_by_label("Colour scale").select_option("Viridis")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Probability shown").select_option("Abnormal")


def test_click_on_a_region_goes_there(page: Any) -> None:
    place = [(12 + 0.5) * TILE, (8 + 0.5) * TILE]
    page.mouse.click(*screen_at(page, *place))
    x, y, width, height = settle(page)
    assert x < 12 * TILE < 13 * TILE < x + width
    assert y < 8 * TILE < 9 * TILE < y + height
    assert width < WIDTH / 2
    assert page.locator("g.hv-picked[data-region='1']").count() == 2  # its outline and its number


def test_keys_turn_zoom_and_step_through_regions(page: Any) -> None:
    whole = settle(page)
    page.keyboard.press("r")
    turned = settle(page)
    assert turned[2] == pytest.approx(whole[3], rel=0.05)
    page.keyboard.press("R")
    page.keyboard.press("+")
    assert settle(page)[2] < 0.7 * whole[2]
    page.keyboard.press("0")
    assert settle(page)[2] == pytest.approx(whole[2], rel=0.01)
    page.keyboard.press("]")
    assert settle(page)[2] < WIDTH / 2


def test_two_hundred_quick_zooms_settle_and_nothing_stays_asked(page: Any) -> None:
    box = page.locator(".hv-stage").bounding_box()
    for i in range(200):
        page.mouse.move(box["x"] + 50 + 37 * i % 900, box["y"] + 50 + 23 * i % 450)
        page.mouse.wheel(0, -600 if i % 3 else 1500)
    settle(page)
    page.get_by_role("button", name="Whole slide").click()
    page.get_by_label("Heatmap opacity").fill("0")
    assert np.abs(colour_at(page, *BLUE_AT) - BLUE).max() < 12
    assert page.wrong == []


def last_drawn(home: Home) -> dict[str, Any]:
    events = home.catalog.events()
    return json.loads(events[events.what == "drawn"].detail.iloc[0])


def wait_for_drawn(page: Any, home: Home, n: int) -> dict[str, Any]:
    for _ in range(100):
        if (home.catalog.events().what == "drawn").sum() == n:
            return last_drawn(home)
        page.wait_for_timeout(100)
    raise AssertionError("what was drawn did not arrive")


def test_drawing_gives_level_0_px(page: Any, room: Home) -> None:
    n = int((room.catalog.events().what == "drawn").sum())
    corners = [(600, 500), (1400, 500), (1400, 1200), (600, 1200)]
    page.keyboard.press("t")
    page.mouse.move(*screen_at(page, *corners[0]))
    page.mouse.down()
    page.mouse.move(*screen_at(page, *corners[2]), steps=5)
    page.mouse.up()
    page.get_by_label("Note", exact=True).fill("<b>not bold</b>")
    page.get_by_role("dialog").get_by_role("button", name="adenoma").click()
    drawn = wait_for_drawn(page, room, n + 1)
    assert (drawn["kind"], drawn["label"], drawn["note"]) == ("draw", "adenoma", "<b>not bold</b>")
    (ring,) = drawn["geometry"]["coordinates"]
    assert np.allclose(ring, [*corners, corners[0]], atol=15)  # two screen px

    page.keyboard.press("p")
    for corner in [(600, 1500), (1400, 1500), (1000, 2400)]:
        page.mouse.click(*screen_at(page, *corner))
        page.wait_for_timeout(350)  # two quick clicks would be a double one
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Only a note").click()
    drawn = wait_for_drawn(page, room, n + 2)
    (ring,) = drawn["geometry"]["coordinates"]
    assert np.allclose(ring[:-1], [(600, 1500), (1400, 1500), (1000, 2400)], atol=15)
    assert drawn["label"] is None

    page.keyboard.press("m")
    page.mouse.click(*screen_at(page, 2000, 2000))
    page.get_by_role("dialog").get_by_role("button", name="carcinoma").click()
    drawn = wait_for_drawn(page, room, n + 3)
    assert drawn["geometry"]["type"] == "Point"
    assert np.allclose(drawn["geometry"]["coordinates"], (2000, 2000), atol=15)


def test_escape_leaves_the_drawing(page: Any, room: Home) -> None:
    n = int((room.catalog.events().what == "drawn").sum())
    page.keyboard.press("p")
    page.mouse.click(*screen_at(page, 600, 1500))
    page.keyboard.press("Escape")
    assert page.locator("[data-tool=polygon]").get_attribute("aria-pressed") == "false"
    before = settle(page)
    page.keyboard.press("ArrowRight")
    assert settle(page)[0] > before[0]  # the slide moves again
    assert int((room.catalog.events().what == "drawn").sum()) == n


def test_damaged_place_is_said_and_the_rest_is_shown(
    browser: Any, home: Home, tmp_path: Path
) -> None:
    path = write_slide(tmp_path / "damaged.svs")
    stored = Slide(path).stored(0)
    assert stored
    number = BLUE_TILE[1] * stored.columns + BLUE_TILE[0] + 1
    with path.open("r+b") as file:
        file.seek(int(stored.offsets[number]) + 100)
        file.write(bytes(int(stored.counts[number]) - 200))
    code = f"""
from histo_nb.widgets.viewer import SlideViewer
viewer = SlideViewer()
viewer.open_slide({str(path)!r})
viewer.layout.height = "640px"
viewer"""
    with cell_page(browser, home, tmp_path / "pages", code) as page:
        page.wait_for_selector(".hv-stage[data-state=ready]", timeout=60_000)
        page.mouse.move(*screen_at(page, *BLUE_AT))
        for _ in range(8):
            page.mouse.wheel(0, -400)
            page.wait_for_timeout(120)
        page.get_by_text("A place on this slide cannot be read.").wait_for()
        assert np.abs(colour_at(page, *BLUE_AT) - BLUE).max() < 12


def test_linked_viewers_move_together(browser: Any, room: Home, tmp_path: Path) -> None:
    code = f"""import json
import ipywidgets
{VIEWER}
other = SlideViewer()
other.open_slide(home.catalog.slide("S-1")["slide_path"])
other.link = viewer.link = "pair"
for one in (viewer, other):
    one.layout.width = "50%"
ipywidgets.HBox([viewer, other])"""
    with cell_page(browser, room, tmp_path / "pages", code) as page:
        page.locator(".hv-stage[data-state=ready]").nth(1).wait_for(timeout=60_000)
        before = [settle(page, n) for n in (0, 1)]
        box = page.locator(".hv-stage").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.wheel(0, -900)
        page.locator(".hv-stage").first.focus()
        page.keyboard.press("ArrowRight")
        after = [settle(page, n) for n in (0, 1)]
        assert after[0][2] < 0.8 * before[0][2]
        for k in (2, 3):
            assert after[1][k] / before[1][k] == pytest.approx(after[0][k] / before[0][k], rel=0.03)
        page.wait_for_timeout(1500)
        assert [settle(page, n) for n in (0, 1)] == after  # neither pushes the other on
