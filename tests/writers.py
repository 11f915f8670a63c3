"""Nine ways in which scanners and copies write a file; run as a process of its own.

`python writers.py KIND SOURCE TARGET SCALE`: waits are SCALE seconds long. Prints "whole" at the
moment the file is whole; kinds that are killed half way never do.
"""

import os
import shutil
import sys
import time
from pathlib import Path

PIECES = 8
KINDS = (
    "fast", "slow", "stalling", "renamed", "preallocating", "reopening", "killed",
    "killed preallocating", "old mtime",
)  # fmt: skip


def pieces(content: bytes) -> list[bytes]:
    step = -(-len(content) // PIECES)
    return [content[i : i + step] for i in range(0, len(content), step)]


def write(kind: str, source: Path, target: Path, scale: float) -> None:
    content = source.read_bytes()
    parts = pieces(content)
    if kind == "fast":
        target.write_bytes(content)
    elif kind == "slow":
        with target.open("wb", buffering=0) as file:
            for part in parts:
                file.write(part)
                time.sleep(scale / 3)
    elif kind == "stalling":
        with target.open("wb", buffering=0) as file:
            file.write(b"".join(parts[:4]))
            time.sleep(2.5 * scale)  # longer than the quiet time
            file.write(b"".join(parts[4:]))
    elif kind == "renamed":
        part = target.with_suffix(".part")
        part.write_bytes(content[: len(content) // 2])
        time.sleep(scale)
        part.write_bytes(content)
        part.rename(target)
    elif kind in ("preallocating", "killed preallocating"):
        with target.open("wb", buffering=0) as file:
            file.truncate(len(content))
            file.write(b"".join(parts[:4]))
            time.sleep(2.5 * scale)
            if kind.startswith("killed"):
                os._exit(9)
            file.write(b"".join(parts[4:]))
    elif kind == "reopening":
        target.write_bytes(b"")
        for part in parts:
            with target.open("ab", buffering=0) as file:
                file.write(part)
            time.sleep(scale / 2)
    elif kind == "killed":
        target.write_bytes(b"".join(parts[:5]))
        os._exit(9)
    elif kind == "old mtime":
        shutil.copy2(source, target)
        os.utime(target, (1e9, 1e9))
    sys.stdout.write("whole\n")
    sys.stdout.flush()


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
