"""Connects to PostgreSQL within bounds, and says its errors in our words, never with a password.

Where the URL names several hosts, `hosts.py` says which one it is. What goes wrong is one of three
kinds: the statement was refused (the connection is as good as before), the server is not there for
now, or the connection is lost.
"""

import asyncio
import re
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg

from murmurate.adapters.postgres.hosts import (
    STANDING,
    Standing,
    objection,
    standing_of,
    urls_of,
)
from murmurate.core.errors import (
    ConfigError,
    LogCorruptError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
)

CONNECT_S = 5
DEAD_S = 5
"""A host that is silent for so long, while we wait for it, is taken for lost: by TCP itself."""
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
    asyncpg.ReadOnlySQLTransactionError,  # another host leads by now
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
    asyncpg.InsufficientPrivilegeError,
)
_POOLER = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_DAMAGE = (asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError)


_NOTHING = "; nothing was written"


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
            urls = urls_of(parts)
            usable = parts.scheme in {"postgresql", "postgres"}
        except ValueError:
            usable, parts, pairs, urls = False, urlsplit(""), [], []
        if not usable:
            raise ConfigError("log.url: expected postgresql://USER@HOST:PORT,…/DATABASE")
        query = dict(pairs)
        cache = query.pop("statement_cache_size", "100")
        if not cache.isdecimal():
            raise ConfigError("log.url: statement_cache_size: expected a number")
        self._cache_size = int(cache)
        self.is_pooled = self._cache_size == 0
        """Two statements may go to two servers' connections, unless a transaction holds them."""
        if query.pop("target_session_attrs", "read-write") not in {"read-write", "primary", "any"}:
            raise ConfigError("log.url: target_session_attrs: expected read-write, as the log is")
        self._urls = [urlunsplit(urlsplit(url)._replace(query=urlencode(query))) for url in urls]
        self.host: str | None = None
        """The host that was connected to last."""
        self._seen: Standing | None = None
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
        """Open a connection to the host that leads; whoever gets it closes it.

        Raises:
            LogUnavailableError: No server is there, takes writes, or takes us.
        """
        found = await asyncio.gather(*(self._open(url) for url in self._urls))
        errors = [one for one in found if isinstance(one, LogUnavailableError)]
        opened = [one for one in found if not isinstance(one, LogUnavailableError)]
        if not opened:
            raise errors[0] if len(errors) == 1 else self._none_leads(errors)
        chosen = max(opened, key=lambda one: one[1].timeline)  # the one that was promoted last
        for one in opened:
            if one is not chosen:
                one[0].terminate()
        connection, self._seen, self.host = chosen
        return connection

    async def _open(self, url: str) -> tuple[Connection, Standing, str] | LogUnavailableError:
        """Return a connection to one host and how it stands, or why it can't be used."""
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await asyncpg.connect(
                    url,
                    password=self._password,
                    command_timeout=COMMAND_S,
                    statement_cache_size=self._cache_size,
                    server_settings={"application_name": self._application},
                )
                try:
                    _watch(connection)
                    standing = standing_of(await connection.fetchrow(STANDING))
                except BaseException:
                    connection.terminate()
                    raise
        except (*LOST, asyncpg.PostgresError, ValueError) as cause:
            # No cause is chained: some drivers' errors show their arguments, and so the password.
            return self.unreachable(cause, url)
        why = objection(standing, seen=self._seen)
        if why is not None:
            connection.terminate()
            where = self.name if len(self._urls) == 1 else _host(url)
            return LogUnavailableError(f"{where}: {why}; nothing was written", retry_s=1.0)
        return connection, standing, _host(url)

    def _none_leads(self, errors: list[LogUnavailableError]) -> LogUnavailableError:
        why = "; ".join(error.detail.removesuffix(_NOTHING) for error in errors)
        lasting = all(error.retry_s is None for error in errors)
        return LogUnavailableError(
            f"{self.name}: no host can be written to ({why}){_NOTHING}",
            retry_s=None if lasting else 1.0,
        )

    def unreachable(self, cause: Exception, url: str) -> LogUnavailableError:
        """Return our error for a connection that could not be made; nothing was written."""
        if isinstance(cause, FileNotFoundError):
            why = "a file that its URL names is not there (sslrootcert, sslcert, sslkey, a socket)"
        elif isinstance(cause, TimeoutError):
            why = f"no answer within {CONNECT_S:.0f} s"
        else:
            why = self._words(cause)
        lasting = isinstance(cause, (*_REFUSED, ValueError, FileNotFoundError))
        where = self.name if len(self._urls) == 1 else _host(url)
        return LogUnavailableError(
            f"{where} cannot be reached: {why}{_NOTHING}",
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


def _host(url: str) -> str:
    """Return a URL's host and port alone."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _watch(connection: Connection) -> None:
    """Let TCP give up a host that has vanished without a word: else a wait takes `COMMAND_S`."""
    options = {
        socket.SO_KEEPALIVE: (socket.SOL_SOCKET, 1),
        socket.TCP_KEEPIDLE: (socket.IPPROTO_TCP, 2),
        socket.TCP_KEEPINTVL: (socket.IPPROTO_TCP, 1),
        socket.TCP_KEEPCNT: (socket.IPPROTO_TCP, DEAD_S - 2),
        socket.TCP_USER_TIMEOUT: (socket.IPPROTO_TCP, DEAD_S * 1000),
    }
    with suppress(OSError, AttributeError):  # not TCP, or not the driver that we know
        wire = connection._transport.get_extra_info("socket")  # noqa: SLF001 - it shows no other way
        for option, (level, value) in options.items():
            wire.setsockopt(level, option, value)


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
