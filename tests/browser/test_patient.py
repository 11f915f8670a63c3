"""The way in for patients: one page, from one link, to nothing else; in a browser and without."""

import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from judged import HOSTILE, PATIENT, add_result, judge_region, sign
from reviewed import NO_CHROMIUM

from histo_nb.home import Home, open_home
from histo_nb.running.links import make_link, revoke_links
from histo_nb.running.serve import DashboardServer, serve_dashboards

INVALID, OVER = "This link is not valid", "This link shows nothing any more"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with S-1 signed, S-2 signed under a hostile class, S-3 judged only."""
    home = open_home(tmp_path_factory.mktemp("home"))
    for slide_id in ("S-1", "S-2", "S-3"):
        judge_region(home, add_result(home, slide_id), 0)
    sign(home, "carcinoma", note=HOSTILE)
    sign(home, HOSTILE[:64], slide_id="S-2")
    return home


@pytest.fixture(scope="module")
def server(home: Home) -> Iterator[DashboardServer]:
    with serve_dashboards(home, port=0) as running:
        yield running


@pytest.fixture(scope="module")
def base(server: DashboardServer) -> str:
    return f"http://127.0.0.1:{server.port}"


def ask(url: str, method: str = "GET") -> tuple[int, str, dict[str, str]]:
    """What the server answers to somebody without a cookie."""
    request = urllib.request.Request(url, method=method, data=b"a=1" if method == "POST" else None)
    try:
        answer = urllib.request.urlopen(request)
    except urllib.error.HTTPError as error:
        answer = error
    return answer.status, answer.read().decode(), dict(answer.headers)


def ask_raw(server: DashboardServer, path: bytes) -> bytes:
    """What the server answers to a path that no client would send."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_link_shows_its_slide_without_login_and_closes_all_doors(home: Home, base: str) -> None:
    status, page, headers = ask(make_link(home, "S-1", base_url=base).address)
    assert status == 200
    assert "Cancer cells were found" in page
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline';")
    assert "script" not in policy
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert "noindex" in headers["X-Robots-Tag"]
    assert not {"Set-Cookie", "Server", "Etag"} & {*headers}
    assert "<script" not in page
    words = re.sub(r"base64,[^\"]*", "", page)
    for name in (PATIENT, *PATIENT.split(), ".svs", "S-1", "M-1", str(home.root), "Ada", "Error"):
        assert name not in words


@pytest.mark.parametrize(
    "path",
    ["", "/", "/x", "/..", "/../voila/render/review.ipynb", "/%2e%2e/%2e%2e/etc/passwd",
     "/..%2f..%2fcatalog.sqlite", "/S-1", "/" + "a" * 5000, "/%00", "/%F0%9F%98%80", "/?slide=S-1"],
)  # fmt: skip
def test_what_is_no_link_is_one_calm_page(base: str, path: str) -> None:
    status, page, headers = ask(f"{base}/patient{path}")
    assert status in (403, 429)
    assert INVALID in page or "Please wait a moment" in page
    assert headers["Cache-Control"] == "no-store"
    assert "Traceback" not in page


def test_forged_links_are_refused_alike_whether_there_is_a_slide_or_not(
    home: Home, base: str
) -> None:
    token = make_link(home, "S-1").token
    body, _, seal = token.rpartition(".")
    answers = {ask(f"{base}/patient/{t}")[1] for t in (body, f"{body}.{seal[:-3]}AAA", "S-1.S-1")}
    assert len(answers) <= 2  # "not valid", or "wait"


def test_link_of_another_slide_shows_that_one_only(home: Home, base: str) -> None:
    address = make_link(home, "S-2", base_url=base).address
    for more in ("", "?slide_id=S-1", "?slide=S-1&HISTO_PATIENT_SLIDE=S-1"):
        status, page, _ = ask(address + more)
        assert status == 200
        assert "Your result: &lt;script&gt;" in page
        assert "Cancer cells" not in page
    assert ask(f"{address}/../S-1")[0] in (403, 429)


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_but_reading_is_understood(home: Home, base: str, method: str) -> None:
    status, page, _ = ask(make_link(home, "S-1", base_url=base).address, method)
    assert status == 405
    assert "Cancer" not in page


def test_unsigned_and_withdrawn_results_are_gone_at_once(home: Home, base: str) -> None:
    sign(home, "adenoma", slide_id="S-3")
    address = make_link(home, "S-3", base_url=base).address
    assert ask(address)[0] == 200
    sign(home, None, slide_id="S-3")
    status, page, _ = ask(address)
    assert (status, OVER in page) == (410, True)
    sign(home, "normal", slide_id="S-3")  # signed anew: the link shows what holds now
    assert "The tissue looks normal" in ask(address)[1]
    revoke_links(home, "S-3")
    assert ask(address)[0] == 410
    old = make_link(home, "S-3", days=1e-9, base_url=base).address
    assert ask(old)[0] == 410


def test_a_link_opens_nothing_else_of_the_server(home: Home, base: str) -> None:
    token = make_link(home, "S-1").token
    for path in ("voila/render/patient.ipynb", "voila/render/review.ipynb", "api/kernels", ""):
        status, page, _ = ask(f"{base}/{path}?token={token}")
        assert status != 200 or "Log in" in page or 'type="password"' in page


def test_raw_nonsense_is_answered(server: DashboardServer) -> None:
    for path in (b"/patient/../../etc/passwd", b"/patient/\xff\xfe", b"/patient//", b"/patient/%"):
        first = ask_raw(server, path).split(b"\r\n")[0]
        assert first.split()[1] in (b"400", b"403", b"404", b"429")


def test_many_bad_links_are_slowed_and_good_ones_are_not(home: Home, base: str) -> None:
    answers = [ask(f"{base}/patient/x{i}")[0] for i in range(25)]
    assert answers[-1] == 429
    assert ask(make_link(home, "S-1", base_url=base).address)[0] == 200


@NO_CHROMIUM
def test_in_a_browser_no_script_runs_and_nothing_else_is_asked(
    browser: Any, home: Home, base: str
) -> None:
    address = make_link(home, "S-2", base_url=base).address
    phone = {"width": 360, "height": 740}
    page = browser.new_context(viewport=phone, color_scheme="dark").new_page()
    asked, wrong = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda channel: asked.append(channel.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    page.goto(address, wait_until="networkidle")
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert wrong == []
    assert page.evaluate("window.planted") is None
    assert page.evaluate("document.scripts.length") == 0
    assert page.evaluate("document.querySelectorAll('img').length") == 1
    assert page.evaluate("document.images[0].naturalWidth") == 1200
    assert page.evaluate("document.documentElement.scrollWidth") <= phone["width"]
    assert page.get_by_text("Research use only — not for diagnosis").is_visible()
    assert page.get_by_role("heading", level=1).inner_text().startswith("Your result: <script>")
    page.context.close()
