import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from histo_nb import catalog as module
from histo_nb.catalog import Catalog, account
from histo_nb.errors import CatalogAwayError, CatalogError, DiskFullError
from histo_nb.files import locked
from histo_nb.home import Home, open_home

pytestmark = pytest.mark.databases


def slide(i=0, **changes):
    return {
        "slide_id": f"S-{i}",
        "patient_id": None,
        "slide_path": f"/slides/{i}.svs",
        "sha256": f"{i:064d}",
        "n_bytes": 1 << 40,
        "width": 100_000,
        "height": 80_000,
        "n_levels": 3,
        "slide_mpp": 0.25,
        "mpp_source": "file",
        "objective_power": None,
        "source": "file",
        "truth_path": None,
        **changes,
    }


def result(i=0, **changes):
    return {
        "slide_id": f"S-{i}",
        "model_id": "M-1",
        "slide_class": "normal",
        "confidence": 0.9,
        "abnormal_fraction": 0.1,
        "n_tiles": 10,
        "n_regions": 1,
        "n_failures": 0,
        "result_path": "/results",
        **changes,
    }


def test_a_slide_comes_back_as_it_went_in(home):
    for row in (slide(0), slide(1, patient_id="P", objective_power=40.0, truth_path="/t")):
        home.catalog.add_slide(row)
        got = home.catalog.slide(row["slide_id"])
        del got["added_at"]
        assert got == row
        assert home.catalog.find_hash(row["sha256"]) == row["slide_id"]
    assert home.catalog.find_hash("0" * 63) is None


def test_slides_keep_the_order_they_arrived_or_were_named_in(home):
    for i in (5, 3, 9, 1):
        home.catalog.add_slide(slide(i))
    assert home.catalog.slides().slide_id.tolist() == ["S-5", "S-3", "S-9", "S-1"]
    named = home.catalog.slides(["S-1", "S-5"])
    assert named.slide_id.tolist() == ["S-1", "S-5"]
    assert named.index.tolist() == [0, 1]


@pytest.mark.parametrize("again", [slide(0), slide(0, sha256="x"), slide(1, sha256=f"{0:064d}")])
def test_a_slide_is_filed_once(home, again):
    home.catalog.add_slide(slide(0))
    with pytest.raises(CatalogError, match="already"):
        home.catalog.add_slide(again)
    assert len(home.catalog.slides()) == len(home.catalog.events()) == 1


def test_what_is_not_there_is_named(home):
    with pytest.raises(CatalogError, match="histo-nb scan"):
        home.catalog.slides()
    home.catalog.add_slide(slide(0))
    for ask in (home.catalog.slide, lambda name: home.catalog.slides([name])):
        with pytest.raises(CatalogError, match="no slide S-7"):
            ask("S-7")
    with pytest.raises(CatalogError, match="no slide S-7"):
        home.catalog.put_result(result(7))


def test_the_latest_result_counts_and_the_worst_stands_first(home):
    for i in range(3):
        home.catalog.add_slide(slide(i))
        home.catalog.put_result(result(i, abnormal_fraction=i / 10))
    home.catalog.put_result(result(0, slide_class="carcinoma", abnormal_fraction=0.9))
    home.catalog.put_result(result(1, model_id="M-0", abnormal_fraction=0.5))
    table = home.catalog.results()
    assert table.slide_id.tolist() == ["S-0", "S-1", "S-2"]
    assert table.model_id.tolist() == ["M-1", "M-0", "M-1"]
    assert table.slide_class[0] == "carcinoma"


def test_events_say_who_and_when(home):
    home.catalog.note("file refused", "Q-1", "no mpp")
    home.catalog.add_slide(slide(0))
    events = home.catalog.events()
    assert events.what.tolist() == ["slide added", "file refused"]
    assert set(events.who) == {account()}


def test_an_account_without_a_name_has_a_number(monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(module.getpass, "getuser", nobody)
    assert account().startswith("uid ")


def _add(root, start):
    for i in range(start, start + 20):
        Home(root).catalog.add_slide(slide(i))


def test_many_processes_make_and_write_a_catalogue_at_once(home):
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(_add, home.root, 20 * n) for n in range(4)]:
            done.result()
    assert len(home.catalog.slides()) == 80


def test_a_forked_process_gets_connections_of_its_own(home, monkeypatch):
    before = home.catalog.engine
    assert home.catalog.engine is before
    monkeypatch.setattr(module.os, "getpid", lambda: 0)
    assert home.catalog.engine is not before


def test_many_threads_write_at_once(home):
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda i: home.catalog.add_slide(slide(i)), range(100)))
    assert len(home.catalog.slides()) == 100


def test_one_of_many_filing_the_same_slide_wins(home):
    def add(_):
        try:
            home.catalog.add_slide(slide(0))
        except CatalogError:
            return 0
        return 1

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1


def test_what_was_acknowledged_survives_a_kill(home):
    code = """if True:
        import sys
        from histo_nb.home import open_home
        catalog = open_home(sys.argv[1]).catalog
        for i in range(100_000):
            catalog.note("counted", str(i))
            print(i, flush=True)
    """
    arguments = [sys.executable, "-c", code, str(home.root)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        time.sleep(0.3)
        child.kill()
        acknowledged = child.stdout.read().split()[-1]
    assert str(acknowledged) in set(home.catalog.events().subject)


def test_a_damaged_catalogue_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("HISTO_DATABASE_URL", raising=False)
    (tmp_path / "catalog.sqlite").write_bytes(b"no database, but long enough to be looked at" * 99)
    with pytest.raises(CatalogError, match="not a database"):
        _ = Home(tmp_path).catalog


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "sqlite:////no/such/folder/a.sqlite",
        "odd://x:secret@y",
        "postgresql+psycopg://x:secret/1@127.0.0.1/y",
        "postgresql+psycopg://x:secret@127.0.0.1:1/y",
        "postgresql+psycopg://127.0.0.1:1/y?user=x&password=secret",
        "postgresql+psycopg://x:se@secret@127.0.0.1:1/y",
        "postgresql+psycopg://x:se@127.0.0.1:1/secret@127.0.0.1/y",
    ],
)
def test_an_address_that_does_not_work_is_named(url):
    with pytest.raises(CatalogError, match="HISTO_DATABASE_URL") as caught:
        Catalog(url)
    assert "secret" not in str(caught.value)


def test_a_catalogue_that_does_not_answer_may_be_asked_again():
    with pytest.raises(CatalogAwayError, match="HISTO_DATABASE_URL") as caught:
        Catalog("postgresql+psycopg://x:secret@127.0.0.1:1/y")
    assert caught.value.exit_code == 75  # EX_TEMPFAIL of sysexits.h


@pytest.mark.parametrize("statement", ["SELECT * FROM nowhere", "SELECT nonsense FROM slides"])
def test_a_question_that_makes_no_sense_would_make_none_later(home, statement):
    with pytest.raises(CatalogError) as caught, home.catalog.reading() as connection:
        connection.exec_driver_sql(statement)
    assert type(caught.value) is CatalogError


def test_a_full_disk_of_sqlite_is_named(home):
    if home.catalog.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL's disk is its own")
    with pytest.raises(DiskFullError, match="full"), home.catalog.writing("") as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")  # of this connection
        connection.exec_driver_sql("CREATE TABLE more AS SELECT zeroblob(1000000)")


def test_a_writer_that_hangs_is_not_waited_for_without_end(home, monkeypatch):
    if home.catalog.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL has its own queue")
    monkeypatch.setattr(module, "TURN_S", 0.2)
    with locked(home.root / "catalog.sqlite-turn"):
        with pytest.raises(CatalogAwayError, match="another process has held the catalogue"):
            home.catalog.note("noted", "S-1")
        assert home.catalog.events().empty, "readers do not wait"
    home.catalog.note("noted", "S-2")
    assert home.catalog.events().subject.tolist() == ["S-2"]


def test_any_number_of_names_may_be_asked_for(home):
    for i in range(3):
        home.catalog.add_slide(slide(i), [{"name": f"{i}.svs", "sha256": "x", "n_bytes": 1}])
        review = {"slide_id": f"S-{i}", "kind": "slide", "subject": "", "verdict": "agree"}
        home.catalog.add_review({**review, "reviewer": "Ada"})
        home.catalog.add_hand_label(f"S-{i}", annotator="ada", label="normal")
    many = [f"S-{i}" for i in range(2, 100_000)]
    assert home.catalog.reviews(many).slide_id.tolist() == ["S-2"]
    assert home.catalog.slide_files(many).slide_id.tolist() == ["S-2"]
    assert home.catalog.hand_labels(many).tile_id.tolist() == ["S-2"]
    with pytest.raises(CatalogError, match="no slide S-3, S-4"):
        home.catalog.slides(many)
    assert home.catalog.slides(["S-2", "S-0"] * 40_000).slide_id.tolist() == ["S-2", "S-0"]
    for none in ([], ["S-'\"\\é"]):
        assert home.catalog.reviews(none).empty


def test_names_are_sorted_alike_in_every_database(home):
    for i, name in enumerate(("S-b", "S-A", "S-a", "S_1", "S-B")):
        home.catalog.add_slide(slide(i, slide_id=name))
        home.catalog.put_result(result(slide_id=name))
    assert home.catalog.results().slide_id.tolist() == ["S-A", "S-B", "S-a", "S-b", "S_1"]
    assert home.catalog.results(["S-b", "S-A"]).slide_id.tolist() == ["S-A", "S-b"]
    assert home.catalog.results([]).empty


def test_numbers_of_numpy_are_taken(home):
    home.catalog.add_slide(slide(0, slide_mpp=np.float32(0.25), n_levels=np.int64(3)))
    home.catalog.put_result(result(confidence=np.float64(0.5), n_tiles=np.int64(7)))
    assert home.catalog.slide("S-0")["slide_mpp"] == 0.25
    assert home.catalog.results().n_tiles.tolist() == [7]


def test_a_home_may_keep_its_catalogue_to_itself(home, tmp_path):
    from histo_nb.running.demo import fresh_home  # noqa: PLC0415 - torch, in each process above

    own = open_home(tmp_path / "demo", own_catalog=True)
    own.catalog.add_slide(slide(0))
    assert (own.root / "catalog.sqlite").is_file()
    assert not home.catalog.has_slide("S-0")
    assert open_home(own.root).catalog.has_slide("S-0")  # in every process, from now on
    assert fresh_home(home).catalog.engine.dialect.name == "sqlite"


def test_a_server_that_was_restarted_is_asked_again(home):
    if home.catalog.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has no server")
    home.catalog.add_slide(slide(0))
    other = sa.create_engine(home.catalog.engine.url, poolclass=sa.NullPool)
    with other.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid != pg_backend_pid()"
        )
    assert home.catalog.has_slide("S-0")


def test_a_home_may_have_any_name(tmp_path):
    home = open_home(tmp_path / "50 % ü?#& home", own_catalog=True)
    home.catalog.add_slide(slide(0))
    assert (home.root / "catalog.sqlite").is_file()
