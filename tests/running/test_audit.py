"""The audit sees every row of the history that other hands edited, deleted or inserted."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from analysed import add_slide, copy_model, slides
from click.testing import CliRunner
from judged import add_result, judge_region, sign

from histo_nb import migrations
from histo_nb.errors import CatalogError, SpecError
from histo_nb.history import START, seal_event
from histo_nb.home import Home
from histo_nb.inference.pipeline import analyse_slides
from histo_nb.model.card import read_card
from histo_nb.running.audit import audit_history
from histo_nb.running.cli import main
from histo_nb.schema import EVENTS, HAND_LABELS, RESULTS, REVIEWS

pytestmark = pytest.mark.databases
EDITS = [(table, column.name) for table in (EVENTS, RESULTS, REVIEWS, HAND_LABELS)
         for column in table.c]  # fmt: skip


@pytest.fixture
def told(home: Home) -> Home:
    """Two slides with results, judged and signed; two labels; some events."""
    for name in ("S-1", "S-2"):
        judge_region(home, add_result(home, name), 0)
    sign(home, "carcinoma")
    for label in ("normal", None):
        home.catalog.add_hand_label("T-1", annotator="ada", label=label)
    home.catalog.note("counted", "S-1", "two")
    return home


def execute(home: Home, *statements: str | sa.Executable) -> None:
    with home.catalog.engine.begin() as connection:
        for one in statements:
            connection.execute(sa.text(one) if isinstance(one, str) else one)


def failing(home: Home, **options: str) -> list[str]:
    return [failure["where"] for failure in audit_history(home, **options)["failures"]]


def test_an_untouched_history_is_whole(told: Home) -> None:
    home, answer = told, audit_history(told)
    assert answer["failures"] == []
    assert answer["n_events"] == len(home.catalog.events()) == 10
    assert answer["n_results"] == 2
    before = answer["head"]
    home.catalog.put_result({**home.catalog.result("S-1", "M-1"), "n_tiles": 9})  # analysed again
    answer = audit_history(home, since=before)
    assert answer["failures"] == []
    assert answer["head"] != before


@pytest.mark.parametrize(("table", "name"), EDITS, ids=str)
def test_one_edited_value_is_seen(told: Home, table: sa.Table, name: str) -> None:
    column, (key, *_) = table.c[name], table.primary_key
    if name == "slide_id":
        new: object = "S-2"
    elif isinstance(column.type, sa.String):
        new = "0" * 64 if column.type.length else sa.func.coalesce(column, "") + "x"
    else:
        new = column + 1000
    with told.catalog.engine.connect() as connection:
        first = connection.execute(sa.select(sa.func.min(key))).scalar()
    if table is RESULTS and name == "slide_id":
        execute(told, RESULTS.delete().where(RESULTS.c.slide_id == "S-2"))
    execute(told, table.update().where(key == first).values({name: new}))
    assert failing(told)


@pytest.mark.parametrize(
    ("statement", "seen"),
    [
        ("DELETE FROM events WHERE event_id = 3", ["events/4", "reviews/1"]),
        ("DELETE FROM events WHERE event_id = 1", ["events/2"]),
        ("INSERT INTO events SELECT 99, at, who, what, subject, detail, row_name, row_sha256, seal "
         "FROM events WHERE event_id = 1", ["events/99"]),
        ("DELETE FROM reviews WHERE review_id = 2", ["reviews/2"]),
        ("INSERT INTO hand_labels SELECT 99, tile_id, annotator, label, decided_at "
         "FROM hand_labels WHERE decision_id = 1", ["hand_labels/99"]),
        ("DELETE FROM results WHERE slide_id = 'S-1'", ["results/S-1/M-1"]),
        ("UPDATE results SET model_id = 'M-2' WHERE slide_id = 'S-1'",
         ["results/S-1/M-2", "results/S-1/M-1"]),
    ],
)  # fmt: skip
def test_deleted_and_inserted_rows_are_named(told: Home, statement: str, seen: list[str]) -> None:
    execute(told, statement)
    assert failing(told) == seen


def forge(home: Home, event_id: int, *, rest: bool) -> None:
    """Change an event and give it the seal it needs; with `rest`, all that follow too."""
    with home.catalog.engine.begin() as connection:
        after = START
        for row in connection.execute(sa.select(EVENTS).order_by(EVENTS.c.event_id)).mappings():
            event = dict(row) | ({"who": "Eve"} if row["event_id"] == event_id else {})
            del event["seal"]
            after = seal_event(event, after=after)
            if row["event_id"] == event_id or (rest and row["event_id"] > event_id):
                same = EVENTS.c.event_id == row["event_id"]
                connection.execute(EVENTS.update().where(same), event | {"seal": after})


def test_an_event_with_a_forged_seal_breaks_the_chain_after_it(told: Home) -> None:
    forge(told, 3, rest=False)
    assert failing(told) == ["events/4"]


def test_a_history_written_anew_shows_against_a_head_kept_elsewhere(told: Home) -> None:
    head = audit_history(told)["head"]
    told.catalog.note("counted", "S-2")
    assert failing(told, since=head) == []
    forge(told, 3, rest=True)
    assert failing(told) == []
    assert failing(told, since=head) == ["events"]


def test_a_cut_tail_shows_against_a_head_kept_elsewhere(told: Home) -> None:
    head = audit_history(told)["head"]
    execute(told, "DELETE FROM events WHERE event_id = 10")
    assert failing(told) == []
    assert failing(told, since=head) == ["events"]
    told.catalog.note("counted", "S-2")  # the chain goes on from what is left
    assert failing(told) == []
    assert failing(told, since=head) == ["events"]


def test_changed_and_lost_files_of_a_result_are_seen(told: Home) -> None:
    first, second = (Path(told.catalog.result(name, "M-1")["result_path"])  # type: ignore[index]
                     for name in ("S-1", "S-2"))  # fmt: skip
    facts = (first / "result.json").read_text()
    (first / "result.json").write_text(facts.replace("carcinoma", "adenoma", 1))
    shutil.rmtree(second)
    said = {failure["where"]: failure["what"] for failure in audit_history(told)["failures"]}
    assert said == {"results/S-1/M-1": "its files were changed",
                    "results/S-2/M-1": "its folder is gone"}  # fmt: skip


def test_a_prediction_leads_to_slide_model_code_parameters_and_packages(home: Home) -> None:
    folder = copy_model(home)
    add_slide(home, slides()[0], "S-1")
    _, failed = analyse_slides(home, ["S-1"])
    assert failed.empty
    answer = audit_history(home, ["S-1"])
    assert answer["failures"] == []
    (made,) = answer["predictions"]
    card = read_card(folder / "card.json")
    assert made["slide_sha256"] == home.catalog.slide("S-1")["sha256"]
    assert (made["model_id"], made["weights_sha256"]) == (card.model_id, card.weights_sha256)
    assert len(made["code"]["source_sha256"]) == 64
    assert made["tiling"]["tile_size"] == card.tile_size
    assert made["packages"]["numpy"]
    execute(home, f"UPDATE slides SET sha256 = '{'0' * 64}' WHERE slide_id = 'S-1'")
    assert failing(home, slide_ids=["S-1"]) == [f"results/S-1/{card.model_id}"]


def test_a_result_that_says_nothing_of_its_making_is_named(told: Home) -> None:
    assert failing(told, slide_ids=["S-2"]) == ["results/S-2/M-1"]


def test_what_is_from_before_is_sealed_and_said_to_be(home: Home) -> None:
    add_result(home)
    execute(home, "UPDATE results SET content_sha256 = NULL")
    row = {"at": "2026", "who": "Ada", "what": "noted", "subject": "S-1"}
    execute(home, EVENTS.delete(), HAND_LABELS.insert().values(
        tile_id="T-1", annotator="ada", label="normal", decided_at="2026"))  # fmt: skip
    with home.catalog.engine.begin() as connection:
        connection.execute(EVENTS.insert(), [row | {"event_id": i} for i in (1, 2, 5)])
        for index in ("ix_events_subject", "ix_events_row_name"):
            connection.exec_driver_sql(f"DROP INDEX {index}")
        for column in ("row_name", "row_sha256", "seal"):
            connection.exec_driver_sql(f"ALTER TABLE events DROP COLUMN {column}")
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0002'")
    migrations.bring_up_to_date(home.catalog.engine)
    home.catalog.note("counted", "S-1")
    answer = audit_history(home)
    assert answer["failures"] == []
    assert (answer["n_events"], answer["n_from_before"], answer["n_unhashed"]) == (7, 5, 1)
    execute(home, "UPDATE events SET who = 'Eve' WHERE event_id = 2")
    execute(home, "UPDATE hand_labels SET label = 'tumour'", "UPDATE results SET n_tiles = 0")
    assert failing(home) == ["events/2", "results/S-1/M-1", "hand_labels/1"]


def test_who_writes_meanwhile_disturbs_no_audit(told: Home) -> None:
    done = threading.Event()

    def write(name: str) -> None:
        while not done.is_set():
            told.catalog.add_hand_label("T-1", annotator=name, label="normal")

    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(write, name) for name in "abcd"]
        try:
            found = [failing(told) for _ in range(5)]
        finally:
            done.set()
        for writer in writing:
            writer.result()
    assert found == [[]] * 5
    assert failing(told) == []


@pytest.mark.parametrize("since", ["nonsense", "0" * 63, "Z" * 64])
def test_what_is_no_head_is_refused(told: Home, since: str) -> None:
    with pytest.raises(SpecError, match="is no head"):
        audit_history(told, since=since)


def test_an_unknown_slide_is_named(told: Home) -> None:
    with pytest.raises(CatalogError, match="no slide S-9"):
        audit_history(told, ["S-9"])


def test_the_command_answers_and_fails(told: Home) -> None:
    def run(*arguments: str) -> tuple[int, dict]:
        asked = ["audit", *arguments, "--json", "--home", str(told.root)]
        done = CliRunner().invoke(main, asked)
        return done.exit_code, json.loads(done.stdout)

    status, answer = run()
    assert (status, answer["failures"]) == (0, [])
    assert run("--since", answer["head"])[0] == 0
    execute(told, "UPDATE reviews SET label = 'normal' WHERE review_id = 1")
    status, answer = run()
    assert (status, [failure["where"] for failure in answer["failures"]]) == (1, ["reviews/1"])


def test_an_empty_catalogue_has_an_empty_history(home: Home) -> None:
    answer = audit_history(home)
    assert (answer["head"], answer["n_events"], answer["failures"]) == (START, 0, [])
