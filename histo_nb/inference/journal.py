"""What was already said of a slide's tiles: a file that a killed analysis goes on from.

Fixed records, each with its checksum, appended and never changed: what was written whole is valid,
a torn end is cut off.
"""

import fcntl
import json
import zlib
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from histo_nb.errors import BusyError
from histo_nb.files import hash_content, storage_errors

AT_ONCE = 64  # tiles in a write; so many are done again after a kill, at the most
END = b"\n"


class Journal:
    """The answers of one slide's tiles so far.

    Parameters
    ----------
    path
        Its file; begun anew if it is of another analysis.
    decides
        All that decides an answer, fit for JSON.
    n_tiles, n_classes
        Rows of the slide's tile table; columns of the probabilities.

    Raises
    ------
    BusyError
        Another process analyses the slide.
    """

    def __init__(self, path: Path, decides: Any, *, n_tiles: int, n_classes: int) -> None:
        self.path, self._n_tiles = path, n_tiles
        self._kind = np.dtype(
            [
                ("number", "<i8"),
                ("probabilities", "<f4", (n_classes,)),
                ("distance", "<f8"),  # from the training tiles; NaN = not measured
                ("colour", "<f8", (3,)),
                ("sharpness", "<f8"),
                ("checksum", "<u4"),
            ]
        )
        self._header = json.dumps({"histo_nb": 1, "of": hash_content(decides)}).encode() + END
        with storage_errors(path):
            self._file = self._lock()
            try:
                self.records = self._open()
            except BaseException:
                self.close()
                raise

    @property
    def n_done(self) -> int:
        """Tiles that have an answer."""
        return len(self.records)

    @property
    def todo(self) -> np.ndarray:
        """Numbers of the rows without an answer."""
        return np.setdiff1d(np.arange(self._n_tiles), self.records["number"])

    def write(self, **columns: np.ndarray) -> None:
        """Append answers: `number, probabilities, distance, colour, sharpness`, a row a tile.

        Raises
        ------
        StorageError
            There is no room; what was written before stays valid.
        """
        records = np.zeros(len(columns["number"]), self._kind)
        for name, values in columns.items():
            records[name] = values
        records["checksum"] = [_checksum(record) for record in records]
        with storage_errors(self.path):
            self._append(records.tobytes())
        self.records = np.concatenate([self.records, records])

    def close(self) -> None:
        """Leave the file to another analysis."""
        self._file.close()

    def remove(self) -> None:
        """Remove the file: the result is written."""
        self.path.unlink(missing_ok=True)
        self.close()

    def _append(self, content: bytes) -> None:
        """Write all of it; what a full disk takes only a part of is a torn end."""
        while content:
            content = content[self._file.write(content) or 0 :]

    def _lock(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise BusyError(
                f"{self.path.parent.name} is being analysed by another process; wait for it"
            ) from error
        return file

    def _open(self) -> np.ndarray:
        """Return the whole records of an earlier analysis of the same kind; cut off the rest."""
        self._file.seek(0)
        content = self._file.readall()
        if not content.startswith(self._header):
            self._file.truncate(0)
            self._append(self._header)
            return np.zeros(0, self._kind)
        body = content[len(self._header) :]
        records = np.frombuffer(body, self._kind, count=len(body) // self._kind.itemsize)
        valid = [_checksum(record) == record["checksum"] for record in records]
        n = valid.index(False) if False in valid else len(records)
        self._file.truncate(len(self._header) + n * self._kind.itemsize)
        return records[:n].copy()


def _checksum(record: np.void) -> int:
    return zlib.crc32(record.tobytes()[:-4])
