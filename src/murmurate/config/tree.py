"""The whole configuration: which sections there are, and what stands in them by default."""

from collections.abc import Mapping

import msgspec

from murmurate.config.agents import AgentConfig, AnswerStyle, KnowledgeConfig, ScheduleConfig
from murmurate.config.auth import AuthConfig, PolicyConfig, RoleConfig
from murmurate.config.models import EmbeddingsConfig, Engine, ModelConfig
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
    RouterConfig,
    RunsConfig,
    Section,
    ServerConfig,
    WebhooksConfig,
    WorkersConfig,
)


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
    responses: ResponsesConfig = ResponsesConfig()
    approvals: ApprovalsConfig = ApprovalsConfig()
    accounts: AccountsConfig = AccountsConfig()
    files: FilesConfig = FilesConfig()
    batches: BatchesConfig = BatchesConfig()
    cache: CacheConfig = CacheConfig()
    outgoing: OutgoingConfig = OutgoingConfig()
    webhooks: WebhooksConfig = WebhooksConfig()
    schedules: dict[str, ScheduleConfig] = msgspec.field(default_factory=dict)
    auth: dict[str, AuthConfig] = msgspec.field(default_factory=dict)
    roles: dict[str, RoleConfig] = msgspec.field(default_factory=dict)
    policy: PolicyConfig = PolicyConfig()
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
    "responses": ResponsesConfig,
    "approvals": ApprovalsConfig,
    "accounts": AccountsConfig,
    "files": FilesConfig,
    "batches": BatchesConfig,
    "cache": CacheConfig,
    "embeddings": EmbeddingsConfig,
    "outgoing": OutgoingConfig,
    "webhooks": WebhooksConfig,
    "policy": PolicyConfig,
}
TABLES: Mapping[str, type[Section]] = {
    "models": ModelConfig,
    "knowledge": KnowledgeConfig,
    "agents": AgentConfig,
    "schedules": ScheduleConfig,
    "auth": AuthConfig,
    "roles": RoleConfig,
    "limits": LimitConfig,
}
TENANT_FIRST = "default"
