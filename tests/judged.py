"""A slide with a result of three regions, named after a patient, to be judged and signed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry import mapping

from histo_nb.home import Home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.reviews import Judgement, judge, region_key
from histo_nb.scanning.virtual.pyramid import PyramidSpec, write_pyramid

SIZE, TILE = (2048, 1536), 256  # level-0 px
MPP = 0.5
PATIENT = "Planted Patient Name"
HOSTILE = '<script>window.planted=1</script><img src=x onerror="window.planted=1">'
ABNORMAL = [(1, 1), (2, 1), (5, 3), (7, 5)]  # columns and rows of tiles: regions of 2, 1, 1


def add_result(home: Home, slide_id: str = "S-1", **facts: Any) -> SlideResult:
    """File a slide whose path, patient, label and macro name its patient, and a result of it."""
    path = home.slides / f"{PATIENT}.svs"
    if not path.exists():
        _write_slide(path)
    home.catalog.add_slide(
        {"slide_id": slide_id, "slide_path": str(path), "patient_id": PATIENT, "sha256": slide_id,
         "n_bytes": 1, "width": SIZE[0], "height": SIZE[1], "n_levels": 3, "slide_mpp": MPP,
         "mpp_source": "file", "source": "test"}
    )  # fmt: skip
    tiles = _predictions(slide_id, path)
    known = {"gate_passed": True, "n_failures": 0, "doubts": [], "slide_class": "carcinoma",
             "confidence": 0.87, "model_id": "M-1", "seconds": 1.0}  # fmt: skip
    result = SlideResult(
        slide_id=slide_id, classes=["normal", "adenoma", "carcinoma"],
        normal_class="normal", abnormal_fraction=0.1,
        class_fractions={"normal": 0.9, "adenoma": 0.0, "carcinoma": 0.1}, rule="A rule.",
        tissue_mm2=0.79, predictions=tiles,
        regions=find_regions(tiles, normal_class="normal", slide_mpp=MPP), **(known | facts),
    )  # fmt: skip
    write_result(result, home, failures=pd.DataFrame(columns=["slide_id", "step", "error"]))
    return result


def judge_region(home: Home, result: SlideResult, number: int, **said: Any) -> None:
    """Judge a region of a result, by its number from 0; by default Ada agrees."""
    region, who = result.regions[number], said.pop("who", "Ada")
    facts = {"verdict": "agree", "label": region.label} | said
    judge(home, Judgement(slide_id=result.slide_id, kind="region",
                          subject=region_key(region.outline),
                          outline=json.dumps(mapping(region.outline)), **facts),
          reviewer=who)  # fmt: skip


def draw(home: Home, outline: shapely.Geometry, label: str, *, slide_id: str = "S-1",
         subject: str = "a1", note: str = "") -> None:  # fmt: skip
    """Draw a place, as Ben."""
    judge(home, Judgement(slide_id=slide_id, kind="annotation", verdict="drawn", subject=subject,
                          label=label, note=note, outline=json.dumps(mapping(outline))),
          reviewer="Ben")  # fmt: skip


def sign(home: Home, label: str | None, *, slide_id: str = "S-1", note: str = "") -> None:
    """Sign a slide as Ada; None takes the signature back."""
    verdict = "signed" if label else None
    judge(home, Judgement(slide_id=slide_id, kind="signature", verdict=verdict, label=label,
                          note=note), reviewer="Ada")  # fmt: skip


def _write_slide(path: Path) -> None:
    rng = np.random.default_rng(0)
    strip = rng.normal((215, 160, 200), 12, (256, SIZE[0], 3)).clip(0, 255).astype(np.uint8)
    label = np.full((64, 64, 3), 255, np.uint8)
    spec = PyramidSpec(size=SIZE)
    strips = [strip] * (SIZE[1] // 256)
    write_pyramid(strips, path, spec=spec, label=label, macro=lambda _: label)


def _predictions(slide_id: str, path: Path) -> pd.DataFrame:
    places = [(c, r) for r in range(SIZE[1] // TILE) for c in range(SIZE[0] // TILE)]
    hot = [place in ABNORMAL for place in places]
    facts = {"slide_id": slide_id, "patient_id": PATIENT, "slide_path": str(path), "level": 0,
             "slide_mpp": MPP, "size_l0": TILE, "read_size": TILE, "tile_size": TILE, "mpp": MPP,
             "effective_mpp": MPP, "read_path": "level0", "tissue": 1.0,
             "prob_adenoma": 0.02}  # fmt: skip
    table = pd.DataFrame({"x": [c * TILE for c, _ in places], "y": [r * TILE for _, r in places]})
    return table.assign(
        tile_id=[f"{slide_id}/{c},{r}" for c, r in places],
        prob_normal=np.where(hot, 0.02, 0.96),
        prob_carcinoma=np.where(hot, 0.96, 0.02),
        prediction=np.where(hot, "carcinoma", "normal"),
        **facts,
    )
