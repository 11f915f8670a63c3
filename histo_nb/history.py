"""Events as a chain of hashes, so that no row of the history is changed unseen.

The seal of an event is the SHA-256 of the seal before it and of all that the event says. An event
that tells of a row (a result, a review, a hand label) says the row's hash as well. A row that was
edited, deleted or inserted shows; that the tail was cut off, or all of it written anew, shows only
against a seal that was kept elsewhere.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from histo_nb.schema import EVENTS

LOCK = 0x7365_616C  # "seal": the advisory lock that PostgreSQL knows the chain's end by
START = ""  # the seal before the first


def hash_facts(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what is known; a column that is added later changes no hash."""
    known = {str(name): value for name, value in facts.items() if value is not None}
    said = json.dumps(known, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(said.encode()).hexdigest()


def seal_event(event: Mapping[str, Any], *, after: str) -> str:
    """Return the seal of an event that follows the one with the seal `after`."""
    return hash_facts({**event, "seal": after})


def name_rows(table: sa.Table) -> sa.ColumnElement[str]:
    """Return what events call the rows of a table: `reviews/12`."""
    name: sa.ColumnElement[str] = sa.literal(table.name, sa.String)
    for key in table.primary_key:
        name = name + "/" + sa.cast(key, sa.String)
    return name


def tell_row(connection: sa.Connection, table: sa.Table, **key: Any) -> dict[str, str]:
    """Return what an event says of a row that was written just now: its name and hash."""
    same = [table.c[name] == value for name, value in key.items()]
    query = sa.select(table, name_rows(table).label("row_name")).where(*same)
    row = dict(connection.execute(query).mappings().one())
    return {"row_name": row.pop("row_name"), "row_sha256": hash_facts(row)}


def add_event(connection: sa.Connection, event: Mapping[str, Any]) -> None:
    """Write an event as the next of the chain; the last thing that a transaction does.

    Where a database lets two write at once, the second waits here until the first has committed.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))
    columns = EVENTS.c
    query = sa.select(columns.event_id, columns.seal).order_by(columns.event_id.desc()).limit(1)
    event_id, seal = connection.execute(query).first() or (0, START)
    numbered = {"event_id": event_id + 1, **event}
    connection.execute(EVENTS.insert(), numbered | {"seal": seal_event(numbered, after=seal)})
