"""Masks against the truth of virtual slides, each defect and method: Dice and error of the area.

`python benchmarks/masking.py [--slides 6]`. Thumbnails at 8 µm/px are looked at through the
glass itself. Beside our methods stands CLAM's rule (median of 7 px on saturation, threshold 8 or
Otsu, closing of 4 px), written here from its description; and, where they are installed, the
maskers of TIAToolbox and histolab themselves. They are no dependencies of this project.
Truth counts tissue under ink as tissue: our methods leave ink out and lose that share of `pen`.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import shapely
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from histo_nb.masking.methods import METHODS  # noqa: E402
from histo_nb.masking.tissue import MaskSpec, find_tissue  # noqa: E402
from histo_nb.scanning.virtual.defects import DEFECTS, spoil_glass  # noqa: E402
from histo_nb.scanning.virtual.drawn import DrawnSpec, draw_glass  # noqa: E402
from histo_nb.scanning.virtual.glass import Glass  # noqa: E402

MPP = 8.0
CLASSES = ("normal", "adenoma", "carcinoma")
Finder = Callable[[np.ndarray], np.ndarray]
CLAM = {"CLAM, threshold 8": (8, False), "CLAM, Otsu": (0, True)}


def clam(rgb: np.ndarray, threshold: int, use_otsu: bool) -> np.ndarray:
    saturation = cv2.medianBlur(cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1], 7)
    kind = cv2.THRESH_BINARY + (cv2.THRESH_OTSU if use_otsu else 0)
    _, found = cv2.threshold(saturation, threshold, 255, kind)
    return cv2.morphologyEx(found, cv2.MORPH_CLOSE, np.ones((4, 4), np.uint8)) > 0


def ours(method: str) -> Finder:
    return lambda rgb: find_tissue(rgb, mpp=MPP, spec=MaskSpec(method=method))


def tiatoolbox() -> dict[str, Finder]:
    from tiatoolbox.tools.tissuemask import (  # noqa: PLC0415
        MorphologicalMasker,
        OtsuTissueMasker,
    )

    return {
        "TIAToolbox, Otsu": lambda rgb: OtsuTissueMasker().fit_transform(rgb[None])[0],
        "TIAToolbox, morph.": lambda rgb: MorphologicalMasker(mpp=MPP).fit_transform(rgb[None])[0],
    }


def histolab() -> dict[str, Finder]:
    from histolab.filters.compositions import FiltersComposition  # noqa: PLC0415
    from histolab.slide import Slide  # noqa: PLC0415

    warnings.simplefilter("ignore", FutureWarning)  # of scikit-image, twice a slide
    filters = FiltersComposition(Slide).tissue_mask_filters
    return {"histolab, slide": lambda rgb: filters(Image.fromarray(rgb))}


def find_peers() -> dict[str, Finder]:
    """Return the maskers of other projects that are installed here; stderr names the others."""
    found: dict[str, Finder] = {}
    for peer in (tiatoolbox, histolab):
        try:
            found |= peer()
        except ImportError as error:
            name = peer.__name__
            print(f"{name} is left out ({error}): `pip install --no-deps {name}`, and what its "
                  "import asks for, in a venv of its own", file=sys.stderr)  # fmt: skip
    return found


def look(glass: Glass) -> tuple[np.ndarray, np.ndarray]:
    """Return a glass at 8 µm/px with the sensor's noise, and where its tissue is."""
    width, height = (round(extent / MPP) for extent in glass.size_um)
    rgb = glass.look(0, 0, size=(width, height), mpp=MPP).astype(np.float32)
    rgb += np.random.default_rng(1).normal(0, 0.5, rgb.shape)
    truth = np.zeros((height, width), np.uint8)
    for a in glass.truth():
        for ring, inside in [(a.outline.exterior, 1), *((r, 0) for r in a.outline.interiors)]:
            points = np.round(shapely.get_coordinates(ring) / MPP - 0.5).astype(np.int32)
            cv2.fillPoly(truth, [points], inside)
    return rgb.clip(0, 255).astype(np.uint8), truth > 0


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    total = found.sum() + truth.sum()
    return 2 * float((found & truth).sum()) / float(total) if total else 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=6)
    asked = parser.parse_args()
    finders = {name: ours(name) for name in METHODS}
    finders |= {name: lambda rgb, how=how: clam(rgb, *how) for name, how in CLAM.items()}
    finders |= find_peers()
    rows, seconds = [], dict.fromkeys(finders, 0.0)
    for number in range(asked.slides):
        glass = draw_glass(f"P{number}", diagnosis=CLASSES[number % 3], seed=50 + number,
                           spec=DrawnSpec(size_um=(6000, 4500)))  # fmt: skip
        spoilt = {"clean": glass} | {d: spoil_glass(glass, d) for d in DEFECTS}
        for defect, seen in spoilt.items():
            rgb, truth = look(seen)
            for name, find in finders.items():
                start = time.perf_counter()
                found = find(rgb)
                seconds[name] += time.perf_counter() - start
                area = (found.sum() - truth.sum()) / max(truth.sum(), 1)
                rows.append((defect, name, dice(found, truth), area))
    table = pd.DataFrame(rows, columns=["defect", "method", "dice", "area error"])
    means = table.groupby(["defect", "method"], sort=False).dice.mean().unstack()[list(finders)]
    print(means.round(3).to_string())
    spoilt_rows = table[table.defect != "clean"]
    print("\nmean over defects:", spoilt_rows.groupby("method").dice.mean().round(3).to_dict())
    there = table[table.defect != "empty"]  # of no tissue there is no share
    errors = there.groupby("method")["area error"].apply(lambda e: e.abs().mean()).round(3)
    print("mean absolute error of the area:", errors.to_dict())
    n = len(table) / len(finders)
    print("ms a slide:", {name: round(1000 * s / n, 1) for name, s in seconds.items()})


if __name__ == "__main__":
    main()
