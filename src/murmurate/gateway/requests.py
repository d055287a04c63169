"""From a chat's body and headers to the one internal form that everything below sees."""

from murmurate.core.errors import BadRequestError, ModelUnknownError
from murmurate.core.ids import Ids
from murmurate.core.ports import Span
from murmurate.core.types import Caller, Diverted, Lane, Request, SessionRef, TraceRef
from murmurate.gateway.chat import ChatBody, messages_of, sampling_of, tools_of
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.policy import CHAT, Gate
from murmurate.gateway.ports import Action, Ledger, Platform


class Requests:
    """Makes requests for the models that the caller's tenant may use."""

    def __init__(self, *, platform: Platform, gate: Gate, ledger: Ledger, ids: Ids) -> None:
        self._platform = platform
        self._gate = gate
        self._ledger = ledger
        self._ids = ids

    async def of(self, exchange: Exchange, caller: Caller, body: ChatBody, span: Span) -> Request:
        """Return the request.

        Raises:
            ModelUnknownError, BadRequestError: It can't be one.
            PolicyDeniedError, PolicyUnavailableError: The caller may not ask this model.
        """
        assert exchange.action is not None, "a route was found"
        await self._check_model(caller, exchange.action, body.model)
        session = self._session_ref(exchange.header(b"x-murmurate-session"))
        request = Request(
            id=self._ids.new("req"),
            tenant=caller.tenant,
            model=body.model,
            key=caller.key_id,
            messages=messages_of(body, continues=session is not None and not session.new),
            tools=tools_of(body),
            sampling=sampling_of(body),
            lane=_lane(exchange.header(b"x-murmurate-lane"), caller.lane),
            scopes=caller.scopes,
            session=session,
            trace=span.ref,
        )
        self._ledger.asked(caller.tenant, caller.key_id, body.model)
        return request

    async def alone(self, caller: Caller, body: ChatBody, *, id_: str, trace: TraceRef) -> Request:
        """Return the request of a body that came without headers, such as a line of a batch."""
        await self._check_model(caller, CHAT, body.model)
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

    async def check_model(self, exchange: Exchange, caller: Caller, model: str) -> None:
        """Return when the policy lets the caller ask this model here."""
        assert exchange.action is not None, "a route was found"
        await self._gate.check(caller, exchange.action, model)

    async def _check_model(self, caller: Caller, action: Action, model: str) -> None:
        """Return when the model is served to the caller, and the policy lets them ask it."""
        served = self._platform.chat_models(caller.tenant)
        if model not in served:
            known = ", ".join(await self._gate.usable(caller, served))
            raise ModelUnknownError(
                f"no chat model {model!r} is served here; there are: {known}", param="model"
            )
        await self._gate.check(caller, action, model)

    def _session_ref(self, header: bytes | None) -> SessionRef | None:
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
