"""What a model must reach to pass its gate. Loads no torch."""

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from histo_nb.errors import SpecError

ROUNDING = 9  # decimals; 0.85 − 0.80 is 0.05, whatever binary fractions make of it


@dataclass(frozen=True, kw_only=True)
class GateSpec:
    """What a model must reach on patients never seen; CN 113887377 A [0084]."""

    min_accuracy: float = 0.8  # share of test tiles, 0–1
    min_balanced_accuracy: float = 0.6  # mean of the classes' recalls, 0–1
    min_lower_bound: float = 0.0  # of the 95 % interval of balanced accuracy, 0–1
    min_class_recall: float = 0.3  # of the worst class, 0–1
    min_gain_over_colour: float = 0.05  # balanced accuracy above the better colour baseline; −1–1
    max_ece: float = 0.2  # expected calibration error, 0–1
    min_test_patients: int = 1
    allow_selected_on_test: bool = False  # the epoch may have been chosen on the test part

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_value(field.name, getattr(self, field.name), type(field.default))


def read_spec(path: Path | None = None, **overrides: Any) -> GateSpec:
    """Return the spec in a JSON file, such as `{"min_accuracy": 0.9}`; overrides come first.

    Raises
    ------
    SpecError
        The file is missing or no JSON object, names what the gate does not know, or a value lies
        outside its rule.
    """
    content = _read(Path(path)) if path else {}
    known = [field.name for field in fields(GateSpec)]
    unknown = [name for name in content if name not in known]
    if unknown:
        raise SpecError(
            f"{path} names {', '.join(unknown)}, which the gate does not know; "
            f"choose from {', '.join(known)}"
        )
    return GateSpec(**{**content, **overrides})


def lowered_criteria(spec: GateSpec) -> list[str]:
    """Return in words the criteria that are laxer than the house's; [] if none is.

    >>> lowered_criteria(GateSpec(min_accuracy=0.5, min_class_recall=0.9))
    ['min_accuracy 0.5 for 0.8']
    """
    house = GateSpec()
    lax = []
    for field in fields(GateSpec):
        asked, usual = getattr(spec, field.name), getattr(house, field.name)
        higher_is_laxer = field.name in ("max_ece", "allow_selected_on_test")
        if asked > usual if higher_is_laxer else asked < usual:
            lax.append(f"{field.name} {asked:g} for {usual:g}")
    return lax


def find_faults(figures: dict[str, Any], spec: GateSpec, *, select_on: str = "valid") -> list[str]:
    """Return in words what keeps a model from passing; nothing if it passes.

    A figure that is missing or not finite never passes.

    Parameters
    ----------
    figures
        What `evaluate` returned.
    select_on
        Part that chose the epoch, from the model's card.
    """
    faults = [
        f"{name} {value:.3f} is below {minimum:g}"
        for name, value, minimum in _list_minima(figures, spec)
        if not (math.isfinite(value) and value >= minimum)
    ]
    ece = as_number(figures.get("ece"))
    if not (math.isfinite(ece) and ece <= spec.max_ece):
        faults.append(f"expected calibration error {ece:.3f} is above {spec.max_ece:g}")
    return faults + _find_weak_tests(figures, spec, select_on)


def worst_class(figures: dict[str, Any]) -> str:
    """Return the class of the lowest recall, one that is not a number before all others."""
    recall = {label: as_number(value) for label, value in figures["recall"].items()}
    return min(recall, key=lambda label: (recall[label] >= 0, recall[label]), default="no class")


def as_number(value: float | None) -> float:
    """Return a figure, NaN where it is unknown."""
    return math.nan if value is None else float(value)


def _list_minima(figures: dict[str, Any], spec: GateSpec) -> list[tuple[str, float, float]]:
    """Return what each figure is called, its value, and the least it must be."""
    balanced, worst = as_number(figures["balanced_accuracy"]), worst_class(figures)
    colours = [as_number(score) for score in figures["baselines"].values()]
    colour = float(np.max(colours)) if colours else math.nan  # one NaN among them stays NaN
    minima = [
        ("accuracy", as_number(figures["accuracy"]), spec.min_accuracy),
        ("balanced accuracy", balanced, spec.min_balanced_accuracy),
        (f"recall of {worst}", as_number(figures["recall"].get(worst)), spec.min_class_recall),
        (
            f"balanced accuracy above the {colour:.3f} that colour alone reaches:",
            round(balanced - colour, ROUNDING),
            spec.min_gain_over_colour,
        ),
    ]
    low = figures["intervals"]["balanced_accuracy"][0]
    if low is not None or spec.min_lower_bound:  # one patient gives no interval; 0 asks for none
        said = "lower bound of balanced accuracy"
        minima.append((said, as_number(low), spec.min_lower_bound))
    return minima


def _find_weak_tests(figures: dict[str, Any], spec: GateSpec, select_on: str) -> list[str]:
    faults = []
    n_untested = len(figures["confusion"]) - len(figures["recall"])
    if n_untested:
        faults.append(f"{n_untested} of the classes have no test tile at all")
    n_patients = figures["n_patients"]  # None: nobody knows the patients, only the images
    if spec.min_test_patients > 1 and n_patients is None:
        faults.append(f"nobody knows its test patients, {spec.min_test_patients} are asked for")
    elif n_patients is not None and not n_patients >= spec.min_test_patients:
        faults.append(f"{n_patients} test patients are below {spec.min_test_patients}")
    if select_on == "test" and not spec.allow_selected_on_test:
        faults.append("its epoch was chosen on the test part, so that its figures are optimistic")
    return faults


def _check_value(name: str, value: Any, kind: type) -> None:
    if kind is bool:
        if not isinstance(value, bool):
            raise SpecError(f"{name}={value!r} is neither true nor false; choose one")
        return
    whole = kind is int
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise SpecError(f"{name}={value!r} is no {'whole number' if whole else 'number'}")
    low = -1 if name == "min_gain_over_colour" else 0
    if whole and value < 1:
        raise SpecError(f"{name}={value}; choose 1 or more")
    if not whole and not low <= value <= 1:
        raise SpecError(f"{name}={value} is a share; choose {low}–1")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(
            f'{path} is no JSON file ({error}); write {{"min_accuracy": 0.9}}'
        ) from error
    if not isinstance(content, dict):
        raise SpecError(f'{path} holds no JSON object; write one such as {{"min_accuracy": 0.9}}')
    return content
