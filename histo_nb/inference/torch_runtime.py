"""Classifies with torch: the reference on the CPU (fp32), and the way to a GPU."""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torchvision.transforms import v2

from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.inference.runtime import Answers, in_batches
from histo_nb.model.bundle import Bundle, open_bundle
from histo_nb.model.card import Card
from histo_nb.model.features import WithFeatures

Key = TypeVar("Key")

BATCH = {"cpu": 16, "cuda": 128}  # tiles at once; more is not faster
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TorchRuntime:
    """A bundle ready to classify tiles on the CPU, or the GPU where there is one."""

    def __init__(self, bundle: Bundle, *, precision: str = "fp32") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = " on GPU" if self.device.type == "cuda" else ""
        self.card, self.name = bundle.card, f"torch {precision}{on_gpu}"
        self._dtype = DTYPES.get(precision)
        network = bundle.network.to(self.device).to(memory_format=torch.channels_last)
        self._network: Any = WithFeatures(network).eval()
        if self.device.type == "cuda":  # one CUDA graph for the one batch size
            self._network = torch.compile(self._network, mode="reduce-overhead")
        self._transform = card_transform(bundle.card)

    def run(self, images: Iterable[tuple[Key, np.ndarray]]) -> Generator[tuple[Key, Answers]]:
        """Yield what the network says of single (I, I, 3) uint8 images, in order."""
        for keys, batch in in_batches(images, BATCH[self.device.type]):
            logits, features = self._classify(batch)
            for i, key in enumerate(keys):
                yield key, Answers(logits[i : i + 1], features[i : i + 1])

    def _classify(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2)  # channels last as it lies
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        with torch.inference_mode(), self._autocast():
            logits, features = self._network(self._transform(pixels))
        return logits.float().cpu().numpy(), features.float().cpu().numpy()

    def _autocast(self) -> torch.autocast:
        on = self._dtype is not None
        return torch.autocast(self.device.type, self._dtype or torch.bfloat16, enabled=on)


def open_torch(folder: Path, *, precision: str) -> TorchRuntime:
    """Open a bundle on torch."""
    return TorchRuntime(open_bundle(folder), precision=precision)


def card_transform(card: Card) -> v2.Compose:
    """Return the evaluation transform that a card states, for store-size tiles or images."""
    return evaluation_transform(
        image_size=card.image_size,
        statistics=card.statistics,
        normalize="variance" if card.normalize == "variance" else "std",
    )
