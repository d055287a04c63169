"""Files and batches, with the endpoints that the lines of batches may ask for."""

from collections.abc import Mapping
from dataclasses import dataclass

from murmurate.accounts.service import Book
from murmurate.compose.opening import Outside
from murmurate.compose.platform import Platform
from murmurate.config import Config
from murmurate.files.service import FileLimits, Files
from murmurate.gateway.lines import ChatLines, EmbeddingLines
from murmurate.gateway.ports import LineEndpoint
from murmurate.gateway.requests import Requests
from murmurate.jobs.batches.coordinator import BatchLimits, Coordinator
from murmurate.jobs.batches.service import Batches

LINE_FRAME_BYTES = 4096
"""What a line may have around the body of its request."""
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class BatchWork:
    """What clients ask of batches, who works on them, and what their lines may ask for."""

    batches: Batches
    coordinator: Coordinator
    endpoints: Mapping[str, LineEndpoint]


def files_of(config: Config, outside: Outside) -> Files:
    """Return the files of all tenants."""
    limits = FileLimits(
        file_bytes_max=config.files.file_bytes_max,
        tenant_bytes_max=config.files.tenant_bytes_max,
        files_max=config.files.files_max,
        upload_s=config.files.upload_s,
        kept_s=config.files.kept_days * DAY_S,
    )
    return Files(limits, log=outside.log, clock=outside.clock, ids=outside.ids)


def batches_of(
    config: Config, outside: Outside, platform: Platform, *, files: Files, book: Book
) -> BatchWork:
    """Return the batches of all tenants."""
    requests = Requests(platform=platform, ledger=book, ids=outside.ids)
    embedders = {} if outside.embedder is None else {config.embeddings.name: outside.embedder}
    # A further endpoint is a further row: `asking` where its lines become runs.
    asking = {"/v1/chat/completions": ChatLines(requests)}
    computing = {"/v1/embeddings": EmbeddingLines(embedders, ledger=book)}
    coordinator = Coordinator(
        asking,
        computing,
        files,
        limits=BatchLimits(
            window=config.batches.window,
            lines_max=config.batches.lines_max,
            line_bytes_max=config.server.body_bytes_max + LINE_FRAME_BYTES,
        ),
        log=outside.log,
        clock=outside.clock,
        ids=outside.ids,
        events=outside.events,
    )
    batches = Batches(
        files,
        log=outside.log,
        clock=outside.clock,
        ids=outside.ids,
        active_max=config.batches.active_max,
        kept_s=config.runs.kept_days * DAY_S,
    )
    return BatchWork(batches, coordinator, {**asking, **computing})
