"""The promises: checked after each request, after each life of a server, and at the end."""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import aclosing

import msgspec

from murmurate.cache.service import Cached
from murmurate.core.journal import Decision, StepKind
from murmurate.core.ports import Stored
from murmurate.core.types import CallPart, Role
from murmurate.jobs.approvals import AUDIT, AUDIT_TENANT, Verdict
from murmurate.jobs.entries import Kind, folded, id_of
from murmurate.jobs.replay import Asked
from murmurate.observe.spans import SpanRecord
from murmurate.router.lanes import Load
from murmurate.router.service import Routed
from murmurate.sync.entries import SessionMessage, decode
from tests.sim.answers import error_of
from tests.sim.book import Book, Outcome, Turn
from tests.sim.connection import Call
from tests.sim.world import CONFIG, KEYS, TENANTS, Generation, World

AT_ONCE_S = 1e-6
ENDS = (Kind.FINISHED, Kind.FAILED, Kind.CANCELLED)
ROUNDING_NS = 2
NUMBERS = re.compile(r"#\d+")
"""Which answer of its engine it was."""
SHARED_TRACE = "5ca1ab1e" * 4
"""A trace id that clients of both tenants send: it proves nothing about who they are."""
SERVER_FULL = "the most this server takes"


def check_call(world: World, call: Call) -> None:
    """Every request is answered or refused exactly once, and work ends when its client leaves."""
    for what in _call_faults(call):
        world.fail(f"call {call.number} {call.ask.path}: {what}")
    trace_id = call.headers.get("x-murmurate-trace")
    if trace_id is not None and "traceparent" not in call.ask.headers and not call.crashed:
        for what in trace_faults(world.traces.kept.get(trace_id, [])):
            world.fail(f"call {call.number} {call.ask.path}: {what}")


def _call_faults(call: Call) -> Iterator[str]:
    if call.refused_to_connect:
        return
    if call.starts > 1 or call.ends > 1:
        yield f"answered {call.starts} times, ended {call.ends} times"
    if call.crashed:
        return
    if call.fault is not None and not call.killed:
        yield f"the application raised {call.fault!r}"
    if call.left_s is not None:
        late_s = call.ended_s - call.left_s
        if call.ask.path.startswith("/v1/chat") and late_s > AT_ONCE_S:
            yield f"worked on for {late_s:.3f} s after the client had left"
    elif call.starts != 1 or call.ends != 1:
        yield f"{call.starts} starts and {call.ends} ends: silence"
    elif call.status >= 400:
        yield from _refusal_faults(call)


def _refusal_faults(call: Call) -> Iterator[str]:
    error = error_of(call)
    call.refusal = error.code if error else None
    call.server_full = error is not None and error.message.endswith(SERVER_FULL)
    if call.status >= 500 and call.status not in (502, 503):
        yield f"status {call.status}"
    if call.ask.path != "/readyz" and (error is None or not error.message):
        yield f"status {call.status} without an error in its body"
    if call.status == 429 and int(call.headers.get("retry-after", "0")) < 1:
        yield "refused for its rate without Retry-After"


def check_traces(world: World) -> None:
    """Requests that share a trace id, as their clients would have it, still have a root each."""
    shared = world.traces.kept.get(SHARED_TRACE, [])
    sent = [c for _, c in world.calls if "traceparent" in c.ask.headers and c.admitted]
    # A server may die between accepting a request and its first step.
    roots = range(sum(not call.killed for call in sent), len(sent) + 1)
    for what in trace_faults(shared, roots=roots):
        world.fail(f"the shared trace: {what}")


def trace_faults(spans: list[SpanRecord], *, roots: range = range(1, 2)) -> Iterator[str]:
    """One root; every other span lies within its parent, under the same tenant."""
    found = sum(span.is_root and span.name != "run" for span in spans)  # runs go on by themselves
    if found not in roots:
        yield f"its trace has {found} roots"
    by_id = {span.span_id: span for span in spans}
    for span in spans:
        parent = by_id.get(span.parent_id or "")
        if span.is_root:
            continue
        if parent is None:
            yield f"span {span.name} has no parent in its trace"
        elif span.tenant != parent.tenant:
            yield f"span {span.name} is of tenant {span.tenant}, its parent of {parent.tenant}"
        elif not _within(span, parent):
            yield f"span {span.name} lasts longer than its parent {parent.name}"


def _within(span: SpanRecord, parent: SpanRecord) -> bool:
    early = parent.start_unix_ns - span.start_unix_ns
    end_ns = span.start_unix_ns + span.duration_ns
    late = end_ns - parent.start_unix_ns - parent.duration_ns
    return max(early, late) <= ROUNDING_NS


def check_rest(world: World, generation: Generation) -> None:
    """A server that has ended, or has nothing to do, holds nothing: no task, slot, span or file."""
    for what in _held(world, generation):
        world.fail(f"server {generation.number}, at rest: {what}")


def _held(world: World, generation: Generation) -> Iterator[str]:
    app, metrics = generation.service.app, generation.service.metrics
    tracer = generation.tracer
    counts = {
        "requests under way": len(generation.running),
        "in flight": app._in_flight,
        "in flight as a metric": metrics._in_flight._value.get(),
        "appends that wait": len(generation.disk.waiting),
        "open spans": tracer.opened - tracer.closed,
        **{f"answers of engine {name}": engine.running for name, engine in world.engines.items()},
    }
    yield from (f"{what}: {count}" for what, count in counts.items() if count)
    for name, gate in routed_of(generation)._gates.items():
        load = gate.load()
        if load != Load(load.slots, 0, 0, 0) or gate._waiting:
            yield f"router: {name} has {load} and {len(gate._waiting)} waiting futures"
    for name, engine in world.engines.items():
        if engine.running_max > CONFIG.models[name].slots:
            yield f"engine {name} ran {engine.running_max} answers at once"
        yield from _metered(generation, name, engine.usages)
    names = sorted(str(task.get_coro()) for task in world.tasks() if not task.done())
    if names:
        yield f"tasks: {names}"


def _metered(generation: Generation, name: str, usages: list[int]) -> Iterator[str]:
    """Tokens are metered once, and all of them."""
    for kind, now, before in zip(("in", "out"), usages, generation.usages[name], strict=True):
        metered = generation.service.metrics._tokens(name, kind)._value.get()
        if metered != now - before:
            yield f"metered {metered} tokens {kind} of {name}; the engine said {now - before}"


def routed_of(generation: Generation) -> Routed:
    """Return the router inside the request path."""
    sessions = generation.service.platform._sessions
    plain = sessions._below._below._below  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    assert isinstance(plain, Cached)
    asked = plain._below
    assert isinstance(asked, Asked)
    routed = asked._below
    assert isinstance(routed, Routed)
    return routed


def check_rates(world: World) -> None:
    """No key is let through faster than its rate, and none is refused below it."""
    limit = CONFIG.limits["default"]
    per_s, burst = limit.requests_per_minute / 60, float(limit.burst)
    buckets: dict[tuple[int, str], tuple[float, float]] = {}
    for number, call in world.calls:
        key = call.ask.headers.get("authorization", "").removeprefix("Bearer ")
        refused = call.refusal == "rate_limit_exceeded"
        if key not in KEYS or not call.ask.counted or not (call.admitted or refused):
            continue
        left, at_s = buckets.get((number, key), (burst, call.began_s))
        left = min(burst, left + (call.began_s - at_s) * per_s)
        if refused and left > 1 + 1e-6:
            world.fail(f"call {call.number}: refused with {left:.2f} requests left")
        if not refused and left < 1 - 1e-6:
            world.fail(f"call {call.number}: let in with {left:.2f} requests left")
        buckets[number, key] = (left if refused else left - 1, call.began_s)


async def check_sessions(world: World, book: Book) -> None:
    """Nothing acknowledged is lost, nothing refused is kept; all whole, in order, exactly once."""
    stored: dict[tuple[str, str], list[list[SessionMessage]]] = {}
    for tenant in TENANTS:
        async with aclosing(world.kept.streams(tenant, "session/")) as streams:
            names = [info.stream async for info in streams]
        for name in names:
            async with aclosing(world.kept.read(tenant, name)) as entries:
                messages = [decode(entry.body) async for entry in entries]
            session = name.removeprefix("session/")
            for what in _order_faults(messages):
                world.fail(f"session {session}: {what}")
            turns = [list(turn) for _, turn in itertools.groupby(messages, lambda m: m.turn)]
            stored[tenant, session] = turns
    known = book.by_session()
    orphans: dict[str, list[Turn]] = defaultdict(list)
    for tenant in TENANTS:
        orphans[tenant] = known.pop((tenant, None), [])
    for key in known:
        if key[1] is not None and key not in stored:
            stored[key[0], key[1]] = []
    for (tenant, session), turns in stored.items():
        sent = known.get((tenant, session))
        candidates = orphans[tenant] if sent is None else sent
        for what in _turn_faults(turns, candidates):
            world.fail(f"session {session} of {tenant}: {what}")


async def check_runs(world: World) -> None:
    """Every run has ended once, no step stands twice, and no holder wrote after the next one."""
    for tenant in TENANTS:
        async with aclosing(world.kept.streams(tenant, "run/")) as streams:
            names = [info.stream async for info in streams]
        for name in names:
            async with aclosing(world.kept.read(tenant, name)) as entries:
                stored = [entry async for entry in entries]
            said = world.decided.get(id_of(name), [])
            for what in (*_run_faults(name, stored), *_decision_faults(name, stored, said)):
                world.fail(f"{name} of {tenant}: {what}")
    async with aclosing(world.kept.read(AUDIT_TENANT, AUDIT)) as entries:
        verdicts = [msgspec.json.decode(it.body, type=Verdict) async for it in entries]
    for (run, number), times in Counter((it.run, it.number) for it in verdicts).items():
        if times > 1:
            world.fail(f"step {number} of {run} was decided {times} times")


def _run_faults(name: str, stored: list[Stored]) -> Iterator[str]:
    state = folded(name, stored)
    ends = [entry.kind for entry in stored if entry.kind in ENDS]
    if len(ends) != 1:
        yield f"it has ended {len(ends)} times: {ends}"
    elif stored[-1].kind not in (*ENDS, Kind.CANCEL):
        yield f"{stored[-1].kind} came after its end"
    numbers = [step.number for step in state.steps]
    if len(set(numbers)) < len(numbers):
        yield f"steps were done twice: {numbers}"
    epochs = [entry.epoch for entry in stored if entry.kind == Kind.STEP and entry.epoch]
    if epochs != sorted(epochs):
        yield f"a former holder wrote: {epochs}"


def _decision_faults(name: str, stored: list[Stored], said: list[bool]) -> Iterator[str]:
    """What was acknowledged is what is written; only what was approved is done."""
    steps = folded(name, stored).steps
    decisions = [
        msgspec.json.decode(step.outcome, type=Decision)
        for step in steps
        if step.kind is StepKind.APPROVAL
    ]
    if len(said) > 1 or any(it not in {found.approved for found in decisions} for it in said):
        yield f"acknowledged {said}, written {decisions}"
    calls = sum(step.kind is StepKind.TOOL for step in steps)
    asked = any(entry.kind == Kind.ASKED for entry in stored)
    if asked and calls > sum(found.approved for found in decisions):
        yield f"{calls} calls, of decisions {decisions}"


def _order_faults(messages: list[SessionMessage]) -> Iterator[str]:
    seen: set[str] = set()
    for before, message in zip([None, *messages], messages, strict=False):
        if before is not None and message.hlc <= before.hlc:
            yield f"hlc {message.hlc} follows {before.hlc}"
        if message.id in seen:
            yield f"id {message.id} stands twice"
        if message.after is not None and message.after not in seen:
            yield f"message {message.id} follows an unknown one"
        seen.add(message.id)


def _turn_faults(stored: list[list[SessionMessage]], sent: list[Turn]) -> Iterator[str]:
    """Match what is stored with what was sent, which is used up so."""
    newest_sent_s = 0.0
    for messages in stored:
        turn = next((turn for turn in sent if fits(turn, messages)), None)
        if turn is None:
            yield f"stored, but never sent or refused: {[m.parts for m in messages]}"
            continue
        sent.remove(turn)
        if turn.ended_s < newest_sent_s and turn.outcome is Outcome.ACKNOWLEDGED:
            yield f"stored too late: {turn}"
        newest_sent_s = max(newest_sent_s, turn.sent_s)
    for turn in sent:
        if turn.outcome is Outcome.ACKNOWLEDGED:
            yield f"acknowledged, but lost: {turn}"


def fits(turn: Turn, messages: list[SessionMessage]) -> bool:
    """Say whether these messages are that turn, whole."""
    *said, answer = messages
    if turn.outcome is Outcome.REFUSED or answer.role is not Role.ASSISTANT:
        return False
    if tuple("".join(p.text for p in m.parts if not isinstance(p, CallPart)) for m in said) != (
        turn.said
    ):
        return False
    text = "".join(part.text for part in answer.parts if not isinstance(part, CallPart))
    calls = tuple(part.name for part in answer.parts if isinstance(part, CallPart))
    if turn.outcome is Outcome.UNKNOWN:  # another server may have asked the model once more
        return NUMBERS.sub("#", text).startswith(NUMBERS.sub("#", turn.answer))
    return (text, calls) == (turn.answer, turn.calls)


def check_loop(world: World) -> None:
    """Nothing was left for the garbage collector, and nothing failed where nobody looks."""
    for fault in [*world.loop.abandoned, *world.loop.faults, *world.events.faults]:
        world.fail(f"left behind: {fault}")
    timers = world.loop.pending_timers()
    if timers:
        world.fail(f"timers are still set: {timers}")
