"""The sections that say how servers serve, work and keep, and what all sections share."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Room = Annotated[int, Meta(ge=0)]
"""A bound at which zero means none at all."""
Memory = Annotated[int, Meta(ge=32 * 1024**2, le=2**62)]
Amount = Annotated[float, Meta(gt=0, le=1e9)]  # an upper end, as TOML has `inf` and `nan`

Price = Annotated[float, Meta(ge=0, le=1e6)]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections.

    The words below a field are what docs/reference/configuration.md says of it. What stands in
    square brackets at their end is the default in words, where the value alone does not say it.
    """


class Role(StrEnum):
    """What a server does of all that there is to do."""

    ALL = "all"
    GATEWAY = "gateway"
    WORKER = "worker"


class ServerConfig(Section, frozen=True):
    """Where the server listens and keeps its state."""

    listen: str = "127.0.0.1:8080"
    """Address and port; port 0 takes a free one."""
    state: str = "./state"
    """The folder of everything that must survive a restart."""
    hosts: tuple[str, ...] = ()
    """Further names that the `Host` header may carry; loopback names and plain addresses always
    may."""
    body_bytes_max: Count = 4 * 1024 * 1024
    """The largest request body; a larger one gets status 413."""
    requests_max: Count = 1024
    """Requests under way at a time; more get status 503."""
    drain_s: Annotated[float, Meta(ge=0, le=1e9)] = 20.0
    """How long SIGTERM waits for requests under way."""
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    """How many server processes answer side by side; the runs of one that dies go on in another.
    Limits, caches and `/metrics` are each one's own."""
    role: Role = Role.ALL
    """`gateway` leaves runs in the background to other servers on the same log, `worker` works on
    them and serves nothing but `/healthz`, `/readyz` and `/metrics`, `all` does both. A worker
    needs `log.url`."""


class HttpConfig(Section, frozen=True):
    """What a client may hold of the server before and beside being served."""

    connections_max: Count = 4096
    """Connections at a time, at most half of the files that the system lets the process open. At
    it, the connection that has waited longest without a request is closed for the new one; if none
    waits, the new one gets status 503."""
    head_s: Amount = 10.0
    """Seconds for the URL and the headers; slower gets status 408."""
    head_bytes_max: Annotated[int, Meta(ge=1024)] = 64 * 1024
    """The URL, the headers and what follows a body in chunks together; more gets status 431."""
    headers_max: Count = 100
    """The number of headers; more get status 431."""
    url_bytes_max: Annotated[int, Meta(ge=256)] = 8 * 1024
    """A longer URL gets status 414."""
    body_s: Amount = 30.0
    """Seconds for the body; slower gets status 408."""
    bodies_bytes_max: Annotated[int, Meta(ge=1024**2)] = 256 * 1024**2
    """The bodies of all requests under way together; more get status 503."""
    compress_bytes_min: Count = 16 * 1024
    """Whole answers from this size on are compressed, by zstd or gzip, where the client takes that;
    streams never are."""
    unread_s: Amount = 30.0
    """How long an answer may lie unread; then its client counts as gone."""
    keep_alive_s: Amount = 75.0
    """How long a connection is kept for a next request."""


class WorkersConfig(Section, frozen=True):
    """What the other processes may take before they are ended and started again."""

    start_s: Amount = 600.0
    """How long a process may take to its first heartbeat: an engine loads its weights in this
    time."""
    silence_s: Annotated[float, Meta(ge=3, le=1e9)] = 15.0
    """How long a process may be without a heartbeat (one a second); then it is killed and started
    again."""
    server_memory_bytes_max: Memory | None = 4 * 1024**3
    """How much memory the server may take."""
    library_memory_bytes_max: Memory | None = 4 * 1024**3
    """How much the library may take."""
    sandbox_memory_bytes_max: Memory | None = 1024**3
    """How much the sandbox may take, and each of its interpreters."""


class LogConfig(Section, frozen=True):
    """Where everything that must survive is kept: in the state folder, or in PostgreSQL.

    With PostgreSQL, several servers can share it.
    """

    url: str | None = None
    """`postgresql://USER@HOST:PORT/DATABASE`, with its parameters, such as `?sslmode=verify-full`;
    or a reference, `env:NAME` or `file:PATH`, to one with a password. [`truth.db` in the state
    folder]"""
    password: str | None = None
    """A reference to the password, `env:NAME` or `file:PATH`; never the password itself."""
    schema: str = "murmurate"
    """The schema of the database that the log has for itself; made at the first start."""


class RouterConfig(Section, frozen=True):
    """How many requests may wait for a model, by lane."""

    urgent_queue_max: Room = 64
    """Urgent requests that may wait for a model; more get status 503."""
    batch_queue_max: Room = 1024
    """The same for the batch lane."""


class RunsConfig(Section, frozen=True):
    """The runs of agents, which go on when their server dies."""

    at_a_time: Count = 64
    """How many runs one server works on at a time, beside those that clients wait for."""
    kept_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    """How long a run that has ended is kept, from its beginning."""


class ResponsesConfig(Section, frozen=True):
    """What `/v1/responses` has stored."""

    kept_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    """How long a stored response is kept, from its beginning."""


class FilesConfig(Section, frozen=True):
    """Files that clients upload and batches write. They are kept in the log."""

    file_bytes_max: Annotated[int, Meta(ge=1, le=2**40)] = 200 * 1024**2
    """The longest file that can be uploaded; a longer one gets status 413."""
    tenant_bytes_max: Annotated[int, Meta(ge=1, le=2**50)] = 2 * 1024**3
    """What the files of one tenant may have together; more get status 413. What batches write
    counts, and is never refused."""
    files_max: Annotated[int, Meta(ge=1, le=10_000)] = 1000
    """How many files one tenant may have; more get status 413."""
    upload_s: Amount = 600.0
    """Seconds for an upload; slower gets status 408."""
    kept_days: Annotated[float, Meta(gt=0, le=36_500)] = 30.0
    """How long a file is kept that does not say when it expires."""


class BatchesConfig(Section, frozen=True):
    """Batches: files of requests that are answered in the background."""

    active_max: Count = 100
    """How many batches of one tenant may be under way; more get status 429."""
    lines_max: Annotated[int, Meta(ge=1, le=50_000)] = 50_000
    """How many requests one batch may have; one with more fails before it begins."""
    window: Annotated[int, Meta(ge=1, le=10_000)] = 512
    """How many lines of one batch are under way at a time, over all servers."""


class ApprovalsConfig(Section, frozen=True):
    """Who may decide what agents ask for."""

    own: bool = False
    """Whether the key that began a run may decide its calls: for machines of one person."""


class CacheConfig(Section, frozen=True):
    """The exact cache of answers: in memory, and in a Redis where several servers share one."""

    ttl_s: Annotated[float, Meta(ge=0, le=1e9)] = 3600.0
    """How long an answer is kept."""
    entries_max: Room = 10_000
    """How many answers are kept."""
    bytes_max: Room = 64 * 1024 * 1024
    """How much memory they may take."""
    redis_url: str | None = None
    """A Redis that shares the answers of models with other servers, `redis://HOST:PORT/0` or
    `rediss://HOST:PORT/0`; or a reference, `env:NAME` or `file:PATH`, to one with a password."""


class OutgoingConfig(Section, frozen=True):
    """What may be fetched of URLs that clients or documents name. What this file names is apart.

    Public addresses are; private networks, this machine and a cloud's metadata are refused.
    """

    allow: tuple[str, ...] = ()
    """Networks besides the public Internet, such as `["10.1.0.0/16", "127.0.0.1/32"]`."""
    ports: Annotated[tuple[Annotated[int, Meta(ge=1, le=65535)], ...], Meta(min_length=1)] = (
        80,
        443,
    )
    """The ports that URLs may name."""


class WebhooksConfig(Section, frozen=True):
    """Notices of ended runs, signed after www.standardwebhooks.com.

    A secret is `whsec_` and base64 of 24 to 64 random bytes; who has it can sign such notices.
    """

    secret: str | None = None
    """A reference to the secret of the tenant `default`, `env:NAME` or `file:PATH`; without it,
    requests with `webhook` get status 400. With two secrets there, a space between them, each
    notice has two signatures, so that receivers can change over."""
    secrets: dict[str, str] = msgspec.field(default_factory=dict)
    """The same for other tenants, each with a secret of its own: `{ acme = "env:ACME_HOOKS" }`."""


class AccountsConfig(Section, frozen=True):
    """The book of what tenants used, and what it cost."""

    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")] = "USD"
    """The currency of all prices, in three letters."""
    kept_days: Annotated[int, Meta(ge=1, le=3_660)] = 400
    """How long the book goes back."""


class LimitConfig(Section, frozen=True):
    """What one key may do."""

    requests_per_minute: Amount = 600.0
    """How fast one key may ask; faster gets status 429."""
    burst: Count = 60
    """How many it may ask at once."""
