"""The nameless copy of a DICOM series: every byte is searched for what was planted everywhere."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import openslide
import pytest
from damage import tissue
from dicoms import BARCODE, FAMILY, NAME, UMLAUT, code, item, plant, write_series
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.uid import generate_uid

from histo_nb.errors import SlideError
from histo_nb.scanning.deidentify import deidentify
from histo_nb.scanning.dicom.deidentify import deidentify_series
from histo_nb.scanning.dicom.series import check_instance, check_series, read_instance
from histo_nb.scanning.intake import IntakeSpec, receive

CODECS = ["JPEG", "JPEG 2000", "explicit"]


def plant_more(dataset: Dataset) -> None:
    """Write the name where no reader looks: private and unknown elements, words, comments, tail."""
    plant(dataset)
    dataset.ImageComments = f"{NAME} {BARCODE}"
    dataset.InstitutionName = FAMILY
    dataset.PatientBirthDate = "19471108"
    dataset.StudyDate = "20261108"
    dataset.FocusMethod = FAMILY  # a defined word by right
    dataset.add_new(0x00210010, "LO", FAMILY)
    dataset.add_new(0x00211001, "UT", f"{NAME} {BARCODE}")
    dataset.add_new(0x00211002, "OB", NAME.encode("utf-16-le"))
    dataset.add_new(0x00211003, "SQ", [item(PatientComments=NAME)])
    dataset.add_new(0x00431001, "UN", UMLAUT.encode("latin-1"))
    dataset.add_new(0x00490099, "LO", FAMILY)  # unknown to the standard
    dataset.OtherPatientIDsSequence = [item(PatientID=BARCODE)]
    dataset.RequestAttributesSequence = [item(RequestedProcedureDescription=NAME)]
    optics = dataset.OpticalPathSequence[0]
    optics.OpticalPathDescription = NAME
    optics.IlluminationColorCodeSequence = [code(FAMILY, "99LOCAL", FAMILY)]
    optics.IlluminationTypeCodeSequence = [code("111744", "DCM", FAMILY)]
    optics.add_new(0x00211001, "LO", FAMILY)
    dataset.file_meta.SourceApplicationEntityTitle = FAMILY
    dataset.file_meta.PrivateInformationCreatorUID = generate_uid()
    dataset.file_meta.PrivateInformation = NAME.encode()
    dataset.add(DataElement(0xFFFCFFFC, "OB", NAME.encode() + b"\0"))
    dataset.preamble = (NAME.encode() + b" " * 128)[:128]


@pytest.fixture(params=CODECS)
def series(request, tmp_path) -> list[Path]:
    paths = write_series(tmp_path / "series", tissue()[:700, :1000], codec=request.param)
    for path in paths:
        dataset = dcmread(path)
        plant_more(dataset)
        dcmwrite(path, dataset)
        assert NAME.encode() in path.read_bytes()
    return paths


def copy_of(series: list[Path], folder: Path) -> list[Path]:
    folder.mkdir()
    assert deidentify_series(series, folder) == folder
    return sorted(folder.iterdir())


def forms(word: str) -> set[bytes]:
    words = {word, word.lower(), word.title()}
    kinds = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le")
    return {w.encode(kind) for w in words for kind in kinds}


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_no_byte_of_the_copy_names_the_patient(series, tmp_path):
    ids = [str(dcmread(p)[k].value) for p in series
           for k in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")]  # fmt: skip
    for path in copy_of(series, tmp_path / "copy"):
        content = path.read_bytes()
        for word in (
            FAMILY,
            "ERIKA",
            BARCODE,
            "PID-815-4711",
            UMLAUT,
            "19471108",
            "20261108",
            *ids,
        ):
            for form in forms(word):
                assert form not in content, word


def test_copy_shows_the_same_slide_without_its_label(series, tmp_path):
    copies = copy_of(series, tmp_path / "copy")
    check_series(copies)
    for path in copies:
        check_instance(path)
    with openslide.OpenSlide(series[0]) as slide, openslide.OpenSlide(copies[0]) as copy:
        assert slide.associated_images and not copy.associated_images
        assert copy.level_dimensions == slide.level_dimensions
        for name in ("openslide.mpp-x", "openslide.mpp-y", "openslide.objective-power"):
            assert copy.properties[name] == slide.properties[name]
        for level, size in enumerate(slide.level_dimensions):
            true, found = (np.asarray(s.read_region((0, 0), level, size)) for s in (slide, copy))
            assert np.array_equal(true, found)


def test_frames_are_the_same_bytes_and_uids_are_new_and_consistent(series, tmp_path):
    copies = [dcmread(path) for path in copy_of(series, tmp_path / "copy")]
    levels = {d.TotalPixelMatrixColumns: d for d in (dcmread(path) for path in series[:2])}
    assert len(copies) == 2
    for copy in copies:
        original = levels[copy.TotalPixelMatrixColumns]
        assert copy.PixelData == original.PixelData
        assert copy.SOPInstanceUID != original.SOPInstanceUID
        assert copy.PatientIdentityRemoved == "YES"
        assert copy.OpticalPathSequence[0].IlluminationTypeCodeSequence[0].CodeMeaning == (
            "Brightfield illumination"
        )
    assert len({copy.SeriesInstanceUID for copy in copies}) == 1
    assert len({copy.SOPInstanceUID for copy in copies}) == 2


def test_second_copy_has_other_uids(series, tmp_path):
    one, two = (copy_of(series, tmp_path / name)[0] for name in ("one", "two"))
    assert read_instance(one).series_uid != read_instance(two).series_uid


def test_label_alone_is_no_slide(series, tmp_path):
    with pytest.raises(SlideError, match="none of the 1"):
        copy_of(series[2:], tmp_path / "copy")


@pytest.mark.skipif(not shutil.which("dcmodify"), reason="dcmodify is missing: install dcmtk")
def test_filed_slide_is_copied_without_what_dcmtk_planted(home, tmp_path):
    paths = write_series(tmp_path / "series", tissue()[:700, :1000])
    for path in paths:
        planted = ["-i", f"(0010,4000)={NAME}", "-i", f"(0040,0512)={BARCODE}"]
        subprocess.run(["dcmodify", "-nb", *planted, path], check=True)
    arrival = receive(tmp_path / "series", home, spec=IntakeSpec(source="test"), barcode=BARCODE)
    folder = deidentify(arrival.slide_id, home, tmp_path / "copy")
    copies = sorted(folder.iterdir())
    assert len(copies) == 2
    assert not any(word.encode() in p.read_bytes() for p in copies for word in (FAMILY, BARCODE))
    check_series(copies)


def test_slides_without_labels_are_copied_too(data, tmp_path):
    source = data / "slides" / "synthetic" / "osp_boxes_dcm"
    (copy,) = copy_of(sorted(source.iterdir()), tmp_path / "copy")
    with openslide.OpenSlide(copy) as slide:
        assert slide.dimensions == (16, 16)
