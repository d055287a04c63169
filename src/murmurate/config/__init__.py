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
    Permission,
    ScheduleConfig,
)
from murmurate.config.checks import SCHEMA_NAME, TENANT_NAME, check_role
from murmurate.config.loading import ENVIRONMENT_PREFIX, FILE_DEFAULT, explain, load, parse
from murmurate.config.models import (
    CONTEXT_TOKENS,
    EMBEDDER_NAME,
    EmbeddingsConfig,
    EmbeddingsEngine,
    Engine,
    ModelConfig,
)
from murmurate.config.places import DATA, documents_path, listen_address, weights_path
from murmurate.config.references import (
    SECRET_CHARS_MIN,
    LogPlace,
    Remote,
    log_place,
    redis_url,
    remote,
    secret,
    webhook_keys,
)
from murmurate.config.sections import (
    AccountsConfig,
    ApprovalsConfig,
    BatchesConfig,
    CacheConfig,
    FilesConfig,
    HttpConfig,
    LimitConfig,
    LogConfig,
    OutgoingConfig,
    ResponsesConfig,
    Role,
    RouterConfig,
    RunsConfig,
    Section,
    ServerConfig,
    WebhooksConfig,
    WorkersConfig,
)
from murmurate.config.tree import SECTIONS, TABLES, TENANT_FIRST, Config

__all__ = [
    "CONTEXT_TOKENS",
    "DATA",
    "EMBEDDER_NAME",
    "ENVIRONMENT_PREFIX",
    "FILE_DEFAULT",
    "SCHEMA_NAME",
    "SECRET_CHARS_MIN",
    "SECTIONS",
    "TABLES",
    "TENANT_FIRST",
    "TENANT_NAME",
    "TOOLS",
    "AccountsConfig",
    "AgentConfig",
    "AnswerStyle",
    "ApprovalsConfig",
    "BatchesConfig",
    "CacheConfig",
    "Config",
    "EmbeddingsConfig",
    "EmbeddingsEngine",
    "Engine",
    "FilesConfig",
    "HttpConfig",
    "KnowledgeConfig",
    "LimitConfig",
    "LogConfig",
    "LogPlace",
    "Missed",
    "ModelConfig",
    "OutgoingConfig",
    "Permission",
    "Remote",
    "ResponsesConfig",
    "Role",
    "RouterConfig",
    "RunsConfig",
    "ScheduleConfig",
    "Section",
    "ServerConfig",
    "WebhooksConfig",
    "WorkersConfig",
    "check_role",
    "documents_path",
    "explain",
    "listen_address",
    "load",
    "log_place",
    "parse",
    "redis_url",
    "remote",
    "secret",
    "webhook_keys",
    "weights_path",
]
