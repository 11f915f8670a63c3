"""Which slides a cohort is of: those of the catalogue, of a folder, or of a table."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.errors import CatalogAwayError, CatalogError, MppError, SlideError, TableError
from histo_nb.home import Home
from histo_nb.scanning.fileset import find_slides, gather
from histo_nb.scanning.intake import Arrival, IntakeSpec, fingerprint, receive

TABLES = (".csv", ".parquet")
KNOWN = ("slide_id", "path", "patient_id", "slide_mpp")  # columns of a table


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One slide that was asked for: by name, or by its file and what is known of it."""

    slide_id: str | None = None
    path: Path | None = None
    spec: IntakeSpec = field(default_factory=IntakeSpec)


def find_cohort(
    home: Home, sources: Sequence[str], *, stop: threading.Event | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """Return the slides that sources name; files that are not in the catalogue yet are taken in.

    Parameters
    ----------
    sources
        Names of slides, slide files, folders with slides below them, and tables (.csv, .parquet)
        with a column `slide_id`, or `path` (relative to the table) and maybe `patient_id` and
        `slide_mpp`. None at all: all slides of the catalogue.
    stop
        No more files are taken in once it is set.

    Returns
    -------
    Their ids, each once, in the order named, and `slide_id, step, error` of what was refused.

    Raises
    ------
    CatalogError
        A named slide is not in the catalogue, or there is none at all.
    TableError
        A table cannot be read, or has no such columns.
    """
    if not sources:
        return home.catalog.slides().slide_id.tolist(), []
    entries = [entry for source in sources for entry in _expand(source)]
    if not entries:
        raise CatalogError(f"no slides in {', '.join(sources)}; give another folder or table")
    if named := [entry.slide_id for entry in entries if entry.slide_id]:
        home.catalog.slides(named)  # all must be there before any file is taken in
    found, refused = [], []
    files = [entry for entry in entries if entry.path]
    with tqdm(total=len(files), desc="intake", unit="slide", disable=not files) as bar:
        for number, entry in enumerate(entries, 1):
            if stop and stop.is_set():
                break
            if entry.path is None:
                found.append(str(entry.slide_id))
                continue
            arrival = _enter(entry, home, number=number)
            bar.update()
            if arrival.slide_id:
                found.append(arrival.slide_id)
            else:
                refused.append(
                    {
                        "slide_id": arrival.quarantine_id,
                        "step": arrival.step or "files",
                        "error": _unnamed(arrival.reason, entry.path),
                    }
                )
    return list(dict.fromkeys(found)), refused


def _expand(source: str) -> Iterator[Entry]:
    path = Path(source)
    if path.is_dir():
        yield from (Entry(path=file) for file in find_slides(path))
    elif path.suffix.lower() in TABLES:
        yield from _read_entries(path)
    elif path.is_file():
        yield Entry(path=path)
    else:
        yield Entry(slide_id=source)


def _read_entries(path: Path) -> list[Entry]:
    try:
        is_text = path.suffix.lower() == ".csv"
        table = pd.read_csv(path, dtype=str) if is_text else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise TableError(
            f"{path} cannot be read as a table ({error}); give .csv or .parquet"
        ) from error
    unknown = [name for name in table.columns if name not in KNOWN]
    if unknown or not {"slide_id", "path"} & set(table.columns):
        raise TableError(
            f"{path} has the columns {', '.join(map(str, table.columns))}; a cohort's table has "
            "slide_id, or path and maybe patient_id and slide_mpp, and no others"
        )
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return [_read_entry(row, path) for row in rows]


def _read_entry(row: dict[Any, Any], table: Path) -> Entry:
    if row.get("slide_id"):
        if row.get("patient_id") or row.get("slide_mpp"):
            raise TableError(
                f"{table} gives slide {row['slide_id']} a patient_id or slide_mpp, which belong to "
                "a path; leave them out, or change them with `histo-nb correct`"
            )
        return Entry(slide_id=str(row["slide_id"]))
    if not row.get("path"):
        raise TableError(f"{table} has a row with neither slide_id nor path; fill it in")
    try:
        mpp = float(row["slide_mpp"]) if row.get("slide_mpp") else None
        patient = str(row["patient_id"]) if row.get("patient_id") else None
        spec = IntakeSpec(patient_id=patient, slide_mpp=mpp)
    except MppError as error:
        raise TableError(f"{table}: {error}") from error
    except ValueError as error:
        raise TableError(f"{table}: slide_mpp={row['slide_mpp']!r} is no number") from error
    return Entry(path=table.parent / str(row["path"]), spec=spec)


def _enter(entry: Entry, home: Home, *, number: int) -> Arrival:
    """Take in a file, unless it is known as it is; of its name nothing is said."""
    assert entry.path
    try:
        return _find_known(entry, home) or receive(entry.path, home, spec=entry.spec)
    except CatalogAwayError:
        raise
    except (SlideError, CatalogError, OSError) as error:
        name = f"file {number}"
        if isinstance(error, OSError):
            error = SlideError(f"{name} cannot be read ({error.strerror}); look at its disk")
        return Arrival(quarantine_id=name, reason=str(error), step="files", new=False)


def _unnamed(reason: str | None, path: Path) -> str:
    """Return a reason without the names of a file and its folder."""
    said = (reason or "").replace(str(path), "the file").replace(path.name, "the file")
    return said.replace(path.parent.name, "its folder") if path.parent.name else said


def _find_known(entry: Entry, home: Home) -> Arrival | None:
    """Return what became of a file when it was looked at before, without copying it again."""
    assert entry.path
    try:
        signature = gather(entry.path).signature()
    except (SlideError, OSError):
        return None
    slide_id = home.catalog.find_arrival(fingerprint(home, signature))
    if slide_id is None:
        return None
    if not home.catalog.has_slide(slide_id):  # what is known of it now may let it in
        return _find_refused(home, slide_id) if entry.spec == IntakeSpec() else None
    row = home.catalog.slide(slide_id)
    given = {"patient_id": entry.spec.patient_id, "slide_mpp": entry.spec.slide_mpp}
    same = all(value in (None, row[name]) for name, value in given.items())
    return (
        Arrival(slide_id=slide_id, new=False) if same and Path(row["slide_path"]).exists() else None
    )


def _find_refused(home: Home, quarantine_id: str) -> Arrival | None:
    """Return why a file was refused before, if it lies in quarantine still."""
    refusals = home.catalog.refusals()
    for row in refusals[refusals.quarantine_id == quarantine_id].to_dict("records"):
        return Arrival(
            quarantine_id=quarantine_id, reason=row["reason"], step=row["step"], new=False
        )
    return None
