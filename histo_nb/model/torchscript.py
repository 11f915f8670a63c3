"""A network with all that stands before it, as one TorchScript file: patches in, logits out.

The other program cuts a patch from level 0 and hands it on as it is. What a tile goes through here
goes with the network: averaging over areas as OpenCV does it, resizing as Pillow does it, each
rounded to grey values, normalising, the temperature. So the answers are ours, whatever the
patch's size in px.

A TorchScript file is code, which whoever loads it executes. We write them and read none, but for
the one that was just written, to compare its answers.
"""

import io
import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from PIL import Image
from torch import Tensor, nn

from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.errors import BundleError
from histo_nb.files import writing
from histo_nb.geometry import MPP_TOLERANCE
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card, slide_tiling
from histo_nb.slide import shrink

TOLERANCE = 1e-4  # of a probability, between the bundle and the file
ONE = 1 << 22  # 1 in Pillow's weights, which are whole numbers
CHECKED = (4, 2.25, 1)  # patches of so many tiles a side; one of the first, two of the next


def write_torchscript(bundle: Bundle, path: Path) -> Path:
    """Write a model as one TorchScript file; return its path.

    In: (N, 3, P, P) float32, values of level 0 by 255 as `ToTensor` makes them, where P px are the
    card's `tile_size` px at its `mpp`. Out: (N, n_classes) float32, logits by the temperature;
    their softmax is the model's probabilities.

    Raises
    ------
    BundleError
        The model reads something else than level 0, or the file answers otherwise than the bundle
        by more than 1e-4 of a probability.
    StorageError
        The file cannot be written.
    """
    check_level0(bundle.card)
    with _jit_may_be_old(), torch.no_grad():
        network = deepcopy(bundle.network).cpu().to(memory_format=torch.contiguous_format)
        example = torch.zeros(2, 3, bundle.card.image_size, bundle.card.image_size)
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            network.eval().requires_grad_(False), example, check_trace=False
        )
        # not frozen: that module would have no parameters, for which WSInfer asks it, and stay
        # on the CPU, whatever it is moved to
        scripted = torch.jit.script(OnPatches(traced, bundle.card).eval())
        with writing(path) as temporary:
            _save(scripted, temporary)
            _check_same(temporary, bundle)
    return Path(path)


def check_level0(card: Card) -> None:
    """Raise `BundleError` unless a model reads every pixel of level 0, at a known scale."""
    read_path = slide_tiling(card)["read_path"]
    if read_path != "level0":
        raise BundleError(
            f"model {card.model_id} reads read_path={read_path!r}, other programs cut patches from "
            "level 0 and would get other answers; export a model that was trained on level0"
        )


class OnPatches(nn.Module):
    """Patches of level 0 → logits by the temperature. Compiled as TorchScript, hence so plain."""

    weights: Tensor
    mean: Tensor
    divisor: Tensor

    def __init__(self, network: nn.Module, card: Card) -> None:
        super().__init__()
        self.network = network
        self.store_size = card.store_size
        self.smallest = max(math.ceil(card.tile_size * (1 - MPP_TOLERANCE)), card.store_size)
        self.temperature = card.temperature
        # whole numbers, as float64 does not exist on Apple's GPUs
        self.register_buffer("weights", _pillow_weights(card.store_size, card.image_size))
        for name, values in (("mean", "mean"), ("divisor", card.normalize)):
            self.register_buffer(name, torch.tensor(card.statistics[values]).view(3, 1, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """Return logits by the temperature, (N, n_classes), of (N, 3, P, P) with values 0–1."""
        if patches.size(2) != patches.size(3) or patches.size(2) < self.smallest:
            raise ValueError(
                f"patches of {patches.size(3)} x {patches.size(2)} px; this model needs squares of "
                f"{self.smallest} px or more. A slide that is coarser than the model cannot be "
                "classified; for one within 1 %, write its um/px as spacing_um_px in config.json"
            )
        shown = torch.stack([self.show(patch) for patch in patches.unbind()])
        images = (shown.to(patches.device) / 255 - self.mean) / self.divisor
        logits: Tensor = self.network(images)
        return logits / self.temperature

    def show(self, patch: Tensor) -> Tensor:
        """Return what the network is shown of one patch (3, P, P): (3, I, I), 0–255."""
        values = (patch if patch.is_cuda else patch.cpu()) * 255
        tile = _shrink(values.round(), self.store_size).double()
        weights = self.weights.to(tile.device).double()
        columns = _to_grey_values(tile @ weights.t())
        return _to_grey_values(weights @ columns).float()


def _pillow_weights(size: int, smaller: int) -> Tensor:
    """Return how much of each of `size` px Pillow takes for each of `smaller`, by `ONE`; int32."""
    each = Image.fromarray(np.eye(size, dtype=np.int32) * ONE)
    resized = each.resize((smaller, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized).T.copy())


def _to_grey_values(weighted: Tensor) -> Tensor:
    """Round sums of values by Pillow's weights as Pillow does, exactly."""
    return ((weighted + (1 << 21)) / (1 << 22)).floor().clamp(0, 255)


def _shrink(image: Tensor, size: int) -> Tensor:
    """Average (3, P, P) over areas to (3, size, size), as `slide.shrink` does: OpenCV's float32."""
    times = image.size(1) // size
    if image.size(1) % size > 0:
        columns = _average_rows(image, size).transpose(1, 2)
        return _average_rows(columns, size).transpose(1, 2).round()
    sums = F.avg_pool2d(image, times, divisor_override=1)
    if times == 2:  # OpenCV rounds halves up here, and to the even one elsewhere
        return ((sums + 2) / 4).floor()
    return (sums * (1 / (times * times))).round()


def _average_rows(image: Tensor, size: int) -> Tensor:
    """Average each row of (3, H, W) over `size` equal stretches: (3, H, size).

    Pixel by pixel from the left, each by its share of the stretch, in OpenCV's order.
    """
    width = image.size(2)
    stretch = width / size
    starts = torch.arange(size, dtype=torch.float64, device=image.device) * stretch
    averages = torch.zeros([3, image.size(1), size], device=image.device)
    for n in range(int(stretch) + 2):
        pixel = starts.floor() + n
        inside = torch.minimum(pixel + 1, starts + stretch) - torch.maximum(pixel, starts)
        share = (inside.clamp(min=0) / stretch).float()
        averages = averages + share * image.index_select(2, pixel.long().clamp(max=width - 1))
    return averages


@contextmanager
def _jit_may_be_old() -> Iterator[None]:
    """Let torch not say that TorchScript is to go: it is what WSInfer reads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit")
        yield


def _save(scripted: torch.jit.ScriptModule, path: Path) -> None:
    """Write a module without its debug records, which name folders of this machine."""
    whole = io.BytesIO()
    torch.jit.save(scripted, whole)
    with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            if not name.endswith(".debug_pkl"):
                target.writestr(zipfile.ZipInfo(name), source.read(name))


def _check_same(path: Path, bundle: Bundle) -> None:
    """Raise `BundleError` unless a file answers as the bundle does, on noise of several sizes."""
    loaded = torch.jit.load(path)  # type: ignore[no-untyped-call]
    for n, times in enumerate(CHECKED, start=1):
        patches = _random_patches(n, round(bundle.card.tile_size * times))
        found = loaded(patches.permute(0, 3, 1, 2) / 255).softmax(dim=1)
        difference = (found - _ours(patches.numpy(), bundle)).abs().max().item()
        if not difference <= TOLERANCE:  # so that NaN does not pass
            raise BundleError(
                f"the TorchScript file of model {bundle.card.model_id} differs by "
                f"{difference:.2g} of a probability from the bundle, more than {TOLERANCE}; use "
                "the bundle itself"
            )


def _random_patches(n: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randint(0, 256, (n, size, size, 3), dtype=torch.uint8, generator=generator)


def _ours(patches: np.ndarray, bundle: Bundle) -> Tensor:
    """Return the bundle's own probabilities of patches (N, P, P, 3) uint8, read as tiles are."""
    card, network = bundle.card, bundle.network
    tiles = np.stack([shrink(patch, card.store_size) for patch in patches])
    transform = evaluation_transform(
        image_size=card.image_size,
        statistics=card.statistics,
        normalize="variance" if card.normalize == "variance" else "std",
    )
    images: Tensor = transform(torch.from_numpy(tiles).permute(0, 3, 1, 2))
    logits: Tensor = network(images.to(next(network.parameters()).device))
    return (logits.cpu() / card.temperature).softmax(dim=1)
