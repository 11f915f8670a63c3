"""What a model is for, what it is not for, and what is not known of it, in plain words."""

from collections.abc import Mapping
from typing import Any

from histo_nb.export.words import say_count
from histo_nb.model.card import Card
from histo_nb.model.seal import is_passed

FEW_PATIENTS = 20  # below, the percentile interval is too narrow; see `training.measures`


def list_uses(card: Card) -> list[str]:
    """Return what a model is meant for."""
    abnormal = [label for label in card.classes if label != card.normal_class]
    return [
        f"Research on digital slides: to tell {', '.join(abnormal)} from {card.normal_class} in "
        "tiles of tissue, and to mark where on a slide they lie.",
        "To put slides in order for a reader, who looks at each of them.",
    ]


def list_misuses(card: Card) -> list[str]:
    """Return what a model is not meant for."""
    scale = (
        "Slides: it learnt images of unknown scale, and cannot be shown a slide."
        if card.mpp is None
        else f"Scans coarser than {card.mpp:g} µm/px: they are refused, never enlarged."
    )
    return [
        "Diagnosis, treatment or screening, and any decision without a reader.",
        f"Findings other than {', '.join(card.classes)}: whatever it is shown gets one of these.",
        "Organs, stains and scanners that its training slides were not of.",
        scale,
    ]


def list_limits(
    card: Card, *, gate: Mapping[str, Any] | None, certificate: Mapping[str, Any] | None
) -> list[str]:
    """Return what keeps a model's figures from being taken at their word."""
    said = [
        "Its figures are of tiles that people had labelled; other labs' slides may give lower ones."
    ]
    if not is_passed(gate):
        said.append("It passed no gate by the usual criteria: do not rely on its answers.")
    if card.select_on == "test":
        said.append("Its epoch was chosen on the test part: its figures are optimistic.")
    if gate and "balanced_accuracy" in gate:
        said += _limits_of_test(gate)
    if certificate is None:
        said.append("Its data set is no longer here; what it learnt from cannot be looked up.")
    else:
        said += [f"Its split does not know: {unknown}." for unknown in certificate["unknown"]]
    return said


def _limits_of_test(gate: Mapping[str, Any]) -> list[str]:
    n, colours = gate["n_patients"], gate["baselines"].values()
    said = []
    if n is None:
        said.append("Nobody knows the test patients: intervals take each image for one.")
    elif n < FEW_PATIENTS:
        said.append(
            f"It was tested on {say_count(n, 'patient')}: below {FEW_PATIENTS}, intervals are "
            "too narrow."
        )
    gain = gate["balanced_accuracy"] - max((c for c in colours if c is not None), default=0.0)
    if colours and gain < 0.1:
        said.append(f"Colour alone comes within {max(gain, 0):.3f} of its balanced accuracy.")
    return said
