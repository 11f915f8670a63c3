"""The operations page without a browser: what it reads, and what its buttons may do."""

import io
import json
from pathlib import Path

import pytest
import sqlalchemy as sa
from glasses import PlaneGlass, waves
from PIL import Image

from histo_nb.errors import CatalogError
from histo_nb.home import Home
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import receive
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.schema import SLIDES
from histo_nb.widgets.operations import Operations, read_facts


@pytest.fixture
def silent(home: Home, tmp_path: Path) -> str:
    """A slide in quarantine that does not say its mpp."""
    path = write_scan(PlaneGlass(waves(640, 480)), tmp_path / "a.svs", spec=ScanSpec())
    path.write_bytes(path.read_bytes().replace(b"|MPP = ", b"|XPP = "))
    return str(receive(path, home).quarantine_id)


def press(page: Operations, **message: object) -> None:
    page._handle_custom_msg({"kind": "release", **message}, [])
    assert page.wait(30)


def test_a_fresh_home_shows_nothing_and_fails_nowhere(home):
    facts = read_facts(home)
    assert [figure["n"] for figure in facts["figures"]] == [0, 0, 0, 0]
    assert not any(facts[name] for name in ("racks", "slides", "waiting", "quarantine", "failures"))
    assert facts["trouble"] == ""


def test_only_the_slides_of_today_are_todays(home, tmp_path):
    for i in range(2):
        path = write_scan(PlaneGlass(waves(400 + i, 300)), tmp_path / f"{i}.svs", spec=ScanSpec())
        receive(path, home)
    first, second = home.catalog.slides().slide_id
    with home.catalog.engine.begin() as connection:
        old = {"added_at": "2020-01-01T00:00:00.000000+00:00"}
        connection.execute(SLIDES.update().where(SLIDES.c.slide_id == first), old)
    assert [slide["slide_id"] for slide in read_facts(home)["slides"]] == [second]
    page = Operations(home)
    assert page.wait(30)
    assert list(page.pictures) == [second]
    assert Image.open(io.BytesIO(page.pictures[second])).size[0] == 240


def test_a_slide_is_released_with_its_mpp_and_not_without(home, silent):
    page = Operations(home)
    press(page, quarantine_id=silent)
    assert "stays in quarantine" in page.message
    press(page, quarantine_id=silent, slide_mpp=0.5)
    (slide_id,) = home.catalog.slides().slide_id
    assert page.message == f"{silent} is filed as {slide_id}."
    assert page.facts["quarantine"] == []
    assert page.busy == []


@pytest.mark.parametrize(
    "message",
    [{}, {"quarantine_id": "../../etc"}, {"quarantine_id": None}, {"slide_mpp": "0.5"}, {"x": 1}],
)
def test_a_press_that_means_nothing_does_nothing(home, silent, message):
    page = Operations(home)
    press(page, **({"quarantine_id": silent} if "slide_mpp" in message else {}) | message)
    assert page.message == ""
    assert len(home.catalog.refusals()) == 1


def test_an_absurd_mpp_is_refused_in_words(home, silent):
    page = Operations(home)
    press(page, quarantine_id=silent, slide_mpp=1000)
    assert "stays in quarantine" in page.message
    assert "1000" in page.message


def test_a_catalogue_that_cannot_be_read_is_told(home, silent):
    page = Operations(home)
    with home.catalog.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE quarantine"))
    page.refresh()
    assert "cannot be read" in page.facts["trouble"]
    assert [entry["quarantine_id"] for entry in page.facts["quarantine"]] == [silent]
    with pytest.raises(CatalogError):
        read_facts(home)


def test_facts_can_be_sent_and_name_no_file(home, silent, tmp_path):
    said = json.dumps(read_facts(home))
    assert "a.svs" not in said
    assert str(tmp_path) not in said
