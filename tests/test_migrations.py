"""Catalogues of earlier versions are brought up to date, by whoever comes first, all or nothing."""

import multiprocessing
import sqlite3
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from databases import fresh_database

from histo_nb import migrations
from histo_nb.catalog import Catalog
from histo_nb.errors import CatalogError, StorageError
from histo_nb.schema import EVENTS, HEAD, META

NOTE = {"at": "2026-01-01", "who": "Ada", "what": "noted", "subject": "S-1", "detail": None}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """The address of an empty database."""
    with fresh_database(request.param, empty=True) as url:
        yield url or f"sqlite:///{tmp_path}/catalog.sqlite"


def make_old(url, *, n=3, version="0001"):
    """Make a catalogue as it was before there were migrations, with n events."""
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        migrations.upgrade(connection, version)
        for _ in range(n):
            columns = ", ".join(NOTE)
            values = ", ".join(f":{name}" for name in NOTE)
            connection.execute(sa.text(f"INSERT INTO events ({columns}) VALUES ({values})"), NOTE)
        connection.exec_driver_sql("DROP TABLE alembic_version")
    engine.dispose()


def read_tables(engine):
    with engine.connect() as connection:
        return set(sa.inspect(connection).get_table_names())


def test_the_migrations_make_the_tables_of_the_schema(url):
    with Catalog(url).engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), META) == []
        assert migrations.read_version(connection) == HEAD
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_heads() == [HEAD]


def test_a_catalogue_of_before_is_taken_over_with_its_rows(url):
    make_old(url)
    assert Catalog(url).events().subject.tolist()[-3:] == ["S-1"] * 3
    with Catalog(url).engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), META) == []


def test_an_sqlite_catalogue_with_rows_is_copied_before(tmp_path):
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    make_old(url)
    Catalog(url).note("noted", "S-2")
    (copy,) = tmp_path.glob("*.before-*")
    assert copy.name == f"catalog.sqlite.before-{HEAD}"
    with sqlite3.connect(copy) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (3,)
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert ("work",) not in tables


@pytest.mark.parametrize("n", [None, 0])
def test_nothing_is_copied_where_nothing_was(tmp_path, n):
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    if n is not None:
        make_old(url, n=n)
    Catalog(url).note("noted", "S-1")
    assert not list(tmp_path.glob("*.before-*"))


def test_a_copy_that_cannot_be_written_stops_the_migration(tmp_path, monkeypatch):
    url = f"sqlite:///{tmp_path}/catalog.sqlite"
    make_old(url)

    def no_space(_):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(migrations.sqlite3, "connect", no_space)
        with pytest.raises(StorageError, match="free some space"):
            migrations.bring_up_to_date(sa.create_engine(url))
    assert "work" not in read_tables(sa.create_engine(url))
    assert len(Catalog(url).events()) >= 3


def _open(url):
    Catalog(url).note("opened", "S-1")


@pytest.mark.parametrize("old", [False, True])
def test_many_processes_open_it_at_once(url, old):
    if old:
        make_old(url)
    with ProcessPoolExecutor(8, mp_context=multiprocessing.get_context("spawn")) as pool:
        for opened in [pool.submit(_open, url) for _ in range(8)]:
            opened.result()
    assert len(Catalog(url).events(what="opened")) == 8


def test_a_newer_catalogue_is_refused_and_left_alone(url):
    with Catalog(url).engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(CatalogError, match=r"version 9999.*update histo-nb"):
        migrations.bring_up_to_date(Catalog(url).engine)


def test_a_migration_that_fails_leaves_what_was(url, monkeypatch):
    make_old(url)
    before = read_tables(sa.create_engine(url))

    def fail_late(connection, upgrade=migrations.upgrade):
        upgrade(connection)
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(migrations, "upgrade", fail_late)
        with pytest.raises(ZeroDivisionError):
            Catalog(url)
    engine = sa.create_engine(url)
    assert read_tables(engine) == before
    with engine.connect() as connection:
        assert connection.execute(sa.select(sa.func.count(EVENTS.c.event_id))).scalar() == 3
    engine.dispose()
    assert len(Catalog(url).events()) >= 3


@pytest.mark.parametrize(
    "good",
    [
        "postgresql+psycopg://a%40b:c%40d@host/db",
        "sqlite:////tmp/a@b/c",
        "postgresql+psycopg:///db",
    ],
)
def test_an_at_sign_where_it_may_be_is_no_trouble(good):
    migrations.check_url(sa.make_url(good))


def test_a_password_with_an_at_sign_is_refused_without_a_word_of_it():
    for bad in ("postgresql+psycopg://u:a@SECRET@host/db", "postgresql://u:a@b/SECRET@host/db"):
        with pytest.raises(CatalogError, match=r"HISTO_DATABASE_URL.*%40") as caught:
            migrations.check_url(sa.make_url(bad))
        assert not any(part in str(caught.value) for part in ("SECRET", "host", "db"))


def test_an_up_to_date_catalogue_opens_without_alembic(url):
    Catalog(url)
    code = """if True:
        import sys
        from histo_nb.catalog import Catalog
        Catalog(sys.argv[1]).note("opened", "S-1")
        assert "alembic" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", code, url], check=True)
