"""What became of a cohort, on one page for the next morning: failures first, then the slides.

The page stands alone as a report does: pictures are inside, nothing is fetched, nothing runs; it
names slides by their pseudonyms, and no files.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from PIL import Image

from histo_nb import __version__
from histo_nb.errors import CatalogError
from histo_nb.export.templates import TEMPLATES, jpeg_uri, kind_of, render, write_document
from histo_nb.export.unnamed import unnamed
from histo_nb.export.words import say_code, say_duration, say_time
from histo_nb.files import writing

TEMPLATE = "cohort.html.j2"
PICTURES = 500  # slides shown with their picture; the rest are rows of text
PRINTED = 120  # of them on paper
PICTURE_PX = 220  # longest side
SLOWEST = 10  # slides
NAMED = 40  # slides of one reason that are named at once; the rest unfolds
STAGES = {"mask": "Tissue mask", "tile": "Tiles", "analyse": "Analysis", "report": "Report"}
BROKEN = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)  # of a picture


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Slides that failed at one stage for one reason."""

    stage: str
    reason: str  # it says what to do, too
    slide_ids: list[str]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One slide that has an answer, in words."""

    slide_id: str
    slide_class: str
    confidence: str
    abnormal: str  # share of the tissue
    is_abnormal: bool
    n_doubts: int
    flags: list[str]  # of its mask's quality
    link: str | None  # to its report, relative to the page
    picture: str | None


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What one stage took, over all slides."""

    stage: str
    total: str
    median: str
    p95: str
    share: float  # of all stages, 0–1


def write_cohort_page(facts: Mapping[str, Any], slides: pd.DataFrame, path: Path) -> Path:
    """Write the page of a cohort as one HTML file and return it.

    Parameters
    ----------
    facts
        `cohort_id, started_at, ended_at, seconds, n_workers, slides_per_hour, model_id,
        gate_passed, code, failures_of_intake`, and maybe `normal_class` ("normal").
    slides
        One row a slide, as a cohort's run returns them.
    """
    path = Path(path)
    says = _words(facts, slides, path.parent, pictures=PICTURES)
    page = TEMPLATES.get_template(TEMPLATE).stream(**says)
    page.enable_buffering(50)
    with writing(path) as temporary, temporary.open("wb") as file:
        page.dump(file, encoding="utf-8", errors="replace")
    return path


def write_cohort_report(run_folder: Path, path: Path) -> Path:
    """Write the page of a run that ended, from its folder, as .html or .pdf; return it.

    On paper `PRINTED` slides have a picture, and nothing leads to their reports.

    Raises
    ------
    SpecError
        The suffix is another one.
    CatalogError
        The folder holds no run of a cohort.
    PrintError
        A PDF is asked for, and this machine cannot set type.
    """
    path = Path(path)
    kind = kind_of(path)
    facts, slides = read_run(Path(run_folder))
    if kind == "html":
        return write_cohort_page(facts, slides, path)
    says = _words(facts, slides, None, pictures=PRINTED)
    return write_document(render(TEMPLATE, kind=kind, **says), path)


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return what a run of a cohort left in its folder: its facts, and a row a slide.

    Raises
    ------
    CatalogError
        The folder holds none.
    """
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        slides = pd.read_parquet(folder / "slides.parquet")
        _ = facts["cohort_id"], facts["failures_of_intake"], slides[["slide_id", "state"]]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise CatalogError(
            f"{folder} holds no run of a cohort ({error}); name a folder below runs/ that "
            "`histo-nb cohort` wrote"
        ) from error
    return facts, slides


def _words(
    facts: Mapping[str, Any], slides: pd.DataFrame, folder: Path | None, *, pictures: int
) -> dict[str, Any]:
    """Return all that a page in a folder says; without one, it leads nowhere."""
    done = suspicious_first(slides, normal=facts.get("normal_class", "normal"))
    cards, rows = done[:pictures], done[pictures:]
    return {
        **_summary(facts, slides),
        **_timings(slides),
        "failures": find_failures(facts, slides),
        "named": NAMED,
        "cards": _cards(cards, folder, pictures=True),
        "rows": _cards(rows, folder, pictures=False),
        "n_cards": len(cards),
        "n_rows": len(rows),
    }


def _summary(facts: Mapping[str, Any], slides: pd.DataFrame) -> dict[str, Any]:
    done = slides[slides.state == "done"]
    normal = facts.get("normal_class", "normal")
    per_hour = facts["slides_per_hour"]
    return {
        "cohort_id": facts["cohort_id"],
        "n": len(slides),
        "n_done": len(done),
        "n_failed": int((slides.state == "failed").sum()),
        "n_waiting": int((slides.state == "waiting").sum()),
        "n_refused": len(facts["failures_of_intake"]),
        "stopped_by": unnamed(str(facts.get("stopped_by") or ""), slide_id=""),
        "n_abnormal": int((done.slide_class != normal).sum()),
        "n_doubtful": int((_numbers(done, "n_doubts") > 0).sum()),
        "per_hour": "—" if per_hour is None else f"{per_hour:,.0f}",
        "duration": say_duration(facts["seconds"]),
        "started": say_time(facts["started_at"]),
        "ended": say_time(facts["ended_at"]),
        "n_workers": facts["n_workers"],
        "gate_passed": facts["gate_passed"],
        "facts": [
            ("Model", facts["model_id"]),
            ("Program", f"histo_nb {__version__}"),
            ("Code", say_code(facts["code"])),
        ],
    }


def find_failures(facts: Mapping[str, Any], slides: pd.DataFrame) -> list[Failure]:
    """Return the reasons, the most frequent first; those of one stage stand together."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in facts["failures_of_intake"]:
        reason = unnamed(str(row["error"]), slide_id=str(row["slide_id"]))
        found.setdefault((f"Intake: {row['step']}", reason), []).append(str(row["slide_id"]))
    for row in slides[slides.state == "failed"].to_dict("records"):
        said = row["reason"] if pd.notna(row["reason"]) else "no reason was written"
        stage = STAGES.get(row["stage"], "Before the first stage")
        reason = unnamed(str(said), slide_id=row["slide_id"])
        found.setdefault((stage, reason), []).append(row["slide_id"])
    n_of_stage: dict[str, int] = {}
    for (stage, _), ids in found.items():
        n_of_stage[stage] = n_of_stage.get(stage, 0) + len(ids)
    order = sorted(
        found.items(), key=lambda item: (-n_of_stage[item[0][0]], item[0][0], -len(item[1]))
    )
    return [Failure(stage=stage, reason=reason, slide_ids=ids) for (stage, reason), ids in order]


def suspicious_first(slides: pd.DataFrame, *, normal: str = "normal") -> pd.DataFrame:
    """Return the slides with an answer: abnormal and doubtful, one of both, neither."""
    done = slides[slides.state == "done"]
    abnormal, doubtful = done.slide_class != normal, _numbers(done, "n_doubts") > 0
    order = pd.DataFrame(
        {
            "suspicion": -(abnormal.astype(int) + doubtful.astype(int)),
            "abnormal_fraction": -_numbers(done, "abnormal_fraction"),
            "slide_id": done.slide_id,
        }
    ).sort_values(["suspicion", "abnormal_fraction", "slide_id"])
    return done.assign(is_abnormal=abnormal).loc[order.index]


def _cards(rows: pd.DataFrame, folder: Path | None, *, pictures: bool) -> Iterator[Card]:
    """Yield slides in words; one picture is in memory at a time."""
    for row in rows.to_dict("records"):
        yield Card(
            slide_id=row["slide_id"],
            slide_class=str(row["slide_class"]),
            confidence=_per_cent(row["confidence"]),
            abnormal=_per_cent(row["abnormal_fraction"]),
            is_abnormal=row["is_abnormal"],
            n_doubts=int(row["n_doubts"]) if pd.notna(row["n_doubts"]) else 0,
            flags=row["quality_flags"].split(", ") if _is_text(row["quality_flags"]) else [],
            link=_link(row["report_path"], folder) if folder else None,
            picture=_picture(row["overview_path"]) if pictures else None,
        )


def _per_cent(part: Any) -> str:
    return "—" if pd.isna(part) else f"{part:.0%}"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _link(report: Any, folder: Path) -> str | None:
    """Return the way to a report; None if the page and it share nothing but the root."""
    if not _is_text(report):
        return None
    here, there = os.path.abspath(folder), os.path.abspath(report)  # noqa: PTH100 - links stay
    if os.path.commonpath([here, there]) == os.path.sep:
        return None
    return quote(os.path.relpath(there, here))


def _picture(path: Any) -> str | None:
    if not _is_text(path):
        return None
    try:
        with Image.open(path) as image:
            image.draft("RGB", (PICTURE_PX, PICTURE_PX))
            small = image.convert("RGB")
    except BROKEN:
        return None
    small.thumbnail((PICTURE_PX, PICTURE_PX))
    small.save(file := BytesIO(), "JPEG", quality=80)
    return jpeg_uri(file.getvalue())


def _timings(slides: pd.DataFrame) -> dict[str, Any]:
    seconds = pd.DataFrame({stage: _numbers(slides, f"seconds_{stage}") for stage in STAGES})
    total = seconds.sum(axis=1)
    known = seconds.assign(slide_id=slides.slide_id, total=total)[total > 0]
    return {
        "timings": [_timing(stage, seconds[stage].dropna(), total.sum()) for stage in STAGES],
        "slowest": [
            (row["slide_id"], say_duration(row["total"]), _longest(row))
            for row in known.nlargest(SLOWEST, "total").to_dict("records")
        ],
    }


def _timing(stage: str, seconds: pd.Series, total: float) -> Timing:
    known = len(seconds) > 0
    return Timing(
        stage=STAGES[stage],
        total=say_duration(seconds.sum()) if known else "—",
        median=say_duration(seconds.median()) if known else "—",
        p95=say_duration(float(np.percentile(seconds, 95))) if known else "—",
        share=seconds.sum() / total if total else 0.0,
    )


def _longest(row: Mapping[Any, Any]) -> str:
    stage = max(STAGES, key=lambda stage: np.nan_to_num(row[stage]))
    return f"{STAGES[stage]} {row[stage] / row['total']:.0%}"


def _numbers(table: pd.DataFrame, column: str) -> pd.Series:
    return pd.to_numeric(table[column], errors="coerce")
