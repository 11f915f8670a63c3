"""Is the place where slides are kept well? Disk, stored bytes and catalogue, in words."""

import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from histo_nb.catalog import Catalog, stamp
from histo_nb.home import Home
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
    return [_disk(home, n_bytes_a_day), _files(home.catalog, slides), _holdings(slides)]


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


def _say(what: str, said: str, tone: str) -> dict[str, Any]:
    return {"what": what, "said": said, "tone": tone}
