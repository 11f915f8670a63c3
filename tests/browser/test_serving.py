"""The served pages and their doors: what guests get, and what neither they nor strangers do."""

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from reviewed import NO_CHROMIUM
from serving import Visitor, answers, kernels_of, pack, write_pages
from websockets.exceptions import InvalidStatus

from histo_nb.home import Home, open_home
from histo_nb.running.serve import DashboardServer, serve_dashboards

SECRET = "planted-secret-of-the-server"
KERNEL = "00000000-0000-0000-0000-000000000000"
PAGES = ("review", "broken", "silent")

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DashboardServer]:
    folder = write_pages(tmp_path_factory.mktemp("dashboards") / "pages")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_SECRET", SECRET)
        patch.setenv("JUPYTER_TOKEN", SECRET)
        home = open_home(tmp_path_factory.mktemp("home"))
        with serve_dashboards(home, port=0, folder=folder, pages=PAGES) as running:
            yield running


@pytest.fixture
def guest(server: DashboardServer) -> Visitor:
    return Visitor(server).enter()


@pytest.fixture
def stranger(server: DashboardServer) -> Visitor:
    return Visitor(server)


@pytest.fixture(scope="module")
def rooms(server: DashboardServer) -> dict[str, str]:
    """Where scripts lie."""
    _, _, text = Visitor(server).enter().ask("voila/render/silent.ipynb")
    return dict(re.findall(r"(?=voila/(static|labextensions)/\w)(voila/\w+/\w+)", text))


@pytest.fixture
def kernel(guest: Visitor) -> Iterator[str]:
    """The kernel of a guest's page."""
    kernel_id = guest.open_page()
    yield kernel_id
    guest.ask(f"voila/api/shutdown/{kernel_id}", method="POST")


@pytest.fixture
def serve(home: Home, tmp_path: Path) -> Iterator[Callable[..., DashboardServer]]:
    """Start a server of the test pages with settings of the test's own."""
    folder = write_pages(tmp_path / "pages")
    running: list[DashboardServer] = []

    def start(**options: Any) -> DashboardServer:
        running.append(serve_dashboards(home, port=0, folder=folder, pages=PAGES, **options))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_context(viewport={"width": 1280, "height": 720}).new_page()
    page.refused = []
    page.on("console", lambda m: page.refused.append(m.text) if "Content Security" in m.text else 0)
    page.on("pageerror", lambda error: page.refused.append(str(error)))
    yield page
    page.context.close()


def until(is_so: Callable[[], Any]) -> Any:
    """Wait until something is so."""
    for _ in range(300):
        if found := is_so():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came to be so")


# ------------------------------------------------------------------------------- strangers
@pytest.mark.parametrize(
    "path",
    [
        "",
        "?token=wrong",
        "voila/render/review.ipynb",
        "voila/render/hidden.ipynb",
        "voila/static/x/voila.js",
        "voila/labextensions/x/anywidget/package.json",
        "voila/files/picture.png",
        "voila/files/data.csv",
        "picture.png",
        "api/kernels",
        f"api/kernels/{KERNEL}",
        "api/contents",
        "tree",
        "metrics",
    ],
)
def test_stranger_sees_the_login_and_nothing_else(stranger: Visitor, path: str) -> None:
    status, headers, text = stranger.ask(path)
    assert (status, headers.get("Location", "").partition("?")[0]) in {(302, "/login"), (403, "")}
    assert "planted" not in text


def test_stranger_reaches_no_kernel(stranger: Visitor, kernel: str) -> None:
    assert stranger.ask(f"api/kernels/{kernel}")[0] == 403
    assert stranger.ask(f"api/kernels/{kernel}", method="DELETE")[0] == 403
    assert stranger.ask(f"voila/api/shutdown/{kernel}", method="POST")[0] == 403
    with pytest.raises(InvalidStatus) as refused:
        stranger.channel(kernel)
    assert refused.value.response.status_code == 403


def test_forged_cookie_is_none(stranger: Visitor, guest: Visitor) -> None:
    (name,) = (name for name in guest.cookies if name.startswith("username-"))
    stranger.cookies[name] = guest.cookies[name][:-8] + "00000000"
    assert stranger.ask("voila/render/review.ipynb")[0] == 302


def test_login_asks_for_the_token_and_a_form_of_ours(
    stranger: Visitor, server: DashboardServer
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    right = f"login?password={server.token}"
    assert stranger.ask(right, method="POST", **form)[0] == 403  # without the form's own secret
    _, _, text = stranger.ask("login?next=//elsewhere.example/")
    found = re.search(r'name="_xsrf" value="([^"]+)"', text)
    assert found
    assert stranger.ask(f"login?password=wrong&_xsrf={found[1]}", method="POST", **form)[0] == 401
    status, headers, _ = stranger.ask(
        f"{right}&_xsrf={found[1]}&next=//elsewhere.example/", method="POST", **form
    )
    assert status == 302
    assert not headers["Location"].startswith(("//", "http"))
    assert stranger.ask("voila/render/nothing.ipynb")[0] == 404


def test_cookie_is_of_this_site_and_hidden_from_scripts(guest: Visitor) -> None:
    (cookie,) = (c for c in guest.set_cookies if c.startswith("username-"))
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "expires" not in cookie.lower()


# ---------------------------------------------------------------------------------- guests
@pytest.mark.parametrize(
    "path",
    [
        "voila/render/hidden.ipynb",
        "voila/render/../../setup.py",
        "voila/render/..%2fhidden.ipynb",
        "voila/render/%2e%2e/pages/review.ipynb",
        "voila/render/./review.ipynb",
        "voila/render//review.ipynb",
        "voila/render/review.ipynb%00",
        "voila/render/review.ipynb%00.png",
        "voila/render/%252e%252e%252freview.ipynb",
        "voila/render//etc/passwd",
        "voila/render/review",
        "voila/render/picture.png",
        "voila/files/picture.png",
        "voila/files/review.ipynb",
        "voila/files/data.csv",
        "voila/files/../../etc/passwd",
        "voila/templates/lab/static/voila.js",
        "voila/templates/..%2f..%2fstatic/x",
        "voila/static/x/voila.js",
        "voila/tree",
        "voila/api/contents/",
        "voila/api/themes/x",
        "voila/query/" + KERNEL,
        "voila/execution/" + KERNEL,
        "voila/nothing",
        "api",
        "api/kernels",
        "api/kernelspecs",
        "api/sessions",
        "api/contents",
        "api/contents/review.ipynb",
        "api/terminals",
        "api/me",
        "terminals/websocket/1",
        "nbconvert/html/review.ipynb",
        "files/data.csv",
        "metrics",
        "review.ipynb",
        "logout",
    ],
)
def test_guest_gets_pages_and_nothing_beside(guest: Visitor, path: str) -> None:
    status, _, text = guest.ask(path)
    assert status == 404
    assert "There is no such page" in text
    assert "planted" not in text


@pytest.mark.parametrize(
    "path", ["../page.html", "..%2f..%2fapp.py", "%2e%2e/index.html.j2", "//etc/passwd", "%00"]
)
@pytest.mark.parametrize("room", ["static", "labextensions"])
def test_scripts_lie_in_their_folders_only(
    guest: Visitor, rooms: dict[str, str], room: str, path: str
) -> None:
    status, _, text = guest.ask(f"{rooms[room]}/{path}")
    assert status in {403, 404}
    assert "import " not in text
    assert "root:" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_guest_changes_nothing(guest: Visitor, kernel: str, method: str) -> None:
    xsrf = {"X-XSRFToken": guest.cookies.get("_xsrf", "")}
    for path in ("api/kernels", f"api/kernels/{kernel}", "api/sessions", "api/contents/x"):
        assert guest.ask(path, method=method, **xsrf)[0] in {403, 404, 405}
    assert guest.ask(f"api/kernels/{kernel}")[0] == 200


def test_page_cannot_run_code(guest: Visitor, kernel: str, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w').close()"
    execute = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    evaluate = {"type": "request", "seq": 1, "command": "evaluate"}
    debug = evaluate | {"arguments": {"expression": code, "context": "repl"}}
    state = {"_model_module": "@jupyter-widgets/controls", "_model_name": "LabelModel"}
    with guest.channel(kernel) as socket:
        for channel in ("shell", "control", "stdin", "iopub", "other"):
            socket.send(pack("execute_request", execute, channel=channel))
            socket.send(pack("debug_request", debug, channel=channel))
            socket.send(pack("input_reply", {"value": code}, channel=channel))
            for target in ("ipykernel.foreign", "jupyter.widget", ""):
                opened = {"comm_id": "1", "target_name": target, "data": {"state": state}}
                socket.send(pack("comm_open", opened, channel=channel))
            socket.send(pack("shutdown_request", {"restart": False}, channel=channel))
        said = answers(socket) + answers(socket)
    assert not ran.exists()
    assert "execute_reply" not in said
    assert "debug_reply" not in said
    assert "comm_close" not in said  # what a kernel says of a target it does not know
    assert guest.ask(f"api/kernels/{kernel}")[0] == 200


@pytest.mark.parametrize(
    "message",
    [
        b"nothing",
        b"\xff" * 64,  # 2**64 - 1 parts
        (5).to_bytes(8, "little") + b"\x00" * 40,
        b"\x00" * 8,
        '{"header": {"msg_type": "execute_request"}, "channel": "shell", "content": {}}',
        "no json",
    ],
)
def test_nonsense_harms_nobody(guest: Visitor, kernel: str, message: bytes | str) -> None:
    with guest.channel(kernel) as socket:
        socket.send(message)
        assert "kernel_info_reply" in answers(socket)


def test_old_protocol_says_nothing(guest: Visitor, kernel: str, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w').close()"
    text = (
        '{"header": {"msg_type": "execute_request", "msg_id": "1", "session": "s", "version": "5"},'
        ' "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],'
        f' "content": {{"code": "{code}", "silent": false}}}}'
    )
    with guest.channel(kernel, subprotocols=None) as socket:
        socket.send(text)
    with guest.channel(kernel) as socket:
        answers(socket)
    assert not (tmp_path / "ran").exists()


def test_foreign_page_gets_no_channel(guest: Visitor, kernel: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        guest.channel(kernel, origin="http://elsewhere.example")
    assert refused.value.response.status_code == 403


def test_waiting_kernel_belongs_to_nobody(serve: Callable[..., DashboardServer]) -> None:
    server = serve()
    (waiting,) = until(lambda: kernels_of(server).values())
    connection = next(arg for arg in waiting.cmdline() if "kernel-" in arg)
    found = re.search(r"kernel-([\w-]+)\.json", connection)
    assert found
    with pytest.raises(InvalidStatus) as refused:
        Visitor(server).enter().channel(found[1])
    assert refused.value.response.status_code == 404


def test_headers_close_what_a_page_does_not_need(guest: Visitor, stranger: Visitor) -> None:
    asked = [(guest, "voila/render/silent.ipynb"), (guest, "voila/nothing"), (stranger, "login")]
    for visitor, path in asked:
        _, headers, text = visitor.ask(path)
        parts = headers["Content-Security-Policy"].split("; ")
        policy = dict(part.partition(" ")[::2] for part in parts)
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self' blob:"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert "no-store" in headers["Cache-Control"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        inline = re.findall(r"<script(?![^>]*\bsrc=)(?![^>]*json)", text)
        assert inline == []


def test_scripts_are_kept_by_browsers(guest: Visitor, rooms: dict[str, str]) -> None:
    _, headers, _ = guest.ask(f"{rooms['static']}/page.js")
    assert headers["Cache-Control"].startswith("private")
    assert "immutable" in headers["Cache-Control"]


# --------------------------------------------------------------------------------- kernels
@pytest.mark.parametrize("n_warm", [0, 1])
def test_kernel_knows_no_secret(
    serve: Callable[..., DashboardServer], monkeypatch: pytest.MonkeyPatch, n_warm: int
) -> None:
    monkeypatch.setenv("PLANTED_SECRET", SECRET)
    monkeypatch.setenv("JUPYTER_TOKEN", SECRET)
    server = serve(n_warm=n_warm)
    until(lambda: len(kernels_of(server)) == n_warm)
    visitor = Visitor(server).enter()
    visitor.open_page(query=f"?slide=S-1&token={server.token}")
    kernels = kernels_of(server)
    assert kernels
    for kernel in kernels.values():
        environment = kernel.environ()
        assert "HISTO_HOME" in environment
        assert environment["HISTO_PAGES"] == ",".join(PAGES)
        told = " ".join([*environment.values(), *kernel.cmdline()])
        assert SECRET not in told
        assert server.token not in told
        assert "PLANTED_SECRET" not in environment


def test_no_more_visitors_than_places(serve: Callable[..., DashboardServer]) -> None:
    server = serve(max_visitors=2, settings={"VisitorKernels": {"patience_s": 0.0}})
    visitors = [Visitor(server).enter() for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda v: v.ask("voila/render/review.ipynb"), visitors))
    assert sorted(status for status, _, _ in told) == [200, 200, 503, 503, 503, 503]
    for status, headers, text in told:
        if status == 503:
            assert headers["Retry-After"] == "20"
            assert "Many people are reading" in text
    (found, *_) = (re.search(r'"kernelId": "([\w-]+)"', t) for s, _, t in told if s == 200)
    assert found
    for _ in range(2):  # a second farewell frees no second place
        assert visitors[0].ask(f"voila/api/shutdown/{found[1]}", method="POST")[0] == 204
    assert visitors[0].ask("voila/render/review.ipynb")[0] == 200
    assert visitors[0].ask("voila/render/review.ipynb")[0] == 503


def test_page_that_does_not_open_takes_no_place(serve: Callable[..., DashboardServer]) -> None:
    server = serve(max_visitors=1, n_warm=0, settings={"VisitorKernels": {"patience_s": 0.0}})
    visitor = Visitor(server).enter()
    assert visitor.ask("voila/render/nothing.ipynb")[0] == 404
    visitor.open_page()


@NO_CHROMIUM
def test_left_kernels_go_and_open_pages_stay(
    serve: Callable[..., DashboardServer], page: Any
) -> None:
    culling = {"MappingKernelManager": {"cull_idle_timeout": 8, "cull_interval": 1}}
    server = serve(settings=culling | {"VisitorKernels": {"refill_s": 0.0}})
    page.goto(server.url)
    page.get_by_role("button", name="Press").wait_for(timeout=60_000)
    until(lambda: len(kernels_of(server)) == 2)  # the page's and one that waits
    before = set(kernels_of(server))
    Visitor(server).enter().open_page()  # is never connected to
    until(lambda: set(kernels_of(server)) - before)
    until(lambda: len(kernels_of(server)) == 2 and len(set(kernels_of(server)) & before) == 1)
    page.wait_for_timeout(10_000)  # some more rounds of culling
    assert len(kernels_of(server)) == 2
    page.get_by_role("button", name="Press").click()
    page.get_by_text("1", exact=True).wait_for()


@NO_CHROMIUM
def test_page_loaded_anew_or_closed_gives_its_place_back(
    serve: Callable[..., DashboardServer], browser: Any
) -> None:
    server = serve(max_visitors=1)
    for _ in range(2):
        page = browser.new_context().new_page()
        page.goto(server.url)
        for _ in range(3):
            page.get_by_role("button", name="Press").wait_for(timeout=60_000)
            page.reload()
        page.get_by_role("button", name="Press").wait_for(timeout=60_000)
        page.close(run_before_unload=False)


# ------------------------------------------------------------------------------- the pages
@NO_CHROMIUM
def test_warm_page_shows_what_this_visitor_asked(server: DashboardServer, page: Any) -> None:
    for name in ("S-1", "<img src=x onerror=alert(1)>"):
        page.goto(f"{server.url}")
        page.goto(f"http://127.0.0.1:{server.port}/voila/render/review.ipynb?slide={name}")
        page.get_by_text(name, exact=True).wait_for(timeout=60_000)
        assert page.locator("img[src=x]").count() == 0
        assert page.locator("html").get_attribute("lang") == "en"
    assert page.refused == []


@NO_CHROMIUM
@pytest.mark.parametrize("name", ["broken", "silent"])
def test_failing_page_is_a_calm_message(server: DashboardServer, page: Any, name: str) -> None:
    page.goto(server.url)
    page.goto(f"http://127.0.0.1:{server.port}/voila/render/{name}.ipynb")
    page.get_by_text("This page could not be opened").wait_for(timeout=60_000)
    for word in ("secret failure", "Traceback", "ValueError", "plain text"):
        assert word not in page.content()


@NO_CHROMIUM
def test_lost_kernel_is_said_and_a_reload_helps(
    serve: Callable[..., DashboardServer], page: Any
) -> None:
    server = serve(n_warm=0)
    page.goto(server.url)
    page.get_by_role("button", name="Press").wait_for(timeout=60_000)
    assert not page.locator("#lost").is_visible()
    (kernel,) = kernels_of(server).values()
    kernel.kill()
    page.get_by_text("The connection to this page was lost").wait_for(timeout=60_000)
    page.get_by_role("button", name="Reload").click()
    page.get_by_role("button", name="Press").wait_for(timeout=60_000)
    assert not page.locator("#lost").is_visible()


@NO_CHROMIUM
def test_busy_page_tries_again_by_itself(
    serve: Callable[..., DashboardServer], browser: Any
) -> None:
    server = serve(max_visitors=1, settings={"VisitorKernels": {"patience_s": 0.0}})
    first, second = (browser.new_context().new_page() for _ in range(2))
    first.goto(server.url)
    first.get_by_role("button", name="Press").wait_for(timeout=60_000)
    second.clock.install()
    second.goto(server.url)
    second.get_by_text("Many people are reading just now").wait_for()
    first.close()
    second.clock.fast_forward(21_000)
    second.get_by_role("button", name="Press").wait_for(timeout=60_000)


@NO_CHROMIUM
def test_page_follows_the_readers_dark(server: DashboardServer, browser: Any) -> None:
    seen = {}
    for scheme in ("light", "dark"):
        page = browser.new_context(color_scheme=scheme).new_page()
        page.goto(f"http://127.0.0.1:{server.port}/")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        seen[scheme] = sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3
        page.context.close()
    assert seen["dark"] < 64
    assert seen["light"] > 192


@NO_CHROMIUM
def test_nothing_is_asked_of_anyone_else(server: DashboardServer, page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url))
    page.goto(server.url)
    page.get_by_role("button", name="Press").wait_for(timeout=60_000)
    own = (f"http://127.0.0.1:{server.port}/", f"ws://127.0.0.1:{server.port}/", "data:", "blob:")
    assert [url for url in asked if not url.startswith(own)] == []
    assert server.token not in page.url
