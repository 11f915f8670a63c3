"""Reasons for doubt: each is said when it is there, and nothing is said of a usual slide."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import DatasetError, SpecError
from histo_nb.inference.reference import Reference
from histo_nb.inference.stain import COLOURS, StainRange, fit_stain, slide_colours, tile_colour
from histo_nb.inference.trust import TrustSpec, find_doubts, name_scanner

PINK = [0.2, 0.5, 0.3]
REFERENCE = Reference(
    centres=np.zeros((2, 3)),
    axes=np.eye(3),
    variances=np.ones(3),
    rest=0.0,
    limit=10.0,
    n_tiles=500,
    stain=StainRange(centre=np.array(PINK), scale=np.full(3, 0.05), n_slides=8),
    scanners=("aperio 20x", "aperio 40x"),
)


def usual(n=40, **columns) -> pd.DataFrame:
    facts = {"slide_id": "S", "tissue": 1.0, "distance": 5.0, "pen": 0.0, "soft": np.nan}
    facts |= dict(zip(COLOURS, PINK, strict=True))
    return pd.DataFrame(facts | columns, index=range(n))


def doubts(rows=None, *, spec=None, **facts) -> list[str]:
    facts = {"reference": REFERENCE, "tissue_mm2": 10.0, "scanner": "aperio 40x"} | facts
    return find_doubts(usual() if rows is None else rows, **({"n_failures": 0} | facts), spec=spec)


def test_nothing_is_said_of_a_usual_slide():
    assert doubts() == []
    bare = usual()[["slide_id", "tissue", "distance"]]
    assert doubts(bare) == [], "quality and colour that were not measured are no doubts"


def test_tiles_unlike_the_training_tiles_are_counted_by_their_tissue():
    rows = usual(distance=[11.0] * 8 + [10.0] * 32)
    assert doubts(rows) == ["20% of the tissue is unlike anything the model has learnt from."]
    assert doubts(rows.assign(tissue=[0.4] * 8 + [1.0] * 32)) == [], "3.2 of 35.2 is below a tenth"
    assert doubts(rows, spec=TrustSpec(max_unlike=0.2)) == []
    assert "20%" in doubts(usual(distance=[np.nan] * 8 + [1.0] * 32))[0], "NaN is unlike all"


def test_a_model_without_a_record_says_so_first():
    said = doubts(usual(10), reference=None, scanner=None, n_failures=1)
    assert said[0].startswith("It is unknown whether this slide resembles those")
    assert len(said) == 3, "tissue and failures are said as ever, scanner and stain cannot be"
    assert doubts(usual().drop(columns="distance"))[0] == said[0]


def test_little_tissue():
    assert doubts(tissue_mm2=0.31) == [
        "Little tissue: only 0.31 mm² in 40 tiles decide this slide."
    ]
    assert doubts(usual(19)) == ["Little tissue: only 10 mm² in 19 tiles decide this slide."]
    assert doubts(usual(1)) == ["Little tissue: only 10 mm² in 1 tile decides this slide."]
    assert doubts(usual(20), tissue_mm2=0.5) == []
    assert doubts(tissue_mm2=float("nan")) == [], "of an image of unknown scale nothing is known"
    assert doubts(usual(3), tissue_mm2=float("nan")) == [
        "Little tissue: only 3 tiles decide this slide."
    ]


def test_tiles_that_could_not_be_read():
    assert doubts(n_failures=1) == ["1 tile of 41 could not be read and is left out of the answer."]
    assert doubts(n_failures=60) == [
        "60 tiles of 100 could not be read and are left out of the answer."
    ]
    assert doubts(n_failures=4, spec=TrustSpec(max_unreadable=0.1)) == []


def test_ink_and_blur_are_counted_by_their_tissue():
    assert doubts(usual(soft=[0.6] * 10 + [np.nan] * 30)) == ["15% of the tissue is out of focus."]
    both = usual(pen=[0.8] * 10 + [0.0] * 30, soft=[0.5] * 20 + [0.0] * 20)
    assert doubts(both) == ["32% of the tissue is under ink or out of focus."], "not twice"
    assert doubts(usual(pen=0.1, soft=0.1)) == []


def test_an_unknown_scanner():
    (said,) = doubts(scanner="mirax 20x")
    assert said.startswith("The scanner (mirax 20x) is unknown to the model; ")
    assert "aperio 20x, aperio 40x only" in said
    assert doubts(scanner=None)[0].startswith("It is unknown which scanner made this slide")
    images = dataclasses.replace(REFERENCE, scanners=())
    for scanner in (None, "aperio 40x"):
        assert doubts(reference=images, scanner=scanner) == [], "a model of loose images has none"


def test_a_stain_unlike_that_of_the_training_slides():
    assert doubts(usual(od_blue=0.49)) == []
    (said,) = doubts(usual(od_blue=0.55))
    assert (
        "absorbs more blue light (optical density 0.55; 8 training slides have 0.30 ± 0.05)" in said
    )
    assert "less green" in doubts(usual(od_green=0.2, od_blue=0.55))[0], "what differs most"
    assert doubts(usual(od_blue=0.55), spec=TrustSpec(max_stain=6)) == []
    nothing = usual(**dict.fromkeys(COLOURS, np.nan))
    assert doubts(nothing) == []


def test_an_impossible_spec_is_refused():
    for wrong in ({"max_unlike": 1.1}, {"max_poor": -0.1}, {"max_stain": 0}, {"min_tiles": -1},
                  {"max_unreadable": float("nan")}, {"min_tissue_mm2": -1.0}):  # fmt: skip
        with pytest.raises(SpecError):
            TrustSpec(**wrong)


def test_a_scanner_is_named_by_its_magnification_or_its_scale():
    scales = (0.2498, 0.2527, 0.499, 0.5)
    named = {name_scanner("x", objective_power=None, slide_mpp=mpp) for mpp in scales}
    assert named == {"x 0.25 µm/px", "x 0.50 µm/px"}
    assert name_scanner("x", objective_power=20.0, slide_mpp=0.5) == "x 20x"
    assert name_scanner("x", objective_power=None, slide_mpp=None) == "x of unknown scale"


def test_a_tiles_colour_is_that_of_what_is_stained():
    tile = np.full((224, 224, 3), 245, np.uint8)  # glass
    assert np.isnan(tile_colour(tile)).all()
    tile[:100] = (180, 60, 120)
    expected = -np.log10((np.array([180, 60, 120]) + 1) / 256)
    np.testing.assert_allclose(tile_colour(tile), expected, atol=1e-6)
    tile[:] = (180, 60, 120)
    np.testing.assert_allclose(tile_colour(tile), expected, atol=1e-6)
    assert np.isfinite(tile_colour(np.zeros((1, 1, 3), np.uint8))).all()


def test_a_slides_colour_is_that_of_its_tissue_in_any_order_of_rows():
    rng = np.random.default_rng(0)
    tiles = pd.DataFrame(rng.random((60, 3)), columns=list(COLOURS))
    tiles = tiles.assign(slide_id=["B", "A", "C"] * 20, tissue=rng.random(60))
    tiles.loc[tiles.slide_id == "C", "od_red"] = np.nan
    tiles.loc[0, "od_blue"] = np.nan
    found = slide_colours(tiles)
    assert list(found.index) == ["A", "B"]
    known = tiles[(tiles.slide_id == "B") & (tiles.index > 0)]
    expected = np.average(known[list(COLOURS)], axis=0, weights=known.tissue)
    np.testing.assert_allclose(found.loc["B"], expected)
    pd.testing.assert_frame_equal(
        slide_colours(tiles.sample(frac=1, random_state=1)), found, check_exact=True
    )


def test_the_range_of_stains_is_robust_and_never_narrow():
    one = fit_stain(pd.DataFrame([PINK], columns=list(COLOURS)))
    assert one.distance(np.array(PINK) + 0.15) < TrustSpec().max_stain < one.distance(
        np.array(PINK) + 0.17
    )  # fmt: skip
    rng = np.random.default_rng(1)
    many = rng.normal(0.4, 0.1, (500, 3))
    many[:100] = 3.0  # a fifth is something else
    found = fit_stain(pd.DataFrame(many, columns=list(COLOURS)))
    assert found.scale == pytest.approx([0.13] * 3, abs=0.04)
    assert found.centre == pytest.approx([0.43] * 3, abs=0.03)


def test_of_slides_without_colour_nothing_is_known():
    stain = fit_stain(pd.DataFrame([[np.nan] * 3], columns=list(COLOURS)))
    assert stain.n_slides == 0
    assert np.isnan(stain.distance(np.array([3.0, 3, 3])))
    with pytest.raises(DatasetError, match="lack od_blue"):
        fit_stain(pd.DataFrame([[1, 1]], columns=list(COLOURS[:2])))


@given(
    st.lists(st.tuples(*[st.floats(0, 1)] * 2, st.floats(0, 20), st.floats(0.01, 1)), min_size=1),
    st.integers(0, 99),
)
def test_the_order_of_rows_changes_no_doubt(tiles, seed):
    columns = zip(*tiles, strict=True)
    rows = usual(
        len(tiles), **dict(zip(("pen", "soft", "distance", "tissue"), columns, strict=True))
    )
    assert doubts(rows.sample(frac=1, random_state=seed)) == doubts(rows)
