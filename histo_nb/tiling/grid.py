"""Lays the tile grid over the tissue of a slide."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from histo_nb.errors import NoTissueError, SlideError, SpecError
from histo_nb.failures import over_slides
from histo_nb.geometry import ReadPath, box_means, check_positive, plan_grid, plan_read
from histo_nb.home import Home
from histo_nb.masking.masks import mask_path, read_mask
from histo_nb.masking.tissue import TissueMask
from histo_nb.slide import Slide
from histo_nb.tables import TILES, check_table


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """How a slide is cut. `mpp` and `tile_size` are asked here once and travel in the rows."""

    tile_size: int = 1024  # px at mpp; CN 113887377 A [0068]
    mpp: float = 0.5  # µm/px; 20x
    stride: int = 0  # px at mpp between tiles; 0 = side by side
    min_tissue: float = 0.5  # share of a tile that must be tissue, 0–1
    min_quality: float = 0.0  # 1 − share of a tile under ink or out of focus; 0 keeps all
    read_path: ReadPath = "level0"  # which pixels: the scan itself, or a level of the pyramid

    def __post_init__(self) -> None:
        check_positive(tile_size=self.tile_size, mpp=self.mpp)
        if not 0 <= self.min_tissue <= 1:
            raise SpecError(f"min_tissue={self.min_tissue} is a share; choose 0 to 1")
        if not 0 <= self.min_quality <= 1:
            raise SpecError(f"min_quality={self.min_quality} is a share; choose 0 to 1")
        if self.stride < 0:
            raise SpecError(f"stride={self.stride} px must not be below 0; 0 = side by side")


def tile_slide(
    slide: Slide, mask: TissueMask, *, spec: TileSpec, slide_id: str, patient_id: str | None
) -> pd.DataFrame:
    """Return the rows of all whole tiles inside the scanned area with enough tissue in them.

    Only whole tiles are cut; what is left at the scan's edges, less than a tile, is shared evenly
    between both sides.

    Beside the contract's columns stand `pen` and `soft`, the shares of the tile under ink and out
    of focus (NaN = not measured): such tiles are marked, and left out only by `min_quality`.

    Raises
    ------
    SlideError
        A tile is larger than the slide.
    NoTissueError
        No tile has enough tissue.
    """
    plan = plan_read(
        mpp=spec.mpp,
        tile_size=spec.tile_size,
        slide_mpp=slide.slide_mpp,
        level_downsamples=slide.level_downsamples,
        read_path=spec.read_path,
    )
    if plan.size_l0 > min(slide.bounds[2:]):
        raise SlideError(
            f"tile_size={spec.tile_size} px at {spec.mpp:g} µm/px covers {plan.size_l0} px, more "
            f"than {slide_id}'s {slide.bounds[2]} × {slide.bounds[3]}; choose a smaller tile_size"
        )
    stride_l0 = max(round((spec.stride or spec.tile_size) * plan.size_l0 / plan.tile_size), 1)
    # The grid hangs on the scan, not on the mask: a corrected mask moves no tile.
    x, y = plan_grid(slide.bounds, size_l0=plan.size_l0, stride_l0=stride_l0, step=plan.step)
    if not len(x):
        raise SlideError(
            f"no tile of {plan.size_l0} px at multiples of {plan.step} lies inside {slide_id}; "
            "choose a smaller tile_size"
        )
    if spec.min_quality and mask.quality is None:
        raise SlideError(
            f"ink and focus of {slide_id} were not measured, as min_quality={spec.min_quality:g} "
            f"needs; call `histo-nb mask {slide_id}`"
        )
    boxes = np.stack([x, y, x + plan.size_l0, y + plan.size_l0], axis=1) / mask.downsample
    tissue = box_means(mask.array, boxes).clip(0, 1)
    pen, soft = (_shares(where, boxes) for where in (mask.pen, mask.soft))
    keep = tissue >= max(spec.min_tissue, 1e-9)
    if not keep.any():
        raise NoTissueError(
            f"no tile of {slide_id} has min_tissue={spec.min_tissue:g} of tissue "
            f"(the most is {tissue.max():.2f}); choose a smaller min_tissue or tile_size"
        )
    quality = 1 - np.fmax(np.nan_to_num(pen), np.nan_to_num(soft))
    if not (keep & (quality >= spec.min_quality)).any():
        raise NoTissueError(
            f"no tile of {slide_id} with tissue has min_quality={spec.min_quality:g} (the best is "
            f"{quality[keep].max():.2f}); look at the slide, choose a smaller min_quality"
        )
    keep &= quality >= spec.min_quality
    rows = pd.DataFrame({"x": x[keep], "y": y[keep], "tissue": tissue[keep]})
    rows["tile_id"] = [
        f"{slide_id}/{i},{j}/{plan.size_l0}" for i, j in zip(rows.x, rows.y, strict=True)
    ]
    return check_table(
        rows.assign(
            slide_id=slide_id,
            patient_id=patient_id,
            slide_path=str(slide.path),
            slide_mpp=slide.slide_mpp,
            size_l0=plan.size_l0,
            level=plan.level,
            read_size=plan.read_size,
            tile_size=plan.tile_size,
            mpp=plan.mpp,
            effective_mpp=plan.effective_mpp,
            read_path=spec.read_path,
            pen=pen[keep],
            soft=soft[keep],
        ),
        TILES,
    )


def _shares(where: np.ndarray | None, boxes: np.ndarray) -> np.ndarray:
    """Return the share of each box in which a mask is true; NaN where there is no mask."""
    if where is None:
        return np.full(len(boxes), np.nan)
    return box_means(where, boxes).clip(0, 1)


def tile_slides(
    home: Home, slide_ids: list[str], *, spec: TileSpec | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tile the named slides (all if none is named) by their masks.

    Returns
    -------
    The tile table, and failures `slide_id, step, error`.
    """
    spec = spec or TileSpec()

    def work(row: dict[str, Any]) -> pd.DataFrame:
        mask = read_mask(mask_path(home, row["slide_id"]))
        with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
            return tile_slide(
                slide, mask, spec=spec, slide_id=row["slide_id"], patient_id=row["patient_id"]
            )

    made, failures = over_slides(home.catalog.slides(slide_ids), work, step="tiling")
    tiles = pd.concat(made, ignore_index=True) if made else pd.DataFrame(columns=TILES.columns)
    return tiles, failures
