"""Small slides of JPEG tiles, and a tiny model of three classes that was prepared for them."""

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import tifffile
import torch
from bundles import make_card

from histo_nb.balancing.dataset import Dataset, StoreSpec, make_dataset
from histo_nb.balancing.split import SplitSpec
from histo_nb.home import Home, open_home
from histo_nb.masking.masks import mask_path, write_mask
from histo_nb.masking.tissue import MaskSpec, TissueMask
from histo_nb.model.bundle import write_bundle
from histo_nb.model.card import read_card
from histo_nb.model.network import make_network
from histo_nb.model.prepared import PREPARED, RUNTIMES_FILE, read_prepared, seal_prepared
from histo_nb.model.registry import promote
from histo_nb.model.seal import CARD, write_gate
from histo_nb.slide import Slide
from histo_nb.tiling.grid import TileSpec, tile_slides
from histo_nb.training.prepare import prepare_model

CLASSES = ["adenoma", "carcinoma", "normal"]
TILE, IMAGE = 64, 32  # px: a tile, and what the network is shown of it
SIZE = (832, 640)  # px of a slide: 13 × 10 tiles
STORED = 128  # px of a stored tile: 7 × 5 of them
WORDS = "Aperio Image Library v12\r\n|AppMag = 20|MPP = {mpp}"


def draw(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Cells on pink, everywhere different, with glass at the edges."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), (222, 180, 210), np.uint8)
    for _ in range(size[0] * size[1] // 250):
        centre = tuple(int(rng.integers(0, extent)) for extent in size)
        axes = tuple(int(value) for value in rng.integers(2, 9, 2))
        colour = (
            int(rng.integers(90, 150)),
            int(rng.integers(50, 110)),
            int(rng.integers(130, 190)),
        )
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return image


def write_slide(
    path: Path, seed: int, *, mpp: float = 0.5, image: np.ndarray | None = None
) -> Path:
    """Write a slide in Aperio's layout, level 0 in JPEG tiles of 128 px."""
    image = draw(seed) if image is None else image
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path,
        image,
        tile=(STORED, STORED),
        photometric="rgb",
        compression="jpeg",
        compressionargs={"level": 90},
        subsampling=(2, 2),
        description=WORDS.format(mpp=mpp),
        metadata=None,
    )
    return path


def add_slide(home: Home, path: Path, name: str, *, mask: bool = True) -> str:
    """File a slide, with a mask that says tissue everywhere; return its id."""
    with Slide(path) as slide:
        size, mpp = slide.size, slide.slide_mpp
    home.catalog.add_slide(
        {
            "slide_id": name,
            "slide_path": str(path),
            "patient_id": f"P-{name}",
            "sha256": hashlib.sha256(name.encode()).hexdigest(),
            "n_bytes": path.stat().st_size,
            "width": size[0],
            "height": size[1],
            "n_levels": 1,
            "slide_mpp": mpp,
            "mpp_source": "file",
            "objective_power": 20.0,
            "source": "test",
        }
    )
    if mask:
        everywhere = np.ones((size[1] // 16, size[0] // 16), bool)
        write_mask(TissueMask(everywhere, 16, mpp), mask_path(home, name), spec=MaskSpec())
    return name


def label_tiles(home: Home, names: Sequence[str]) -> pd.DataFrame:
    """Tiles of slides, every second one normal; the others are raised by copies."""
    tiles, _ = tile_slides(home, list(names), spec=TileSpec(tile_size=TILE, min_tissue=0.1))
    return tiles.assign(
        label=[CLASSES[min(i % 4, 2)] for i in range(len(tiles))],
        label_fraction=1.0,
        label_source="test",
        labelled_by="test",
        labelled_at="2026-01-01",
    )


def put_learnt(home: Home, dataset: Dataset, *, seed: int = 0, **card: object) -> str:
    """Write an untrained model of a data set that answers with all its classes; return its id.

    Its last layer is made so that the classes are about equally frequent.
    """
    torch.manual_seed(seed)
    facts = {
        "classes": CLASSES,
        "tile_size": TILE,
        "store_size": TILE,
        "image_size": IMAGE,
        "network_args": {"width": 0.125},
        "statistics": dataset.statistics,
        "dataset_id": dataset.dataset_id,
        "certificate_sha256": dataset.certificate["sha256"],
    } | card
    made = make_card(**facts)
    network = make_network(made.network, len(made.classes), **made.network_args).eval()
    _even_out(network, dataset, made.image_size)
    history = pd.DataFrame({"epoch": [0]})
    folder = write_bundle(network, made, home.models, history=history)
    write_gate(folder, {"passed": True, "reasons": [], "lowered": {}})
    return folder.name


def _even_out(network: torch.nn.Module, dataset: Dataset, size: int) -> None:
    tiles = np.stack([cv2.resize(np.asarray(dataset.pixels[i]), (size, size)) for i in range(48)])
    mean, std = (torch.tensor(dataset.statistics[key]).view(3, 1, 1) for key in ("mean", "std"))
    images = (torch.from_numpy(tiles).permute(0, 3, 1, 2) / 255 - mean) / std
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.no_grad():
        logits = network(images)
        last.weight /= logits.std(dim=0)[:, None]
        last.bias -= last.bias
        last.bias -= network(images).mean(dim=0)


@cache
def learnt() -> tuple[Home, Dataset]:
    """A home with a data set of six patients, two of them to validate; made once."""
    folder = Path(_FOLDER.name)
    home = open_home(folder / "learnt", own_catalog=True)
    names = [
        add_slide(home, write_slide(folder / "slides" / f"T{i}.svs", 100 + i), f"T{i}")
        for i in range(6)
    ]
    unsearched = StoreSpec(search_duplicates=False)
    split = SplitSpec(valid_share=0.4)
    return home, make_dataset(label_tiles(home, names), home, split=split, store=unsearched)


@cache
def prepared() -> Path:
    """The folder of a prepared model of `learnt`; made once, to be copied."""
    home, dataset = learnt()
    model_id = put_learnt(home, dataset)
    prepare_model(home, model_id)
    return home.models / model_id


@cache
def slides() -> tuple[Path, ...]:
    """Three slides for analysis; made once, to be copied where they are harmed."""
    return tuple(write_slide(Path(_FOLDER.name) / "slides" / f"S{i}.svs", i) for i in range(3))


def change_prepared(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Forge what was measured of a model: change its facts, and seal them and its files anew."""
    facts = read_prepared(folder)
    assert facts is not None
    change(facts)
    (folder / PREPARED / RUNTIMES_FILE).unlink()
    seal_prepared(folder / PREPARED, read_card(folder / CARD), facts)


def copy_model(home: Home, *, serves: bool = True) -> Path:
    """Copy the prepared model into a home and put it into production; return its folder."""
    folder = home.models / prepared().name
    shutil.copytree(prepared(), folder)
    if serves:
        promote(home, folder.name, reason="test")
    return folder


_FOLDER = tempfile.TemporaryDirectory(prefix="histo_nb-analysed-")  # gone with the process
