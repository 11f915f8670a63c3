"""The catalogue: slides, results, runs and events in a database.

SQLite by default, any SQLAlchemy URL otherwise. Big pixels never pass through it, and nothing
that names a person: `patient_id` is a pseudonym.
"""

import getpass
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from histo_nb.errors import CatalogAwayError, CatalogError, DiskFullError, HistoError, ReviewError
from histo_nb.files import locked, storage_errors
from histo_nb.history import add_event, tell_row
from histo_nb.migrations import bring_up_to_date, check_url, say_place
from histo_nb.schema import (
    ARRIVALS,
    EVENTS,
    HAND_LABELS,
    QUARANTINE,
    RESULTS,
    REVIEWS,
    RUNS,
    SCANS,
    SLIDE_FILES,
    SLIDES,
    WAITING,
)

for _kind in (np.int32, np.int64, np.float32, np.bool_):  # SQLite would keep their bytes
    sqlite3.register_adapter(_kind, methodcaller("item"))

_MAKING = threading.Lock()  # threads that start together get one engine, not one each
SAID = ("event_id", "at", "who", "what", "subject", "detail")  # of an event; the rest seals it
AWAY = (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError)
BROKEN = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_READONLY)  # will not come right by waiting
TURN_S = 60.0  # what a writer waits for others; each takes milliseconds
WAL_ATTEMPTS = 300  # a tenth of a second apart


def now() -> str:
    """Return the time as `stamp` writes it."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """Return a time as ISO 8601 in UTC; text that sorts in the order of time."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def account() -> str:
    """Return who is at work: whom the server let in (HISTO_USER), else the account's name.

    Its number where it has none.
    """
    if os.environ.get("HISTO_USER"):
        return os.environ["HISTO_USER"]
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


class Catalog:
    """One catalogue; cheap to make, safe to use from many threads and processes at once."""

    def __init__(self, url: str | sa.URL) -> None:
        with _MAKING:
            self.engine = _engine(url, os.getpid())

    def add_slide(self, row: Mapping[str, Any], files: Iterable[Mapping[str, Any]] = ()) -> None:
        """Add one slide with its files (`name, sha256, n_bytes`) and the event, or none of it.

        Raises
        ------
        CatalogError
            The same bytes, or the same `slide_id`, are there already.
        """
        slide_id = row["slide_id"]
        clash = f"slide {slide_id} is in the catalogue already; it is not filed twice"
        with self.writing(clash) as connection:
            connection.execute(SLIDES.insert(), {**row, "added_at": now()})
            for file in files:
                connection.execute(SLIDE_FILES.insert(), {**file, "slide_id": slide_id})
            _note(connection, "slide added", slide_id, row["source"])

    def find_hash(self, sha256: str) -> str | None:
        """Return the `slide_id` of the slide with these bytes, if there is one."""
        query = sa.select(SLIDES.c.slide_id).where(SLIDES.c.sha256 == sha256)
        with self.reading() as connection:
            return connection.execute(query).scalar()

    def slides(self, slide_ids: Iterable[str] = ()) -> pd.DataFrame:
        """Return the named slides in the order named, or all in the order they arrived.

        Raises
        ------
        CatalogError
            A named slide is not in the catalogue, or none is there at all.
        """
        wanted = list(dict.fromkeys(slide_ids))
        query = sa.select(SLIDES).order_by(SLIDES.c.added_at, SLIDES.c.slide_id)
        table = self._table(query.where(self.among(SLIDES.c.slide_id, wanted)) if wanted else query)
        known = set(table.slide_id)
        missing = [name for name in wanted if name not in known]
        if missing:
            raise _no_slide(*missing)
        if table.empty:
            raise CatalogError(
                "the catalogue holds no slides; make some with `histo-nb scan`, "
                "or add files with `histo-nb intake`"
            )
        if wanted:
            table = table.set_index("slide_id", drop=False).loc[wanted]
        return table.reset_index(drop=True)

    def slides_since(self, since: str) -> pd.DataFrame:
        """Return the slides added since a time (see `now`), the latest first; maybe none."""
        query = sa.select(SLIDES).where(SLIDES.c.added_at >= since)
        return self._table(query.order_by(SLIDES.c.added_at.desc(), SLIDES.c.slide_id))

    def slide(self, slide_id: str) -> dict[str, Any]:
        """Return one slide's row in plain Python types; None = unknown."""
        query = sa.select(SLIDES).where(SLIDES.c.slide_id == slide_id)
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise _no_slide(slide_id)
        return {str(name): value for name, value in row.items()}

    def has_slide(self, slide_id: str) -> bool:
        """Say whether there is a slide of that name."""
        query = sa.select(SLIDES.c.slide_id).where(SLIDES.c.slide_id == slide_id)
        with self.reading() as connection:
            return connection.execute(query).first() is not None

    def correct(self, slide_id: str, **values: Any) -> None:
        """Change what a person knows better of a slide: `patient_id`, `slide_mpp`; with an event.

        Tiles cut before keep what they were cut with; cut them again.
        """
        self.slide(slide_id)
        with self.writing("") as connection:
            connection.execute(SLIDES.update().where(SLIDES.c.slide_id == slide_id), values)
            _note(connection, "slide corrected", slide_id, ", ".join(values))

    def slide_files(self, slide_ids: Iterable[str] = ()) -> pd.DataFrame:
        """Return the files of the named slides, or of all, the longest unverified first."""
        query = sa.select(SLIDE_FILES).order_by(
            SLIDE_FILES.c.verified_at.nulls_first(), SLIDE_FILES.c.name
        )
        wanted = list(slide_ids)
        named = self.among(SLIDE_FILES.c.slide_id, wanted)
        return self._table(query.where(named) if wanted else query)

    def note_verified(self, slide_id: str, name: str, *, damage: str | None) -> None:
        """Write that a slide's file was hashed again, and what is wrong with it, if anything."""
        same = (SLIDE_FILES.c.slide_id == slide_id) & (SLIDE_FILES.c.name == name)
        with self.writing("") as connection:
            values = {"verified_at": now(), "damage": damage}
            connection.execute(SLIDE_FILES.update().where(same), values)
            if damage:
                _note(connection, "slide damaged", slide_id, damage)

    def find_arrival(self, fingerprint: str) -> str | None:
        """Return what became of a file seen before: its `slide_id` or `quarantine_id`."""
        query = sa.select(ARRIVALS.c.outcome).where(ARRIVALS.c.fingerprint == fingerprint)
        with self.reading() as connection:
            return connection.execute(query).scalar()

    def put_arrival(self, fingerprint: str, outcome: str) -> None:
        """Remember what became of a file, so that it is not hashed again."""
        with self.writing("") as connection:
            same = ARRIVALS.c.fingerprint == fingerprint
            connection.execute(ARRIVALS.delete().where(same))
            row = {"fingerprint": fingerprint, "outcome": outcome, "at": now()}
            connection.execute(ARRIVALS.insert(), row)

    def put_waiting(self, source: str, reasons: Mapping[str, str]) -> None:
        """Replace what waits to be taken in from one direction: the reason of each tag."""
        of_source = WAITING.c.source == source
        with self.writing("") as connection:
            rows = connection.execute(sa.select(WAITING).where(of_source)).all()
            since = {row.tag: row.since for row in rows}
            connection.execute(WAITING.delete().where(of_source))
            for tag, reason in reasons.items():
                row = {"source": source, "tag": tag, "reason": reason}
                connection.execute(WAITING.insert(), row | {"since": since.get(tag, now())})

    def waiting(self) -> pd.DataFrame:
        """Return what waits to be taken in, the longest first."""
        return self._table(sa.select(WAITING).order_by(WAITING.c.since))

    def put_refusal(self, row: Mapping[str, Any]) -> None:
        """Add one refused slide with its event; the same bytes refused again replace the row."""
        quarantine_id = row["quarantine_id"]
        with self.writing("") as connection:
            same = QUARANTINE.c.quarantine_id == quarantine_id
            connection.execute(QUARANTINE.delete().where(same))
            connection.execute(QUARANTINE.insert(), {**row, "refused_at": now()})
            _note(connection, "file refused", quarantine_id, row["reason"])

    def refusals(self, *, released: bool = False) -> pd.DataFrame:
        """Return what lies in quarantine, the latest first; with `released`, what ever did."""
        query = sa.select(QUARANTINE).order_by(QUARANTINE.c.refused_at.desc())
        return self._table(query if released else query.where(QUARANTINE.c.released_at.is_(None)))

    def release(self, quarantine_id: str, slide_id: str) -> None:
        """Write that a refused slide was let in as `slide_id` after all."""
        with self.writing("") as connection:
            same = QUARANTINE.c.quarantine_id == quarantine_id
            values = {"released_at": now(), "slide_id": slide_id}
            connection.execute(QUARANTINE.update().where(same), values)
            _note(connection, "file released", quarantine_id, slide_id)

    def put_scan(self, row: Mapping[str, Any]) -> None:
        """Add or replace the state of one slot of one rack, with an event that says so."""
        same = (SCANS.c.rack_id == row["rack_id"]) & (SCANS.c.slot == row["slot"])
        with self.writing("") as connection:
            connection.execute(SCANS.delete().where(same))
            connection.execute(SCANS.insert(), {**row, "updated_at": now()})
            subject = f"{row['rack_id']}/{row['slot']}"
            _note(connection, f"slot {row['state']}", subject, row.get("reason"))

    def scans(self, *, since: str = "") -> pd.DataFrame:
        """Return the state of every slot that changed since a time, the latest rack first."""
        query = sa.select(SCANS).where(SCANS.c.updated_at >= since)
        return self._table(query.order_by(SCANS.c.rack_id.desc(), SCANS.c.slot))

    def put_result(self, row: Mapping[str, Any]) -> None:
        """Add one slide's result, or replace the one of the same slide and model."""
        slide_id, model_id = row["slide_id"], row["model_id"]
        same = (RESULTS.c.slide_id == slide_id) & (RESULTS.c.model_id == model_id)
        with self.writing(str(_no_slide(slide_id))) as connection:
            connection.execute(RESULTS.delete().where(same))
            connection.execute(RESULTS.insert(), {**row, "analysed_at": now()})
            told = tell_row(connection, RESULTS, slide_id=slide_id, model_id=model_id)
            _note(connection, "slide analysed", slide_id, model_id, **told)

    def results(self, slide_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return the latest result of each slide, or of these slides, the most abnormal first."""
        columns = RESULTS.c
        wanted = sa.true() if slide_ids is None else self.among(columns.slide_id, slide_ids)
        newest = (columns.analysed_at.desc(), columns.model_id)
        rank = sa.func.row_number().over(partition_by=columns.slide_id, order_by=newest)
        named = sa.select(columns.slide_id, columns.model_id, rank.label("rank"))
        ranked = named.where(wanted).subquery()
        is_newest = (
            (ranked.c.slide_id == columns.slide_id)
            & (ranked.c.model_id == columns.model_id)
            & (ranked.c.rank == 1)
        )
        table = self._table(sa.select(RESULTS).join(ranked, is_newest))
        return table.sort_values(
            ["abnormal_fraction", "slide_id"], ascending=[False, True], ignore_index=True
        )

    def result(self, slide_id: str, model_id: str) -> dict[str, Any] | None:
        """Return the result of a slide by one model, if there is one."""
        query = sa.select(RESULTS).where(
            RESULTS.c.slide_id == slide_id, RESULTS.c.model_id == model_id
        )
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
        return {str(name): value for name, value in row.items()} if row else None

    def add_hand_label(self, tile_id: str, *, annotator: str, label: str | None) -> None:
        """Write an annotator's decision on a tile; None takes the former one back.

        Nothing is overwritten: every decision stays on record with its time.
        """
        row = {"tile_id": tile_id, "annotator": annotator, "label": label, "decided_at": now()}
        with self.writing("") as connection:
            new = HAND_LABELS.insert().values(row).returning(HAND_LABELS.c.decision_id)
            key = connection.execute(new).scalar_one()
            told = tell_row(connection, HAND_LABELS, decision_id=key)
            _note(connection, "tile labelled", tile_id, label, **told)

    def last_decision(self) -> int:
        """Return the number of the last hand label; it grows with each."""
        with self.reading() as connection:
            return (
                connection.execute(sa.select(sa.func.max(HAND_LABELS.c.decision_id))).scalar() or 0
            )

    def hand_labels(self, tile_ids: Iterable[str] | None = None) -> pd.DataFrame:
        """Return what each annotator last said of each tile: `tile_id, annotator, label, …`.

        Labels that were taken back are left out. With `tile_ids`, of these tiles only.
        """
        columns = HAND_LABELS.c
        last = sa.select(sa.func.max(columns.decision_id)).group_by(
            columns.tile_id, columns.annotator
        )
        if tile_ids is not None:
            last = last.where(self.among(columns.tile_id, tile_ids))
        query = sa.select(HAND_LABELS).where(columns.decision_id.in_(last))
        return self._table(query.where(columns.label.is_not(None)).order_by(columns.decision_id))

    def add_review(self, row: Mapping[str, Any]) -> int:
        """Write a reviewer's decision on a slide and return its number; see `reviews.judge`.

        Nothing is overwritten: every decision stays on record with its time. What is signed is
        closed until its signer takes the signature back.

        Raises
        ------
        ReviewError
            The slide is signed.
        """
        slide_id = row["slide_id"]
        with self.writing(str(_no_slide(slide_id))) as connection:
            # One at a time a slide, also where a database lets two write at once.
            slide = sa.select(SLIDES.c.slide_id).where(SLIDES.c.slide_id == slide_id)
            connection.execute(slide.with_for_update())
            signed = _last_reviews(REVIEWS.c.slide_id == slide_id, REVIEWS.c.kind == "signature")
            for signature in connection.execute(signed):
                if (row["kind"], row["reviewer"]) != ("signature", signature.reviewer):
                    raise ReviewError(
                        f"{slide_id} was signed by {signature.reviewer}; it is closed until the "
                        "signature is taken back"
                    )
            new = REVIEWS.insert().values({**row, "reviewed_at": now()})
            key = int(connection.execute(new.returning(REVIEWS.c.review_id)).scalar_one())
            told = tell_row(connection, REVIEWS, review_id=key)
            _note(connection, "slide reviewed", slide_id, row["kind"], **told)
            return key

    def reviews(
        self, slide_ids: Iterable[str] | None = None, *, kinds: Iterable[str] | None = None
    ) -> pd.DataFrame:
        """Return what each reviewer last said of each subject, the oldest first.

        What was taken back is left out. With `slide_ids`, of these slides only; with `kinds`, of
        these kinds only (outlines may be large).
        """
        asked = ((REVIEWS.c.slide_id, slide_ids), (REVIEWS.c.kind, kinds))
        which = [self.among(column, names) for column, names in asked if names is not None]
        return self._table(_last_reviews(*which))

    def add_run(self, row: Mapping[str, Any]) -> None:
        """Add one execution of a notebook."""
        with self.writing(f"run {row['run_id']} is in the catalogue already") as connection:
            connection.execute(RUNS.insert(), dict(row))

    def note(self, what: str, subject: str, detail: str | None = None) -> None:
        """Write one event with the time and the account that caused it."""
        with self.writing("this event is in the catalogue already") as connection:
            _note(connection, what, subject, detail)

    def events(
        self, *, since: str = "", what: str | None = None, subject: str | None = None
    ) -> pd.DataFrame:
        """Return the events since a time, the latest first; of one kind, or on one subject."""
        columns = [EVENTS.c[name] for name in SAID]
        query = sa.select(*columns).where(EVENTS.c.at >= since)
        for column, wanted in ((EVENTS.c.what, what), (EVENTS.c.subject, subject)):
            query = query if wanted is None else query.where(column == wanted)
        return self._table(query.order_by(EVENTS.c.event_id.desc()))

    def damaged_files(self) -> pd.DataFrame:
        """Return the slide files that `verify` found damaged."""
        return self._table(sa.select(SLIDE_FILES).where(SLIDE_FILES.c.damage.is_not(None)))

    def among(self, column: sa.ColumnElement[str], names: Iterable[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a column is one of these names, however many they are.

        `in_` sends each name as a parameter, and databases take 32,766 (SQLite) or 65,535.
        """
        is_sqlite = self.engine.dialect.name == "sqlite"
        unpack = sa.func.json_each if is_sqlite else sa.func.json_array_elements_text
        rows = unpack(sa.literal(list(names), sa.JSON)).table_valued("value")
        return column.in_(sa.select(rows.c.value))

    def _table(self, query: sa.Select[Any]) -> pd.DataFrame:
        with self.reading() as connection:
            result = connection.execute(query)
            names, rows = list(result.keys()), result.all()
        columns = zip(*rows, strict=True) if rows else ([] for _ in names)
        table = pd.DataFrame(
            {
                name: pd.Series(list(values), dtype=object)  # unknown text stays None
                for name, values in zip(names, columns, strict=True)
            }
        )
        return table.assign(**table.infer_objects().select_dtypes("number"))

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Yield a connection to look at tables with; each query for itself."""
        with _named_errors(self.engine.url), self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Yield a connection that sees one moment of the catalogue, whoever writes meanwhile."""
        is_sqlite = self.engine.dialect.name == "sqlite"
        begin = "BEGIN" if is_sqlite else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self.reading() as connection:
            connection.exec_driver_sql(begin)
            try:
                yield connection
            finally:
                connection.exec_driver_sql("ROLLBACK")

    @contextmanager
    def writing(self, clash: str) -> Iterator[sa.Connection]:
        """Yield a connection for one transaction: all of it is written, or nothing.

        Parameters
        ----------
        clash
            What is said if a row is there already, or the row it belongs to is not.
        """
        with _named_errors(self.engine.url, clash), self._turn(), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def _turn(self) -> Iterator[None]:
        # SQLite's writers try again and again, and some starve; a lock of the system has a queue.
        if self.engine.dialect.name != "sqlite":
            yield
            return
        path = Path(f"{self.engine.url.database}-turn")
        with storage_errors(path), ExitStack() as stack:
            try:
                stack.enter_context(locked(path, timeout_s=TURN_S))
            except TimeoutError:
                raise CatalogAwayError(
                    f"another process has held the catalogue {say_place(self.engine.url)} for "
                    f"{TURN_S:g} s; end the one that hangs or is stopped "
                    f"(`fuser {path}` names all), then run again"
                ) from None
            yield


def _last_reviews(*which: sa.ColumnElement[bool]) -> sa.Select[Any]:
    columns = REVIEWS.c
    same = (columns.slide_id, columns.kind, columns.subject, columns.reviewer)
    last = sa.select(sa.func.max(columns.review_id)).where(*which).group_by(*same)
    query = sa.select(REVIEWS).where(columns.review_id.in_(last), columns.verdict.is_not(None))
    return query.order_by(columns.review_id)


def _no_slide(*slide_ids: str) -> CatalogError:
    return CatalogError(
        f"no slide {', '.join(slide_ids)} in the catalogue; "
        "see `histo-nb slides`, or add files with `histo-nb intake`"
    )


def _note(
    connection: sa.Connection, what: str, subject: str, detail: str | None, **told: str
) -> None:
    event = {"at": now(), "who": account(), "what": what, "subject": subject, "detail": detail}
    add_event(connection, event | told)


@contextmanager
def _named_errors(url: sa.URL, clash: str = "") -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise CatalogError(clash or str(error.orig)) from error
    except (sa.exc.DatabaseError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise _kind_of(error)(
            f"the catalogue {say_place(url)} answers: {getattr(error, 'orig', error)}; "
            "check its disk, HISTO_HOME and HISTO_DATABASE_URL"
        ) from error


def _kind_of(error: sa.exc.SQLAlchemyError) -> type[HistoError]:
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) & 0xFF  # of SQLite only
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError
    return CatalogAwayError if isinstance(error, AWAY) and code not in BROKEN else CatalogError


@lru_cache(maxsize=8)
def _engine(url: str | sa.URL, _process: int) -> sa.Engine:
    # One a process: a connection carried over a fork would corrupt both sides.
    try:
        engine = sa.create_engine(url, pool_pre_ping=True)  # the server may have been restarted
    except (sa.exc.ArgumentError, ImportError, ValueError) as error:
        # A ValueError says which port is no number, and that may be a part of the password.
        reason = "its port is no number" if isinstance(error, ValueError) else error
        raise CatalogError(
            f"HISTO_DATABASE_URL is not usable ({reason}); it looks like "
            "postgresql+psycopg://user:password@host/name, with its driver installed and what "
            "is no letter or digit in the password written as in %40"
        ) from None
    check_url(engine.url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediately)
    with _named_errors(engine.url):
        bring_up_to_date(engine)
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN decides, below
    for pragma in ("busy_timeout=30000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    if connection.execute("PRAGMA journal_mode").fetchone() != ("wal",):
        _switch_to_wal(connection)


def _switch_to_wal(connection: Any) -> None:
    # The one lock that SQLite's busy time-out does not wait for: another process switches as well.
    for attempt in range(WAL_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if attempt == WAL_ATTEMPTS - 1:
                raise
            time.sleep(0.1)


def _begin_immediately(connection: sa.Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once as "locked".
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
