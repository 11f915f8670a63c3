"""Converts a TIFF or SVS slide to a DICOM series: the same tiles in another envelope.

Done by wsidicomizer, which takes JPEG tiles as they are. What it would compress anew is refused:
nobody asked for other pixels. Label, macro and thumbnail images stay behind.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from pydicom import config

from histo_nb.errors import HistoError, SlideError
from histo_nb.files import check_free_space, writing_folder
from histo_nb.slide import Slide

JPEG, JPEG_2000 = 7, (33003, 33004, 33005, 34712)  # TIFF compression
SAMPLES, SAMPLE_PX = 8, 256  # squares compared a level, and their side
NO_TURBOJPEG = (
    "libturbojpeg is missing, without which slides are not converted to DICOM; install it "
    "(Debian, Ubuntu: apt-get install libturbojpeg0; macOS: brew install jpeg-turbo) or name its "
    "folder in the environment variable TURBOJPEG"
)


def to_dicom(slide_path: Path, folder: Path) -> Path:
    """Write a slide's levels as a DICOM series into a new folder; return the folder.

    The series says mpp and magnification as the slide does, and nothing of whom it shows. It is
    opened and compared with the slide before it gets its name.

    Raises
    ------
    SlideError
        The slide is no TIFF with JPEG tiles, or what came out differs from it.
    MppError
        It states no usable mpp.
    HistoError
        The library libturbojpeg is missing.
    StorageError
        There is not enough space, or `folder` exists already.
    """
    slide_path, folder = Path(slide_path), Path(folder)
    with Slide(slide_path) as slide:
        mpp, power = slide.slide_mpp, slide.objective_power
        _check_compression(slide_path)
        convert = _load_converter()
        with writing_folder(folder) as fresh:
            check_free_space(fresh, slide_path.stat().st_size)
            _convert(convert, slide_path, fresh, power)
            _check_same(slide, fresh, mpp)
    return folder


def _check_compression(path: Path) -> None:
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages[0]
            compression, is_tiled = int(page.compression), bool(page.is_tiled)
    except (tifffile.TiffFileError, IndexError, ValueError) as error:
        raise SlideError(
            f"{path.name} is no TIFF or SVS slide; only those are converted to DICOM"
        ) from error
    if compression in JPEG_2000:
        raise SlideError(
            f"{path.name} has JPEG 2000 tiles, which the converter would label as JPEG: no reader "
            "would open them; export the slide with JPEG tiles"
        )
    if compression != JPEG or not is_tiled:
        raise SlideError(
            f"{path.name} has no JPEG tiles (TIFF compression {compression}); they would be "
            "compressed anew, with other pixels: export the slide with JPEG tiles"
        )


def _load_converter() -> Any:
    strict = config.enforce_valid_values
    try:
        from wsidicomizer import WsiDicomizer  # noqa: PLC0415 - it looks for libturbojpeg
    except (ImportError, RuntimeError, OSError) as error:
        raise HistoError(NO_TURBOJPEG) from error
    finally:
        config.enforce_valid_values = strict  # it makes pydicom strict for the whole process
    return WsiDicomizer.convert


def _convert(convert: Any, path: Path, folder: Path, power: float | None) -> None:
    def add_power(dataset: Any, _: Any) -> Any:
        for optics in dataset.get("OpticalPathSequence", []) if power else []:
            optics.ObjectiveLensPower = power
        return dataset

    try:
        convert(
            path,
            folder,
            include_label=False,
            include_overview=False,
            include_thumbnail=False,
            include_confidential=False,
            metadata_post_processor=add_power,
            offset_table="bot" if path.stat().st_size < 1 << 31 else "eot",
            workers=1,
        )
    except Exception as error:  # what it meets in a file, it raises as it comes
        if "turbojpeg" in str(error).lower():
            raise HistoError(NO_TURBOJPEG) from error
        if isinstance(error, OSError) and error.errno:  # of the disk
            raise
        raise SlideError(
            f"{path.name} is not converted to DICOM: the converter stops with "
            f"{type(error).__name__}; export the slide as SVS or as tiled TIFF with JPEG tiles"
        ) from error


def _check_same(slide: Slide, folder: Path, mpp: float) -> None:
    """Raise unless a series shows what the slide does, by a sample of each level."""
    with Slide(min(folder.glob("*.dcm"))) as copy:
        same = slide.level_sizes == copy.level_sizes and abs(copy.slide_mpp / mpp - 1) < 1e-3
        if not same or not all(
            _squares_agree(slide, copy, i) for i in range(len(copy.level_sizes))
        ):
            raise SlideError(
                f"{slide.path.name} is not converted to DICOM: what came out differs from it; "
                "export the slide as SVS with JPEG tiles"
            )


def _squares_agree(slide: Slide, copy: Slide, level: int) -> bool:
    rng = random.Random(level)
    right, bottom = (max(side - SAMPLE_PX, 0) for side in slide.size)
    for _ in range(SAMPLES):
        x, y, size = rng.randint(0, right), rng.randint(0, bottom), (SAMPLE_PX, SAMPLE_PX)
        true, found = (s.read_region(x, y, level=level, size=size) for s in (slide, copy))
        if not np.array_equal(true, found):
            return False
    return True
