"""Where JupyterHub wants its server, and for whom."""

import pytest

from histo_nb.errors import SpecError
from histo_nb.home import Home
from histo_nb.running.serve import hub_place, serve_dashboards


def test_place_is_what_the_hub_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://127.0.0.1:5151/user/ada/")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    assert hub_place() == {
        "hub": True, "port": 5151, "base_url": "/user/ada/", "user": "ada", "token": "",
    }  # fmt: skip


def test_without_a_hub_there_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTERHUB_SERVICE_URL", raising=False)
    with pytest.raises(SpecError, match="--hub is for JupyterHub"):
        hub_place()


def test_empty_token_needs_a_hub_or_a_socket(home: Home) -> None:
    with pytest.raises(SpecError, match="would let everybody in"):
        serve_dashboards(home, port=0, token="")
