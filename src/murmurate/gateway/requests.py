"""From a body and headers to the one internal form that everything below sees."""

from murmurate.core.errors import BadRequestError, ModelUnknownError
from murmurate.core.ids import Ids
from murmurate.core.ports import Span
from murmurate.core.types import (
    Caller,
    Frozen,
    Lane,
    Message,
    Request,
    Sampling,
    SessionRef,
    Tool,
    TraceRef,
)
from murmurate.gateway.chat import ChatBody, messages_of, sampling_of, tools_of
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Ledger, Platform


class Question(Frozen, frozen=True, kw_only=True):
    """What a body asks, in whatever API's form it came."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    sampling: Sampling = Sampling()
    lane: Lane | None = None
    """Where it shall wait, if the body says so; else header or key decide."""
    session: SessionRef | None = None


class Requests:
    """Makes requests for the models that the caller's tenant may use."""

    def __init__(self, *, platform: Platform, ledger: Ledger, ids: Ids) -> None:
        self._platform = platform
        self._ledger = ledger
        self._ids = ids

    def of(self, exchange: Exchange, caller: Caller, body: ChatBody, span: Span) -> Request:
        """Return a chat's request. `ModelUnknownError`, `BadRequestError`: it can't be one."""
        self.check_model(caller, body.model)
        session = self.session(exchange)
        question = Question(
            model=body.model,
            messages=messages_of(body, continues=session is not None and not session.new),
            tools=tools_of(body),
            sampling=sampling_of(body),
            session=session,
        )
        return self.asking(exchange, caller, question, span)

    def asking(self, exchange: Exchange, caller: Caller, question: Question, span: Span) -> Request:
        """Return the request that asks it. `BadRequestError`: its headers make no sense."""
        lane = question.lane or _lane(exchange.header(b"x-murmurate-lane"), caller.lane)
        request = Request(
            id=self._ids.new("req"),
            tenant=caller.tenant,
            model=question.model,
            key=caller.key_id,
            messages=question.messages,
            tools=question.tools,
            sampling=question.sampling,
            lane=lane,
            scopes=caller.scopes,
            session=question.session,
            trace=span.ref,
        )
        self._ledger.asked(caller.tenant, caller.key_id, question.model)
        return request

    def alone(self, caller: Caller, body: ChatBody, *, id_: str, trace: TraceRef) -> Request:
        """Return the request of a body that came without headers, such as a line of a batch."""
        self.check_model(caller, body.model)
        request = Request(
            id=id_,
            tenant=caller.tenant,
            model=body.model,
            key=caller.key_id,
            messages=messages_of(body),
            tools=tools_of(body),
            sampling=sampling_of(body),
            lane=caller.lane,
            scopes=caller.scopes,
            trace=trace,
        )
        self._ledger.asked(caller.tenant, caller.key_id, body.model)
        return request

    def check_model(self, caller: Caller, model: str) -> None:
        """Return when the caller's tenant has a model of that name; else `ModelUnknownError`."""
        if model not in self._platform.chat_models(caller.tenant):
            known = ", ".join(self._platform.chat_models(caller.tenant))
            raise ModelUnknownError(
                f"no chat model {model!r} is served here; there are: {known}", param="model"
            )

    def model_of(self, caller: Caller, name: str) -> str:
        """Return the model behind a name; `ModelUnknownError` as in `check_model`."""
        self.check_model(caller, name)
        return self._platform.model_of(name)

    def session(self, exchange: Exchange) -> SessionRef | None:
        """Return the session that the request's header names, or a new one."""
        header = exchange.header(b"x-murmurate-session")
        if header is None:
            return None
        if header == b"new":
            return SessionRef(self._ids.new("sess"), new=True)
        return SessionRef(header.decode("latin-1"))


def session_of(request: Request) -> str | None:
    """Return the id of the request's session, if it has one."""
    return None if request.session is None else request.session.id


def name_session(exchange: Exchange, session: str | None) -> None:
    """Tell the client its session, but only with an answer: a refused turn starts none."""
    if session is not None:
        exchange.headers.append((b"x-murmurate-session", session.encode()))


def _lane(header: bytes | None, default: Lane) -> Lane:
    if header is None:
        return default
    try:
        return Lane(header.decode("latin-1"))
    except ValueError as cause:
        expected = " or ".join(lane.value for lane in Lane)
        raise BadRequestError(
            f"x-murmurate-lane: expected {expected}", param="x-murmurate-lane"
        ) from cause
