"""Serving: which pages, to whom, where; and how it ends."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from serving import Visitor, kernels_of, write_pages

from histo_nb.errors import HistoError, SpecError
from histo_nb.home import Home
from histo_nb.running.serve import serve_dashboards
from histo_nb.widgets.page import _header
from histo_nb.widgets.visitor import visitor_query


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_pages(tmp_path / "pages")


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"pages": ["../review"]}, "is none of"),
        ({"pages": []}, "at least one"),
        ({"token": " "}, "let everybody in"),
        ({"token": ""}, "let everybody in"),
        ({"base_url": "user/ada"}, "begin and end"),
        ({"base_url": "/<script>/"}, "begin and end"),
        ({"max_visitors": 0}, "lets nobody in"),
    ],
)
def test_what_makes_no_sense_is_refused(home: Home, wrong: dict, match: str) -> None:
    with pytest.raises(SpecError, match=match):
        serve_dashboards(home, **{"port": 0, **wrong})


@pytest.mark.parametrize("mode", [0o755, 0o710, 0o701])
def test_socket_lies_in_a_closed_folder(home: Home, tmp_path: Path, mode: int) -> None:
    (tmp_path / "open").mkdir(mode=mode)
    (tmp_path / "open").chmod(mode)
    with pytest.raises(SpecError, match="mkdir -m 700"):
        serve_dashboards(home, socket=tmp_path / "open" / "pages.sock", token="")


def test_proxy_reaches_a_socket_below_its_own_address(
    home: Home, tmp_path: Path, folder: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    options = {"socket": closed / "s", "token": "", "base_url": "/user/ada/", "user": "ada"}
    with serve_dashboards(home, folder=folder, pages=["review"], n_warm=0, **options) as server:
        assert (closed / "s").stat().st_mode & 0o777 == 0o600
        assert server.port == 0
        proxy = Visitor(server, base_url="/user/ada/", path=str(closed / "s"))
        assert proxy.ask("")[1]["Location"] == "/user/ada/voila/render/review.ipynb"
        proxy.open_page()
        _, _, text = proxy.ask("voila/render/review.ipynb")
        assert 'src="/user/ada/voila/static/' in text
        (kernel, *_) = kernels_of(server).values()
        assert kernel.environ()["HISTO_USER"] == "ada"


def test_token_keeps_the_socket_and_login_lies_below_the_base(
    home: Home, tmp_path: Path, folder: Path
) -> None:
    with serve_dashboards(
        home, port=0, folder=folder, pages=["review"], base_url="/a/", n_warm=0
    ) as s:
        status, headers, _ = Visitor(s, base_url="/a/").ask("voila/render/review.ipynb")
        assert (status, headers["Location"].partition("?")[0]) == (302, "/a/login")
        assert Visitor(s, base_url="/a/").ask("login")[0] == 200


def test_taken_port_is_a_named_error(home: Home, folder: Path) -> None:
    options = {"folder": folder, "pages": ["review"], "n_warm": 0}
    with (
        serve_dashboards(home, port=0, **options) as server,
        pytest.raises(HistoError, match="choose another port"),
    ):
        serve_dashboards(home, port=server.port, **options)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_with_its_kernels(home: Home, how: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "histo_nb.running.cli", "serve", "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"HISTO_HOME": str(home.root)},
        start_new_session=True,
    )
    assert process.stderr
    line = process.stderr.readline()
    assert "http://127.0.0.1:" in line
    own = psutil.Process(process.pid)
    while not any("ipykernel_launcher" in c.cmdline() for c in own.children(recursive=True)):
        assert process.poll() is None
    children = own.children(recursive=True)
    if how == signal.SIGINT:
        os.killpg(process.pid, how)  # as a terminal does
    else:
        process.send_signal(how)
    stdout, rest = process.communicate(timeout=60)
    assert process.returncode == 0
    assert json.loads(stdout) == {"served": str(home.root), "status": 0}
    assert rest == ""
    assert psutil.wait_procs(children, timeout=10)[1] == []


def test_page_links_to_pages_that_are_served_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _header("Operations").count("<a ") == 3
    monkeypatch.setenv("HISTO_PAGES", "review,operations")
    header = _header("Operations")
    assert header.count("<a ") == 2
    assert "board" not in header
    monkeypatch.setenv("HISTO_PAGES", "review")
    assert "<nav" not in _header("Slide review")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("slide=S-17", {"slide": "S-17"}),
        ("slide=%3Cb%3E", {"slide": "<b>"}),  # text; whoever shows it escapes it
        ("slide=a%00b", {}),
        ("slide=a%0Ab", {}),
        ("Slide=a&__class__=b&1=c", {}),
        (f"slide={'a' * 201}", {}),
        ("&".join(f"{c}=1" for c in "abcdefghij"), dict.fromkeys("abcdefgh", "1")),
        ("", {}),
    ],
)
def test_query_is_short_and_printable(
    monkeypatch: pytest.MonkeyPatch, text: str, found: dict
) -> None:
    monkeypatch.setenv("HISTO_QUERY", text)
    assert visitor_query() == found
