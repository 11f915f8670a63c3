"""Which files make one slide: one file, or a format's main file with its companions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from histo_nb.errors import IncompleteError, SlideError
from histo_nb.scanning.dicom.series import group_series

TIFF_SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".qptiff", ".svslide")
SUFFIXES = (*TIFF_SUFFIXES, ".mrxs", ".vms", ".dcm")
MAX_INI_BYTES = 1 << 20  # of Slidedat.ini and .vms; real ones have some 50 kB


@dataclass(frozen=True)
class FileSet:
    """All files of one slide; `names` is how each is called in the home, below one folder.

    The names tell nothing of the original ones, which may name a patient. Only the companions of
    a VMS slide keep theirs, since its main file refers to them.
    """

    main: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]

    @property
    def main_name(self) -> str:
        """The main file's name in the home."""
        return self.names[self.files.index(self.main)]

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.files)

    def signature(self) -> tuple[tuple[str, int, int, int], ...]:
        """Return place, size, time and inode of each file: what changes when someone writes."""
        facts = ((path, path.stat()) for path in self.files)
        return tuple((str(p), s.st_size, s.st_mtime_ns, s.st_ino) for p, s in facts)


def gather(path: Path) -> FileSet:
    """Return the files of the slide that `path` (its main file, or a DICOM folder) belongs to.

    Raises
    ------
    SlideError
        There is no such file, or what lies there cannot be read.
    IncompleteError
        A companion that the main file names is not there.
    """
    try:
        return _gather(Path(path))
    except FileNotFoundError as error:
        raise IncompleteError(f"{Path(path).name} or a file of it went away just now") from error
    except OSError as error:
        raise SlideError(
            f"{Path(path).name} or a file that it names cannot be read ({error.strerror}); "
            "look at its permissions and its disk, or copy it again"
        ) from error


def _gather(path: Path) -> FileSet:
    if path.is_dir():
        return _dicom_series(path, None)
    if not path.is_file():
        raise SlideError(f"{path} does not exist; check the name, or copy it again")
    suffix = path.suffix.lower()
    if suffix == ".mrxs":
        return _mirax(path)
    if suffix == ".vms":
        return _hamamatsu(path)
    if suffix == ".dcm":
        return _dicom_series(path.parent, path)
    return single(path)


def single(path: Path) -> FileSet:
    """Return a set of one file, under a name that tells nothing."""
    suffix = path.suffix.lower()
    return FileSet(path, (path,), (f"slide{suffix if suffix in SUFFIXES else ''}",))


def find_slides(folder: Path) -> Iterator[Path]:
    """Yield the main file of each slide below a folder, in the order of their names."""
    series: set[Path] = set()  # folders whose DICOM files were told already
    for path in sorted(folder.rglob("*")):
        if path.name.startswith(".") or not path.is_file():
            continue
        suffix = path.suffix.lower()
        if suffix == ".dcm" and path.parent not in series:
            series.add(path.parent)
            yield from series_mains(path.parent)
        elif suffix in SUFFIXES and suffix != ".dcm":
            yield path


def _mirax(path: Path) -> FileSet:
    folder = path.with_suffix("")
    if not (folder / "Slidedat.ini").is_file():
        raise IncompleteError(
            f"{path.name} lacks its folder with Slidedat.ini and the data files; "
            "copy the .mrxs file together with the folder of the same name"
        )
    listed = re.findall(r"^\s*(?:FILE_\d+|INDEXFILE)\s*=\s*(.+?)\s*$", _ini(folder, "Slidedat.ini"),
                        re.MULTILINE)  # fmt: skip
    _check_there(path, folder, listed)
    companions = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [f"slide/{p.relative_to(folder).as_posix()}" for p in companions]
    return FileSet(path, (path, *companions), ("slide.mrxs", *names))


def _hamamatsu(path: Path) -> FileSet:
    text = _ini(path.parent, path.name)
    listed = re.findall(
        r"^\s*(?:ImageFile(?:\(.*?\))?|MapFile|OptimisationFile|MacroImage)\s*=\s*(.+?)\s*$",
        text,
        re.MULTILINE,
    )
    if not listed:
        raise SlideError(f"{path.name} lists no images; it is no Hamamatsu VMS slide")
    _check_there(path, path.parent, listed)
    names = list(dict.fromkeys(listed))
    return FileSet(path, (path, *(path.parent / n for n in names)), ("slide.vms", *names))


def series_mains(folder: Path) -> list[Path]:
    """Return the first file of each DICOM series in a folder."""
    return sorted(min(paths) for paths in group_series(folder).values())


def _dicom_series(folder: Path, path: Path | None) -> FileSet:
    series = [sorted(paths) for paths in group_series(folder).values()]
    wanted = [paths for paths in series if path is None or path in paths]
    if path is not None and not wanted:  # it says nothing of itself: the checks will say why
        return single(path)
    if len(wanted) != 1:
        raise SlideError(
            f"{folder.name} holds {len(wanted)} DICOM series; name one folder with one series, "
            "or one .dcm file of it"
        )
    (files,) = wanted
    names = tuple(f"{number:04d}.dcm" for number in range(1, len(files) + 1))
    return FileSet(files[0], tuple(files), names)


def _ini(folder: Path, name: str) -> str:
    path = folder / name
    if path.stat().st_size > MAX_INI_BYTES:
        raise SlideError(f"{name} has {path.stat().st_size:,} bytes; it is no list of files")
    return path.read_text(encoding="utf-8-sig", errors="surrogateescape")


def _check_there(path: Path, folder: Path, listed: list[str]) -> None:
    outside = [name for name in listed if "/" in name or "\\" in name]
    if outside:
        raise SlideError(f"{path.name} names files outside its folder; it is not taken")
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise IncompleteError(
            f"{path.name} lacks {len(missing)} of its {len(listed)} files; "
            "copy all of them, with the main file last"
        )
