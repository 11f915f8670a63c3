"""Fixtures of all tests: a fresh home, and the real data if they are there."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from databases import DATABASES, fresh_database
from hypothesis import settings

from histo_nb.home import Home, open_home
from histo_nb.tables import LABELLED_TILES, check_table

# The same examples every time, whatever the load of the machine: timings are never asserted.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("house")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked `databases` on each of them."""
    if metafunc.definition.get_closest_marker("databases") and "database" in metafunc.fixturenames:
        metafunc.parametrize("database", DATABASES, indirect=True)


@pytest.fixture
def database(request: pytest.FixtureRequest) -> Iterator[str]:
    """A fresh database as HISTO_DATABASE_URL names it: "" = SQLite, in the home."""
    kind = getattr(request, "param", os.environ.get("HISTO_TEST_DATABASE", "sqlite"))
    with fresh_database(kind) as url:
        yield url


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Iterator[Home]:
    """A fresh HISTO_HOME with a catalogue of its own."""
    monkeypatch.setenv("HISTO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HISTO_DATABASE_URL", database)
    home = open_home()
    yield home
    if database:
        home.catalog.engine.dispose()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides and images, where there is one."""
    folder = os.environ.get("HISTO_DATA")
    if not folder:
        pytest.skip("HISTO_DATA is not set: no real data here")
    return Path(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser for the tests of one file."""
    from reviewed import open_browser  # noqa: PLC0415 - most tests need none

    with open_browser() as chromium:
        yield chromium


@pytest.fixture
def make_tiles():
    """Rows of labelled tiles from (patient, label, n) without any slide file."""

    def make(*groups: tuple[str, str, int], size: int = 64) -> pd.DataFrame:
        rows = []
        for patient, label, n in groups:
            start = sum(row["patient_id"] == patient for row in rows)
            for i in range(start, start + n):
                x, y = 100 + size * (i % 8), 100 + size * (i // 8)
                rows.append(
                    {
                        "tile_id": f"S-{patient}/{x},{y}/{size}",
                        "slide_id": f"S-{patient}",
                        "patient_id": patient,
                        "slide_path": f"/slides/S-{patient}.svs",
                        "slide_mpp": 0.5,
                        "x": x,
                        "y": y,
                        "size_l0": size,
                        "level": 0,
                        "read_size": size,
                        "tile_size": size,
                        "mpp": 0.5,
                        "effective_mpp": 0.5,
                        "read_path": "level0",
                        "tissue": 1.0,
                        "label": label,
                        "label_fraction": 1.0,
                        "label_source": "test",
                        "labelled_by": "test",
                        "labelled_at": "2026-01-01",
                    }
                )
        return check_table(pd.DataFrame(rows), LABELLED_TILES)

    return make
