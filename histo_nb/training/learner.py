"""Trains a network with fastai's Learner and keeps its best epoch as a candidate bundle."""

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.callback.mixup import MixUp
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import OptimWrapper

from histo_nb.balancing.dataset import Dataset
from histo_nb.balancing.transforms import evaluation_transform, training_transform
from histo_nb.catalog import now
from histo_nb.errors import DatasetError, SpecError
from histo_nb.files import hash_content, locked
from histo_nb.geometry import check_positive
from histo_nb.home import Home
from histo_nb.inference.answer import make_predictions
from histo_nb.inference.rule import SlideRule
from histo_nb.inference.tuning import tune_rule
from histo_nb.model.bundle import write_bundle
from histo_nb.model.card import Card, installed_versions
from histo_nb.model.network import make_network
from histo_nb.training.calibration import fit_temperature
from histo_nb.training.callbacks import Autocast, Journal, KeepBest, SeedEpoch, StopEarly
from histo_nb.training.checkpoint import STATE, Checkpoint, load_state
from histo_nb.training.loader import TileDataset, make_loaders
from histo_nb.training.recipe import Recipe, find_recipe

PRECISIONS = ("best", "fp32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """What is trained. The recipe says how."""

    network: str = "histonet33"
    network_args: dict[str, Any] = field(default_factory=dict)
    image_size: int = 224  # px the network gets; CN 113887377 A [0074]
    recipe: str = "recommended"
    epochs: int = 0  # 0 = as the recipe says
    normalize: str = ""  # divide by "std" or "variance" [0076]; "" = as the recipe says
    select_on: Literal["valid", "test"] = "valid"  # "test" as the patent; optimistic
    normal_class: str = "normal"  # all other classes are abnormal
    train_seed: int = 42
    precision: str = "best"  # while learning; "best" = bf16 or fp16 where the device has it

    def __post_init__(self) -> None:
        check_positive(image_size=self.image_size)
        if self.epochs < 0:
            raise SpecError(f"epochs={self.epochs} must not be below 0; 0 = as the recipe says")
        if self.normalize not in ("", "std", "variance"):
            raise SpecError(f"normalize={self.normalize!r}; choose 'std' or 'variance'")
        if self.select_on not in ("valid", "test"):
            raise SpecError(f"select_on={self.select_on!r}; choose 'valid' or 'test'")
        if self.precision not in PRECISIONS:
            raise SpecError(f"precision={self.precision!r}; choose one of {', '.join(PRECISIONS)}")
        find_recipe(self.recipe)

    def find_recipe(self) -> Recipe:
        """Return the recipe, with what this spec asks for instead."""
        asked: dict[str, Any] = {"epochs": self.epochs, "normalize": self.normalize}
        return replace(find_recipe(self.recipe), **{k: v for k, v in asked.items() if v})


@dataclass(frozen=True)
class Trained:
    """What a training gave: the network of its best epoch, and the records of all."""

    network: torch.nn.Module
    epoch: int  # the best one
    logits: torch.Tensor  # (N, n_classes) of the selecting part, in that epoch
    records: list[dict[str, float]]  # one an epoch, see `Journal`

    @property
    def record(self) -> dict[str, float]:
        """The record of the best epoch."""
        return self.records[self.epoch]


def train(dataset: Dataset, home: Home, *, spec: TrainSpec | None = None) -> str:
    """Train a candidate and write its bundle; return its `model_id`.

    A training of the same data set and spec that was killed goes on after its last whole epoch.
    Deterministic on one machine: the same data set, spec and seed give the same weights.

    Raises
    ------
    DatasetError
        A tile is smaller than `image_size`, the normal class is not among the labels, or the loss
        became infinite.
    """
    spec = spec or TrainSpec()
    folder = checkpoint_folder(dataset, home, spec)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_suffix(".lock")):
        trained = fit(dataset, spec, checkpoints=folder)
        temperature = fit_temperature(trained.logits.numpy(), _targets(dataset, spec).to_numpy())
        rows = dataset.rows.iloc[dataset.indices(spec.select_on)].reset_index(drop=True)
        probabilities = (trained.logits / temperature).softmax(dim=1).numpy()
        predictions = make_predictions(rows, probabilities, dataset.classes)
        rule = tune_rule(predictions, classes=dataset.classes, normal_class=spec.normal_class)
        card = _make_card(dataset, trained, spec=spec, rule=rule, temperature=temperature)
        history = pd.DataFrame(trained.records)
        bundle = write_bundle(trained.network, card, home.models, history=history)
        shutil.rmtree(folder)
    home.catalog.note("model trained", bundle.name, f"{spec.recipe} on {dataset.dataset_id}")
    return bundle.name


def checkpoint_folder(dataset: Dataset, home: Home, spec: TrainSpec) -> Path:
    """Return where the state of a training is kept until it ends: named by all that decides it."""
    decides = [dataset.certificate["sha256"], asdict(spec), asdict(spec.find_recipe()),
               installed_versions()]  # fmt: skip
    return home.models / ".training" / hash_content(decides)[:16]


def fit(dataset: Dataset, spec: TrainSpec, *, checkpoints: Path | None = None) -> Trained:
    """Train a network.

    Parameters
    ----------
    checkpoints
        Folder for the state after each epoch, from which a killed training goes on.

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
    learner = make_learner(dataset, network, spec=spec, checkpoints=checkpoints)
    start = load_state(learner, checkpoints / STATE) if checkpoints else 0
    if start < recipe.epochs:
        learner.fit(recipe.epochs, lr=recipe.learning_rate, cbs=[_schedule(recipe)],
                    start_epoch=start)  # fmt: skip
    if learner.journal.fault:
        raise DatasetError(learner.journal.fault)
    best: KeepBest = learner.keep_best
    network.load_state_dict(best.state)
    return Trained(network, best.epoch_kept, best.logits, learner.journal.records)


def make_learner(
    dataset: Dataset,
    network: torch.nn.Module,
    *,
    spec: TrainSpec,
    checkpoints: Path | None = None,
) -> Learner:
    """Return a fastai Learner over the data set's training part and its selecting part."""
    recipe = spec.find_recipe()
    shared: dict[str, Any] = {
        "image_size": spec.image_size,
        "statistics": dataset.statistics,
        "normalize": recipe.normalize,
    }
    augment = training_transform(**shared, flips=recipe.flips, stain_jitter=recipe.stain_jitter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaders = make_loaders(
        TileDataset(dataset, dataset.indices("train"), augment),
        TileDataset(dataset, dataset.indices(spec.select_on), evaluation_transform(**shared)),
        batch_size=recipe.batch_size,
        device=device,
    )
    learner = Learner(
        loaders,
        network,
        loss_func=CrossEntropyLossFlat(label_smoothing=recipe.label_smoothing),
        opt_func=_optimizer(recipe),
        cbs=_callbacks(spec, recipe, checkpoints),
    )
    learner.remove_cbs([cb for cb in learner.cbs if cb.name in ("progress", "recorder")])
    precision = resolve_precision(spec.precision, device)
    if precision == "bf16":
        learner.add_cb(Autocast())
    return learner.to_fp16() if precision == "fp16" else learner


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "bf16", "fp16" or "fp32": what is asked, or the fastest that the device has itself."""
    if precision != "best":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def _callbacks(spec: TrainSpec, recipe: Recipe, checkpoints: Path | None) -> list[Callback]:
    callbacks = [
        SeedEpoch(spec.train_seed),
        Journal(recipe.epochs),
        KeepBest(int(recipe.select_from * recipe.epochs)),
    ]
    if recipe.mixup:
        callbacks.append(MixUp(recipe.mixup))
    if checkpoints:
        callbacks.append(Checkpoint(checkpoints))
    if recipe.patience:
        callbacks.append(StopEarly(recipe.patience))
    return callbacks


def _optimizer(recipe: Recipe) -> Any:
    if recipe.optimizer == "sgd":
        arguments = {"momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        return lambda params, lr, **_: OptimWrapper(params, torch.optim.SGD, lr=lr, **arguments)
    decay = recipe.weight_decay
    return lambda params, lr, **_: OptimWrapper(
        params, torch.optim.AdamW, lr=lr, weight_decay=decay
    )


def _schedule(recipe: Recipe) -> ParamScheduler:
    rate = recipe.learning_rate
    if recipe.schedule == "one_cycle":
        return ParamScheduler({"lr": combined_cos(0.25, rate / 25, rate, rate / 1e4)})

    def step(position: float) -> float:
        return float(rate * 0.1 ** int(position * recipe.epochs / recipe.step_epochs + 1e-9))

    return ParamScheduler({"lr": step})


def _targets(dataset: Dataset, spec: TrainSpec) -> pd.Series:
    codes = {label: i for i, label in enumerate(dataset.classes)}
    return dataset.rows.label.iloc[dataset.indices(spec.select_on)].map(codes)


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
    dataset: Dataset, trained: Trained, *, spec: TrainSpec, rule: SlideRule, temperature: float
) -> Card:
    recipe = spec.find_recipe()
    first = dataset.rows.iloc[0]
    device = next(trained.network.parameters()).device
    facts = {
        "train_seed": spec.train_seed,
        "precision": resolve_precision(spec.precision, device),
    }
    return Card(
        model_id="",
        weights_sha256="",
        classes=dataset.classes,
        normal_class=spec.normal_class,
        network=spec.network,
        network_args=spec.network_args,
        tile_size=int(first.tile_size),
        mpp=None if pd.isna(first.mpp) else float(first.mpp),
        read_path=str(first.read_path),
        store_size=int(dataset.pixels.shape[1]),
        image_size=spec.image_size,
        normalize=recipe.normalize,
        statistics=dataset.statistics,
        recipe=asdict(recipe) | facts,
        best_epoch=trained.epoch,
        select_on=spec.select_on,
        validation=trained.record,
        slide_rule=rule.to_card(),
        temperature=temperature,
        dataset_id=dataset.dataset_id,
        certificate_sha256=dataset.certificate["sha256"],
        packages=installed_versions(),
        created_at=now(),
    )
