"""The four objects of a slide's result, in a folder of their own."""

from pathlib import Path

from pydicom import dcmwrite

from histo_nb.errors import SlideError
from histo_nb.export.dicom.annotations import make_annotations
from histo_nb.export.dicom.job import open_job, settle
from histo_nb.export.dicom.segmentation import make_heatmap_segmentation, make_region_segmentation
from histo_nb.export.dicom.structured import make_report_document
from histo_nb.files import sync, writing_folder
from histo_nb.home import Home

MAKERS = {
    "heatmap": make_heatmap_segmentation,
    "regions": make_region_segmentation,
    "annotations": make_annotations,
    "report": make_report_document,
}


def write_dicom_results(
    home: Home, slide_id: str, folder: Path, *, source: Path | None = None
) -> list[Path]:
    """Write a slide's latest result as DICOM objects into a new folder; return their paths.

    They refer to the slide's own series and name nobody. The same result of the same series gives
    the same bytes and the same UIDs.

    Parameters
    ----------
    source
        Folder of a series that `histo-nb to-dicom` wrote, of a slide that is no DICOM itself.

    Raises
    ------
    CatalogError
        There is no such slide, or it was not analysed.
    SlideError
        There is no DICOM series to refer to, or it shows another slide.
    StorageError
        `folder` exists already, or cannot be written.
    """
    job, folder = open_job(home, slide_id, source=source), Path(folder)
    with writing_folder(folder) as fresh:
        for name, make in MAKERS.items():
            path = fresh / f"{name}.dcm"
            try:
                made = settle(make(job), job, name)
                dcmwrite(path, made, enforce_file_format=True)
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                raise SlideError(
                    f"the {name} of {slide_id} cannot be said in DICOM ({type(error).__name__}); "
                    "analyse the slide again, or take another export"
                ) from error
            sync(path)
    return [folder / f"{name}.dcm" for name in MAKERS]
