"""An unknown file as numbered bytes: read by place, never more than it has, never by its claims."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from histo_nb.errors import IncompleteError, SlideError

AGAIN = "copy it again, or scan the slide again"
BLOCK = 1 << 22  # bytes read at a time by a pass over the whole file


class ByteFile:
    """A regular file, opened for reading by place.

    Raises
    ------
    SlideError
        It is missing, no regular file, or may not be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = self.path.name
        try:  # a pipe would keep us waiting for its writer
            self._handle = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise SlideError(
                f"{self.name} does not exist; check the name, or copy it again"
            ) from error
        except OSError as error:
            raise SlideError(
                f"{self.name} cannot be opened ({error.strerror}); check the name and the rights"
            ) from error
        facts = os.fstat(self._handle)
        self.size = facts.st_size
        if not stat.S_ISREG(facts.st_mode):
            os.close(self._handle)
            raise SlideError(f"{self.name} does not exist as a file; name one slide file")

    def __enter__(self) -> "ByteFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def peek(self, start: int, n_bytes: int) -> bytes:
        """Return up to `n_bytes` from `start`; fewer, or none, where the file ends before."""
        if n_bytes <= 0 or not 0 <= start < self.size:
            return b""
        try:
            return os.pread(self._handle, min(n_bytes, self.size - start), start)
        except OSError as error:
            raise SlideError(
                f"{self.name} cannot be read at byte {start:,} ({error.strerror}); "
                "the disk or the network share has a fault: copy the file again"
            ) from error

    def read(self, start: int, n_bytes: int) -> bytes:
        """Return exactly `n_bytes` from `start`.

        Raises
        ------
        IncompleteError
            The file ends before.
        """
        self.check_range(start, n_bytes)
        parts = self.peek(start, n_bytes)
        if len(parts) < n_bytes:
            raise IncompleteError(f"{self.name} became shorter while it was read; {AGAIN}")
        return parts

    def check_range(self, start: int, n_bytes: int) -> None:
        """Raise `IncompleteError` unless the file has these bytes."""
        if start < 0 or start + n_bytes > self.size:
            raise IncompleteError(
                f"{self.name} is cut off or damaged: it has {self.size:,} bytes and refers to "
                f"byte {start + n_bytes:,}; {AGAIN}"
            )

    def blocks(self, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Yield place and bytes of one block after the other, from `start` to the end."""
        while start < self.size:
            block = self.read(start, min(BLOCK, self.size - start))
            yield start, block
            start += len(block)
