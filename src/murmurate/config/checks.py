"""Refuses settings that can't work, alone or together."""

import re
from ipaddress import ip_network
from urllib.parse import parse_qsl, urlsplit

import msgspec

from murmurate.config.agents import TOOLS, AgentConfig, ScheduleConfig
from murmurate.config.models import EmbeddingsConfig, EmbeddingsEngine, Engine, ModelConfig
from murmurate.config.places import listen_address
from murmurate.config.references import is_reference, redis_url
from murmurate.config.sections import CacheConfig, LogConfig, Role
from murmurate.config.tree import TENANT_FIRST, Config
from murmurate.core.cron import Cron
from murmurate.core.errors import ConfigError

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OWN_HEADERS = {"authorization", "content-type", "content-length", "host", "accept"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names become parts of streams in the log: a slash would make one contain the other."""
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,39}")
_POSTGRES_URL = "expected postgresql://USER@HOST:PORT/DATABASE"
TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def check(config: Config) -> None:
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
    check_role(config)
    _check_cache(config.cache)
    for name, collection in config.knowledge.items():
        for tenant in collection.tenants:
            if not TENANT_NAME.fullmatch(tenant):
                raise ConfigError(
                    f"knowledge.{name}.tenants = {tenant!r}: expected a name of small letters, "
                    "digits, '.', '_' and '-'"
                )
    listen_address(config.server.listen)


def check_role(config: Config) -> None:
    """Refuse a worker that would have nothing to work on: `ConfigError`."""
    if config.server.role is Role.WORKER and config.log.url is None:
        raise ConfigError(
            "server.role = 'worker' needs log.url: a worker works on what other servers put into a"
            " log in PostgreSQL"
        )


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
        if not is_reference(reference):
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
    signed = {*config.webhooks.secrets, *({TENANT_FIRST} if config.webhooks.secret else ())}
    if schedule.webhook is not None and schedule.tenant not in signed:
        raise ConfigError(
            f"{where}.webhook: the tenant {schedule.tenant!r} has no secret in [webhooks]"
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
    for tool in agent.permissions:
        if tool not in agent.tools:
            its = ", ".join(agent.tools) or "none"
            raise ConfigError(f"{where}.permissions has {tool!r}: expected one of its tools, {its}")
    if "search" in agent.tools and not agent.knowledge:
        raise ConfigError(f"{where}.tools has 'search' but knowledge = []: name a collection")


NEEDS = {Engine.LLAMA_CPP: "weights", Engine.OPENAI: "url", Engine.SCRIPTED: "rules"}
_REMOTE = {"url", "key", "headers", "ca_file", "proxy"}
_KEYS_OF = {
    Engine.LLAMA_CPP: {"weights", "threads"},
    Engine.OPENAI: {"upstream_name", *_REMOTE},
    Engine.SCRIPTED: {"rules"},
}


def _check_model(name: str, model: ModelConfig, embedder: str) -> None:
    where = f"models.{name}"
    needed = NEEDS[model.engine]
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
    if log.password is not None and not is_reference(log.password):
        raise ConfigError("log.password: expected a reference, env:NAME or file:PATH")
    if log.url is None:
        if log.password is not None or log.schema != LogConfig().schema:
            raise ConfigError("log.url is missing: without it the log is in the state folder")
        return
    if not SCHEMA_NAME.fullmatch(log.schema):
        raise ConfigError(
            f"log.schema = {log.schema!r}: expected small letters, digits and '_', at most 40"
        )
    if is_reference(log.url):
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


def _check_cache(cache: CacheConfig) -> None:
    """Check where answers are shared. No value that may be secret is shown."""
    if cache.redis_url is None or is_reference(cache.redis_url):
        return
    redis_url(cache)
    if urlsplit(cache.redis_url).password is not None:
        raise ConfigError(
            "cache.redis_url: it has a secret in it; put the whole URL behind a reference, such as"
            " env:NAME"
        )


def _check_remote(where: str, remote: ModelConfig | EmbeddingsConfig) -> None:
    """Check what says how to reach another server. No value that may be secret is shown."""
    if remote.key is not None and not is_reference(remote.key):
        raise ConfigError(f"{where}.key: expected a reference, env:NAME or file:PATH")
    if remote.url is not None:
        _check_url(f"{where}.url", remote.url)
    if remote.proxy is not None and not is_reference(remote.proxy):
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
