"""What results refer to: the instances of a slide's DICOM series, without whom they show.

The headers are built from what may stay, not cut down from what was there: UIDs, for a reference is
one, and numbers. highdicom copies from them what it writes of patient, study and specimen.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from highdicom.sr import CodedConcept
from pydicom import Dataset, dcmread

from histo_nb.errors import SlideError
from histo_nb.scanning.dicom.deidentify import WORDS
from histo_nb.scanning.dicom.instance import WSI_CLASS, Instance
from histo_nb.scanning.dicom.series import group_series, read_instance
from histo_nb.scanning.dicom.spool import is_uid

SAME_MPP = 1e-3  # relative; as in the check of a converted slide
GLASS_MM = 0.001  # thickness of a section where the series states none
READ = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID",
        "SpecimenDescriptionSequence", "ImageOrientationSlide", "TotalPixelMatrixOriginSequence",
        "SharedFunctionalGroupsSequence", "LossyImageCompression", "LossyImageCompressionRatio",
        "LossyImageCompressionMethod"]  # fmt: skip
WAY_OUT = "write a series with `histo-nb to-dicom SLIDE FOLDER` and give it as the source"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A slide's DICOM series: nameless headers of its levels, the finest first."""

    levels: list[Dataset]
    spacing_mm: float  # of level 0

    @property
    def level0(self) -> Dataset:
        """The header of the full resolution."""
        return self.levels[0]

    def place_mm(self, x: float, y: float) -> tuple[float, float]:
        """Return where a place of level 0 lies on the glass.

        `x, y` are px with 0 in the *middle* of the first pixel: there the origin is, as of every
        image in DICOM.
        """
        origin = self.level0.TotalPixelMatrixOriginSequence[0]
        start = [origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem]
        axes = np.array(self.level0.ImageOrientationSlide, float).reshape(2, 3)[:, :2]
        found = np.array(start, float) + self.spacing_mm * (x * axes[0] + y * axes[1])
        return float(found[0]), float(found[1])


def find_source(row: Mapping[str, Any], folder: Path | None = None) -> Source:
    """Return the DICOM series of a slide.

    Parameters
    ----------
    row
        The slide, from the catalogue.
    folder
        Of a series that `to-dicom` wrote of a slide that is none.

    Raises
    ------
    SlideError
        There is none, or it shows something else.
    """
    path = Path(row["slide_path"])
    if folder is None and path.suffix.lower() != ".dcm":
        raise SlideError(
            f"{row['slide_id']} is no DICOM slide, and results refer to one; {WAY_OUT}"
        )
    series = group_series(path.parent if folder is None else Path(folder))
    wanted = [paths for paths in series.values() if folder is not None or path in paths]
    if len(wanted) != 1:
        raise SlideError(
            f"the source of {row['slide_id']} holds {len(wanted)} DICOM series instead of one; "
            f"{WAY_OUT}"
        )
    return read_source(wanted[0], row=row)


def read_source(paths: list[Path], *, row: Mapping[str, Any]) -> Source:
    """Return the nameless headers of a series, once it was found to show the slide."""
    levels = [i for i in map(read_instance, paths) if i.kind == "VOLUME"]
    levels.sort(key=lambda i: (-i.size[0], i.frame_offset, i.sop_uid))
    _check_same(levels, row)
    headers = [_read_header(level, row) for level in levels]
    spacing = headers[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    return Source(levels=headers, spacing_mm=float(spacing[0]))


def _check_same(levels: list[Instance], row: Mapping[str, Any]) -> None:
    slide_id, size, mpp = row["slide_id"], (row["width"], row["height"]), row["slide_mpp"]
    if not levels or levels[0].size != size:
        found = "no level" if not levels else f"{levels[0].size[0]} × {levels[0].size[1]} px"
        raise SlideError(
            f"the source has {found} where {slide_id} has {size[0]} × {size[1]} px; {WAY_OUT}"
        )
    if levels[0].mpp is None or abs(levels[0].mpp / mpp - 1) > SAME_MPP:
        said = "no" if levels[0].mpp is None else f"{levels[0].mpp:g}"
        raise SlideError(
            f"the source states {said} µm/px where {slide_id} has {mpp:g}: places and areas would "
            f"differ; {WAY_OUT}"
        )


def _read_header(level: Instance, row: Mapping[str, Any]) -> Dataset:
    try:
        said = dcmread(level.path, stop_before_pixels=True, specific_tags=READ)
        header = _neutral(row)
        _add_references(header, said)
        _add_geometry(header, said, level)
        _add_compression(header, said)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
        raise SlideError(
            f"an instance of {row['slide_id']} does not say where its pixels lie on the glass "
            f"({type(error).__name__}), so nothing can be placed on it; {WAY_OUT}"
        ) from error
    return header


def _neutral(row: Mapping[str, Any]) -> Dataset:
    """Return what a header says of patient, study and specimen: the slide's pseudonyms."""
    header = Dataset()
    header.SpecificCharacterSet = "ISO_IR 192"
    header.PatientID = str(row["patient_id"] or row["slide_id"])
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "histo_nb: rebuilt from an allow-list; UIDs of the slide kept"
    for keyword in ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
                    "StudyID", "ReferringPhysicianName", "AccessionNumber"):  # fmt: skip
        setattr(header, keyword, "")
    header.Modality = "SM"
    header.SOPClassUID = WSI_CLASS
    header.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    header.ContainerIdentifier = row["slide_id"]
    header.IssuerOfTheContainerIdentifierSequence = []
    header.ContainerTypeCodeSequence = [CodedConcept("433466003", "SCT", "Microscope slide")]
    return header


def _add_references(header: Dataset, said: Dataset) -> None:
    for keyword in READ[:4]:
        setattr(header, keyword, _uid(said[keyword].value))
    header.PositionReferenceIndicator = "SLIDE_CORNER"
    specimen = Dataset()
    specimen.SpecimenIdentifier = header.ContainerIdentifier
    specimen.SpecimenUID = _uid(said.SpecimenDescriptionSequence[0].SpecimenUID)
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    header.SpecimenDescriptionSequence = [specimen]


def _uid(value: Any) -> str:
    if not is_uid(str(value)):
        raise ValueError("no UID")
    return str(value)


def _add_geometry(header: Dataset, said: Dataset, level: Instance) -> None:
    header.Columns, header.Rows = level.tile
    header.NumberOfFrames = level.n_frames
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = level.size
    header.DimensionOrganizationType = "TILED_FULL"
    header.ImageOrientationSlide = [float(value) for value in said.ImageOrientationSlide]
    origin, said_origin = Dataset(), said.TotalPixelMatrixOriginSequence[0]
    for axis in "XY":
        keyword = f"{axis}OffsetInSlideCoordinateSystem"
        setattr(origin, keyword, float(said_origin[keyword].value))
    header.TotalPixelMatrixOriginSequence = [origin]
    measures = said.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    kept, groups = Dataset(), Dataset()
    kept.PixelSpacing = [float(value) for value in measures.PixelSpacing]
    kept.SliceThickness = float(measures.get("SliceThickness") or GLASS_MM)
    groups.PixelMeasuresSequence = [kept]
    header.SharedFunctionalGroupsSequence = [groups]


def _add_compression(header: Dataset, said: Dataset) -> None:
    """Say that the pixels were compressed with loss, if they were; each time of it is a value."""
    methods, ratios = (
        _values(said.get(f"LossyImageCompression{what}")) for what in ("Method", "Ratio")
    )
    if said.get("LossyImageCompression") == "01" and methods and set(methods) <= WORDS:
        header.LossyImageCompression = "01"
        header.LossyImageCompressionMethod = methods
        header.LossyImageCompressionRatio = [float(ratio) for ratio in ratios] or [1.0]


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in ([value] if isinstance(value, str | float) else value)]
