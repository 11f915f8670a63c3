"""How tiles become a slide class: the rule that a model's card keeps. Loads no torch."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from histo_nb.errors import BundleError, SpecError
from histo_nb.geometry import check_positive
from histo_nb.inference.scores import KINDS, TOP_K, Kind
from histo_nb.inference.slide_calibration import (
    MIN_OF_EACH,
    MIN_SLIDES,
    SlideCalibration,
    reliability_table,
)

# Where nothing else is known. An area of a tenth is no speck; a mean of a half is as probable as
# not; a region of less than a tile of 1024 px at 0.5 µm/px is hardly one.
USUAL: dict[Kind, float] = {"area": 0.1, "top_k": 0.5, "region": 0.25}

_SAYS: dict[Kind, str] = {
    "area": "at least {:.3g}% of its tissue is; its class is then the largest abnormal one",
    "top_k": f"its {TOP_K} most abnormal tiles are so with a mean probability of at least "
    "{:.3g}%; its class is then the most probable abnormal one in such tiles",
    "region": "its largest connected abnormal region has at least {:.3g} mm² of tissue; its class "
    "is then the region’s",
}


@dataclass(frozen=True, kw_only=True)
class SlideRule:
    """A slide is abnormal from a score on; its class is then the one that the score speaks of.

    The scores are: "area", the share of the classified tissue that is abnormal; "top_k", the mean
    of the 5 highest probabilities of a tile to be abnormal; "region", the area of the largest
    connected abnormal region.
    """

    kind: Kind = "area"
    threshold: float = USUAL["area"]  # 0–1, of kind "region" in mm²
    calibration: SlideCalibration | None = None  # None: too few validation slides
    cross_validation: dict[str, Any] | None = None  # see `tuning.tune_rule`; None: not chosen by it

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise SpecError(
                f"kind={self.kind!r} is no slide rule; choose one of {', '.join(KINDS)}"
            )
        check_positive(threshold=self.threshold)

    def to_card(self) -> dict[str, Any]:
        """Return the rule as the card keeps it, fit for JSON."""
        return {
            "kind": self.kind,
            "threshold": self.threshold,
            "calibration": self.calibration.to_card() if self.calibration else None,
            "cross_validation": self.cross_validation,
        }

    @classmethod
    def from_card(cls, content: dict[str, Any]) -> "SlideRule":
        """Return the rule a card keeps; earlier cards know the share of the tissue only.

        Raises
        ------
        BundleError
            It is no rule.
        """
        try:
            if "min_abnormal" in content:
                return cls(threshold=content["min_abnormal"])
            known = content["calibration"]
            return cls(
                kind=content["kind"],
                threshold=content["threshold"],
                calibration=SlideCalibration(**known) if known else None,
                cross_validation=content["cross_validation"],
            )
        except (KeyError, TypeError, SpecError) as error:
            raise BundleError(
                f"the card's slide rule cannot be read ({error!r}); train the model again"
            ) from error

    def describe(self, normal_class: str) -> str:
        """Return the rule, how it was chosen and what confidence means, in words."""
        shown = self.threshold if self.kind == "region" else 100 * self.threshold
        says = f"A slide is abnormal if {_SAYS[self.kind].format(shown)}, else {normal_class}."
        return " ".join(filter(None, (says, self._say_choice(), self._say_confidence())))

    def _say_choice(self) -> str:
        found = self.cross_validation
        if not found:
            return ""
        right = found["right"][self.kind]["class"]
        return (
            f"Chosen by cross-validation: {right} of {found['n_slides']} validation slides right."
        )

    def _say_confidence(self) -> str:
        if self.calibration:
            return (
                "Confidence is the probability that the slide is abnormal, or that it is not, as "
                f"the answer says: calibrated on {self.calibration.n_slides} validation slides."
            )
        known = (self.cross_validation or {}).get("n_slides")
        had = f", it had {known}" if known else ""
        return (
            "Confidence is the mean probability of that class over the tiles that have it. It is "
            f"not calibrated: that takes {MIN_SLIDES} validation slides, {MIN_OF_EACH} of them "
            f"normal and {MIN_OF_EACH} abnormal{had}."
        )


def slide_calibration_table(rule: SlideRule) -> pd.DataFrame:
    """Return how far a rule's confidence can be believed.

    Returns
    -------
    A row a bin: mean `predicted` P(abnormal), `observed` share of abnormal slides, `n` slides; of
    validation slides that the curve was not fitted on. No row: it is not calibrated.
    """
    return reliability_table(rule.calibration)
