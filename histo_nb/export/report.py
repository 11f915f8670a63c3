"""The report of one slide, as a page (HTML) or on paper (PDF): the answer, who checked it, why.

Both stand alone: pictures are inside, nothing is fetched, nothing runs. Nothing in them names a
patient or a file; texts of reviewers are shown as they are, never as markup.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from histo_nb.catalog import now
from histo_nb.errors import SlideError
from histo_nb.export.model_facts import read_model
from histo_nb.export.pictures import Picture, paint_overview, paint_place
from histo_nb.export.report_facts import find_inputs, list_facts, list_limits
from histo_nb.export.templates import Kind, check_kind, kind_of, render, write_document
from histo_nb.export.words import say_time
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult, find_result, hash_result, read_result
from histo_nb.inference.trust import reasons_for_doubt
from histo_nb.reviews import find_signature, region_key
from histo_nb.slide import Slide

LISTED = 40  # regions of the model in the table; the rest is counted
NEAR = 6  # places shown from near: two rows on paper


@dataclass(frozen=True, kw_only=True)
class Place:
    """A region that the model found, or a place that a reviewer drew."""

    label: str
    outline: BaseGeometry  # level-0 px
    area: str
    probability: str
    judged: list[str]  # a line a reviewer
    near: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report says, in words; both kinds are written from it."""

    slide_id: str
    model_class: str
    confidence: str
    signature: dict[str, str] | None  # label, note, reviewer, reviewed_at
    opinions: list[str]  # on the class of the slide
    doubts: list[str]
    overview: Picture | None  # None = the slide cannot be read
    places: list[Place]
    n_more: int  # regions that are not listed
    comments: list[tuple[str, str]]  # of whom on what, when; the words
    model: list[tuple[str, str]]
    limits: list[str]
    facts: list[tuple[str, str]]
    inputs: list[tuple[str, str]]  # what decides the answer, by hashes
    written_at: str

    @property
    def answer(self) -> str:
        """The signed class, else the model's."""
        return self.signature["label"] if self.signature else self.model_class


def write_report(home: Home, slide_id: str, path: Path) -> Path:
    """Write a slide's report as the kind that the path's suffix names, .html or .pdf; return it.

    Raises
    ------
    SpecError
        The suffix is another one.
    CatalogError
        There is no such slide, or it was not analysed.
    PrintError
        A PDF is asked for, and this machine cannot set type.
    """
    path = Path(path)
    return write_document(make_report(home, slide_id, kind=kind_of(path)), path)


def make_report(home: Home, slide_id: str, *, kind: Kind = "html") -> bytes:
    """Return a slide's report as the bytes of a file; see `write_report`."""
    check_kind(kind)  # before the slide is read
    return render_report(collect_report(home, slide_id), kind=kind)


def render_report(report: Report, *, kind: Kind = "html") -> bytes:
    """Return what was collected as the bytes of a file."""
    return render("report.html.j2", kind=kind, r=report)


def collect_report(home: Home, slide_id: str, *, folder: Path | None = None) -> Report:
    """Return what the report of a slide says.

    Parameters
    ----------
    folder
        Of the result it is about; the latest one's by default.

    Raises
    ------
    CatalogError
        There is no such slide, or it was not analysed.
    """
    slide = home.catalog.slide(slide_id)
    folder = folder or find_result(home, slide_id)
    result = read_result(folder)
    reviews = home.catalog.reviews([slide_id])
    places = _find_places(result, reviews, slide_mpp=slide["slide_mpp"])
    overview, places = _paint(slide, places)
    return Report(
        slide_id=slide_id,
        model_class=result.slide_class,
        confidence=f"{result.confidence:.0%}",
        signature=_say_signature(reviews),
        opinions=[_say_judged(row) for row in _rows(reviews, "slide")],
        doubts=reasons_for_doubt(result),
        overview=overview,
        places=places,
        n_more=max(len(result.regions) - LISTED, 0),
        comments=_comments(reviews, places),
        model=[*read_model(home, result.model_id).summary],
        limits=list_limits(result),
        facts=list_facts(result),
        inputs=find_inputs(result, slide=slide, result_sha256=hash_result(folder)),
        written_at=say_time(now()),
    )


def _rows(reviews: pd.DataFrame, kind: str) -> list[dict[Any, Any]]:
    return reviews[reviews.kind == kind].to_dict("records")


def _find_places(result: SlideResult, reviews: pd.DataFrame, *, slide_mpp: float) -> list[Place]:
    """Return the model's regions, the largest first, then what reviewers drew."""
    judged: dict[str, list[str]] = {}
    for row in _rows(reviews, "region"):
        judged.setdefault(row["subject"], []).append(_say_judged(row))
    regions = [
        Place(
            label=region.label,
            outline=region.outline,
            area=f"{region.measurements['area_mm2']:.3g} mm²",
            probability=f"{region.measurements['probability']:.0%}",
            judged=judged.get(region_key(region.outline), []),
        )
        for region in result.regions[:LISTED]
    ]
    for row in _rows(reviews, "annotation"):
        outline = shape(json.loads(row["outline"]))
        area = outline.area * (slide_mpp / 1000) ** 2
        regions.append(
            Place(
                label=row["label"] or "no class",
                outline=outline,
                area=f"{area:.3g} mm²" if area else "a point",
                probability="—",
                judged=[_say_judged(row)],
            )
        )
    return regions


def _say_judged(row: Mapping[Any, Any]) -> str:
    """Return one decision in words.

    >>> row = {"verdict": "disagree", "label": "adenoma", "reviewer": "Ada"}
    >>> _say_judged(row | {"reviewed_at": "2026-03-01T09:05:11+00:00"})
    'Ada disagrees: adenoma (1 March 2026, 09:05 UTC)'
    """
    says = {"agree": "agrees", "disagree": "disagrees", "drawn": "drew this"}[row["verdict"]]
    label = f": {row['label']}" if row["label"] else ""
    return f"{row['reviewer']} {says}{label} ({say_time(row['reviewed_at'])})"


def _say_signature(reviews: pd.DataFrame) -> dict[str, str] | None:
    said = find_signature(reviews)
    return {**said, "reviewed_at": say_time(said["reviewed_at"])} if said else None


def _comments(reviews: pd.DataFrame, places: list[Place]) -> list[tuple[str, str]]:
    number = {region_key(p.outline): f"place {i}" for i, p in enumerate(places, 1)}  # type: ignore[arg-type]
    found = []
    for row in reviews[reviews.note.fillna("").str.strip() != ""].to_dict("records"):
        outline = shape(json.loads(row["outline"])) if row["outline"] else None
        what = number.get(region_key(outline), "a place") if outline else "the slide"  # type: ignore[arg-type]
        who = f"{row['reviewer']} on {what}, {say_time(row['reviewed_at'])}"
        found.append((who, row["note"]))
    return found


def _paint(row: Mapping[str, Any], places: list[Place]) -> tuple[Picture | None, list[Place]]:
    """Return the picture of the slide, and the places with pictures of the first of them."""
    try:
        with Slide(row["slide_path"], slide_mpp=row["slide_mpp"]) as slide:
            overview = paint_overview(slide, [place.outline for place in places])
            near = [replace(p, near=paint_place(slide, p.outline)) for p in places[:NEAR]]
    except SlideError:  # its message names the file; the report says that there is no picture
        return None, places
    return overview, near + places[NEAR:]
