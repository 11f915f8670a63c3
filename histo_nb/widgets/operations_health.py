"""Is the place where slides are kept well? Disk, stored bytes, catalogue, service: in words."""

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from histo_nb.catalog import Catalog, stamp
from histo_nb.home import Home
from histo_nb.service_state import is_ill, read_state
from histo_nb.widgets.words import clock, count, size

VERIFY_DAYS = 30  # stored bytes are looked at again at least this often
LOW_DAYS, LOW_SHARE = 14, 0.05  # a disk that lasts less long, or has less left, needs a person
LONG_DAYS = 1000  # nobody plans further ahead


def read_health(home: Home, *, slides: pd.DataFrame, n_bytes_a_day: float) -> list[dict[str, Any]]:
    """Return `{what, said, tone}` of each; the tone is "ok", "warn" or "danger".

    Parameters
    ----------
    slides
        All of the catalogue.
    n_bytes_a_day
        What has come in lately.
    """
    rows = [_disk(home, n_bytes_a_day), _files(home.catalog, slides), _holdings(slides)]
    return [*rows, *_service(home)]


def _disk(home: Home, n_bytes_a_day: float) -> dict[str, Any]:
    """Say how much room is left for slides, and how long it lasts at this week's pace."""
    try:
        disk = shutil.disk_usage(home.slides)
    except OSError as error:
        return _say("Disk", f"It does not answer ({error.strerror}).", "danger")
    said = f"{size(disk.free)} free of {size(disk.total)}"
    days_left = disk.free / n_bytes_a_day if n_bytes_a_day else float("inf")
    is_low = days_left < LOW_DAYS or disk.free / disk.total < LOW_SHARE
    if days_left < LONG_DAYS:
        said += f"; at this week’s pace enough for {count(int(days_left), 'day')}"
    if is_low:
        return _say("Disk", f"{said}. Make room, or give HISTO_HOME a larger disk.", "danger")
    return _say("Disk", f"{said}.", "ok")


def _files(catalog: Catalog, slides: pd.DataFrame) -> dict[str, Any]:
    """Say whether the stored bytes are what arrived, and when somebody last looked."""
    what, files = "Stored slides", catalog.slide_files()
    n_damaged = int(files.damage.notna().sum())
    if n_damaged:
        return _say(what, f"{count(n_damaged, 'file')} damaged: see Failures.", "danger")
    arrived = files.slide_id.map(slides.set_index("slide_id").added_at)
    seen = files.verified_at.where(files.verified_at.notna(), arrived).astype(str)
    limit = stamp(datetime.now(UTC) - timedelta(days=VERIFY_DAYS))
    n_due = int((seen < limit).sum())
    if n_due:
        said = f"{n_due:,} of {len(files):,} files not checked for {VERIFY_DAYS} days."
        return _say(what, f"{said} Run histo-nb verify.", "warn")
    last = files.verified_at.dropna()
    when = f"last checked {clock(last.max())}" if len(last) else "not checked again yet"
    return _say(what, f"{count(len(files), 'file')}, none damaged; {when}.", "ok")


def _holdings(slides: pd.DataFrame) -> dict[str, Any]:
    held = f"{count(len(slides), 'slide')}, {size(float(slides.n_bytes.sum()))}"
    return _say("Catalogue", f"It answers; {held}.", "ok")


def _service(home: Home) -> list[dict[str, Any]]:
    """Say whether the service runs and takes slides; nothing where there never was one."""
    if not (home.root / "service").is_dir():
        return []
    what, facts = "Service", read_state(home.root)
    if facts["state"] != "running":
        return [_say(what, f"It is {facts['state']}. Start it again.", "danger")]
    ill = [f"{part['part']} is {part['state']}" for part in facts["parts"] if is_ill(part)]
    if ill:
        return [_say(what, f"It runs, but {', '.join(ill)}: see histo-nb status.", "danger")]
    if facts["held"]:
        return [_say(what, f"It takes no slides: {facts['held']}.", "warn")]
    return [_say(what, f"It runs since {clock(facts['since'])} and takes slides.", "ok")]


def _say(what: str, said: str, tone: str) -> dict[str, Any]:
    return {"what": what, "said": said, "tone": tone}
