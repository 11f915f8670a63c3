"""DICOM series of whole-slide images made by hand, so that each property can be spoiled alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
    generate_uid,
)

SYNTAXES = {
    "JPEG": JPEGBaseline8Bit,
    "JPEG 2000": JPEG2000Lossless,
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
}
POWER = 20
NAME = "MUSTERMANN^ERIKA"  # made up
BARCODE = "H26-004711-A2"
FAMILY, UMLAUT = NAME.split("^", maxsplit=1)[0], "Müllermann"
TEXTS = {"LO", "SH", "PN", "ST", "LT", "UT", "UC", "AE", "UR"}


def plant(dataset: Dataset, *, also: Callable[[Dataset], None] = lambda _: None) -> None:
    """Write the name into every text there is, at any depth; then `also` to each depth."""
    for element in dataset:
        if element.VR == "SQ":
            for each in element.value:
                plant(each, also=also)
        elif element.VR in TEXTS:
            element.value = FAMILY[:16] if element.VR in ("SH", "AE") else f"{NAME} {BARCODE}"
    also(dataset)


def item(**values: object) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def code(value: str, scheme: str, meaning: str) -> Dataset:
    return item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def frames_of(image: np.ndarray, codec: str, tile: int) -> list[bytes]:
    height, width = image.shape[:2]
    padded = np.pad(image, ((0, -height % tile), (0, -width % tile), (0, 0)), mode="edge")
    tiles = [
        np.ascontiguousarray(padded[y : y + tile, x : x + tile])
        for y in range(0, height, tile)
        for x in range(0, width, tile)
    ]
    if codec == "JPEG":
        return [imagecodecs.jpeg8_encode(t, level=85, outcolorspace="rgb") for t in tiles]
    if codec == "JPEG 2000":
        return [imagecodecs.jpeg2k_encode(t, codecformat="j2k", mct=False) for t in tiles]
    return [t.tobytes() for t in tiles]


def describe(size: tuple[int, int], codec: str, tile: int, n_frames: int, mpp: float) -> Dataset:
    """Everything but the pixels of a level that OpenSlide reads."""
    dataset = item(
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        SOPClassUID=VLWholeSlideMicroscopyImageStorage,
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(),
        Modality="SM",
        PatientName=NAME,
        PatientID="PID-815-4711",
        ContainerIdentifier=BARCODE,
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        NumberOfFrames=n_frames,
        Rows=tile,
        Columns=tile,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
        TotalPixelMatrixColumns=size[0],
        TotalPixelMatrixRows=size[1],
        TotalPixelMatrixFocalPlanes=1,
        NumberOfOpticalPaths=1,
        DimensionOrganizationType="TILED_FULL",
        SpecimenDescriptionSequence=[item(SpecimenIdentifier=BARCODE)],
        OpticalPathSequence=[
            item(
                OpticalPathIdentifier="1",
                ObjectiveLensPower=POWER,
                IlluminationTypeCodeSequence=[code("111744", "DCM", "Brightfield illumination")],
            )
        ],
        SharedFunctionalGroupsSequence=[
            item(PixelMeasuresSequence=[item(PixelSpacing=[mpp / 1000, mpp / 1000])])
        ],
    )
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[codec]
    return dataset


def write_instance(
    path: Path,
    image: np.ndarray | Sequence[bytes],
    *,
    series_uid: str = "",
    codec: str = "JPEG",
    tile: int = 256,
    mpp: float = 0.5,
    size: tuple[int, int] | None = None,
    table: str = "basic",
    **values: object,
) -> Path:
    """Write an image, or frames ready made, as one instance; `values` replace what it says."""
    if isinstance(image, np.ndarray):
        frames, size = frames_of(image, codec, tile), (image.shape[1], image.shape[0])
    else:
        frames = list(image)
    dataset = describe(size, codec, tile, len(frames), mpp)
    dataset.SeriesInstanceUID = series_uid or generate_uid()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    if codec in ("explicit", "implicit"):
        dataset.PixelData = b"".join(frames)
    elif table == "extended":
        data, offsets, lengths = encapsulate_extended(frames)
        dataset.PixelData, dataset.ExtendedOffsetTable = data, offsets
        dataset.ExtendedOffsetTableLengths = lengths
    else:
        dataset.PixelData = encapsulate(frames, has_bot=table == "basic")
    dataset["PixelData"].VR = "OB"
    dcmwrite(path, dataset, enforce_file_format=True)
    return path


def write_series(
    folder: Path, image: np.ndarray, *, codec: str = "JPEG", tile: int = 256
) -> list[Path]:
    """Write a slide's two levels and its label; return their paths, level 0 first."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = generate_uid()
    options = {"series_uid": uid, "codec": codec}
    coarse = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    label = np.full((256, 256, 3), 250, np.uint8)
    cv2.putText(label, BARCODE, (5, 120), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (20, 20, 20), 2)
    resampled = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    kinds = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    return [
        write_instance(folder / "level0.dcm", image, tile=tile, **options),
        write_instance(
            folder / "level1.dcm", coarse, tile=tile, mpp=2.0, ImageType=resampled, **options
        ),
        write_instance(folder / "label.dcm", label, ImageType=kinds, **options),
    ]
