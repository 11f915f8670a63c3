"""A model in words: what it learnt from, what its gate said. Loads no torch."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histo_nb.errors import BundleError
from histo_nb.export.words import UNKNOWN, say_count, say_interval, say_number, say_time
from histo_nb.home import Home
from histo_nb.model.card import Card, read_card
from histo_nb.model.registry import find_model
from histo_nb.model.seal import CARD, is_passed, read_gate

PARTS = {"train": "training", "valid": "validation", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What is still known of a model here; None = it or its data set is gone or damaged."""

    model_id: str
    card: Card | None
    gate: dict[str, Any] | None  # None, too, if it never stood before one
    certificate: dict[str, Any] | None

    @property
    def summary(self) -> list[tuple[str, str]]:
        """The model in a few lines, each with its name."""
        if self.card is None:
            return [("Model", f"{self.model_id}: it is no longer in the registry, or damaged")]
        return [
            ("Model", self.model_id),
            ("Classes", say_classes(self.card)),
            ("Learnt from", say_learnt(self.certificate, self.card)),
            ("Gate", say_gate(self.gate)),
            ("On patients never seen", say_tested(self.gate)),
        ]


def read_model(home: Home, model_id: str) -> ModelFacts:
    """Return what is known of a model, without hashing its weights; never raises for a lost one."""
    try:
        folder = find_model(home, model_id)
        card, gate = read_card(folder / CARD), read_gate(folder)
    except BundleError:  # its message names folders; the report says that it is unknown
        return ModelFacts(model_id=model_id, card=None, gate=None, certificate=None)
    return ModelFacts(
        model_id=model_id, card=card, gate=gate, certificate=read_certificate(home, card)
    )


def read_certificate(home: Home, card: Card) -> dict[str, Any] | None:
    """Return the certificate a model was trained under; None if its data set is no longer here."""
    path = home.datasets / card.dataset_id / "certificate.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content if content["sha256"] == card.certificate_sha256 else None
    except (OSError, ValueError, TypeError, LookupError):
        return None


def say_classes(card: Card) -> str:
    """Return the classes, the abnormal ones first."""
    abnormal = [label for label in card.classes if label != card.normal_class]
    return f"{', '.join(abnormal)}, which are abnormal, and {card.normal_class}"


def say_learnt(certificate: Mapping[str, Any] | None, card: Card) -> str:
    """Return what a model was trained on."""
    recipe = f"recipe {card.recipe.get('name', UNKNOWN)}, network {card.network}"
    if certificate is None:
        return f"data set {card.dataset_id}, which is no longer here; {recipe}"
    n = {side: sum(certificate["tiles"].get(side, {}).values()) for side in PARTS}
    parts = ", ".join(f"{n[side]:,} {PARTS[side]}" for side in PARTS)
    return f"data set {card.dataset_id}: tiles {parts}; {recipe}"


def say_gate(gate: Mapping[str, Any] | None) -> str:
    """Return what the gate said.

    >>> say_gate({"passed": True, "lowered": ["min_accuracy 0.5 for 0.8"]})
    'passed, but by lowered criteria only: min_accuracy 0.5 for 0.8'
    """
    if gate is None:
        return "none: it never stood before one"
    at = f" on {say_time(gate['at'])}" if gate.get("at") else ""
    if not gate.get("passed"):
        return f"not passed{at}: {'; '.join(gate.get('reasons') or ['no reason was written'])}"
    if not is_passed(gate):
        return f"passed{at}, but by lowered criteria only: {'; '.join(gate['lowered'])}"
    return f"passed{at}"


def say_tested(gate: Mapping[str, Any] | None) -> str:
    """Return the balanced accuracy that the gate measured, with its interval."""
    if not gate or "balanced_accuracy" not in gate:
        return UNKNOWN
    interval = say_interval(gate["intervals"]["balanced_accuracy"])
    known = f"95 % interval {interval}" if interval != "—" else "too few patients for an interval"
    return f"balanced accuracy {say_number(gate['balanced_accuracy'])} ({known}); {say_test(gate)}"


def say_test(gate: Mapping[str, Any]) -> str:
    """Return how much the gate has seen."""
    n, patients = gate["n_patients"], "nobody knows the patients"
    return (
        f"{patients if n is None else say_count(n, 'patient')}, "
        f"{say_count(gate['n_slides'], 'slide')}, {say_count(gate['n_tiles'], 'tile')}"
    )
