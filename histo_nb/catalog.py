"""The catalogue: slides, results, runs and events in a database.

SQLite by default, any SQLAlchemy URL otherwise. Big pixels never pass through it, and nothing
that names a person: `patient_id` is a pseudonym.
"""

import getpass
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pandas as pd
import sqlalchemy as sa

from histo_nb.errors import CatalogError

_meta = sa.MetaData()

SLIDES = sa.Table(
    "slides",
    _meta,
    sa.Column("slide_id", sa.String, primary_key=True),
    sa.Column("patient_id", sa.String),  # pseudonym; null = unknown
    sa.Column("slide_path", sa.String, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("n_bytes", sa.BigInteger, nullable=False),
    sa.Column("width", sa.BigInteger, nullable=False),  # level-0 px
    sa.Column("height", sa.BigInteger, nullable=False),
    sa.Column("n_levels", sa.Integer, nullable=False),
    sa.Column("slide_mpp", sa.Float, nullable=False),  # µm/px of level 0
    sa.Column("mpp_source", sa.String, nullable=False),  # "file", or "given" by a person
    sa.Column("objective_power", sa.Float),
    sa.Column("source", sa.String, nullable=False),  # "virtual scanner", "file"
    sa.Column("truth_path", sa.String),  # outlines of a virtual slide
    sa.Column("added_at", sa.String, nullable=False),  # ISO 8601, UTC
)
RESULTS = sa.Table(
    "results",
    _meta,
    sa.Column("slide_id", sa.ForeignKey("slides.slide_id"), primary_key=True),
    sa.Column("model_id", sa.String, primary_key=True),
    sa.Column("slide_class", sa.String, nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),  # 0–1
    sa.Column("abnormal_fraction", sa.Float, nullable=False),  # of the tissue, 0–1
    sa.Column("n_tiles", sa.Integer, nullable=False),
    sa.Column("n_regions", sa.Integer, nullable=False),
    sa.Column("n_failures", sa.Integer, nullable=False),
    sa.Column("result_path", sa.String, nullable=False),  # folder of the slide's result
    sa.Column("analysed_at", sa.String, nullable=False),
)
RUNS = sa.Table(
    "runs",
    _meta,
    sa.Column("run_id", sa.String, primary_key=True),
    sa.Column("notebook", sa.String, nullable=False),
    sa.Column("status", sa.String, nullable=False),  # "done", "failed"
    sa.Column("started_at", sa.String, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("run_path", sa.String, nullable=False),
)
EVENTS = sa.Table(
    "events",
    _meta,
    sa.Column("event_id", sa.Integer, primary_key=True),
    sa.Column("at", sa.String, nullable=False),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("what", sa.String, nullable=False),
    sa.Column("subject", sa.String, nullable=False),  # slide_id, model_id, file name in quarantine
    sa.Column("detail", sa.String),
)


def now() -> str:
    """Return the time as ISO 8601 in UTC; text that sorts in the order of time."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def account() -> str:
    """Return who is at work: the account's name, or its number where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"


class Catalog:
    """One catalogue; cheap to make, safe to use from many threads and processes at once."""

    def __init__(self, url: str | sa.URL) -> None:
        self.engine = _engine(url, os.getpid())

    def add_slide(self, row: Mapping[str, Any]) -> None:
        """Add one slide with the event of its arrival, or neither.

        Raises
        ------
        CatalogError
            The same bytes, or the same `slide_id`, are there already.
        """
        slide_id = row["slide_id"]
        clash = f"slide {slide_id} is in the catalogue already; it is not filed twice"
        with self._writing(clash) as connection:
            connection.execute(SLIDES.insert(), {**row, "added_at": now()})
            _note(connection, "slide added", slide_id, row["source"])

    def find_hash(self, sha256: str) -> str | None:
        """Return the `slide_id` of the slide with these bytes, if there is one."""
        query = sa.select(SLIDES.c.slide_id).where(SLIDES.c.sha256 == sha256)
        with self._reading() as connection:
            return connection.execute(query).scalar()

    def slides(self, slide_ids: Iterable[str] = ()) -> pd.DataFrame:
        """Return the named slides in the order named, or all in the order they arrived.

        Raises
        ------
        CatalogError
            A named slide is not in the catalogue, or none is there at all.
        """
        table = self._table(sa.select(SLIDES).order_by(SLIDES.c.added_at, SLIDES.c.slide_id))
        wanted = list(dict.fromkeys(slide_ids))
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

    def slide(self, slide_id: str) -> dict[str, Any]:
        """Return one slide's row in plain Python types; None = unknown."""
        query = sa.select(SLIDES).where(SLIDES.c.slide_id == slide_id)
        with self._reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise _no_slide(slide_id)
        return {str(name): value for name, value in row.items()}

    def put_result(self, row: Mapping[str, Any]) -> None:
        """Add one slide's result, or replace the one of the same slide and model."""
        slide_id, model_id = row["slide_id"], row["model_id"]
        same = (RESULTS.c.slide_id == slide_id) & (RESULTS.c.model_id == model_id)
        with self._writing(str(_no_slide(slide_id))) as connection:
            connection.execute(RESULTS.delete().where(same))
            connection.execute(RESULTS.insert(), {**row, "analysed_at": now()})
            _note(connection, "slide analysed", slide_id, model_id)

    def results(self) -> pd.DataFrame:
        """Return the latest result of each slide, the most abnormal first."""
        table = self._table(sa.select(RESULTS).order_by(RESULTS.c.analysed_at))
        table = table.drop_duplicates("slide_id", keep="last")
        return table.sort_values(
            ["abnormal_fraction", "slide_id"], ascending=[False, True], ignore_index=True
        )

    def add_run(self, row: Mapping[str, Any]) -> None:
        """Add one execution of a notebook."""
        with self._writing(f"run {row['run_id']} is in the catalogue already") as connection:
            connection.execute(RUNS.insert(), dict(row))

    def note(self, what: str, subject: str, detail: str | None = None) -> None:
        """Write one event with the time and the account that caused it."""
        with self._writing("this event is in the catalogue already") as connection:
            _note(connection, what, subject, detail)

    def events(self) -> pd.DataFrame:
        """Return all events, the latest first."""
        return self._table(sa.select(EVENTS).order_by(EVENTS.c.event_id.desc()))

    def _table(self, query: sa.Select[Any]) -> pd.DataFrame:
        with self._reading() as connection:
            result = connection.execute(query)
            names = list(result.keys())
            return pd.DataFrame(result.all(), columns=names, dtype=object).infer_objects()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with _named_errors(self.engine.url), self.engine.connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def _writing(self, clash: str) -> Iterator[sa.Connection]:
        with _named_errors(self.engine.url, clash), self.engine.begin() as connection:
            yield connection


def _no_slide(*slide_ids: str) -> CatalogError:
    return CatalogError(
        f"no slide {', '.join(slide_ids)} in the catalogue; "
        "see `histo-nb slides`, or add files with `histo-nb intake`"
    )


def _note(connection: sa.Connection, what: str, subject: str, detail: str | None) -> None:
    row = {"at": now(), "who": account(), "what": what, "subject": subject, "detail": detail}
    connection.execute(EVENTS.insert(), row)


@contextmanager
def _named_errors(url: sa.URL, clash: str = "") -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError as error:
        raise CatalogError(clash or str(error.orig)) from error
    except (sa.exc.DatabaseError, sa.exc.TimeoutError) as error:
        reason = getattr(error, "orig", error)
        raise CatalogError(
            f"the catalogue {url.render_as_string()} answers: {reason}; "
            "check its disk, HISTO_HOME and HISTO_DATABASE_URL"
        ) from error


@lru_cache(maxsize=8)
def _engine(url: str | sa.URL, _process: int) -> sa.Engine:
    # One a process: a connection carried over a fork would corrupt both sides.
    try:
        engine = sa.create_engine(url)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise CatalogError(
            f"HISTO_DATABASE_URL is not usable ({error}); it looks like "
            "postgresql+psycopg://user:password@host/name, with its driver installed"
        ) from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediately)
    with _named_errors(engine.url):
        _meta.create_all(engine)
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN decides, below
    for pragma in ("busy_timeout=30000", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: sa.Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once as "locked".
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
