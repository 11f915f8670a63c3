"""Reasons not to trust the answer for a slide, in sentences for pathologists. Loads no torch."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from histo_nb.errors import SpecError
from histo_nb.geometry import check_positive
from histo_nb.inference.reference import Reference
from histo_nb.inference.result import SlideResult
from histo_nb.inference.stain import COLOURS, StainRange, slide_colours
from histo_nb.slide import Slide

MPP_STEP = 0.05  # µm/px; 0.2498 and 0.2527 are the same 40x
UNTRUSTED = (
    "This model did not pass its gate, or only a lowered one. It is in use by a person’s decision; "
    "do not rely on its answers."
)


@dataclass(frozen=True, kw_only=True)
class TrustSpec:
    """From where on an answer is doubted."""

    # Of validation tiles 1 in 100 is beyond the limit: 10 of them in 100 are no chance.
    max_unlike: float = 0.1  # share of the tissue that is unlike the training tiles
    max_poor: float = 0.1  # share of the tissue under ink or out of focus; as of unreadable tiles
    min_tissue_mm2: float = 0.5  # two tiles of 1024 px at 0.5 µm/px; a bite of forceps has 2 mm²
    min_tiles: int = 20  # with fewer, two odd tiles are a tenth of the tissue: abnormal
    max_unreadable: float = 0.0  # share of the tiles; what was not seen may be the tumour
    max_stain: float = 4.0  # robust standard deviations of the training slides' colour

    def __post_init__(self) -> None:
        for name in ("max_unlike", "max_poor", "max_unreadable"):
            if not 0 <= getattr(self, name) <= 1:
                raise SpecError(f"{name}={getattr(self, name)} must be a share, 0–1")
        check_positive(max_stain=self.max_stain)
        if self.min_tissue_mm2 < 0 or self.min_tiles < 0:
            raise SpecError(
                f"min_tissue_mm2={self.min_tissue_mm2:g} and min_tiles={self.min_tiles} must not "
                "be below 0; 0 = any"
            )


def name_scanner(vendor: str, *, objective_power: float | None, slide_mpp: float | None) -> str:
    """Return what stands for a scanner: its format family and its magnification.

    >>> name_scanner("aperio", objective_power=40, slide_mpp=0.2527)
    'aperio 40x'
    >>> name_scanner("generic-tiff", objective_power=None, slide_mpp=0.499)
    'generic-tiff 0.50 µm/px'
    """
    if objective_power is not None and np.isfinite(objective_power):
        return f"{vendor} {objective_power:g}x"
    if slide_mpp is None or not np.isfinite(slide_mpp):
        return f"{vendor} of unknown scale"
    return f"{vendor} {round(slide_mpp / MPP_STEP) * MPP_STEP:.2f} µm/px"


def scanner_of(slide: Slide) -> str:
    """Return `name_scanner` of an open slide."""
    power, mpp = slide.objective_power, slide.slide_mpp
    return name_scanner(slide.vendor, objective_power=power, slide_mpp=mpp)


def reasons_for_doubt(result: SlideResult) -> list[str]:
    """Return what a reader must know before trusting a result; empty if nothing."""
    doubts = result.doubts
    if doubts is None:  # written before there were any
        doubts = find_doubts(
            result.predictions,
            reference=None,
            tissue_mm2=result.tissue_mm2,
            scanner=None,
            n_failures=result.n_failures,
        )
    return doubts if result.gate_passed else [UNTRUSTED, *doubts]


def find_doubts(
    predictions: pd.DataFrame,
    *,
    reference: Reference | None,
    tissue_mm2: float,
    scanner: str | None,
    n_failures: int,
    spec: TrustSpec | None = None,
) -> list[str]:
    """Return what a pathologist must know before trusting a slide's class; empty if nothing.

    Parameters
    ----------
    predictions
        Rows of one slide with `slide_id, tissue`; where it was measured `distance`
        (`Reference.distances`), `pen`, `soft` (shares of the tile, NaN = not measured), `od_red`,
        `od_green`, `od_blue` (`stain.tile_colour`).
    reference
        None: the model has no record of its training tiles.
    tissue_mm2
        NaN: the scale is unknown, as of loose images.
    scanner
        Of `name_scanner`; None: unknown.
    n_failures
        Number of tiles that could not be read and are not among the rows.
    """
    spec = spec or TrustSpec()
    return [
        *_doubt_tiles(predictions, reference, spec),
        *_doubt_tissue(len(predictions), tissue_mm2, spec),
        *_doubt_failures(len(predictions), n_failures, spec),
        *_doubt_quality(predictions, spec),
        *(_doubt_stain(predictions, reference.stain, spec) if reference else []),
        *(_doubt_scanner(scanner, reference.scanners) if reference else []),
    ]


def _doubt_tiles(rows: pd.DataFrame, reference: Reference | None, spec: TrustSpec) -> list[str]:
    if reference is None or "distance" not in rows:
        return [
            "It is unknown whether this slide resembles those the model has learnt from: the model "
            "keeps no record of them. Train it again to know."
        ]
    share = _share(rows, ~(rows.distance <= reference.limit))  # NaN is within no limit
    if share <= spec.max_unlike:
        return []
    return [f"{share:.0%} of the tissue is unlike anything the model has learnt from."]


def _doubt_tissue(n_tiles: int, tissue_mm2: float, spec: TrustSpec) -> list[str]:
    if not (tissue_mm2 < spec.min_tissue_mm2 or n_tiles < spec.min_tiles):
        return []
    tiles = "1 tile" if n_tiles == 1 else f"{n_tiles:,} tiles"
    area = f"{tissue_mm2:.2g} mm² in {tiles}" if np.isfinite(tissue_mm2) else tiles
    return [f"Little tissue: only {area} {'decides' if n_tiles == 1 else 'decide'} this slide."]


def _doubt_failures(n_tiles: int, n_failures: int, spec: TrustSpec) -> list[str]:
    if not n_failures or n_failures / (n_tiles + n_failures) <= spec.max_unreadable:
        return []
    tiles = "1 tile" if n_failures == 1 else f"{n_failures:,} tiles"
    verb = "is" if n_failures == 1 else "are"
    return [
        f"{tiles} of {n_tiles + n_failures:,} could not be read and {verb} left out of the answer."
    ]


def _doubt_quality(rows: pd.DataFrame, spec: TrustSpec) -> list[str]:
    said = {"pen": "under ink", "soft": "out of focus"}
    shares = {name: _share(rows, rows[name].fillna(0)) for name in said if name in rows}
    poor = rows[list(shares)].max(axis=1).fillna(0) if shares else pd.Series(0.0, rows.index)
    share = _share(rows, poor)
    if share <= spec.max_poor:
        return []
    where = " or ".join(said[name] for name, part in shares.items() if part > 0)
    return [f"{share:.0%} of the tissue is {where}."]


def _doubt_stain(rows: pd.DataFrame, stain: StainRange, spec: TrustSpec) -> list[str]:
    if any(name not in rows for name in COLOURS):
        return []
    colours = slide_colours(rows).to_numpy()
    if not len(colours) or not stain.distance(colours[0]) > spec.max_stain:
        return []
    channel = int((np.abs(colours[0] - stain.centre) / stain.scale).argmax())
    found, usual = colours[0][channel], stain.centre[channel]
    light = COLOURS[channel].removeprefix("od_")
    slides = "training slide has" if stain.n_slides == 1 else "training slides have"
    return [
        f"The stain is unlike that of the slides the model has learnt from: it absorbs "
        f"{'more' if found > usual else 'less'} {light} light (optical density {found:.2f}; "
        f"{stain.n_slides:,} {slides} {usual:.2f} ± {stain.scale[channel]:.2f})."
    ]


def _doubt_scanner(scanner: str | None, known: tuple[str, ...]) -> list[str]:
    if not known or scanner in known:
        return []
    learnt = f"the model has learnt from {', '.join(known)} only."
    if scanner is None:
        return [f"It is unknown which scanner made this slide; {learnt}"]
    return [f"The scanner ({scanner}) is unknown to the model; {learnt}"]


def _share(rows: pd.DataFrame, values: pd.Series) -> float:
    """Return the mean of values weighted by the tiles' tissue."""
    return float((values * rows.tissue).sum() / rows.tissue.sum())
