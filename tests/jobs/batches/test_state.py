"""A batch is shown as OpenAI shows one."""

import msgspec

from murmurate.jobs.batches.state import Batch, Problem, Status, view_of

BATCH = Batch(
    id="batch_1",
    endpoint="/x",
    input_file_id="file-1",
    window="24h",
    created_ms=1000,
    expires_ms=87_401_000,
    scopes=("chat",),
    key_id="key_1",
)


def test_a_new_batch_has_every_field_and_few_values() -> None:
    assert msgspec.to_builtins(view_of(BATCH)) == {
        "id": "batch_1",
        "object": "batch",
        "endpoint": "/x",
        "errors": None,
        "input_file_id": "file-1",
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "created_at": 1,
        "in_progress_at": None,
        "expires_at": 87_401,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "metadata": None,
    }


def test_each_status_has_its_time_and_problems_are_a_list() -> None:
    failed = BATCH.at(Status.IN_PROGRESS, 2000).at(Status.FAILED, 3000)
    failed = msgspec.structs.replace(failed, problems=(Problem("bad", "It is.", 3, "url"),))
    view = view_of(failed)
    assert (view.in_progress_at, view.failed_at, view.status) == (2, 3, "failed")
    assert msgspec.json.decode(msgspec.json.encode(view.errors)) == {
        "object": "list",
        "data": [{"code": "bad", "message": "It is.", "line": 3, "param": "url"}],
    }
    assert failed.is_over
    assert not BATCH.is_over


def test_what_is_open_is_never_less_than_nothing() -> None:
    new = msgspec.structs.replace
    assert new(BATCH, begun=5, completed=2, failed=1).open_lines == 2
    assert new(BATCH, begun=1, completed=2).open_lines == 0


def test_what_the_log_keeps_can_be_read_again() -> None:
    entry = BATCH.at(Status.CANCELLING, 5).entry("a")
    assert (entry.tenant, entry.stream) == ("a", "batch/batch_1")
    assert msgspec.json.decode(entry.body, type=Batch) == BATCH.at(Status.CANCELLING, 5)
