"""Looks at a log in PostgreSQL without changing it, for `doctor`."""

import asyncpg

from murmurate.adapters.postgres.database import LOST, Connection, Database, newer
from murmurate.adapters.postgres.format import SERVER_MIN, VERSION, about
from murmurate.adapters.postgres.readers import hang_up
from murmurate.core.types import Frozen

_SIZE = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint FROM pg_class AS c
    JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'"""
# Counting all rows of a large log takes minutes; what PostgreSQL guesses is enough here.
_ENTRIES = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = to_regclass($1)"
_UNSAFE = """SELECT name FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off' ORDER BY name"""


class PostgresSurvey(Frozen, frozen=True):
    """What a look at the server tells. No `format`: there is no log yet.

    `unsafe` are settings with which a power cut loses what was acknowledged.
    """

    name: str
    server: str
    format: int | None
    entries: int
    size_bytes: int
    is_encrypted: bool
    runners: int
    """How many servers hold work in it, or may."""
    unsafe: tuple[str, ...]
    faults: tuple[str, ...]


async def survey(database: Database) -> PostgresSurvey:
    """Look at the server and the schema.

    Raises:
        LogUnavailableError: The server is not there, or refuses us.
        LogNewerError: A newer murmurate wrote the log.
    """
    connection = await database.connect()
    try:
        async with connection.transaction(readonly=True):
            return await _survey(connection, database)
    except (*LOST, asyncpg.PostgresError) as cause:
        raise database.translate(cause) from None
    finally:
        await hang_up(connection)


async def _survey(connection: Connection, database: Database) -> PostgresSurvey:
    version = connection.get_server_version()
    encoding = await connection.fetchval("SHOW server_encoding")
    faults: list[str] = []
    if version.major < SERVER_MIN:
        faults.append(f"PostgreSQL {version.major}: expected {SERVER_MIN} or newer")
    if encoding != "UTF8":
        faults.append(f"the encoding {encoding}: expected UTF8")
    found = await about(connection, database)
    if found is not None and found["format"] > VERSION:
        raise newer(f"{database.name}, schema {database.schema}, format {found['format']}")
    if found is not None and found["copying"] is not None:
        faults.append("it is half of a copy: run `murmurate log copy` again")
    runners = database.sql("SELECT count(*) FROM log.runner")
    encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    return PostgresSurvey(
        name=f"{database.name} at {database.host}, schema {database.schema}",
        server=f"{version.major}.{version.minor}",
        format=None if found is None else found["format"],
        entries=await connection.fetchval(_ENTRIES, f'"{database.schema}".entry') or 0,
        size_bytes=await connection.fetchval(_SIZE, database.schema) or 0,
        is_encrypted=bool(await connection.fetchval(encrypted)),
        runners=0 if found is None else await connection.fetchval(runners) or 0,
        unsafe=tuple(row["name"] for row in await connection.fetch(_UNSAFE)),
        faults=tuple(faults),
    )
