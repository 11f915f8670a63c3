"""The loop B–H: train, gate, say what to label next, wait for it, train again."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from histo_nb.balancing.balance import BalanceSpec
from histo_nb.balancing.dataset import Dataset, StoreSpec, known_sides, make_dataset
from histo_nb.balancing.pixels import LivePixels
from histo_nb.balancing.split import SplitSpec
from histo_nb.errors import SpecError
from histo_nb.home import Home
from histo_nb.inference.answer import make_predictions
from histo_nb.inference.predictions import write_asked
from histo_nb.inference.runtime import classify_tiles
from histo_nb.inference.torch_runtime import TorchRuntime
from histo_nb.model.bundle import Bundle, open_bundle
from histo_nb.model.registry import find_model
from histo_nb.tiling.ledger import make_ledger, say_missing
from histo_nb.tiling.queue import measure_uncertainty
from histo_nb.tiling.table import read_tiles
from histo_nb.training.criteria import GateSpec, find_faults
from histo_nb.training.evaluate import evaluate
from histo_nb.training.gate import score
from histo_nb.training.learner import TrainSpec, train

POLL_S = 5.0  # between looks for new labels


@dataclass(frozen=True, kw_only=True)
class ImproveSpec:
    """How long the loop goes on, and what it asks of annotators."""

    rounds: int = 3  # trainings at the most
    wait_min: float = 0.0  # minutes for new labels after a failed round; 0 = end, be called again
    min_new_labels: int = 20  # tiles newly decided by hand before the next round
    n_asked: int = 200  # most uncertain tiles that are put to the label board
    max_looked_at: int = 2000  # unlabelled tiles classified to find them

    def __post_init__(self) -> None:
        for name in ("rounds", "min_new_labels", "n_asked", "max_looked_at"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name}={getattr(self, name)} must be 1 at least")
        if self.wait_min < 0:
            raise SpecError(f"wait_min={self.wait_min} must not be below 0")


@dataclass(frozen=True, kw_only=True)
class LoopSpec:
    """All choices of one loop, as its rooms take them."""

    improve: ImproveSpec = field(default_factory=ImproveSpec)
    split: SplitSpec = field(default_factory=SplitSpec)
    balance: BalanceSpec = field(default_factory=BalanceSpec)
    store: StoreSpec = field(default_factory=StoreSpec)
    training: TrainSpec = field(default_factory=TrainSpec)
    gate: GateSpec = field(default_factory=GateSpec)


def improve(
    home: Home, *, spec: LoopSpec | None = None, wait: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Balance, train and gate the home's labelled tiles, round after round, until one passes.

    The test part stays locked: patients keep their side from round to round, and from the data set
    that was there before; and a candidate that does not reach the gate's criteria on the
    validation part is not shown to the test part. After a failed round the tiles that the
    candidate knows least about are put to the label board.

    Returns
    -------
    `passed, model_id` (the last candidate), `rounds` (one record each), and, if none passed,
    `collect` (patients that are missing, in words) and `asked` (tiles put to the board).
    """
    spec = spec or LoopSpec()
    rounds: list[dict[str, Any]] = []
    sides = known_sides(home, read_tiles(home))
    answer: dict[str, Any] = {"passed": False, "rounds": rounds}
    for number in range(1, spec.improve.rounds + 1):
        tiles = read_tiles(home)
        dataset = make_dataset(
            tiles, home, split=spec.split, balance=spec.balance, store=spec.store, sides=sides
        )
        sides = sides | dict(zip(dataset.rows.patient_id, dataset.rows.split, strict=True))
        record = _try(dataset, home, spec)
        rounds.append({"round": number, "labelled": int(tiles.label.notna().sum()), **record})
        answer |= {"model_id": record["model_id"], "passed": record["passed"]}
        if record["passed"]:
            return answer
        bundle = open_bundle(find_model(home, record["model_id"]))
        answer["collect"] = say_missing(make_ledger(tiles, classes=tuple(dataset.classes)))
        locked = [name for name, side in sides.items() if side == "test"]
        unseen = tiles[~tiles.patient_id.isin(locked)]  # the truth of the test is nobody's guess
        answer["asked"] = ask_annotators(home, unseen, bundle, spec=spec.improve)
        if number < spec.improve.rounds and not _wait(home, spec.improve, wait):
            break
    return answer


def ask_annotators(
    home: Home, tiles: pd.DataFrame, bundle: Bundle, *, spec: ImproveSpec | None = None
) -> int:
    """Put the unlabelled tiles a model knows least about to the label board; return how many."""
    spec = spec or ImproveSpec()
    bare = tiles[tiles.label.isna()]
    if bare.empty:
        return 0
    looked_at = bare.sample(min(spec.max_looked_at, len(bare)), random_state=0)
    looked_at = looked_at.sort_values(["slide_path", "y", "x"], ignore_index=True)
    pixels = LivePixels(looked_at)
    read = tqdm((pixels[i] for i in range(len(looked_at))), total=len(looked_at),
                desc="looking for doubt", unit="tile")  # fmt: skip
    probabilities = np.array(list(classify_tiles(TorchRuntime(bundle), read)))
    predictions = make_predictions(looked_at, probabilities, bundle.card.classes)
    doubt = measure_uncertainty(probabilities)
    return write_asked(home, predictions.iloc[np.argsort(-doubt, kind="stable")[: spec.n_asked]])


def _try(dataset: Dataset, home: Home, spec: LoopSpec) -> dict[str, Any]:
    """Train one candidate; gate it if its validation figures let hope; return the record."""
    model_id = train(dataset, home, spec=spec.training)
    bundle = open_bundle(find_model(home, model_id))
    figures = evaluate(bundle, dataset, split="valid")
    # one or two validation patients say nothing of the number of test patients
    reasons = find_faults({**figures, "n_patients": spec.gate.min_test_patients}, spec.gate)
    record = {
        "dataset_id": dataset.dataset_id,
        "model_id": model_id,
        "validation": figures["balanced_accuracy"],
        "gated": not reasons,
        "passed": False,
        "reasons": [f"validation: {reason}" for reason in reasons],
    }
    if reasons:
        home.catalog.note("not sent to the gate", model_id, "; ".join(reasons))
        return record
    gate = score(home, model_id, spec=spec.gate)
    return record | {"passed": gate["passed"], "reasons": gate["reasons"],
                     "test": gate["balanced_accuracy"]}  # fmt: skip


def _wait(home: Home, spec: ImproveSpec, wait: Callable[[float], None]) -> bool:
    """Wait for new decisions on the board; return whether enough came in time."""
    before = set(home.catalog.hand_labels().decision_id)
    end = time.monotonic() + 60 * spec.wait_min
    while time.monotonic() < end:
        wait(POLL_S)
        decisions = home.catalog.hand_labels()
        new = decisions[~decisions.decision_id.isin(before)]
        if new.tile_id.nunique() >= spec.min_new_labels:
            return True
    return False
