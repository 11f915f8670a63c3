"""The folder a real scanner writes to: slides are taken when they are complete, never before.

The folder is looked at again and again; no file events are used, since network shares deliver
none. It is only read: originals stay as they are, and what became of each is remembered in the
catalogue, so that nothing is taken twice, not even after a restart.
"""

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from histo_nb.errors import (
    CatalogError,
    HistoError,
    IncompleteError,
    SlideError,
    SpecError,
    StorageError,
)
from histo_nb.geometry import check_positive
from histo_nb.home import Home
from histo_nb.scanning.fileset import SUFFIXES, FileSet, gather, series_mains, single
from histo_nb.scanning.identity import tag
from histo_nb.scanning.intake import Arrival, IntakeSpec, fingerprint, receive
from histo_nb.scanning.structure.check import check_structure

log = logging.getLogger(__name__)

MAX_DEPTH = 6  # folders below the watched one; scanners make one a day, or one a slide
DIGESTS = {".sha256": "sha256", ".md5": "md5"}  # sidecars that scanners write
MAX_SIDECAR_BYTES = 4096
HASH_CHUNK = 1 << 22
RETRY_S = 30.0  # after the catalogue did not take a slide


@dataclass(frozen=True, kw_only=True)
class HotFolderSpec:
    """When a slide counts as complete."""

    quiet_s: float = 10.0  # no file of the slide has changed for so long
    poll_s: float = 1.0  # between two looks
    stale_s: float = 3600.0  # a slide not whole by then is reported, once
    slide: IntakeSpec = field(default_factory=lambda: IntakeSpec(source="hot folder"))

    def __post_init__(self) -> None:
        check_positive(poll_s=self.poll_s, stale_s=self.stale_s)
        if not self.quiet_s >= 0:
            raise SpecError(f"quiet_s={self.quiet_s:g} must be 0 or more")


@dataclass
class _Candidate:
    signature: object
    changed_at: float  # clock of the last change seen
    seen_at: float  # clock of the first look
    checked: object = None  # state of its files that was found not to be whole
    reason: str = "it is still being written"
    asked: object = None  # signature that the catalogue was asked for
    retry_at: float = 0.0  # clock
    told: bool = False
    done: bool = False


class HotFolder:
    """One watched folder; `poll` is one look at it.

    Parameters
    ----------
    hold
        Is asked before each look and each slide why none is to be taken now; None = take it.
    """

    def __init__(
        self,
        folder: Path,
        home: Home,
        *,
        spec: HotFolderSpec | None = None,
        hold: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = Path(folder)
        self.spec = spec or HotFolderSpec()
        if home.root.absolute().is_relative_to(self.folder.absolute()):
            raise SpecError(
                f"folder={self.folder} holds the home itself; choose a folder beside it"
            )
        self._home, self._hold = home, hold
        self._now = now
        place = tag(home, str(self.folder.absolute()))[:4]  # a home may have several hot folders
        self.source = f"{self.spec.slide.source} {place}"
        self._candidates: dict[Path, _Candidate] = {}
        self._troubles: set[str] = set()
        self._shown: dict[str, str] | None = None

    def poll(self) -> Iterator[Arrival]:
        """Look once; yield what was taken or refused, as it happens."""
        self._hold()
        try:
            paths = sorted(_mains(self.folder), key=os.fsencode)
        except OSError as error:
            self._tell("the hot folder cannot be read; it is looked for again", error)
            return
        self._over("the hot folder cannot be read; it is looked for again")
        self._candidates = {path: c for path in paths if (c := self._candidates.get(path))}
        away = "the catalogue cannot be read; the hot folder waits for it"
        try:
            for path in paths:
                if arrival := self._look_again_at(path):
                    yield arrival
            self._over(away)
            self._show()
        except (CatalogError, StorageError) as error:  # away, or no space for a row
            self._tell(away, error)

    def waiting(self) -> dict[str, str]:
        """Return what each slide waits for, by its tag."""
        return {
            tag(self._home, str(path)): candidate.reason
            for path, candidate in self._candidates.items()
            if not candidate.done
        }

    def _look_again_at(self, path: Path) -> Arrival | None:
        try:
            return self._look_at(path)
        except OSError:  # it went away, or cannot be read just now
            return None

    def _look_at(self, path: Path) -> Arrival | None:
        try:
            fileset, missing = gather(path), None
        except SlideError as error:
            fileset, missing = single(path), error
        candidate = self._note(path, fileset.signature())
        if self._handled(candidate):
            return None
        if reason := self._hold():
            candidate.reason = reason
            return None
        if not self._complete(fileset, candidate, missing):
            self._report_stale(path, candidate)
            return None
        return self._take(path, candidate)

    def _note(self, path: Path, signature: object) -> _Candidate:
        known, clock = self._candidates.get(path), self._now()
        if known is None:
            known = self._candidates[path] = _Candidate(signature, clock, clock)
        elif known.signature != signature:
            known.signature, known.changed_at = signature, clock
            known.reason = "it is still being written"
        return known

    def _handled(self, candidate: _Candidate) -> bool:
        """Say whether the slide, as it is now, was taken or refused before, by whomever."""
        if candidate.asked != candidate.signature:
            candidate.asked = candidate.signature
            arrived = fingerprint(self._home, candidate.signature)
            known = self._home.catalog.find_arrival(arrived)
            candidate.done = known is not None
        return candidate.done

    def _complete(
        self, fileset: FileSet, candidate: _Candidate, missing: SlideError | None
    ) -> bool:
        """Say whether a slide is whole: checksums of all its files decide, else rest and structure.

        A series or slide of several files must look whole too: a checksum tells nothing of a file
        that is still to come.
        """
        sidecars = [path for path in map(_sidecar, fileset.files) if path]
        checked = len(sidecars) == len(fileset.files)
        state = (candidate.signature, tuple(path.stat().st_mtime_ns for path in sidecars))
        if state == candidate.checked or self._now() < candidate.retry_at:
            return False  # it was looked at as it is now
        if not all(os.access(path, os.R_OK) for path in fileset.files):
            candidate.reason = "it may not be read"
        elif isinstance(missing, IncompleteError):
            candidate.reason = "some of its files are not there yet"
        elif checked:
            candidate.checked = state
            candidate.reason = "its bytes are not yet those of its checksum file"
            agree = all(map(_agrees, fileset.files, sidecars))
            return agree and (len(sidecars) == 1 or self._is_whole(fileset))
        elif self._now() - candidate.changed_at >= self.spec.quiet_s:
            candidate.checked = state
            candidate.reason = "it is not whole yet"
            return self._is_whole(fileset)
        return False

    def _is_whole(self, fileset: FileSet) -> bool:
        try:
            for path in fileset.files:
                check_structure(path, allow_black=self.spec.slide.allow_black)
            if fileset.main.suffix.lower() == ".dcm":
                from histo_nb.scanning.dicom.series import check_series  # noqa: PLC0415

                check_series(fileset.files)
        except IncompleteError:
            return False
        except (SlideError, OSError):
            return True  # nothing more will come; the desk says what is wrong with it
        return True

    def _take(self, path: Path, candidate: _Candidate) -> Arrival | None:
        full = "no slide is taken: there is no space left"
        candidate.checked = None  # what hinders it now may pass
        try:
            arrival = receive(path, self._home, spec=self.spec.slide)
        except StorageError as error:
            candidate.reason = "there is no space left"
            self._tell(full, error)
            return None
        except CatalogError as error:  # it says otherwise of this slide, or is away
            candidate.reason = "the catalogue does not take it"
            candidate.retry_at = self._now() + RETRY_S
            self._tell("a slide of the hot folder is not taken by the catalogue", error)
            return None
        except (SlideError, OSError):  # it changed or went away just now
            candidate.reason = "it cannot be read yet"
            return None
        self._over(full)
        candidate.done = True
        return arrival

    def _report_stale(self, path: Path, candidate: _Candidate) -> None:
        if not candidate.told and self._now() - candidate.seen_at >= self.spec.stale_s:
            candidate.told = True
            self._home.catalog.note("file incomplete", tag(self._home, str(path)), candidate.reason)

    def _show(self) -> None:
        """Leave what waits in the catalogue, for the operations page; only when it changed."""
        waiting = self.waiting()
        if waiting != self._shown:
            self._home.catalog.put_waiting(self.source, waiting)
            self._shown = waiting

    def _tell(self, trouble: str, error: Exception) -> None:
        """Say once that something is wrong; of a file's name nothing is said."""
        if trouble not in self._troubles:
            self._troubles.add(trouble)
            log.warning("%s (%s)", trouble, type(error).__name__)
            try:
                self._home.catalog.note("hot folder in trouble", self.spec.slide.source, trouble)
            except HistoError:
                log.exception("the catalogue cannot be written")

    def _over(self, trouble: str) -> None:
        if trouble in self._troubles:
            self._troubles.discard(trouble)
            self._home.catalog.note("hot folder goes on", self.spec.slide.source)


def watch_folder(
    folder: Path,
    home: Home,
    *,
    spec: HotFolderSpec | None = None,
    stop: threading.Event | None = None,
    on_arrival: Callable[[Arrival], None] | None = None,
    hold: Callable[[], str | None] = lambda: None,
) -> None:
    """Take in the slides of a folder until `stop` is set; one after another.

    Parameters
    ----------
    on_arrival
        Is called with each slide filed or refused.
    hold
        See `HotFolder`.
    """
    hot, stop = HotFolder(folder, home, spec=spec, hold=hold), stop or threading.Event()
    try:
        while not stop.is_set():
            for arrival in hot.poll():
                if on_arrival:
                    on_arrival(arrival)
                if stop.is_set():
                    break
            stop.wait(hot.spec.poll_s)
    finally:
        home.catalog.put_waiting(hot.source, {})


def _mains(folder: Path) -> Iterator[Path]:
    """Yield the main file of each slide that lies in a folder now, whatever its name is."""
    if not folder.is_dir():
        raise FileNotFoundError(folder)
    for here, folders, files in os.walk(folder):
        depth = len(Path(here).relative_to(folder).parts)
        folders[:] = [n for n in folders if not n.startswith(".") and depth < MAX_DEPTH]
        mains = [Path(here, n) for n in files if _is_slide(n)]
        yield from (path for path in mains if path.suffix.lower() != ".dcm")
        if len(mains) > sum(path.suffix.lower() != ".dcm" for path in mains):
            yield from series_mains(Path(here))


def _is_slide(name: str) -> bool:
    return not name.startswith((".", "~")) and Path(name).suffix.lower() in SUFFIXES


def _sidecar(main: Path) -> Path | None:
    """Return the checksum file of a slide, `a.svs.sha256` or `a.sha256`, if there is one."""
    for suffix in DIGESTS:
        for path in (main.with_name(main.name + suffix), main.with_suffix(suffix)):
            if os.path.isfile(path):  # noqa: PTH113 - a name too long for one is none
                return path
    return None


def _agrees(main: Path, sidecar: Path) -> bool:
    """Say whether a slide's bytes are those of its checksum file."""
    try:
        with sidecar.open("rb") as file:
            said = re.match(rb"\s*([0-9a-fA-F]{32,64})\b", file.read(MAX_SIDECAR_BYTES))
        digest = hashlib.new(DIGESTS[sidecar.suffix], usedforsecurity=False)
        with main.open("rb") as file:
            while chunk := file.read(HASH_CHUNK):
                digest.update(chunk)
    except OSError:
        return False
    return said is not None and said[1].decode().lower() == digest.hexdigest()
