"""What other processes do in the tests of the registry; they load no torch, so they start fast."""

from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path

from histo_nb.home import open_home
from histo_nb.model.registry import promote


def promote_in_rounds(root: Path, model_id: str, rounds: int, barrier: Barrier) -> None:
    """Promote a model once a round, at the same moment as the others."""
    home = open_home(root)
    for number in range(rounds):
        barrier.wait(60)
        promote(home, model_id, reason=f"round {number}")


def promote_for_ever(root: Path, model_ids: Sequence[str]) -> None:
    """Promote one model after the other until killed."""
    home = open_home(root)
    while True:
        for model_id in model_ids:
            promote(home, model_id, reason="again and again")
