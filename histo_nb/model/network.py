"""The networks by name: HistoNet33 and what it can be compared with, behind one interface."""

from typing import Any

import torchvision
from torch import nn

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.model.histonet import HistoNet33
from histo_nb.model.resnet_taps import ResNet34Taps

NETWORKS: dict[str, type[nn.Module]] = {"histonet33": HistoNet33, "resnet34_taps": ResNet34Taps}
# These answer several times over in training; one answer is all that a Learner can compare.
ONE_ANSWER: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}
WRONG = (TypeError, ValueError, ArithmeticError, RuntimeError, AssertionError)  # torchvision's


def make_network(name: str, n_classes: int, **arguments: Any) -> nn.Module:
    """Build a network of this name without trained weights: (N, 3, H, W) → logits (N, n_classes).

    Parameters
    ----------
    name
        `histonet33`, `resnet34_taps`, or any classifier of torchvision.
    n_classes
        Length of the output.
    arguments
        What the network itself takes, for example `width=0.25` of `histonet33`.

    Raises
    ------
    SpecError
        The name is not known, or the arguments do not fit it.
    """
    check_positive(n_classes=n_classes)
    if name not in NETWORKS and name not in torchvision.models.list_models(torchvision.models):
        raise SpecError(
            f"network={name!r} is unknown; choose {', '.join(map(repr, NETWORKS))} or a "
            "classifier of torchvision, for example 'resnet34'"
        )
    if arguments.get("aux_logits"):
        raise SpecError(
            f"aux_logits={arguments['aux_logits']!r}: network={name!r} must give one answer in "
            "training; leave aux_logits out"
        )
    try:
        return _build(name, n_classes, arguments)
    except WRONG as error:
        raise SpecError(
            f"network={name!r} does not take n_classes={n_classes}, {arguments}: {error}; "
            "leave its arguments out for the usual network"
        ) from error


def _build(name: str, n_classes: int, arguments: dict[str, Any]) -> nn.Module:
    if name in NETWORKS:
        return NETWORKS[name](n_classes, **arguments)
    arguments = ONE_ANSWER.get(name, {}) | arguments
    network: nn.Module = torchvision.models.get_model(
        name, weights=None, num_classes=n_classes, **arguments
    )
    return network
