"""Connects to PostgreSQL within bounds, and says its errors in our words, never with a password.

What goes wrong is one of three kinds: the statement was refused (the connection is as good as
before), the server is not there for now, or the connection is lost.
"""

import re
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from murmurate.core.errors import (
    ConfigError,
    LogCorruptError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
)

CONNECT_S = 5
COMMAND_S = 30.0
"""The longest a statement may take; then its connection is given up."""
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")

Connection = asyncpg.Connection
"""What the other modules of this package talk to."""

LOST: tuple[type[Exception], ...] = (
    OSError,
    TimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # where the server's last word came while nothing was asked
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
"""After these a connection is of no use any more."""

_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.ClientConfigurationError,
)
"""What waiting does not mend."""
_OF_THE_SERVER = (
    asyncpg.InsufficientResourcesError,
    asyncpg.OperatorInterventionError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.PostgresSystemError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InsufficientPrivilegeError,
)
_POOLER = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_DAMAGE = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)


class Database:
    """A PostgreSQL database, and the schema of the log in it."""

    def __init__(
        self, url: str, *, schema: str = "murmurate", password: str | None = None, verb: str = ""
    ) -> None:
        """The `url` may hold a password; `password` counts before it.

        `verb` says what we do there, where it is not to serve.

        `statement_cache_size=0` in the URL turns prepared statements off (old poolers).

        Raises:
            ConfigError: The URL or the schema's name cannot be used.
        """
        if not SCHEMA_NAME.fullmatch(schema):
            raise ConfigError(
                f"log.schema = {schema!r}: expected small letters, digits and '_', at most 40"
            )
        self.schema = schema
        self._application = application(schema, verb)
        try:
            parts = urlsplit(url)
            pairs = parse_qsl(parts.query, keep_blank_values=True)
            usable = parts.scheme in {"postgresql", "postgres"} and parts.port != 0
        except ValueError:
            usable, parts, pairs = False, urlsplit(""), []
        if not usable:
            raise ConfigError("log.url: expected postgresql://USER@HOST:PORT/DATABASE")
        query = dict(pairs)
        cache = query.pop("statement_cache_size", "100")
        if not cache.isdecimal():
            raise ConfigError("log.url: statement_cache_size: expected a number")
        self._cache_size = int(cache)
        self.is_pooled = self._cache_size == 0
        """Two statements may go to two servers' connections, unless a transaction holds them."""
        self._url = urlunsplit(parts._replace(query=urlencode(query)))
        self._password = password
        host = parts.netloc.rpartition("@")[2] or query.get("host", "")
        user = f"{unquote(parts.username)}@" if parts.username else ""
        self.name = f"postgresql://{user}{host}{parts.path}"
        """Where it is, without any secret."""
        known = (password, parts.password, query.get("password"), query.get("sslpassword"))
        self._secrets = {unquote(it) for it in known if it} | {it for it in known if it}

    def __repr__(self) -> str:
        """Show where, and no secret."""
        return f"Database({self.name!r}, schema={self.schema!r})"

    def sql(self, text: str) -> str:
        """Return a statement with our schema in the place of each `log.`."""
        return text.replace("log.", f'"{self.schema}".')

    async def connect(self) -> Connection:
        """Open a connection; whoever gets it closes it.

        Raises:
            LogUnavailableError: The server is not there, is busy, or refuses us.
        """
        try:
            return await asyncpg.connect(
                self._url,
                password=self._password,
                timeout=CONNECT_S,
                command_timeout=COMMAND_S,
                statement_cache_size=self._cache_size,
                server_settings={"application_name": self._application},
            )
        except (*LOST, asyncpg.PostgresError, ValueError) as cause:
            # No cause is chained: some drivers' errors show their arguments, and so the password.
            raise self.unreachable(cause) from None

    def unreachable(self, cause: Exception) -> LogUnavailableError:
        """Return our error for a connection that could not be made; nothing was written."""
        if isinstance(cause, FileNotFoundError):
            why = "a file that its URL names is not there (sslrootcert, sslcert, sslkey, a socket)"
        elif isinstance(cause, TimeoutError):
            why = f"no answer within {CONNECT_S:.0f} s"
        else:
            why = self._words(cause)
        lasting = isinstance(cause, (*_REFUSED, ValueError, FileNotFoundError))
        return LogUnavailableError(
            f"{self.name} cannot be reached: {why}; nothing was written",
            retry_s=None if lasting else 1.0,
        )

    def translate(self, cause: Exception) -> MurmurateError:
        """Return our error for a statement that was refused, or a connection that was lost."""
        if isinstance(cause, asyncpg.PostgresError) and isinstance(cause, _DAMAGE):
            return LogCorruptError(
                f"{self.name}: {self._words(cause)}; restore its backup, or ask who runs it"
            )
        if isinstance(cause, _POOLER):
            return LogUnavailableError(
                f"{self.name}: {self._words(cause)}: a pooler that knows no prepared statements"
                " needs statement_cache_size=0 in log.url"
            )
        if isinstance(cause, LOST):
            why = "no answer in time" if isinstance(cause, TimeoutError) else self._words(cause)
            return LogUnavailableError(f"{self.name}: the connection is lost: {why}", retry_s=1.0)
        return LogUnavailableError(f"{self.name}: {self._words(cause)}", retry_s=1.0)

    def _words(self, cause: Exception) -> str:
        """Return the first line of what was said, without any secret."""
        said = (str(cause) or type(cause).__name__).splitlines()[0]
        for value in self._secrets:
            said = said.replace(value, "[hidden]")
        return said


def application(schema: str, verb: str = "") -> str:
    """Return what the connections to a schema call themselves at the server."""
    return " ".join(word for word in ("murmurate", verb, schema) if word)


def is_of_the_server(cause: Exception) -> bool:
    """Tell whether no other statement would have fared better: no single one is to blame."""
    return isinstance(cause, _OF_THE_SERVER)


def newer(name: str) -> LogNewerError:
    """Return the error for a log of a newer program."""
    return LogNewerError(
        f"{name}: a newer murmurate has changed the log's format: run that version, or restore a"
        " backup of before the upgrade. Nothing was changed"
    )


async def roll_back(connection: Any) -> None:  # noqa: ANN401 - any connection of the driver's
    """End a transaction that failed; where even that fails, end the connection."""
    try:
        await connection.execute("ROLLBACK")
    except (*LOST, asyncpg.PostgresError):
        connection.terminate()
