"""The header of every page: who reads and the way out, where the server knows it."""

import ipywidgets
import pytest

from histo_nb.widgets.page import make_page


def header(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    for name in ("HISTO_USER", "HISTO_LOGOUT", "HISTO_PAGES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    page = make_page("Slide review", ipywidgets.HTML(""))
    return str(page.children[1].value)


def test_reader_and_way_out_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    said = header(monkeypatch, HISTO_USER="<b>ada", HISTO_LOGOUT='/user/"ada/logout')
    assert "&lt;b&gt;ada" in said
    assert 'href="/user/&quot;ada/logout"' in said


def test_without_a_sign_on_there_is_no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "Log out" not in header(monkeypatch)
    assert "Log out" not in header(monkeypatch, HISTO_USER="ada")


def test_only_served_pages_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    said = header(monkeypatch, HISTO_PAGES="review,board")
    assert "board.ipynb" in said
    assert "operations.ipynb" not in said
