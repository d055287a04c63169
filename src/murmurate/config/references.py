"""What settings stand for: other servers with their secrets, taken from where references lead."""

import base64
import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from murmurate.config.models import EmbeddingsConfig, ModelConfig
from murmurate.config.sections import CacheConfig, LogConfig, WebhooksConfig
from murmurate.config.tree import TENANT_FIRST
from murmurate.core.errors import ConfigError

SECRET_CHARS_MIN = 8
"""Shorter ones are common words; replacing those would make messages unreadable."""


class Remote(msgspec.Struct, frozen=True):
    """How to reach another server, with the secrets themselves: for memory and pipes only."""

    url: str
    key: str | None = None
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    ca_file: str | None = None
    proxy: str | None = None

    def __repr__(self) -> str:
        """Show where, and nothing that may be secret: tracebacks and logs show representations."""
        return f"Remote({self.url!r})"

    def redacted(self, text: str) -> str:
        """Return the text without any secret of this server's: some echo what they were sent."""
        for value in (self.key, self.proxy, *self.headers.values()):
            if value and len(value) >= SECRET_CHARS_MIN:
                text = text.replace(value, "[hidden]")
        return text


def remote(config: ModelConfig | EmbeddingsConfig) -> Remote:
    """Return the server that a section names, its references resolved.

    `ConfigError`: a reference leads nowhere, or `ca_file` does.
    """
    assert config.url is not None, "only sections of engine 'openai' are remote"
    if config.ca_file is not None and not Path(config.ca_file).expanduser().is_file():
        raise ConfigError(f"ca_file = {config.ca_file!r}: no such file")
    return Remote(
        url=config.url.rstrip("/"),
        key=None if config.key is None else secret(config.key),
        headers={
            name: secret(value) if is_reference(value) else value
            for name, value in config.headers.items()
        },
        ca_file=None if config.ca_file is None else str(Path(config.ca_file).expanduser()),
        proxy=secret(config.proxy)
        if config.proxy is not None and is_reference(config.proxy)
        else config.proxy,
    )


WEBHOOK_KEYS_MAX = 2


def webhook_keys(config: WebhooksConfig) -> dict[str, tuple[bytes, ...]]:
    """Return what the notices of each tenant are signed with. `ConfigError`: one is no secret."""
    references = {TENANT_FIRST: config.secret} if config.secret is not None else {}
    return {
        tenant: _webhook_keys(reference)
        for tenant, reference in {**references, **config.secrets}.items()
    }


def _webhook_keys(reference: str) -> tuple[bytes, ...]:
    """Return the secrets of a tenant: while one takes the place of another there are two."""
    try:
        words = secret(reference).split()
        keys = [base64.b64decode(word.removeprefix("whsec_"), validate=True) for word in words]
    except ValueError:
        keys = []
    if not 1 <= len(keys) <= WEBHOOK_KEYS_MAX or not all(24 <= len(key) <= 64 for key in keys):
        raise ConfigError(
            f"secret = {reference!r}: expected whsec_ and base64 of 24 to 64 random bytes, or two"
            " of them with a space between"
        )
    return tuple(keys)


class LogPlace(msgspec.Struct, frozen=True):
    """Where the log is in PostgreSQL, with the secrets themselves: for memory only."""

    url: str
    schema: str
    password: str | None = None

    def __repr__(self) -> str:
        """Show no secret: tracebacks and logs show representations."""
        return f"LogPlace(schema={self.schema!r})"


def log_place(log: LogConfig) -> LogPlace | None:
    """Return where the log is in PostgreSQL, references resolved; None: in the state folder.

    `ConfigError`: a reference leads nowhere.
    """
    if log.url is None:
        return None
    try:
        return LogPlace(
            secret(log.url) if is_reference(log.url) else log.url,
            log.schema,
            None if log.password is None else secret(log.password),
        )
    except ConfigError as error:
        raise ConfigError(f"log: {error.detail}") from error


def redis_url(cache: CacheConfig) -> str | None:
    """Return where the shared answers are, its reference resolved.

    `ConfigError`: the reference leads nowhere, or to no URL of a Redis.
    """
    if cache.redis_url is None:
        return None
    url = secret(cache.redis_url) if is_reference(cache.redis_url) else cache.redis_url
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is none, or the brackets of the address don't close
        usable = False
    if not usable:
        raise ConfigError("cache.redis_url: expected redis://HOST:PORT/0 or rediss://HOST:PORT/0")
    return url


def secret(reference: str) -> str:
    """Resolve `env:NAME` or `file:PATH`; the value itself is never accepted, so it can't leak."""
    kind, _, rest = reference.partition(":")
    if kind == "env":
        value = os.environ.get(rest)
        if not value:
            raise ConfigError(f"key = {reference!r}: the variable {rest} is not set")
        return _one_line(reference, value)
    if kind == "file":
        try:
            value = Path(rest).expanduser().read_text(encoding="utf-8").strip()
        except OSError as cause:
            raise ConfigError(f"key = {reference!r}: {cause.strerror}") from cause
        except UnicodeDecodeError as cause:
            raise ConfigError(f"key = {reference!r}: the file is not text") from cause
        if not value:
            raise ConfigError(f"key = {reference!r}: the file is empty")
        return _one_line(reference, value)
    raise ConfigError("key: expected a reference, env:NAME or file:PATH, not the secret itself")


def _one_line(reference: str, value: str) -> str:
    """Return the secret when a header can carry it."""
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"key = {reference!r}: expected one line of printable ASCII characters")
    return value


def is_reference(text: str) -> bool:
    """Tell whether a value says where it stands, instead of what it is."""
    return text.startswith(("env:", "file:"))
