"""A training that was killed goes on: its state after each epoch, in one file without pickle."""

import json
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from fastai.callback.core import Callback
from fastai.learner import Learner

from histo_nb.files import writing

STATE = "state.safetensors"


class Checkpoint(Callback):  # type: ignore[misc]
    """Writes the state of a training after each epoch: weights, the best ones, the optimiser's."""

    order = 70

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def after_epoch(self) -> None:
        """Replace the file of the epoch before."""
        if self.journal.records and self.journal.records[-1]["epoch"] == self.epoch:
            save_state(self.learn, self.folder / STATE)


def save_state(learner: Learner, path: Path) -> None:
    """Write the state of a learner with `Journal` and `KeepBest`, atomically."""
    kept = learner.keep_best
    tensors = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    tensors |= {f"best.{name}": value for name, value in kept.state.items()}
    tensors["logits"] = kept.logits
    optimizer = learner.opt.opt.state_dict()["state"]
    for number, state in optimizer.items():
        tensors |= {f"optimizer.{number}.{name}": torch.as_tensor(v) for name, v in state.items()
                    if v is not None}  # fmt: skip
    progress = {"records": learner.journal.records, "epoch_kept": kept.epoch_kept}
    plain = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    with writing(path) as temporary:
        safetensors.torch.save_file(plain, temporary, {"progress": json.dumps(progress)})


def load_state(learner: Learner, path: Path) -> int:
    """Bring a learner to the state in a file; return how many epochs it has behind it.

    0 if there is no file, or it is damaged: the training then starts anew.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError):
        return 0
    learner.model.load_state_dict(_part(tensors, "model."))
    learner.keep_best.state = _part(tensors, "best.")
    learner.keep_best.logits = tensors["logits"]
    learner.keep_best.epoch_kept = progress["epoch_kept"]
    learner.journal.records[:] = progress["records"]
    learner.create_opt()
    _load_optimizer(learner.opt.opt, _part(tensors, "optimizer."))
    return len(progress["records"])


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, value in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})
    for parameter, values in optimizer.state.items():
        for key, value in values.items():
            if value.shape == parameter.shape:  # the same layout in memory, the same sums
                values[key] = torch.empty_like(parameter).copy_(value)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
