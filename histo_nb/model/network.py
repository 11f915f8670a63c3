"""HistoNet33 and what it can be compared with.

Source: CN 113887377 A [0078–0080]: 33 convolutional layers with Leaky ReLU, max-pooling and
shortcuts; the outputs of layers 1, 10, 15 and 33 are concatenated by channel.
"""

from typing import Any, cast

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from histo_nb.errors import SpecError

SLOPE = 0.1  # of Leaky ReLU below 0
STAGES = ((64, 4), (128, 2), (256, 4), (512, 4))  # channels, residual blocks of two convolutions
TAPPED_STAGES = (0, 1, 3)  # ends of convolutions 10, 15 and 33; tap 1 is the stem
HIDDEN = 256  # of the first fully connected layer
DROPOUT = 0.3


class ConvBlock(nn.Sequential):
    """Convolution without bias, batch norm, Leaky ReLU (unless it is added to a shortcut first)."""

    def __init__(
        self, n_in: int, n_out: int, *, kernel: int = 3, stride: int = 1, activate: bool = True
    ) -> None:
        layers = [
            nn.Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(n_out),
        ]
        super().__init__(*layers, *([nn.LeakyReLU(SLOPE, inplace=True)] if activate else []))


class ResidualBlock(nn.Module):
    """Two convolutions whose result is added to their input."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        last = ConvBlock(n_channels, n_channels, activate=False)
        # Each block starts as its shortcut: deep nets without this start badly (He et al. 2019).
        nn.init.zeros_(cast(nn.BatchNorm2d, last[1]).weight)
        self.convolutions = nn.Sequential(ConvBlock(n_channels, n_channels), last)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return functional.leaky_relu(x + self.convolutions(x), SLOPE, inplace=True)


class HistoNet33(nn.Module):
    """33 convolutions in a stem and four stages, four taps, two fully connected layers.

    For 224 px: stem 112 → stage 1 at 56 → 2 at 28 → 3 at 14 → 4 at 7. The taps (64 + 64 + 128 +
    512 = 768 channels at width 1) are max-pooled to the last grid, normalised and concatenated.

    Parameters
    ----------
    n_classes
        Length of the output.
    width
        Scales all channels, for small machines.
    """

    def __init__(self, n_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        channels = [max(8, round(n * width / 8) * 8) for n, _ in STAGES]
        self.stem = ConvBlock(3, channels[0], kernel=7, stride=2)
        self.stages = nn.ModuleList()
        n_in = channels[0]
        for n_out, (_, n_blocks) in zip(channels, STAGES, strict=True):
            blocks = [ResidualBlock(n_out) for _ in range(n_blocks)]
            self.stages.append(nn.Sequential(ConvBlock(n_in, n_out), *blocks))
            n_in = n_out
        tapped = [channels[0], *(channels[i] for i in TAPPED_STAGES)]
        self.tap_norms = nn.ModuleList(nn.BatchNorm2d(n) for n in tapped)
        self.head = nn.Sequential(
            nn.Linear(sum(tapped), HIDDEN),
            nn.LeakyReLU(SLOPE, inplace=True),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, n_classes),
        )
        self.apply(_initialise)

    def taps(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of convolutions 1, 10, 15 and 33 for (N, 3, H, W)."""
        x = self.stem(x)
        taps = [x]
        x = functional.max_pool2d(x, 3, 2, padding=1)
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in TAPPED_STAGES:
                taps.append(x)
            if i < len(self.stages) - 1:
                x = functional.max_pool2d(x, 2)
        return taps

    def features(self, x: Tensor) -> Tensor:
        """Return the fused map (N, 768, H/32, W/32): what the classes are read from."""
        taps = self.taps(x)
        grid = taps[-1].shape[-2:]
        pooled = [functional.adaptive_max_pool2d(tap, grid) for tap in taps]
        return torch.cat(
            [norm(tap) for norm, tap in zip(self.tap_norms, pooled, strict=True)], dim=1
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (N, n_classes); softmax is explicit at inference."""
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)


def make_network(name: str, n_classes: int, **arguments: Any) -> nn.Module:
    """Build `histonet33`, or any torchvision classifier by name, without trained weights.

    Raises
    ------
    SpecError
        The name is not known, or the arguments do not fit it.
    """
    if name != "histonet33" and name not in torchvision.models.list_models(torchvision.models):
        raise SpecError(
            f"network={name!r} is unknown; choose 'histonet33' or a classifier of torchvision, "
            "for example 'resnet34'"
        )
    try:
        if name == "histonet33":
            return HistoNet33(n_classes, **arguments)
        network: nn.Module = torchvision.models.get_model(
            name, weights=None, num_classes=n_classes, **arguments
        )
        return network
    except TypeError as error:
        raise SpecError(f"network={name!r} does not take {arguments}: {error}") from error
