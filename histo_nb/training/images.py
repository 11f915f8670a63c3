"""A model's figures on loose images in class folders."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import open_dataset
from histo_nb.balancing.pixels import LivePixels
from histo_nb.errors import BundleError, DatasetError, HistoError
from histo_nb.home import Home
from histo_nb.inference.answer import make_predictions
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.model.bundle import Bundle
from histo_nb.model.card import Card
from histo_nb.tiling.images import ImageSpec, tile_images
from histo_nb.training.evaluate import evaluate_predictions
from histo_nb.training.gate import note_look


def read_images(
    folder: Path, *, groups: str = "", spec: ImageSpec | None = None, skip_broken: bool = False
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labelled tiles as `tile_images` does, and the images that were left out.

    Raises
    ------
    DatasetError
        An image cannot be read and is not to be skipped: nothing is learnt or measured from a
        part of what was asked.
    """
    tiles, broken = tile_images(folder, groups=groups, spec=spec)
    if len(broken) and not skip_broken:
        raise DatasetError(
            f"{len(broken)} of the images cannot be read, first: {broken.error.iloc[0]} "
            "Leave them all out with --skip-broken"
        )
    if tiles.empty:
        raise DatasetError(f"no image in {folder} can be read, first: {broken.error.iloc[0]}")
    return tiles, broken


def image_spec(card: Card, image_mpp: float | None) -> ImageSpec:
    """Return how images are cut for a model.

    Raises
    ------
    BundleError
        The model wants tiles at a scale, and that of the images is not known.
    """
    if card.mpp is not None and image_mpp is None:
        raise BundleError(
            f"model {card.model_id} reads tiles at {card.mpp:g} µm/px; say what the images have "
            "with --image-mpp"
        )
    if card.mpp is None and image_mpp is not None:
        raise BundleError(
            f"model {card.model_id} was trained on images of unknown scale; leave out --image-mpp"
        )
    return ImageSpec(tile_size=card.tile_size, image_mpp=image_mpp, mpp=card.mpp)


def evaluate_images(bundle: Bundle, tiles: pd.DataFrame, home: Home) -> dict[str, Any]:
    """Return the figures of `evaluate_predictions` on tiles of images, slides being the images.

    `seen_in_training` counts the images that the model learnt from or was chosen by: its figures
    on these prove nothing. `of_test_part` counts those of its locked test part: that is a look at
    it, and recorded as such. Both are None if the model's data set is not there.

    Raises
    ------
    BundleError
        An image has a label that the model does not know.
    """
    unknown = sorted(set(tiles.label) - set(bundle.card.classes))
    if unknown:
        raise BundleError(
            f"label {', '.join(unknown)} is unknown to model {bundle.card.model_id}; it knows "
            f"{', '.join(bundle.card.classes)}: rename the folder or move it away"
        )
    pixels = LivePixels(tiles)
    read = tqdm((pixels[i] for i in range(len(tiles))), total=len(tiles), desc="evaluating",
                unit="tile")  # fmt: skip
    probabilities = np.array(list(classify_tiles(TorchRuntime(bundle), read)))
    predictions = make_predictions(tiles, probabilities, bundle.card.classes)
    figures = evaluate_predictions(predictions, bundle.card)
    return {**figures, **_count_seen(bundle.card, tiles, home)}


def _count_seen(card: Card, tiles: pd.DataFrame, home: Home) -> dict[str, int | None]:
    try:
        dataset = open_dataset(home.datasets / card.dataset_id)
    except HistoError:
        return {"seen_in_training": None, "of_test_part": None}
    test = dataset.rows.split == "test"
    asked = set(tiles.slide_id)
    n_test = len(asked & set(dataset.rows.slide_id[test]))
    if n_test:
        note_look(home, dataset, card.model_id)
    return {
        "seen_in_training": len(asked & set(dataset.rows.slide_id[~test])),
        "of_test_part": n_test,
    }
