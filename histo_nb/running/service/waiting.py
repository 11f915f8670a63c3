"""Which slides wait for analysis, and what became of the others: asked of the catalogue."""

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from histo_nb import __version__
from histo_nb.catalog import stamp
from histo_nb.home import Home
from histo_nb.masking.masks import mask_path
from histo_nb.schema import EVENTS, RESULTS, SLIDES, WORK

FAILED = "analysis failed"  # the event; its detail is what was tried
LOOK_S, REST = 1.0, 20  # between two looks: at least, and times what the last one took


def rest_s(started: float) -> float:
    """Return what to wait until the next look; a look at a million slides takes a second or two."""
    return max(LOOK_S, REST * (time.monotonic() - started))


def find_waiting(home: Home, model_id: str | None, *, limit: int) -> list[str]:
    """Return slides without a result, the longest in the catalogue first.

    What failed is left out until the model, its mask or this package is another. A slide that has
    a result, of whatever model, keeps it.
    """
    failed = find_failed(home, model_id)
    query = _unanalysed(SLIDES.c.slide_id).order_by(SLIDES.c.added_at, SLIDES.c.slide_id)
    with home.catalog.reading() as connection:
        names = connection.execute(query.limit(limit + len(failed))).scalars()
        return [name for name in names if name not in failed][:limit]


def find_unreported(home: Home, model_id: str) -> list[str]:
    """Return slides that this model analysed and whose report was begun but never finished."""
    columns = WORK.c
    rank = sa.func.row_number().over(
        partition_by=columns.slide_id, order_by=(columns.updated_at.desc(), columns.work_key)
    )
    reports = sa.select(columns.slide_id, columns.state, rank.label("rank"))
    last = reports.where(columns.stage == "report").subquery()
    analysed = sa.exists().where(
        RESULTS.c.slide_id == last.c.slide_id, RESULTS.c.model_id == model_id
    )
    query = sa.select(last.c.slide_id).where(
        last.c.rank == 1, last.c.state.in_(("leased", "waiting")), analysed
    )
    with home.catalog.reading() as connection:
        return list(connection.execute(query.order_by(last.c.slide_id)).scalars())


def count_waiting(home: Home, model_id: str | None) -> int:
    """Return how many slides wait for analysis."""
    query = _unanalysed(sa.func.count())
    with home.catalog.reading() as connection:
        n_unanalysed = int(connection.execute(query).scalar_one())
    return n_unanalysed - len(find_failed(home, model_id))


def find_failed(home: Home, model_id: str | None) -> set[str]:
    """Return the slides that could not be analysed, and would not be now."""
    last = sa.select(sa.func.max(EVENTS.c.event_id)).where(EVENTS.c.what == FAILED)
    last = last.group_by(EVENTS.c.subject)
    query = _unanalysed(EVENTS.c.subject, EVENTS.c.detail).where(
        EVENTS.c.subject == SLIDES.c.slide_id, EVENTS.c.event_id.in_(last)
    )
    with home.catalog.reading() as connection:
        rows = connection.execute(query).all()
    return {name for name, tried in rows if tried == _what(home, name, model_id)}


def note_failed(home: Home, slide_id: str, model_id: str) -> None:
    """Write down that a slide cannot be analysed as things are."""
    home.catalog.note(FAILED, slide_id, _what(home, slide_id, model_id))


def count_today(home: Home) -> int:
    """Return how many slides were analysed since midnight of this machine."""
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    query = sa.select(sa.func.count(RESULTS.c.slide_id.distinct()))
    with home.catalog.reading() as connection:
        since = stamp(midnight.astimezone(UTC))
        return int(connection.execute(query.where(RESULTS.c.analysed_at >= since)).scalar_one())


def count_analysed(home: Home, slide_ids: list[str]) -> int:
    """Return how many of these slides have a result."""
    query = sa.select(sa.func.count(RESULTS.c.slide_id.distinct()))
    with home.catalog.reading() as connection:
        return int(connection.execute(query.where(RESULTS.c.slide_id.in_(slide_ids))).scalar_one())


def _unanalysed(*columns: Any) -> sa.Select[Any]:
    analysed = sa.exists().where(RESULTS.c.slide_id == SLIDES.c.slide_id)
    return sa.select(*columns).select_from(SLIDES).where(~analysed)


def _what(home: Home, slide_id: str, model_id: str | None) -> str:
    mask = mask_path(home, slide_id)
    return f"{model_id}, version {__version__}, mask {_written(mask)}"


def _written(path: Path) -> str:
    return stamp(datetime.fromtimestamp(path.stat().st_mtime, UTC)) if path.is_file() else "none"
