"""How well and how fast networks learn: recipes and networks side by side, on real images.

    python benchmarks/training.py compare $HISTO_DATA/glas --groups manifest.csv:patient
    python benchmarks/training.py compare $HISTO_DATA/crc5_polito
    python benchmarks/training.py speed

`compare` trains each network under each recipe from scratch on folds of whole patients (the next
fold validates, the rest is learnt from) and pools the predictions of all test folds; colour-only
baselines learn from the same tiles. It prints a line as soon as a training ends, then a table:
accuracy, balanced accuracy with the 95 % interval over resampled patients, seconds, images a
second. `speed` trains on drawn images: fastai's path against a bare PyTorch loop of the same work
(interleaved), the share of time spent waiting for tiles, and the pixel store against slides read
live and against a folder of JPEGs.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedGroupKFold

from histo_nb.balancing.balance import BalanceSpec
from histo_nb.balancing.dataset import Dataset, StoreSpec, make_dataset
from histo_nb.balancing.pixels import LivePixels, Pixels
from histo_nb.balancing.transforms import evaluation_transform
from histo_nb.home import open_home
from histo_nb.inference.answer import make_predictions
from histo_nb.model.network import make_network
from histo_nb.tiling.images import tile_images
from histo_nb.training import recipe as recipes
from histo_nb.training.callbacks import Journal
from histo_nb.training.colour import colour_predictions
from histo_nb.training.learner import Trained, TrainSpec, fit, make_learner, resolve_precision
from histo_nb.training.loader import TileDataset
from histo_nb.training.measures import measure_predictions

CONFIGS = (("histonet33", "recommended"), ("resnet34", "recommended"), ("histonet33", "patent"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    compare = kinds.add_parser("compare")
    compare.add_argument("images", type=Path)
    compare.add_argument("--groups", default="")
    compare.add_argument("--folds", type=int, default=5)
    compare.add_argument("--only-folds", type=int, default=0, help="0 = all")
    compare.add_argument("--image-size", type=int, default=224)
    compare.add_argument("--width", type=float, default=1.0)
    compare.add_argument("--epochs", type=int, default=0, help="of recommended; 0 = its own")
    compare.add_argument("--patent-epochs", type=int, default=100)
    compare.add_argument("--configs", default="", help="network:recipe,…")
    compare.add_argument("--json", type=Path)
    speed = kinds.add_parser("speed")
    speed.add_argument("--image-size", type=int, default=224)
    speed.add_argument("--width", type=float, default=1.0)
    speed.add_argument("--n", type=int, default=128, help="images of an epoch")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HISTO_HOME"] = folder
        compare_all(arguments) if arguments.kind == "compare" else measure_speed(arguments)


def compare_all(arguments: argparse.Namespace) -> None:
    tiles, broken = tile_images(arguments.images, groups=arguments.groups)
    print(f"{len(tiles)} tiles of {tiles.slide_id.nunique()} images, "
          f"{tiles.patient_id.nunique()} groups, {len(broken)} broken", flush=True)  # fmt: skip
    found: dict[str, list[pd.DataFrame]] = {}
    seconds: dict[str, float] = {}
    configs = [tuple(c.split(":")) for c in arguments.configs.split(",") if c] or CONFIGS
    for number, dataset in enumerate(make_folds(tiles, arguments.folds)):
        if number == arguments.only_folds > 0:
            break
        for name, predictions in colour_predictions(dataset).items():
            found.setdefault(name, []).append(predictions)
        for network, recipe in configs:
            name = f"{network} {recipe}"
            started = time.perf_counter()
            trained, predictions = learn(dataset, network, recipe, arguments)
            spent = time.perf_counter() - started
            seconds[name] = seconds.get(name, 0) + spent
            found.setdefault(name, []).append(predictions)
            right = (predictions.label == predictions.prediction).mean()
            waiting = np.mean([record["waiting"] for record in trained.records])
            print(f"fold {number} {name}: test accuracy {right:.3f}, best epoch {trained.epoch} of "
                  f"{len(trained.records)}, {spent:.0f} s, waiting {waiting:.1%}",
                  flush=True)  # fmt: skip
    report(found, seconds, arguments, classes=sorted(tiles.label.unique()))


def make_folds(tiles: pd.DataFrame, n_folds: int) -> Iterator[Dataset]:
    """Yield one data set a fold: a fold of patients to test, the next to validate."""
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=0)
    parts = [
        set(tiles.patient_id.iloc[test])
        for _, test in folds.split(tiles, tiles.label, tiles.patient_id)
    ]
    for number, part in enumerate(parts):
        sides = dict.fromkeys(tiles.patient_id, "train")
        sides |= dict.fromkeys(parts[(number + 1) % n_folds], "valid")
        sides |= dict.fromkeys(part, "test")
        yield make_dataset(
            tiles, open_home(), sides=sides, store=StoreSpec(search_duplicates=False)
        )


def learn(
    dataset: Dataset, network: str, recipe: str, arguments: argparse.Namespace
) -> tuple[Trained, pd.DataFrame]:
    """Train one network on a fold; return it, and what its best epoch says of the test part."""
    spec = TrainSpec(
        network=network,
        network_args={"width": arguments.width} if network == "histonet33" else {},
        image_size=arguments.image_size,
        recipe=recipe,
        epochs=arguments.patent_epochs if recipe == "patent" else arguments.epochs,
        normal_class=dataset.classes[0],
    )
    trained = fit(dataset, spec)
    transform = evaluation_transform(
        image_size=spec.image_size,
        statistics=dataset.statistics,
        normalize=spec.find_recipe().normalize,
    )
    numbers = dataset.indices("test")
    items = TileDataset(dataset, numbers, transform)
    device = next(trained.network.parameters()).device
    probabilities = []
    with torch.inference_mode():
        for start in range(0, len(items), 32):
            batch = [items[i][0] for i in range(start, min(start + 32, len(items)))]
            logits = trained.network.eval()(torch.stack(batch).to(device))
            probabilities.append(logits.softmax(dim=1).cpu().numpy())
    rows = dataset.rows.iloc[numbers].reset_index(drop=True)
    return trained, make_predictions(rows, np.concatenate(probabilities), dataset.classes)


def report(
    found: dict[str, list[pd.DataFrame]],
    seconds: dict[str, float],
    arguments: argparse.Namespace,
    *,
    classes: list[str],
) -> None:
    """Print the table of pooled figures, and write it."""
    rows = {}
    for name, parts in found.items():
        figures = measure_predictions(pd.concat(parts, ignore_index=True), classes)
        low, high = figures["intervals"]["balanced_accuracy"]
        rows[name] = {
            "accuracy": figures["accuracy"],
            "balanced_accuracy": figures["balanced_accuracy"],
            "low": low,
            "high": high,
            "auc": figures["auc_macro"],
            "seconds": seconds.get(name, 0.0),
            **{f"recall {label}": value for label, value in figures["recall"].items()},
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    print(f"{arguments.images.name}, {arguments.image_size} px, width {arguments.width:g}, "
          f"{resolve_precision('best', torch.device('cpu'))}, {torch.get_num_threads()} "
          "threads, from scratch")  # fmt: skip
    print(table.round(3).to_string(), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


def measure_speed(arguments: argparse.Namespace) -> None:
    folder = Path(os.environ["HISTO_HOME"]) / "images"
    draw_images(folder, n=arguments.n)
    tiles, _ = tile_images(folder)
    store = StoreSpec(search_duplicates=False)
    dataset = make_dataset(tiles, open_home(), store=store, balance=BalanceSpec(balance=False))
    recipe = replace(recipes.RECIPES["recommended"], name="timed", epochs=1)
    recipes.RECIPES["timed"] = recipe
    spec = TrainSpec(network_args={"width": arguments.width}, image_size=arguments.image_size,
                     recipe="timed", normal_class="a")  # fmt: skip
    rates: dict[str, list[float]] = {"fastai": [], "bare PyTorch": []}
    for _ in range(3):
        rates["bare PyTorch"].append(run_bare(dataset, spec))
        rates["fastai"].append(run_fastai(dataset, spec))
    for name, values in rates.items():
        print(f"{name}: {np.median(values):.2f} images/s ({np.round(values, 2)})")
    print(f"fastai ÷ bare: {np.median(rates['fastai']) / np.median(rates['bare PyTorch']):.3f}")
    numbers = dataset.indices("train")
    live = LivePixels(dataset.rows)
    print(f"a tile of {live.shape[1]} px, ms: store {time_reads(dataset.pixels, numbers):.2f}, "
          f"live, PNG of 1024 px {time_reads(live, numbers):.2f}, "
          f"folder of JPEGs {time_jpegs(dataset, numbers, folder):.2f}")  # fmt: skip


def draw_images(folder: Path, *, n: int, size: int = 1024) -> None:
    """Write two classes of smooth noise as PNG: what they show does not matter here."""
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = rng.integers(90, 230, (size // 16, size // 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def run_fastai(dataset: Dataset, spec: TrainSpec) -> float:
    """Return images per second of one epoch, validation left out."""
    learner = make_learner(dataset, network_of(dataset, spec), spec=spec)
    learner.dls.valid.n = 0
    journal: Journal = learner.journal
    journal.after_epoch = lambda: None
    learner.keep_best.after_epoch = lambda: None
    learner.create_opt()
    started = time.perf_counter()
    learner.fit(1, lr=1e-3)
    n = len(learner.dls.train) * learner.dls.train.bs
    print(f"  waiting for tiles {journal._waited / journal._trained:.1%}", flush=True)
    return n / (time.perf_counter() - started)


def run_bare(dataset: Dataset, spec: TrainSpec) -> float:
    """Return images per second of the same work in a loop without fastai."""
    learner = make_learner(dataset, network_of(dataset, spec), spec=spec)
    items, size = learner.dls.train.dataset, learner.dls.train.bs
    network, recipe = learner.model, spec.find_recipe()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=recipe.weight_decay)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    bf16 = resolve_precision("best", torch.device("cpu")) == "bf16"
    order = np.random.default_rng(0).permutation(len(items))
    started = time.perf_counter()
    for start in range(0, len(items) - size + 1, size):
        batch = [items[int(i)] for i in order[start : start + size]]
        images = torch.stack([image for image, _ in batch])
        targets = torch.tensor([label for _, label in batch])
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network.train()(images)
        loss = loss_of(logits.float(), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
    return len(items) // size * size / (time.perf_counter() - started)


def network_of(dataset: Dataset, spec: TrainSpec) -> torch.nn.Module:
    torch.manual_seed(0)
    network = make_network(spec.network, len(dataset.classes), **spec.network_args)
    return network.to(memory_format=torch.channels_last)


def time_reads(pixels: Pixels, numbers: np.ndarray) -> float:
    """Return milliseconds a tile, read in random order."""
    order = np.random.default_rng(0).permutation(numbers)
    started = time.perf_counter()
    for number in order:
        pixels[int(number)].sum()
    return 1000 * (time.perf_counter() - started) / len(order)


def time_jpegs(dataset: Dataset, numbers: np.ndarray, folder: Path) -> float:
    """Return milliseconds to decode a tile that was kept as JPEG at the store's size."""
    paths = []
    for number in numbers:
        paths.append(folder / f"{number}.jpg")
        cv2.imwrite(str(paths[-1]), dataset.pixels[int(number)], [cv2.IMWRITE_JPEG_QUALITY, 90])
    started = time.perf_counter()
    for path in paths:
        cv2.imread(str(path)).sum()
    return 1000 * (time.perf_counter() - started) / len(paths)


if __name__ == "__main__":
    main()
