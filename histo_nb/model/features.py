"""A network that also gives its features: what its last layer is given."""

import torch
from torch import Tensor, nn


class WithFeatures(nn.Module):
    """`(N, 3, H, W)` → logits (N, n_classes) and features (N, D), the input of the last layer.

    A network whose last layer is no linear one has its logits as features.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        self._last = linear[-1:]  # in a list: no module of this one twice

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and features of normalised images."""
        seen: list[Tensor] = []
        hooks = [
            layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
            for layer in self._last
        ]
        try:
            logits: Tensor = self.network(images)
        finally:
            for hook in hooks:
                hook.remove()
        return logits, torch.flatten(seen[-1] if seen else logits, 1)
