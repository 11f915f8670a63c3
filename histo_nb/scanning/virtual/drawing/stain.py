"""H&E dye on glass: two concentration planes → colours by Beer–Lambert's law."""

from dataclasses import dataclass

import cv2
import numpy as np

from histo_nb.scanning.virtual.glass import GLASS_RGB

# Optical densities (natural log) of R, G, B for one unit of dye; Macenko et al., ISBI 2009.
HAEMATOXYLIN_OD = (0.5626, 0.7201, 0.4062)
EOSIN_OD = (0.2159, 0.8012, 0.5581)
FULL_H, FULL_E = 2.3, 1.5  # units of dye that plane value 255 stands for


@dataclass(frozen=True, kw_only=True)
class Stain:
    """How one laboratory stained one slide."""

    haematoxylin: tuple[float, float, float] = HAEMATOXYLIN_OD  # optical density of R, G, B
    eosin: tuple[float, float, float] = EOSIN_OD
    h_strength: float = 1.0
    e_strength: float = 1.0

    def table(self) -> np.ndarray:
        """Return the colour of each pair of concentrations: (65536,) uint32 at `h * 256 + e`."""
        dye = np.arange(256, dtype=np.float64)[:, None] / 255
        h_od = dye * np.asarray(self.haematoxylin) * self.h_strength * FULL_H
        e_od = dye * np.asarray(self.eosin) * self.e_strength * FULL_E
        rgb = np.asarray(GLASS_RGB) * np.exp(-(h_od[:, None] + e_od[None]))
        packed = np.zeros((256, 256, 4), np.uint8)
        packed[..., :3] = np.rint(rgb)
        return packed.reshape(-1).view(np.uint32)


def mix_stain(rng: np.random.Generator, *, spread: float) -> Stain:
    """Return the stain of one slide: tints and strengths vary as between laboratories.

    `spread` 0 stains all slides alike, 1 as several laboratories do.
    """
    h, e = (
        np.clip(np.asarray(od) + spread * rng.normal(0, tint, 3), 0.03, None)
        for od, tint in ((HAEMATOXYLIN_OD, 0.035), (EOSIN_OD, 0.055))  # eosins differ more
    )
    h_strength, e_strength = np.exp(spread * np.clip(rng.normal(0, (0.16, 0.24)), -0.45, 0.45))
    return Stain(
        haematoxylin=tuple(h / np.linalg.norm(h)),
        eosin=tuple(e / np.linalg.norm(e)),
        h_strength=float(h_strength),
        e_strength=float(e_strength),
    )


def colour(h: np.ndarray, e: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return the (H, W, 3) uint8 RGB of two (H, W) uint8 concentration planes."""
    pair = np.left_shift(h, 8, dtype=np.uint16)
    packed = table.take(cv2.bitwise_or(pair, e.astype(np.uint16)))
    return cv2.cvtColor(packed.view(np.uint8).reshape(*h.shape, 4), cv2.COLOR_RGBA2RGB)
