"""HistoNet33, the network of the patent.

Source: CN 113887377 A [0078–0080]: 33 convolutional layers with Leaky ReLU, max-pooling and
shortcuts; the outputs of layers 1, 10, 15 and 33 are concatenated by channel.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from histo_nb.geometry import check_positive
from histo_nb.model.fusion import SLOPE, FusedNetwork

STAGES = ((64, 4), (128, 2), (256, 4), (512, 4))  # channels, residual blocks of two convolutions
TAPPED_STAGES = (0, 1, 3)  # ends of convolutions 10, 15 and 33; tap 1 is the stem


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


class HistoNet33(FusedNetwork):
    """33 convolutions in a stem and four stages, four taps, two fully connected layers.

    For 224 px: stem 112 → stage 1 at 56 → 2 at 28 → 3 at 14 → 4 at 7. The taps have 64 + 64 + 128
    + 512 = 768 channels at width 1.

    Parameters
    ----------
    n_classes
        Length of the output.
    width
        Scales all channels, for small machines; multiples of 8, at least 8.

    Raises
    ------
    SpecError
        `width` is no number above 0.
    """

    def __init__(self, n_classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        check_positive(width=width)
        channels = [max(8, round(n * width / 8) * 8) for n, _ in STAGES]
        self.stem = ConvBlock(3, channels[0], kernel=7, stride=2)
        self.stages = nn.ModuleList()
        n_in = channels[0]
        for n_out, (_, n_blocks) in zip(channels, STAGES, strict=True):
            blocks = [ResidualBlock(n_out) for _ in range(n_blocks)]
            self.stages.append(nn.Sequential(ConvBlock(n_in, n_out), *blocks))
            n_in = n_out
        self.add_head([channels[0], *(channels[i] for i in TAPPED_STAGES)], n_classes)
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


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, a=SLOPE)
