"""The rule that validation slides choose."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from histo_nb.inference.rule import SlideRule, slide_calibration_table
from histo_nb.inference.slide_calibration import fit_slide_calibration
from histo_nb.inference.tuning import ScoredSlides, plan_folds, tune_rule, tune_threshold

CLASSES = ["adenoma", "carcinoma", "normal"]


def slide(name, truth, tiles, *, patient=None, **facts) -> pd.DataFrame:
    """Tiles (class, probability) of a slide in one row of 0.25 mm² each."""
    rows = pd.DataFrame({"prediction": [c for c, _ in tiles]})
    for c in CLASSES:
        rows[f"prob_{c}"] = [p if c == said else (1 - p) / 2 for said, p in tiles]
    rows = rows.assign(slide_id=name, patient_id=patient or name, label=truth, tissue=1.0)
    rows = rows.assign(x=np.arange(len(rows)) * 1000, y=0, size_l0=1000, slide_mpp=0.5)
    return rows.assign(**facts)


def shares(*found, **facts) -> pd.DataFrame:
    """Slides (truth, share of carcinoma tiles) of 100 tiles each."""
    slides = []
    for i, (truth, share) in enumerate(found):
        n = round(100 * share)
        tiles = [("carcinoma", 0.6)] * n + [("normal", 0.9)] * (100 - n)
        slides.append(slide(f"S{i:02}", truth, tiles, **facts))
    return pd.concat(slides, ignore_index=True)


def tune(rows: pd.DataFrame) -> SlideRule:
    return tune_rule(rows, classes=CLASSES, normal_class="normal")


def test_the_threshold_lies_in_the_middle_of_the_gap():
    """Normal slides have up to 25 % wrong tiles, abnormal ones 40 % right ones at least."""
    rule = tune(shares(*(("normal", s) for s in (0.05, 0.15, 0.25)),
                       *(("carcinoma", s) for s in (0.4, 0.9))))  # fmt: skip
    assert (rule.kind, rule.threshold) == ("area", pytest.approx(0.325))
    assert SlideRule.from_card(json.loads(json.dumps(rule.to_card(), allow_nan=False))) == rule
    assert "32.5%" in rule.describe("normal")


def test_the_usual_threshold_is_taken_if_it_is_as_good():
    assert tune(shares(("normal", 0.02), ("carcinoma", 0.9))).threshold == 0.1
    assert tune(shares(("normal", 0.02), ("carcinoma", 0.1))).threshold == 0.1
    assert tune(shares(("normal", 0.1), ("carcinoma", 0.9))).threshold == pytest.approx(0.5)


@pytest.mark.parametrize("truth", ["normal", "carcinoma"])
def test_slides_of_one_side_choose_nothing(truth):
    rule = tune(shares((truth, 0.3), (truth, 0.4)))
    assert rule == SlideRule(kind="area", threshold=0.1)
    assert rule.cross_validation is None


def small_tumours(n=6, **facts) -> pd.DataFrame:
    """Few sure tiles are a tumour; many unsure ones, scattered or in a heap, are not."""
    slides = []
    for i in range(n):
        noise = [("carcinoma", 0.5)] * (5 + i) + [("normal", 0.9)] * 80
        slides.append(slide(f"N{i}", "normal", noise, **facts))
        tumour = [("carcinoma", 0.99)] * (4 + i % 2) + [("normal", 0.9)] * 90
        slides.append(slide(f"C{i}", "carcinoma", tumour, **facts))
    return pd.concat(slides, ignore_index=True)


def heaped_tumours(n=6, **facts) -> pd.DataFrame:
    """Tumours are connected; as much scattered and as sure is not one."""
    slides = []
    for i in range(n):
        scattered = [("carcinoma", 0.9), ("normal", 0.9)] * (6 + i) + [("normal", 0.9)] * (44 - i)
        slides.append(slide(f"N{i}", "normal", scattered, **facts))
        heap = [("carcinoma", 0.9)] * (5 + i) + [("normal", 0.9)] * 50
        slides.append(slide(f"C{i}", "carcinoma", heap, **facts))
    return pd.concat(slides, ignore_index=True)


def test_the_kind_that_gets_most_slides_right_is_chosen():
    rule = tune(small_tumours())
    right = rule.cross_validation["right"]
    assert rule.kind == "top_k"
    assert right["top_k"] == {"abnormal": 12, "class": 12}
    assert right["area"]["abnormal"] < 12
    assert (rule.cross_validation["n_slides"], rule.cross_validation["n_folds"]) == (12, 12)
    rule = tune(heaped_tumours())
    assert rule.kind == "region"
    assert rule.threshold == pytest.approx((1 * 0.25 + 5 * 0.25) / 2)


def test_regions_are_not_offered_without_a_scale():
    rule = tune(heaped_tumours(slide_mpp=np.nan))
    assert rule.kind != "region"
    assert list(rule.cross_validation["right"]) == ["area", "top_k"]


def test_the_simplest_of_equally_good_kinds_is_chosen():
    rule = tune(shares(*[("normal", 0.0), ("carcinoma", 0.9)] * 3))
    right = rule.cross_validation["right"]
    assert right["area"] == right["top_k"] == right["region"]
    assert rule.kind == "area"


def test_the_class_decides_between_kinds_that_are_equal_otherwise():
    """Tumours have a sure carcinoma amid more adenoma: by area they are adenomas."""
    slides = [shares(("normal", 0.0)).assign(slide_id=f"N{i}", patient_id=f"N{i}") for i in "123"]
    tiles = [("carcinoma", 0.99)] * 5 + [("adenoma", 0.6)] * 20 + [("normal", 0.9)] * 20
    slides += [slide(f"C{i}", "carcinoma", tiles) for i in "123"]
    rule = tune(pd.concat(slides, ignore_index=True))
    right = rule.cross_validation["right"]
    assert right["area"] == {"abnormal": 6, "class": 3}
    assert right["top_k"] == {"abnormal": 6, "class": 6}
    assert rule.kind == "top_k"


def test_a_held_out_patient_does_not_tune_its_own_threshold():
    """The slide that shows how low an abnormal share can be is wrong while it is away."""
    few = shares(("normal", 0.15), ("normal", 0.2), ("carcinoma", 0.5), ("carcinoma", 0.9))
    assert tune(few).cross_validation["right"]["area"]["abnormal"] == 3, "(0.2 + 0.9) / 2 > 0.5"
    twin = few[few.slide_id == "S02"].assign(slide_id="S02b", patient_id="S02b")
    assert tune(pd.concat([few, twin])).cross_validation["right"]["area"]["abnormal"] == 5
    same = tune(pd.concat([few, twin.assign(patient_id="S02")])).cross_validation
    assert same["right"]["area"]["abnormal"] == 3, "both slides of the patient are away"
    assert (same["n_slides"], same["n_patients"]) == (5, 4)


def test_slides_of_one_patient_are_left_out_one_by_one():
    rule = tune(shares(*[("normal", 0.0), ("carcinoma", 0.9)] * 2, patient="P"))
    assert (rule.cross_validation["n_patients"], rule.cross_validation["n_folds"]) == (4, 4)
    unknown = shares(*[("normal", 0.0), ("carcinoma", 0.9)] * 2).assign(patient_id=None)
    assert tune(unknown) == rule
    assert tune(unknown.drop(columns="patient_id")) == rule
    half = unknown.assign(patient_id=unknown.slide_id.map({"S00": "P", "S01": "P"}))
    assert tune(half).cross_validation["n_patients"] == 3, "an unknown patient is one of their own"


def test_many_patients_are_left_out_in_ten_folds():
    found = [("normal", 0.0), ("carcinoma", 0.9)]
    rule = tune(shares(*found * 40))
    assert (rule.cross_validation["n_patients"], rule.cross_validation["n_folds"]) == (80, 10)
    assert rule.cross_validation["right"]["area"] == {"abnormal": 80, "class": 80}


@pytest.mark.parametrize("n", [3, 50, 51, 200])
def test_folds_keep_patients_whole_and_both_sides_even(n):
    rng = np.random.default_rng(n)
    patients = np.concatenate([np.arange(n), rng.integers(0, n, 2 * n)])
    abnormal = patients < n // 3
    folds = plan_folds(patients, abnormal)
    first = pd.Series(folds).groupby(patients).nunique()
    assert (first == 1).all()
    assert len(np.unique(folds)) == (n if n <= 50 else 10)
    for side in (abnormal, ~abnormal):
        sizes = pd.Series(patients[side]).groupby(folds[side]).nunique()
        assert sizes.max() - sizes.min() <= 1


def test_the_order_of_rows_changes_nothing():
    rows = pd.concat([small_tumours(), shares(("normal", 0.3), ("adenoma", 0.5))])
    assert tune(rows.sample(frac=1, random_state=1)).to_card() == tune(rows).to_card()


@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.booleans()), min_size=2, max_size=20),
    st.sampled_from(["area", "top_k", "region"]),
)
def test_no_other_threshold_between_scores_is_better(slides, kind):
    scores = np.array([s for s, _, _ in slides]) / 16
    abnormal, named = (np.array(part) for part in list(zip(*slides, strict=True))[1:])
    scored = ScoredSlides(kind, scores, abnormal, named)
    threshold = tune_threshold(scored)
    known = np.unique(scores)
    if len(known) < 2 or abnormal.all() or not abnormal.any():
        assert threshold == {"area": 0.1, "top_k": 0.5, "region": 0.25}[kind]
        return
    right = tuple(scored.count_right(threshold))
    middles = (known[1:] + known[:-1]) / 2
    assert right == max(tuple(scored.count_right(t)) for t in middles)
    if threshold != 0.1:
        gaps = [b - a for a, b, t in zip(known, known[1:], middles, strict=False)
                if tuple(scored.count_right(t)) == right]  # fmt: skip
        assert known[known >= threshold].min() - known[known < threshold].max() == max(gaps)


def cohort(rng, n: int, slope: float = 4.0):
    """Scores, and truths that follow a logistic curve of them."""
    scores = rng.normal(0, 1, n)
    return scores, rng.random(n) < 1 / (1 + np.exp(-(slope * scores - 1)))


def test_calibration_finds_the_curve_that_made_the_truth():
    scores, abnormal = cohort(np.random.default_rng(0), 4000)
    found = fit_slide_calibration(scores, abnormal, np.arange(4000) % 10)
    assert (found.slope, found.intercept) == pytest.approx((4, -1), abs=0.3)
    assert (found.n_slides, found.n_abnormal) == (4000, abnormal.sum())
    for row in found.reliability:
        assert row["observed"] == pytest.approx(row["predicted"], abs=0.06)
    assert sum(row["n"] for row in found.reliability) == 4000
    assert found.brier < 0.15


def test_calibration_is_platts():
    """Two scores only: the fitted P are his targets, weighted by the slides that have them."""
    scores, abnormal = np.repeat([0.0, 1.0], [7, 5]), np.repeat([False, True], [7, 5])
    found = fit_slide_calibration(scores, abnormal, np.arange(12))
    assert found.probability(np.array([0.0, 1.0])) == pytest.approx([1 / 9, 6 / 7], abs=1e-4)


def test_calibration_is_measured_on_slides_it_was_not_fitted_on():
    """Of scores that say nothing, a curve that saw its slides would look better than a coin."""
    rng = np.random.default_rng(3)
    scores, abnormal = rng.normal(0, 1, 24), np.arange(24) % 2 == 0
    found = fit_slide_calibration(scores, abnormal, np.arange(24))
    assert found.brier > 0.25


def test_a_higher_score_is_never_less_probably_abnormal():
    scores = np.linspace(0, 1, 20)
    found = fit_slide_calibration(scores, scores < 0.5, np.arange(20))
    assert found.slope == 0
    assert found.probability(scores) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(("n_normal", "n_abnormal", "is_fitted"),
                         [(7, 3, True), (3, 7, True), (6, 3, False), (8, 2, False),
                          (2, 8, False)])  # fmt: skip
def test_few_slides_are_not_calibrated_and_the_rule_says_so(n_normal, n_abnormal, is_fitted):
    found = [("normal", 0.0)] * n_normal + [("carcinoma", 0.9)] * n_abnormal
    rule = tune(shares(*found))
    n = n_normal + n_abnormal
    assert (rule.calibration is not None) == is_fitted
    said = rule.describe("normal")
    if is_fitted:
        assert f"calibrated on {n} validation slides" in said
        assert slide_calibration_table(rule).n.sum() == n
    else:
        assert f"not calibrated: that takes 10 validation slides, 3 of them normal and 3 " \
            f"abnormal, it had {n}." in said  # fmt: skip
