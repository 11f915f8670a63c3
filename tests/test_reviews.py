"""Judgements: what is written, what is refused, what counts."""

import json

import pytest
import shapely
from analysed import add_slide, slides
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import mapping

from histo_nb.errors import CatalogError, ReviewError
from histo_nb.home import Home
from histo_nb.reviews import Judgement, find_signature, judge, region_key, settle_places

SQUARE = json.dumps(mapping(shapely.box(10, 10, 110, 90)))


@pytest.fixture
def slide(home: Home) -> str:
    return add_slide(home, slides()[0], "S-1", mask=False)


def region(verdict: str | None, label: str | None = None, **rest: object) -> Judgement:
    facts = {"slide_id": "S-1", "kind": "region", "subject": "abc", "outline": SQUARE, **rest}
    return Judgement(verdict=verdict, label=label, **facts)


def test_last_decision_counts_and_nothing_is_overwritten(home: Home, slide: str) -> None:
    first = judge(home, region("agree", "carcinoma"), reviewer="Ada")
    second = judge(home, region("disagree", "adenoma", note="glands"), reviewer="Ada")
    assert second > first
    (row,) = home.catalog.reviews([slide]).to_dict("records")
    assert (row["verdict"], row["label"], row["note"]) == ("disagree", "adenoma", "glands")
    judge(home, region(None), reviewer="Ada")
    assert home.catalog.reviews().empty
    with home.catalog.engine.connect() as connection:
        assert connection.exec_driver_sql("select count(*) from reviews").scalar() == 3


def test_places_on_which_reviewers_differ_are_left_out(home: Home, slide: str) -> None:
    judge(home, region("agree", "carcinoma"), reviewer="Ada")
    judge(home, region("agree", "carcinoma"), reviewer="Ben")
    (place,) = settle_places(home.catalog.reviews()).to_dict("records")
    assert (place["label"], place["reviewer"]) == ("carcinoma", "Ada, Ben")
    assert place["annotation"].outline.equals(shapely.box(10, 10, 110, 90))
    judge(home, region("disagree"), reviewer="Ben")
    assert settle_places(home.catalog.reviews()).empty


def test_signed_slide_is_closed_until_its_signer_opens_it(home: Home, slide: str) -> None:
    sign = Judgement(slide_id=slide, kind="signature", verdict="signed", label="normal", note="ok")
    judge(home, sign, reviewer="Ada")
    found = find_signature(home.catalog.reviews([slide]))
    assert found is not None
    assert (found["label"], found["note"], found["reviewer"]) == ("normal", "ok", "Ada")
    with pytest.raises(ReviewError, match="was signed by Ada"):
        judge(home, region("agree", "normal"), reviewer="Ada")
    with pytest.raises(ReviewError, match="was signed by Ada"):
        judge(home, sign, reviewer="Ben")
    judge(home, Judgement(slide_id=slide, kind="signature", verdict=None), reviewer="Ada")
    assert find_signature(home.catalog.reviews([slide])) is None
    judge(home, region("agree", "normal"), reviewer="Ben")


@pytest.mark.parametrize(
    ("judgement", "said"),
    [
        (region("signed"), "no decision"),
        (region("agree", kind="opinion"), "no decision"),
        (region("agree", subject=""), "does not fit"),
        (region("agree", note="x" * 2001), "longer than 2000"),
        (region("agree", outline="{}"), "draw it again"),
        (region("agree", outline="[" * 9000), "draw it again"),
        (region("agree", outline=json.dumps(mapping(shapely.box(9e6, 0, 9e7, 5)))), "outside"),
        (region("agree", outline=json.dumps(mapping(shapely.LineString([(0, 0), (1, 1)])))),
         "LineString"),
        (Judgement(slide_id="S-1", kind="signature", verdict="signed"), "needs a class"),
    ],
)  # fmt: skip
def test_what_is_no_judgement_is_refused(
    home: Home, slide: str, judgement: Judgement, said: str
) -> None:
    with pytest.raises(ReviewError, match=said):
        judge(home, judgement, reviewer="Ada")
    assert home.catalog.reviews().empty


def test_unknown_slide_and_nobody_are_refused(home: Home, slide: str) -> None:
    with pytest.raises(CatalogError, match="S-2"):
        judge(home, region("agree", slide_id="S-2"), reviewer="Ada")
    with pytest.raises(ReviewError, match="say who you are"):
        judge(home, region("agree"), reviewer="  ")


@given(st.integers(0, 500), st.integers(1, 400), st.integers(0, 3))
def test_region_key_follows_from_the_outline_alone(x: int, side: int, turns: int) -> None:
    square = shapely.box(x, 0, x + side, side)
    corners = list(square.exterior.coords)[:-1]
    same = shapely.Polygon(corners[turns:] + corners[:turns])
    assert region_key(same) == region_key(square)
    assert region_key(shapely.box(x, 0, x + side + 1, side)) != region_key(square)
