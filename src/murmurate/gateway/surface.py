"""What the gateway serves: every route, the scope that it needs, and who answers."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from murmurate.gateway.administration import Administration
from murmurate.gateway.approvals import Decisions
from murmurate.gateway.auditing import Auditing
from murmurate.gateway.background import Background
from murmurate.gateway.batches import BatchRoutes
from murmurate.gateway.completions import Completions, Embeddings
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.files import FileRoutes
from murmurate.gateway.management import Management
from murmurate.gateway.responses.compaction import Compaction
from murmurate.gateway.responses.service import Responses
from murmurate.gateway.responses.stored import Stored
from murmurate.gateway.responses.talks import Talks
from murmurate.gateway.routes import Route
from murmurate.gateway.scopes import Scope
from murmurate.gateway.timetable import Timetable
from murmurate.gateway.usage import Usages

OpenHandler = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class ItemHandlers:
    """Who answers in items, and keeps, gathers and shortens what was said."""

    responses: Responses
    stored: Stored
    talks: Talks
    compaction: Compaction


@dataclass(frozen=True, slots=True)
class Handlers:
    """Who answers, by subject."""

    completions: Completions
    embeddings: Embeddings
    management: Management
    administration: Administration
    background: Background
    timetable: Timetable
    items: ItemHandlers
    files: FileRoutes
    batches: BatchRoutes
    decisions: Decisions
    usages: Usages
    auditing: Auditing


def open_routes(management: Management) -> Mapping[str, OpenHandler]:
    """Return what everybody can ask for, without a key."""
    return {
        "/healthz": management.healthz,
        "/readyz": management.readyz,
        "/metrics": management.metrics,
    }


def scoped_routes(handlers: Handlers) -> tuple[Route, ...]:
    """Return what a client with a key can ask for; docs/reference/http-api.md is made from it."""
    management, administration = handlers.management, handlers.administration
    background, files, batches = handlers.background, handlers.files, handlers.batches
    # Over 50 lines: one route after the other.
    return (
        Route(
            "POST", "/v1/chat/completions", Scope.CHAT, handlers.completions.chat, names_model=True
        ),
        Route(
            "POST", "/v1/completions", Scope.CHAT, handlers.completions.complete, names_model=True
        ),
        *item_routes(handlers.items),
        Route(
            "POST",
            "/v1/embeddings",
            Scope.EMBEDDINGS,
            handlers.embeddings.embeddings,
            names_model=True,
        ),
        Route("POST", "/v1/files", Scope.FILES, files.upload),
        Route("GET", "/v1/files", Scope.FILES, files.listing),
        Route("GET", "/v1/files/{id}", Scope.FILES, files.show),
        Route("GET", "/v1/files/{id}/content", Scope.FILES, files.content),
        Route("DELETE", "/v1/files/{id}", Scope.FILES, files.remove),
        Route("POST", "/v1/batches", Scope.BATCHES, batches.create),
        Route("GET", "/v1/batches", Scope.BATCHES, batches.listing),
        Route("GET", "/v1/batches/{id}", Scope.BATCHES, batches.show),
        Route("POST", "/v1/batches/{id}/cancel", Scope.BATCHES, batches.cancel),
        Route("GET", "/v1/models", Scope.MODELS, management.models),
        Route("GET", "/v1/models/{id}", Scope.MODELS, management.models),
        Route("GET", "/api/sessions/{id}", Scope.SESSIONS, management.session),
        Route("POST", "/api/runs", Scope.RUNS, background.submit, names_model=True),
        Route("GET", "/api/runs", Scope.RUNS, background.listing),
        Route("GET", "/api/runs/{id}", Scope.RUNS, background.show),
        Route("GET", "/api/runs/{id}/events", Scope.RUNS, background.events),
        Route("POST", "/api/runs/{id}/cancel", Scope.RUNS, background.cancel),
        Route("POST", "/api/runs/{id}/resume", Scope.RUNS, background.resume),
        Route("POST", "/api/runs/{id}/replay", Scope.RUNS, background.replay),
        Route("GET", "/api/approvals", Scope.APPROVE, handlers.decisions.listing),
        Route("POST", "/api/approvals/{id}", Scope.APPROVE, handlers.decisions.decide),
        Route("GET", "/api/schedules", Scope.RUNS, handlers.timetable.listing),
        Route("GET", "/api/usage", Scope.USAGE, handlers.usages.sums),
        Route("GET", "/api/traces/{id}", Scope.TRACES, management.trace),
        Route("GET", "/api/knowledge", Scope.KNOWLEDGE, management.knowledge),
        Route("POST", "/api/search", Scope.KNOWLEDGE, management.search),
        Route("POST", "/api/ingest", Scope.INGEST, management.ingest),
        Route("GET", "/api/keys", Scope.ADMIN, administration.listing),
        Route("POST", "/api/keys", Scope.ADMIN, administration.create),
        Route("GET", "/api/keys/{id}", Scope.ADMIN, administration.show),
        Route("DELETE", "/api/keys/{id}", Scope.ADMIN, administration.revoke),
        Route("POST", "/api/keys/{id}/rotate", Scope.ADMIN, administration.rotate),
        Route("GET", "/api/audit", Scope.ADMIN, handlers.auditing.listing),
    )


def item_routes(items: ItemHandlers) -> tuple[Route, ...]:
    """Return what can be asked in items: responses, and conversations of them."""
    return (
        Route("POST", "/v1/responses", Scope.CHAT, items.responses.create, names_model=True),
        Route(
            "POST", "/v1/responses/compact", Scope.CHAT, items.compaction.compact, names_model=True
        ),
        Route("GET", "/v1/responses/{id}", Scope.CHAT, items.stored.show),
        Route("DELETE", "/v1/responses/{id}", Scope.CHAT, items.stored.forget),
        Route("POST", "/v1/responses/{id}/cancel", Scope.CHAT, items.stored.cancel),
        Route("GET", "/v1/responses/{id}/input_items", Scope.CHAT, items.stored.input_items),
        Route("POST", "/v1/conversations", Scope.CHAT, items.talks.begin),
        Route("GET", "/v1/conversations/{id}", Scope.CHAT, items.talks.show),
        Route("POST", "/v1/conversations/{id}", Scope.CHAT, items.talks.update),
        Route("DELETE", "/v1/conversations/{id}", Scope.CHAT, items.talks.forget),
        Route("POST", "/v1/conversations/{id}/items", Scope.CHAT, items.talks.add),
        Route("GET", "/v1/conversations/{id}/items", Scope.CHAT, items.talks.listing),
        Route("GET", "/v1/conversations/{id}/items/{item}", Scope.CHAT, items.talks.item),
        Route("DELETE", "/v1/conversations/{id}/items/{item}", Scope.CHAT, items.talks.drop),
    )
