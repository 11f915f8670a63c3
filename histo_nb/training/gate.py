"""The gate: a candidate is scored once on the locked test part; only then may it serve."""

from dataclasses import asdict, dataclass
from typing import Any

from histo_nb.balancing.dataset import Dataset, open_dataset
from histo_nb.catalog import now
from histo_nb.errors import GateFailed, SpecError
from histo_nb.home import Home
from histo_nb.model.bundle import open_bundle, read_gate, write_gate
from histo_nb.model.registry import find_model, promote
from histo_nb.training.evaluate import evaluate


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """What a model must reach on patients never seen; CN 113887377 A [0084]."""

    min_accuracy: float = 0.8  # share of test tiles, 0–1
    min_balanced_accuracy: float = 0.6
    min_class_recall: float = 0.3  # of the worst class
    beat_colour: bool = True  # must be above both colour-only baselines

    def __post_init__(self) -> None:
        for name in ("min_accuracy", "min_balanced_accuracy", "min_class_recall"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name}={getattr(self, name)} is a share; choose 0–1")


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
    The figures of `evaluate`, with `passed`, `reasons`, `advice` and `looks`: how often the test
    part was looked at for this model. A second look is recorded as such.
    """
    spec = spec or GateSpec()
    folder = find_model(home, model_id)
    bundle = open_bundle(folder)
    dataset = open_dataset(home.datasets / bundle.card.dataset_id)
    earlier = read_gate(folder)
    figures = evaluate(bundle, dataset)
    reasons = find_faults(figures, spec)
    gate = {
        "model_id": model_id,
        "passed": not reasons,
        "reasons": reasons,
        "advice": advise(dataset, figures) if reasons else None,
        "looks": (earlier or {}).get("looks", 0) + 1,
        "at": now(),
        "spec": asdict(spec),
        **figures,
    }
    write_gate(folder, gate)
    if reasons:
        home.catalog.note("gate failed", model_id, "; ".join(reasons))
    else:
        promote(home, model_id, reason="passed the gate")
    return gate


def check_passed(gate: dict[str, Any], *, required: bool = True) -> None:
    """Raise `GateFailed` with reasons and advice if a required gate was not passed."""
    if required and not gate["passed"]:
        reasons = "; ".join(gate["reasons"])
        raise GateFailed(f"model {gate['model_id']} did not pass: {reasons}. {gate['advice']}")


def find_faults(figures: dict[str, Any], spec: GateSpec) -> list[str]:
    """Return in words what keeps a model from passing; nothing if it passes."""
    faults = [
        f"{name} {figures[name]:.3f} is below {minimum:g}"
        for name, minimum in (
            ("accuracy", spec.min_accuracy),
            ("balanced_accuracy", spec.min_balanced_accuracy),
        )
        if figures[name] < minimum
    ]
    worst = min(figures["recall"], key=lambda label: figures["recall"][label])
    if figures["recall"][worst] < spec.min_class_recall:
        faults.append(
            f"recall of {worst} {figures['recall'][worst]:.3f} is below {spec.min_class_recall:g}"
        )
    if spec.beat_colour:
        faults += [
            f"balanced accuracy {figures['balanced_accuracy']:.3f} is not above the {score:.3f} "
            f"that {name} alone reaches"
            for name, score in figures["baselines"].items()
            if figures["balanced_accuracy"] <= score
        ]
    return faults


def advise(dataset: Dataset, figures: dict[str, Any]) -> str:
    """Return in one sentence what to collect next: patients of the class that is worst off."""
    worst = min(figures["recall"], key=lambda label: figures["recall"][label])
    n = dataset.certificate["patients"]["train"].get(worst, 0)
    return (
        f"Collect more patients of {worst} (now {n} in training, recall "
        f"{figures['recall'][worst]:.2f}), label, balance and train again."
    )
