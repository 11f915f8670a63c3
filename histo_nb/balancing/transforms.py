"""The transforms: training (E1–E3), and the one that validation, gate and analysis share."""

from typing import Literal

import torch
from torchvision.transforms import v2

Normalize = Literal["std", "variance"]

CROP_SCALE = (0.3, 1.0)  # share of the tile's area, CN 113887377 A [0074]
CROP_RATIO = (3 / 4, 4 / 3)


class StainJitter(torch.nn.Module):
    """Scale each channel's optical density by a random factor, as stain strength varies.

    The factors lie in 1 ± `amount`. Light that passes is `10 ** -density`, so that scaling a
    density is a power of the pixel (0–1).
    """

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return a float image (3, H, W) in 0–1."""
        factors = 1 + self.amount * (2 * torch.rand(3, 1, 1) - 1)
        return image.clamp(min=1 / 255).pow(factors)


def training_transform(
    *,
    image_size: int,
    statistics: dict[str, list[float]],
    normalize: Normalize,
    flips: bool = False,
    stain_jitter: float = 0.0,
) -> v2.Compose:
    """Return the random transform of a training tile, (3, S, S) uint8 → (3, H, W) float32.

    E1 random crop of 30–100 % of the area at 3:4 to 4:3, E2 to 0–1, E3 minus the mean, divided by
    std or variance [0074–0076]. Flips and stain jitter are additions of the recipes.
    """
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(image_size, scale=CROP_SCALE, ratio=CROP_RATIO, antialias=True)
    ]
    if flips:
        steps += [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip()]
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if stain_jitter:
        steps.append(StainJitter(stain_jitter))
    return v2.Compose([*steps, _normalization(statistics, normalize)])


def evaluation_transform(
    *, image_size: int, statistics: dict[str, list[float]], normalize: Normalize
) -> v2.Compose:
    """Return the one deterministic transform: the whole tile, (…, 3, S, S) uint8 → float32."""
    return v2.Compose(
        [
            v2.Resize((image_size, image_size), antialias=True),
            v2.ToDtype(torch.float32, scale=True),
            _normalization(statistics, normalize),
        ]
    )


def _normalization(statistics: dict[str, list[float]], normalize: Normalize) -> v2.Normalize:
    return v2.Normalize(mean=statistics["mean"], std=statistics[normalize])
