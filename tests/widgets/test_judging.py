"""What a reader says on the review page: written, taken back, and shown to the next reader."""

import json

import pandas as pd
import pytest
import shapely
from analysed import add_slide, slides
from shapely.geometry import mapping

from histo_nb.annotations import Annotation
from histo_nb.errors import ReviewError
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult
from histo_nb.widgets.judging import Judging, find_statuses


@pytest.fixture
def result(home: Home) -> SlideResult:
    add_slide(home, slides()[0], "S-1", mask=False)
    regions = [
        Annotation(shapely.box(x, 10, x + 64, 74), "carcinoma", {"area_mm2": 0.1}) for x in (0, 200)
    ]
    return SlideResult(
        slide_id="S-1",
        model_id="M-1",
        classes=["normal", "carcinoma"],
        normal_class="normal",
        slide_class="carcinoma",
        confidence=0.9,
        abnormal_fraction=0.4,
        class_fractions={"normal": 0.6, "carcinoma": 0.4},
        rule="",
        tissue_mm2=1.0,
        gate_passed=True,
        n_failures=0,
        seconds=1.0,
        predictions=pd.DataFrame(),
        regions=regions,
    )


@pytest.fixture
def ada(home: Home) -> Judging:
    reader = Judging(home)
    reader.name("Ada")
    return reader


def test_region_judgements_find_their_region_again(
    home: Home, result: SlideResult, ada: Judging
) -> None:
    ada.judge_region(result, 1, verdict="disagree", label="normal")
    ada.judge_region(result, 0, verdict="agree", label=None)
    said = {"verdict": "disagree", "label": "normal", "note": "", "who": "Ada"}
    assert ada.state(result)["regions"][1] == said
    assert ada.state(result)["regions"][0]["label"] == "carcinoma"
    result.regions.reverse()  # analysed again, numbered otherwise
    assert ada.state(result)["regions"][0] == said
    again = Annotation(result.regions[1].outline, "normal", {"area_mm2": 0.1})
    result.regions[1] = again  # and now of another class: nobody agreed with that
    assert 1 not in ada.state(result)["regions"]
    rows = home.catalog.reviews(["S-1"])
    assert set(rows.reviewer) == {"Ada"}
    assert json.loads(rows.outline.iloc[0])["type"] == "Polygon"


def test_undo_goes_back_step_by_step(home: Home, result: SlideResult, ada: Judging) -> None:
    ada.judge_slide(result, verdict="agree", label="carcinoma", note="sure")
    ada.judge_slide(result, verdict="disagree", label="normal", note="")
    assert ada.undo() == "S-1"
    said = ada.state(result)["slide"]
    assert said == {"verdict": "agree", "label": "carcinoma", "note": "sure", "who": "Ada"}
    ada.undo()
    assert ada.state(result)["slide"] is None
    with pytest.raises(ReviewError, match="nothing to take back"):
        ada.undo()


def test_signing_needs_a_class_closes_the_slide_and_opens_again(
    home: Home, result: SlideResult, ada: Judging
) -> None:
    with pytest.raises(ReviewError, match="nothing to sign"):
        ada.sign(result, label="carcinoma")
    ada.judge_slide(result, verdict="agree", label="carcinoma", note="sure")
    assert ada.sign(result, label="carcinoma") == "carcinoma"
    signature = ada.state(result)["signature"]
    assert (signature["label"], signature["note"], signature["is_mine"]) == (
        "carcinoma",
        "sure",
        True,
    )
    ben = Judging(home)
    ben.name("Ben")
    assert ben.state(result)["signature"]["is_mine"] is False
    with pytest.raises(ReviewError, match="signed by Ada"):
        ben.judge_region(result, 0, verdict="agree", label=None)
    ada.reopen(result)
    ben.judge_region(result, 0, verdict="agree", label=None)


def test_what_is_signed_is_what_was_confirmed(result: SlideResult, ada: Judging) -> None:
    ada.judge_slide(result, verdict="disagree", label="normal", note="")
    with pytest.raises(ReviewError, match="meanwhile"):
        ada.sign(result, label="carcinoma")
    assert ada.state(result)["signature"] is None


def test_undo_neither_signs_again_nor_speaks_for_another(
    home: Home, result: SlideResult, ada: Judging
) -> None:
    ada.judge_slide(result, verdict="agree", label="carcinoma", note="")
    ada.sign(result, label="carcinoma")
    ada.reopen(result)
    with pytest.raises(ReviewError, match="nothing to take back"):
        ada.undo()
    ada.judge_slide(result, verdict="disagree", label="normal", note="")
    ada.name("Ben")
    with pytest.raises(ReviewError, match="nothing to take back"):
        ada.undo()
    assert set(home.catalog.reviews().reviewer) == {"Ada"}


def test_nobody_judges_without_a_name(home: Home, result: SlideResult) -> None:
    with pytest.raises(ReviewError, match="say who you are"):
        Judging(home).judge_slide(result, verdict="agree", label="carcinoma", note="")


def test_opinions_of_others_are_told_once_one_has_said_something(
    home: Home, result: SlideResult, ada: Judging
) -> None:
    ada.judge_slide(result, verdict="agree", label="carcinoma", note="")
    ben = Judging(home)
    ben.name("Ben")
    assert ben.state(result)["others"] == []
    ben.judge_slide(result, verdict="disagree", label="normal", note="")
    assert [other["who"] for other in ben.state(result)["others"]] == ["Ada"]


def test_drawn_places_are_kept_changed_and_erased(
    home: Home, result: SlideResult, ada: Judging
) -> None:
    geometry = mapping(shapely.box(5, 5, 50, 60))
    place = {"kind": "draw", "id": "a1", "label": "normal", "note": "x", "geometry": geometry}
    ada.draw(result, place)
    ada.draw(result, place | {"label": "carcinoma"})
    (row,) = home.catalog.reviews(["S-1"]).to_dict("records")
    assert (row["kind"], row["label"], row["subject"]) == ("annotation", "carcinoma", "a1")
    ada.draw(result, {"kind": "erase", "id": "a1"})
    assert home.catalog.reviews(["S-1"]).empty
    ada.undo()
    assert len(home.catalog.reviews(["S-1"])) == 1
    ada.draw(result, place | {"id": "a2", "label": "<b>bogus"})
    assert home.catalog.reviews(["S-1"]).label.isna().tolist() == [False, True]
    with pytest.raises(ReviewError, match="draw it again"):
        ada.draw(result, place | {"geometry": {"type": "Polygon", "coordinates": [[[0, 0]]]}})


def test_name_of_the_server_cannot_be_changed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HISTO_USER", "dr-lee")
    reader = Judging(home)
    reader.name("Somebody else")
    assert (reader.reviewer, reader.is_known) == ("dr-lee", True)


def test_statuses_follow_the_reading(home: Home, result: SlideResult, ada: Judging) -> None:
    assert find_statuses(home.catalog.reviews()) == {}
    ada.judge_slide(result, verdict="agree", label="carcinoma", note="")
    assert find_statuses(home.catalog.reviews())["S-1"]["status"] == "read"
    ada.sign(result, label="carcinoma")
    found = find_statuses(home.catalog.reviews())["S-1"]
    assert found == {"status": "signed", "label": "carcinoma"}
