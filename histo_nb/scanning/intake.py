"""The intake desk, one for all directions: a slide enters whole and once, or lies in quarantine.

A slide is copied into a staging folder while it is hashed; the checks look at that copy, so that
what was checked is what is kept. Then one rename and one transaction file it; whatever moment the
process is killed at, the next intake of the same file ends as if nothing had happened.
"""

import errno
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
from tqdm.auto import tqdm

from histo_nb.annotations import Annotation, write_geojson
from histo_nb.errors import CatalogError, HistoError, IncompleteError, SlideError, SpecError
from histo_nb.files import (
    check_free_space,
    copy_hashed,
    hash_content,
    publish,
    staging,
    storage_errors,
    write_json,
)
from histo_nb.geometry import check_slide_mpp
from histo_nb.home import Home
from histo_nb.scanning.fileset import FileSet, find_slides, gather, single
from histo_nb.scanning.identity import forget_identity, kept_facts, put_identity, tag
from histo_nb.scanning.probe import Verify, probe_slide

REASON = "reason.json"


@dataclass(frozen=True, kw_only=True)
class IntakeSpec:
    """What is known of a slide beside its file, and how closely it is looked at."""

    source: str = "file"  # direction it came from, as the catalogue says it
    patient_id: str | None = None  # a pseudonym; None = unknown
    slide_mpp: float | None = None  # µm/px of level 0 where the file is silent or wrong
    verify: Verify = "sample"  # or "full": decode every tile
    allow_black: bool = False  # an uncompressed slide that really has black areas

    def __post_init__(self) -> None:
        if self.verify not in get_args(Verify):
            raise SpecError(f"verify={self.verify!r} must be one of {get_args(Verify)}")
        if self.slide_mpp is not None:
            check_slide_mpp(self.slide_mpp, where="the value given")


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """What became of a slide: filed under `slide_id`, or refused under `quarantine_id`."""

    slide_id: str | None = None
    quarantine_id: str | None = None
    reason: str | None = None  # of the refusal; names the file by its quarantine_id
    step: str | None = None  # check that refused it
    new: bool = True  # False: these bytes were filed before


def receive(
    path: Path,
    home: Home,
    *,
    spec: IntakeSpec | None = None,
    truth: Sequence[Annotation] = (),
    barcode: str | None = None,
) -> Arrival:
    """Take in one slide with all its files; a bad one goes to quarantine. The originals stay.

    The `slide_id` is made from the content, never from a name or a barcode. A slide whose bytes
    are there already is not filed twice.

    Parameters
    ----------
    path
        Its main file, or the folder of a DICOM series.
    truth
        Outlines of a virtual slide in level-0 px.
    barcode
        As the scanner read it; goes to the identity store only.

    Raises
    ------
    SlideError
        There is no such file.
    IncompleteError
        It changed while it was copied; nothing is kept.
    CatalogError
        It was filed before with another patient or mpp than those given now.
    StorageError
        There is not enough space; nothing is kept.
    """
    spec = spec or IntakeSpec()
    broken: SlideError | None = None
    try:
        fileset = gather(Path(path))
    except SlideError as error:
        if not os.path.isfile(path):  # noqa: PTH113 - a name too long for one is none
            raise
        fileset, broken = single(Path(path)), error
    with staging(home.staging) as folder:
        before = _signature(fileset)
        files = _copy(fileset, folder / "slide", home)
        if _signature(fileset) != before:
            raise IncompleteError(f"{fileset.main.name} changed while it was copied; wait for it")
        job = _Job(home, spec, fileset, folder, files)
        arrival = _known(job) or _examine(job, broken, truth=truth, barcode=barcode)
    # of what was copied: who replaces the file from here on brings another slide
    home.catalog.put_arrival(
        fingerprint(home, before), arrival.slide_id or arrival.quarantine_id or ""
    )
    return arrival


def fingerprint(home: Home, signature: object) -> str:
    """Return what stands for `FileSet.signature` in the catalogue's `arrivals`."""
    return tag(home, json.dumps(signature))


def take_in(
    paths: Sequence[Path], home: Home, *, spec: IntakeSpec | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Take in slides from disk, folders with all slides below them.

    Returns
    -------
    Catalogue rows of the accepted slides, and `(slide_id, step, error)` of the refused files,
    where `slide_id` is the name in quarantine.
    """
    accepted: list[str] = []
    refused: list[dict[str, str | None]] = []
    for path in tqdm(_expand(paths), desc="intake", unit="slide"):
        try:
            arrival = receive(path, home, spec=spec)
        except (SlideError, CatalogError) as trouble:
            refused.append({"slide_id": path.name, "step": "files", "error": str(trouble)})
            continue
        if arrival.slide_id:
            accepted.append(arrival.slide_id)
            continue
        name = arrival.quarantine_id
        error = (arrival.reason or "").replace(str(name), path.name)
        refused.append({"slide_id": name, "step": arrival.step, "error": error})
    rows = home.catalog.slides(accepted) if accepted else pd.DataFrame()
    return rows, pd.DataFrame(refused, columns=["slide_id", "step", "error"])


def release(quarantine_id: str, home: Home, *, spec: IntakeSpec | None = None) -> Arrival:
    """Examine a refused slide again with what is known by now; it leaves quarantine if it passes.

    Raises
    ------
    CatalogError
        There is no such slide in quarantine.
    """
    waiting = home.catalog.refusals()
    rows = waiting[waiting.quarantine_id == quarantine_id].to_dict("records")
    folder = home.quarantine / quarantine_id
    main = _main_file(folder)
    if not rows or main is None:
        raise CatalogError(f"no slide {quarantine_id} in quarantine; see `histo-nb quarantine`")
    spec = spec or IntakeSpec()
    patient_id = spec.patient_id or rows[0]["patient_id"]
    spec = replace(spec, source=str(rows[0]["source"]), patient_id=patient_id)
    arrival = receive(main, home, spec=spec, barcode=kept_facts(home, quarantine_id).get("barcode"))
    if arrival.slide_id:
        home.catalog.release(quarantine_id, arrival.slide_id)
        shutil.rmtree(folder, ignore_errors=True)
        forget_identity(home, quarantine_id)
    return arrival


def correct_slide(
    slide_id: str, home: Home, *, patient_id: str | None = None, slide_mpp: float | None = None
) -> None:
    """Correct a slide's patient or mpp in the catalogue; None leaves it as it is.

    Raises
    ------
    SpecError
        Nothing to correct was given.
    MppError
        `slide_mpp` is absurd.
    """
    values: dict[str, Any] = {"patient_id": patient_id} if patient_id else {}
    if slide_mpp is not None:
        slide_mpp = check_slide_mpp(slide_mpp, where=f"the value given for {slide_id}")
        values |= {"slide_mpp": slide_mpp, "mpp_source": "given"}
    if not values:
        raise SpecError("nothing to correct was given; say --patient or --slide-mpp")
    home.catalog.correct(slide_id, **values)


# --------------------------------------------------------------------------------- inside
@dataclass(frozen=True)
class _Job:
    home: Home
    spec: IntakeSpec
    fileset: FileSet
    folder: Path  # staging; the copies lie in its `slide`
    files: list[dict[str, Any]]  # name, sha256, n_bytes

    @property
    def sha256(self) -> str:
        """Of the one file, or of the names and hashes of all."""
        if len(self.files) == 1:
            return str(self.files[0]["sha256"])
        return hash_content([[file["name"], file["sha256"]] for file in self.files])

    @property
    def is_one_file(self) -> bool:
        """Filed as one file; DICOM never: OpenSlide looks through the folder it lies in."""
        return len(self.files) == 1 and self.main.suffix != ".dcm"

    @property
    def paths(self) -> list[Path]:
        return [self.folder / "slide" / file["name"] for file in self.files]

    @property
    def main(self) -> Path:
        return self.folder / "slide" / self.fileset.main_name


def _expand(paths: Sequence[Path]) -> list[Path]:
    slides: list[Path] = []
    for path in map(Path, paths):
        is_folder = os.path.isdir(path)  # noqa: PTH112 - a name too long for one is none
        slides += find_slides(path) if is_folder else [path]
    return slides


def _signature(fileset: FileSet) -> object:
    try:
        return fileset.signature()
    except OSError as error:
        raise IncompleteError(f"{fileset.main.name} went away while it was taken in") from error


def _copy(fileset: FileSet, folder: Path, home: Home) -> list[dict[str, Any]]:
    check_free_space(home.slides, fileset.n_bytes)
    files = []
    for source, name in zip(fileset.files, fileset.names, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            sha256 = copy_hashed(source, target)
        except FileNotFoundError as error:
            raise IncompleteError(f"{source.name} went away while it was taken in") from error
        except OSError as error:
            if error.errno != errno.EIO and os.access(source, os.R_OK):
                raise  # the copy cannot be written
            raise SlideError(
                f"{source.name} cannot be read ({error.strerror}); look at its permissions and "
                "its disk, then take it in again"
            ) from error
        files.append({"name": name, "sha256": sha256, "n_bytes": target.stat().st_size})
    return files


def _known(job: _Job) -> Arrival | None:
    slide_id = job.home.catalog.find_hash(job.sha256)
    if slide_id is None:
        return None
    row = job.home.catalog.slide(slide_id)
    if row["patient_id"] is None and job.spec.patient_id:
        correct_slide(slide_id, job.home, patient_id=job.spec.patient_id)
        row = job.home.catalog.slide(slide_id)
    for name in ("patient_id", "slide_mpp"):
        given = getattr(job.spec, name)
        if given is not None and given != row[name]:
            raise CatalogError(
                f"{job.fileset.main.name} was filed before as {slide_id} with {name}={row[name]}, "
                f"now {name}={given} was given; change it with `histo-nb correct {slide_id}`"
            )
    _restore(job, slide_id)
    return Arrival(slide_id=slide_id, new=False)


def _restore(job: _Job, slide_id: str) -> None:
    """Bring a stored slide back from these same bytes if it is damaged or gone."""
    home = job.home
    kept = home.catalog.slide_files([slide_id])
    whole = kept.damage.isna().all() and all((home.slides / name).is_file() for name in kept.name)
    if whole:
        return
    with storage_errors(home.slides):
        target = _put_in_place(job, slide_id)
    for file in _filed_names(job, target, home):
        home.catalog.note_verified(slide_id, file["name"], damage=None)
    home.catalog.note("slide brought back", slide_id)


def _examine(
    job: _Job, broken: SlideError | None, *, truth: Sequence[Annotation], barcode: str | None
) -> Arrival:
    identity = job.folder / "identity"
    identity.mkdir()
    words = {"file_name": _original_name(job), "barcode": barcode}
    try:
        if broken:
            raise broken
        facts = probe_slide(
            job.main,
            tuple(job.paths),
            slide_mpp=job.spec.slide_mpp,
            verify=job.spec.verify,
            allow_black=job.spec.allow_black,
            identity=identity,
        )
    except SlideError as error:
        return _refuse(job, error, identity, words)
    return _file(job, facts, identity, words, truth)


def _file(
    job: _Job,
    facts: dict[str, Any],
    identity: Path,
    words: dict[str, Any],
    truth: Sequence[Annotation],
) -> Arrival:
    home, slide_id = job.home, _free_id(job)
    truth_path = home.truth / f"{slide_id}.geojson" if truth else None
    with storage_errors(home.slides):
        put_identity(home, slide_id, identity, words)
        if truth_path:
            publish(write_geojson(list(truth), job.folder / "truth.geojson"), truth_path)
        target = _put_in_place(job, slide_id)
    main = target if job.is_one_file else target / job.fileset.main_name
    row = {
        "slide_id": slide_id,
        "patient_id": job.spec.patient_id,
        "slide_path": str(main),
        "sha256": job.sha256,
        "n_bytes": sum(file["n_bytes"] for file in job.files),
        **facts,
        "mpp_source": "file" if job.spec.slide_mpp is None else "given",
        "source": job.spec.source,
        "truth_path": str(truth_path) if truth_path else None,
    }
    try:
        home.catalog.add_slide(row, _filed_names(job, target, home))
    except HistoError:
        if home.catalog.find_hash(job.sha256):  # another process filed the same bytes just now
            return Arrival(slide_id=slide_id, new=False)
        raise
    return Arrival(slide_id=slide_id)


def _free_id(job: _Job) -> str:
    """Return the slide's name: the start of its hash, longer where another slide's is the same."""
    names = (f"S-{job.sha256[:digits]}" for digits in (10, 20, 64))
    return next(name for name in names if not job.home.catalog.has_slide(name))


def _filed_names(job: _Job, target: Path, home: Home) -> list[dict[str, Any]]:
    folder = target.relative_to(home.slides)
    return [
        {**file, "name": str(folder if job.is_one_file else folder / file["name"])}
        for file in job.files
    ]


def _refuse(job: _Job, error: SlideError, identity: Path, words: dict[str, Any]) -> Arrival:
    home, quarantine_id = job.home, f"Q-{job.sha256[:10]}"
    reason = _without_names(str(error), job, quarantine_id)
    with storage_errors(home.quarantine):
        put_identity(home, quarantine_id, identity, words)
        kept = home.quarantine / quarantine_id
        there = kept.is_dir()  # the same bytes: they stay, maybe they are the only copy
        write_json((kept if there else job.folder / "slide") / REASON,
                   {"step": error.step, "reason": reason})  # fmt: skip
        if not there:
            publish(job.folder / "slide", kept)
    home.catalog.put_refusal(
        {
            "quarantine_id": quarantine_id,
            "source": job.spec.source,
            "step": error.step,
            "reason": reason,
            "n_bytes": sum(file["n_bytes"] for file in job.files),
            "patient_id": job.spec.patient_id,
        }
    )
    return Arrival(quarantine_id=quarantine_id, reason=reason, step=error.step)


def _without_names(text: str, job: _Job, quarantine_id: str) -> str:
    """Return a reason that says the quarantine's name wherever a path or file name stood."""
    originals = [job.fileset.main, *job.fileset.files]
    for path in (job.main, *originals, *job.paths):
        for hidden in (str(path), path.name):
            text = text.replace(hidden, quarantine_id)
    return text.replace(str(job.folder), "").replace(str(job.fileset.main.parent), "")


def _put_in_place(job: _Job, slide_id: str) -> Path:
    """Give the copies their final name among the slides, and return it: a file or a folder."""
    if job.is_one_file:
        return publish(job.main, job.home.slides / f"{slide_id}{job.main.suffix}")
    return publish(job.folder / "slide", job.home.slides / slide_id)


def _original_name(job: _Job) -> str:
    parent = job.fileset.main.parent
    if parent.parent == job.home.quarantine:  # released: it has been here before
        return kept_facts(job.home, parent.name).get("file_name") or ""
    return job.fileset.main.name.encode("utf-8", "backslashreplace").decode()


def _main_file(folder: Path) -> Path | None:
    """Return the main file of a slide in quarantine; None if it is not there."""
    files = sorted(p for p in folder.glob("*") if p.is_file() and p.name != REASON)
    mains = [p for p in files if p.suffix in (".mrxs", ".vms")]
    return next(iter(mains or files), None)
