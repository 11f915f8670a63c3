"""The audit: is the history whole, and how did each prediction come about?"""
# ruff: noqa: PLC0415

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from histo_nb.errors import BundleError, CatalogError, SpecError
from histo_nb.history import START, hash_facts, name_rows, seal_event
from histo_nb.home import Home
from histo_nb.running.report import SLIDES, command
from histo_nb.schema import EVENTS, HAND_LABELS, RESULTS, REVIEWS

TOLD = (RESULTS, REVIEWS, HAND_LABELS)  # whose rows events tell of
BATCH = 1000  # rows in memory at once
SEAL = re.compile("[0-9a-f]{64}")


def audit_history(home: Home, slide_ids: Sequence[str] = (), *, since: str = "") -> dict[str, Any]:
    """Verify the history; tell how the predictions of the named slides came about.

    Parameters
    ----------
    slide_ids
        Whose results' files are hashed again; none = all.
    since
        A `head` that was kept elsewhere: it must still be a part of the history.

    Returns
    -------
    dict
        `head`, the last seal; `n_events`, of which `n_from_before` were written before events
        were sealed; `n_results` whose files were hashed, `n_unhashed` that never were;
        `predictions`, how they came about; `failures`, each with `where` and `what`.

    Raises
    ------
    CatalogError
        A named slide is not in the catalogue.
    SpecError
        `since` is no seal.
    """
    if since and not SEAL.fullmatch(since):
        raise SpecError(f"since={since!r} is no head; give one that `histo-nb audit` has told")
    if slide_ids:
        home.catalog.slides(slide_ids)
    audit = _Audit(home)
    with home.catalog.snapshot() as connection:
        audit.check_chain(connection, since=since)
        for table in TOLD:
            audit.check_rows(connection, table)
    for row in _results(home, slide_ids):
        audit.check_result(row)
        if slide_ids:
            audit.explain(row)
    return asdict(audit.found)


@dataclass
class _Found:
    """What the audit answers."""

    head: str = START
    n_events: int = 0
    n_from_before: int = 0
    n_results: int = 0
    n_unhashed: int = 0
    predictions: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)


class _Audit:
    """One audit; what it finds is in `found`."""

    def __init__(self, home: Home) -> None:
        self._home, self.found = home, _Found()

    def check_chain(self, connection: sa.Connection, *, since: str) -> None:
        """Check that each event has its seal and follows the one before it."""
        columns = [column for column in EVENTS.c if column is not EVENTS.c.seal]
        query = sa.select(EVENTS.c.seal, *columns).order_by(EVENTS.c.event_id)
        found, is_known = self.found, not since
        for event in _stream(connection, query):
            seal = event.pop("seal")
            if seal != seal_event(event, after=found.head):
                self._fail(f"events/{event['event_id']}", "it, or what was before it, was changed")
            found.head, found.n_events = seal or START, found.n_events + 1
            is_known = is_known or seal == since
            if event["what"] == "history sealed":
                found.n_from_before = found.n_events - 1
        if not is_known:
            self._fail("events", f"they were cut off or written anew since: {since} is none's seal")

    def check_rows(self, connection: sa.Connection, table: sa.Table) -> None:
        """Check that the rows of a table are those that events tell of."""
        name = name_rows(table).label("row_name")
        of_row = sa.select(EVENTS.c.row_sha256).where(EVENTS.c.row_name == name)
        last = of_row.order_by(EVENTS.c.event_id.desc()).limit(1).scalar_subquery()
        for row in _stream(connection, sa.select(name, last.label("row_sha256"), table)):
            where, wanted = row.pop("row_name"), row.pop("row_sha256")
            if wanted is None:
                self._fail(where, "no event tells of it: it was put there by other hands")
            elif hash_facts(row) != wanted:
                self._fail(where, "it was changed: it is not as its event says")
        of_table = EVENTS.c.row_name.startswith(f"{table.name}/", autoescape=True)
        told = sa.select(EVENTS.c.row_name).where(of_table)
        for row in _stream(connection, sa.except_(told, sa.select(name))):
            self._fail(row["row_name"], "an event tells of it, and it is gone")

    def check_result(self, row: dict[str, Any]) -> None:
        """Check that a result's files are those it was filed with."""
        wanted = row["content_sha256"]
        self.found.n_results += bool(wanted)
        self.found.n_unhashed += not wanted
        if wanted and (found := _hash(row)) != wanted:
            newer = self._home.catalog.result(row["slide_id"], row["model_id"])
            if newer is None or newer["content_sha256"] != found:  # not analysed again meanwhile
                self._fail(_name(row), "its files were changed" if found else "its folder is gone")

    def explain(self, row: dict[str, Any]) -> None:
        """Tell what a prediction was made from, and check that slide and model are still that."""
        from histo_nb.inference.result import read_provenance

        try:
            made_from = read_provenance(Path(row["result_path"]))
            slide, model = made_from.pop("slide"), made_from.pop("model")
            told = {"slide_sha256": slide["sha256"], "weights_sha256": model["weights_sha256"]}
        except (CatalogError, LookupError, TypeError) as error:
            self._fail(_name(row), f"it does not say how it came about ({error})")
            return
        said = {name: row[name] for name in ("slide_id", "model_id", "slide_class", "analysed_at")}
        self.found.predictions.append({**said, **told, **made_from})
        if told["slide_sha256"] != self._home.catalog.slide(row["slide_id"])["sha256"]:
            self._fail(_name(row), "it was made from another file than the slide is")
        if told["weights_sha256"] != _weights(self._home, row["model_id"]):
            self._fail(_name(row), "it was made with other weights than the model has")

    def _fail(self, where: str, what: str) -> None:
        self.found.failures.append({"where": where, "what": what})


def _stream(connection: sa.Connection, query: sa.Executable) -> Iterator[dict[str, Any]]:
    result = connection.execute(query, execution_options={"yield_per": BATCH})
    names = list(result.keys())
    for row in result:
        yield dict(zip(names, row, strict=True))


def _results(home: Home, slide_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    # A page at a time: hashing takes long, and a snapshot keeps the database from tidying up.
    key = sa.tuple_(RESULTS.c.slide_id, RESULTS.c.model_id)
    query = sa.select(RESULTS).order_by(*key).limit(BATCH)
    if slide_ids:
        query = query.where(home.catalog.among(RESULTS.c.slide_id, slide_ids))
    page = query
    while True:
        with home.catalog.reading() as connection:
            rows = [dict(row) for row in connection.execute(page).mappings()]
        yield from rows
        if len(rows) < BATCH:
            return
        page = query.where(key > (rows[-1]["slide_id"], rows[-1]["model_id"]))


def _name(row: dict[str, Any]) -> str:
    return f"results/{row['slide_id']}/{row['model_id']}"


def _hash(row: dict[str, Any]) -> str | None:
    from histo_nb.inference.result import hash_result

    try:
        return hash_result(Path(row["result_path"]))
    except OSError:
        return None


def _weights(home: Home, model_id: str) -> str | None:
    from histo_nb.model.card import read_card

    try:
        return read_card(home.models / model_id / "card.json").weights_sha256
    except BundleError:
        return None


@SLIDES
@click.option("--since", default="", metavar="HEAD",
              help="A head kept elsewhere; it must still be a part of the history.")  # fmt: skip
def audit(home: Home, slide_ids: tuple[str, ...], since: str) -> dict[str, Any]:
    """Verify that no event, result, review or label was changed, added or removed by other hands.

    Tells how the predictions of the named slides came about. Keep the head that it prints where
    nobody can change it: that the history's end was cut off, or that all of it was written anew,
    shows only against it.
    """
    return audit_history(home, slide_ids, since=since)


def add_audit(main: click.Group) -> None:
    """Add the command of the audit to the command line."""
    command(main)(audit)
