"""One reader's judgements on one page: said, taken back, shown."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd
from shapely.geometry import mapping

from histo_nb.catalog import account
from histo_nb.errors import ReviewError
from histo_nb.home import Home
from histo_nb.inference.result import SlideResult
from histo_nb.reviews import MAX_REVIEWER, Judgement, find_signature, judge, region_key
from histo_nb.widgets.words import clock

STATUS_KINDS = {"slide": "read", "signature": "signed"}  # what says how far a slide is; last wins


class Judging:
    """Writes what the reader of a page says, and remembers how to take it back."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._before: list[Judgement] = []  # what to write to take the last ones back
        self.is_known = bool(os.environ.get("HISTO_USER"))  # the server let in exactly this person
        self.reviewer = account() if self.is_known else ""

    def name(self, reviewer: str) -> None:
        """Take the name that the reader gives; not where the server knows better.

        Another reader takes nothing back that was not theirs.
        """
        if not self.is_known and reviewer.strip() != self.reviewer:
            self.reviewer = reviewer.strip()[:MAX_REVIEWER]
            self._before.clear()

    def judge_slide(
        self, result: SlideResult, *, verdict: str | None, label: str | None, note: str
    ) -> None:
        """Say which class a slide is of."""
        self._write(self._judgement(result, "slide", verdict=verdict, label=label, note=note))

    def judge_region(
        self, result: SlideResult, index: int, *, verdict: str | None, label: str | None
    ) -> None:
        """Agree or disagree with a region; `label` is what it is instead, if that was said."""
        region = result.regions[index]
        self._write(
            self._judgement(
                result,
                "region",
                subject=region_key(region.outline),
                verdict=verdict,
                label=region.label if verdict == "agree" else label,
                outline=json.dumps(mapping(region.outline)),
            )
        )

    def draw(self, result: SlideResult, place: dict[str, Any]) -> None:
        """Write a drawn place, or take it back (`{"kind": "erase"}`)."""
        drawn = place.get("kind") == "draw"
        self._write(
            self._judgement(
                result,
                "annotation",
                subject=str(place.get("id", "")),
                verdict="drawn" if drawn else None,
                label=place.get("label") if place.get("label") in result.classes else None,
                note=str(place.get("note") or ""),
                outline=json.dumps(place.get("geometry")) if drawn else None,
            )
        )

    def sign(self, result: SlideResult, *, label: str | None) -> str:
        """Sign the class that the reader said and sees, and return it.

        Raises
        ------
        ReviewError
            The reader has said none, or another one meanwhile.
        """
        own = self._own(result.slide_id, "slide", "")
        if own is None or not own.label:
            raise ReviewError("there is nothing to sign; agree or choose another class first")
        if own.label != label:
            raise ReviewError(f"the reading is {own.label} meanwhile, not {label}; look again")
        self._write(replace(own, kind="signature", verdict="signed"))
        return own.label

    def reopen(self, result: SlideResult) -> None:
        """Take the reader's own signature back; undo does not sign again."""
        taken_back = self._judgement(result, "signature", verdict=None)
        judge(self._home, taken_back, reviewer=self.reviewer)
        self._before.clear()

    def undo(self) -> str:
        """Take the last judgement back that was said on this page; return its slide.

        Raises
        ------
        ReviewError
            Nothing is left.
        """
        if not self._before:
            raise ReviewError("there is nothing to take back on this page")
        before = self._before.pop()
        judge(self._home, before, reviewer=self.reviewer)
        return before.slide_id

    def state(self, result: SlideResult) -> dict[str, Any]:
        """Return what is said of a slide so far, for the panel.

        `slide` and `regions` (by index) are the reader's own; `others` are shown once the reader
        has said something.
        """
        reviews = self._home.catalog.reviews([result.slide_id])
        own = reviews[reviews.reviewer == self.reviewer]
        keys = {region_key(r.outline): i for i, r in enumerate(result.regions)}
        regions = own[(own.kind == "region") & own.subject.isin(keys)]
        slide = own[own.kind == "slide"]
        said = None if slide.empty else _verdict(slide.iloc[-1].to_dict())
        rest = reviews[(reviews.kind == "slide") & (reviews.reviewer != self.reviewer)]
        return {
            "slide": said,
            "regions": {
                keys[row["subject"]]: _verdict(row)
                for row in regions.to_dict("records")
                if _still_fits(row, result.regions[keys[row["subject"]]].label)
            },
            "others": [_verdict(r) for r in rest.to_dict("records")] if said else [],
            "signature": self._signature(reviews),
            "can_undo": bool(self._before),
        }

    def _signature(self, reviews: pd.DataFrame) -> dict[str, Any] | None:
        signature = find_signature(reviews)
        if signature is None:
            return None
        is_mine = signature["reviewer"] == self.reviewer
        return {**signature, "when": clock(signature["reviewed_at"]), "is_mine": is_mine}

    def _judgement(self, result: SlideResult, kind: str, **said: Any) -> Judgement:
        return Judgement(slide_id=result.slide_id, model_id=result.model_id, kind=kind, **said)

    def _write(self, judgement: Judgement) -> None:
        same = (judgement.slide_id, judgement.kind, judgement.subject)
        before = self._own(*same) or replace(judgement, verdict=None)
        judge(self._home, judgement, reviewer=self.reviewer)
        self._before.append(before)

    def _own(self, slide_id: str, kind: str, subject: str) -> Judgement | None:
        reviews = self._home.catalog.reviews([slide_id])
        same = (reviews.kind == kind) & (reviews.subject == subject)
        rows = reviews[same & (reviews.reviewer == self.reviewer)]
        if rows.empty:
            return None
        return Judgement(**{name: rows.iloc[-1][name] for name in Judgement.__dataclass_fields__})


def _still_fits(row: Mapping[Any, Any], label: str) -> bool:
    """Say whether a judgement is of the class that the region has now: it may have changed."""
    return (row["verdict"] == "agree") == (row["label"] == label)


def find_statuses(reviews: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return how far the reading of each judged slide is: `status` read or signed, and `label`."""
    found: dict[str, dict[str, str]] = {}
    for kind, status in STATUS_KINDS.items():
        rows = reviews[reviews.kind == kind]
        found |= {
            slide_id: {"status": status, "label": label or ""}
            for slide_id, label in zip(rows.slide_id, rows.label, strict=True)
        }
    return found


def _verdict(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        "verdict": row["verdict"],
        "label": row["label"],
        "note": row["note"] or "",
        "who": row["reviewer"],
    }
