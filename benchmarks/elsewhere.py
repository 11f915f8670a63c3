"""Whether a model answers the same elsewhere: WSInfer runs what we export, ours the same patches.

`HISTO_DATA=… python benchmarks/elsewhere.py --model FOLDER` makes an environment for WSInfer beside
this one (120 MB, once), exports the bundle FOLDER, runs `wsinfer run` with it on slides of several
µm/px, and prints by how much its probabilities differ from ours at its own places. Without FOLDER
a network of random weights is taken, so scaled that its answers are not all alike. Slides are
drawn; with `HISTO_DATA`, `CMU-1-Small-Region.svs` is one more.
"""

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peers.slides import find_data
from torch import nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from histo_nb.balancing.pixels import read_tile  # noqa: E402
from histo_nb.errors import SlideError  # noqa: E402
from histo_nb.inference.rule import SlideRule  # noqa: E402
from histo_nb.inference.runtime import classify_tiles  # noqa: E402
from histo_nb.inference.torch_runtime import TorchRuntime  # noqa: E402
from histo_nb.model.bundle import Bundle, open_bundle  # noqa: E402
from histo_nb.model.card import Card  # noqa: E402
from histo_nb.model.network import make_network  # noqa: E402
from histo_nb.model.wsinfer import CONFIG, SCRIPT, write_wsinfer  # noqa: E402
from histo_nb.scanning.drivers import ScanSpec  # noqa: E402
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass  # noqa: E402
from histo_nb.scanning.virtual.scanner import write_scan  # noqa: E402
from histo_nb.slide import Slide  # noqa: E402
from histo_nb.tiling.reader import read_tiles  # noqa: E402

WSINFER = ("wsinfer==0.6.1", "zarr<3", "tiffslide<3")
MPPS = (0.5, 0.25, 0.2431)  # of the drawn slides; the last gives no whole number of px a px
TARGET = 1e-4  # of a probability


def set_up(folder: Path) -> Path:
    """Return the Python of an environment with WSInfer that borrows torch from this one."""
    python, ready = folder / "bin/python", folder / "ready"
    if not ready.is_file():
        venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
        own = sysconfig.get_path("purelib", vars={"base": str(folder)})
        (Path(own) / "beside.pth").write_text(sysconfig.get_path("purelib"))
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-warn-conflicts", *WSINFER], check=True
        )
        ready.touch()
    return python


def random_bundle(slide: Path) -> Bundle:
    """Return a network of random weights that answers with all its classes on a slide."""
    torch.manual_seed(0)
    classes, size = ["adenoma", "carcinoma", "normal"], 256
    network = make_network("histonet33", len(classes), width=0.25).eval()
    with Slide(slide) as opened:
        overview, _ = opened.thumbnail(mpp=2.0)
    rows, columns = (extent // size for extent in overview.shape[:2])
    cut = overview[: rows * size, : columns * size].reshape(rows, size, columns, size, 3)
    images = torch.from_numpy(cut.swapaxes(1, 2).reshape(-1, size, size, 3)).permute(0, 3, 1, 2)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        logits = network((images / 255 - 0.7) / 0.2)
        last.weight /= logits.std(dim=0)[:, None]
        last.bias.copy_(-(logits / logits.std(dim=0)).mean(dim=0))
    colours = {"mean": [0.7] * 3, "std": [0.2] * 3}
    card = Card(
        model_id="M-random", classes=classes, normal_class="normal", network="histonet33",
        network_args={"width": 0.25}, tile_size=1024, mpp=0.5, read_path="level0", store_size=512,
        image_size=size, normalize="std", statistics=colours, recipe={}, best_epoch=0,
        select_on="valid", validation={}, slide_rule=SlideRule().to_card(), dataset_id="none",
        certificate_sha256="", weights_sha256="", packages={}, created_at="", temperature=1.3,
    )  # fmt: skip
    return Bundle(Path(), card, network, None)


def find_slides(folder: Path) -> dict[str, Path]:
    """Return slides by their names, drawn if they are not there."""
    spec, found = DrawnSpec(size_um=(4000.0, 3000.0)), {}
    for mpp in MPPS:
        path = folder / f"drawn-{mpp}.svs"
        if not path.is_file():
            glass = draw_glass("P", diagnosis="carcinoma", seed=1, spec=spec)
            write_scan(glass, path, spec=ScanSpec(mpp=mpp))
        found[path.stem] = path
    if real := find_data("CMU-1-Small-Region.svs"):
        found[real.stem] = real
    return found


def run_wsinfer(python: Path, model: Path, slide: Path, scratch: Path, *more: str) -> pd.DataFrame:
    """Return what `wsinfer run` writes of a slide: minx, miny, width, height, prob_<class>."""
    slides, results = scratch / "slides", scratch / "results"
    slides.mkdir()
    (slides / slide.name).symlink_to(slide.resolve())
    command = [*map(str, (python, HERE / "peers/wsinfer_cli.py", "run", "--wsi-dir", slides,
               "--results-dir", results, "--config", model / CONFIG, "--model-path",
               model / SCRIPT)), "--num-workers", "1", *more]  # fmt: skip
    # it makes folders in the user's home, and must not ask the network
    environment = os.environ | {"HOME": str(scratch), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"WSInfer failed on {slide.name}:\n{done.stderr[-2000:]}")
    return pd.read_csv(next(results.rglob("*.csv")))


def classify(bundle: Bundle, slide: Path, patches: pd.DataFrame) -> np.ndarray:
    """Return our probabilities (N, C) of patches, read as an analysis reads its tiles."""
    rows = pd.DataFrame({"x": patches.minx, "y": patches.miny, "size_l0": patches.width,
                         "read_size": patches.width, "level": 0, "read_path": "level0",
                         "tile_size": bundle.card.tile_size, "slide_path": str(slide)})  # fmt: skip
    tiles: list[Any] = [None] * len(rows)
    for number, tile in read_tiles(rows, read_tile, size=bundle.card.store_size):
        if isinstance(tile, SlideError):
            raise tile
        tiles[number] = tile
    return np.array(list(classify_tiles(TorchRuntime(bundle), tiles)))


def compare(bundle: Bundle, slide: Path, found: pd.DataFrame) -> dict[str, Any]:
    """Return how far WSInfer's probabilities are from ours, patches inside the slide."""
    with Slide(slide) as opened:
        (width, height), mpp = opened.size, opened.slide_mpp
    inside = (found.minx + found.width <= width) & (found.miny + found.height <= height)
    found = found[inside].reset_index(drop=True)
    theirs = found[[f"prob_{name}" for name in bundle.card.classes]].to_numpy()
    ours = classify(bundle, slide, found)
    return {
        "mpp": mpp,
        "patch_px": int(found.width[0]),
        "patches": len(found),
        "at_edge": int((~inside).sum()),
        "largest_difference": float(np.abs(theirs - ours).max()),
        "same_class": float((theirs.argmax(1) == ours.argmax(1)).mean()),
        "classes": np.unique(ours.argmax(1)).size,
        "probabilities": [round(float(value), 3) for value in (ours.min(), ours.max())],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="folder of a bundle  [default: random weights]")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/histo_nb/benchmark"))
    parser.add_argument("--python", type=Path, help="one that has WSInfer  [default: made once]")
    parser.add_argument("--speedup", action="store_true", help="as WSInfer's option")
    asked = parser.parse_args()
    cache = asked.cache.expanduser().absolute()
    python = asked.python or set_up(cache / "venvs/wsinfer-beside")
    slides, told = find_slides(cache / "slides"), {}
    bundle = open_bundle(asked.model) if asked.model else random_bundle(next(iter(slides.values())))
    more = ("--speedup",) if asked.speedup else ()
    with tempfile.TemporaryDirectory() as exported:
        model = write_wsinfer(bundle, Path(exported) / "model")
        for name, slide in slides.items():
            with tempfile.TemporaryDirectory() as scratch:
                started = time.perf_counter()
                found = run_wsinfer(python, model, slide, Path(scratch), *more)
                took = time.perf_counter() - started
            told[name] = compare(bundle, slide, found) | {"wsinfer_s": round(took, 1)}
            print(name, json.dumps(told[name]), flush=True)
    worst = max(row["largest_difference"] for row in told.values())
    print(f"largest difference {worst:.2g}, wanted ≤ {TARGET:g}")
    sys.exit(worst > TARGET)


if __name__ == "__main__":
    main()
