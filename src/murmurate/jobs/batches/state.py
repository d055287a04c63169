"""Where a batch stands, as the log keeps it and as a client sees it. Pure.

Each entry of `batch/ID` says all that is known of the batch; only the last one counts.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

import msgspec

from murmurate.core.ports import Entry
from murmurate.core.types import Frozen
from murmurate.jobs.batch_lines import stream_of

QUEUE = "batches"
DEAD = "batches.dead"
"""The queue of batches that can't be read any more; nobody claims from it."""
KIND = "batch.state"
PROBLEMS_MAX = 100


class Status(StrEnum):
    """OpenAI's words."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


OVER = {Status.COMPLETED, Status.FAILED, Status.EXPIRED, Status.CANCELLED}


class Problem(Frozen, frozen=True):
    """What is wrong with the input."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(Frozen, frozen=True, kw_only=True, omit_defaults=True):
    """A batch."""

    id: str
    endpoint: str
    input_file_id: str
    window: str
    created_ms: int
    expires_ms: int
    scopes: tuple[str, ...]
    """What whoever began it may do: its lines may do no more."""
    key_id: str
    metadata: Mapping[str, str] | None = None
    output_expires_s: float | None = None
    status: Status = Status.VALIDATING
    outcome: Status = Status.COMPLETED
    """How it will end; whatever else than completed begins no further line."""
    since_ms: Mapping[str, int] = {}
    """When it came to each status."""
    total: int = 0
    line_last: int = 0
    """How many lines its input has, with the empty ones."""
    line: int = 0
    """The last line that was begun, and where the next one stands."""
    offset: int = 0
    begun: int = 0
    completed: int = 0
    failed: int = 0
    seen: int = 0
    """The last end of a line that was counted."""
    output_file_id: str | None = None
    error_file_id: str | None = None
    problems: tuple[Problem, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in OVER

    @property
    def open_lines(self) -> int:
        """How many lines have begun and not ended. One that was damaged may have ended twice."""
        return max(self.begun - self.completed - self.failed, 0)

    def at(self, status: Status, now_ms: int) -> "Batch":
        """Return it in another status."""
        since_ms = {**self.since_ms, status.value: now_ms}
        return msgspec.structs.replace(self, status=status, since_ms=since_ms)

    def entry(self, tenant: str) -> Entry:
        """Return what the log keeps."""
        return Entry(tenant, stream_of(self.id), KIND, msgspec.json.encode(self))


class Counts(Frozen, frozen=True):
    """How many lines it has, and how they ended."""

    total: int
    completed: int
    failed: int


class Problems(Frozen, frozen=True):
    """A list as OpenAI writes it."""

    data: tuple[Problem, ...]
    object: str = "list"


class BatchView(Frozen, frozen=True, kw_only=True):
    """A batch as OpenAI shows it. Times are seconds since 1970."""

    id: str
    object: str = "batch"
    endpoint: str
    errors: Problems | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: Counts
    metadata: Mapping[str, str] | None


class BatchPage(Frozen, frozen=True, kw_only=True):
    """A page of a list of batches, the newest first."""

    object: str = "list"
    data: Sequence[BatchView]
    first_id: str | None
    last_id: str | None
    has_more: bool


def view_of(batch: Batch) -> BatchView:
    """Return what a client sees of it."""

    def since(status: Status) -> int | None:
        at_ms = batch.since_ms.get(status.value)
        return None if at_ms is None else at_ms // 1000

    return BatchView(
        id=batch.id,
        endpoint=batch.endpoint,
        errors=Problems(batch.problems) if batch.problems else None,
        input_file_id=batch.input_file_id,
        completion_window=batch.window,
        status=batch.status.value,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        created_at=batch.created_ms // 1000,
        in_progress_at=since(Status.IN_PROGRESS),
        expires_at=batch.expires_ms // 1000,
        finalizing_at=since(Status.FINALIZING),
        completed_at=since(Status.COMPLETED),
        failed_at=since(Status.FAILED),
        expired_at=since(Status.EXPIRED),
        cancelling_at=since(Status.CANCELLING),
        cancelled_at=since(Status.CANCELLED),
        request_counts=Counts(batch.total, batch.completed, batch.failed),
        metadata=batch.metadata,
    )
