"""Work in truth.db: who may claim what, and who holds it. All inside the caller's transaction.

How tenants take turns is told in `adapters/memory_work.py`; these are the same rules as queries.
"""

import sqlite3
from collections.abc import Sequence
from typing import assert_never

from murmurate.adapters.sqlite.appends import Appending, Appends
from murmurate.adapters.sqlite.queries import PAGE_ROWS, number_of, rows_of, text_of
from murmurate.core.errors import FencedError, LogConflictError
from murmurate.core.ports import Claim, Done, Nudge, Offer, Renewal, Work, WorkInfo

_HOLDER = "SELECT runner, epoch FROM work WHERE tenant = ? AND stream = ?"
_LAST_TURN = "SELECT max(turn) FROM work WHERE queue = ? AND priority = ? AND tenant = ?"
_SERVED = "SELECT served FROM lane WHERE queue = ? AND priority = ?"
_SERVE = """INSERT INTO lane VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET served = max(served, excluded.served)"""
_NEW = "INSERT INTO work VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"
_PUT_BACK = """UPDATE work SET queue = ?, priority = coalesce(?, priority),
    due = iif(nudged, 0, ?), runner = NULL, nudged = 0 WHERE tenant = ? AND stream = ?"""
_NUDGE = """UPDATE work SET nudged = (runner IS NOT NULL), due = 0
    WHERE tenant = ? AND stream = ?"""
_DONE = "DELETE FROM work WHERE tenant = ? AND stream = ?"
_ANY_DUE = """SELECT EXISTS (SELECT 1 FROM work WHERE queue = ?1 AND runner IS NULL AND due = 0)
    OR EXISTS (SELECT 1 FROM work WHERE queue = ?1 AND runner IS NULL AND due > 0 AND due <= ?2)"""
_NOW_DUE = "UPDATE work SET due = 0 WHERE queue = ? AND runner IS NULL AND due > 0 AND due <= ?"
_READY = """SELECT tenant, stream, epoch, priority, turn FROM work
    WHERE queue = ? AND runner IS NULL AND due = 0 ORDER BY priority DESC, turn LIMIT ?"""
_TAKE = "UPDATE work SET runner = ?, epoch = ?, nudged = 0 WHERE tenant = ? AND stream = ?"
_ENLISTED = "SELECT 1 FROM runner WHERE name = ?"
_QUIET = """SELECT NOT EXISTS (SELECT 1 FROM work WHERE runner = ?1 AND nudged = 1)
    FROM runner WHERE name = ?1"""
_ENLIST = "INSERT INTO runner VALUES (?, 0) ON CONFLICT DO NOTHING"
_NUDGED = "SELECT tenant, stream FROM work WHERE runner = ? AND nudged = 1 ORDER BY tenant, stream"
_HEARD = "UPDATE work SET nudged = 0 WHERE runner = ? AND nudged = 1"
_HELD = """SELECT tenant, stream, queue, epoch FROM work
    WHERE runner = ? ORDER BY tenant, stream"""
_FREE = "UPDATE work SET runner = NULL, nudged = 0 WHERE runner = ?"
_PAGE = """SELECT tenant, stream, queue, priority, due, runner, epoch FROM work
    WHERE tenant = ? AND stream > ? AND queue = ? ORDER BY stream LIMIT ?"""


def append(db: sqlite3.Connection, appending: Appending, work: Sequence[Work]) -> list[int]:
    """Change all work and write all entries inside the caller's transaction; return the seqs.

    Raises:
        FencedError: The fence does not hold, or another one holds some of the work.
        LogConflictError: A stream does not end where it was expected to, or work is known already.
        LogCorruptError: The count of a stream is damaged.
    """
    appends = Appends(db)
    seqs = appends.add(appending)  # the fence is looked at before the work changes hands
    for change in work:
        _change(db, change, appending.fence)
    appends.write()
    return seqs


def is_any_due(db: sqlite3.Connection, queue: str, now_ms: int) -> bool:
    """Tell whether there is anything to claim."""
    [(found,)] = rows_of(db, _ANY_DUE, (queue, now_ms))
    return bool(found)


def claim(
    db: sqlite3.Connection, queue: str, runner: str, *, limit: int, now_ms: int
) -> list[Claim]:
    """Give a runner the first pieces that are due; nothing to one that is not enlisted."""
    if not rows_of(db, _ENLISTED, (runner,)):
        return []
    db.execute(_NOW_DUE, (queue, now_ms))
    ready = rows_of(db, _READY, (queue, limit))
    db.executemany(_TAKE, [(runner, epoch + 1, *place) for *place, epoch, _, _ in ready])
    served = {priority: turn for *_, priority, turn in ready}
    db.executemany(_SERVE, [(queue, *lane) for lane in served.items()])
    return [
        Claim(tenant, stream, queue, runner, epoch + 1) for tenant, stream, epoch, _, _ in ready
    ]


def has_no_news(db: sqlite3.Connection, runner: str) -> bool:
    """Tell whether a runner is enlisted and was nudged about nothing."""
    rows = rows_of(db, _QUIET, (runner,))
    return bool(rows and rows[0][0])


def renew(db: sqlite3.Connection, runner: str) -> Renewal:
    """Enlist the runner, if it is not; hand over what it was nudged about."""
    known = bool(rows_of(db, _ENLISTED, (runner,)))
    if not known:
        db.execute(_ENLIST, (runner,))
    nudged = rows_of(db, _NUDGED, (runner,))
    if nudged:
        db.execute(_HEARD, (runner,))
    return Renewal(known, tuple((tenant, stream) for tenant, stream in nudged))


def enlisted(db: sqlite3.Connection) -> list[str]:
    """Return the names of all runners."""
    return [text_of(name) for (name,) in rows_of(db, "SELECT name FROM runner", ())]


def held(db: sqlite3.Connection, runner: str) -> list[Claim]:
    """Return what a runner holds."""
    return [
        Claim(text_of(tenant), text_of(stream), text_of(queue), runner, number_of(epoch))
        for tenant, stream, queue, epoch in rows_of(db, _HELD, (runner,))
    ]


def revoke(db: sqlite3.Connection, runner: str) -> bool:
    """Take everything from a runner."""
    if not rows_of(db, _ENLISTED, (runner,)):
        return False
    db.execute("DELETE FROM runner WHERE name = ?", (runner,))
    db.execute(_FREE, (runner,))
    return True


def page(db: sqlite3.Connection, tenant: str, queue: str, after: str) -> list[WorkInfo]:
    """Return the next pieces of a tenant's work in a queue."""
    return [
        WorkInfo(
            text_of(owner),
            text_of(stream),
            text_of(name),
            number_of(priority),
            number_of(due_ms),
            None if runner is None else text_of(runner),
            number_of(epoch),
        )
        for owner, stream, name, priority, due_ms, runner, epoch in rows_of(
            db, _PAGE, (tenant, after, queue, PAGE_ROWS)
        )
    ]


def _holder(db: sqlite3.Connection, place: Offer | Done) -> tuple[str | None, int] | None:
    """Return who holds the work and since which epoch; None for work that is not known."""
    rows = rows_of(db, _HOLDER, (place.tenant, place.stream))
    return rows[0] if rows else None


def _change(db: sqlite3.Connection, change: Work, fence: Claim | None) -> None:
    place = (change.tenant, change.stream)
    if isinstance(change, Nudge):
        db.execute(_NUDGE, place)
        return
    if fence is not None and place == (fence.tenant, fence.stream):
        found = (None, fence.epoch)  # its fence holds: nobody else has it
    else:
        found = _holder(db, change)
    if found is not None and found[0] is not None:
        raise FencedError(f"{change.stream} is held by {found[0]}")
    match change:
        case Done():
            db.execute(_DONE, place)
        case Offer() if found is None:
            _offer(db, change)
        case Offer(holder=None):
            db.execute(_PUT_BACK, (change.queue, change.priority, change.due_ms, *place))
        case Offer():
            raise LogConflictError(f"{change.stream} of {change.tenant} is offered already")
        case _:
            assert_never(change)


def _offer(db: sqlite3.Connection, offer: Offer) -> None:
    """Write new work behind the last turn of its tenant, or behind the one served last."""
    if offer.holder is not None and not rows_of(db, _ENLISTED, (offer.holder,)):
        raise FencedError(f"{offer.holder} is not enlisted, or was revoked")
    lane = (offer.queue, offer.priority or 0)
    [(last,)] = rows_of(db, _LAST_TURN, (*lane, offer.tenant))
    served = rows_of(db, _SERVED, lane)
    turn = max(last or 0, served[0][0] if served else 0) + 1
    epoch = 0 if offer.holder is None else 1
    held = (offer.holder, epoch)
    db.execute(_NEW, (offer.tenant, offer.stream, *lane, turn, offer.due_ms, *held))
