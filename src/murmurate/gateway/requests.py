"""From a body and headers to the one internal form that everything below sees."""

from murmurate.core.errors import BadRequestError, ModelUnknownError
from murmurate.core.ids import Ids
from murmurate.core.ports import Span
from murmurate.core.types import (
    Caller,
    Diverted,
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
from murmurate.gateway.policy import CHAT, Gate
from murmurate.gateway.ports import Action, Ledger, Platform


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

    def __init__(self, *, platform: Platform, gate: Gate, ledger: Ledger, ids: Ids) -> None:
        self._platform = platform
        self._gate = gate
        self._ledger = ledger
        self._ids = ids

    async def of(self, exchange: Exchange, caller: Caller, body: ChatBody, span: Span) -> Request:
        """Return a chat's request. It raises what `check_model` does, and `BadRequestError`."""
        await self.check_model(exchange, caller, body.model)
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

    async def alone(self, caller: Caller, body: ChatBody, *, id_: str, trace: TraceRef) -> Request:
        """Return the request of a body that came without headers, such as a line of a batch."""
        await self._check(caller, CHAT, body.model)
        return Request(
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

    def begun(self, request: Request) -> None:
        """Note a request that came `alone`, once it is certain that it will be worked on."""
        self._ledger.asked(request.tenant, request.key, request.model)

    async def check_model(self, exchange: Exchange, caller: Caller, model: str) -> None:
        """Return when the model is served to the caller, and the policy lets them ask it here.

        Raises:
            ModelUnknownError: The tenant has none of that name.
            PolicyDeniedError, PolicyUnavailableError: The caller may not ask it.
        """
        assert exchange.action is not None, "a route was found"
        await self._check(caller, exchange.action, model)

    async def check_policy(self, exchange: Exchange, caller: Caller, model: str) -> None:
        """Return when the policy lets the caller ask this model here; see `check_model`."""
        assert exchange.action is not None, "a route was found"
        await self._gate.check(caller, exchange.action, model)

    async def _check(self, caller: Caller, action: Action, model: str) -> None:
        served = self._platform.chat_models(caller.tenant)
        if model not in served:
            known = ", ".join(await self._gate.usable(caller, served))
            raise ModelUnknownError(
                f"no chat model {model!r} is served here; there are: {known}", param="model"
            )
        await self._gate.check(caller, action, model)

    async def model_of(self, exchange: Exchange, caller: Caller, name: str) -> str:
        """Return the model behind a name; it raises what `check_model` does."""
        await self.check_model(exchange, caller, name)
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


def name_model(exchange: Exchange, diverted: Diverted) -> None:
    """Tell the client whose answer it gets, where it is not that of the model it asked for."""
    name = (b"x-murmurate-model", diverted.model.encode())
    if name not in exchange.headers:  # each step of an agent may say so
        exchange.headers.append(name)


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
