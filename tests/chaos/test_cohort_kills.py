"""Workers, driver and scheduler are killed at random moments; in the end nothing shows it."""

import random
import shutil
import time
from pathlib import Path

import analysed
import pytest
from cluster import Cluster
from counts import count

from histo_nb.home import Home, open_home
from histo_nb.inference.result import TIMING
from histo_nb.running.cohort.runner import Cohort, CohortSpec

N_SLIDES = count(quick=24, full=200)
N_KILLS = count(quick=5, full=10)
ROUNDS = count(quick=1, full=5)
TILES = 130  # of each slide


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, Path]:
    """A home with slides and a model, and a copy of it to begin again from."""
    folder = tmp_path_factory.mktemp("cohort")
    home = open_home(folder / "home")
    analysed.copy_model(home)
    for number in range(N_SLIDES):
        path = home.slides / f"S{number}.svs"
        shutil.copy(analysed.slides()[number % 3], path)
        analysed.add_slide(home, path, f"S{number}", mask=False)
    home.catalog.engine.dispose()
    shutil.copytree(home.root, folder / "before")
    return home, folder / "before"


def begin_again(home: Home, before: Path) -> None:
    home.catalog.engine.dispose()
    shutil.rmtree(home.root)
    shutil.copytree(before, home.root)


def left_by(home: Home) -> dict[str, bytes]:
    """Return every file that a cohort leaves of its slides, but for times."""
    kept = [home.masks, home.tiles, home.results]
    return {
        str(path.relative_to(home.root)): path.read_bytes()
        for folder in kept
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (TIMING, "report.html")
    }


@pytest.fixture(scope="module")
def undisturbed(ward: tuple[Home, Path]) -> dict[str, bytes]:
    home, _ = ward
    with Cohort(home, spec=CohortSpec(n_workers=2, report="none")) as cohort:
        table = cohort.run([f"S{i}" for i in range(N_SLIDES)])
    assert set(table.state) == {"done"}
    return left_by(home)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_at_random_each_slide_has_one_result_as_if_undisturbed(
    ward: tuple[Home, Path], undisturbed: dict[str, bytes], tmp_path: Path, seed: int
) -> None:
    home, before = ward
    begin_again(home, before)
    rng = random.Random(seed)
    n_killed = {"worker": 0, "driver": 0, "scheduler": 0}
    with Cluster(home, tmp_path) as cluster:
        cluster.run(options=("--report", "none"))
        while cluster.n_classified() == 0:
            assert cluster.keep()
            time.sleep(0.1)
        while sum(n_killed.values()) < N_KILLS and cluster.keep():
            what = rng.choice([*n_killed])
            n_killed[what] += cluster.kill(what, rng)
            until = time.monotonic() + rng.uniform(0.3, 4)
            while time.monotonic() < until and cluster.keep():
                time.sleep(0.1)
        answer = cluster.finish()
        n_tiles = cluster.n_classified()
    redone = n_tiles / (N_SLIDES * TILES) - 1
    print(f"killed {n_killed}, {redone:.1%} of the tiles classified again")
    assert sum(n_killed.values()) == N_KILLS
    assert redone <= 0.05 * count(quick=4, full=1), "24 slides feel each kill more"
    assert answer["counts"] == {"done": N_SLIDES}, answer["failures"]
    assert left_by(home) == undisturbed
    analyses = home.catalog.events(what="slide analysed").subject
    assert len(home.catalog.results()) == analyses.nunique() == N_SLIDES
    assert len(analyses) <= N_SLIDES + n_killed["worker"] + n_killed["scheduler"]
