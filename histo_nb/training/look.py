"""Some test tiles with what a model says of them, and where it looked."""

import numpy as np
import torch

from histo_nb.balancing.dataset import Dataset
from histo_nb.inference.torch_runtime import card_transform
from histo_nb.model.bundle import Bundle
from histo_nb.model.gradcam import gradcam


def look_at(
    bundle: Bundle, dataset: Dataset, *, n: int = 8, among: int = 96
) -> tuple[list[np.ndarray], np.ndarray, list[str]]:
    """Return up to `n` tiles of the test part, right answers first, then wrong ones.

    Drawn from `among` random test tiles; as many wrong ones as there are, up to half.

    Returns
    -------
    Tiles (S, S, 3) uint8, the Grad-CAM of the class that was said (N, H, W) 0–1, and in words
    what was said and what is true.
    """
    numbers = np.random.default_rng(0).permutation(dataset.indices("test"))[:among]
    tiles = [dataset.pixels[int(i)] for i in numbers]
    transform = card_transform(bundle.card)
    images = torch.stack([transform(torch.from_numpy(t.copy()).permute(2, 0, 1)) for t in tiles])
    device = next(bundle.network.parameters()).device
    with torch.inference_mode():
        logits = torch.cat(
            [bundle.network(part.to(device)).cpu() for part in torch.split(images, 16)]
        )
    classes = bundle.card.classes
    said = [classes[int(i)] for i in logits.argmax(dim=1)]
    truth = dataset.rows.label.iloc[numbers].tolist()
    wrong = [i for i in range(len(said)) if said[i] != truth[i]][: n // 2]
    right = [i for i in range(len(said)) if said[i] == truth[i]][: n - len(wrong)]
    chosen = right + wrong
    maps = gradcam(bundle.network, images[chosen].to(device))
    words = [f"{said[i]}, true: {truth[i]}" for i in chosen]
    return [tiles[i] for i in chosen], maps, words
