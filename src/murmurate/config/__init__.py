"""All settings, typed and frozen: one TOML file and `MURMURATE_…` variables, read only here.

Every default works on one machine, offline, with nothing else installed. A key that nobody knows, a
wrong type or an impossible pair stops the start with the key, its value and what was expected.
Read `tree.py` first.
"""

from murmurate.config.agents import (
    TOOLS,
    AgentConfig,
    AnswerStyle,
    KnowledgeConfig,
    Missed,
    ScheduleConfig,
)
from murmurate.config.checks import SCHEMA_NAME, TENANT_NAME
from murmurate.config.loading import ENVIRONMENT_PREFIX, FILE_DEFAULT, explain, load, parse
from murmurate.config.models import (
    CONNECT_S,
    CONTEXT_TOKENS,
    EMBEDDER_NAME,
    RETRIES,
    TOTAL_S,
    EmbeddingsConfig,
    EmbeddingsEngine,
    Engine,
    FallbackOn,
    ModelConfig,
    UpstreamConfig,
)
from murmurate.config.places import DATA, documents_path, listen_address, weights_path
from murmurate.config.references import (
    SECRET_CHARS_MIN,
    Dialect,
    LogPlace,
    Remote,
    UpstreamPlace,
    log_place,
    remote,
    secret,
    upstreams,
    webhook_keys,
)
from murmurate.config.sections import (
    CacheConfig,
    HttpConfig,
    LimitConfig,
    LogConfig,
    OutgoingConfig,
    RouterConfig,
    RunsConfig,
    Section,
    ServerConfig,
    WebhooksConfig,
    WorkersConfig,
)
from murmurate.config.tree import SECTIONS, TABLES, TENANT_FIRST, Config

__all__ = [
    "CONNECT_S",
    "CONTEXT_TOKENS",
    "DATA",
    "EMBEDDER_NAME",
    "ENVIRONMENT_PREFIX",
    "FILE_DEFAULT",
    "RETRIES",
    "SCHEMA_NAME",
    "SECRET_CHARS_MIN",
    "SECTIONS",
    "TABLES",
    "TENANT_FIRST",
    "TENANT_NAME",
    "TOOLS",
    "TOTAL_S",
    "AgentConfig",
    "AnswerStyle",
    "CacheConfig",
    "Config",
    "Dialect",
    "EmbeddingsConfig",
    "EmbeddingsEngine",
    "Engine",
    "FallbackOn",
    "HttpConfig",
    "KnowledgeConfig",
    "LimitConfig",
    "LogConfig",
    "LogPlace",
    "Missed",
    "ModelConfig",
    "OutgoingConfig",
    "Remote",
    "RouterConfig",
    "RunsConfig",
    "ScheduleConfig",
    "Section",
    "ServerConfig",
    "UpstreamConfig",
    "UpstreamPlace",
    "WebhooksConfig",
    "WorkersConfig",
    "documents_path",
    "explain",
    "listen_address",
    "load",
    "log_place",
    "parse",
    "remote",
    "secret",
    "upstreams",
    "webhook_keys",
    "weights_path",
]
