"""A copy of a slide that names nobody: pyramid and scale only, pixels as they were.

The copy is built from what may stay, not cut down from what was there: levels, their stored
tiles byte for byte, mpp and magnification, colour profile. Label, macro and thumbnail images,
descriptions, dates and serial numbers are not taken along.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tifffile

from histo_nb.errors import SlideError, StorageError
from histo_nb.files import check_free_space, writing, writing_folder
from histo_nb.home import Home
from histo_nb.scanning.identity import identity_words

SHAPE_TOLERANCE = 0.02  # relative; levels round their size, label and macro differ by far more
ICC_PROFILE = 34675  # tag
JPEG = 7  # compression
SEARCH_CHUNK = 1 << 24  # bytes


def deidentify(slide_id: str, home: Home, target: Path) -> Path:
    """Write a copy of a slide without anything that names its patient; return its path.

    Parameters
    ----------
    target
        New file, or for a DICOM slide a new folder.

    Raises
    ------
    SlideError
        The format is not one whose every part is known: TIFF (SVS) and DICOM are.
    StorageError
        There is not enough space, or `target` cannot be written.
    """
    row = home.catalog.slide(slide_id)
    source, words = Path(row["slide_path"]), identity_words(home, slide_id)
    if target.exists():
        raise StorageError(f"{target} exists already; choose another name")
    check_free_space(target, row["n_bytes"])
    if source.suffix == ".dcm":
        from histo_nb.scanning.dicom.deidentify import deidentify_series  # noqa: PLC0415

        with writing_folder(target) as folder:
            own = home.catalog.slide_files([slide_id]).name
            deidentify_series(sorted(home.slides / name for name in own), folder)
            check_nameless(sorted(folder.iterdir()), words)
    elif source.suffix in (".svs", ".tif", ".tiff"):
        with writing(target) as file:
            copy_pyramid(source, file, mpp=row["slide_mpp"], power=row["objective_power"])
            check_nameless([file], words)
    else:
        raise SlideError(
            f"{slide_id} is a {source.suffix} slide; only SVS, TIFF and DICOM are de-identified: "
            "convert it first, for example with `histo-nb to-dicom`"
        )
    home.catalog.note("copy without identity", slide_id)
    return target


def copy_pyramid(source: Path, target: Path, *, mpp: float, power: float | None) -> None:
    """Copy the levels of a tiled TIFF, their stored tiles as they are, and nothing else."""
    with tifffile.TiffFile(source) as old, tifffile.TiffWriter(target, bigtiff=True) as new:
        first = old.pages[0]
        levels = [page for page in old.pages if _is_level(page, first)]
        if not first.is_tiled or not levels:
            raise SlideError(f"{source.name} is no tiled TIFF; convert it to DICOM first")
        aperio = first.description.startswith("Aperio")
        for page in levels:
            new.write(
                _segments(page),
                shape=page.shape,
                dtype=page.dtype,
                description=_description(page, aperio=aperio, mpp=mpp, power=power),
                resolution=(1e4 / mpp * page.imagewidth / first.imagewidth,) * 2,
                **_storage(page),
            )


def check_nameless(paths: Sequence[Path], words: Sequence[str]) -> None:
    """Raise `SlideError` if a word that names the patient stands anywhere in the files' bytes."""
    wanted = [w.encode(code) for w in words for code in ("utf-8", "utf-16-le", "utf-16-be")]
    longest = max(map(len, wanted), default=0)
    for path in paths:
        with path.open("rb") as file:
            kept = b""
            while chunk := file.read(SEARCH_CHUNK):
                if any(word in kept + chunk for word in wanted):
                    raise SlideError(
                        "the copy still holds a name or barcode and was not kept; "
                        "do not pass this slide on, and report it"
                    )
                kept = chunk[-longest:] if longest else b""


def _is_level(page: Any, first: Any) -> bool:
    named = any(word in page.description[:400].lower() for word in ("label", "macro"))
    shrunk = page.imagewidth <= first.imagewidth and page.samplesperpixel == first.samplesperpixel
    if named or not page.is_tiled or not shrunk:
        return False
    aspect = page.imagewidth * first.imagelength / (page.imagelength * first.imagewidth)
    a_pixel = 2 / min(page.imagewidth, page.imagelength)
    return abs(aspect - 1) <= max(SHAPE_TOLERANCE, a_pixel)


def _segments(page: Any) -> Iterator[bytes]:
    handle = page.parent.filehandle
    for offset, n_bytes in zip(page.dataoffsets, page.databytecounts, strict=True):
        handle.seek(offset)
        yield handle.read(n_bytes)


def _storage(page: Any) -> dict[str, Any]:
    """Return how the stored tiles are to be read: codec, colour, tables, profile."""
    profile = page.tags.get(ICC_PROFILE)
    colours = {"outcolorspace": page.photometric}  # else the writer says YCbCr of every JPEG
    return {
        "photometric": page.photometric,
        "compression": page.compression,
        "compressionargs": colours if page.compression == JPEG else None,
        "planarconfig": page.planarconfig,
        "predictor": page.predictor if page.predictor > 1 else None,
        "tile": (page.tilelength, page.tilewidth),
        "jpegtables": page.jpegtables,
        "subsampling": page.subsampling,
        "subfiletype": page.subfiletype,
        "resolutionunit": "CENTIMETER",
        "iccprofile": profile.value if profile else None,
        "metadata": None,
        "software": False,
    }


def _description(page: Any, *, aperio: bool, mpp: float, power: float | None) -> str | None:
    if not aperio:
        return None
    size = f"{page.imagewidth}x{page.imagelength}"
    facts = f"|MPP = {mpp:g}" + (f"|AppMag = {power:g}" if power else "")
    return (
        f"Aperio Image Library\r\n{size} [0,0 {size}] ({page.tilewidth}x{page.tilelength}){facts}"
    )
