"""Reviews in the label rows: what counts, what is left as it was, what is taken back."""

import json

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import mapping

from histo_nb.home import Home
from histo_nb.reviews import Judgement, judge
from histo_nb.tables import LABELLED_TILES, check_table
from histo_nb.tiling.hand import SOURCE as BOARD
from histo_nb.tiling.reviewed import MIXED, SIGNED, SOURCE, apply_reviews
from histo_nb.tiling.table import file_tiles, read_tiles

SLIDE = "S-P1"
SIDE = 64  # px of a tile; `make_tiles` lays rows of eight from 100, 100 on


@pytest.fixture
def filed(home: Home, make_tiles) -> Home:
    """A home with one slide of 16 tiles that a file labelled normal."""
    add_slide(home, SLIDE)
    file_tiles(make_tiles(("P1", "normal", 16)), home)
    return home


def add_slide(home: Home, slide_id: str) -> None:
    facts = {"slide_path": f"/slides/{slide_id}.svs", "sha256": slide_id, "n_bytes": 1}
    size = {"width": 4000, "height": 4000, "n_levels": 1, "slide_mpp": 0.5}
    home.catalog.add_slide({"slide_id": slide_id, "mpp_source": "file", "source": "test"}
                           | facts | size)  # fmt: skip


def columns(first: float, last: float) -> shapely.Polygon:
    """Both rows of tiles from one column to another; parts of tiles are meant by fractions."""
    return shapely.box(100 + SIDE * first, 100, 100 + SIDE * last, 100 + 2 * SIDE)


def say(home: Home, outline: shapely.Geometry, label: str | None, *, who: str = "Ada",
        verdict: str | None = "agree", kind: str = "region", subject: str = "r1",
        slide_id: str = SLIDE) -> None:  # fmt: skip
    said = json.dumps(mapping(outline))
    judge(home, Judgement(slide_id=slide_id, kind=kind, verdict=verdict, subject=subject,
                          label=label, outline=said), reviewer=who)  # fmt: skip


def sign(home: Home, label: str | None, *, slide_id: str = SLIDE) -> None:
    verdict = "signed" if label else None
    judge(home, Judgement(slide_id=slide_id, kind="signature", verdict=verdict, label=label),
          reviewer="Ada")  # fmt: skip


def labels(home: Home) -> list[str | None]:
    """The labels of the first row of tiles; the second one must have the same."""
    found = read_tiles(home).label.tolist()
    assert found[:8] == found[8:16]
    return found[:8]


def test_agreed_region_labels_its_tiles_with_who_and_when(filed: Home) -> None:
    say(filed, columns(2, 4), "carcinoma")
    assert labels(filed) == ["normal"] * 2 + ["carcinoma"] * 2 + ["normal"] * 4
    row = read_tiles(filed).iloc[2]
    (review,) = filed.catalog.reviews().to_dict("records")
    assert (row.label_source, row.labelled_by) == (SOURCE, "Ada")
    assert (row.labelled_at, row.label_fraction) == (review["reviewed_at"], 1)
    check_table(read_tiles(filed), LABELLED_TILES)


def test_what_is_taken_back_is_gone(filed: Home) -> None:
    before = read_tiles(filed)
    say(filed, columns(2, 4), "carcinoma")
    say(filed, columns(2, 4), None, verdict=None)
    pd.testing.assert_frame_equal(read_tiles(filed), before)


def test_correction_and_drawn_outline_count_as_well(filed: Home) -> None:
    say(filed, columns(0, 1), "adenoma", verdict="disagree")
    say(filed, columns(7, 8), "carcinoma", verdict="drawn", kind="annotation", subject="a1")
    assert labels(filed) == ["adenoma"] + ["normal"] * 6 + ["carcinoma"]


def test_where_reviewers_differ_or_give_no_class_all_stays(filed: Home) -> None:
    before = read_tiles(filed)
    say(filed, columns(2, 4), "carcinoma")
    say(filed, columns(2, 4), "adenoma", who="Ben", verdict="disagree")
    say(filed, columns(5, 6), None, verdict="disagree", subject="r2")
    point = {"verdict": "drawn", "kind": "annotation", "subject": "a1"}
    say(filed, shapely.Point(120, 120), "carcinoma", **point)
    pd.testing.assert_frame_equal(read_tiles(filed), before)


def test_label_by_hand_stands_above_a_review(filed: Home) -> None:
    tile = read_tiles(filed).tile_id[2]
    say(filed, columns(2, 4), "carcinoma")
    filed.catalog.add_hand_label(tile, annotator="Eve", label="adenoma")
    rows = read_tiles(filed)
    assert rows.label[2:4].tolist() == ["adenoma", "carcinoma"]
    assert rows.label_source[2:4].tolist() == [BOARD, SOURCE]


@pytest.mark.parametrize(
    ("end", "label", "source"),
    [
        (3.75, "carcinoma", SOURCE),  # three quarters are enough
        (3.74, None, MIXED),
        (3.26, None, MIXED),  # more than a quarter: not normal either
        (3.25, "normal", "test"),
        (3.0, "normal", "test"),  # a border in common is nothing
    ],
)
def test_tile_on_the_border_of_a_place(
    filed: Home, end: float, label: str | None, source: str
) -> None:
    say(filed, columns(2, end), "carcinoma")
    row = read_tiles(filed).iloc[3]
    assert (row.label, row.label_source) == (label, source)
    assert read_tiles(filed).label[2] == "carcinoma"


def test_mixed_tile_of_the_same_class_keeps_its_label(filed: Home) -> None:
    say(filed, columns(2, 3.5), "normal")
    assert labels(filed) == ["normal"] * 8
    assert read_tiles(filed).label_source[3] == "test"


def test_two_classes_over_one_tile_leave_it_without_a_label(filed: Home) -> None:
    say(filed, columns(2, 4), "carcinoma")
    say(filed, columns(2, 4), "adenoma", verdict="drawn", kind="annotation", subject="a1")
    rows = read_tiles(filed)
    assert rows.label[2:4].tolist() == [None, None]
    assert rows.label_source[2] == MIXED


def test_neighbour_is_not_named_and_the_last_of_two_is(filed: Home) -> None:
    say(filed, columns(2, 3), "carcinoma", subject="r1")
    say(filed, columns(3, 4), "carcinoma", who="Ben", subject="r2")
    assert read_tiles(filed).labelled_by[2:4].tolist() == ["Ada", "Ben"]
    drawn = {"verdict": "drawn", "kind": "annotation", "subject": "a1"}
    say(filed, columns(2, 4), "carcinoma", who="Eve", **drawn)
    say(filed, columns(2, 3), "carcinoma", who="Fay", subject="r1")
    assert read_tiles(filed).labelled_by[2:4].tolist() == ["Ada, Fay", "Eve"]


# --------------------------------------------------------------------------------- signatures
def test_slide_signed_as_normal_is_normal_but_where_a_place_says_otherwise(
    home: Home, make_tiles
) -> None:
    add_slide(home, SLIDE)
    file_tiles(make_tiles(("P1", "adenoma", 16)), home)
    say(home, columns(2, 4), "carcinoma")
    sign(home, "normal")
    assert labels(home) == ["normal"] * 2 + ["carcinoma"] * 2 + ["normal"] * 4
    rows = read_tiles(home)
    assert (rows.label_source[0], rows.label_source[2]) == (SIGNED, SOURCE)
    assert rows.labelled_by[0] == "Ada"
    sign(home, None)
    assert labels(home) == ["adenoma"] * 2 + ["carcinoma"] * 2 + ["adenoma"] * 4


def test_slide_signed_as_abnormal_says_nothing_of_its_tiles(filed: Home) -> None:
    before = read_tiles(filed)
    sign(filed, "carcinoma")
    pd.testing.assert_frame_equal(read_tiles(filed), before)


@pytest.mark.parametrize(
    ("content", "label", "expected"),
    [
        ('{"normal_class": "benign"}', "benign", "benign"),
        ('{"normal_class": "benign"}', "normal", "adenoma"),
        ('{"normal_cl', "normal", "normal"),  # a damaged result names none
    ],
)
def test_normal_class_is_the_one_of_the_latest_result(
    home: Home, make_tiles, content: str, label: str, expected: str
) -> None:
    add_slide(home, SLIDE)
    file_tiles(make_tiles(("P1", "adenoma", 16)), home)
    folder = home.results / "any"
    folder.mkdir()
    (folder / "result.json").write_text(content)
    numbers = {"n_tiles": 1, "n_regions": 0, "n_failures": 0, "abnormal_fraction": 0.1}
    home.catalog.put_result({"slide_id": SLIDE, "model_id": "M", "slide_class": "adenoma",
                             "confidence": 0.9, "result_path": str(folder)} | numbers)  # fmt: skip
    sign(home, label)
    assert labels(home) == [expected] * 8


# ------------------------------------------------------------------------------------ of many
def test_each_slide_of_a_hundred_gets_its_own(home: Home, make_tiles) -> None:
    patients = [f"P{i:03}" for i in range(100)]
    file_tiles(make_tiles(*((p, "normal", 16) for p in patients)), home)
    for i, patient in enumerate(patients):
        add_slide(home, f"S-{patient}")
        say(home, columns(i % 8, i % 8 + 1), f"class {i}", slide_id=f"S-{patient}")
    rows = read_tiles(home)
    for i, patient in enumerate(patients):
        of_slide = rows.label[rows.patient_id == patient].tolist()
        assert [n for n in range(8) if of_slide[n] == f"class {i}"] == [i % 8]
        assert of_slide.count("normal") == 14


def test_without_reviews_the_table_is_the_very_same(make_tiles, home: Home) -> None:
    tiles = make_tiles(("P1", "normal", 2))
    assert apply_reviews(tiles, home.catalog.reviews(), normal_classes={}) is tiles


@given(st.lists(st.integers(0, 8), min_size=4, max_size=4), st.integers(0, 2**31))
def test_order_and_index_of_the_rows_change_nothing(sides: list[int], seed: int) -> None:
    left, top, width, height = sides
    outline = shapely.box(left * 40, top * 40, left * 40 + width * 40 + 9, top * 40 + height * 40)
    if outline.area == 0:
        return
    row = {"slide_id": SLIDE, "kind": "region", "subject": "r", "label": "x", "reviewer": "Ada",
           "outline": json.dumps(mapping(outline)), "reviewed_at": "2026-01-02"}  # fmt: skip
    steps = np.arange(8) * 64
    tiles = pd.DataFrame(
        {"slide_id": SLIDE, "x": np.tile(steps, 8), "y": np.repeat(steps, 8), "size_l0": 64,
         "tissue": 0.8, "label": None, "label_fraction": np.nan,
         "label_source": None, "labelled_by": None, "labelled_at": None}
    )  # fmt: skip
    mixed = tiles.sample(frac=1, random_state=seed)
    reviews = pd.DataFrame([row])
    straight = apply_reviews(tiles, reviews, normal_classes={})
    other = apply_reviews(mixed, reviews, normal_classes={})
    np.testing.assert_array_equal(other.label, straight.label.to_numpy()[mixed.index])
