"""A slide whose scan begins away from its corner, whose patient is known here, with a result."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from histo_nb.home import Home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.masking.masks import mask_path, write_mask
from histo_nb.masking.tissue import MaskSpec, TissueMask
from histo_nb.scanning.identity import put_identity

PERSON, BARCODE = "Plantagenet Eleonore 1922", "PLANTED-B-77"
SIZE, CORNER, TILE, MPP = (1024, 768), (128, 64), 64, 0.5  # level-0 px
CLASSES = ["normal", "adenoma", "carcinoma"]


def write_sparse(path: Path, corner: tuple[int, int] = CORNER) -> Path:
    """Write a slide whose tiles left of and above a corner are not there: it has bounds."""
    rng = np.random.default_rng(1)
    plane = rng.integers(90, 200, (SIZE[1], SIZE[0], 3)).astype(np.uint8)

    def tiles() -> Any:
        for y in range(0, SIZE[1], 64):
            for x in range(0, SIZE[0], 64):
                absent = x < corner[0] or y < corner[1]
                yield b"" if absent else zlib.compress(plane[y : y + 64, x : x + 64].tobytes())

    with tifffile.TiffWriter(path) as writer:
        writer.write(tiles(), shape=plane.shape, dtype=np.uint8, tile=(64, 64), photometric="rgb",
                     compression="deflate", resolution=(1e4 / MPP,) * 2,
                     resolutionunit="CENTIMETER")  # fmt: skip
    return path


def take_slide(home: Home, name: str = "S-1", *, corner: tuple[int, int] = CORNER) -> str:
    """File a slide as intake does, with what names its patient in the identity store."""
    path = write_sparse(home.slides / f"{name}.tif", corner)
    (home.staging / name).mkdir()
    put_identity(home, name, home.staging / name, {"file_name": f"{PERSON}.tif",
                                                   "barcode": BARCODE})  # fmt: skip
    home.catalog.add_slide(
        {"slide_id": name, "slide_path": str(path), "patient_id": "P-1", "sha256": name,
         "n_bytes": path.stat().st_size, "width": SIZE[0], "height": SIZE[1], "n_levels": 1,
         "slide_mpp": MPP, "mpp_source": "file", "source": "test"}
    )  # fmt: skip
    return name


def add_found(home: Home, slide_id: str, **facts: Any) -> SlideResult:
    """File a mask with a hole, and a result of three abnormal tiles in two regions."""
    tissue = np.zeros((SIZE[1] // 16, SIZE[0] // 16), bool)
    tissue[5:40, 9:60] = True
    tissue[20:25, 30:33] = False
    write_mask(TissueMask(tissue, 16, MPP), mask_path(home, slide_id), spec=MaskSpec())
    tiles = _predictions(home.catalog.slide(slide_id))
    result = SlideResult(
        slide_id=slide_id, model_id="M-1", classes=CLASSES, normal_class="normal",
        slide_class="carcinoma", confidence=0.87, abnormal_fraction=0.1, gate_passed=True,
        class_fractions={"normal": 0.9, "adenoma": 0.0, "carcinoma": 0.1}, rule="A rule.",
        tissue_mm2=0.1, seconds=1.0, n_failures=0, predictions=tiles,
        regions=find_regions(tiles, normal_class="normal", slide_mpp=MPP), **facts,
    )  # fmt: skip
    write_result(result, home, failures=pd.DataFrame(columns=["slide_id", "step", "error"]))
    return result


def _predictions(slide: dict[str, Any]) -> pd.DataFrame:
    places = [(x, y) for y in range(128, 512, TILE) for x in range(192, 832, TILE)]
    hot = np.array([place in {(192, 128), (256, 128), (640, 384)} for place in places])
    scores = np.random.default_rng(2).dirichlet((1, 1, 1), len(places))
    facts = {"slide_id": slide["slide_id"], "patient_id": slide["patient_id"], "level": 0,
             "slide_path": slide["slide_path"], "slide_mpp": MPP, "size_l0": TILE,
             "read_size": TILE, "tile_size": TILE, "mpp": MPP, "effective_mpp": MPP,
             "read_path": "level0", "tissue": 0.9}  # fmt: skip
    table = pd.DataFrame({"x": [x for x, _ in places], "y": [y for _, y in places]})
    return table.assign(
        tile_id=[f"{slide['slide_id']}/{x},{y}/{TILE}" for x, y in places],
        prediction=np.where(hot, "carcinoma", "normal"),
        **{f"prob_{name}": scores[:, i] for i, name in enumerate(CLASSES)},
        **facts,
    )
