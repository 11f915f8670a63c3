"""Databases for tests: SQLite in the home, or PostgreSQL where `HISTO_TEST_POSTGRES` names one.

Each test gets a PostgreSQL database of its own, copied from one that this process made.
"""

import atexit
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import pytest
import sqlalchemy as sa

from histo_nb.catalog import Catalog

DATABASES = ("sqlite", "postgresql")


@contextmanager
def fresh_database(kind: str, *, empty: bool = False) -> Iterator[str]:
    """Yield what `HISTO_DATABASE_URL` is to be, "" for SQLite; afterwards it is gone.

    With `empty`, without any table of the catalogue.
    """
    if kind == "sqlite":
        yield ""
        return
    server = os.environ.get("HISTO_TEST_POSTGRES")
    if not server:
        pytest.skip("HISTO_TEST_POSTGRES is not set; see scripts/postgres.sh")
    name = _make(server, template="template1" if empty else _template(server))
    try:
        yield _url(server, name)
    finally:
        _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@lru_cache
def _template(server: str) -> str:
    name = _make(server, template="template1")
    Catalog(_url(server, name)).engine.dispose()  # a template with a visitor cannot be copied
    atexit.register(_execute, server, f"DROP DATABASE {name}")
    return name


def _make(server: str, *, template: str) -> str:
    name = f"histo_test_{secrets.token_hex(8)}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE {template}")
    return name


def _url(server: str, name: str) -> str:
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(server: str, statement: str) -> None:
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
