"""Hostile files through the whole intake desk: the service stays alive, within its limits."""

import json
import subprocess
import sys
from pathlib import Path

import bombs
import pytest

from histo_nb.home import Home

MEMORY, SECONDS, SECONDS_PER_GB = 1 << 30, 5.0, 4.0  # CPU, of each file: copied, hashed, walked

SERVICE = """
import json, resource, sys
from pathlib import Path
from histo_nb.errors import SlideError
from histo_nb.home import open_home
from histo_nb.scanning.intake import receive
def cpu_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(who.ru_utime + who.ru_stime for who in used)
home = open_home(sys.argv[1])
for line in sys.stdin:
    start = cpu_s()
    try:
        arrival = receive(Path(line.rstrip("\\n")), home)
        outcome = "filed" if arrival.slide_id else arrival.step
    except SlideError as error:
        outcome = f"not taken: {error}"
    taken = cpu_s() - start
    print(json.dumps([outcome, taken]), flush=True)
own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(json.dumps([1024 * own, 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))
"""


def serve(home: Home, paths: list[Path]) -> tuple[dict[str, tuple[str, float]], int]:
    """Take files in, one after another in one service; return what became of them, and its peak."""
    service = subprocess.run(
        [sys.executable, "-c", SERVICE, str(home.root)],
        input="\n".join(map(str, paths)),
        capture_output=True,
        text=True,
        check=True,
    )
    *outcomes, memory = [json.loads(line) for line in service.stdout.splitlines()]
    assert len(outcomes) == len(paths), "the service went down"
    return {str(p): tuple(o) for p, o in zip(paths, outcomes, strict=True)}, max(memory)


def check_limits(outcomes: dict[str, tuple[str, float]], memory: int) -> None:
    allowed = {
        name: max(SECONDS, SECONDS_PER_GB * Path(name).stat().st_size / 1e9) for name in outcomes
    }
    assert not {name: o for name, o in outcomes.items() if o[1] > allowed[name]}
    assert memory <= MEMORY


def test_all_malformed_files_in_one_service(home, data):
    paths = [p for p in sorted((data / "malformed").rglob("*")) if p.is_file()]
    outcomes, memory = serve(home, paths)
    check_limits(outcomes, memory)
    filed = [name for name, (outcome, _) in outcomes.items() if outcome == "filed"]
    assert filed == [], "none of them is a slide with a scale"
    kept = {p.name for p in home.quarantine.iterdir()}
    assert kept == set(home.catalog.refusals().quarantine_id)
    assert not list(home.slides.iterdir())


def test_bombs_in_one_service(home, tmp_path):
    makers = [*bombs.STRUCTURE_BOMBS, bombs.deflated_dicom]
    paths = []
    for make in makers:
        folder = tmp_path / make.__name__
        folder.mkdir()
        suffix = ".dcm" if make is bombs.deflated_dicom else ".svs"
        paths.append(make(folder / f"slide{suffix}"))
    outcomes, memory = serve(home, paths)
    check_limits(outcomes, memory)
    assert {outcome for outcome, _ in outcomes.values()} <= {"structure", "open", "limits"}


def test_a_file_that_brings_its_reader_down_is_told_so(home, data):
    paths = [p for p in sorted((data / "malformed" / "abort").iterdir()) if p.is_file()]
    if not paths:
        pytest.skip("no such file in HISTO_DATA")
    outcomes, _ = serve(home, [*paths, *paths])
    assert "filed" not in {outcome for outcome, _ in outcomes.values()}
