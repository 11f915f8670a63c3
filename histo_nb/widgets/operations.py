"""The scanner room's page: what came in today, what waits, what was refused, what failed.

Nothing here names a patient: slides stand under their `slide_id`, refused ones under the name they
have in quarantine; pictures come from filed slides alone, never from a label.
"""

import logging
from datetime import UTC, datetime
from typing import Any

import ipywidgets
import pandas as pd
import traitlets

from histo_nb.errors import HistoError
from histo_nb.home import Home
from histo_nb.scanning.intake import IntakeSpec, release
from histo_nb.widgets.detail import small_picture
from histo_nb.widgets.newest import Newest
from histo_nb.widgets.page import make_page
from histo_nb.widgets.widget import Widget, script, style

log = logging.getLogger(__name__)

PICTURE_PX = 240  # longest side of a slide's picture
PICTURES = 24  # of the latest slides; older ones of the day are counted only
ROWS = 50  # entries of a list that are sent to the page
TROUBLE = {
    "slot failed": "A slide could not be scanned",
    "scanner needs attention": "The scanner needs attention",
    "file incomplete": "A file in the hot folder does not become whole",
    "series incomplete": "A DICOM series does not become whole",
    "hot folder in trouble": "The hot folder is in trouble",
    "slide damaged": "A stored slide is damaged",
}


def show_operations(home: Home) -> ipywidgets.Widget:
    """Return the operations page of `home`, to be shown by a notebook; it renews itself."""
    return make_page("Operations", Operations(home))


class Operations(Widget):
    """The page's content; its front end asks for news every few seconds."""

    _esm = traitlets.Unicode(script("operations")).tag(sync=True)
    _css = traitlets.Unicode(style("operations")).tag(sync=True)
    facts = traitlets.Dict().tag(sync=True)  # see `read_facts`
    pictures = traitlets.Dict().tag(sync=True)  # slide_id → JPEG
    busy = traitlets.List().tag(sync=True)  # quarantine_ids that are being examined
    message = traitlets.Unicode().tag(sync=True)  # what became of the last one

    def __init__(self, home: Home) -> None:
        super().__init__()
        self.add_class("ho-host")
        self._home = home
        self._examining, self._painting = Newest(), Newest()
        self.refresh()
        self.on_msg(self._receive)

    def refresh(self) -> None:
        """Read the catalogue again."""
        try:
            self.facts = read_facts(self._home)
        except HistoError as error:
            log.exception("the catalogue of %s does not open", self._home.root)
            self.facts = {**self.facts, "trouble": f"The catalogue cannot be read. {error}"}
            return
        self._painting.do(self._paint)

    def wait(self, timeout_s: float) -> bool:
        """Wait until all that was asked for is done; False if that takes longer."""
        return self._examining.wait(timeout_s) and self._painting.wait(timeout_s)

    def _paint(self) -> None:
        shown = [entry["slide_id"] for entry in self.facts.get("slides", [])]
        self.pictures = {name: self.pictures[name] for name in shown if name in self.pictures}
        for slide_id in shown:
            if slide_id not in self.pictures:
                picture = small_picture(self._home, slide_id, longest_px=PICTURE_PX)
                self.pictures = self.pictures | {slide_id: picture}

    def _receive(self, _: Any, message: dict[str, Any], __: list[memoryview]) -> None:
        if message.get("kind") == "refresh":
            self.refresh()
        elif message.get("kind") == "release" and not self.busy:
            name, mpp = message.get("quarantine_id"), message.get("slide_mpp")
            known = {entry["quarantine_id"] for entry in self.facts.get("quarantine", [])}
            if name in known and (mpp is None or isinstance(mpp, (int, float))):
                self.busy, self.message = [name], ""
                self._examining.do(lambda: self._release(str(name), mpp))

    def _release(self, quarantine_id: str, slide_mpp: float | None) -> None:
        try:
            arrival = release(quarantine_id, self._home, spec=IntakeSpec(slide_mpp=slide_mpp))
        except (HistoError, OSError) as error:
            self.message = f"{quarantine_id} stays in quarantine. {error}"
        else:
            self.message = (
                f"{quarantine_id} is filed as {arrival.slide_id}."
                if arrival.slide_id
                else f"{quarantine_id} stays in quarantine: {arrival.reason}"
            )
        finally:
            self.busy = []
        self.refresh()

    def leave(self) -> dict[str, Any]:
        """Return its state in words."""
        said = " · ".join(f"{f['n']} {f['what']}" for f in self.facts.get("figures", []))
        return {"text/plain": f"Operations: {said}"}


def read_facts(home: Home) -> dict[str, Any]:
    """Read from the catalogue what the page shows.

    Returns
    -------
    `day`, `trouble` (or ""), `figures` as `{n, what, tone}`, and the lists `racks`, `slides`,
    `waiting`, `quarantine` and `failures`, each the latest first; times are of this machine.

    Raises
    ------
    CatalogError
        The catalogue does not open.
    """
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    since = today.astimezone(UTC).isoformat(timespec="microseconds")
    catalog = home.catalog
    slides, refusals, waiting = catalog.slides_since(since), catalog.refusals(), catalog.waiting()
    failures = _failures(catalog.events(since=since), catalog.damaged_files())
    return {
        "day": today.strftime("%A, %-d %B %Y"),
        "trouble": "",
        "figures": [
            _figure(len(slides), "filed today", "good"),
            _figure(len(waiting), "waiting", "calm"),
            _figure(len(refusals), "in quarantine", "warn"),
            _figure(len(failures), "failures", "warn"),
        ],
        "racks": _racks(catalog.scans(since=since)),
        "slides": [_slide(row) for row in slides[:PICTURES].to_dict("records")],
        "waiting": [_waiting(row) for row in waiting[:ROWS].to_dict("records")],
        "quarantine": [_refusal(row) for row in refusals[:ROWS].to_dict("records")],
        "failures": failures[:ROWS],
    }


def _figure(n: int, what: str, tone: str) -> dict[str, Any]:
    return {"n": n, "what": what, "tone": tone if n else "calm"}


def _racks(scans: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "rack_id": rack_id,
            "slots": [
                {"slot": row["slot"], "state": row["state"], "reason": row["reason"] or ""}
                for row in rows.to_dict("records")
            ],
        }
        for rack_id, rows in scans.groupby("rack_id", sort=False)
    ]


def _slide(row: dict[Any, Any]) -> dict[str, Any]:
    millimetres = [side * row["slide_mpp"] / 1000 for side in (row["width"], row["height"])]
    return {
        "slide_id": row["slide_id"],
        "at": _clock(row["added_at"]),
        "source": row["source"],
        "size": f"{millimetres[0]:.1f} × {millimetres[1]:.1f} mm at {row['slide_mpp']:.3g} µm/px",
    }


def _waiting(row: dict[Any, Any]) -> dict[str, Any]:
    return {"source": row["source"], "reason": row["reason"], "since": _clock(row["since"])}


def _refusal(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        "quarantine_id": row["quarantine_id"],
        "at": _clock(row["refused_at"]),
        "source": row["source"],
        "step": row["step"],
        "reason": row["reason"],
        "size": f"{row['n_bytes'] / 1e6:,.1f} MB",
    }


def _failures(events: pd.DataFrame, damaged: pd.DataFrame) -> list[dict[str, Any]]:
    """Return today's failures, and the damage found earlier that is still there."""
    today = [
        {
            "what": TROUBLE[row["what"]],
            "subject": row["subject"],
            "reason": row["detail"] or "",
            "at": _clock(row["at"]),
        }
        for row in events[events.what.isin(list(TROUBLE))].to_dict("records")
    ]
    told = {entry["subject"] for entry in today if entry["what"] == TROUBLE["slide damaged"]}
    earlier = damaged[~damaged.slide_id.isin(list(told))].drop_duplicates("slide_id")
    return today + [
        {
            "what": TROUBLE["slide damaged"],
            "subject": row["slide_id"],
            "reason": row["damage"],
            "at": _clock(row["verified_at"]),
        }
        for row in earlier.to_dict("records")
    ]


def _clock(moment: str) -> str:
    """Return a time of the catalogue as this machine's clock shows it, with the day if not today.

    >>> _clock("2020-02-03T10:00:00.000000+00:00")[:5]
    '3 Feb'
    """
    local = datetime.fromisoformat(moment).astimezone()
    is_today = local.date() == datetime.now().astimezone().date()
    return local.strftime("%H:%M" if is_today else "%-d %b %H:%M")
