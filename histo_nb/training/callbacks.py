"""What happens around fastai's training loop: seeds, records, the best epoch, early ends."""

import time
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from sklearn.metrics import recall_score
from tqdm.auto import tqdm


class SeedEpoch(Callback):  # type: ignore[misc]
    """Seeds each epoch by itself, so that training goes on after a kill as if nothing had been."""

    order = -20

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def before_epoch(self) -> None:
        """Seed what shuffles, crops, mixes and drops."""
        seed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1)[0])
        torch.manual_seed(seed)
        self.dls.train.rng.seed(seed)


class Journal(Callback):  # type: ignore[misc]
    """Shows progress and keeps one record an epoch; the logits of the selecting part beside it.

    A record: `epoch, train_loss, valid_loss, accuracy, balanced_accuracy, seconds` and
    `waiting`, the share of the training time (0–1) in which the network waited for tiles.
    """

    order = 50

    def __init__(self, n_epochs: int) -> None:
        self.n_epochs = n_epochs
        self.records: list[dict[str, float]] = []
        self.fault = ""  # why training ended before its time; fastai would garble an exception

    def before_fit(self) -> None:
        """Start the bar, where the training goes on."""
        n = len(self.dls.train)
        self.bar = tqdm(
            total=self.n_epochs * n, initial=len(self.records) * n, desc="training", unit="batch"
        )

    def before_epoch(self) -> None:
        """Start the records of one epoch."""
        self._losses: list[float] = []
        self._logits: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []
        self._waited, self._trained = 0.0, 0.0
        self._started = self._mark = time.perf_counter()

    def before_batch(self) -> None:
        """Count the time since the last batch as waiting."""
        now = time.perf_counter()
        if self.training:
            self._waited += now - self._mark

    def after_batch(self) -> None:
        """Record one batch; end the training if its loss is not a number."""
        if not self.training:
            self._logits.append(self.pred.detach().float().cpu())
            self._targets.append(self.y.cpu())
            return
        loss = self.loss.detach().item()
        if not np.isfinite(loss):
            self.fault = (
                f"the training loss is not a number in epoch {self.epoch}; take a smaller learning "
                "rate, or look for damaged tiles"
            )
            raise CancelFitException()
        self._losses.append(loss)
        self.bar.update()
        self._mark = time.perf_counter()
        self._trained = self._mark - self._started

    def after_epoch(self) -> None:
        """Write the record; an epoch that was skipped has none."""
        if not self._logits:
            return
        self.logits, targets = torch.cat(self._logits), torch.cat(self._targets)
        predicted = self.logits.argmax(dim=1)
        record = {
            "epoch": self.epoch,
            "train_loss": float(np.mean(self._losses)),
            "valid_loss": float(torch.nn.functional.cross_entropy(self.logits, targets)),
            "accuracy": float((predicted == targets).float().mean()),
            "balanced_accuracy": float(
                np.mean(recall_score(targets, predicted, labels=np.unique(targets), average=None))
            ),
            "seconds": time.perf_counter() - self._started,
            "waiting": self._waited / self._trained,
        }
        self.records.append(record)
        self.bar.set_postfix(
            loss=f"{record['train_loss']:.3f}", balanced=f"{record['balanced_accuracy']:.3f}"
        )

    def after_fit(self) -> None:
        """Close the bar."""
        self.bar.close()


class KeepBest(Callback):  # type: ignore[misc]
    """Keeps the weights and the logits of the best epoch.

    Best is the highest balanced accuracy on the selecting part, then the lowest loss, among the
    epochs from number `first` on: while the learning rate is high, epochs differ by chance, and few
    validation patients would choose the luckiest.
    """

    order = 60

    def __init__(self, first: int = 0) -> None:
        self.first = first
        self.epoch_kept = -1
        self.state: dict[str, torch.Tensor] = {}
        self.logits = torch.empty(0)

    def after_epoch(self) -> None:
        """Compare the epoch with the best one so far."""
        records: list[dict[str, float]] = self.journal.records
        if not records or records[-1]["epoch"] != self.epoch:
            return
        early = self.epoch_kept < self.first <= self.epoch
        if early or standing(records[-1]) > standing(records[self.epoch_kept]):
            self.epoch_kept = self.epoch
            self.logits = self.journal.logits.clone()
            self.state = deepcopy(self.model.state_dict())


class StopEarly(Callback):  # type: ignore[misc]
    """Ends a training that has not become better for some epochs."""

    order = 80  # after the checkpoint

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def after_epoch(self) -> None:
        """Count the epochs since the best one, or since one is looked for."""
        if self.epoch - max(self.keep_best.epoch_kept, self.keep_best.first) >= self.patience:
            raise CancelFitException()


class Autocast(Callback):  # type: ignore[misc]
    """Lets the network compute in bfloat16 while it learns; losses and validation stay float32."""

    order = 10

    def before_batch(self) -> None:
        """Enter the context of one batch."""
        device: str = self.dls.device.type
        self._context: Any = ExitStack()
        self._context.enter_context(torch.autocast(device, torch.bfloat16, enabled=self.training))

    def after_pred(self) -> None:
        """Leave it before the loss."""
        self._context.close()
        self.learn.pred = self.pred.float()


def standing(record: dict[str, float]) -> tuple[float, float]:
    """Return what epochs are ranked by."""
    return record["balanced_accuracy"], -record["valid_loss"]
