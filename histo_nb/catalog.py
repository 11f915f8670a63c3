"""The catalogue: slides, results, runs and events in a database.

SQLite by default, any SQLAlchemy URL otherwise. Big pixels never pass through it, and nothing
that names a person: `patient_id` is a pseudonym.
"""

import getpass
from collections.abc import Iterable, Mapping
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
    """Return the time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Catalog:
    """One catalogue; cheap to make, safe to share between threads and processes."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)

    def add_slide(self, row: Mapping[str, Any]) -> None:
        """Add one slide with the event of its arrival, or neither.

        Raises
        ------
        CatalogError
            The same bytes, or the same `slide_id`, are there already.
        """
        row = {**row, "added_at": now()}
        try:
            with self.engine.begin() as connection:
                connection.execute(SLIDES.insert(), row)
                _note(connection, "slide added", row["slide_id"], row["source"])
        except sa.exc.IntegrityError as error:
            raise CatalogError(
                f"slide {row['slide_id']} is in the catalogue already; it is not filed twice"
            ) from error

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
        wanted = list(slide_ids)
        missing = [name for name in wanted if name not in set(table.slide_id)]
        if missing:
            raise CatalogError(
                f"no slide {', '.join(missing)} in the catalogue; "
                "see `histo-nb slides`, or add files with `histo-nb intake`"
            )
        if table.empty:
            raise CatalogError(
                "the catalogue holds no slides; make some with `histo-nb scan`, "
                "or add files with `histo-nb intake`"
            )
        return table.set_index("slide_id", drop=False).loc[wanted] if wanted else table

    def slide(self, slide_id: str) -> dict[str, Any]:
        """Return one slide's row."""
        return self.slides([slide_id]).iloc[0].to_dict()

    def put_result(self, row: Mapping[str, Any]) -> None:
        """Add one slide's result, or replace the one of the same slide and model."""
        row = {**row, "analysed_at": now()}
        same = (RESULTS.c.slide_id == row["slide_id"]) & (RESULTS.c.model_id == row["model_id"])
        with self.engine.begin() as connection:
            connection.execute(RESULTS.delete().where(same))
            connection.execute(RESULTS.insert(), row)
            _note(connection, "slide analysed", row["slide_id"], row["model_id"])

    def results(self) -> pd.DataFrame:
        """Return the latest result of each slide, the most abnormal first."""
        table = self._table(sa.select(RESULTS).order_by(RESULTS.c.analysed_at))
        table = table.drop_duplicates("slide_id", keep="last")
        return table.sort_values(
            ["abnormal_fraction", "slide_id"], ascending=[False, True], ignore_index=True
        )

    def add_run(self, row: Mapping[str, Any]) -> None:
        """Add one execution of a notebook."""
        with self.engine.begin() as connection:
            connection.execute(RUNS.insert(), dict(row))

    def note(self, what: str, subject: str, detail: str | None = None) -> None:
        """Write one event with the time and the account that caused it."""
        with self.engine.begin() as connection:
            _note(connection, what, subject, detail)

    def events(self) -> pd.DataFrame:
        """Return all events, the latest first."""
        return self._table(sa.select(EVENTS).order_by(EVENTS.c.event_id.desc()))

    def _table(self, query: sa.Select[Any]) -> pd.DataFrame:
        with self._reading() as connection:
            result = connection.execute(query)
            return pd.DataFrame(result.all(), columns=list(result.keys()), dtype=object).infer_objects()

    def _reading(self) -> sa.Connection:
        return self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _note(connection: sa.Connection, what: str, subject: str, detail: str | None) -> None:
    row = {"at": now(), "who": getpass.getuser(), "what": what, "subject": subject, "detail": detail}
    connection.execute(EVENTS.insert(), row)


@lru_cache(maxsize=8)
def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _configure_sqlite)
        sa.event.listen(engine, "begin", _begin_immediately)
    try:
        _meta.create_all(engine)
    except sa.exc.OperationalError as error:
        raise CatalogError(
            f"the catalogue {engine.url.render_as_string()} does not open ({error.orig}); "
            "check HISTO_HOME and HISTO_DATABASE_URL"
        ) from error
    return engine


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN decides, below
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_immediately(connection: sa.Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once as "locked".
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
