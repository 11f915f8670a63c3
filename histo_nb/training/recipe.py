"""Recipes: how a network is trained."""

from dataclasses import dataclass
from typing import Literal

from histo_nb.balancing.transforms import Normalize
from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One way to train. `schedule` "step" multiplies the rate by 0.1 every `step_epochs`."""

    name: str
    epochs: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    schedule: Literal["step", "one_cycle"]
    step_epochs: int = 10
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32
    label_smoothing: float = 0.0
    flips: bool = False  # and right angles, random, beside those of the balanced copies
    stain_jitter: float = 0.0  # strength of each stain times 1 ± this
    mixup: float = 0.0  # α of the Beta distribution two tiles are mixed by; 0 = not
    select_from: float = 0.0  # share of the epochs after which the best one is looked for
    patience: int = 0  # epochs without a better one after which training ends; 0 = never
    normalize: Normalize = "std"

    def __post_init__(self) -> None:
        check_positive(
            epochs=self.epochs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )


RECIPES = {
    # CN 113887377 A [0083], to the letter; 90 % of its steps are spent in epochs 0–9
    "patent": Recipe(
        name="patent", epochs=100, optimizer="sgd", learning_rate=1e-4, schedule="step"
    ),
    "recommended": Recipe(
        name="recommended",
        epochs=40,
        optimizer="adamw",
        learning_rate=2e-3,
        schedule="one_cycle",
        weight_decay=0.05,
        label_smoothing=0.1,
        flips=True,
        stain_jitter=0.5,
        select_from=0.7,
    ),
    # the same in minutes on a CPU
    "quick": Recipe(
        name="quick",
        epochs=8,
        optimizer="adamw",
        learning_rate=3e-3,
        schedule="one_cycle",
        weight_decay=0.05,
        batch_size=16,
        label_smoothing=0.05,
        flips=True,
        stain_jitter=0.25,
        select_from=0.5,
    ),
}


def find_recipe(name: str) -> Recipe:
    """Return a recipe by name.

    Raises
    ------
    SpecError
        There is no such recipe.
    """
    if name not in RECIPES:
        raise SpecError(f"recipe={name!r} is unknown; choose one of {sorted(RECIPES)}")
    return RECIPES[name]
