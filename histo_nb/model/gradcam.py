"""Grad-CAM: which parts of an image speak for a class.

Source: Selvaraju et al. 2017, "Grad-CAM", eq. 1 and 2: the channels of a map, each weighted by the
mean gradient of the class's logit, summed, negatives dropped.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import VisionTransformer

from histo_nb.errors import SpecError
from histo_nb.model.fusion import FusedNetwork


def gradcam(network: nn.Module, images: Tensor, class_number: int | None = None) -> np.ndarray:
    """Return (N, H, W) float32 in 0–1: how much each place speaks for a class.

    Each map is scaled by its own maximum, so that maps of two images cannot be compared; it is all
    0 where nothing speaks for the class. Its grain is the network's last grid (32 px), enlarged
    bilinearly. Of HistoNet33 and resnet34_taps the fused map is looked at, of a torchvision network
    the last map before the pooling.

    Parameters
    ----------
    network
        In evaluation mode; on any device. Neither gradients nor hooks stay behind.
    images
        (N, 3, H, W) float as the card's transform makes them.
    class_number
        Place of the class in the output; None: the class that each image is most likely of.

    Raises
    ------
    SpecError
        The network is in training mode or has no map of places, the images have another shape, or
        there is no such class.
    """
    _check(network, images)
    # A page asks inside `inference_mode`, where no gradient exists: leave it for this block.
    with torch.inference_mode(False), torch.enable_grad():
        images = images.clone().detach().to(next(network.parameters()).device)
        if isinstance(network, FusedNetwork):
            features, logits = _fused_map(network, images)
        else:
            features, logits = _last_map(network, images)
        (gradient,) = torch.autograd.grad(_pick(logits, class_number).sum(), features)
    weights = gradient.mean(dim=(2, 3), keepdim=True)
    cam = (weights * features.detach()).sum(dim=1, keepdim=True).relu()
    return _scale(cam, (images.shape[2], images.shape[3]))


def _check(network: nn.Module, images: Tensor) -> None:
    if any(module.training for module in network.modules()):
        raise SpecError("network is in training mode, which changes its answer; call `.eval()`")
    if isinstance(network, VisionTransformer):
        raise SpecError(
            "network=VisionTransformer has no map of places before its answer; choose a "
            "convolutional network, for example 'histonet33'"
        )
    if images.ndim != 4 or not images.is_floating_point():
        raise SpecError(
            f"images={tuple(images.shape)} {images.dtype} must be (N, 3, H, W) float; "
            "pass them through the card's transform"
        )


def _fused_map(network: FusedNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fused map and the logits; only the head, which joins them, needs gradients."""
    with torch.no_grad():
        features = network.features(images)
    features.requires_grad_()
    return features, network.classify(features)


def _last_map(network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last output of a module that still has places (N, C, h, w), and the logits."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            found[:] = [output]

    hooks = [module.register_forward_hook(keep) for module in network.modules()]
    try:
        logits = network(images.requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        raise SpecError(
            f"network={type(network).__name__} has no map of more than one place for images of "
            f"{tuple(images.shape[2:])} px; choose larger images or a convolutional network"
        )
    return found[0], logits


def _pick(logits: Tensor, class_number: int | None) -> Tensor:
    """Return the logit (N,) of the class of that number, or of each image's likeliest."""
    if class_number is None:
        return logits.amax(dim=1)
    if not 0 <= class_number < logits.shape[1]:
        raise SpecError(
            f"class_number={class_number} must be one of 0 to {logits.shape[1] - 1}; "
            "take the class's place in the card's `classes`"
        )
    return logits[:, class_number]


def _scale(cam: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Enlarge (N, 1, h, w) to (N, *size) and scale each map to a maximum of 1."""
    cam = functional.interpolate(cam, size=size, mode="bilinear", align_corners=False)
    peak = cam.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(cam.dtype).tiny)
    scaled: np.ndarray = (cam / peak)[:, 0].float().cpu().numpy()
    return scaled
