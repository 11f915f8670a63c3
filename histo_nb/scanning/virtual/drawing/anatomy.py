"""The whole of a drawn slide: tissue, glands, stroma and cells, grown once."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.virtual.drawing.cells import LININGS, PLANES, Cells, Sower
from histo_nb.scanning.virtual.drawing.glands import ARCHITECTURES, prepare_ground
from histo_nb.scanning.virtual.drawing.rasters import (
    AREA_UM,
    FINER,
    GLASS,
    MAP_UM,
    refine,
    smooth_noise,
)
from histo_nb.scanning.virtual.drawing.stroma import make_spaces, sow_stroma

DENSE_STROMA = {"carcinoma"}  # classes whose stroma is desmoplastic: bundles, not fine fibres


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All that lies on one slide; rasters are uint8."""

    tissue: np.ndarray  # at MAP_UM, soft; 127 at the outline
    epithelium: np.ndarray  # at MAP_UM, soft; lumina included
    lumen: np.ndarray  # at MAP_UM, soft; fat and vessels included
    dense: np.ndarray  # at AREA_UM, soft; where stroma is made of dense bundles
    tone: np.ndarray  # at AREA_UM; strength of eosin, 128 is usual
    shade: np.ndarray  # at AREA_UM; grey levels the lamp is darker
    cells: dict[str, Cells]  # by plane


def grow_anatomy(rng: np.random.Generator, areas: np.ndarray, classes: Sequence[str]) -> Anatomy:
    """Return glands, stroma and cells grown in the class areas; see `grow_areas`."""
    tissue = _ragged(rng, refine(areas != GLASS, FINER))
    sower = Sower(rng)
    spaces = make_spaces(sower, tissue)
    wide = smooth_noise(rng, areas.shape, 900 / AREA_UM)
    epithelium, lumen = np.zeros_like(tissue), spaces.hole
    for value, name in enumerate(classes):
        if (areas == value).any():
            ground = prepare_ground(rng, areas == value, keep_out=spaces.keep_out, wide=wide)
            glands = ARCHITECTURES[name](rng, ground)
            LININGS[name](sower, glands, wide)
            epithelium = cv2.max(epithelium, glands.epithelium)
            lumen = cv2.max(lumen, glands.lumen)
    taken = cv2.max(cv2.max(epithelium, lumen), 255 - tissue)
    sow_stroma(sower, 255 - taken, areas, classes=classes)
    dense = [i for i, name in enumerate(classes) if name in DENSE_STROMA]
    return Anatomy(
        tissue=tissue,
        epithelium=cv2.GaussianBlur(epithelium, (0, 0), 1.0),
        lumen=cv2.GaussianBlur(lumen, (0, 0), 0.8),
        dense=refine(np.isin(areas, dense), 1),
        tone=_modulation(rng, areas.shape, middle=128, spread=0.09),
        shade=_modulation(rng, areas.shape, middle=3, spread=0.45),
        cells={plane: sower.cells(plane) for plane in PLANES},
    )


def _ragged(rng: np.random.Generator, soft: np.ndarray) -> np.ndarray:
    """Return a soft mask with a torn edge: its slope is wide, so noise moves the outline."""
    torn = smooth_noise(rng, soft.shape, 40 / MAP_UM)
    torn *= 45  # in place: the raster is the largest of all
    torn[(soft <= 8) | (soft >= 247)] = 0
    torn += soft
    return np.clip(torn, 0, 255, out=torn).astype(np.uint8)


def _modulation(
    rng: np.random.Generator, shape: tuple[int, ...], *, middle: float, spread: float
) -> np.ndarray:
    noise = smooth_noise(rng, shape, 1100 / AREA_UM)
    return np.clip(np.rint(middle * np.exp(spread * noise)), 0, 250).astype(np.uint8)
