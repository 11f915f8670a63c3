"""What the operations page says: read from the catalogue and put into words, nothing drawn.

Nothing here names a patient: slides stand under their `slide_id`, refused ones under the name they
have in quarantine.
"""

from datetime import datetime, timedelta
from typing import Any

import pandas as pd

from histo_nb.catalog import Catalog, stamp
from histo_nb.home import Home
from histo_nb.widgets.operations_health import read_health
from histo_nb.widgets.visitor import is_served
from histo_nb.widgets.words import clock, count, size

SLIDES_SHOWN = 24  # the latest that fit; the rest is counted
ROWS = 50  # entries of a list that are sent to the page
DAYS = 7  # of the chart, today last
TROUBLE = {
    "slot failed": "A slide could not be scanned",
    "scanner needs attention": "The scanner needs attention",
    "file incomplete": "A file in the hot folder does not become whole",
    "series incomplete": "A DICOM series does not become whole",
    "hot folder in trouble": "The hot folder is in trouble",
    "slide damaged": "A stored slide is damaged",
}
STEPS = {  # of intake, as a technician says them
    "files": "files missing",
    "structure": "cut off or damaged",
    "open": "cannot be opened",
    "mpp": "scale unknown",
    "read": "cannot be read",
    "limits": "too large or too slow",
}
# Where a slide stands on its way: its words, and their tone.
STAGES = {
    "unanalysed": ("not analysed", "warn"),
    "unjudged": ("to judge", "accent"),
    "unsigned": ("to sign", "accent"),
    "signed": ("signed", "ok"),
}
SHOWS = {  # what the list of scans may show, and what it says when that is nothing
    "today": ("Filed today", "No slide has come in today. What is scanned appears here by itself."),
    "week": ("Filed in 7 days", "No slide has come in for seven days."),
    "unanalysed": ("Not analysed", "Every slide is analysed."),
    "unjudged": ("To judge", "No analysed slide waits for a doctor’s judgement."),
    "unsigned": ("To sign", "No judged slide waits for a signature."),
    "all": ("All slides", "No slide is here yet. Scan a rack, or put files into the hot folder."),
}
FIGURES = {  # words, tone where there is something, and the words in full
    "today": ("filed today", "good", "Slides that came in today and are whole"),
    "waiting": ("waiting", "calm", "Files at the door that are not whole yet"),
    "quarantine": ("in quarantine", "warn", "Slides that were refused"),
    "failures": ("failures", "warn", "What went wrong today, and damage that is still there"),
    "unanalysed": ("not analysed", "warn", "Slides in the catalogue that no model has seen"),
    "unjudged": ("to judge", "calm", "Analysed slides that wait for a doctor’s judgement"),
    "unsigned": ("to sign", "calm", "Judged slides that wait for a doctor’s signature"),
}


def read_facts(home: Home, *, show: str = "today", text: str = "") -> dict[str, Any]:
    """Read what the page shows.

    Parameters
    ----------
    show, text
        Which slides are listed: a key of `SHOWS`, and what their name or source contains.

    Returns
    -------
    `day`, `trouble` (or ""), `figures` as `{key, n, what, says, tone}`, `week`, `health`, `shows`,
    what was asked for (`show`, `text`, `nothing`, `n_found`), `review` (may slides be opened?), and
    the lists `racks`, `slides`, `waiting`, `quarantine` and `failures`, each the latest first;
    times are of this machine.

    Raises
    ------
    CatalogError
        The catalogue does not open.
    """
    today = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    since, catalog = stamp(today), home.catalog
    slides = _with_stages(catalog)
    choices = _choices(slides, today)
    refusals, waiting = catalog.refusals(), catalog.waiting()
    failures = _failures(catalog.events(since=since), catalog.damaged_files())
    found = _find(choices[show], text)
    a_day = float(choices["week"].n_bytes.sum()) / DAYS
    counts = {
        "today": len(choices["today"]),
        "waiting": len(waiting),
        "quarantine": len(refusals),
        "failures": len(failures),
        **{name: len(choices[name]) for name in ("unanalysed", "unjudged", "unsigned")},
    }
    return {
        "day": today.strftime("%A, %-d %B %Y"),
        "trouble": "",
        "figures": [_figure(key, n) for key, n in counts.items()],
        "week": _week(choices["week"], today),
        "health": read_health(home, slides=slides, n_bytes_a_day=a_day),
        "shows": [[name, words] for name, (words, _) in SHOWS.items()],
        "show": show,
        "text": text,
        "nothing": f"No slide here is called “{text}”." if text else SHOWS[show][1],
        "n_found": len(found),
        "review": is_served("review"),
        "racks": _racks(catalog.scans(since=since)),
        "slides": [_slide(row) for row in found[:SLIDES_SHOWN].to_dict("records")],
        "waiting": [_waiting(row) for row in waiting[:ROWS].to_dict("records")],
        "quarantine": [_refusal(row) for row in refusals[:ROWS].to_dict("records")],
        "failures": failures[:ROWS],
    }


# ---------------------------------------------------------------------------------- slides
def _with_stages(catalog: Catalog) -> pd.DataFrame:
    """Return all slides, the latest first, with the `stage` each has reached."""
    slides, reviews = catalog.slides_since(""), catalog.reviews(kinds=("slide", "signature"))
    signed = reviews.slide_id[reviews.kind == "signature"]
    judged = reviews.slide_id[reviews.kind == "slide"]
    stage = pd.Series("unanalysed", index=slides.index)
    stage[slides.slide_id.isin(catalog.results().slide_id)] = "unjudged"
    stage[slides.slide_id.isin(judged)] = "unsigned"
    stage[slides.slide_id.isin(signed)] = "signed"
    return slides.assign(stage=stage)


def _choices(slides: pd.DataFrame, today: datetime) -> dict[str, pd.DataFrame]:
    """Return the slides of each of `SHOWS`."""
    first = stamp(today - timedelta(days=DAYS - 1))
    waits = {name: slides[slides.stage == name] for name in STAGES}
    times = slides.added_at.astype(str)
    return waits | {
        "today": slides[times >= stamp(today)],
        "week": slides[times >= first],
        "all": slides,
    }


def _find(slides: pd.DataFrame, text: str) -> pd.DataFrame:
    names = slides.slide_id.astype(str) + " " + slides.source.astype(str)
    return slides[names.str.contains(text.strip(), case=False, regex=False)]


def _slide(row: dict[Any, Any]) -> dict[str, Any]:
    millimetres = [side * row["slide_mpp"] / 1000 for side in (row["width"], row["height"])]
    words, tone = STAGES[row["stage"]]
    return {
        "slide_id": row["slide_id"],
        "at": clock(row["added_at"]),
        "source": row["source"],
        "size": f"{millimetres[0]:.1f}×{millimetres[1]:.1f} mm · {row['slide_mpp']:.3g} µm/px",
        "stage": words,
        "tone": tone,
    }


# --------------------------------------------------------------------------------- figures
def _figure(key: str, n: int) -> dict[str, Any]:
    what, tone, says = FIGURES[key]
    return {"key": key, "n": n, "what": what, "says": says, "tone": tone if n else "none"}


def _week(slides: pd.DataFrame, today: datetime) -> dict[str, Any]:
    """Return the chart of the last days, today last, and what it shows in a sentence."""
    days = [(today - timedelta(days=i)).date() for i in reversed(range(DAYS))]
    filed = [datetime.fromisoformat(at).astimezone().date() for at in slides.added_at]
    counts = [filed.count(day) for day in days]
    most = max(counts)
    busiest = days[counts.index(most)].strftime("%A")
    said = f"{count(sum(counts), 'slide')} in {DAYS} days"
    bars = [
        {
            "day": day.strftime("%a"),
            "date": day.strftime("%-d %B"),
            "n": n,
            "share": n / (most or 1),
        }
        for day, n in zip(days, counts, strict=True)
    ]
    return {"bars": bars, "said": f"{said}, most on {busiest} ({most})." if most else f"{said}."}


# ----------------------------------------------------------------------------------- lists
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


def _waiting(row: dict[Any, Any]) -> dict[str, Any]:
    return {"source": row["source"], "reason": row["reason"], "since": clock(row["since"])}


def _refusal(row: dict[Any, Any]) -> dict[str, Any]:
    return {
        "quarantine_id": row["quarantine_id"],
        "at": clock(row["refused_at"]),
        "source": row["source"],
        "step": STEPS.get(row["step"], row["step"]),
        "asks_mpp": row["step"] == "mpp",
        # The page has a field where the command line has an option.
        "reason": row["reason"].replace(" with --slide-mpp", " below"),
        "size": size(row["n_bytes"]),
    }


def _failures(events: pd.DataFrame, damaged: pd.DataFrame) -> list[dict[str, Any]]:
    """Return today's failures, and the damage found earlier that is still there."""
    today = [
        {
            "what": TROUBLE[row["what"]],
            "subject": row["subject"],
            "reason": row["detail"] or "",
            "at": clock(row["at"]),
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
            "at": clock(row["verified_at"]),
        }
        for row in earlier.to_dict("records")
    ]
