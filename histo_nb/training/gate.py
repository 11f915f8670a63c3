"""The gate: a candidate is scored on the locked test part; only then may it serve."""

from dataclasses import asdict
from typing import Any

from histo_nb.balancing.dataset import Dataset, open_dataset
from histo_nb.catalog import now
from histo_nb.errors import GateFailed
from histo_nb.home import Home
from histo_nb.model.bundle import open_bundle
from histo_nb.model.registry import find_model, promote
from histo_nb.model.seal import read_gate, registry_locked, write_gate
from histo_nb.tiling.ledger import make_ledger, say_missing
from histo_nb.training.criteria import (
    GateSpec,
    as_number,
    find_faults,
    lowered_criteria,
    read_spec,
    worst_class,
)
from histo_nb.training.evaluate import evaluate

__all__ = ["GateSpec", "check_passed", "find_faults", "pass_gate", "read_spec", "score"]

LOOK = "test part looked at"  # the event: its subject is the test part, its detail the model
FAILED = "gate failed"


def pass_gate(home: Home, model_id: str, *, spec: GateSpec | None = None) -> dict[str, Any]:
    """Score a candidate as `score` does.

    Raises
    ------
    GateFailed
        It did not pass. It stays on record; the model in production stays.
    """
    gate = score(home, model_id, spec=spec)
    check_passed(gate)
    return gate


def score(home: Home, model_id: str, *, spec: GateSpec | None = None) -> dict[str, Any]:
    """Score a candidate on the test part, write `gate.json`, promote it if it passed.

    Returns
    -------
    The figures of `evaluate`, with `passed`, `reasons`, `advice`, `spec`; `looks`, how often this
    model was shown its test part, `looks_of_test_part`, how often any model was; and `earlier`,
    the verdicts on this model before this one. The more looks, the more luck is in a good figure.
    """
    spec = spec or GateSpec()
    folder = find_model(home, model_id)
    bundle = open_bundle(folder)
    dataset = open_dataset(home.datasets / bundle.card.dataset_id)
    looks = _look(home, dataset, model_id)
    figures = evaluate(bundle, dataset)
    reasons = find_faults(figures, spec, select_on=bundle.card.select_on)
    verdict = {"at": now(), "passed": not reasons, "spec": asdict(spec), "reasons": reasons,
               "lowered": lowered_criteria(spec)}  # fmt: skip
    advice = advise(dataset, figures) if reasons else None
    with registry_locked(home.models):  # so that of two verdicts at once none is lost
        earlier = _earlier(read_gate(folder))
        said = {**figures, **verdict, "advice": advice, **looks, "earlier": earlier}
        gate = write_gate(folder, said)
    if reasons:
        home.catalog.note(FAILED, model_id, "; ".join(reasons))
    else:
        promote(home, model_id, reason=_say_passed(home, model_id, gate["lowered"]))
    return gate


def _say_passed(home: Home, model_id: str, lowered: list[str]) -> str:
    """Return in words how a model passed; failures are counted where no file can be removed."""
    events = home.catalog.events()
    failed = int(((events.what == FAILED) & (events.subject == model_id)).sum())
    criteria = f" with lowered criteria ({', '.join(lowered)})" if lowered else ""
    return f"passed the gate{criteria}" + (f", after {failed} failed verdicts" if failed else "")


def check_passed(gate: dict[str, Any], *, required: bool = True) -> None:
    """Raise `GateFailed` with reasons and advice if a required gate was not passed."""
    if required and not gate["passed"]:
        reasons = "; ".join(gate["reasons"])
        said = f"model {gate['model_id']} did not pass: {reasons}. {gate['advice']}"
        raise GateFailed(said, facts=gate)


def advise(dataset: Dataset, figures: dict[str, Any]) -> str:
    """Return what to collect next: of the class that is worst off, and what the ledger misses."""
    worst = worst_class(figures)
    n = dataset.certificate["patients"]["train"].get(worst, 0)
    originals = dataset.rows[dataset.rows.parent_id.isna()]
    missing = say_missing(make_ledger(originals, classes=dataset.classes))
    ledger = f" The ledger says: {'; '.join(missing)}." if missing else ""
    return (
        f"Collect more patients of {worst} (now {n} in training, recall "
        f"{as_number(figures['recall'].get(worst)):.2f}), label, balance and train again.{ledger}"
    )


def note_look(home: Home, dataset: Dataset, model_id: str) -> str:
    """Write into the catalogue that a model is shown a test part; return the part's name."""
    part = str(dataset.certificate["test_sha256"])
    home.catalog.note(LOOK, part, model_id)
    return part


def _look(home: Home, dataset: Dataset, model_id: str) -> dict[str, int]:
    """Record a look at the test part before it is taken, and count all so far, this one too."""
    part = note_look(home, dataset, model_id)
    events = home.catalog.events()
    looks = events[(events.what == LOOK) & (events.subject == part)]
    mine = int((looks.detail == model_id).sum())
    return {"looks": mine, "looks_of_test_part": len(looks)}


def _earlier(gate: dict[str, Any] | None) -> list[dict[str, Any]]:
    if gate is None:
        return []
    said = {name: gate[name] for name in ("at", "passed", "spec", "reasons", "lowered")}
    return [*gate["earlier"], said]
