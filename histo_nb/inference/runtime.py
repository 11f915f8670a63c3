"""Tile pixels → probabilities. The one way a network is asked: validation, gate and analysis."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.errors import BundleError
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card

BATCH = 16  # tiles at once; as good as any on a CPU, small in memory


class Runtime:
    """A bundle ready to classify tiles on the CPU, or the GPU where there is one."""

    def __init__(self, bundle: Bundle) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.card = bundle.card
        self._network = bundle.network.to(self.device).to(memory_format=torch.channels_last)
        self._transform = card_transform(bundle.card)

    def classify(self, tiles: np.ndarray) -> np.ndarray:
        """Return probabilities (N, n_classes) float32 of (N, S, S, 3) uint8 tiles.

        They are calibrated: logits are divided by the card's temperature.

        Raises
        ------
        BundleError
            The tiles have another size than the model was trained on.
        """
        if tiles.shape[1] != self.card.store_size:
            raise BundleError(
                f"tiles of {tiles.shape[1]} px were given to model {self.card.model_id}, which "
                f"reads {self.card.store_size} px; tile the slides as its card says"
            )
        with torch.inference_mode():
            batch = self._transform(torch.from_numpy(tiles).permute(0, 3, 1, 2))
            batch = batch.to(self.device, memory_format=torch.channels_last)
            logits = self._network(batch) / self.card.temperature
            probabilities: np.ndarray = logits.softmax(dim=1).cpu().numpy()
        return probabilities

    def classify_all(self, tiles: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the probabilities (n_classes,) of single tiles, classified in batches."""
        batch: list[np.ndarray] = []
        for tile in tiles:
            batch.append(tile)
            if len(batch) == BATCH:
                yield from self.classify(np.stack(batch))
                batch = []
        if batch:
            yield from self.classify(np.stack(batch))


def card_transform(card: Card) -> torch.nn.Module:
    """Return the evaluation transform that a card states."""
    transform: torch.nn.Module = evaluation_transform(
        image_size=card.image_size,
        statistics=card.statistics,
        normalize="variance" if card.normalize == "variance" else "std",
    )
    return transform
