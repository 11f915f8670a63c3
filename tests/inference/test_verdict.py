"""Tile classes → slide class."""

import numpy as np
import pandas as pd
import pytest

from histo_nb.inference.verdict import SlideRule, judge_slide, true_slide_class, tune_rule

CLASSES = ["adenoma", "carcinoma", "normal"]


def predicted(*counts: tuple[str, int, float], tissue: float = 1.0) -> pd.DataFrame:
    """Rows from (class, number of tiles, its probability)."""
    rows = []
    for label, n, p in counts:
        probs = {f"prob_{c}": p if c == label else (1 - p) / 2 for c in CLASSES}
        rows += [{"prediction": label, "label": label, "tissue": tissue} | probs] * n
    return pd.DataFrame(rows)


def judge(rows: pd.DataFrame, threshold: float = 0.1):
    rule = SlideRule(min_abnormal=threshold)
    return judge_slide(rows, classes=CLASSES, normal_class="normal", rule=rule)


@pytest.mark.parametrize("tissue", [1.0, 0.7, 0.83])
@pytest.mark.parametrize(("a", "c", "threshold"), [(0, 1, 0.1), (1, 2, 0.3), (3, 2, 0.5),
                                                   (1, 6, 0.7), (7, 1, 0.8)])  # fmt: skip
def test_a_slide_at_the_threshold_is_abnormal(a, c, threshold, tissue):
    rows = predicted(("adenoma", a, 0.8), ("carcinoma", c, 0.6), ("normal", 10 - a - c, 0.9),
                     tissue=tissue)  # fmt: skip
    verdict = judge(rows, threshold)
    assert verdict.abnormal_fraction == pytest.approx(threshold)
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


def test_the_true_class_is_the_most_frequent_abnormal_one():
    labels = pd.Series(["normal"] * 9 + ["carcinoma"] * 2 + ["adenoma", None], dtype=object)
    assert true_slide_class(labels, "normal") == "carcinoma"
    assert true_slide_class(labels[:9], "normal") == "normal"
    assert true_slide_class(labels[-1:], "normal") == "normal"


def test_the_threshold_is_tuned_on_slides():
    """Normal slides have up to 25 % wrong tiles; only thresholds above get all right."""
    slides = []
    for i, wrong in enumerate((5, 15, 25)):
        rows = predicted(("carcinoma", wrong, 0.6), ("normal", 100 - wrong, 0.9))
        slides.append(rows.assign(slide_id=f"N{i}", label="normal"))
    for i, right in enumerate((40, 90)):
        rows = predicted(("carcinoma", right, 0.6), ("normal", 100 - right, 0.9))
        slides.append(rows.assign(slide_id=f"C{i}", label="carcinoma"))
    rule = tune_rule(pd.concat(slides), classes=CLASSES, normal_class="normal")
    assert rule.min_abnormal == 0.26  # the nearest to the usual 0.1 that is above 0.25
    assert SlideRule.from_card(rule.to_card()) == rule
    assert "26%" in rule.describe("normal")


def test_equally_good_thresholds_give_the_usual_one():
    rows = predicted(("normal", 5, 0.9)).assign(slide_id="N", label="normal")
    rule = tune_rule(rows, classes=CLASSES, normal_class="normal")
    assert np.isclose(rule.min_abnormal, 0.1)
