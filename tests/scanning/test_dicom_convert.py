"""SVS to DICOM and back through OpenSlide: the same pixels, without label and macro."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from damage import write_slide
from glasses import PlaneGlass, waves
from turbojpeg_there import needs_turbojpeg

from histo_nb.errors import HistoError, MppError, SlideError, StorageError
from histo_nb.scanning.dicom.convert import NO_TURBOJPEG, to_dicom
from histo_nb.scanning.dicom.series import check_instance, check_scale, check_series
from histo_nb.scanning.drivers import ScanSpec
from histo_nb.scanning.virtual.scanner import write_scan

NAME = "MUSTERMANN-ERIKA"


@pytest.fixture(scope="module")
def scan(tmp_path_factory) -> Path:
    """A file of the virtual scanner, with a name on its label."""
    glass = PlaneGlass(waves(1500, 1100), patient_id=NAME)
    return write_scan(glass, tmp_path_factory.mktemp("scan") / f"{NAME}.svs", spec=ScanSpec())


def read_level(slide: openslide.OpenSlide, level: int) -> np.ndarray:
    size = slide.level_dimensions[level]
    return np.asarray(slide.read_region((0, 0), level, size).convert("RGB"))


def check_same(source: Path, folder: Path) -> None:
    with openslide.OpenSlide(source) as slide, openslide.OpenSlide(min(folder.iterdir())) as copy:
        assert copy.properties["openslide.vendor"] == "dicom"
        assert copy.level_dimensions == slide.level_dimensions
        assert float(copy.properties["openslide.mpp-x"]) == pytest.approx(
            float(slide.properties["openslide.mpp-x"])
        )
        assert float(copy.properties["openslide.objective-power"]) == float(
            slide.properties["openslide.objective-power"]
        )
        assert not copy.associated_images
        for level in range(slide.level_count):
            assert np.array_equal(read_level(copy, level), read_level(slide, level))


@needs_turbojpeg
def test_scan_is_the_same_in_dicom_and_names_nobody(scan, tmp_path):
    folder = to_dicom(scan, tmp_path / "series")
    check_same(scan, folder)
    files = sorted(folder.iterdir())
    check_series(files)
    check_scale(files)
    for path in files:
        check_instance(path)
        assert NAME.encode() not in path.read_bytes()
    assert list(tmp_path.iterdir()) == [folder]


@needs_turbojpeg
def test_aperio_slide_is_the_same_in_dicom(data, tmp_path):
    source = data / "slides" / "real" / "CMU-1-Small-Region.svs"
    check_same(source, to_dicom(source, tmp_path / "series"))


@needs_turbojpeg
def test_jpeg_2000_is_mislabelled_by_the_converter_still(tmp_path):
    """The day this fails, `to_dicom` may take JPEG 2000."""
    from wsidicomizer import WsiDicomizer  # noqa: PLC0415 - needs libturbojpeg

    source = write_slide(tmp_path / "a.svs", "JPEG 2000")
    files = WsiDicomizer.convert(source, tmp_path / "out", include_label=False,
                                 include_overview=False, include_thumbnail=False)  # fmt: skip
    with pytest.raises(openslide.OpenSlideError):
        openslide.OpenSlide(files[0])


@pytest.mark.parametrize(
    ("codec", "words"),
    [("JPEG 2000", "JPEG 2000 tiles"), ("LZW", "no JPEG tiles"), ("uncompressed", "no JPEG tiles")],
)
def test_what_would_be_compressed_anew_is_refused(tmp_path, codec, words):
    source = write_slide(tmp_path / "a.svs", codec)
    with pytest.raises(SlideError, match=words):
        to_dicom(source, tmp_path / "series")
    assert list(tmp_path.iterdir()) == [source]


def test_slide_without_scale_is_refused(data, tmp_path):
    source = data / "slides" / "real" / "TCGA-CR-7395-01A-01-TS1.svs"
    with pytest.raises(MppError):
        to_dicom(source, tmp_path / "series")


@needs_turbojpeg
def test_folder_that_exists_is_left_alone(scan, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(StorageError):
        to_dicom(scan, tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@needs_turbojpeg
def test_failed_conversion_leaves_nothing(scan, tmp_path):
    broken = tmp_path / "broken.svs"
    content = bytearray(scan.read_bytes())
    place = content.index(b"\xff\xd8\xff", len(content) // 3)  # start of a tile
    content[place : place + 4000] = b"\xff" * 4000
    broken.write_bytes(content)
    with pytest.raises(SlideError):
        to_dicom(broken, tmp_path / "series")
    assert list(tmp_path.iterdir()) == [broken]


def test_missing_library_is_named_with_the_way_out(scan, tmp_path):
    """In a process whose loader finds no libturbojpeg."""
    code = f"""
import ctypes.util
import turbojpeg
ctypes.util.find_library = lambda name: None
turbojpeg.DEFAULT_LIB_PATHS.clear()
from pathlib import Path
from histo_nb.errors import HistoError
from histo_nb.scanning.dicom.convert import to_dicom
try:
    to_dicom(Path({str(scan)!r}), Path({str(tmp_path / "series")!r}))
except HistoError as error:
    print(error)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == NO_TURBOJPEG, ran.stderr
    assert not list(tmp_path.iterdir())
    assert issubclass(SlideError, HistoError)
