"""The registry: one model serves, by its gate or a person's word, and nothing is forgotten."""

import json
import multiprocessing
import random
import subprocess
import sys
import time

import pytest
from bundles import put_model
from counts import count
from promoters import promote_for_ever, promote_in_rounds

from histo_nb.errors import BundleError, GateFailed, SpecError
from histo_nb.model.production import production_history
from histo_nb.model.registry import (
    describe_model,
    find_model,
    list_models,
    newest_model,
    production_entry,
    production_model,
    promote,
    rollback,
)


def served(home):
    return [entry["model_id"] for entry in production_history(home)]


def spoil(home, model_id):
    weights = find_model(home, model_id) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")


@pytest.fixture
def models(home):
    """Three models that passed their gates."""
    return [put_model(home, seed=seed) for seed in range(3)]


# ------------------------------------------------------------------------------ promote
def test_each_promotion_stays_on_record_with_its_reason(home, models):
    a, b, _ = models
    promote(home, a, reason="first")
    assert promote(home, b, reason="better", who="Dr. Li") == production_model(home)
    first, second = production_history(home)
    assert (first["model_id"], first["reason"], first["gate_passed"]) == (a, "first", True)
    assert (second["model_id"], second["who"]) == (b, "Dr. Li")
    assert first["since"] < second["since"]
    assert first["who"]
    assert production_entry(home) == second
    events = home.catalog.events()
    assert events[events.what == "model promoted"].detail.tolist() == ["better", "first"]


@pytest.mark.parametrize(
    ("gate", "said"), [(None, "never stood before one"), (False, "accuracy 0.100 is below 0.8")]
)
def test_a_model_without_a_passed_gate_serves_by_a_persons_word_only(home, gate, said):
    model_id = put_model(home, gate=gate)
    with pytest.raises(GateFailed, match=said) as refused:
        promote(home, model_id, reason="I like it")
    assert f"histo-nb gate {model_id}" in str(refused.value)
    assert "--despite-gate" in str(refused.value)
    assert production_entry(home) is None
    promote(home, model_id, reason="a demonstration", despite_gate=True)
    assert production_entry(home)["gate_passed"] is False


def test_what_a_kill_left_is_swept(home, models):
    left = home.models / ".0123456789ab-production.json"
    left.write_text("{")
    promote(home, models[0], reason="first")
    assert not left.exists()


def test_a_passed_that_is_not_true_is_no_pass(home):
    model_id = put_model(home, gate="yes")
    with pytest.raises(GateFailed):
        promote(home, model_id, reason="says yes")


def test_what_is_damaged_or_unknown_or_without_a_reason_does_not_serve(home, models):
    a, b, _ = models
    promote(home, a, reason="first")
    spoil(home, b)
    with pytest.raises(BundleError, match="SHA-256"):
        promote(home, b, reason="better", despite_gate=True)
    for name in ("M-nothing", "..", "", f"{a}/", f"../models/{a}", "production.json"):
        with pytest.raises(BundleError, match="histo-nb registry list"):
            promote(home, name, reason="better", despite_gate=True)
    with pytest.raises(SpecError, match="reason"):
        promote(home, a, reason=" ")
    assert served(home) == [a]


def test_the_file_of_an_earlier_version_is_read_and_goes_into_the_history(home, models):
    a, b, _ = models
    old = {"model_id": a, "since": "2026-01-01", "reason": "passed the gate"}
    (home.models / "production.json").write_text(json.dumps(old))
    assert production_entry(home) == old
    assert production_model(home).name == a
    promote(home, b, reason="better")
    assert production_history(home)[0] == old
    assert rollback(home, reason="no, worse").name == a


ENTRY = '{"model_id": "a", "since": "", "reason": "", "history": %s}'
DAMAGED = ["", "{", "[]", "{}", '"M-1"', '{"model_id": "M-1"}', ENTRY % "[1]", ENTRY % "5"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_production_file_is_named_and_not_overwritten(home, models, text):
    path = home.models / "production.json"
    path.write_text(text)
    for act in (production_model, list_models):
        with pytest.raises(BundleError, match="move it away"):
            act(home)
    with pytest.raises(BundleError, match="move it away"):
        promote(home, models[0], reason="first")
    assert path.read_text() == text


# ------------------------------------------------------------------------------ roll back
def test_going_back_twice_goes_back_two_models(home, models):
    a, b, c = models
    for model_id in models:
        promote(home, model_id, reason=model_id)
    promote(home, c, reason="the same again")
    assert rollback(home, reason="c is bad", who="Dr. Li").name == b
    assert production_entry(home)["reason"] == "c is bad"
    assert rollback(home, reason="b is bad too").name == a
    with pytest.raises(BundleError, match=f"no model served before {a}"):
        rollback(home, reason="and a")
    promote(home, c, reason="mended")
    assert rollback(home, reason="not mended").name == a
    assert served(home) == [a, b, c, c, b, a, c, a]
    assert "model rolled back" in set(home.catalog.events().what)


def test_going_back_to_a_return_does_not_lead_to_what_was_returned_from(home, models):
    a, b, c = models
    d = put_model(home, seed=3)
    for model_id in models:
        promote(home, model_id, reason=model_id)
    rollback(home, reason="c is bad")
    promote(home, d, reason="mended")
    assert rollback(home, reason="not mended").name == b
    assert rollback(home, reason="b is bad too").name == a
    assert served(home) == [a, b, c, b, d, b, a]


def test_going_back_skips_no_damaged_model_and_needs_one(home, models):
    a, b, c = models
    with pytest.raises(BundleError, match="no model is in production"):
        rollback(home, reason="?")
    for model_id in models:
        promote(home, model_id, reason=model_id)
    spoil(home, b)
    with pytest.raises(BundleError, match=b):
        rollback(home, reason="c is bad")
    assert production_model(home).name == c
    assert served(home) == [a, b, c]


# ----------------------------------------------------------------------------- list, show
def test_a_damaged_model_is_listed_with_its_fault(home, models):
    a, b, c = models
    promote(home, b, reason="first")
    (find_model(home, a) / "card.json").write_text("{")
    (find_model(home, c) / "gate.json").write_text("nonsense")
    (home.models / "M-empty").mkdir()
    (home.models / "M-file").touch()
    table = list_models(home).set_index("model_id")
    assert set(table.index) == {a, b, c, "M-empty"}
    assert "card.json" in table.fault[a]
    assert "checksums.json" in table.fault["M-empty"]
    assert "gate.json" in table.fault[c]
    assert table.network[c] == "histonet33"
    assert table.fault[b] is None
    assert table.production.to_dict() == {a: False, b: True, c: False, "M-empty": False}
    assert table.gate_passed[b] is True


def test_an_empty_registry_is_an_empty_table(home):
    assert list_models(home).production.tolist() == []
    with pytest.raises(BundleError, match="histo-nb train"):
        newest_model(home)


def test_a_model_is_shown_with_its_times_of_service(home, models):
    a, b, _ = models
    promote(home, a, reason="first")
    promote(home, b, reason="better")
    rollback(home, reason="no, worse")
    said = describe_model(home, a)
    assert [period["reason"] for period in said["served"]] == ["first", "no, worse"]
    assert said["served"][0]["until"] == describe_model(home, b)["served"][0]["since"]
    assert said["served"][1]["until"] is None
    assert (said["production"], said["gate"]["passed"]) == (True, True)
    assert said["card"]["normal_class"] == "normal"
    spoil(home, b)
    with pytest.raises(BundleError, match="SHA-256"):
        describe_model(home, b)


def test_the_registry_loads_no_torch():
    code = "import histo_nb.model.registry, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------ at once, killed
def test_two_who_promote_at_once_leave_one_winner_and_both_on_record(home, models):
    rounds = 20
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    people = [
        spawn.Process(target=promote_in_rounds, args=(home.root, model_id, rounds, barrier))
        for model_id in models[:2]
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    assert [person.exitcode for person in people] == [0, 0]
    entries = production_history(home)
    assert sorted((entry["reason"], entry["model_id"]) for entry in entries) == sorted(
        (f"round {number}", model_id) for number in range(rounds) for model_id in models[:2]
    )
    times = [entry["since"] for entry in entries]
    assert times == sorted(times)


def test_a_kill_leaves_the_old_entry_or_the_new_one(home, models):
    luck, spawn = random.Random(5), multiprocessing.get_context("spawn")
    promote(home, models[2], reason="first")
    for _ in range(count(quick=3, full=20)):
        before = production_history(home)
        person = spawn.Process(target=promote_for_ever, args=(home.root, models[:2]))
        person.start()
        while len(production_history(home)) < len(before) + 2:
            time.sleep(0.001)
        time.sleep(luck.uniform(0, 0.05))
        person.kill()
        person.join()
        after = production_history(home)
        assert after[: len(before)] == before
        assert {entry["model_id"] for entry in after[len(before) :]} == set(models[:2])
        promote(home, models[2], reason="the lock is free")
        assert production_history(home)[:-1] == after
        assert not list(home.models.glob(".*-production.json"))
