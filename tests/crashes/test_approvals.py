"""A call that asks is decided once and made once, wherever its worker dies, on each store."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from murmurate.core.clock import SystemClock
from murmurate.core.ids import Ids
from murmurate.core.journal import StepKind
from murmurate.core.ports import Entry, Log, Offer
from murmurate.jobs.approvals import AUDIT, AUDIT_TENANT, Verdict
from murmurate.jobs.entries import QUEUE, Begun, Kind, RunState, RunStatus, folded, stream_of
from murmurate.testing.stories import all_of
from tests.crashes.matrix import LOOK_S, PATIENCE_S, TENANT, Workers, request_of, working
from tests.crashes.receiver import receiving
from tests.crashes.test_matrix import where as where  # noqa: PLC0414 - the fixture
from tests.crashes.worker import opened

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

MODULE = "tests.crashes.asking"
DECIDE_EVERY_S = 0.5
POINTS = tuple(
    f"{when} {what}"
    for what in ("asked", "decided", "effect", "tool")
    for when in ("before", "after")
)


@dataclass
class Story:
    """One run after the other, on one log, with workers that die of them."""

    log: Log
    ids: Ids
    workers: Workers

    async def begin(self, model: str, point: str) -> str:
        run_id = self.ids.new("run")
        (self.workers.folder / f"{run_id}.point").write_text(point)
        place = (TENANT, stream_of(run_id))
        request = msgspec.structs.replace(request_of(self.ids, "sell"), model=model)
        body = msgspec.json.encode(Begun(request, background=True))
        await self.log.append([Entry(*place, Kind.BEGUN.value, body)], work=[Offer(*place, QUEUE)])
        return run_id

    async def state(self, run_id: str) -> RunState:
        return folded(run_id, await all_of(self.log.read(TENANT, stream_of(run_id))))

    async def asks(self, run_id: str) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not (await self.state(run_id)).asked:
            assert time.monotonic() < deadline_s, f"{run_id} does not ask"
            await asyncio.sleep(LOOK_S)

    async def ended(self, run_id: str, *, decides: bool) -> RunState:
        """Bury who dies of the run, decide when it asks, until it has ended."""
        deadline_s, decide_s = time.monotonic() + PATIENCE_S, 0.0
        mark = self.workers.folder / run_id
        buried = False
        while (state := await self.state(run_id)).status is RunStatus.UNDER_WAY:
            assert time.monotonic() < deadline_s, f"{run_id} does not end"
            if mark.exists() and not buried:
                buried, decide_s = True, 0.0
                await asyncio.to_thread(self.workers.bury, int(mark.read_text()))
                await asyncio.to_thread(self.workers.start)
            elif decides and state.asked and time.monotonic() > decide_s:
                decide_s = time.monotonic() + DECIDE_EVERY_S
                self.tell(f"decide {run_id}")
            await asyncio.sleep(LOOK_S)
        assert mark.exists(), "nobody died"
        return state

    def tell(self, line: str) -> None:
        process = next(iter(self.workers.living.values()))
        assert process.stdin is not None
        process.stdin.write(f"{line}\n")
        process.stdin.flush()

    async def audit(self) -> Counter[str]:
        """Return how often each run was decided, as the audit stream has it."""
        entries = await all_of(self.log.read(AUDIT_TENANT, AUDIT))
        return Counter(msgspec.json.decode(it.body, type=Verdict).run for it in entries)


def kinds(state: RunState) -> list[tuple[int, StepKind]]:
    return [(it.number, it.kind) for it in state.steps]


WHOLE = [
    (1, StepKind.MODEL),
    (2, StepKind.APPROVAL),
    (3, StepKind.TOOL),
    (4, StepKind.MODEL),
]


def test_killed_around_the_question_or_the_decision_the_call_is_made_once(
    where: str, tmp_path: Path
) -> None:
    async def story() -> None:
        log = await opened(where)
        with receiving() as receiver, working(where, tmp_path, receiver, module=MODULE) as workers:
            told = Story(log, Ids(SystemClock(), random.Random(1)), workers)
            for point in POINTS:
                run_id = await told.begin("clerk", point)
                state = await told.ended(run_id, decides=True)
                assert state.status is RunStatus.FINISHED, point
                assert kinds(state) == WHOLE, point
                assert receiver.effects(run_id) == [f"{run_id}:3"], point
                again = point in {"after effect", "before tool"}  # it was not written yet
                assert receiver.repeated(run_id) == ([f"{run_id}:3"] if again else []), point
                assert (await told.audit())[run_id] == 1, point
        await log.close()

    asyncio.run(story())


def test_killed_while_its_time_runs_out_the_call_is_denied_once(where: str, tmp_path: Path) -> None:
    async def story() -> None:
        log = await opened(where)
        with receiving() as receiver, working(where, tmp_path, receiver, module=MODULE) as workers:
            told = Story(log, Ids(SystemClock(), random.Random(2)), workers)
            for point in ("after asked", "before decided", "after decided"):
                run_id = await told.begin("late", point)
                state = await told.ended(run_id, decides=False)
                assert [kind for _, kind in kinds(state)] == [
                    StepKind.MODEL,
                    StepKind.APPROVAL,
                    StepKind.MODEL,
                ]
                assert state.answer is not None
                assert "nobody has decided in time" in state.answer.text
                assert receiver.effects(run_id) == []
                assert (await told.audit())[run_id] == 1, point
        await log.close()

    asyncio.run(story())


def test_killed_all_together_while_a_run_asks_it_is_decided_by_those_who_come_after(
    where: str, tmp_path: Path
) -> None:
    async def story() -> None:
        log = await opened(where)
        with receiving() as receiver, working(where, tmp_path, receiver, module=MODULE) as workers:
            told = Story(log, Ids(SystemClock(), random.Random(3)), workers)
            run_id = await told.begin("clerk", "-")
            await told.asks(run_id)
            for process in list(workers.living.values()):
                process.kill()
                workers.bury(process.pid)
            workers.start()
            told.tell(f"decide {run_id}")
            decided_s = time.monotonic()
            while (state := await told.state(run_id)).status is RunStatus.UNDER_WAY:
                assert time.monotonic() < decided_s + PATIENCE_S
                await asyncio.sleep(LOOK_S)
            assert time.monotonic() - decided_s < 0.5
            assert kinds(state) == WHOLE
            assert receiver.repeated(run_id) == []
            assert receiver.effects(run_id) == [f"{run_id}:3"]
        await log.close()

    asyncio.run(story())
