"""A copy of a DICOM series that names nobody: levels and scale only, frames byte for byte.

The copy is built from what may stay, not cut down from what was there: of each level the numbers
and defined words that readers need (PS3.3 A.32.8). Free text, dates, private elements and the
label, overview and thumbnail instances are not taken along; UIDs are new ones.
"""

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from histo_nb.errors import SlideError
from histo_nb.files import sync
from histo_nb.scanning.dicom.instance import open_dicom, read_elements, read_instance
from histo_nb.scanning.dicom.walk import PIXEL_DATA
from histo_nb.scanning.structure.bytefile import BLOCK

PIXEL_GROUP = PIXEL_DATA >> 16
LONG_HEAD = 12  # bytes of tag, VR and length before the value of pixel data and their tables

_KEPT = """
    ImageType VolumetricProperties SOPClassUID SOPInstanceUID StudyInstanceUID SeriesInstanceUID
    FrameOfReferenceUID PyramidUID InstanceNumber
    SamplesPerPixel PhotometricInterpretation PlanarConfiguration NumberOfFrames Rows Columns
    BitsAllocated BitsStored HighBit PixelRepresentation LossyImageCompression
    LossyImageCompressionRatio LossyImageCompressionMethod BurnedInAnnotation
    RescaleIntercept RescaleSlope PresentationLUTShape
    ImagedVolumeWidth ImagedVolumeHeight ImagedVolumeDepth TotalPixelMatrixColumns
    TotalPixelMatrixRows TotalPixelMatrixOriginSequence XOffsetInSlideCoordinateSystem
    YOffsetInSlideCoordinateSystem ZOffsetInSlideCoordinateSystem SpecimenLabelInImage FocusMethod
    ExtendedDepthOfField NumberOfFocalPlanes DistanceBetweenFocalPlanes ImageOrientationSlide
    NumberOfOpticalPaths TotalPixelMatrixFocalPlanes
    DimensionOrganizationType DimensionOrganizationSequence DimensionOrganizationUID
    DimensionIndexSequence DimensionIndexPointer FunctionalGroupPointer
    ConcatenationUID SOPInstanceUIDOfConcatenationSource InConcatenationNumber
    InConcatenationTotalNumber ConcatenationFrameOffsetNumber
    OpticalPathSequence OpticalPathIdentifier ICCProfile ColorSpace ObjectiveLensPower
    ObjectiveLensNumericalAperture IlluminationWaveLength IlluminationTypeCodeSequence
    IlluminationColorCodeSequence
    SharedFunctionalGroupsSequence PerFrameFunctionalGroupsSequence PixelMeasuresSequence
    PixelSpacing SliceThickness SpacingBetweenSlices WholeSlideMicroscopyImageFrameTypeSequence
    FrameType PlanePositionSlideSequence ColumnPositionInTotalImagePixelMatrix
    RowPositionInTotalImagePixelMatrix OpticalPathIdentificationSequence FrameContentSequence
    DimensionIndexValues
"""
_WORDS = """
    ORIGINAL DERIVED PRIMARY SECONDARY VOLUME NONE RESAMPLED YES NO AUTO MANUAL 00 01
    TILED_FULL TILED_SPARSE ISO_10918_1 ISO_15444_1 IDENTITY INVERSE
    MONOCHROME1 MONOCHROME2 RGB YBR_FULL YBR_FULL_422 YBR_ICT YBR_RCT
    SRGB ADOBERGB ROMMRGB DISPLAYP3
"""
_EMPTY = """PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime StudyID
    ReferringPhysicianName AccessionNumber"""
_UNKNOWN = """Manufacturer ManufacturerModelName DeviceSerialNumber SoftwareVersions
    ContainerIdentifier"""
KEPT = frozenset(_KEPT.split())
WORDS = frozenset(_WORDS.split())  # defined terms; another word in their place might be a name
NUMBERS = {"US", "UL", "SS", "SL", "FL", "FD", "AT"}
DECIMAL = re.compile(r"[0-9+\-.eE]{1,16}")
NEUTRAL = {  # what the standard asks for, and may not be told
    "Modality": "SM",
    **dict.fromkeys(_EMPTY.split(), ""),
    **dict.fromkeys(_UNKNOWN.split(), "unknown"),
    "SeriesNumber": 1,
    "ContentDate": "19000101",
    "ContentTime": "000000",
    "AcquisitionDateTime": "19000101000000",
    "PositionReferenceIndicator": "SLIDE_CORNER",
    "AcquisitionContextSequence": [],
    "IssuerOfTheContainerIdentifierSequence": [],
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "histo_nb: rebuilt from an allow-list; UIDs new; pixels unchanged",
    "LongitudinalTemporalInformationModified": "REMOVED",
}


def deidentify_series(paths: Sequence[Path], folder: Path) -> Path:
    """Write copies of a series' levels into an empty folder, and return the folder.

    Frames are not decoded: a name that stands in the slide's pixels, or in a JPEG's comment, stays.

    Raises
    ------
    SlideError
        No file is a level of a slide.
    """
    levels = [path for path in sorted(paths) if read_instance(path).kind == "VOLUME"]
    if not levels:
        raise SlideError(f"none of the {len(paths)} DICOM files is a level of a slide")
    renaming = _Renaming()
    for number, path in enumerate(levels, start=1):
        target = folder / f"{number:04d}.dcm"
        dcmwrite(target, _read_rebuilt(path, renaming), enforce_file_format=True)
        _append_pixels(path, target)
        sync(target)
    return folder


class _Renaming:
    """New names for UIDs and optical paths, the same for the same, in one copy."""

    def __init__(self) -> None:
        self._secret = secrets.token_hex(32)  # kept nowhere: no way leads back
        self._paths: dict[str, str] = {}

    def uid(self, uid: str) -> str:
        return str(generate_uid(entropy_srcs=[self._secret, uid]))

    def optical_path(self, name: str) -> str:
        return self._paths.setdefault(name, str(len(self._paths) + 1))


def _read_rebuilt(path: Path, renaming: _Renaming) -> Dataset:
    try:
        return _rebuild(dcmread(path, stop_before_pixels=True), renaming)
    except (ValueError, TypeError, AttributeError, OverflowError, NotImplementedError) as error:
        raise SlideError(
            f"{path.name} has values that are none of their kind ({type(error).__name__}), so it "
            "cannot be copied without its patient; export it again"
        ) from error


def _rebuild(source: Dataset, renaming: _Renaming) -> Dataset:
    """Return the data set of a copy, without its pixels."""
    copy = _filtered(source, renaming)
    for keyword, value in NEUTRAL.items():
        setattr(copy, keyword, value)
    copy.ContainerTypeCodeSequence = [_code("433466003", "SCT", "Microscope slide")]
    specimen = Dataset()
    specimen.SpecimenIdentifier = "unknown"
    specimen.SpecimenUID = renaming.uid("specimen")
    specimen.IssuerOfTheSpecimenIdentifierSequence = []
    specimen.SpecimenPreparationSequence = []
    copy.SpecimenDescriptionSequence = [specimen]
    copy.file_meta = FileMetaDataset()
    copy.file_meta.TransferSyntaxUID = source.file_meta.TransferSyntaxUID
    return copy


def _filtered(source: Dataset, renaming: _Renaming) -> Dataset:
    copy = Dataset()
    for element in source:
        if element.tag.is_private or element.keyword not in KEPT:
            continue
        value = _neutral(element, renaming)
        if value is not None:
            copy.add(DataElement(element.tag, element.VR, value))
    return copy


def _neutral(element: DataElement, renaming: _Renaming) -> Any:
    """Return a value as it may stand in the copy; None = not at all."""
    if element.VR == "SQ":
        if element.keyword.endswith("CodeSequence"):
            return [code for item in element.value if (code := _known_code(item))] or None
        return [_filtered(item, renaming) for item in element.value]
    if element.VR == "UI":
        is_class = element.keyword == "SOPClassUID"
        return element.value if is_class else renaming.uid(str(element.value))
    if element.keyword == "OpticalPathIdentifier":
        return renaming.optical_path(str(element.value))
    if element.keyword == "ICCProfile" or element.VR in NUMBERS:
        return element.value
    return _checked_words(element)


def _checked_words(element: DataElement) -> Any:
    values = element.value if element.VM > 1 else [element.value]
    texts = [str(value) for value in values]
    if element.VR == "CS" and all(text in WORDS for text in texts):
        return element.value
    if element.VR in ("DS", "IS") and all(DECIMAL.fullmatch(text) for text in texts):
        return texts
    return None


def _known_code(item: Dataset) -> Dataset | None:
    """Return a code of the standard's lists of illuminations with the words it has there."""
    value, scheme = item.get("CodeValue"), item.get("CodingSchemeDesignator")
    for listed in (codes.cid8123, codes.cid8122):
        for name in listed.dir():
            code = getattr(listed, name)
            if (code.value, code.scheme_designator) == (value, scheme):
                return _code(code.value, code.scheme_designator, code.meaning)
    return None


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, scheme, meaning
    return code


def _append_pixels(source: Path, target: Path) -> None:
    """Copy the pixel data and their tables of offsets as they are encoded."""
    with open_dicom(source) as dicom, target.open("ab") as file:
        for tag, element in read_elements(dicom).items():
            if tag >> 16 != PIXEL_GROUP or tag > PIXEL_DATA:
                continue
            for place in range(element.start - LONG_HEAD, element.following, BLOCK):
                file.write(dicom.file.read(place, min(BLOCK, element.following - place)))
