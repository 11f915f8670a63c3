"""What people say of slides and of places on them: agree, disagree, draw, sign.

Each is a row of the catalogue with who and when; nothing is overwritten. What a reviewer takes back
is a row as well.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import cast

import pandas as pd
import shapely
from shapely.geometry import shape

from histo_nb.annotations import Annotation, Outline
from histo_nb.errors import ReviewError
from histo_nb.home import Home

VERDICTS = {
    "slide": ("agree", "disagree"),
    "region": ("agree", "disagree"),
    "annotation": ("drawn",),
    "signature": ("signed",),
}
MAX_LABEL, MAX_NOTE, MAX_OUTLINE = 64, 2000, 500_000  # characters
MAX_REVIEWER = 64


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One decision on a slide; `verdict` None takes the former one on the same subject back.

    `label` is the class the reviewer says it is: with `agree` that of the model, with `disagree`
    another one or None (only: not that), with `signed` the class that is signed.
    """

    slide_id: str
    kind: str  # a key of VERDICTS
    verdict: str | None
    subject: str = ""  # `region_key`, or an annotation's own name; "" = the slide
    label: str | None = None
    note: str = ""
    outline: str | None = None  # GeoJSON geometry, level-0 px
    model_id: str | None = None  # whose answer was judged


def judge(home: Home, judgement: Judgement, *, reviewer: str) -> int:
    """Check a decision, write it to the catalogue and return its number.

    Raises
    ------
    ReviewError
        It is no decision of its kind, says too much, its outline is no outline on this slide, a
        signature has no class, or the slide is signed.
    """
    reviewer = reviewer.strip()
    if not 0 < len(reviewer) <= MAX_REVIEWER:
        raise ReviewError(f"say who you are first: a name of 1–{MAX_REVIEWER} characters")
    _check(judgement)
    slide = home.catalog.slide(judgement.slide_id)
    if judgement.outline is not None:
        _check_outline(judgement.outline, size=(slide["width"], slide["height"]))
    return home.catalog.add_review({**asdict(judgement), "reviewer": reviewer})


def region_key(outline: Outline) -> str:
    """Return a name of a region that follows from its outline alone, whatever its number."""
    return hashlib.sha256(outline.normalize().wkb).hexdigest()[:12]


def find_signature(reviews: pd.DataFrame) -> dict[str, str] | None:
    """Return who signed one slide, as which class, with which words, when; None = nobody did.

    Parameters
    ----------
    reviews
        Of one slide; see `Catalog.reviews`.
    """
    signed = reviews[reviews.kind == "signature"]
    if signed.empty:
        return None
    row = signed.iloc[-1]
    return {name: row[name] for name in ("label", "note", "reviewer", "reviewed_at")}


def settle_places(reviews: pd.DataFrame) -> pd.DataFrame:
    """Return the places on slides that reviewers gave a class: one row each, with `annotation`.

    Judged regions and drawn outlines with an area. Where reviewers give one region different
    classes, or one of them none, it is left out.

    Returns
    -------
    `slide_id, subject, label, reviewer` (all who say so), `reviewed_at` (the last of them),
    `annotation`.
    """
    places = reviews[reviews.kind.isin(["region", "annotation"]) & reviews.outline.notna()]
    found = []
    for (slide_id, subject), rows in places.groupby(["slide_id", "subject"], sort=False):
        labels = set(rows.label)
        outline = shape(json.loads(rows.outline.iloc[-1]))
        if len(labels) == 1 and None not in labels and outline.area > 0:
            (label,) = labels
            found.append(
                {
                    "slide_id": slide_id,
                    "subject": subject,
                    "label": label,
                    "reviewer": ", ".join(sorted(rows.reviewer)),
                    "reviewed_at": rows.reviewed_at.max(),
                    "annotation": Annotation(cast(Outline, outline), label),
                }
            )
    columns = ["slide_id", "subject", "label", "reviewer", "reviewed_at", "annotation"]
    return pd.DataFrame(found, columns=columns)


def _check(judgement: Judgement) -> None:
    known = VERDICTS.get(judgement.kind, ())
    if judgement.verdict not in (*known, None) or not known:
        raise ReviewError(
            f"{judgement.kind}={judgement.verdict!r} is no decision; choose among "
            f"{', '.join(known or VERDICTS)}"
        )
    if (judgement.kind in ("region", "annotation")) != bool(judgement.subject):
        raise ReviewError(f"subject={judgement.subject!r} does not fit a {judgement.kind}")
    for name, longest in (("label", MAX_LABEL), ("note", MAX_NOTE), ("subject", MAX_LABEL)):
        if len(getattr(judgement, name) or "") > longest:
            raise ReviewError(f"{name} is longer than {longest} characters; shorten it")
    if judgement.verdict == "signed" and not judgement.label:
        raise ReviewError("a signature needs a class; agree with it or correct it first")


def _check_outline(outline: str, *, size: tuple[int, int]) -> None:
    try:
        if len(outline) > MAX_OUTLINE:
            raise ValueError(f"more than {MAX_OUTLINE:,} characters")
        geometry = shape(json.loads(outline))
        if geometry.geom_type not in ("Polygon", "MultiPolygon", "Point"):
            raise ValueError(f"a {geometry.geom_type}")
        if geometry.is_empty or not geometry.is_valid:
            raise ValueError("it crosses itself, or has no points")
        if not geometry.intersects(shapely.box(0, 0, *size)):
            raise ValueError(f"it lies outside the slide of {size[0]} × {size[1]} px")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError,
            shapely.errors.ShapelyError) as error:  # fmt: skip
        raise ReviewError(f"the outline is none on this slide ({error}); draw it again") from error
