"""The sections of agents, of what they know and of when they begin by themselves."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.config.sections import Count, Section

TOOLS = ("search", "calculate")


class AnswerStyle(StrEnum):
    """How an agent answers from documents."""

    QUOTE = "quote"
    COMPOSE = "compose"


class Permission(StrEnum):
    """Whether an agent may use a tool."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


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
    permissions: dict[str, Permission] = msgspec.field(default_factory=dict)
    """Of its tools: `allow`, `ask` (each call waits until somebody with the scope `approve` has
    decided; see docs/howto/approvals.md) or `deny` (its model does not see the tool). [`ask` for a
    tool that changes something, else `allow`]"""
    approval_s: Annotated[float, Meta(gt=0, le=365 * 86_400)] = 86_400.0
    """How long a call waits for a decision; then it counts as denied."""
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
    deadline_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] | None = None
    """When a run fails that has not ended, from its beginning on."""
    webhook: Annotated[str, Meta(max_length=2048)] | None = None
    """The URL that is told of each run's end; its tenant needs a secret in `[webhooks]`."""
    missed: Missed = Missed.ONCE
    """When no server was up for more than a minute after its time: `once` begins one run for all
    times that were missed, `skip` waits for the next time."""
