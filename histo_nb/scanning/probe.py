"""Opens an unknown slide in a process of its own, so that a hostile file harms nobody else.

Some damaged files make OpenSlide abort its process or take gigabytes; the child has limits.
"""

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from histo_nb import errors
from histo_nb.errors import HistoError, MppError, SlideError
from histo_nb.geometry import POWER_MPP

Verify = Literal["sample", "full"]

MEMORY_LIMIT = 1 << 30  # bytes of address space; an honest slide needs a quarter of it
CPU_LIMIT_S = 8.0  # of one core, to start and open; and then for each GB
CPU_LIMIT_S_PER_GB = {"sample": 6.0, "full": 900.0}  # structure walk; decoding every tile
WALL_PER_CPU = 10.0  # a busy machine or a slow disk
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # each thread reserves memory

SAMPLE_PX = 256  # side of a square that is decoded
SAMPLES = 16  # squares a level
BLOCK_PX = 2048  # side of the squares that together are the whole level

LEVEL_TOLERANCE = 0.02  # relative; levels round their sides, other pictures differ by far more
# Vendors with optics between objective and camera, where that product tells less.
POWER_MPP_OF = {"mirax": (4.0, 12.5), "olympus": (4.0, 14.0), "generic-tiff": (4.0, 14.0)}


def probe_slide(
    main: Path,
    files: tuple[Path, ...] = (),
    *,
    slide_mpp: float | None = None,
    verify: Verify = "sample",
    allow_black: bool = False,
    identity: Path | None = None,
) -> dict[str, Any]:
    """Return a slide's facts, found out in a child process.

    Parameters
    ----------
    files
        All files of the slide; the main one alone by default.
    verify
        Decode some squares of each level, or every level whole.
    identity
        Folder that gets the label and macro images as PNG and `properties.json`.

    Returns
    -------
    `width`, `height`, `n_levels`, `slide_mpp`, `objective_power` as the catalogue names them.

    Raises
    ------
    IncompleteError
        Its structure is not whole.
    SlideError
        It is missing, does not open, cannot be read, or brings its reader down. The error's
        `step` says which check refused it: "structure", "open", "mpp", "read", "limits".
    MppError
        It opens but states no usable mpp.
    """
    main = Path(main)
    files = files or (main,)
    n_bytes = sum(path.stat().st_size for path in files if path.is_file())
    asked = {
        "main": str(main),
        "files": [str(path) for path in files],
        "slide_mpp": slide_mpp,
        "verify": verify,
        "allow_black": allow_black,
        "identity": identity and str(identity),
        "cpu_s": CPU_LIMIT_S + CPU_LIMIT_S_PER_GB[verify] * n_bytes / 1e9,
    }
    answer = _ask_child(asked, main.name)
    if "error" in answer:
        error: SlideError = getattr(errors, answer["kind"])(answer["error"])
        error.step = answer["step"]
        raise error
    return answer


def _ask_child(asked: dict[str, Any], name: str) -> dict[str, Any]:
    # -P: a file named like a module, in the folder we were started in, is not imported
    command = [sys.executable, "-P", "-m", "histo_nb.scanning.probe"]
    wall_s = WALL_PER_CPU * asked["cpu_s"]
    try:
        child = subprocess.run(
            command,
            input=json.dumps(asked).encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=wall_s,
            check=False,
            env=os.environ | ONE_THREAD,
        )
    except subprocess.TimeoutExpired:
        return _limits(f"{name} took over {wall_s:.0f} s to examine; scan it again")
    try:
        answer: dict[str, Any] = json.loads(child.stdout)
    except ValueError:
        return _limits(
            f"{name} brought its reader down (status {child.returncode}); "
            "the file is damaged: scan or copy it again"
        )
    return answer


def _limits(error: str) -> dict[str, Any]:
    return {"error": error, "kind": "SlideError", "step": "limits"}


# ------------------------------------------------------------------ in the child, under its limits
def examine(asked: dict[str, Any], steps: list[str]) -> dict[str, Any]:
    """Run all checks on one slide; `steps` tells the caller how far they came."""
    from histo_nb.scanning.structure.check import check_structure  # noqa: PLC0415 - after the limits
    from histo_nb.slide import Slide  # noqa: PLC0415

    steps.append("structure")
    for path in asked["files"]:
        check_structure(Path(path), allow_black=asked["allow_black"])
    if asked["main"].lower().endswith(".dcm"):
        from histo_nb.scanning.dicom.series import check_series  # noqa: PLC0415

        check_series([Path(path) for path in asked["files"]])
    steps.append("open")
    with Slide(asked["main"], slide_mpp=asked["slide_mpp"]) as slide:
        check_pyramid(slide)
        steps.append("mpp")
        facts = _facts(slide)
        if asked["slide_mpp"] is None:
            check_power(facts["slide_mpp"], facts["objective_power"], slide)
        steps.append("read")
        squares = _all_squares if asked["verify"] == "full" else _sample
        for level in range(len(slide.level_sizes)):
            for x, y, size in squares(slide, level):
                slide.read_region(x, y, level=level, size=size)
    if asked["identity"]:
        from histo_nb.scanning.associated import extract_identity  # noqa: PLC0415

        extract_identity(Path(asked["main"]), Path(asked["identity"]))
    return facts


def _facts(slide: Any) -> dict[str, Any]:
    width, height = slide.size
    return {
        "width": width,
        "height": height,
        "n_levels": len(slide.level_sizes),
        "slide_mpp": slide.slide_mpp,
        "objective_power": slide.objective_power,
    }


def check_pyramid(slide: Any) -> None:
    """Raise `SlideError` unless each level shows the whole of level 0, smaller than the last."""
    width, height = slide.size
    finer = 0.0
    for level, ((w, h), downsample) in enumerate(
        zip(slide.level_sizes, slide.level_downsamples, strict=True)
    ):
        stretch = width * h / (w * height) - 1
        if downsample <= finer or abs(stretch) > max(LEVEL_TOLERANCE, 2 / min(w, h)):
            raise SlideError(
                f"{slide.path.name} has a pyramid that does not fit together: level {level} has "
                f"{w} × {h} px, level 0 {width} × {height}; export it again"
            )
        finer = downsample


def check_power(mpp: float, power: float | None, slide: Any) -> None:
    """Raise `MppError` if a slide's mpp contradicts the objective it says it was scanned with.

    A 20x objective on a slide scanner gives about 0.5 µm/px, a 40x one 0.25: the product is 10.
    """
    least, most = POWER_MPP_OF.get(slide.vendor, POWER_MPP)
    if power and not least <= mpp * power <= most:
        raise MppError(
            f"{slide.path.name} says {mpp:g} µm/px and a {power:g}x objective, which do not fit "
            f"together (about {10 / power:g} µm/px are usual); look the true value up and "
            "set it with --slide-mpp"
        )


def _sample(slide: Any, level: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    """Yield squares of a level: its corners, its middle, and others chosen by a fixed seed."""
    x0, y0, width, height = slide.bounds
    side = int(SAMPLE_PX * slide.level_downsamples[level])
    right, bottom = max(width - side, 0), max(height - side, 0)
    rng = random.Random(level)
    places = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    while len(places) < SAMPLES:
        places.append((rng.randint(0, right), rng.randint(0, bottom)))
    for x, y in places:
        yield x0 + x, y0 + y, (SAMPLE_PX, SAMPLE_PX)


def _all_squares(slide: Any, level: int) -> Iterator[tuple[int, int, tuple[int, int]]]:
    width, height = slide.level_sizes[level]
    downsample = slide.level_downsamples[level]
    for y in range(0, height, BLOCK_PX):
        for x in range(0, width, BLOCK_PX):
            size = (min(BLOCK_PX, width - x), min(BLOCK_PX, height - y))
            yield round(x * downsample), round(y * downsample), size


def _main() -> None:
    asked = json.loads(sys.stdin.buffer.read().decode("utf-8", "surrogateescape"))
    cpu_s = int(asked["cpu_s"]) + 1
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    steps: list[str] = []
    try:
        answer = examine(asked, steps)
    except HistoError as error:
        answer = {"error": str(error), "kind": type(error).__name__, "step": steps[-1]}
    except MemoryError:
        answer = _limits(
            f"{Path(asked['main']).name} asks for more than {MEMORY_LIMIT >> 20} MiB to be opened; "
            "it is damaged or no slide"
        )
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    _main()
