"""Taps of a backbone → one fused map → logits: what HistoNet33 and resnet34_taps share.

Source: CN 113887377 A [0078–0080]: the outputs of four layers are concatenated by channel and
read by two fully connected layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

SLOPE = 0.1  # of Leaky ReLU below 0
HIDDEN = 256  # of the first fully connected layer
DROPOUT = 0.3


class FusedNetwork(nn.Module):
    """A backbone whose taps are max-pooled to the last grid, normalised, concatenated and read.

    A child makes its backbone, then calls `add_head`, and says in `taps` where it is tapped.
    """

    def add_head(self, n_tapped: Sequence[int], n_classes: int) -> None:
        """Add what reads taps of so many channels: their norms, two fully connected layers."""
        self.tap_norms = nn.ModuleList(nn.BatchNorm2d(n) for n in n_tapped)
        self.head = nn.Sequential(
            nn.Linear(sum(n_tapped), HIDDEN),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, n_classes),
        )

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return maps of shrinking grids for (N, 3, H, W)."""
        raise NotImplementedError

    def features(self, x: Tensor) -> Tensor:
        """Return the fused map (N, channels of all taps, H/32, W/32) of (N, 3, H, W)."""
        taps = self.taps(x)
        grid = taps[-1].shape[-2:]
        pooled = [pool_to(tap, grid) for tap in taps]
        return torch.cat(
            [norm(tap) for norm, tap in zip(self.tap_norms, pooled, strict=True)], dim=1
        )

    def classify(self, features: Tensor) -> Tensor:
        """Return logits (N, n_classes) of the fused map; softmax is explicit at inference."""
        logits: Tensor = self.head(features.mean(dim=(2, 3)))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, n_classes) of (N, 3, H, W)."""
        return self.classify(self.features(x))


def pool_to(x: Tensor, grid: tuple[int, int] | torch.Size) -> Tensor:
    """Return (N, C, H, W) max-pooled to a grid.

    Plain pooling where the grid divides the map: the same values, and other runtimes have quick
    kernels for it.
    """
    (height, width), (rows, columns) = x.shape[-2:], grid
    tracing = torch.jit.is_tracing()  # type: ignore  # sizes decide nothing then
    if tracing or height % rows or width % columns:
        return functional.adaptive_max_pool2d(x, grid)
    window = (height // rows, width // columns)
    return x if window == (1, 1) else functional.max_pool2d(x, window)
