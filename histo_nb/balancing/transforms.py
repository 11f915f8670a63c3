"""The transforms: training (E1–E3), and the one that validation, gate and analysis share."""

from typing import Literal

import numpy as np
import torch
from torchvision.transforms import v2

from histo_nb.balancing.pixels import resize_tile

Normalize = Literal["std", "variance"]

CROP_SCALE = (0.3, 1.0)  # share of the tile's area, CN 113887377 A [0074]
CROP_RATIO = (3 / 4, 4 / 3)


# optical density of red, green, blue of haematoxylin, eosin, DAB: Ruifrok & Johnston 2001
HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))


class StainJitter(torch.nn.Module):
    """Scale the strength of each stain by a random factor in 1 ± `amount` (HED jitter).

    Densities add up, so that the change is one 3 × 3 matrix on the pixel's optical densities;
    glass stays white. Source: Tellez et al. 2018, without their shift.
    """

    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount
        self.stains = torch.nn.functional.normalize(torch.tensor(HED, dtype=torch.float64), dim=1)
        self.unmix = torch.linalg.inv(self.stains)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return a float image (3, H, W) in 0–1."""
        factors = 1 + self.amount * (2 * torch.rand(3, dtype=torch.float64) - 1)
        mix = (self.unmix * factors) @ self.stains
        density = image.clamp(min=1 / 255).log().flatten(1)
        return (mix.T.float() @ density).exp_().clamp_(max=1).view_as(image)


class RandomRightAngle(torch.nn.Module):
    """Turn an image (…, H, W), H = W, by a random multiple of 90°."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image of the same shape."""
        return image.rot90(int(torch.randint(4, ())), dims=(-2, -1))


class WholeTile(torch.nn.Module):
    """Resize (…, 3, S, S) uint8 tiles as `pixels.resize_tile` does."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return (…, 3, size, size) uint8."""
        if images.shape[-1] == self.size:
            return images
        tiles = images.flatten(0, -4) if images.ndim > 3 else images[None]
        small = [resize_tile(tile.permute(1, 2, 0).numpy(), self.size) for tile in tiles]
        resized = torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2)
        return resized.reshape(*images.shape[:-2], self.size, self.size)


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
    std or variance [0074–0076]. Flips with right angles, and stain jitter, are additions of the
    recipes.
    """
    steps: list[torch.nn.Module] = [
        v2.RandomResizedCrop(image_size, scale=CROP_SCALE, ratio=CROP_RATIO, antialias=True)
    ]
    if flips:
        steps += [v2.RandomHorizontalFlip(), RandomRightAngle()]
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
            WholeTile(image_size),
            v2.ToDtype(torch.float32, scale=True),
            _normalization(statistics, normalize),
        ]
    )


def _normalization(statistics: dict[str, list[float]], normalize: Normalize) -> v2.Normalize:
    return v2.Normalize(mean=statistics["mean"], std=statistics[normalize])
