"""Slides as DICOM series with a result that was drawn, and the tools that others check DICOM by."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from analysed import CLASSES, add_slide, draw
from dicoms import item, write_instance
from pydicom.uid import generate_uid

from histo_nb.failures import FAILURE_COLUMNS
from histo_nb.home import Home
from histo_nb.inference.regions import find_regions
from histo_nb.inference.result import SlideResult, write_result
from histo_nb.tables import PREDICTIONS, check_table

NO_FAILURES = pd.DataFrame(columns=FAILURE_COLUMNS)
SIZE = (832, 640)  # px of a slide
PLACE = {  # on the glass, as a scanner says it: upright, in the middle of a slide
    "ImageOrientationSlide": [0, -1, 0, -1, 0, 0],
    "TotalPixelMatrixOriginSequence": [
        item(XOffsetInSlideCoordinateSystem=20.0, YOffsetInSlideCoordinateSystem=40.0)
    ],
}


def needs(program: str, package: str) -> pytest.MarkDecorator:
    missing = f"{program} is missing: install Debian's {package}"
    return pytest.mark.skipif(not shutil.which(program), reason=missing)


needs_dciodvfy, needs_dsrdump = needs("dciodvfy", "dicom3tools"), needs("dsrdump", "dcmtk")
needs_storescp = needs("storescp", "dcmtk")
needs_orthanc = needs("Orthanc", "orthanc")


def write_source(folder: Path, *, size: tuple[int, int] = SIZE, mpp: float = 0.5, **values) -> Path:
    """Write a series of two levels and a label, which says where it lies on the glass."""
    folder.mkdir(parents=True)
    image = draw(1, size)
    same = {name: generate_uid() for name in ("StudyInstanceUID", "FrameOfReferenceUID")}
    # What a reader copies must be the level's own: pydicom keeps items, and does not share them.
    specimen = [item(SpecimenIdentifier="H26-004711-A2", SpecimenUID=generate_uid())]
    same |= {**PLACE, "SpecimenDescriptionSequence": specimen, **values}
    series = {"series_uid": generate_uid()}
    coarse = np.ascontiguousarray(image[::4, ::4])
    resampled = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    write_instance(folder / "a.dcm", image, mpp=mpp, **series, **same)
    write_instance(folder / "b.dcm", coarse, mpp=4 * mpp, ImageType=resampled, **series, **same)
    label = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    write_instance(folder / "c.dcm", image[:64, :64].copy(), ImageType=label, **series, **same)
    return folder / "a.dcm"


def add_dicom_slide(home: Home, name: str = "S-1", **options) -> str:
    """File a DICOM slide; see `write_source`."""
    return add_slide(home, write_source(home.slides / name, **options), name, mask=False)


def grid(
    *, columns: int, rows: int, size: int, step: int | None = None, x: int = 0, y: int = 0
) -> pd.DataFrame:
    """Return places of tiles, row by row."""
    step = step or size
    return pd.DataFrame(
        [
            {"x": x + column * step, "y": y + row * step, "size_l0": size}
            for row in range(rows)
            for column in range(columns)
        ]
    )


def put_result(
    home: Home,
    slide_id: str,
    places: pd.DataFrame,
    *,
    seed: int = 0,
    choose: Callable[[pd.DataFrame], np.ndarray] | None = None,
    classes: list[str] | None = None,
    **facts: object,
) -> SlideResult:
    """Write a result of tiles at these places; `choose` says the class number (N,) of each."""
    rng, slide = np.random.default_rng(seed), home.catalog.slide(slide_id)
    classes = classes or CLASSES
    tiles = places.reset_index(drop=True)
    chosen = rng.integers(0, len(classes), len(tiles)) if choose is None else choose(tiles)
    weights = rng.uniform(0.1, 1, (len(tiles), len(classes)))
    weights[np.arange(len(tiles)), chosen] = 1.5
    for i, label in enumerate(classes):
        tiles[f"prob_{label}"] = (weights / weights.sum(1, keepdims=True)).astype(np.float32)[:, i]
    tiles["prediction"] = [classes[i] for i in chosen]
    tiles["tile_id"] = [
        f"{slide_id}/{x},{y}/{s}" for x, y, s in zip(tiles.x, tiles.y, tiles.size_l0, strict=True)
    ]
    same = {"slide_id": slide_id, "patient_id": slide["patient_id"], "level": 0, "read_size": 64,
            "slide_path": slide["slide_path"], "slide_mpp": slide["slide_mpp"], "tile_size": 64,
            "mpp": 0.5, "effective_mpp": 0.5, "read_path": "level0", "tissue": 0.9}  # fmt: skip
    predictions = check_table(tiles.assign(**same), PREDICTIONS)
    normal = classes[-1]
    abnormal = float((predictions.prediction != normal).mean())
    result = SlideResult(
        **{
            "slide_id": slide_id,
            "model_id": "model-7",
            "classes": classes,
            "normal_class": normal,
            "slide_class": classes[0],
            "confidence": 0.75,
            "abnormal_fraction": abnormal,
            "class_fractions": {},
            "rule": "by hand",
            "tissue_mm2": 0.5,
            "gate_passed": True,
            "n_failures": 0,
            "seconds": 0.1,
            "predictions": predictions,
            "regions": find_regions(predictions, normal_class=normal, slide_mpp=slide["slide_mpp"]),
            "doubts": [],
            "provenance": {"model": {"weights_sha256": "ab" * 32}},
            **facts,
        }
    )
    write_result(result, home, failures=NO_FAILURES)
    return result


def complaints(program: str, path: Path) -> list[str]:
    """Return the errors that a program finds in a file."""
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "E:", "F:"))]
