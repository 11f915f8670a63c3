"""Personal links: a signed address that shows a patient one slide's signed result, for some days.

A link holds the slide, its days and a seal; whoever has no key can neither make nor change one.
The key never leaves `HISTO_HOME/identity`. What a link shows is what is signed when it is opened.
"""

import hashlib
import math
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from itsdangerous import BadData, URLSafeSerializer

from histo_nb.catalog import stamp
from histo_nb.errors import LinkError, ReviewError, SpecError
from histo_nb.home import Home
from histo_nb.reviews import find_signature
from histo_nb.scanning.identity import secret

MAX_DAYS = 365.0  # a result that is older is asked for again
MAX_TOKEN = 1000  # characters
MADE, REVOKED = "patient link made", "patient links withdrawn"  # events
PURPOSE = "histo_nb patient link 1"
KEY = "link_key"


@dataclass(frozen=True)
class Link:
    """A personal link; its address is as secret as what it shows."""

    address: str
    until: str  # ISO 8601, UTC

    @property
    def token(self) -> str:
        """The part of the address that is signed."""
        return self.address.rpartition("/")[2]


def make_link(
    home: Home,
    slide_id: str,
    *,
    days: float = 14.0,
    base_url: str = "http://127.0.0.1:8866",
    at: datetime | None = None,
) -> Link:
    """Make a link to the signed result of a slide; an event says who made it, and for how long.

    Parameters
    ----------
    base_url
        Where the patient reaches the pages.
    at
        When it is made, now by default.

    Raises
    ------
    ReviewError
        Nobody signed the slide.
    SpecError
        `days` is no number above 0 up to 365, or `base_url` no address of a web server.
    """
    if not re.fullmatch(r"https?://[^\s?#]+", base_url):
        raise SpecError(f"base_url={base_url!r} is no address; write https://host/path")
    if not (math.isfinite(days) and 0 < days <= MAX_DAYS):
        raise SpecError(f"days={days} must be above 0 and at most {MAX_DAYS:g}")
    home.catalog.slide(slide_id)
    if find_signature(home.catalog.reviews([slide_id])) is None:
        raise ReviewError(f"{slide_id} is not signed; sign it first, on the review page")
    made = at or datetime.now(UTC)
    until = made + timedelta(days=days)
    home.catalog.note(MADE, slide_id, f"good for {days:g} days")
    said = {
        "slide": slide_id,
        "made": stamp(made),
        "until": stamp(until),
        "nonce": secrets.token_urlsafe(12),  # two links are never the same
    }
    address = f"{base_url.rstrip('/')}/patient/{_seal(home).dumps(said)}"
    return Link(address, until.isoformat(timespec="seconds"))


def open_link(home: Home, token: str, *, at: datetime | None = None) -> tuple[str, str]:
    """Return the slide that a link shows, and when it was signed.

    Raises
    ------
    LinkError
        It is forged or cut, or it has expired, was withdrawn, or the slide is not signed now.
    """
    said = _read(home, token)
    slide_id, now = str(said["slide"]), stamp(at or datetime.now(UTC))
    signature = find_signature(home.catalog.reviews([slide_id]))
    if now >= said["until"] or signature is None or _is_revoked(home, slide_id, said["made"]):
        raise LinkError("this link shows nothing any more; ask for a new one", is_ours=True)
    return slide_id, signature["reviewed_at"]


def revoke_links(home: Home, slide_id: str) -> None:
    """Withdraw every link to a slide that was made so far; an event says who did."""
    home.catalog.slide(slide_id)
    home.catalog.note(REVOKED, slide_id)


def _read(home: Home, token: str) -> dict[str, Any]:
    try:
        if len(token) > MAX_TOKEN:
            raise BadData("too long")
        said: dict[str, Any] = _seal(home).loads(token)
    except (BadData, UnicodeError) as error:
        raise LinkError("this is no link of ours; check that it is whole", is_ours=False) from error
    return said


def _is_revoked(home: Home, slide_id: str, made: str) -> bool:
    return len(home.catalog.events(since=made, what=REVOKED, subject=slide_id)) > 0


def _seal(home: Home) -> URLSafeSerializer:
    signer = {"key_derivation": "hmac", "digest_method": hashlib.sha256}
    return URLSafeSerializer(secret(home, KEY), salt=PURPOSE, signer_kwargs=signer)
