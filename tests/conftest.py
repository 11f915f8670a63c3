"""Fixtures of all tests: a fresh home, and the real data if they are there."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from histo_nb.home import Home, open_home

# The same examples every time, whatever the load of the machine: timings are never asserted.
settings.register_profile("house", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("house")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A fresh HISTO_HOME with an SQLite catalogue of its own."""
    monkeypatch.setenv("HISTO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HISTO_DATABASE_URL", raising=False)
    return open_home()


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real slides and images, where there is one."""
    folder = os.environ.get("HISTO_DATA")
    if not folder:
        pytest.skip("HISTO_DATA is not set: no real data here")
    return Path(folder)
