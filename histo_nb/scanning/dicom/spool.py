"""Where received DICOM instances lie until their series is filed: whole and on the disk, or not.

`HISTO_HOME/dicom/SERIES/INSTANCE.dcm`; what is on its way in lies in a staging folder beside them.
"""

import filecmp
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from histo_nb.errors import SlideError
from histo_nb.files import sync
from histo_nb.scanning.dicom.instance import read_uids
from histo_nb.scanning.dicom.senders import Senders, forget_senders

log = logging.getLogger(__name__)

# Answers to C-STORE (PS3.4, table B.2-1; PS3.7, C.5.7)
STORED, FULL, MISMATCH, NOT_UNDERSTOOD, DUPLICATE = 0x0000, 0xA700, 0xA900, 0xC000, 0x0111
UID = re.compile(r"[0-9]+(\.[0-9]+)*")  # becomes a name: nothing else, and no "..", passes
MAX_UID = 64  # characters
BUFFER = 1 << 16  # bytes; a packet larger than this is written as it comes
ATTEMPTS = 10  # the keeper may remove a series' folder while an instance is put there


def is_uid(text: str) -> bool:
    """Return whether a text is a UID that may become a file's name.

    >>> is_uid("1.2.840"), is_uid(".."), is_uid("1.2/3"), is_uid("")
    (True, False, False, False)
    """
    return len(text) <= MAX_UID and UID.fullmatch(text) is not None


class Incoming:
    """One data set on its way in, written to a file that is gone when nobody holds this.

    It has what pynetdicom asks of a temporary file. A full disk is remembered and not raised: the
    sender is then told so, where an error would end the association.
    """

    def __init__(self, folder: Path, *, min_free: int) -> None:
        self._file = NamedTemporaryFile(  # noqa: SIM115 - closed by pynetdicom, or by `discard`
            dir=folder, suffix=".part", buffering=BUFFER
        )
        self.name, self.path, self.file = self._file.name, Path(self._file.name), self
        self.writer = threading.current_thread()  # of the association; when it ends, so did it
        self.is_taken = False  # all of it is there, and it is being put away
        self.is_lost = shutil.disk_usage(folder).free < min_free

    def write(self, data: bytes) -> int:
        """Write the next bytes, or drop them once the disk was full."""
        try:
            return len(data) if self.is_lost else self._file.write(data)
        except OSError as error:
            self._lose(error)
            return len(data)

    def flush(self) -> None:
        """Do nothing: pynetdicom asks for it after each packet."""

    def settle(self) -> bool:
        """Flush all bytes to the disk; return whether that worked."""
        try:
            if not self.is_lost:
                self._file.flush()
                os.fsync(self._file.fileno())
        except OSError as error:
            self._lose(error)
        return not self.is_lost

    def close(self) -> None:
        """Give the file up; where it was kept, it is kept under another name."""
        with suppress(OSError):
            self._file.close()

    def _lose(self, error: OSError) -> None:
        log.warning("an instance cannot be written: %s", error.strerror)
        self.is_lost = True
        with suppress(OSError):
            os.truncate(self.path, 0)


class Spool:
    """The received instances of one home.

    Parameters
    ----------
    folder
        Gets a folder a series.
    staging
        On the same disk; for what is on its way in.
    min_free
        Bytes that are left free; below, nothing is taken.
    is_held
        Is asked for each instance whether none is to be taken now.
    """

    def __init__(
        self,
        folder: Path,
        staging: Path,
        *,
        min_free: int,
        is_held: Callable[[], bool] = lambda: False,
    ) -> None:
        self.folder, self._staging, self._min_free = folder, staging, min_free
        self._is_held = is_held
        self.senders = Senders()
        self._incoming: dict[Path, Incoming] = {}
        self._lock = threading.Lock()

    def open_incoming(self, **_: Any) -> Incoming:
        """Return a new file for pynetdicom to write to, in place of `NamedTemporaryFile`."""
        incoming = Incoming(self._staging, min_free=self._min_free)
        incoming.is_lost |= self._is_held()
        with self._lock:
            self._incoming[incoming.path] = incoming
        return incoming

    def keep(self, path: Path, sop_uid: str) -> int:
        """Put away what was received at `path`; return the answer for its sender.

        `STORED` is answered only when the bytes and their name are on the disk.
        """
        with self._lock:
            incoming = self._incoming.pop(path)
        incoming.is_taken = True
        if not incoming.settle():
            return FULL
        try:
            said, series_uid = read_uids(path)
        except SlideError:
            return NOT_UNDERSTOOD
        if said != sop_uid or not (is_uid(said) and is_uid(series_uid)):
            return MISMATCH
        try:
            return self._put_away(incoming, self.folder / series_uid / f"{said}.dcm")
        except OSError as error:
            log.warning("an instance cannot be kept: %s", error.strerror)
            return FULL

    def series(self) -> dict[str, list[Path]]:
        """Return the files of each series, in the order of their names."""
        folders = [path for path in self.folder.iterdir() if is_uid(path.name)]
        found = {folder.name: sorted(folder.glob("*.dcm")) for folder in sorted(folders)}
        return {uid: paths for uid, paths in found.items() if paths}

    def remove(self, series_uid: str, paths: Sequence[Path]) -> None:
        """Delete files of a series, and its folder if that was all."""
        for path in paths:
            path.unlink(missing_ok=True)
        folder = self.folder / series_uid
        if not any(folder.glob("*.dcm")):
            forget_senders(folder)
            with suppress(OSError):  # an instance has come meanwhile
                folder.rmdir()

    def state(self, series_uid: str) -> str:
        """Say "open" while instances of a series arrive, "broken" if a sender broke off, "done"."""
        with self._lock:
            paths = list(self._incoming)
        if any(_series_of(path) == series_uid for path in paths):
            return "open"
        return self.senders.state(self.folder / series_uid)

    def sweep(self) -> int:
        """Delete what senders left that went away half way; return how many."""
        with self._lock:
            orphans = [i for i in self._incoming.values() if not i.writer.is_alive()]
            for incoming in orphans:
                del self._incoming[incoming.path]
        for incoming in orphans:
            folder = self.folder / (_series_of(incoming.path) or "")
            if is_uid(folder.name) and folder.is_dir():
                self.senders.begin(incoming.writer, folder)  # and it never finished
            incoming.close()
        return len(orphans)

    def _put_away(self, incoming: Incoming, target: Path) -> int:
        path = incoming.path
        for _ in range(ATTEMPTS):
            target.parent.mkdir(exist_ok=True)
            sync(self.folder)
            try:
                self.senders.begin(incoming.writer, target.parent)
                with suppress(FileExistsError):
                    os.link(path, target)  # never overwrites
                if not (target.samefile(path) or filecmp.cmp(path, target, shallow=False)):
                    return DUPLICATE
                sync(target.parent)
            except FileNotFoundError:  # its series was filed just now
                continue
            return STORED
        return FULL


def _series_of(path: Path) -> str | None:
    """Return the series that an instance on its way in belongs to, if it says so by now."""
    with suppress(SlideError):
        return read_uids(path)[1]
    return None
