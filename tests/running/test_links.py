"""Personal links: what opens, what does not, and what is left behind."""

import base64
import hashlib
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from itsdangerous import URLSafeSerializer
from judged import add_result, sign

from histo_nb.errors import CatalogError, LinkError, ReviewError, SpecError
from histo_nb.home import Home, open_home
from histo_nb.running import links
from histo_nb.running.cli import main
from histo_nb.running.links import make_link, open_link, revoke_links
from histo_nb.running.patient import PASSED_ON, SLIDE_VARIABLE, kernel_environment
from histo_nb.widgets import patient

START = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def signed(home: Home) -> Home:
    """A home with a signed slide, S-1, and one that is not signed, S-2."""
    add_result(home)
    add_result(home, "S-2")
    sign(home, "carcinoma")
    return home


def refused(home: Home, token: str, *, ours: bool, at: datetime | None = None) -> bool:
    with pytest.raises(LinkError) as caught:
        open_link(home, token, at=at)
    return caught.value.is_ours is ours


def test_link_opens_its_slide_until_its_last_day(signed: Home) -> None:
    link = make_link(signed, "S-1", days=14, base_url="https://clinic.example/r/", at=START)
    assert link.address == f"https://clinic.example/r/patient/{link.token}"
    assert link.until == "2026-03-15T12:00:00+00:00"
    end = START + timedelta(days=14)
    assert open_link(signed, link.token, at=end - timedelta(seconds=1))[0] == "S-1"
    assert refused(signed, link.token, ours=True, at=end)
    longer = make_link(signed, "S-1", days=20, at=START)
    assert open_link(signed, longer.token, at=end)[0] == "S-1"


def test_it_shows_what_is_signed_at_the_moment(signed: Home) -> None:
    token = make_link(signed, "S-1").token
    before = open_link(signed, token)[1]
    sign(signed, None)
    assert refused(signed, token, ours=True)
    sign(signed, "adenoma")
    assert open_link(signed, token)[1] > before


def test_unsigned_and_unknown_slides_get_none(signed: Home) -> None:
    with pytest.raises(ReviewError, match="sign it first"):
        make_link(signed, "S-2")
    with pytest.raises(CatalogError):
        make_link(signed, "S-9")
    assert signed.catalog.events().what.tolist().count(links.MADE) == 0


def test_withdrawn_links_are_dead_and_later_ones_live(signed: Home) -> None:
    first, other = make_link(signed, "S-1").token, make_link(signed, "S-1").token
    at_once = [make_link(signed, "S-1", at=START).token for _ in range(2)]
    assert len({first, other, *at_once}) == 4
    sign(signed, "normal", slide_id="S-2")
    of_other = make_link(signed, "S-2").token
    revoke_links(signed, "S-1")
    assert refused(signed, first, ours=True)
    assert refused(signed, other, ours=True)
    assert open_link(signed, of_other)[0] == "S-2"
    assert open_link(signed, make_link(signed, "S-1").token)[0] == "S-1"
    with pytest.raises(CatalogError):
        revoke_links(signed, "S-9")


def test_seal_of_another_key_purpose_or_kind_opens_nothing(signed: Home) -> None:
    said = {"slide": "S-1", "made": "2026", "until": "2027", "nonce": ""}
    key = (signed.identity / "link_key") if make_link(signed, "S-1") else None
    assert key is not None
    for secret, salt in ((b"guess", links.PURPOSE), (key.read_bytes(), "other purpose")):
        signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
        forged = URLSafeSerializer(secret, salt=salt, signer_kwargs=signer)
        assert refused(signed, str(forged.dumps(said)), ours=False)
    elsewhere = open_home(signed.root.parent / "elsewhere")
    assert refused(elsewhere, make_link(signed, "S-1").token, ours=False)


def test_payload_of_another_slide_does_not_fit_the_seal(signed: Home) -> None:
    sign(signed, "normal", slide_id="S-2")
    first, other = make_link(signed, "S-1").token, make_link(signed, "S-2").token
    body, seal = other.rpartition(".")[0], first.rpartition(".")[2]
    assert refused(signed, f"{body}.{seal}", ours=False)
    free = base64.urlsafe_b64encode(json.dumps({"slide": "S-2"}).encode()).decode().rstrip("=")
    assert refused(signed, f"{free}.{seal}", ours=False)


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "../../etc/passwd", "x" * 10**6, "\0", "é€😀", "\ud800", "S-1", "a.b.c"],
)
def test_what_is_no_link_is_refused(signed: Home, token: str) -> None:
    make_link(signed, "S-1")
    assert refused(signed, token, ours=False)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 10**6), letter=st.sampled_from("aZ0_-.é \n"))
def test_no_changed_letter_opens_another_slide(signed: Home, where: int, letter: str) -> None:
    token = make_link(signed, "S-1").token
    at = where % len(token)
    changed = token[:at] + letter + token[at + 1 :]
    if changed == token:
        return
    try:  # the last letter of base64 has bits that say nothing: the same seal
        assert open_link(signed, changed)[0] == "S-1"
        assert at == len(token) - 1
    except LinkError as error:
        assert not error.is_ours  # both ways are right


@pytest.mark.parametrize(
    "wrong",
    [{"days": 0}, {"days": -1}, {"days": 400}, {"days": float("nan")}, {"base_url": "clinic"},
     {"base_url": "javascript:alert(1)"}, {"base_url": "https://a b"}, {"base_url": "https://a?b"}],
)  # fmt: skip
def test_wrong_days_or_address_are_named(signed: Home, wrong: dict) -> None:
    with pytest.raises(SpecError):
        make_link(signed, "S-1", **wrong)
    assert links.MADE not in signed.catalog.events().what.tolist()


def test_key_is_private_and_made_once(signed: Home) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = [*pool.map(lambda _: make_link(signed, "S-1").token, range(8))]
    assert {open_link(signed, token)[0] for token in tokens} == {"S-1"}
    key = signed.identity / "link_key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert len(key.read_bytes()) == 32
    assert not any(key.read_bytes().hex() in value for value in os.environ.values())


def test_events_tell_of_links_but_not_the_links(signed: Home) -> None:
    link = make_link(signed, "S-1", days=3)
    revoke_links(signed, "S-1")
    events = signed.catalog.events()
    assert events.what.tolist()[:2] == [links.REVOKED, links.MADE]
    assert events.subject.tolist()[:2] == ["S-1", "S-1"]
    assert events.detail[1] == "good for 3 days"
    part = link.token.split(".")[-1]
    assert not events.astype(str).apply(lambda column: column.str.contains(part)).any().any()


def test_command_makes_and_withdraws(signed: Home) -> None:
    def run(*arguments: str) -> dict:
        done = CliRunner().invoke(main, ["link", *arguments, "--json", "--home", str(signed.root)])
        return json.loads(done.stdout)

    answer = run("S-1", "--days", "2", "--base-url", "https://clinic.example")
    token = answer["link"].rpartition("/")[2]
    assert answer["link"].startswith("https://clinic.example/patient/")
    assert open_link(signed, token)[0] == "S-1"
    assert run("--revoke", "S-1") == {"slide_id": "S-1", "links": "withdrawn"}
    assert refused(signed, token, ours=True)
    assert run("S-2")["kind"] == "ReviewError"
    assert run("S-1", "--base-url", "ftp://x")["kind"] == "SpecError"


def test_kernel_of_a_page_is_told_one_slide_and_no_secret(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_TOKEN", "secret")
    monkeypatch.setenv("HISTO_USER", "somebody")
    told = kernel_environment(home, "S-1")
    assert told[SLIDE_VARIABLE] == "S-1"
    assert told["HISTO_HOME"] == str(home.root)
    assert {*told} <= {*PASSED_ON, SLIDE_VARIABLE, "HISTO_HOME", "OMP_NUM_THREADS"}
    assert patient.SLIDE_VARIABLE == SLIDE_VARIABLE  # two rooms that may not import one another
