"""Folders of drawn images for tests of learning: classes told by texture, or by colour alone."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

SIZE = 64
STAINS = ((200, 120, 180), (120, 90, 190), (220, 160, 170))  # one a class, where colour tells


def draw_texture(label: int, seed: int, *, stain: tuple[int, ...] = STAINS[0]) -> np.ndarray:
    """Return (64, 64, 3) uint8: stripes of a width of its own for each class, in one stain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 6)
    along = x * np.cos(angle) + y * np.sin(angle)
    wave = np.sin(along * (0.35, 0.9, 2.0)[label] + phase)
    plane = 0.75 + 0.2 * wave + rng.normal(0, 0.05, (SIZE, SIZE))
    return (plane[..., None] * stain).clip(0, 255).astype(np.uint8)


def draw_folder(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("normal", "bad"),
    patients: int = 6,
    images: int = 4,
    by_colour: bool = False,
) -> Path:
    """Write class folders and `manifest.csv` (file, patient, site); return the folder."""
    rows = []
    for number, label in enumerate(classes):
        (folder / label).mkdir(parents=True)
        for patient in range(patients):
            for i in range(images):
                seed = 1000 * number + 10 * patient + i
                texture = 0 if by_colour else number
                stain = STAINS[number] if by_colour else STAINS[patient % 3]
                name = f"{label}/p{patient}_{i}.png"
                Image.fromarray(draw_texture(texture, seed, stain=stain)).save(folder / name)
                rows.append({"file": name, "patient": f"{label}{patient}", "site": f"s{patient}"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder


def draw_tissue(seed: int, size: int = 224) -> np.ndarray:
    """Cells of many sizes on pink: corners and blobs, as SIFT finds in tissue."""
    rng = np.random.default_rng(seed)
    image = np.full((size, size, 3), (225, 190, 215), np.uint8)
    for _ in range(160):
        centre = tuple(int(v) for v in rng.integers(0, size, 2))
        axes = tuple(int(v) for v in rng.integers(2, 12, 2))
        colour = tuple(int(v) for v in rng.integers(60, 200, 3))
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return image


def draw_tissue_folder(folder: Path) -> Path:
    """Write images of tissue in class folders, each unlike the others, as `draw_folder` does."""
    draw_folder(folder)
    for number, path in enumerate(sorted(folder.glob("*/*.png"))):
        cv2.imwrite(str(path), draw_tissue(number))
    return folder
