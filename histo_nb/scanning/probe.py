"""Opens an unknown slide in a process of its own, so that a hostile file harms nobody else.

Some damaged files make OpenSlide abort its process or take gigabytes; the child has limits.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from histo_nb.errors import HistoError, MppError, SlideError

MEMORY_LIMIT = 3 << 30  # bytes of address space: an honest slide needs well below 1 GB
TIME_LIMIT_S = 60
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each thread reserves memory


def probe_slide(path: Path, *, slide_mpp: float | None = None) -> dict[str, Any]:
    """Return a slide's facts, found out in a child process.

    Returns
    -------
    `width`, `height`, `n_levels`, `slide_mpp`, `objective_power` as the catalogue names them.

    Raises
    ------
    SlideError
        It is missing, does not open, cannot be read, or brings its reader down.
    MppError
        It opens but states no usable mpp.
    """
    path = Path(path)
    command = [sys.executable, "-m", "histo_nb.scanning.probe", str(path), json.dumps(slide_mpp)]
    try:
        child = subprocess.run(
            command,
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
            env=os.environ | ONE_THREAD,
        )
    except subprocess.TimeoutExpired as error:
        raise SlideError(
            f"{path.name} took over {TIME_LIMIT_S} s to open; scan it again"
        ) from error
    if child.returncode != 0:
        raise SlideError(
            f"{path.name} brought its reader down (status {child.returncode}); "
            "the file is damaged: scan or copy it again"
        )
    answer: dict[str, Any] = json.loads(child.stdout)
    if "error" in answer:
        raise {"MppError": MppError}.get(answer["kind"], SlideError)(answer["error"])
    return answer


def _facts(path: Path, slide_mpp: float | None) -> dict[str, Any]:
    from histo_nb.slide import Slide  # noqa: PLC0415 - after the limit is set

    with Slide(path, slide_mpp=slide_mpp) as slide:
        width, height = slide.size
        x, y, *extent = slide.bounds
        corners = [(x, y), (x + extent[0] // 2, y + extent[1] // 2)]
        for level in range(len(slide.level_sizes)):
            for corner in corners:
                slide.read_region(*corner, level=level, size=(64, 64))
        return {
            "width": width,
            "height": height,
            "n_levels": len(slide.level_sizes),
            "slide_mpp": slide.slide_mpp,
            "objective_power": slide.objective_power,
        }


def _main(path: str, slide_mpp: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        answer = _facts(Path(path), json.loads(slide_mpp))
    except HistoError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main(*sys.argv[1:])
