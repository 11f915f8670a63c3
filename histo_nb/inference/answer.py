"""From what was said of a slide's tiles to the answer for the slide. Loads no torch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.inference.provenance import code_facts, environment_facts, model_facts
from histo_nb.inference.reference import Reference
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult
from histo_nb.inference.rule import SlideRule
from histo_nb.inference.stain import COLOURS
from histo_nb.inference.trust import find_doubts
from histo_nb.inference.verdict import judge_slide
from histo_nb.masking.quality import find_soft
from histo_nb.model.card import Card
from histo_nb.model.seal import is_passed
from histo_nb.tables import PREDICTIONS, check_table


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model's way from tiles to an answer."""

    card: Card
    gate: dict[str, Any] | None
    reference: Reference | None  # None: the model was not prepared
    runtime: str
    prepared: str | None  # which preparation its files are of

    def answer(
        self, tiles: pd.DataFrame, said: np.ndarray, *, made_from: dict[str, Any],
        n_failures: int, scanner: str | None, seconds: float,
    ) -> SlideResult:  # fmt: skip
        """Return the answer for one slide.

        Parameters
        ----------
        tiles
            All rows of the slide.
        said
            Records of `Journal`, of the rows that could be read.
        made_from
            The slide and the parameters it was cut with, for the provenance.
        """
        card = self.card
        said = np.sort(said, order="number")
        predictions = _predict(tiles.iloc[said["number"]], said, card.classes)
        rule = SlideRule.from_card(card.slide_rule)
        verdict = judge_slide(
            predictions, classes=card.classes, normal_class=card.normal_class, rule=rule
        )
        slide_mpp = float(tiles.slide_mpp.iloc[0])
        tissue_mm2 = measure_tissue(predictions)
        return SlideResult(
            slide_id=str(tiles.slide_id.iloc[0]),
            model_id=card.model_id,
            classes=card.classes,
            normal_class=card.normal_class,
            slide_class=verdict.slide_class,
            confidence=verdict.confidence,
            score=verdict.score,
            abnormal_fraction=verdict.abnormal_fraction,
            class_fractions=verdict.class_fractions,
            rule=rule.describe(card.normal_class),
            tissue_mm2=tissue_mm2,
            gate_passed=is_passed(self.gate),
            n_failures=n_failures,
            doubts=find_doubts(
                predictions,
                reference=self.reference,
                tissue_mm2=tissue_mm2,
                scanner=scanner,
                n_failures=n_failures,
            ),
            runtime=self.runtime,
            seconds=seconds,
            predictions=predictions,
            regions=find_regions(predictions, normal_class=card.normal_class, slide_mpp=slide_mpp),
            provenance={
                **made_from,
                "model": model_facts(card, prepared=self.prepared, gate=self.gate),
                "runtime": self.runtime,
                "code": code_facts(),
                "packages": environment_facts(),
            },
        )


def make_predictions(
    tiles: pd.DataFrame, probabilities: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    """Return tile rows with `prob_<class>` (0–1) and the `prediction` of the highest one."""
    columns = pd.DataFrame(
        probabilities.astype(np.float64), columns=[f"prob_{label}" for label in classes]
    )
    best = np.array(classes, dtype=object)[probabilities.argmax(axis=1)]
    rows = pd.concat([tiles.reset_index(drop=True), columns], axis=1).assign(prediction=best)
    return check_table(rows, PREDICTIONS)


def measure_tissue(tiles: pd.DataFrame) -> float:
    """Return the tissue under the tiles of one slide in mm²; overlapping ones count once."""
    size = int(tiles.size_l0.iloc[0])
    stride = np.diff(np.unique(tiles.x)).min() if tiles.x.nunique() > 1 else size
    cell_mm2 = (min(int(stride), size) * float(tiles.slide_mpp.iloc[0]) / 1000) ** 2
    return float(tiles.tissue.sum() * cell_mm2)


def _predict(tiles: pd.DataFrame, said: np.ndarray, classes: list[str]) -> pd.DataFrame:
    predictions = make_predictions(tiles, said["probabilities"], classes)
    if "soft" not in predictions or predictions.soft.isna().all():
        predictions["soft"] = find_soft(said["sharpness"]).astype(float)
    colours = dict(zip(COLOURS, said["colour"].T, strict=True))
    return predictions.assign(distance=said["distance"], **colours)
