"""The model card: everything beside the weights that changes an answer."""

import importlib.metadata
import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from histo_nb.errors import BundleError
from histo_nb.files import write_json
from histo_nb.geometry import check_positive

VERSIONED = ("histo-nb", "torch", "torchvision", "fastai", "openslide-python", "openslide-bin",
             "opencv-python-headless", "numpy")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a model is, how it must be fed, and what it was made from."""

    model_id: str
    classes: list[str]  # in the order of the output
    normal_class: str  # all other classes are abnormal
    network: str
    network_args: dict[str, Any]
    tile_size: int  # px at mpp
    mpp: float | None  # µm/px; None = images of unknown scale, then slides cannot be analysed
    read_path: str  # which pixels a tile is read from, see geometry.plan_read; or "image"
    store_size: int  # px a tile is area-averaged to when read
    image_size: int  # px the network gets: the whole tile, antialiased bilinear
    normalize: str  # "std", or "variance" as the patent writes
    statistics: dict[str, list[float]]  # of the training tiles, values 0–1
    recipe: dict[str, Any]
    best_epoch: int
    select_on: str  # part that chose the epoch; "test" is optimistic
    validation: dict[str, float]  # metrics of the best epoch
    slide_rule: dict[str, Any]  # how tiles become a slide class
    dataset_id: str
    certificate_sha256: str
    weights_sha256: str
    packages: dict[str, str]
    created_at: str
    temperature: float = 1.0  # logits are divided by it; fitted on the validation part

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature)


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that can change an answer."""
    return {name: importlib.metadata.version(name) for name in VERSIONED}


def write_card(card: Card, path: Path) -> Path:
    """Write a card as JSON; return the path."""
    return write_json(path, asdict(card))


def read_card(path: Path) -> Card:
    """Read a card; fields with a default may be missing, as in cards of earlier versions.

    Raises
    ------
    BundleError
        It is missing, no JSON, or lacks a field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        needed = [f for f in fields(Card) if f.default is MISSING and f.default_factory is MISSING]
        asked = [f.name for f in fields(Card) if f in needed or f.name in content]
        return Card(**{name: content[name] for name in asked})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is no model card ({error!r}); train the model again") from error


def check_tiles(tiles: pd.DataFrame, card: Card) -> None:
    """Raise `BundleError` unless tiles were cut and are read as the model was trained."""
    for name, wanted in slide_tiling(card).items():
        found = sorted(set(tiles[name]) - {wanted})
        if found:
            raise BundleError(
                f"these tiles have {name}={found[0]}, but model {card.model_id} was trained on "
                f"{name}={wanted}; tile the slides as the card says"
            )


def slide_tiling(card: Card) -> dict[str, Any]:
    """Return `tile_size`, `mpp` and `read_path` of the tiles of slides that a model can classify.

    A loose image is read as level 0 of a slide is: every pixel, averaged over areas.

    Raises
    ------
    BundleError
        The model was trained on images of unknown scale.
    """
    if card.mpp is None:
        raise BundleError(
            f"model {card.model_id} was trained on images of unknown scale and cannot classify "
            "slides; train it again with --image-mpp"
        )
    read_path = "level0" if card.read_path == "image" else card.read_path
    return {"tile_size": card.tile_size, "mpp": card.mpp, "read_path": read_path}
