"""Every error a caller can see: a stable code, a cause in words, and what to do next.

One family. `http_status` and `kind` are what an HTTP client sees; `retry_s` is set where trying
again can help. `docs/errors.md` lists them all, kept true by a test.
"""

# Over 400 lines: one table, a few lines an error.

from typing import ClassVar


class MurmurateError(Exception):
    """A fault of murmurate itself. The server's log has the details: please report it."""

    code: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"

    def __init__(
        self, detail: str, *, param: str | None = None, retry_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.param = param
        self.retry_s = retry_s

    def __str__(self) -> str:
        return f"[{self.code}] {self.detail}"


class ConfigError(MurmurateError):
    """The configuration cannot be used. Correct the key that the message names."""

    code = "config.invalid"


class MissingPartError(MurmurateError):
    """A part that the configuration needs is not installed. The message says how to get it."""

    code = "config.missing_part"


class StateInUseError(MurmurateError):
    """Another supervisor runs on this state folder. Stop it, or set another `server.state`."""

    code = "state.in_use"


class StateNotEmptyError(MurmurateError):
    """`murmurate restore` or `murmurate log copy` found a log where it was to put one.

    Name another place; `restore` replaces it with `--force`.
    """

    code = "state.not_empty"


class BackupInvalidError(MurmurateError):
    """The file is no backup, or it is not as it was written.

    Nothing was changed: use another one.
    """

    code = "backup.invalid"


class BackupTargetError(MurmurateError):
    """`murmurate backup` would replace a file that is no backup, or write into the state folder.

    Nothing was written: name another file.
    """

    code = "backup.target"


class AddressInUseError(MurmurateError):
    """The address to listen on is taken.

    Stop the other program, or set another port in `server.listen`.
    """

    code = "listen.in_use"


class BadRequestError(MurmurateError):
    """The body does not fit the schema. `param` names the field: correct it."""

    code = "request.invalid"
    http_status = 400
    kind = "invalid_request_error"


class BodyTooLargeError(BadRequestError):
    """The body is over `server.body_bytes_max`. Send less."""

    code = "request.too_large"
    http_status = 413


class FileTooLargeError(BodyTooLargeError):
    """The file is over `files.file_bytes_max`. Split it."""

    code = "file.too_large"


class FilesFullError(BadRequestError):
    """The tenant has as many files, or as many bytes in them, as `[files]` allows.

    Delete some, or wait until they expire.
    """

    code = "file.full"
    http_status = 413


class RequestTimeoutError(BadRequestError):
    """The body did not arrive within `http.body_s`, or the headers within `http.head_s`.

    Send it again, in one go.
    """

    code = "request.timeout"
    http_status = 408


class MalformedRequestError(BadRequestError):
    """This is not HTTP as the standard has it, or two readers could understand it differently.

    Such are two lengths, a header twice, a broken URL. Send it with an ordinary HTTP client.
    """

    code = "request.malformed"


class UrlTooLongError(BadRequestError):
    """The URL is over `http.url_bytes_max`. Send what is long in the body."""

    code = "request.url_too_long"
    http_status = 414


class HeadTooLargeError(BadRequestError):
    """The headers are over `http.head_bytes_max` or `http.headers_max`.

    Send fewer or shorter ones.
    """

    code = "request.head_too_large"
    http_status = 431


class MediaTypeError(BadRequestError):
    """The body is not sent as plain JSON, or an upload not as a form.

    Send `Content-Type: application/json`, or `multipart/form-data` to `/v1/files`, without
    compression.
    """

    code = "request.media_type"
    http_status = 415


class PromptTooLongError(BadRequestError):
    """The prompt does not fit into the model's context. Shorten it, or use another model."""

    code = "context_length_exceeded"


class KeyInvalidError(MurmurateError):
    """No key, or one that is not known.

    Send `Authorization: Bearer KEY`; the first key is in the file `key` of the state folder.
    """

    code = "invalid_api_key"
    http_status = 401
    kind = "authentication_error"


class KeyExpiredError(KeyInvalidError):
    """The key was valid until the time in the message. Ask for a new one."""

    code = "key.expired"


class KeyRevokedError(KeyInvalidError):
    """The key was withdrawn; in the middle of a stream, too. Ask for a new one."""

    code = "key.revoked"


class KeyReplacedError(KeyInvalidError):
    """The key was rotated and this is its old secret. Use the new one."""

    code = "key.replaced"


class ForbiddenError(MurmurateError):
    """The key may not do this, or the request comes from a place that is not allowed.

    Use another key, or add the host name to `server.hosts`.
    """

    code = "forbidden"
    http_status = 403
    kind = "permission_error"


class ScopeMissingError(ForbiddenError):
    """The key lacks the scope that the message names. Use a key that has it."""

    code = "key.scope_missing"


class GrantTooWideError(ForbiddenError):
    """A key can't give, rotate or revoke more rights than it has itself.

    `param` names the field: ask for less, or use another key.
    """

    code = "key.grant_too_wide"


class KeyStateError(MurmurateError):
    """The key has ended and can't get a new secret. Create another one."""

    code = "key.unchangeable"
    http_status = 409
    kind = "invalid_request_error"


class LastOperatorError(KeyStateError):
    """Without this key nobody could manage all keys any more.

    Create another with the scope `operator` first, or rotate it.
    """

    code = "key.last_operator"


class TooManyKeysError(KeyStateError):
    """The tenant has 1,000 keys, or the service 10,000, and none of the tenant's has ended.

    Revoke one: the key that ended first makes room.
    """

    code = "key.too_many"


class NotFoundError(MurmurateError):
    """There is no such path, session, trace, file or key, or it belongs to somebody else.

    Check the name.
    """

    code = "not_found"
    http_status = 404
    kind = "invalid_request_error"


class ModelUnknownError(NotFoundError):
    """No model of that name is served. `GET /v1/models` lists those that are."""

    code = "model_not_found"


class MethodNotAllowedError(MurmurateError):
    """The path exists, but not with this HTTP method. The message names the right one."""

    code = "method_not_allowed"
    http_status = 405
    kind = "invalid_request_error"


class RateLimitedError(MurmurateError):
    """The key has used up its rate.

    Wait for `Retry-After` seconds, make a key with higher limits, or raise `limits.default`.
    """

    code = "rate_limit_exceeded"
    http_status = 429
    kind = "rate_limit_error"


class OverloadedError(MurmurateError):
    """The lane is full, or the server has as many requests as it takes.

    Wait for `Retry-After` seconds, or use the batch lane.
    """

    code = "router.overloaded"
    http_status = 503


class ConnectionsFullError(MurmurateError):
    """All connections that the server takes (`http.connections_max`) are in use.

    Wait for `Retry-After` seconds; if it happens often, raise the limit.
    """

    code = "server.connections"
    http_status = 503


class ShuttingDownError(MurmurateError):
    """The server is shutting down. Try again: another one takes over."""

    code = "server.draining"
    http_status = 503


class EngineUnreachableError(MurmurateError):
    """The engine does not answer, or another server that stands for it.

    It is being restarted; another server can't be reached, refuses its key or lacks the model.
    Try again in a moment; `murmurate doctor` says which.
    """

    code = "engine.unreachable"
    http_status = 503


class EngineFailedError(MurmurateError):
    """The engine broke off or answered garbage. Try again; nothing was stored."""

    code = "engine.failed"
    http_status = 502


class WorkerUnreachableError(MurmurateError):
    """The library or the sandbox does not answer; it is being restarted. Try again in a moment."""

    code = "worker.unreachable"
    http_status = 503


class IndexUnwritableError(WorkerUnreachableError):
    """The index of the documents cannot be written (disk full); what it holds is searched.

    Make room, then read the documents again.
    """

    code = "worker.index_unwritable"


class DocumentUnreadableError(MurmurateError):
    """A file cannot be read or parsed.

    The others go on; mend or remove it; it is read again when it has changed, or at the next pass
    where the reason may pass (too many open files, a time-out).
    """

    code = "document.unreadable"
    http_status = 422
    kind = "invalid_request_error"


class FolderMissingError(MurmurateError):
    """The folder of a collection does not exist (any more).

    What was read from it stays; correct `knowledge.NAME.folder`.
    """

    code = "knowledge.folder_missing"
    http_status = 422
    kind = "invalid_request_error"


class ToolFailedError(MurmurateError):
    """A tool refused its arguments or broke.

    The model hears of it and may go on; you see it in the trace.
    """

    code = "tool.failed"


class LogConflictError(MurmurateError):
    """Somebody else appended to the stream first. Read it again, then decide."""

    code = "log.conflict"
    http_status = 409
    kind = "invalid_request_error"


class BatchOverError(MurmurateError):
    """The batch has ended, or writes its results already: it can't be cancelled any more."""

    code = "batch.over"
    http_status = 409
    kind = "invalid_request_error"


class BatchesFullError(MurmurateError):
    """The tenant has as many batches under way as `batches.active_max` allows.

    Wait until one ends, or cancel one.
    """

    code = "batch.full"
    http_status = 429
    kind = "rate_limit_error"


class FencedError(MurmurateError):
    """Another runner has this work by now, so nothing of this one's is written.

    It was taken for dead (its process hung, or could not reach the log). Nothing is to be done: the
    other one goes on from the last step.
    """

    code = "log.fenced"
    http_status = 503


class RunDivergedError(MurmurateError):
    """A run was to go on, but would have done something else than its journal says.

    The agent, its code or its tools were changed in between. Nothing was done twice; begin a new
    run, or bring the old version back and resume it.
    """

    code = "run.diverged"
    http_status = 409
    kind = "invalid_request_error"


class RunOpenError(MurmurateError):
    """A run failed, and its failure could not be written: it may still be finished.

    `murmurate runs show` tells what became of it; ask again only when it has failed.
    """

    code = "run.open"
    http_status = 503


class RunOverError(MurmurateError):
    """A run that is over can't be cancelled; one that is under way can't be resumed or replayed.

    `murmurate runs show` tells where it stands.
    """

    code = "run.over"
    http_status = 409
    kind = "invalid_request_error"


class KeyReusedError(MurmurateError):
    """The `Idempotency-Key` was sent before with another body, session or lane.

    Take a new key for each run that you want, and the same one only to send the same again.
    """

    code = "run.key_reused"
    http_status = 422
    kind = "invalid_request_error"


class RunWaitingError(MurmurateError):
    """The agent wants to make a call that somebody with the scope `approve` must decide first.

    `murmurate runs approvals` shows what is asked. Don't ask again: the run that the message names
    goes on by itself once that is decided, and its session gets the turn at its end.
    """

    code = "run.waiting"
    http_status = 409
    kind = "invalid_request_error"

    def __init__(self, detail: str, *, patience_s: float) -> None:
        """The call counts as denied when nobody has decided for `patience_s`."""
        super().__init__(detail)
        self.patience_s = patience_s


class ApprovalDecidedError(MurmurateError):
    """Somebody else has decided this before, or nobody did in time; the message says who and how.

    That stands. `murmurate runs show` tells what came of it.
    """

    code = "approval.decided"
    http_status = 409
    kind = "invalid_request_error"


class ApprovalOwnError(ForbiddenError):
    """Whoever began a run can't approve its calls.

    Let somebody with another key decide. Where one person has all keys: `[approvals] own = true`.
    """

    code = "approval.own"


class RunPoisonError(MurmurateError):
    """Too many servers died while they worked on this run, so it was given up.

    See what it asks for: `murmurate runs show`. `murmurate runs resume` tries once more.
    """

    code = "run.poison"


class RunDeadlineError(MurmurateError):
    """The run had not ended by its `deadline_s`.

    What it had done is kept: `murmurate runs resume` goes on with it, without a deadline.
    """

    code = "run.deadline"
    http_status = 504


class FetchRefusedError(BadRequestError):
    """The URL may not be reached from here; the message says why.

    Use an `https` URL of a public address, or let the operator allow it in `[outgoing]`.
    """

    code = "fetch.refused"


class FetchFailedError(MurmurateError):
    """A URL was asked and did not answer as it should.

    See that it is right and its server works.
    """

    code = "fetch.failed"
    http_status = 502


class LogCorruptError(MurmurateError):
    """A stored entry is damaged or lost.

    The message names stream and number, other streams are served. Restore a backup, or go on
    without.
    """

    code = "log.corrupt"


class LogNewerError(MurmurateError):
    """A newer murmurate wrote the log or the backup.

    Nothing was changed: run that version, or restore a backup of before its upgrade.
    """

    code = "log.newer"


class LogUnavailableError(MurmurateError):
    """The log cannot be written or read (disk full, file locked, server not reached).

    Nothing was acknowledged: see what the message says, then try again.
    """

    code = "log.unavailable"
    http_status = 503
