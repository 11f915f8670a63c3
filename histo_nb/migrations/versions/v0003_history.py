"""The history is sealed; each result, review and hand label of before gets an event.

What was written before cannot be vouched for: the event "history sealed" says where it ends.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from histo_nb.history import START, hash_facts, seal_event

revision = "0003"
down_revision = "0002"

COLUMNS = ("event_id", "at", "who", "what", "subject", "detail", "row_name", "row_sha256", "seal")
EVENTS = sa.table("events", *map(sa.column, COLUMNS))
BATCH = 5000  # rows in memory at once
TOLD = {  # table: its key, and whom its event is about
    "results": (("slide_id", "model_id"), "slide_id"),
    "reviews": (("review_id",), "slide_id"),
    "hand_labels": (("decision_id",), "tile_id"),
}


def upgrade() -> None:
    """Add the columns of the chain, and seal what is there."""
    op.add_column("events", sa.Column("row_name", sa.String()))
    op.add_column("events", sa.Column("row_sha256", sa.String(64)))
    op.add_column("events", sa.Column("seal", sa.String(64)))
    op.create_index("ix_events_row_name", "events", ["row_name"])
    op.create_index("ix_events_subject", "events", ["subject"])
    connection = op.get_bind()
    last, seal = _seal_events(connection)
    before = last
    for name in TOLD:
        last, seal = _tell_rows(connection, name, last, seal)
    if last:
        detail = f"{before} events and {last - before} rows are from before"
        event = {"what": "history sealed", "subject": "catalogue", "detail": detail}
        _insert(connection, [event], last, seal)


def _seal_events(connection: sa.Connection) -> tuple[int, str]:
    last, seal = 0, START
    update = EVENTS.update().where(EVENTS.c.event_id == sa.bindparam("of"))
    query = sa.select(*(EVENTS.c[name] for name in COLUMNS if name != "seal"))
    query = query.order_by(EVENTS.c.event_id).limit(BATCH)
    while rows := connection.execute(query.where(EVENTS.c.event_id > last)).mappings().all():
        seals = []
        for row in rows:
            last, seal = row["event_id"], seal_event(dict(row), after=seal)
            seals.append({"of": last, "seal": seal})
        connection.execute(update, seals)
    return last, seal


def _tell_rows(connection: sa.Connection, name: str, last: int, seal: str) -> tuple[int, str]:
    keys, subject = TOLD[name]
    table = sa.Table(name, sa.MetaData(), autoload_with=connection, resolve_fks=False)
    query = sa.select(table).order_by(*(table.c[key] for key in keys))
    rows = connection.execute(query).mappings()
    for batch in rows.partitions(BATCH):
        events = [
            {
                "what": "row sealed",
                "subject": row[subject],
                "row_name": "/".join([name, *(str(row[key]) for key in keys)]),
                "row_sha256": hash_facts(dict(row)),
            }
            for row in batch
        ]
        last, seal = _insert(connection, events, last, seal)
    return last, seal


def _insert(
    connection: sa.Connection, events: list[dict[str, str]], last: int, seal: str
) -> tuple[int, str]:
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    sealed = []
    for event in events:
        last += 1
        facts = {**dict.fromkeys(COLUMNS), "event_id": last, "at": at, "who": "histo-nb", **event}
        del facts["seal"]
        seal = seal_event(facts, after=seal)
        sealed.append(facts | {"seal": seal})
    connection.execute(EVENTS.insert(), sealed)
    return last, seal
