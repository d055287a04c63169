"""Work in PostgreSQL: claims, beats and revocations, inside a transaction with the writer's lock.

How tenants take turns is told in `adapters/memory_work.py`. Nobody else writes meanwhile, so no
row needs a lock of its own.
"""

from murmurate.adapters.postgres.database import Connection, Database
from murmurate.core.ports import Claim, Renewal

_ENLISTED = "SELECT beat FROM log.runner WHERE name = $1"
_NOW_DUE = """UPDATE log.work SET due = 0
    WHERE queue = $1 AND runner IS NULL AND due > 0 AND due <= $2"""
_TAKE = """UPDATE log.work AS w SET runner = $2, epoch = w.epoch + 1, nudged = false
    FROM (SELECT tenant, stream FROM log.work WHERE queue = $1 AND runner IS NULL AND due = 0
        ORDER BY priority DESC, turn, tenant, stream LIMIT $3) AS ready
    WHERE w.tenant = ready.tenant AND w.stream = ready.stream
    RETURNING w.priority, w.turn, w.tenant, w.stream, w.epoch"""
_SERVE = """INSERT INTO log.lane AS l VALUES ($1, $2, $3)
    ON CONFLICT (queue, priority) DO UPDATE SET served = greatest(l.served, excluded.served)"""
_BEAT = """INSERT INTO log.runner AS r VALUES ($1, 1)
    ON CONFLICT (name) DO UPDATE SET beat = r.beat + 1 RETURNING beat"""
_HEAR = """UPDATE log.work SET nudged = false WHERE runner = $1 AND nudged
    RETURNING tenant, stream"""
_LEAVE = "DELETE FROM log.runner WHERE name = $1"
_FREE = "UPDATE log.work SET runner = NULL, nudged = false WHERE runner = $1"


class Works:
    """The statements over one schema."""

    def __init__(self, database: Database) -> None:
        sql = database.sql
        self._enlisted, self._now_due, self._take = sql(_ENLISTED), sql(_NOW_DUE), sql(_TAKE)
        self._serve = sql(_SERVE)
        self._beat, self._hear = sql(_BEAT), sql(_HEAR)
        self._leave, self._free = sql(_LEAVE), sql(_FREE)

    async def claim(
        self, db: Connection, queue: str, runner: str, *, limit: int, now_ms: int
    ) -> list[Claim]:
        """Give a runner the first pieces that are due; nothing to one that is not enlisted."""
        if await db.fetchval(self._enlisted, runner) is None:
            return []
        await db.execute(self._now_due, queue, now_ms)
        taken = await db.fetch(self._take, queue, runner, limit)
        in_turn = sorted((-priority, *rest) for priority, *rest in taken)
        served = {-above: turn for above, turn, *_ in in_turn}  # the last turn of each priority
        await db.executemany(self._serve, [(queue, *lane) for lane in served.items()])
        return [
            Claim(tenant, stream, queue, runner, epoch) for _, _, tenant, stream, epoch in in_turn
        ]

    async def renew(self, db: Connection, runner: str) -> Renewal:
        """Count a beat; hand over what the runner was nudged about."""
        beat: int | None = await db.fetchval(self._beat, runner)
        assert beat is not None, "an upsert returns its row"
        nudged = await db.fetch(self._hear, runner)
        return Renewal(beat > 1, tuple(sorted((tenant, stream) for tenant, stream in nudged)))

    async def revoke(self, db: Connection, runner: str, beat: int | None) -> bool:
        """Take everything from a runner, unless it has beaten since."""
        found = await db.fetchval(self._enlisted, runner)
        if found is None or beat not in (None, found):
            return False
        await db.execute(self._leave, runner)
        await db.execute(self._free, runner)
        return True
