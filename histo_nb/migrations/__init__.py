"""Brings the catalogue's tables up to date.

In: an empty database, or a catalogue of any earlier version. Out: one of version `schema.HEAD`
with every row it had; one file in `versions` for each change of `schema.py`.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from histo_nb.errors import CatalogError, StorageError
from histo_nb.files import writing
from histo_nb.schema import HEAD

VERSION_TABLE = "alembic_version"
LOCK = 0x6869_7374_6F  # "histo": the advisory lock that PostgreSQL knows migrations by


def bring_up_to_date(engine: sa.Engine) -> None:
    """Run the migrations that a catalogue lacks, all or none; other processes wait for it.

    An SQLite catalogue with rows in it is copied first, to `NAME.before-VERSION` beside it.

    Raises
    ------
    CatalogError
        A newer histo-nb has changed the tables.
    StorageError
        The copy cannot be written.
    """
    with engine.connect() as connection:
        version = read_version(connection.execution_options(isolation_level="AUTOCOMMIT"))
    if version == HEAD:  # nothing to import, nothing to lock: nearly always
        return
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # SQLite has one writer at a time anyway
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
        version = read_version(connection)
        if version == HEAD:
            return
        if version and version > HEAD:
            raise CatalogError(
                f"the catalogue {say_place(engine.url)} is of version {version}, and this "
                f"histo-nb knows versions up to {HEAD}; update histo-nb, or use another catalogue"
            )
        if engine.dialect.name == "sqlite" and _has_rows(connection):
            _copy(Path(str(engine.url.database)))
        upgrade(connection)


def check_url(url: sa.URL) -> None:
    """Refuse a server's address in which a part of the password may stand outside of it.

    Raises
    ------
    CatalogError
        There is an @ after that which ends the password; nothing of the address is told.
    """
    if url.host and "@" in f"{url.host}{url.database}":
        raise CatalogError(
            "HISTO_DATABASE_URL holds one @ too many; write an @ that belongs to the user or the "
            "password as %40"
        )


def say_place(url: sa.URL) -> str:
    """Return where a catalogue is, without a password."""
    return url.set(query={}).render_as_string()  # it hides the one before the host only


def read_version(connection: sa.Connection) -> str | None:
    """Return the version of the tables; None where no migration ever ran."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()


def upgrade(connection: sa.Connection, version: str = HEAD) -> None:
    """Run the migrations up to a version in the transaction that `connection` is in."""
    from alembic import command  # noqa: PLC0415 - slow, and seldom needed
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", "histo_nb:migrations")
    command.upgrade(config, version)


def _has_rows(connection: sa.Connection) -> bool:
    tables = [sa.table(name) for name in sa.inspect(connection).get_table_names()]
    queries = (sa.select(sa.literal(1)).select_from(table).limit(1) for table in tables)
    return any(connection.execute(query).first() for query in queries)


def _copy(database: Path) -> None:
    # By connections of its own: the one that is about to write would wait for itself.
    path = database.with_name(f"{database.name}.before-{HEAD}")
    try:
        with (
            writing(path) as temporary,
            closing(sqlite3.connect(database)) as source,
            closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)
    except sqlite3.Error as error:
        raise StorageError(
            f"{path}, a copy of the catalogue, cannot be written ({error}); free some space"
        ) from error
