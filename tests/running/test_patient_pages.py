"""Pages for patients are made once, a few at a time, and not kept when they failed."""

import threading
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from histo_nb.errors import NotebookError
from histo_nb.home import Home
from histo_nb.running import patient
from histo_nb.running.patient import AT_ONCE, WAITING, BusyError, PatientPages, run_page


class Work:
    """Stands in for the kernel: counts who is at work, and waits to be let go."""

    def __init__(self) -> None:
        self.go, self.lock = threading.Event(), threading.Lock()
        self.now, self.most = 0, 0
        self.made: list[str] = []

    def __call__(self, home: Home, slide_id: str, notebook: Path) -> str:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.made.append(slide_id)
        self.go.wait(20)
        with self.lock:
            self.now -= 1
        if slide_id == "S-bad":
            raise NotebookError("it failed")
        return f"page of {slide_id}"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[Work]:
    work = Work()
    monkeypatch.setattr(patient, "run_page", work)
    yield work
    work.go.set()


def test_few_at_a_time_and_no_more_than_can_wait(home: Home, work: Work) -> None:
    pages = PatientPages(home, Path("patient.ipynb"))
    asked = [pages.page(f"S-{i}", "now") for i in range(WAITING)]
    assert pages.page("S-0", "now") is asked[0]  # whoever asks for the same waits with them
    with pytest.raises(BusyError):
        pages.page("S-more", "now")
    work.go.set()
    assert [page.result(20) for page in asked] == [f"page of S-{i}" for i in range(WAITING)]
    assert work.most == AT_ONCE
    assert pages.page("S-more", "now").result(20) == "page of S-more"


def test_page_is_kept_for_its_signature_and_some_minutes(
    home: Home, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    work.go.set()
    pages = PatientPages(home, Path("patient.ipynb"))
    for signed_at in ("then", "then", "now", "now"):
        pages.page("S-1", signed_at).result(20)
    assert work.made == ["S-1", "S-1"]
    later = patient.monotonic() + patient.KEEP_S + 1
    monkeypatch.setattr(patient, "monotonic", lambda: later)
    pages.page("S-1", "now").result(20)
    assert len(work.made) == 3


def test_page_that_failed_is_made_anew(home: Home, work: Work) -> None:
    work.go.set()
    pages = PatientPages(home, Path("patient.ipynb"))
    for _ in range(2):
        with pytest.raises(NotebookError):
            pages.page("S-bad", "now").result(20)
    assert work.made == ["S-bad", "S-bad"]


def test_notebook_that_fails_or_shows_nothing_is_named(home: Home, tmp_path: Path) -> None:
    for code in ("1 / 0", "x = 1", "import os; os._exit(1)"):
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        nbformat.write(page, tmp_path / "page.ipynb")
        with pytest.raises(NotebookError, match="shows no page"):
            run_page(home, "S-1", tmp_path / "page.ipynb")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["page.ipynb"]
