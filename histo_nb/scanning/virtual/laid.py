"""Glass slides laid from real labelled images: a mosaic of tissue with glass around it.

The images of one patient lie on one slide. Images of one class abut in a piece of tissue with a
soft outline; pieces are parted by real gaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pandas as pd
import shapely
import shapely.affinity
from PIL import Image

from histo_nb.annotations import Annotation
from histo_nb.errors import DatasetError, SpecError
from histo_nb.geometry import check_positive
from histo_nb.scanning.virtual.glass import GLASS_RGB, Bump, make_barcode

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp"}
MARGIN_UM = 400.0  # bare glass around and between pieces
EDGE_UM = 24.0  # width over which a piece's outline fades into glass


@dataclass(frozen=True, kw_only=True)
class LaySpec:
    """How labelled images become glass slides."""

    image_mpp: float = 0.62  # µm/px of the images; GlaS is 0.62
    mpp: float = 0.5  # µm/px they are resampled to
    severity: tuple[str, ...] = ("normal", "adenoma", "carcinoma")  # benign first

    def __post_init__(self) -> None:
        check_positive(image_mpp=self.image_mpp, mpp=self.mpp)


def read_labelled_images(folder: Path, *, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """List the images of a folder with `image_path`, `label` and `patient_id`.

    With a `manifest.csv` its columns are used (`columns` maps `file`, `label`, `patient` to other
    names; `class` and `class3` are known too); without one, each subfolder is a class and each
    image a patient of its own.

    Raises
    ------
    DatasetError
        There is no such folder, no image in it, or the manifest lacks a column or an image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DatasetError(f"{folder} is no folder; name one with labelled images")
    manifest = folder / "manifest.csv"
    table = _from_manifest(manifest, columns or {}) if manifest.exists() else _from_folders(folder)
    if table.empty:
        raise DatasetError(
            f"{folder} holds no labelled images; expected class folders with "
            f"{', '.join(sorted(IMAGE_SUFFIXES))} files, or a manifest.csv that lists them"
        )
    missing = [path for path in table.image_path if not Path(path).is_file()]
    if missing:
        raise DatasetError(f"{manifest} lists {len(missing)} missing images, first {missing[0]}")
    return table.sort_values("image_path", ignore_index=True)


def _from_manifest(manifest: Path, columns: dict[str, str]) -> pd.DataFrame:
    try:
        rows = pd.read_csv(manifest, dtype=str)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{manifest} is no table ({error}); save it as CSV in UTF-8") from error
    known = {"file": ["file"], "label": ["label", "class", "class3"], "patient": ["patient"]}
    found = {}
    for name, usual in known.items():
        wanted = [columns[name]] if name in columns else usual
        present = [column for column in wanted if column in rows]
        if not present:
            raise DatasetError(
                f"{manifest} has no column {' or '.join(wanted)} for the {name}; "
                f"it has {', '.join(rows.columns)}"
            )
        found[name] = present[0]
    empty = rows[list(found.values())].isna().any(axis=1)
    if empty.any():
        raise DatasetError(
            f"{manifest}: {empty.sum()} rows lack a file, label or patient, first line "
            f"{int(empty.argmax()) + 2}; fill or remove them"
        )
    return pd.DataFrame(
        {
            "image_path": [str(manifest.parent / file) for file in rows[found["file"]]],
            "label": rows[found["label"]],
            "patient_id": rows[found["patient"]],
        }
    )


def _from_folders(folder: Path) -> pd.DataFrame:
    rows = [
        {
            "image_path": str(path),
            "label": path.parent.name,
            "patient_id": f"{path.parent.name}-{path.name}",
        }
        for path in sorted(folder.glob("*/*"))
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    return pd.DataFrame(rows, columns=["image_path", "label", "patient_id"])


def lay_glasses(images: pd.DataFrame, *, spec: LaySpec | None = None) -> list["LaidGlass"]:
    """Lay one glass slide a patient, in the order of their names.

    Raises
    ------
    SpecError
        A label is not among `severity`.
    """
    spec = spec or LaySpec()
    unknown = sorted(set(images.label) - set(spec.severity))
    if unknown:
        raise SpecError(
            f"severity={spec.severity} does not name the classes {unknown}; "
            "list all classes, the benign one first"
        )
    return [
        LaidGlass(str(patient), rows, spec=spec) for patient, rows in images.groupby("patient_id")
    ]


class LaidGlass:
    """A virtual glass slide laid from the images of one patient; see `Glass`."""

    def __init__(self, patient_id: str, images: pd.DataFrame, *, spec: LaySpec) -> None:
        self.patient_id = patient_id
        self.diagnosis = max(images.label, key=spec.severity.index)
        self.barcode = make_barcode(patient_id, [Path(path).name for path in images.image_path])
        self.bumps: Sequence[Bump] = ()
        self._mpp = spec.mpp
        gap = round(MARGIN_UM / spec.mpp)
        labels = [label for label in spec.severity if label in set(images.label)]
        pieces = [
            _lay_piece(
                [_read_image(p, spec) for p in images.image_path[images.label == label]], spec
            )
            for label in labels
        ]
        width = max(piece.shape[1] for piece, _ in pieces) + 2 * gap
        height = sum(piece.shape[0] + gap for piece, _ in pieces) + gap
        self._plane = np.full((height, width, 3), GLASS_RGB, np.uint8)
        self._truth: list[Annotation] = []
        top = gap
        for label, (piece, outline) in zip(labels, pieces, strict=True):
            self._plane[top : top + piece.shape[0], gap : gap + piece.shape[1]] = piece
            placed = shapely.affinity.translate(outline, gap, top)
            self._truth.append(
                Annotation(shapely.affinity.scale(placed, spec.mpp, spec.mpp, origin=(0, 0)), label)
            )
            top += piece.shape[0] + gap
        self.size_um = (width * spec.mpp, height * spec.mpp)

    def look(self, x_px: int, y_px: int, *, size: tuple[int, int], mpp: float) -> np.ndarray:
        """Return what the lens sees in a rectangle; see `Glass.look`."""
        if abs(mpp - self._mpp) > 1e-9:
            raise SpecError(f"mpp={mpp:g}: this glass was laid for {self._mpp:g}; lay it again")
        view = np.full((size[1], size[0], 3), GLASS_RGB, np.uint8)
        part = self._plane[y_px : y_px + size[1], x_px : x_px + size[0]]
        view[: part.shape[0], : part.shape[1]] = part
        return view

    def truth(self) -> list[Annotation]:
        """Return the class outlines in µm; see `Glass.truth`."""
        return self._truth


def _read_image(path: str, spec: LaySpec) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DatasetError(
            f"{path} does not open as an image ({error}); remove or replace it"
        ) from error
    scale = spec.image_mpp / spec.mpp
    size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
    method = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    return cv2.resize(pixels, size, interpolation=method)


def _lay_piece(images: Sequence[np.ndarray], spec: LaySpec) -> tuple[np.ndarray, shapely.Polygon]:
    """Return a piece of tissue (glass where none is) and its outline in its own px."""
    n_columns = max(round(len(images) ** 0.5), 1)
    rows = [images[i : i + n_columns] for i in range(0, len(images), n_columns)]
    heights = [min(image.shape[0] for image in row) for row in rows]
    widths = [sum(image.shape[1] for image in row) for row in rows]
    piece = np.full((sum(heights), max(widths), 3), GLASS_RGB, np.uint8)
    tissue = np.zeros(piece.shape[:2], np.uint8)
    top = 0
    for row, height, width in zip(rows, heights, widths, strict=True):
        piece[top : top + height, :width] = np.hstack([image[:height] for image in row])
        tissue[top : top + height, :width] = 255
        top += height
    return _soften(piece, tissue, spec)


def _soften(
    piece: np.ndarray, tissue: np.ndarray, spec: LaySpec
) -> tuple[np.ndarray, shapely.Polygon]:
    """Fade a piece's edge into glass along a wavy outline."""
    edge = EDGE_UM / spec.mpp
    inside = cv2.copyMakeBorder(tissue, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)[1:-1, 1:-1]
    distance -= _waves(piece.shape[:2], edge)
    share = np.clip((distance - edge / 2) / edge, 0, 1)[..., None]
    softened = (piece * share + np.array(GLASS_RGB, np.float32) * (1 - share)).astype(np.uint8)
    contours, _ = cv2.findContours(
        (distance > edge).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    largest = max(contours, key=cv2.contourArea, default=np.empty((0, 1, 2)))
    if len(largest) < 3 or not cv2.contourArea(largest):
        height_um, width_um = (round(extent * spec.mpp) for extent in piece.shape[:2])
        raise DatasetError(
            f"images of one class and patient make a piece of {width_um} × {height_um} µm, "
            f"nothing is left of it inside its soft edge; use larger ones (≥ {10 * EDGE_UM:g} µm)"
        )
    outline = shapely.Polygon(largest[:, 0]).buffer(0)
    return softened, cast(shapely.Polygon, outline.simplify(2.0))


def _waves(shape: tuple[int, int], edge: float) -> np.ndarray:
    """Smooth bumps, 0 to 2 edges deep, the same for the same shape."""
    coarse = np.random.default_rng(shape).random((shape[0] // 300 + 2, shape[1] // 300 + 2))
    bumps = cv2.resize(coarse.astype(np.float32), shape[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(bumps, 0, 1) * 2 * edge
