"""The files that a batch comes to: a line for each line of its input, in OpenAI's form. Pure."""

from typing import Any

import msgspec

from murmurate.jobs.batch_lines import LineFailure, run_of
from murmurate.jobs.batches.state import Status

NOT_BEGUN = {
    Status.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    Status.CANCELLED: (
        "batch_cancelled",
        "This request was not executed: the batch was cancelled.",
    ),
    Status.FAILED: ("batch_failed", "This request was not executed: the batch has failed."),
}
"""What is said of lines without an answer, by what became of their batch."""
ALONE = ("request_cancelled", "The run of this request was cancelled.")


def answered(batch_id: str, number: int, custom_id: str, body: bytes) -> bytes:
    """Return the line of an answer."""
    run_id = run_of(batch_id, number)
    response = {"status_code": 200, "request_id": run_id, "body": msgspec.Raw(body)}
    return _line(run_id, custom_id, response, None)


def failed(batch_id: str, number: int, custom_id: str, failure: LineFailure) -> bytes:
    """Return the line of a request that was refused or could not be answered."""
    run_id = run_of(batch_id, number)
    error = {
        "message": failure.detail,
        "type": failure.type,
        "param": failure.param,
        "code": failure.code,
    }
    response = {"status_code": failure.status, "request_id": run_id, "body": {"error": error}}
    return _line(run_id, custom_id, response, None)


def not_executed(batch_id: str, number: int, custom_id: str, outcome: Status) -> bytes:
    """Return the line of a request that was begun too late, or not at all."""
    code, message = NOT_BEGUN.get(outcome, ALONE)
    error = {"code": code, "message": message}
    return _line(run_of(batch_id, number), custom_id, None, error)


def _line(run_id: str, custom_id: str, response: Any, error: Any) -> bytes:  # noqa: ANN401 - JSON
    line = {"id": run_id, "custom_id": custom_id, "response": response, "error": error}
    return msgspec.json.encode(line) + b"\n"
