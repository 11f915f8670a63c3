"""The operations page without a browser: what it reads, and what its buttons may do."""

import io
import json
import shutil
from collections import namedtuple
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from glasses import PlaneGlass, waves
from PIL import Image

from histo_nb.errors import CatalogError
from histo_nb.home import Home
from histo_nb.reviews import Judgement, judge
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.intake import receive
from histo_nb.scanning.virtual.scanner import write_scan
from histo_nb.schema import SLIDES
from histo_nb.widgets import operations_health
from histo_nb.widgets.operations import Operations
from histo_nb.widgets.operations_facts import SHOWS, read_facts


@pytest.fixture
def silent(home: Home, tmp_path: Path) -> str:
    """A slide in quarantine that does not say its mpp."""
    path = write_scan(PlaneGlass(waves(640, 480)), tmp_path / "a.svs", spec=ScanSpec())
    path.write_bytes(path.read_bytes().replace(b"|MPP = ", b"|XPP = "))
    return str(receive(path, home).quarantine_id)


def file_slides(home: Home, folder: Path, n: int) -> list[str]:
    for i in range(n):
        path = write_scan(PlaneGlass(waves(400 + i, 300)), folder / f"{i}.svs", spec=ScanSpec())
        receive(path, home)
    return list(home.catalog.slides().slide_id)


def age(home: Home, slide_id: str, *, days: float) -> None:
    """Let a slide have come in so long ago."""
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
    with home.catalog.engine.begin() as connection:
        of_slide = SLIDES.c.slide_id == slide_id
        connection.execute(SLIDES.update().where(of_slide), {"added_at": then})


def analyse(home: Home, slide_id: str) -> None:
    numbers = {"confidence": 0.9, "abnormal_fraction": 0.1, "n_tiles": 9, "n_regions": 0}
    words = {"model_id": "m", "slide_class": "normal", "result_path": "none", "n_failures": 0}
    home.catalog.put_result({"slide_id": slide_id, **numbers, **words})


def said_of(home: Home, what: str) -> tuple[str, str]:
    entry = next(entry for entry in read_facts(home)["health"] if entry["what"] == what)
    return entry["tone"], entry["said"]


def press(page: Operations, **message: object) -> None:
    page._handle_custom_msg({"kind": "release", **message}, [])
    assert page.wait(30)


def test_a_fresh_home_shows_nothing_and_fails_nowhere(home):
    facts = read_facts(home)
    assert [figure["n"] for figure in facts["figures"]] == [0] * 7
    assert not any(facts[name] for name in ("racks", "slides", "waiting", "quarantine", "failures"))
    assert facts["trouble"] == ""


def test_only_the_slides_of_today_are_todays(home, tmp_path):
    first, second = file_slides(home, tmp_path, 2)
    age(home, first, days=2000)
    assert [slide["slide_id"] for slide in read_facts(home)["slides"]] == [second]
    assert [s["slide_id"] for s in read_facts(home, show="all")["slides"]] == [second, first]


def test_pictures_are_sent_of_shown_slides_alone(home, tmp_path, monkeypatch):
    filed = file_slides(home, tmp_path, 2)
    age(home, filed[0], days=3)
    page, sent = Operations(home), []
    monkeypatch.setattr(page, "send", lambda said, jpegs: sent.append((said["slide_id"], *jpegs)))
    for asked in (filed, "nonsense", None, ["../../etc/passwd", 3]):
        page._handle_custom_msg({"kind": "pictures", "slide_ids": asked}, [])
        assert page.wait(30)
    ((slide_id, jpeg),) = sent
    assert slide_id == filed[1]
    assert Image.open(io.BytesIO(jpeg)).size[0] == 240


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


def test_a_slide_goes_from_stage_to_stage(home, tmp_path):
    (slide_id,) = file_slides(home, tmp_path, 1)

    def listed() -> list[str]:
        stages = ("unanalysed", "unjudged", "unsigned")
        return [name for name in stages if read_facts(home, show=name)["slides"]]

    assert listed() == ["unanalysed"]
    analyse(home, slide_id)
    assert listed() == ["unjudged"]
    opinion = {"slide_id": slide_id, "label": "normal"}
    judge(home, Judgement(kind="slide", verdict="agree", **opinion), reviewer="ada")
    assert listed() == ["unsigned"]
    judge(home, Judgement(kind="signature", verdict="signed", **opinion), reviewer="ada")
    assert listed() == []
    assert read_facts(home)["slides"][0]["stage"] == "signed"
    judge(home, Judgement(kind="signature", verdict=None, slide_id=slide_id), reviewer="ada")
    assert listed() == ["unsigned"]


def test_a_slide_is_found_by_its_name_among_those_shown(home, tmp_path):
    first, _ = file_slides(home, tmp_path, 2)
    facts = read_facts(home, show="all", text=f" {first[2:8].upper()} ")
    assert [slide["slide_id"] for slide in facts["slides"]] == [first]
    for text in ("(", "<b>", "nobody"):
        facts = read_facts(home, show="all", text=text)
        assert facts["n_found"] == 0
        assert text in facts["nothing"]


@pytest.mark.parametrize("show", SHOWS)
def test_every_choice_can_be_shown_of_a_fresh_home(home, show):
    assert read_facts(home, show=show)["nothing"] == SHOWS[show][1]


@pytest.mark.parametrize(
    ("show", "text"), [("nonsense", ""), (None, ""), ("all", None), (["all"], ""), ("all", 3)]
)
def test_a_look_that_means_nothing_changes_nothing(home, show, text):
    page = Operations(home)
    page._handle_custom_msg({"kind": "look", "show": show, "text": text}, [])
    page.refresh()
    assert (page.facts["show"], page.facts["text"]) == ("today", "")
    page._handle_custom_msg({"kind": "look", "show": "all", "text": "x" * 999}, [])
    assert (page.facts["show"], page.facts["text"]) == ("all", "x" * 64)


def test_the_week_counts_each_day_and_says_the_busiest(home, tmp_path):
    filed = file_slides(home, tmp_path, 3)
    age(home, filed[0], days=6)
    age(home, filed[1], days=7)
    week = read_facts(home)["week"]
    assert [bar["n"] for bar in week["bars"]] == [1, 0, 0, 0, 0, 0, 1]
    assert read_facts(home, show="week")["n_found"] == 2
    assert week["said"].startswith("2 slides in 7 days, most on ")
    assert week["bars"][-1]["day"] == datetime.now().astimezone().strftime("%a")


def test_a_full_disk_and_bytes_nobody_looked_at_are_told(home, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    (slide_id,) = file_slides(home, tmp_path, 1)
    disk = usage(10**12, 0, 5 * 10**11)
    monkeypatch.setattr(operations_health.shutil, "disk_usage", lambda _: disk)
    assert said_of(home, "Disk") == ("ok", "500.0 GB free of 1.0 TB.")
    disk = usage(10**12, 0, 10**10)
    assert said_of(home, "Disk")[0] == "danger"
    n_bytes = int(home.catalog.slides().n_bytes.iloc[0])
    disk = usage(4 * n_bytes, 0, n_bytes)  # 7 days at the pace of this week
    assert "enough for 7 days. Make room" in said_of(home, "Disk")[1]
    assert said_of(home, "Stored slides")[0] == "ok"
    age(home, slide_id, days=40)
    assert said_of(home, "Stored slides") == (
        "warn",
        "1 of 1 files not checked for 30 days. Run histo-nb verify.",
    )
    name = home.catalog.slide_files().name.iloc[0]
    home.catalog.note_verified(slide_id, name, damage=None)
    assert said_of(home, "Stored slides")[0] == "ok"
    home.catalog.note_verified(slide_id, name, damage="rotten")
    assert said_of(home, "Stored slides")[0] == "danger"


def test_a_disk_that_does_not_answer_is_told(home):
    shutil.rmtree(home.slides)
    assert said_of(home, "Disk")[0] == "danger"


def test_slides_open_in_the_review_where_it_is_served(home, monkeypatch):
    assert read_facts(home)["review"]
    monkeypatch.setenv("HISTO_PAGES", "operations,patient")
    assert not read_facts(home)["review"]
    monkeypatch.setenv("HISTO_PAGES", "operations,review")
    assert read_facts(home)["review"]
