"""Tile classes → slide class."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.errors import BundleError, SpecError, TableError
from histo_nb.inference.rule import USUAL, SlideRule, slide_calibration_table
from histo_nb.inference.scores import KINDS
from histo_nb.inference.slide_calibration import SlideCalibration
from histo_nb.inference.verdict import (
    judge_slide,
    judge_slides,
    true_slide_class,
    true_slide_classes,
)

CLASSES = ["adenoma", "carcinoma", "normal"]
MPP, SIZE = 0.5, 1000  # a tile is 0.25 mm²
CURVE = SlideCalibration(
    slope=8.0,
    intercept=-2.0,
    n_slides=12,
    n_abnormal=5,
    brier=0.1,
    reliability=[{"predicted": 0.1, "observed": 0.0, "n": 7}],
)


def predicted(*counts: tuple[str, int, float], tissue: float = 1.0) -> pd.DataFrame:
    """Rows from (class, number of tiles, its probability), side by side in one row of tiles."""
    rows = []
    for label, n, p in counts:
        probs = {f"prob_{c}": p if c == label else (1 - p) / 2 for c in CLASSES}
        rows += [{"prediction": label, "label": label, "tissue": tissue} | probs] * n
    places = {"x": np.arange(len(rows)) * SIZE, "y": 0, "size_l0": SIZE, "slide_mpp": MPP}
    return pd.DataFrame(rows).assign(**places)


def judge(rows: pd.DataFrame, threshold: float = 0.1, **rule):
    rule = SlideRule(threshold=threshold, **rule)
    return judge_slide(rows, classes=CLASSES, normal_class="normal", rule=rule)


@pytest.mark.parametrize("tissue", [1.0, 0.7, 0.83])
@pytest.mark.parametrize(("a", "c", "threshold"), [(0, 1, 0.1), (1, 2, 0.3), (3, 2, 0.5),
                                                   (1, 6, 0.7), (7, 1, 0.8)])  # fmt: skip
def test_a_slide_at_the_threshold_is_abnormal(a, c, threshold, tissue):
    rows = predicted(("adenoma", a, 0.8), ("carcinoma", c, 0.6), ("normal", 10 - a - c, 0.9),
                     tissue=tissue)  # fmt: skip
    verdict = judge(rows, threshold)
    assert verdict.abnormal_fraction == verdict.score == pytest.approx(threshold)
    assert verdict.slide_class == ("carcinoma" if c > a else "adenoma")
    assert verdict.confidence == pytest.approx(0.6 if c > a else 0.8)
    assert sum(verdict.class_fractions.values()) == pytest.approx(1)
    below = judge(rows, threshold + 0.001)
    assert (below.slide_class, below.confidence) == ("normal", pytest.approx(0.9))


def test_tiles_count_by_their_tissue():
    rows = pd.concat([predicted(("carcinoma", 9, 0.9), tissue=0.1), predicted(("normal", 9, 0.9))])
    assert judge(rows).abnormal_fraction == pytest.approx(1 / 11)
    assert judge(rows).slide_class == "normal"


def test_a_class_nobody_has_is_a_share_of_0():
    assert judge(predicted(("normal", 3, 0.9))).class_fractions == {
        "adenoma": 0.0,
        "carcinoma": 0.0,
        "normal": 1.0,
    }


def test_the_most_abnormal_tiles_decide_however_few_they_are():
    sure = [("carcinoma", 1, p) for p in (0.95, 0.9, 0.85, 0.8)]  # P(normal) is half of the rest
    rows = predicted(*sure, ("adenoma", 1, 0.7), ("adenoma", 90, 0.5), ("normal", 900, 0.9))
    verdict = judge(rows, 0.9, kind="top_k")
    assert verdict.score == pytest.approx(1 - (0.025 + 0.05 + 0.075 + 0.1 + 0.15) / 5)
    assert verdict.slide_class == "carcinoma", "adenoma has more tiles, but none as sure"
    assert verdict.confidence == pytest.approx(0.875), "its tiles, not calibrated"
    few = judge(predicted(("carcinoma", 1, 0.9), ("normal", 1, 0.8)), 0.5, kind="top_k")
    assert few.score == pytest.approx((0.95 + 0.2) / 2), "all tiles, if there are fewer than 5"


def test_the_class_may_be_one_that_no_tile_has():
    """Five unsure tiles: each is normal most probably, and abnormal more probably than not."""
    rows = predicted(("normal", 5, 0.4)).assign(prob_adenoma=0.25, prob_carcinoma=0.35)
    verdict = judge(rows, 0.5, kind="top_k")
    assert (verdict.slide_class, verdict.confidence) == ("carcinoma", pytest.approx(0.35))
    assert verdict.abnormal_fraction == 0


def test_the_largest_region_decides_not_the_most_tissue():
    scattered = [("adenoma", 1, 0.9), ("normal", 1, 0.9)] * 6
    rows = predicted(*scattered, ("carcinoma", 4, 0.8), ("normal", 30, 0.9), tissue=0.5)
    verdict = judge(rows, 0.5, kind="region")
    assert verdict.score == pytest.approx(4 * 0.25 * 0.5)
    assert verdict.slide_class == "carcinoma"
    assert judge(rows, 0.51, kind="region").slide_class == "normal"
    assert judge(rows, 0.1).slide_class == "adenoma", "by area it is the other one"
    none = judge(predicted(("normal", 3, 0.9)), 0.5, kind="region")
    assert (none.slide_class, none.score) == ("normal", 0)


def test_regions_touch_at_corners_and_are_of_one_class():
    rows = predicted(("carcinoma", 2, 0.9), ("adenoma", 3, 0.9)).assign(
        x=[0, SIZE, 2 * SIZE, 3 * SIZE, 9 * SIZE], y=[0, SIZE, 2 * SIZE, 3 * SIZE, 0]
    )
    verdict = judge(rows, 0.1, kind="region")
    assert verdict.score == pytest.approx(0.5)
    assert verdict.slide_class == "adenoma", "the first of equally large ones"


def test_a_region_needs_a_scale_and_other_kinds_do_not():
    rows = predicted(("carcinoma", 5, 0.9))
    for unknown in (rows.assign(slide_mpp=np.nan), rows.drop(columns=["x", "slide_mpp"])):
        with pytest.raises(BundleError, match="scale of these tiles is unknown; give it"):
            judge(unknown, 0.1, kind="region")
        for kind in ("area", "top_k"):
            assert judge(unknown, 0.1, kind=kind).slide_class == "carcinoma"


def test_a_calibrated_confidence_is_of_the_verdict_given():
    rows = predicted(("carcinoma", 3, 0.9), ("normal", 7, 0.9))
    p = 1 / (1 + np.exp(-(8 * 0.3 - 2)))
    assert judge(rows, 0.3, calibration=CURVE).confidence == pytest.approx(p)
    assert judge(rows, 0.4, calibration=CURVE).confidence == pytest.approx(1 - p)


def test_bad_tiles_are_named():
    with pytest.raises(TableError, match="no classified tile"):
        judge(predicted(("normal", 1, 0.9)).head(0))
    with pytest.raises(BundleError, match="class 'polyp' is unknown to the model"):
        judge(predicted(("normal", 2, 0.9)).assign(prediction=["polyp", "normal"]))
    with pytest.raises(BundleError, match="class 'benign' is unknown"):
        judge_slide(predicted(("normal", 1, 0.9)), classes=CLASSES, normal_class="benign",
                    rule=SlideRule())  # fmt: skip


@given(
    slides=st.lists(
        st.lists(
            st.tuples(st.integers(0, 2), st.floats(0.34, 1), st.floats(0.01, 1)),
            min_size=1,
            max_size=12,
        ),
        min_size=1,
        max_size=4,
    ),
    kind=st.sampled_from(KINDS),
    calibrated=st.booleans(),
    seed=st.integers(0, 99),
)
def test_neither_the_order_of_rows_nor_other_slides_change_a_verdict(
    slides, kind, calibrated, seed
):
    tables = []
    for number, tiles in enumerate(slides):
        rows = predicted(*((CLASSES[c], 1, p) for c, p, _ in tiles))
        tables.append(rows.assign(slide_id=f"S{number}", tissue=[t for _, _, t in tiles]))
    mixed = pd.concat(tables).sample(frac=1, random_state=seed)
    rule = SlideRule(kind=kind, threshold=0.3, calibration=CURVE if calibrated else None)
    how = {"classes": CLASSES, "normal_class": "normal", "rule": rule}
    together = judge_slides(mixed, **how)
    assert list(together) == [f"S{i}" for i in range(len(slides))]
    for table, verdict in zip(tables, together.values(), strict=True):
        assert judge_slide(table, **how) == verdict, "to the last bit"
        assert (verdict.slide_class != "normal") == (verdict.score >= 0.3)
        assert 0 <= verdict.confidence <= 1


def test_the_true_class_is_the_most_frequent_abnormal_one():
    labels = pd.Series(["normal"] * 9 + ["carcinoma"] * 2 + ["adenoma", None], dtype=object)
    assert true_slide_class(labels, "normal") == "carcinoma"
    assert true_slide_class(labels[:9], "normal") == "normal"
    assert true_slide_class(labels[-1:], "normal") == "normal"
    tie = pd.Series(["carcinoma", "adenoma", "normal"])
    assert true_slide_class(tie, "normal") == "adenoma", "the first by name"


@given(st.lists(st.tuples(st.sampled_from("BAC"), st.sampled_from([*CLASSES, None])), min_size=1))
def test_true_classes_of_many_slides_are_those_of_each(tiles):
    slides, labels = (pd.Series(list(part), dtype=object) for part in zip(*tiles, strict=True))
    found = true_slide_classes(labels, slides, "normal")
    expected = {s: true_slide_class(labels[slides == s], "normal") for s in sorted(set(slides))}
    assert found.to_dict() == expected
    assert list(found.index) == list(expected)


RULES = [
    SlideRule(),
    SlideRule(kind="top_k", threshold=0.7, calibration=CURVE),
    SlideRule(
        kind="region",
        threshold=1.25,
        cross_validation={"n_slides": 4, "right": {"region": {"abnormal": 4, "class": 3}}},
    ),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.kind)
def test_a_card_gives_its_rule_back(rule):
    kept = json.loads(json.dumps(rule.to_card(), allow_nan=False))
    assert SlideRule.from_card(kept) == rule


def test_a_card_of_the_earlier_form_is_read():
    rule = SlideRule.from_card({"name": "abnormal tissue share", "min_abnormal": 0.26})
    assert rule == SlideRule(kind="area", threshold=0.26)
    assert "26%" in rule.describe("normal")
    assert "not calibrated" in rule.describe("normal")


@pytest.mark.parametrize(
    "content",
    [None, {}, {"kind": "area"}, {"min_abnormal": "much"}, {"min_abnormal": 0},
     SlideRule().to_card() | {"kind": "vote"}, SlideRule().to_card() | {"calibration": {"a": 1}}],
)  # fmt: skip
def test_a_card_without_a_rule_is_named(content):
    with pytest.raises(BundleError, match=r"slide rule cannot be read .*; train the model again"):
        SlideRule.from_card(content)


def test_an_impossible_rule_is_refused():
    for wrong in ({"kind": "vote"}, {"threshold": 0.0}, {"threshold": float("nan")}):
        with pytest.raises(SpecError):
            SlideRule(**wrong)
    assert set(USUAL) == set(KINDS)


def test_a_rule_says_what_decides_and_what_confidence_means():
    area, top_k, region = (rule.describe("normal") for rule in RULES)
    assert area.startswith("A slide is abnormal if at least 10% of its tissue is")
    assert "takes 10 validation slides" in area
    assert "mean probability of at least 70%" in top_k
    assert "calibrated on 12 validation slides" in top_k
    assert "at least 1.25 mm²" in region
    assert "3 of 4 validation slides right" in region
    assert "it had 4" in region


def test_the_calibration_is_a_table():
    table = slide_calibration_table(RULES[1])
    assert table.to_dict("records") == [{"predicted": 0.1, "observed": 0.0, "n": 7}]
    assert list(slide_calibration_table(SlideRule())) == ["predicted", "observed", "n"]
    assert slide_calibration_table(SlideRule()).empty
