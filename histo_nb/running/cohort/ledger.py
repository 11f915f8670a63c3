"""What of a cohort is done, by whom, how often it was tried: rows of the catalogue.

A piece of work is one stage of one slide, named by the hash of all that decides its output. Who
works on it holds a lease that must be renewed; what is committed under a lease that was lost is
refused. A worker that died holds nothing: on this machine that is seen at once, on others when its
lease has run out. It is the work's fault only if whoever watches the worker lives on: where both
have gone, somebody has ended them.
"""

import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sqlalchemy as sa

from histo_nb.catalog import Catalog, now
from histo_nb.errors import CatalogError
from histo_nb.processes import machine, started
from histo_nb.schema import WORK

DIED = "its worker was killed, most often for lack of memory"
CLOCK_S = 5.0  # what a machine's clock may be put right by while a process runs


class LeaseLostError(CatalogError):
    """Somebody else has taken over a piece of work; what was made of it is not committed."""


@dataclass(frozen=True)
class Work:
    """One stage of one slide."""

    key: str  # hash of all that decides the output
    slide_id: str
    stage: str


@dataclass(frozen=True)
class Lease:
    """The right to do a piece of work, for a while."""

    work: Work
    token: str
    attempts: int  # this one included


class Ledger:
    """The ledger of a catalogue.

    Parameters
    ----------
    lease_s
        Seconds that a lease lasts without being renewed.
    tries
        So often a piece of work may be begun before it counts as failed.
    """

    def __init__(self, catalog: Catalog, *, lease_s: float, tries: int) -> None:
        self._catalog, self._lease_s, self._tries = catalog, lease_s, tries

    def rows(self, works: Iterable[Work]) -> dict[str, dict[str, Any]]:
        """Return what is known of pieces of work, by their keys."""
        query = sa.select(WORK).where(WORK.c.work_key.in_([work.key for work in works]))
        with self._catalog.reading() as connection:
            return {row["work_key"]: dict(row) for row in connection.execute(query).mappings()}

    def take(self, work: Work) -> Lease | None:
        """Return a lease; None if the work is done, has failed, or is somebody else's."""
        with self._catalog.writing("") as connection:
            return self._take(connection, work)

    def finish(
        self, lease: Lease, *, output_sha256: str, seconds: float, then: Work | None = None
    ) -> Lease | None:
        """Commit that the work is done, and in the same moment take the next.

        Raises
        ------
        LeaseLostError
            The work is somebody else's by now.
        """
        values = {"output_sha256": output_sha256, "seconds": seconds, "reason": None}
        with self._catalog.writing("") as connection:
            _settle(connection, lease, state="done", **values)
            return self._take(connection, then) if then else None

    def fail(self, lease: Lease, reason: str, *, for_good: bool) -> str:
        """Write that the work failed, for good or until it is tried again; return its state.

        Raises
        ------
        LeaseLostError
            The work is somebody else's by now.
        """
        state = "failed" if for_good or lease.attempts >= self._tries else "waiting"
        with self._catalog.writing("") as connection:
            _settle(connection, lease, state=state, reason=reason)
        return state

    def give_back(self, lease: Lease) -> None:
        """Leave the work to others, as if it had never been begun: it was not its fault."""
        with self._catalog.writing("") as connection:
            _settle(connection, lease, state="waiting", attempts=lease.attempts - 1)

    def renew(self, lease: Lease, *, reason: str | None = None) -> None:
        """Make the lease last; a reason is what will be said if its holder dies.

        Raises
        ------
        LeaseLostError
            The work is somebody else's by now.
        """
        values = {} if reason is None else {"reason": reason}
        with self._catalog.writing("") as connection:
            until = _clock(connection) + self._lease_s
            _settle(connection, lease, state="leased", leased_until=until, **values)

    def reopen(self, works: Iterable[Work]) -> None:
        """Let pieces of work be done again: their output is gone, or they may be tried again."""
        settled = WORK.c.state.in_(("done", "failed"))
        keys = WORK.c.work_key.in_([work.key for work in works])
        values = {"state": "waiting", "attempts": 0, "reason": None, "updated_at": now()}
        with self._catalog.writing("") as connection:
            connection.execute(WORK.update().where(keys, settled), values)

    def give_back_dead(self, slide_ids: Iterable[str]) -> None:
        """Leave the work of slides whose workers have ended to others: they were told to end."""
        mine = self._catalog.among(WORK.c.slide_id, slide_ids)
        query = sa.select(WORK).where(mine, WORK.c.state == "leased")
        with self._catalog.writing("") as connection:
            for row in connection.execute(query).mappings().all():
                if _is_dead(row["worker"]):
                    work = Work(row["work_key"], row["slide_id"], row["stage"])
                    lease = Lease(work, row["token"], row["attempts"])
                    _settle(connection, lease, state="waiting", attempts=lease.attempts - 1)

    def count(self) -> pd.DataFrame:
        """Return how much work there is of each stage and state: `stage, state, n`."""
        columns = (WORK.c.stage, WORK.c.state)
        query = sa.select(*columns, sa.func.count().label("n")).group_by(*columns)
        with self._catalog.reading() as connection:
            return pd.DataFrame(connection.execute(query).mappings().all())

    def _take(self, connection: sa.Connection, work: Work) -> Lease | None:
        same = WORK.c.work_key == work.key
        query = sa.select(WORK).where(same).with_for_update()
        row = connection.execute(query).mappings().first()
        clock = _clock(connection)
        if row and (row["state"] in ("done", "failed") or _is_held(dict(row), clock)):
            return None
        tried = _count_tries(dict(row)) if row else 0
        if row and tried >= self._tries:
            reason = f"tried {tried} times, the last time: {row['reason'] or DIED}"
            ended = {"state": "failed", "reason": reason, "updated_at": now()}
            connection.execute(WORK.update().where(same), ended)
            return None
        lease = Lease(work, secrets.token_hex(16), tried + 1)
        values: dict[str, Any] = {
            "state": "leased",
            "attempts": lease.attempts,
            "worker": who(),
            "token": lease.token,
            "leased_until": clock + self._lease_s,
            "reason": None,
            "updated_at": now(),
        }
        if row:
            connection.execute(WORK.update().where(same), values)
            return lease
        named = {"work_key": work.key, "slide_id": work.slide_id, "stage": work.stage}
        new = _insert(connection).values(**named, **values).on_conflict_do_nothing()
        ours = connection.execute(new.returning(WORK.c.work_key)).first()
        return lease if ours else None  # another was quicker


def _insert(connection: sa.Connection) -> Any:
    from sqlalchemy.dialects import postgresql, sqlite  # noqa: PLC0415

    return {"sqlite": sqlite, "postgresql": postgresql}[connection.dialect.name].insert(WORK)


def _settle(connection: sa.Connection, lease: Lease, **values: Any) -> None:
    own = (WORK.c.work_key == lease.work.key, WORK.c.token == lease.token)
    change = WORK.update().where(*own, WORK.c.state == "leased")
    if not connection.execute(change, values | {"updated_at": now()}).rowcount:
        work = lease.work
        raise LeaseLostError(f"{work.stage} of {work.slide_id} was taken over by another worker")


def _is_held(row: dict[str, Any], clock: float) -> bool:
    return row["state"] == "leased" and row["leased_until"] > clock and not _is_dead(row["worker"])


def _clock(connection: sa.Connection) -> float:
    """Return the time in seconds since 1970, by one clock for all who share the database."""
    if connection.dialect.name == "sqlite":  # a file on this machine
        return time.time()
    seconds = sa.func.extract("epoch", sa.func.clock_timestamp())
    return float(connection.execute(sa.select(seconds)).scalar_one())


def who() -> str:
    """Return which process of which machine this is, and which one watches it.

    No other is ever called so.
    """
    watched, watcher = os.getpid(), os.getppid()
    return f"{machine()}/{watched}/{started(watched)}/{watcher}/{started(watcher)}"


def _is_dead(worker: str) -> bool:
    """Say whether a process of this machine has ended; of others nothing is known."""
    where, pid, since, *_ = worker.rsplit("/", 4)
    return where == machine() and _has_ended(pid, since)


def _count_tries(row: dict[str, Any]) -> int:
    """Return how often work was tried, but for what ended because its watcher had ended, too."""
    *_, watcher, since = row["worker"].rsplit("/", 4)
    is_ended = row["state"] == "leased" and row["reason"] is None and _is_dead(row["worker"])
    return int(row["attempts"]) - (is_ended and _has_ended(watcher, since))


def _has_ended(pid: str, since: str) -> bool:
    return abs(started(int(pid)) - float(since)) > CLOCK_S
