"""What the end of a run adds to the batch that it is a line of. Pure.

A line of a batch is a run whose id follows from the batch and the line's number, so it begins once.
Its end is written with what it came to, in one append: each line has one end, whatever dies.
"""

import msgspec

from murmurate.core.errors import MurmurateError
from murmurate.core.ports import Entry, Nudge
from murmurate.core.types import Frozen
from murmurate.jobs.entries import Answer, Begun, Kind, id_of
from murmurate.jobs.notices import Told

PREFIX = "batch/"
LINES = "batch-lines/"
LINE_RUN = "batch_req"
LINE_DIGITS = 6
ENDED = "batch.line.ended"
FAILED = "batch.line.failed"
CANCELLED = "run.cancelled"
"""The code of a line whose run was cancelled."""
NOTHING = msgspec.Raw(b"null")


class LineFailure(Frozen, frozen=True):
    """Why a line has no answer, as a client would have heard it."""

    status: int
    code: str
    detail: str
    type: str
    param: str | None = None


class LineEnd(Frozen, frozen=True, omit_defaults=True):
    """What a line came to: a run's answer, the body of a response, or a failure."""

    number: int
    custom_id: str | None
    """None where the run was so damaged that nobody knows it."""
    model: str = ""
    answer: Answer | None = None
    body: msgspec.Raw = NOTHING
    failure: LineFailure | None = None


def stream_of(batch_id: str) -> str:
    """Return the log's stream of a batch."""
    return f"{PREFIX}{batch_id}"


def lines_of(batch_id: str) -> str:
    """Return the stream of what its lines came to."""
    return f"{LINES}{batch_id}"


def run_of(batch_id: str, number: int) -> str:
    """Return the id of the run that answers a line; they sort as the lines do."""
    return f"{LINE_RUN}_{batch_id.partition('_')[2]}-{number:0{LINE_DIGITS}}"


def is_line(run_id: str) -> bool:
    """Tell whether a run answers a line of a batch."""
    return run_id.startswith(f"{LINE_RUN}_")


def entry_of(tenant: str, batch_id: str, end: LineEnd) -> Entry:
    """Return the entry of a line's end."""
    kind = ENDED if end.failure is None else FAILED
    return Entry(tenant, lines_of(batch_id), kind, msgspec.json.encode(end))


def failure_of(error: MurmurateError) -> LineFailure:
    """Return what is kept of an error."""
    return LineFailure(error.http_status, error.code, error.detail, error.kind, error.param)


def line_told(
    begun: Begun, tenant: str, *, how: Kind, ends: int, outcome: Answer | MurmurateError | None
) -> Told:
    """Return what the append that ends a run adds to its batch; nothing where it has none.

    Only its first end counts: a line that is resumed is not answered a second time.
    """
    line = begun.line
    if line is None or ends or how not in {Kind.FINISHED, Kind.FAILED, Kind.CANCELLED}:
        return (), ()
    end = LineEnd(line.number, line.custom_id, begun.request.model)
    match outcome:
        case Answer():
            end = msgspec.structs.replace(end, answer=outcome)
        case MurmurateError():
            end = msgspec.structs.replace(end, failure=failure_of(outcome))
        case None:
            cancelled = LineFailure(499, CANCELLED, "the run was cancelled", "server_error")
            end = msgspec.structs.replace(end, failure=cancelled)
    return (entry_of(tenant, line.batch, end),), (Nudge(tenant, stream_of(line.batch)),)


def lost_line(tenant: str, stream: str, error: MurmurateError) -> Told:
    """Return the same for a run of which only the name can be read."""
    run_id = id_of(stream)
    if not is_line(run_id):
        return (), ()
    made, _, number = run_id.removeprefix(f"{LINE_RUN}_").partition("-")
    batch_id = f"batch_{made}"
    end = LineEnd(int(number), None, failure=failure_of(error))
    return (entry_of(tenant, batch_id, end),), (Nudge(tenant, stream_of(batch_id)),)
