"""The gate: what it asks, what it counts, and that neither can be talked away."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from bundles import put_model
from click.testing import CliRunner
from glasses import PlaneGlass

from histo_nb.balancing.dataset import StoreSpec, make_dataset
from histo_nb.errors import DatasetError, GateFailed, SpecError
from histo_nb.home import open_home
from histo_nb.model.bundle import open_bundle
from histo_nb.model.registry import describe_model, find_model, production_entry, promote
from histo_nb.model.seal import read_gate
from histo_nb.running.cli import main
from histo_nb.scanning.console import scan_rack
from histo_nb.training.criteria import GateSpec, find_faults, read_spec
from histo_nb.training.gate import LOOK, pass_gate, score

ANYTHING = GateSpec(
    min_accuracy=0,
    min_balanced_accuracy=0,
    min_class_recall=0,
    min_gain_over_colour=-1,
    max_ece=1,
)


# ------------------------------------------------------------------------ what it asks
def figures(**changes):
    """Figures that pass."""
    good = {
        "accuracy": 0.9,
        "balanced_accuracy": 0.85,
        "recall": {"adenoma": 0.8, "normal": 0.9},
        "confusion": [[8, 2], [1, 9]],
        "intervals": {"balanced_accuracy": [0.7, 0.95]},
        "baselines": {"mean_rgb": 0.5, "colour_histogram": 0.7},
        "ece": 0.05,
        "n_patients": 4,
    }
    return good | changes


def test_good_figures_pass():
    assert find_faults(figures(), GateSpec()) == []
    assert find_faults(figures(baselines={"mean_rgb": 0.8}), GateSpec()) == []  # by 0.05 exactly


FAULTS = {
    "accuracy 0.790 is below 0.8": (figures(accuracy=0.79), {}),
    "balanced accuracy 0.590 is below 0.6": (
        figures(balanced_accuracy=0.59, baselines={"mean_rgb": 0.1}),
        {},
    ),
    "lower bound of balanced accuracy 0.700 is below 0.75": (figures(), {"min_lower_bound": 0.75}),
    "lower bound of balanced accuracy nan is below 0.1": (
        figures(intervals={"balanced_accuracy": [None, None]}),
        {"min_lower_bound": 0.1},
    ),
    "recall of adenoma 0.290": (figures(recall={"normal": 0.9, "adenoma": 0.29}), {}),
    "above the 0.810 that colour alone reaches: 0.040 is below 0.05": (
        figures(baselines={"mean_rgb": 0.81, "colour_histogram": 0.2}),
        {},
    ),
    "expected calibration error 0.210 is above 0.2": (figures(ece=0.21), {}),
    "4 test patients are below 5": (figures(), {"min_test_patients": 5}),
    "1 of the classes have no test tile": (figures(recall={"normal": 0.9}), {}),
}


@pytest.mark.parametrize("said", FAULTS)
def test_each_criterion_keeps_a_model_back_by_itself(said):
    found, spec = FAULTS[said]
    (fault,) = find_faults(found, GateSpec(**spec))
    assert said in fault


NO_NUMBERS = [
    {"accuracy": math.nan},
    {"accuracy": math.inf},
    {"accuracy": None},
    {"balanced_accuracy": math.nan},
    {"intervals": {"balanced_accuracy": [math.nan, math.nan]}},
    {"recall": {"adenoma": math.nan, "normal": 0.9}},
    {"recall": {"adenoma": 0.9, "normal": None}},
    {"recall": {}, "confusion": []},
    {"baselines": {"mean_rgb": 0.1, "colour_histogram": math.nan}},
    {"baselines": {"mean_rgb": math.nan, "colour_histogram": 0.1}},
    {"baselines": {}},
    {"ece": math.nan},
    {"ece": -math.inf},
    {"ece": None},
    {"n_patients": math.nan},
]


@pytest.mark.parametrize("broken", NO_NUMBERS, ids=str)
def test_what_is_no_number_never_passes(broken):
    assert find_faults(figures(**broken), ANYTHING)


def test_one_patient_gives_no_interval_and_may_pass_where_none_is_asked():
    alone = figures(intervals={"balanced_accuracy": [None, None]}, n_patients=1)
    assert find_faults(alone, GateSpec()) == []


def test_an_epoch_chosen_on_the_test_part_is_a_fault_unless_allowed():
    (fault,) = find_faults(figures(), GateSpec(), select_on="test")
    assert "chosen on the test part" in fault
    assert find_faults(figures(), GateSpec(allow_selected_on_test=True), select_on="test") == []


# ------------------------------------------------------------------------------- specs
@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("min_accuracy", value) for value in (-0.1, 1.1, math.nan, "0.8", True, None)),
        *(("min_gain_over_colour", value) for value in (-1.1, 2)),
        *(("max_ece", value) for value in (-1, math.inf)),
        *(("min_test_patients", value) for value in (0, 1.5, True)),
        *(("allow_selected_on_test", value) for value in (1, "no", None)),
    ],
)
def test_a_criterion_outside_its_rule_is_refused(name, value, tmp_path):
    with pytest.raises(SpecError, match=name):
        GateSpec(**{name: value})
    (tmp_path / "gate.json").write_text(json.dumps({name: value}))
    with pytest.raises(SpecError, match=name):
        read_spec(tmp_path / "gate.json")


def test_a_spec_is_read_from_a_file_and_options_come_first(tmp_path):
    path = tmp_path / "gate.json"
    path.write_text('{"min_accuracy": 0.9, "min_test_patients": 3}')
    assert read_spec(path, min_accuracy=0.5) == GateSpec(min_accuracy=0.5, min_test_patients=3)
    assert read_spec() == GateSpec()
    path.write_text('{"min_acuracy": 0.9, "beat_colour": false}')
    with pytest.raises(SpecError, match=r"min_acuracy, beat_colour.*min_gain_over_colour"):
        read_spec(path)
    for text in ("{", "[]", "null"):
        path.write_text(text)
        with pytest.raises(SpecError, match=r"gate\.json"):
            read_spec(path)
    with pytest.raises(SpecError, match="nowhere"):
        read_spec(tmp_path / "nowhere.json")


# --------------------------------------------------------------------------- the test part
@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A home with a data set of six patients, each with tiles of two classes."""
    home = open_home(tmp_path_factory.mktemp("gate") / "home")
    names = [f"P{i}" for i in range(6)]
    rng = np.random.default_rng(0)
    glasses = []
    for name in names:
        blocks = rng.integers(0, 256, (16, 40, 3)).repeat(24, axis=0).repeat(24, axis=1)
        glasses.append(PlaneGlass(blocks.astype(np.uint8), patient_id=name))
    slides = scan_rack(glasses, home).set_index("patient_id")
    rows = []
    for name in names:
        slide = slides.loc[name]
        for i in range(16):
            x, y = 100 + 64 * (i % 8), 100 + 64 * (i // 8)
            place = {"tile_id": f"{slide.slide_id}/{x},{y}/64", "x": x, "y": y}
            facts = {"slide_id": slide.slide_id, "slide_path": slide.slide_path}
            rows.append(place | facts | {"patient_id": name, "label": ("adenoma", "normal")[i % 2]})
    same = {"slide_mpp": 0.5, "size_l0": 64, "level": 0, "read_size": 64, "tile_size": 64,
            "mpp": 0.5, "effective_mpp": 0.5, "read_path": "level0", "tissue": 1.0,
            "label_fraction": 1.0, "label_source": "test", "labelled_by": "test",
            "labelled_at": "2026-01-01"}  # fmt: skip
    unsearched = StoreSpec(search_duplicates=False)  # there are none
    return home, make_dataset(pd.DataFrame(rows).assign(**same), home, store=unsearched)


def looks_at(home):
    events = home.catalog.events()
    return events[events.what == LOOK]


@pytest.fixture
def candidate(learnt):
    """Makes an untrained model of the data set; each name gives another."""
    home, dataset = learnt
    facts = {"dataset_id": dataset.dataset_id, "certificate_sha256": dataset.certificate["sha256"]}

    def make(name, **card):
        return put_model(home, gate=None, recipe={"name": name}, **facts, **card)

    return make


def test_a_model_that_passes_serves_with_its_verdict_on_record(learnt, candidate):
    home, dataset = learnt
    model_id = candidate("passes")
    before = len(looks_at(home))
    gate = score(home, model_id, spec=ANYTHING)
    assert (gate["passed"], gate["reasons"], gate["advice"]) == (True, [], None)
    assert production_entry(home)["model_id"] == model_id
    assert production_entry(home)["reason"].startswith(
        "passed the gate with lowered criteria (min_acc"
    )
    assert open_bundle(find_model(home, model_id)).gate == gate
    assert (gate["looks"], gate["looks_of_test_part"]) == (1, before + 1)
    event = looks_at(home).iloc[0]
    assert (event.subject, event.detail) == (dataset.certificate["test_sha256"], model_id)


def test_a_model_that_fails_does_not_serve_and_is_told_what_to_collect(learnt, candidate):
    home, _ = learnt
    model_id = candidate("fails")
    serving = production_entry(home)
    with pytest.raises(
        GateFailed, match=r"did not pass.*Collect more patients of.*The ledger"
    ) as e:
        pass_gate(home, model_id, spec=GateSpec(min_accuracy=1.0))
    assert "collect ≥ 4 more patients of adenoma" in str(e.value)
    assert e.value.exit_code == 3
    assert production_entry(home) == serving
    with pytest.raises(GateFailed, match="is below 1"):
        promote(home, model_id, reason="all the same")


def test_a_failed_model_that_passes_by_lower_thresholds_stays_visible(learnt, candidate):
    home, _ = learnt
    model_id, other = candidate("twice"), candidate("another")
    first = score(home, model_id, spec=GateSpec(min_accuracy=1.0))
    elsewhere = score(home, other, spec=GateSpec(min_accuracy=1.0))
    gate = score(home, model_id, spec=ANYTHING)
    assert gate["passed"]
    (earlier,) = gate["earlier"]
    assert earlier["passed"] is False
    assert earlier["spec"]["min_accuracy"] == 1.0
    assert earlier["reasons"] == first["reasons"]
    assert (gate["looks"], elsewhere["looks"]) == (2, 1)
    assert gate["looks_of_test_part"] == first["looks_of_test_part"] + 2
    (served,) = describe_model(home, model_id)["served"]
    assert "after 1 failed" in served["reason"]


def test_looks_stay_counted_when_the_verdict_is_thrown_away(learnt, candidate):
    home, _ = learnt
    model_id = candidate("forgetful")
    score(home, model_id, spec=ANYTHING)
    (find_model(home, model_id) / "gate.json").unlink()
    assert score(home, model_id, spec=ANYTHING)["looks"] == 2


def test_a_model_chosen_on_the_test_part_does_not_pass(learnt, candidate):
    home, _ = learnt
    gate = score(home, candidate("patent", select_on="test"), spec=ANYTHING)
    assert gate["reasons"] == [
        "its epoch was chosen on the test part, so that its figures are optimistic"
    ]


def test_a_data_set_that_is_gone_is_no_look(learnt, candidate):
    home, _ = learnt
    model_id = put_model(home, gate=None, dataset_id="D-gone")
    before = len(home.catalog.events())
    with pytest.raises(DatasetError):
        score(home, model_id, spec=ANYTHING)
    assert len(home.catalog.events()) == before
    assert read_gate(find_model(home, model_id)) is None


def test_a_process_that_ends_before_it_shows_the_scores_has_looked(learnt, candidate, monkeypatch):
    home, _ = learnt
    model_id = candidate("killed")

    def end(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("histo_nb.training.gate.evaluate", end)
        score(home, model_id, spec=ANYTHING)
    assert (looks_at(home).detail == model_id).sum() == 1
    assert read_gate(find_model(home, model_id)) is None
    assert score(home, model_id, spec=ANYTHING)["looks"] == 2


# ---------------------------------------------------------------------------- the commands
def call(home, *arguments):
    line = [*map(str, arguments), "--json", "--home", str(home.root)]
    result = CliRunner().invoke(main, line)
    return result.exit_code, json.loads(result.stdout)


def test_the_commands_gate_promote_show_list_and_roll_back(learnt, candidate, tmp_path):
    home, _ = learnt
    good, bad = candidate("good"), candidate("bad")
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(ANYTHING.__dict__))
    status, said = call(home, "gate", good, "--spec", spec)
    assert (status, said["passed"], said["model_id"]) == (0, True, good)
    status, said = call(home, "gate", bad, "--spec", spec, "--min-accuracy", 1)
    assert (status, said["kind"]) == (3, "GateFailed")
    status, said = call(home, "registry", "promote", bad, "--reason", "a try")
    assert (status, said["kind"]) == (3, "GateFailed")
    status, said = call(
        home, "registry", "promote", bad, "--reason", "a try", "--despite-gate", "--who", "me"
    )
    assert (status, said["model_id"], said["gate_passed"], said["who"]) == (0, bad, False, "me")
    status, said = call(home, "registry", "rollback", "--reason", "it was bad")
    assert (status, said["model_id"], said["reason"]) == (0, good, "it was bad")
    status, said = call(home, "registry", "show", good)
    assert (status, said["production"], said["gate"]["passed"]) == (0, True, True)
    served = [period["reason"] for period in said["served"]]
    assert served[0].startswith("passed the gate")
    assert served[1:] == ["it was bad"]
    status, said = call(home, "registry", "list")
    rows = {row["model_id"]: row for row in said["models"]}
    assert (rows[good]["production"], rows[bad]["gate_passed"]) == (True, False)
    status, said = call(home, "registry", "show", "M-nothing")
    assert (status, said["kind"]) == (1, "BundleError")
    spec.write_text('{"min_acuracy": 1}')
    status, said = call(home, "gate", good, "--spec", spec)
    assert (status, said["kind"]) == (1, "SpecError")
    assert "min_acuracy" in said["error"]
    assert call(home, "registry", "promote", bad)[0] == 2  # without a reason
