"""All settings, typed and frozen: one TOML file and `MURMURATE_…` variables, read only here.

Every default works on one machine, offline, with nothing else installed. A key that nobody knows, a
wrong type or an impossible pair stops the start with the key, its value and what was expected.
"""

import base64
import copy

# Over 400 lines: every setting with its default and every check stand on one page.
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from murmurate.core.cron import Cron
from murmurate.core.errors import ConfigError

FILE_DEFAULT = Path("murmurate.toml")
ENVIRONMENT_PREFIX = "MURMURATE_"
DATA = Path(__file__).parent / "data"

TOOLS = ("search", "calculate")
EMBEDDER_NAME = "minilm"
CONTEXT_TOKENS = 4096
SECRET_CHARS_MIN = 8
"""Shorter ones are common words; replacing those would make messages unreadable."""

Count = Annotated[int, Meta(ge=1)]
Room = Annotated[int, Meta(ge=0)]
"""A bound at which zero means none at all."""
Memory = Annotated[int, Meta(ge=32 * 1024**2, le=2**62)]
Amount = Annotated[float, Meta(gt=0, le=1e9)]  # an upper end, as TOML has `inf` and `nan`

_T = TypeVar("_T")


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections.

    The words below a field are what docs/reference/configuration.md says of it. What stands in
    square brackets at their end is the default in words, where the value alone does not say it.
    """


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


class Engine(StrEnum):
    """What runs a model."""

    LLAMA_CPP = "llama.cpp"
    OPENAI = "openai"
    SCRIPTED = "scripted"


class ModelConfig(Section, frozen=True):
    """A name that clients may use, and the engine behind it."""

    engine: Engine
    """`llama.cpp` (a GGUF file on this machine), `openai` (any OpenAI-compatible server) or
    `scripted` (answers from a file of rules, for tests); without it, `weights`, `url` or `rules`
    decides. [by the next keys]"""
    weights: str | None = None
    """For `llama.cpp`: `builtin:tiny`, or the path of a GGUF file (of a split one, the first
    part)."""
    url: str | None = None
    """For `openai`: the base URL, such as `https://llm.example/v1`."""
    key: str | None = None
    """For `openai`: a reference to the secret, `env:NAME` or `file:PATH`; never the secret
    itself."""
    upstream_name: str | None = None
    """For `openai`: what the other server calls the model. [the model's own name]"""
    headers: dict[str, str] = {}
    """For `openai`: further headers, such as `{ OpenAI-Organization = "org-1" }`; a value may be a
    reference."""
    ca_file: str | None = None
    """For `openai`: a file of certificates (PEM) to trust besides the system's."""
    proxy: str | None = None
    """For `openai`: an HTTP proxy, `http://HOST:PORT` or a reference such as `env:HTTPS_PROXY`;
    the environment's own proxies are not used unless named here."""
    rules: str | None = None
    """For `scripted`: the path of the rules."""
    slots: Count = 4
    """How many requests the engine works on at once; the others wait in their lane."""
    context_tokens: Annotated[int, Meta(ge=64)] | None = None
    """The longest prompt and answer together; a longer prompt gets status 400. [4096, or what the
    model was trained for where that is less]"""
    threads: Count | None = None
    """For `llama.cpp`: how many threads it computes with. [all cores, at most 8]"""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Used where a request names none; at 0 answers are exact and can be cached. [the engine's]"""
    first_token_s: Amount = 60.0
    """How long the first token may take before the engine counts as dead."""
    stall_s: Amount = 30.0
    """How long an answer may pause before the engine counts as dead."""
    memory_bytes_max: Memory | None = None
    """How much memory the engine's process may write to, without the weights that it maps; see
    `[workers]`."""


class EmbeddingsEngine(StrEnum):
    """What turns texts into vectors."""

    MINILM = "minilm"
    OPENAI = "openai"
    NONE = "none"


class EmbeddingsConfig(Section, frozen=True):
    """The one embedder: of the documents, of the questions, and of `/v1/embeddings`."""

    engine: EmbeddingsEngine = EmbeddingsEngine.MINILM
    """`minilm` (on this machine, English), `openai` (any OpenAI-compatible server) or `none`
    (search by words only). [`minilm`, or `openai` where `url` is set]"""
    url: str | None = None
    """For `openai`: the base URL, such as `https://llm.example/v1`."""
    key: str | None = None
    """As for a model."""
    model: str | None = None
    """For `openai`: the model's name, there and here."""
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """For `openai`: how many numbers a vector has; asked of the server, and checked. [the model's
    own]"""
    headers: dict[str, str] = {}
    """As for a model."""
    ca_file: str | None = None
    """As for a model."""
    proxy: str | None = None
    """As for a model."""
    batch_texts: Annotated[int, Meta(ge=1, le=2048)] = 64
    """For `openai`: how many texts one request carries at most."""
    timeout_s: Amount = 30.0
    """For `openai`: how long one request may take."""
    question_prefix: str = ""
    """For `openai`: put before each question, for models that were trained so, such as `"query:
    "`."""
    passage_prefix: str = ""
    """For `openai`: put before each passage of a document, such as `"passage: "`."""

    @property
    def name(self) -> str:
        """Return the name that `/v1/embeddings` knows it by."""
        return self.model or EMBEDDER_NAME


class AnswerStyle(StrEnum):
    """How an agent answers from documents."""

    QUOTE = "quote"
    COMPOSE = "compose"


class AgentConfig(Section, frozen=True):
    """An agent, served under its name like a model."""

    model: str
    """The model that decides and writes."""
    instructions: str = ""
    """What the agent is told first."""
    knowledge: tuple[str, ...] = ()
    """The collections that its searches look in."""
    tools: tuple[str, ...] = ()
    """What it may use: `search`, `calculate`."""
    answers: AnswerStyle = AnswerStyle.COMPOSE
    """`quote`: the best passage word for word, or "I don't know"; `compose`: the model writes its
    answer from the passages."""
    steps_max: Count = 6
    """How often it may call the model for one answer."""
    history_chars_max: Count = 24_000
    """How much of the conversation it sees; the newest messages win."""


class KnowledgeConfig(Section, frozen=True):
    """A collection of documents: the files of a folder, read again whenever it changes.

    Each of the `tenants` that may see it has a copy of its own.
    `include` and `exclude` are patterns in the manner of `.gitignore`; hidden files and folders
    are never read, and nothing outside the folder.
    """

    folder: str
    """A folder of documents, or `builtin:docs`; `docs/howto/own-documents.md` says which files are
    read."""
    watch: bool = True
    """Read what changes in the folder by itself, within seconds."""
    include: tuple[str, ...] = ()
    """Patterns of the files to read, in the manner of `.gitignore`: `*.md`, `manual/**/*.pdf`.
    [all]"""
    exclude: tuple[str, ...] = (
        "node_modules",
        "bower_components",
        "__pycache__",
        "*.egg-info",
        "*.min.js",
        "*.min.css",
        "*.lock",
        "package-lock.json",
    )
    """Patterns of the files and folders to leave out; hidden ones are never read."""
    files_max: Annotated[int, Meta(ge=1, le=500_000)] = 50_000
    """How many files are read at most; those behind are reported."""
    file_bytes_max: Annotated[int, Meta(ge=1, le=200_000_000)] = 20 * 1024 * 1024
    """The largest file; larger ones are reported."""
    tenants: Annotated[tuple[str, ...], Meta(min_length=1)] = ("default",)
    """Who may see it; each tenant gets a copy of its own, which goes at the next start after it
    left the list (if it still has a key). An agent is served to a tenant only if all its
    collections are."""


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


class CacheConfig(Section, frozen=True):
    """The exact cache of answers."""

    ttl_s: Annotated[float, Meta(ge=0, le=1e9)] = 3600.0
    """How long an answer is kept."""
    entries_max: Room = 10_000
    """How many answers are kept."""
    bytes_max: Room = 64 * 1024 * 1024
    """How much memory they may take."""


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
    requests with `webhook` get status 400."""
    secrets: dict[str, str] = {}
    """The same for other tenants, each with a secret of its own: `{ acme = "env:ACME_HOOKS" }`."""


class Missed(StrEnum):
    """What becomes of times at which no server was up."""

    ONCE = "once"
    SKIP = "skip"


class ScheduleConfig(Section, frozen=True):
    """A run that begins by itself, again and again; one for each of its times."""

    cron: str
    """Minute, hour, day of month, month, day of week: `0 7 * * mon-fri`."""
    model: str
    """The agent or model that is asked."""
    message: Annotated[str, Meta(min_length=1)]
    """What it is asked."""
    zone: str = "UTC"
    """The time zone of those times, such as `Europe/Berlin`."""
    tenant: str = "default"
    """Whose run it is."""
    session: str | None = None
    """The name of a stored session that goes on from run to run, or `new` for one of each run's
    own."""
    priority: Annotated[int, Meta(ge=-10, le=10)] = 0
    """Its priority among the tenant's runs; higher comes first."""
    missed: Missed = Missed.ONCE
    """When no server was up for more than a minute after its time: `once` begins one run for all
    times that were missed, `skip` waits for the next time."""


class LimitConfig(Section, frozen=True):
    """What one key may do."""

    requests_per_minute: Amount = 600.0
    """How fast one key may ask; faster gets status 429."""
    burst: Count = 60
    """How many it may ask at once."""


class Config(Section, frozen=True):
    """The whole platform."""

    server: ServerConfig = ServerConfig()
    http: HttpConfig = HttpConfig()
    workers: WorkersConfig = WorkersConfig()
    log: LogConfig = LogConfig()
    models: dict[str, ModelConfig] = msgspec.field(
        default_factory=lambda: {
            "tiny": ModelConfig(
                engine=Engine.LLAMA_CPP,
                weights="builtin:tiny",
                slots=8,
                # Two threads wait for each other at every layer of a model this small: on a busy
                # machine a first token took 2.8 s with two and 0.05 s with one.
                threads=1,
                temperature=0.0,
            )
        }
    )
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    knowledge: dict[str, KnowledgeConfig] = msgspec.field(
        default_factory=lambda: {"docs": KnowledgeConfig(folder="builtin:docs")}
    )
    agents: dict[str, AgentConfig] = msgspec.field(
        default_factory=lambda: {
            "assistant": AgentConfig(
                model="tiny",
                instructions="Answer from the documents and cite them.",
                knowledge=("docs",),
                tools=("search", "calculate"),
                answers=AnswerStyle.QUOTE,
                history_chars_max=1200,
            )
        }
    )
    router: RouterConfig = RouterConfig()
    runs: RunsConfig = RunsConfig()
    cache: CacheConfig = CacheConfig()
    outgoing: OutgoingConfig = OutgoingConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    schedules: dict[str, ScheduleConfig] = {}
    limits: dict[str, LimitConfig] = msgspec.field(
        default_factory=lambda: {"default": LimitConfig()}
    )


SECTIONS: Mapping[str, type[Section]] = {
    "server": ServerConfig,
    "http": HttpConfig,
    "workers": WorkersConfig,
    "log": LogConfig,
    "router": RouterConfig,
    "runs": RunsConfig,
    "cache": CacheConfig,
    "embeddings": EmbeddingsConfig,
    "outgoing": OutgoingConfig,
    "webhooks": WebhooksConfig,
}
TABLES: Mapping[str, type[Section]] = {
    "models": ModelConfig,
    "knowledge": KnowledgeConfig,
    "agents": AgentConfig,
    "schedules": ScheduleConfig,
    "limits": LimitConfig,
}
_PATHS = {
    "models": ("weights", "rules", "ca_file"),
    "embeddings": ("ca_file",),
    "knowledge": ("folder",),
}
"""What is read from disk. `server.state` is not: it begins where murmurate is started."""

_SECRETS = {"key", "headers", "proxy", "password", "secret", "secrets"}
"""Keys whose value may be a secret that was put there by mistake: it is never shown."""

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = {"authorization", "content-type", "content-length", "host", "accept"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names become parts of streams in the log: a slash would make one contain the other."""
TENANT_FIRST = "default"
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_POSTGRES_URL = "expected postgresql://USER@HOST:PORT/DATABASE"
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def load(path: Path | None = None) -> Config:
    """Read the file (default: ./murmurate.toml if there is one), then the environment over it."""
    if path is not None and not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    path = path or FILE_DEFAULT
    raw: dict[str, Any] = {}
    if path.is_file():
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise ConfigError(f"{path} is not valid TOML: {cause}") from cause
        _anchor(raw, path.parent)
    return parse(raw, os.environ)


def _anchor(raw: Mapping[str, Any], folder: Path) -> None:
    """Let the paths that a file names begin at its own folder, wherever murmurate was started."""
    for place, key in _paths_in(raw):
        path = place[key]
        if isinstance(path, str) and not path.startswith(("builtin:", "~")):
            place[key] = str(folder / path)


def _paths_in(raw: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the tables of a decoded file that have a path to read, and its key."""
    for section, keys in _PATHS.items():
        table = raw.get(section)
        if not isinstance(table, dict):
            continue
        found = cast("dict[str, Any]", table)
        for place in [found] if section in SECTIONS else list(found.values()):
            if isinstance(place, dict):
                yield from ((cast("dict[str, Any]", place), key) for key in keys if key in place)


def parse(raw: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Config:
    """Check a decoded file, with the `MURMURATE_SECTION__KEY` variables laid over it."""
    built_in = {name: msgspec.to_builtins(getattr(Config(), name)) for name in TABLES}
    tree = _overlay({**built_in, **raw}, environment or {})
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key in SECTIONS:
            values[key] = _section(key, value, SECTIONS[key])
        elif key in TABLES:
            if not isinstance(value, dict):
                raise ConfigError(f"{key} = {value!r}: expected a table, such as [{key}.NAME]")
            table = cast("dict[str, Any]", value)
            values[key] = {
                name: _section(f"{key}.{name}", section, TABLES[key])
                for name, section in table.items()
            }
        else:
            known = ", ".join([*SECTIONS, *TABLES])
            raise ConfigError(f"{key}: no such section; expected one of {known}")
    config = Config(**values)
    if "agents" not in raw:  # the built-in ones stay where the file has not replaced what they need
        agents = {
            name: agent
            for name, agent in config.agents.items()
            if agent.model in config.models and set(agent.knowledge) <= set(config.knowledge)
        }
        config = msgspec.structs.replace(config, agents=agents)
    _check(config)
    return config


def explain(path: Path | None = None) -> list[tuple[str, Any, str]]:
    """Return every setting as (key, value, origin): the default, the file, or the environment."""
    effective = load(path)
    file = path or FILE_DEFAULT
    raw = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    from_file = set(_flat(raw))
    from_environment = set(_flat(_overlay({}, os.environ)))
    settings: list[tuple[str, Any, str]] = []
    for key, value in _flat(msgspec.to_builtins(effective)).items():
        if key in from_environment:
            origin = "environment"
        else:
            origin = str(file) if key in from_file else "default"
        settings.append((key, _shown(key, value), origin))
    return settings


def _shown(key: str, value: Any) -> Any:  # noqa: ANN401 - as it came
    """Return a setting's value for people; of headers only references, for the rest may be keys."""
    if ".headers." in key and not _is_reference(str(value)):
        return "(set)"
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as `section.name.key` pairs."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(cast("dict[str, Any]", value), f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


class Remote(msgspec.Struct, frozen=True):
    """How to reach another server, with the secrets themselves: for memory and pipes only."""

    url: str
    key: str | None = None
    headers: dict[str, str] = {}
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
            name: secret(value) if _is_reference(value) else value
            for name, value in config.headers.items()
        },
        ca_file=None if config.ca_file is None else str(Path(config.ca_file).expanduser()),
        proxy=secret(config.proxy)
        if config.proxy is not None and _is_reference(config.proxy)
        else config.proxy,
    )


def webhook_keys(config: WebhooksConfig) -> dict[str, bytes]:
    """Return what the notices of each tenant are signed with. `ConfigError`: one is no secret."""
    references = {TENANT_FIRST: config.secret} if config.secret is not None else {}
    return {
        tenant: _webhook_key(reference)
        for tenant, reference in {**references, **config.secrets}.items()
    }


def _webhook_key(reference: str) -> bytes:
    try:
        key = base64.b64decode(secret(reference).removeprefix("whsec_"), validate=True)
    except ValueError:
        key = b""
    if not 24 <= len(key) <= 64:
        raise ConfigError(
            f"secret = {reference!r}: expected whsec_ and base64 of 24 to 64 random bytes"
        )
    return key


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
            secret(log.url) if _is_reference(log.url) else log.url,
            log.schema,
            None if log.password is None else secret(log.password),
        )
    except ConfigError as error:
        raise ConfigError(f"log: {error.detail}") from error


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


def weights_path(weights: str) -> Path:
    """Return the file behind `builtin:NAME` or a path."""
    if weights.startswith("builtin:"):
        return DATA / f"{weights.removeprefix('builtin:')}.gguf"
    return Path(weights).expanduser()


def documents_path(folder: str) -> Path:
    """Return the folder behind `builtin:docs` or a path."""
    if folder == "builtin:docs":
        installed = DATA / "docs"
        return installed if installed.is_dir() else Path(__file__).parents[2] / "docs"
    return Path(folder).expanduser().absolute()


def _overlay(raw: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of `raw` with the environment's values in their places."""
    tree: dict[str, Any] = copy.deepcopy(dict(raw))
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        *path, last = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = tree
        for step in path:
            below = place.setdefault(step, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{name}: {step} is a value in the file, not a table")
            place = cast("dict[str, Any]", below)
        place[last] = _value(environment[name])
    return tree


def _value(text: str) -> Any:  # noqa: ANN401 - a TOML value has any of TOML's types
    """Read a variable as a TOML value where it is one (`8`, `true`, `["a"]`), else as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _section(where: str, raw: Any, kind: type[_T]) -> _T:  # noqa: ANN401 - not yet checked
    """Convert one table, or say which key of it is wrong."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} = {raw!r}: expected a table, [{where}]")
    table = _with_engine(cast("dict[str, Any]", raw), kind)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at `$.")
        key = place.rstrip("`")
        name = key.partition("[")[0]
        where = f"{where}.{key}" if key else where
        shown = f" = {table[name]!r}" if name and name not in _SECRETS else ""
        raise ConfigError(f"{where}{shown}: {message}{_choices(message, kind, name)}") from cause


def _with_engine(table: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the table with the engine that it implies: one line, `weights` or `url`, is enough."""
    if kind is EmbeddingsConfig and "url" in table:
        return {"engine": EmbeddingsEngine.OPENAI.value, **table}
    if kind is ModelConfig:
        for engine, key in _NEEDS.items():
            if key in table:
                return {"engine": engine.value, **table}
    return table


def _choices(message: str, kind: type[Any], name: str) -> str:
    """Return what msgspec leaves unsaid: the values of an enum, or the keys of a section."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if message.startswith("Invalid enum value"):
        return f"; expected one of {', '.join(choice.value for choice in types[name])}"
    if message.startswith("Object contains unknown field"):
        return f"; expected one of {', '.join(types)}"
    return ""


def _check(config: Config) -> None:
    """Refuse pairs that can't work together."""
    for name, model in config.models.items():
        _check_model(name, model, config.embeddings.name)
    for name, agent in config.agents.items():
        _check_agent(name, agent, config)
    if list(config.limits) != ["default"]:
        names = ", ".join(config.limits) or "nothing"
        raise ConfigError(f"limits has {names}: expected the one section [limits.default]")
    _check_names(config)
    _check_embeddings(config)
    _check_outgoing(config)
    for name, schedule in config.schedules.items():
        _check_schedule(f"schedules.{name}", schedule, config)
    _check_log(config.log)
    for name, collection in config.knowledge.items():
        for tenant in collection.tenants:
            if not TENANT_NAME.fullmatch(tenant):
                raise ConfigError(
                    f"knowledge.{name}.tenants = {tenant!r}: expected a name of small letters, "
                    "digits, '.', '_' and '-'"
                )
    listen_address(config.server.listen)


def _check_names(config: Config) -> None:
    """Check what becomes part of the names of streams."""
    for table, names in (
        ("models", config.models),
        ("knowledge", config.knowledge),
        ("schedules", config.schedules),
    ):
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    f"{table}.{name!r}: expected a name of letters, digits, '.', '_' and '-'"
                )


def _check_outgoing(config: Config) -> None:
    """Check what may be fetched, and that no secret stands in the file itself."""
    for network in config.outgoing.allow:
        try:
            ip_network(network)
        except ValueError as cause:
            raise ConfigError(
                f"outgoing.allow has {network!r}: expected a network such as 10.1.0.0/16: {cause}"
            ) from None
    references = {f"webhooks.secrets.{it}": ref for it, ref in config.webhooks.secrets.items()}
    if config.webhooks.secret is not None:
        references["webhooks.secret"] = config.webhooks.secret
    for where, reference in references.items():
        if not _is_reference(reference):
            raise ConfigError(f"{where}: expected a reference, env:NAME or file:PATH")
    for tenant in config.webhooks.secrets:
        if tenant == TENANT_FIRST or not TENANT_NAME.fullmatch(tenant):
            raise ConfigError(
                f"webhooks.secrets has {tenant!r}: expected a tenant's name; the secret of"
                f" {TENANT_FIRST!r} is webhooks.secret"
            )


def _check_schedule(where: str, schedule: ScheduleConfig, config: Config) -> None:
    try:
        Cron(schedule.cron, schedule.zone)
    except ValueError as cause:
        raise ConfigError(
            f"{where}: cron = {schedule.cron!r}, zone = {schedule.zone!r}: {cause}"
        ) from None
    if not TENANT_NAME.fullmatch(schedule.tenant):
        raise ConfigError(f"{where}.tenant = {schedule.tenant!r}: expected a tenant's name")
    if schedule.session is not None and not _NAME.fullmatch(schedule.session):
        raise ConfigError(
            f"{where}.session = {schedule.session!r}: expected a name of letters, digits, '.',"
            " '_' and '-'"
        )
    served = [*config.agents, *config.models]
    if schedule.model not in served:
        raise ConfigError(
            f"{where}.model = {schedule.model!r}: expected one of {', '.join(served)}"
        )
    agent = config.agents.get(schedule.model)
    for collection in () if agent is None else agent.knowledge:
        if schedule.tenant not in config.knowledge[collection].tenants:
            raise ConfigError(
                f"{where}: the agent {schedule.model!r} answers from {collection!r}, which the"
                f" tenant {schedule.tenant!r} may not see"
            )


def _check_agent(name: str, agent: AgentConfig, config: Config) -> None:
    where = f"agents.{name}"
    if name in config.models or name == config.embeddings.name:
        raise ConfigError(f"{where}: a model has this name already; choose another")
    if agent.model not in config.models:
        known = ", ".join(config.models)
        raise ConfigError(f"{where}.model = {agent.model!r}: expected one of {known}")
    for collection in agent.knowledge:
        if collection not in config.knowledge:
            known = ", ".join(config.knowledge) or "none is configured"
            raise ConfigError(f"{where}.knowledge = {collection!r}: expected one of {known}")
    for tool in agent.tools:
        if tool not in TOOLS:
            raise ConfigError(f"{where}.tools = {tool!r}: expected one of {', '.join(TOOLS)}")
    if "search" in agent.tools and not agent.knowledge:
        raise ConfigError(f"{where}.tools has 'search' but knowledge = []: name a collection")


_NEEDS = {Engine.LLAMA_CPP: "weights", Engine.OPENAI: "url", Engine.SCRIPTED: "rules"}
_REMOTE = {"url", "key", "headers", "ca_file", "proxy"}
_KEYS_OF = {
    Engine.LLAMA_CPP: {"weights", "threads"},
    Engine.OPENAI: {"upstream_name", *_REMOTE},
    Engine.SCRIPTED: {"rules"},
}


def _check_model(name: str, model: ModelConfig, embedder: str) -> None:
    where = f"models.{name}"
    needed = _NEEDS[model.engine]
    if getattr(model, needed) is None:
        raise ConfigError(f"{where}.{needed} is missing: engine {model.engine.value!r} needs it")
    for key in sorted({key for keys in _KEYS_OF.values() for key in keys}):
        if getattr(model, key) and key not in _KEYS_OF[model.engine]:
            raise ConfigError(f"{where}.{key}: engine {model.engine.value!r} has no use for it")
    if name == embedder:
        raise ConfigError(f"{where}: the embedder has this name already; choose another")
    _check_remote(where, model)


def _check_embeddings(config: Config) -> None:
    embeddings = config.embeddings
    if embeddings.engine is EmbeddingsEngine.OPENAI:
        for key in ("url", "model"):
            if not getattr(embeddings, key):
                raise ConfigError(f"embeddings.{key} is missing: engine 'openai' needs it")
    else:
        for field in msgspec.structs.fields(EmbeddingsConfig):
            if field.name != "engine" and getattr(embeddings, field.name) != field.default:
                if field.name == "headers" and not embeddings.headers:
                    continue
                raise ConfigError(
                    f"embeddings.{field.name}: engine {embeddings.engine.value!r} has no use for it"
                )
    _check_remote("embeddings", embeddings)


def _check_log(log: LogConfig) -> None:
    """Check where the log is. No value that may be secret is shown."""
    if log.password is not None and not _is_reference(log.password):
        raise ConfigError("log.password: expected a reference, env:NAME or file:PATH")
    if log.url is None:
        if log.password is not None or log.schema != LogConfig().schema:
            raise ConfigError("log.url is missing: without it the log is in the state folder")
        return
    if not SCHEMA_NAME.fullmatch(log.schema):
        raise ConfigError(
            f"log.schema = {log.schema!r}: expected small letters, digits and '_', at most 40"
        )
    if _is_reference(log.url):
        return
    try:
        parts = urlsplit(log.url)
        usable = parts.scheme in {"postgresql", "postgres"} and parts.port != 0
        named = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    except ValueError:  # the port is none, or the brackets of the address don't close
        raise ConfigError(f"log.url: {_POSTGRES_URL}") from None
    if parts.password is not None or named & {"password", "sslpassword"}:
        raise ConfigError(
            "log.url: it has a secret in it; put it into log.password, or the whole URL behind a"
            " reference, such as env:NAME"
        )
    if not usable:
        raise ConfigError(f"log.url: {_POSTGRES_URL}")


def _check_remote(where: str, remote: ModelConfig | EmbeddingsConfig) -> None:
    """Check what says how to reach another server. No value that may be secret is shown."""
    if remote.key is not None and not _is_reference(remote.key):
        raise ConfigError(f"{where}.key: expected a reference, env:NAME or file:PATH")
    if remote.url is not None:
        _check_url(f"{where}.url", remote.url)
    if remote.proxy is not None and not _is_reference(remote.proxy):
        _check_url(f"{where}.proxy", remote.proxy)
    for name, value in remote.headers.items():
        if not _HEADER.fullmatch(name) or not value.isprintable():
            raise ConfigError(f"{where}.headers.{name}: expected a header's name and one line")
        if name.lower() in _OWN_HEADERS:
            raise ConfigError(f"{where}.headers.{name}: set by murmurate itself; the key is `key`")


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is none, or the brackets of the address don't close
        raise ConfigError(f"{where}: expected http://HOST:PORT or https://HOST:PORT") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{where}: it has a secret in it; expected none (a proxy: env:NAME)")
    if not usable:
        raise ConfigError(f"{where} = {url!r}: expected http:// or https://")


def _is_reference(text: str) -> bool:
    return text.startswith(("env:", "file:"))


def listen_address(listen: str) -> tuple[str, int]:
    """Split `host:port` (or `[::1]:port`); port 0 lets the system choose."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"server.listen = {listen!r}: expected HOST:PORT, port 0 to 65535")
    return host.strip("[]") or "127.0.0.1", int(port)
