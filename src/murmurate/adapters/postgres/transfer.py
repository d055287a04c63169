"""A schema in PostgreSQL as one end of a copy."""

import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import asyncpg

from murmurate.adapters.log_copy import PAGE_BYTES, PAGE_ROWS, Facts, Row, Table, mark_of
from murmurate.adapters.postgres.database import (
    LOST,
    Connection,
    Database,
    application,
    newer,
    roll_back,
)
from murmurate.adapters.postgres.format import (
    BOUNDS,
    VERSION,
    WRITER_LOCK_CLASS,
    about,
    lock,
    prepare,
)
from murmurate.adapters.postgres.readers import hang_up
from murmurate.core.errors import (
    BadRequestError,
    LogUnavailableError,
    MurmurateError,
    StateInUseError,
    StateNotEmptyError,
)

_SUMS = "SELECT count(*), coalesce(sum(crc), 0)::bigint FROM log."
_MISSING = """SELECT ((SELECT coalesce(sum(seq - first + 1), 0) FROM log.head)
    - (SELECT count(*) FROM log.entry))::bigint"""
_SEQUENCE = "pg_get_serial_sequence($1, 'position')::regclass"
_RUNNING = """SELECT count(*) FROM pg_stat_activity
    WHERE application_name = $1 AND datname = current_database() AND pid <> pg_backend_pid()"""


class PostgresStore:
    """A log in PostgreSQL on which no service runs, to be read or to be made. `close()` it."""

    def __init__(self, database: Database, connection: Connection) -> None:
        """`connection` belongs to the store from now on."""
        self.name = f"{database.name}, schema {database.schema}"
        self._database = database
        self._db = connection

    @classmethod
    async def open(cls, database: Database, *, is_target: bool) -> "PostgresStore":
        """Connect, and see that nobody else works on it.

        Raises:
            StateInUseError: A service runs on it, or another copy.
            LogNewerError: A newer version wrote it.
            LogUnavailableError: The server is not there, refuses us, or has no log to read.
        """
        connection = await database.connect()
        store = cls(database, connection)
        try:
            async with store._translated():
                await store._take(is_target=is_target)
        except BaseException:
            await store.close()
            raise
        return store

    async def facts(self) -> Facts:
        """Return what the log is now; see `Store`."""
        async with self._translated():
            fetch, sql = self._db.fetch, self._database.sql
            heads = tuple((await fetch(sql(f"{_SUMS}head")))[0])
            snapshots = tuple((await fetch(sql(f"{_SUMS}snapshot")))[0])
            missing = await self._db.fetchval(sql(_MISSING))
            entries = await self._db.fetchval(sql("SELECT count(*) FROM log.entry"))
            query = f"SELECT coalesce(pg_sequence_last_value({_SEQUENCE}), 0)"
            position = await self._db.fetchval(query, self._entry_table())
            found = await about(self._db, self._database)
            work = await fetch(sql("SELECT * FROM log.work ORDER BY tenant, stream"))
            lanes = await fetch(sql("SELECT * FROM log.lane ORDER BY queue, priority"))
            runners = await fetch(sql("SELECT * FROM log.runner ORDER BY name"))
        assert found is not None
        rows = ([tuple(row) for row in some] for some in (work, lanes, runners))
        mark = mark_of(found["id"], position or 0, heads, snapshots, *rows)
        return Facts(found["id"], position or 0, entries or 0, missing or 0, mark)

    async def page(self, table: Table, after: Row | None) -> list[Row]:
        """Return the next rows; see `Store`."""
        columns, key = ", ".join(table.columns), ", ".join(table.key_columns)
        values = ", ".join(f"${number}" for number in range(1, len(table.key_columns) + 1))
        where = "" if after is None else f"WHERE ({key}) > ({values})"
        query = f"SELECT * FROM log.{table.title} {where} ORDER BY {key} LIMIT {PAGE_ROWS}"  # noqa: S608 - our own words
        if table.columns[-1] == "body":
            ahead = f"sum(octet_length(body)) OVER (ORDER BY {key}) - octet_length(body)"
            sized = f"SELECT *, {ahead} AS before FROM ({query}) AS next"  # noqa: S608
            query = f"SELECT * FROM ({sized}) AS sized WHERE before < {PAGE_BYTES} ORDER BY {key}"  # noqa: S608
        query = f"SELECT {columns} FROM ({query}) AS page ORDER BY {key}"  # noqa: S608
        async with self._translated():
            rows = await self._db.fetch(self._database.sql(query), *(after or ()))
        return [tuple(row) for row in rows]

    async def begin(self, source_id: str, mark: str) -> bool:
        """Make it ready, or go on; see `Target`."""
        async with self._translated():
            await prepare(self._db, self._database, copying=True)
            found = await about(self._db, self._database)
            assert found is not None
            if found["copying"] == f"{source_id} {mark}":
                return True
            is_ours = (found["copying"] or "").startswith(f"{source_id} ")
            if not is_ours and (found["copying"] is not None or not await self._is_empty()):
                raise StateNotEmptyError(
                    f"{self.name} is not empty: name another schema, or drop this one"
                )
            async with self._transaction():
                tables = ", ".join(f"log.{table.title}" for table in Table)
                await self._db.execute(self._database.sql(f"TRUNCATE {tables}"))
                marking = self._database.sql("UPDATE log.about SET copying = $1")
                await self._db.execute(marking, f"{source_id} {mark}")
        return False

    async def last(self, table: Table) -> Row | None:
        """Return the key of the last row that is there; see `Target`."""
        key = ", ".join(table.key_columns)
        order = ", ".join(f"{name} DESC" for name in table.key_columns)
        query = f"SELECT {key} FROM log.{table.title} ORDER BY {order} LIMIT 1"  # noqa: S608
        async with self._translated():
            row = await self._db.fetchrow(self._database.sql(query))
        return None if row is None else tuple(row)

    async def put(self, table: Table, rows: Sequence[Row]) -> None:
        """Write rows; see `Target`."""
        for row in rows:
            if any("\0" in value for value in row if isinstance(value, str)):
                raise BadRequestError(
                    f"a name in {table.title} has a zero byte, which PostgreSQL can't keep:"
                    f" {row[:4]}"
                )
        async with self._translated(), self._transaction():
            await self._db.copy_records_to_table(
                table.title,
                records=rows,
                columns=list(table.columns),
                schema_name=self._database.schema,
            )

    async def set_position(self, position: int) -> None:
        """Let the next entry have a higher position; see `Target`."""
        setting = f"SELECT setval({_SEQUENCE}, greatest($2::bigint, 1), $2::bigint > 0)"
        async with self._translated():
            await self._db.execute(setting, self._entry_table(), position)

    async def finish(self, source_id: str) -> None:
        """Make it a log that can be opened; see `Target`."""
        finishing = self._database.sql("UPDATE log.about SET copying = NULL, id = $1")
        async with self._translated(), self._transaction():
            await self._db.execute(finishing, source_id)
        async with self._translated():
            await self._db.execute(self._database.sql("ANALYZE log.entry, log.head"))

    async def close(self) -> None:
        """Close the connection."""
        await hang_up(self._db)

    async def _take(self, *, is_target: bool) -> None:
        """Keep other copies out, and see that no service is connected and that there is a log."""
        key = zlib.crc32(self._database.schema.encode()) - 2**31
        taking = "SELECT pg_try_advisory_lock($1, $2)"
        if not await self._db.fetchval(taking, WRITER_LOCK_CLASS + 1, key):
            raise StateInUseError(f"another copy works on {self.name}: wait for it")
        running = await self._db.fetchval(_RUNNING, application(self._database.schema))
        if running:
            raise StateInUseError(
                f"a murmurate runs on {self.name} ({running} connections): stop it first"
            )
        if is_target:
            return
        found = await about(self._db, self._database)
        if found is None or found["copying"] is not None:
            what = "no log" if found is None else "only half of a copy"
            raise LogUnavailableError(f"{self.name}: there is {what}")
        if found["format"] > VERSION:
            raise newer(self.name)
        if found["format"] < VERSION:
            raise LogUnavailableError(
                f"{self.name} has format {found['format']}: start murmurate on it once, so that it"
                " is upgraded"
            )

    async def _is_empty(self) -> bool:
        for table in Table:
            if await self.last(table) is not None:
                return False
        return True

    def _entry_table(self) -> str:
        return f'"{self._database.schema}".entry'

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[None]:
        await self._db.execute(f"BEGIN; {BOUNDS}; {lock(self._database)}")
        try:
            yield
            await self._db.execute("COMMIT")
        except BaseException:
            await roll_back(self._db)
            raise

    @asynccontextmanager
    async def _translated(self) -> AsyncGenerator[None]:
        """Raise the driver's errors from the `with` block as errors of ours."""
        try:
            yield
        except MurmurateError:
            raise
        except (*LOST, asyncpg.PostgresError) as cause:
            raise self._database.translate(cause) from None
