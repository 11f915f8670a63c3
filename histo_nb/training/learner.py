"""Trains a network with fastai's Learner and keeps its best epoch as a candidate bundle."""

import time
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from histo_nb.balancing.dataset import Dataset
from histo_nb.balancing.transforms import evaluation_transform, training_transform
from histo_nb.catalog import now
from histo_nb.errors import DatasetError, SpecError
from histo_nb.geometry import check_positive
from histo_nb.home import Home
from histo_nb.inference.pipeline import make_predictions
from histo_nb.inference.verdict import SlideRule, tune_rule
from histo_nb.model.bundle import write_bundle
from histo_nb.model.card import Card, installed_versions
from histo_nb.model.network import make_network
from histo_nb.training.recipe import Recipe, find_recipe


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """What is trained. The recipe says how."""

    network: str = "histonet33"
    network_args: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224  # px the network gets; CN 113887377 A [0074]
    recipe: str = "recommended"
    epochs: int = 0  # 0 = as the recipe says
    select_on: Literal["valid", "test"] = "valid"  # "test" as the patent; optimistic
    normal_class: str = "normal"  # all other classes are abnormal
    train_seed: int = 42

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size)
        if self.select_on not in ("valid", "test"):
            raise SpecError(f"select_on={self.select_on!r}; choose 'valid' or 'test'")

    def find_recipe(self) -> Recipe:
        """Return the recipe with this spec's number of epochs."""
        recipe = find_recipe(self.recipe)
        return replace(recipe, epochs=self.epochs) if self.epochs else recipe


def train(dataset: Dataset, home: Home, *, spec: TrainSpec | None = None) -> str:
    """Train a candidate and write its bundle; return its `model_id`.

    Deterministic on one machine: the same data set, spec and seed give the same weights.

    Raises
    ------
    DatasetError
        A tile is smaller than `image_size`, or the normal class is not among the labels.
    """
    spec = spec or TrainSpec()
    network, best = fit(dataset, spec)
    recipe = spec.find_recipe()
    rows = dataset.rows.iloc[dataset.indices(spec.select_on)].reset_index(drop=True)
    predictions = make_predictions(rows, best.probabilities, dataset.classes)
    rule = tune_rule(predictions, classes=dataset.classes, normal_class=spec.normal_class)
    card = _make_card(dataset, spec, recipe, best, rule)
    folder = write_bundle(network, card, home.models, history=pd.DataFrame(best.history))
    home.catalog.note("model trained", folder.name, f"{recipe.name} on {dataset.dataset_id}")
    return folder.name


def fit(dataset: Dataset, spec: TrainSpec) -> tuple[torch.nn.Module, "BestEpoch"]:
    """Train a network; return it with the weights of its best epoch, and that epoch.

    Raises
    ------
    DatasetError
        As `train`.
    """
    _check(dataset, spec)
    recipe = spec.find_recipe()
    torch.manual_seed(spec.train_seed)
    network = make_network(spec.network, len(dataset.classes), **spec.network_args)
    network = network.to(memory_format=torch.channels_last)
    best = BestEpoch(dataset.classes, n_epochs=recipe.epochs)
    learner = make_learner(dataset, network, spec=spec, recipe=recipe, callbacks=[best])
    _fit(learner, recipe)
    network.load_state_dict(best.state)
    return network, best


def make_learner(
    dataset: Dataset,
    network: torch.nn.Module,
    *,
    spec: TrainSpec,
    recipe: Recipe,
    callbacks: list[Callback],
) -> Learner:
    """Return a fastai Learner over the data set's training part and its selecting part."""
    shared: dict[str, Any] = {
        "image_size": spec.image_size,
        "statistics": dataset.statistics,
        "normalize": recipe.normalize,
    }
    augment = training_transform(**shared, flips=recipe.flips, stain_jitter=recipe.stain_jitter)
    evaluate = evaluation_transform(**shared)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    train_tiles = TileDataset(dataset, dataset.indices("train"), augment)
    selecting = TileDataset(dataset, dataset.indices(spec.select_on), evaluate)
    loaders = DataLoaders(
        DataLoader(
            train_tiles,
            bs=min(recipe.batch_size, len(train_tiles)),
            shuffle=True,
            drop_last=True,
            num_workers=0,
            device=device,
        ),
        DataLoader(selecting, bs=recipe.batch_size, num_workers=0, device=device),
        device=device,
    )
    # fastai shuffles by Python's generator, which is seeded from torch's at each epoch
    loaders.train.rng.seed(spec.train_seed)
    learner = Learner(
        loaders,
        network,
        loss_func=CrossEntropyLossFlat(label_smoothing=recipe.label_smoothing)
        if recipe.label_smoothing
        else CrossEntropyLossFlat(),
        opt_func=_optimizer(recipe),
        cbs=callbacks,
        train_bn=True,
    )
    learner.remove_cbs([cb for cb in learner.cbs if cb.name in ("progress", "recorder")])
    return learner


class TileDataset(TorchDataset[tuple[torch.Tensor, int]]):
    """Tiles of a data set as (transformed image, class number)."""

    def __init__(self, dataset: Dataset, indices: np.ndarray, transform: torch.nn.Module) -> None:
        numbers = {label: i for i, label in enumerate(dataset.classes)}
        self._labels = dataset.rows.label.map(numbers).to_numpy()
        self._pixels, self._indices, self._transform = dataset.pixels, indices, transform

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        index = self._indices[number]
        image = torch.from_numpy(np.array(self._pixels[index])).permute(2, 0, 1)
        return self._transform(image), int(self._labels[index])


class BestEpoch(Callback):  # type: ignore[misc]
    """Shows progress, records each epoch, and keeps the weights of the best one in memory.

    Best is the highest balanced accuracy on the selecting part, then the lowest loss.
    """

    order = 60

    def __init__(self, classes: list[str], *, n_epochs: int) -> None:
        self.classes, self.n_epochs = classes, n_epochs
        self.history: list[dict[str, float]] = []
        self.state: dict[str, torch.Tensor] = {}
        self.kept_epoch = -1
        self._best = (-1.0, 0.0)

    def before_fit(self) -> None:
        """Start the bar."""
        self.bar = tqdm(total=self.n_epochs * len(self.dls.train), desc="training", unit="batch")

    def before_epoch(self) -> None:
        """Start the records of one epoch."""
        self._started = time.perf_counter()
        self._losses: list[float] = []
        self._logits: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def after_batch(self) -> None:
        """Record one batch."""
        if self.training:
            self._losses.append(self.loss.detach().item())
            if not np.isfinite(self._losses[-1]):
                raise DatasetError(
                    "the training loss is not a number; take a smaller learning rate or look for "
                    "damaged tiles"
                )
            self.bar.update()
        else:
            self._logits.append(self.pred.detach().float().cpu())
            self._targets.append(self.y.cpu())

    def after_epoch(self) -> None:
        """Compare the epoch with the best one so far."""
        logits, targets = torch.cat(self._logits), torch.cat(self._targets)
        loss = float(torch.nn.functional.cross_entropy(logits, targets))
        predicted = logits.argmax(dim=1)
        record = {
            "epoch": self.epoch,
            "train_loss": float(np.mean(self._losses)),
            "valid_loss": loss,
            "accuracy": float(accuracy_score(targets, predicted)),
            "balanced_accuracy": float(balanced_accuracy_score(targets, predicted)),
            "seconds": time.perf_counter() - self._started,
        }
        self.history.append(record)
        self.bar.set_postfix(
            loss=f"{record['train_loss']:.3f}", balanced=f"{record['balanced_accuracy']:.3f}"
        )
        standing = (record["balanced_accuracy"], -loss)
        if standing > self._best or self.kept_epoch < 0:
            self._best, self.kept_epoch = standing, self.epoch
            self.state = deepcopy(self.model.state_dict())
            self.probabilities = logits.softmax(dim=1).numpy()

    def after_fit(self) -> None:
        """Close the bar."""
        self.bar.close()


def _optimizer(recipe: Recipe) -> Any:
    if recipe.optimizer == "sgd":
        arguments = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        return lambda params, lr, **_: OptimWrapper(params, torch.optim.SGD, lr=lr, **arguments)
    decay = recipe.weight_decay
    return lambda params, lr, **_: OptimWrapper(
        params, torch.optim.AdamW, lr=lr, weight_decay=decay
    )


def _fit(learner: Learner, recipe: Recipe) -> None:
    rate = recipe.learning_rate
    if recipe.schedule == "one_cycle":
        schedule = combined_cos(0.25, rate / 25, rate, rate / 1e4)
    else:

        def schedule(position: float) -> float:
            return float(rate * 0.1 ** int(position * recipe.epochs / recipe.step_epochs + 1e-9))

    learner.fit(recipe.epochs, lr=rate, cbs=[ParamScheduler({"lr": schedule})])


def _check(dataset: Dataset, spec: TrainSpec) -> None:
    size = dataset.pixels.shape[1]
    if spec.image_size > size:
        raise DatasetError(
            f"image_size={spec.image_size} px is larger than the tiles' {size} px, which would be "
            f"enlarged; choose image_size ≤ {size} or larger tiles"
        )
    if spec.normal_class not in dataset.classes:
        raise DatasetError(
            f"normal_class={spec.normal_class!r} is not among the labels {dataset.classes}; "
            "name the class that is not abnormal"
        )


def _make_card(
    dataset: Dataset, spec: TrainSpec, recipe: Recipe, best: BestEpoch, rule: SlideRule
) -> Card:
    first = dataset.rows.iloc[0]
    return Card(
        model_id="",
        weights_sha256="",
        classes=dataset.classes,
        normal_class=spec.normal_class,
        network=spec.network,
        network_args=spec.network_args,
        tile_size=int(first.tile_size),
        mpp=float(first.mpp),
        read_path=str(first.read_path),
        store_size=int(dataset.pixels.shape[1]),
        image_size=spec.image_size,
        normalize=recipe.normalize,
        statistics=dataset.statistics,
        recipe=asdict(recipe) | {"train_seed": spec.train_seed},
        best_epoch=best.kept_epoch,
        select_on=spec.select_on,
        validation=best.history[best.kept_epoch],
        slide_rule=rule.to_card(),
        dataset_id=dataset.dataset_id,
        certificate_sha256=dataset.certificate["sha256"],
        packages=installed_versions(),
        created_at=now(),
    )
