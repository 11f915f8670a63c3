"""Eight processes write one catalogue and are killed at random: what was acknowledged is there."""

import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from counts import count

from histo_nb.home import Home
from histo_nb.running.audit import audit_history

pytestmark = pytest.mark.databases
N_WRITERS = 8
KILLS = count(quick=10, full=100)
WRITER = """if True:
    import sys, time
    from histo_nb.home import open_home
    catalog, name = open_home().catalog, sys.argv[1]
    with open(sys.argv[2], "a", buffering=1) as told:
        for i in range(1_000_000):
            started = time.perf_counter()
            if i % 2:
                catalog.add_hand_label(f"{name}/{i}", annotator=name, label="normal")
            else:
                catalog.note("counted", f"{name}/{i}")
            told.write(f"{name}/{i} {time.perf_counter() - started}\\n")
"""


def start(folder: Path, n: int) -> "subprocess.Popen[str]":
    name = f"W-{n}"
    arguments = [sys.executable, "-c", WRITER, name, str(folder / name)]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)


def wait_for_words(folder: Path, n: int) -> None:
    told = folder / f"W-{n}"
    while not (told.exists() and told.stat().st_size):
        time.sleep(0.01)


def read_acknowledged(folder: Path) -> dict[str, float]:
    """The writes that writers know to be done, and the seconds each took."""
    lines = [line for path in folder.glob("W-*") for line in path.read_text().splitlines(True)]
    whole = [line.split() for line in lines if line.endswith("\n")]  # others the kill cut off
    return {name: float(seconds) for name, seconds in whole}


def test_no_acknowledged_write_is_lost(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _ = home.catalog
    rng = random.Random(7)
    writers = {n: start(tmp_path, n) for n in range(N_WRITERS)}
    said = []
    try:
        for new in range(N_WRITERS, N_WRITERS + KILLS):
            n = rng.choice(list(writers))
            wait_for_words(tmp_path, n)
            time.sleep(rng.uniform(0, 0.3))
            killed = writers.pop(n)
            killed.kill()
            said.append(killed.communicate()[1])
            writers[new] = start(tmp_path, new)
    finally:
        for writer in writers.values():
            writer.kill()
            said.append(writer.communicate()[1])
    acknowledged = read_acknowledged(tmp_path)
    assert "".join(said) == ""  # no "locked", no deadlock, no trace
    assert set(acknowledged) <= set(home.catalog.events().subject)
    assert audit_history(home)["failures"] == []
    with home.catalog.reading() as connection:
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    p99, longest = np.quantile(list(acknowledged.values()), (0.99, 1))
    with capsys.disabled():
        print(f"\n{connection.dialect.name}: {len(acknowledged)} writes by {N_WRITERS} at once, "
              f"{KILLS} killed; p99 {p99:.3f} s, longest {longest:.3f} s")  # fmt: skip
