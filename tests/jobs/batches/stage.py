"""Batches over servers side by side, on one log in memory; a model of ours answers the lines."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec

from murmurate.adapters.memory import MemoryLog
from murmurate.core.errors import BadRequestError, EngineFailedError, MurmurateError
from murmurate.core.types import Caller, Delta, Finished, FinishReason, Request, Text, TraceRef
from murmurate.files.entries import FileInfo
from murmurate.files.service import FileLimits, Files
from murmurate.jobs.batches.coordinator import BatchLimits, Coordinator
from murmurate.jobs.batches.service import Batches
from murmurate.jobs.batches.state import QUEUE, BatchView
from murmurate.jobs.errands import Errands
from murmurate.jobs.journal import OpenJournals
from murmurate.jobs.runner import Runner
from murmurate.jobs.service import Runs
from tests.fakes import RecordingLog, RecordingTracer, ask, seeded_ids
from tests.jobs.stage import Clock, Wire

ASK, EMBED = "/v1/chat/completions", "/v1/embeddings"
DAY_S = 86_400.0
FILE_LIMITS = FileLimits(
    file_bytes_max=10**8, tenant_bytes_max=10**9, files_max=100, upload_s=60.0, kept_s=30 * DAY_S
)
OVER = {"completed", "failed", "expired", "cancelled"}


class Terms(msgspec.Struct, frozen=True):
    """What a client says of a batch."""

    window: str = "24h"
    window_ms: int = 86_400_000
    metadata: dict[str, str] | None = None
    output_expires_s: float | None = None


class Echo:
    """A model that says what it is told; it counts, waits and fails as it is told."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error: dict[str, MurmurateError] = {}

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        text = request.messages[-1].text
        self.asked.append(text)
        await self.open.wait()
        if text in self.error:
            raise self.error[text]
        yield Text(f"said {text}")
        yield Finished(FinishReason.STOP)


class Lines:
    """An endpoint whose lines ask the model."""

    async def request(
        self, caller: Caller, body: bytes, *, run_id: str, trace: TraceRef
    ) -> Request:
        said = json.loads(body)
        if "say" not in said:
            raise BadRequestError("say: it is missing", param="say")
        return ask(said["say"], id=run_id, tenant=caller.tenant, model="echo", lane=caller.lane)

    def begun(self, request: Request) -> None:
        """Nobody counts here."""

    def written(self, deltas: Sequence[Delta], *, run_id: str, model: str, at_ms: int) -> bytes:
        text = "".join(delta.text for delta in deltas if isinstance(delta, Text))
        return json.dumps({"text": text, "model": model}).encode()


class Numbers:
    """An endpoint that computes: how long a text is."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.error: MurmurateError | None = None
        self.fails_on: str | None = None

    async def computed(
        self, caller: Caller, bodies: Sequence[bytes]
    ) -> Sequence[bytes | MurmurateError]:
        self.groups.append(len(bodies))
        if self.error is not None:
            error, self.error = self.error, None
            return [error] * len(bodies)
        found = [json.loads(body).get("say") for body in bodies]
        return [self._length(text) for text in found]

    def _length(self, text: str | None) -> bytes | MurmurateError:
        if text is None:
            return BadRequestError("say: it is missing")
        if text == self.fails_on:
            return EngineFailedError("it broke off")
        return b'{"length":%d}' % len(text)


class Server:
    """A server that answers runs and works on batches."""

    def __init__(self, name: str, log: MemoryLog, echo: Echo, **limits: Any) -> None:
        self.clock = Clock()
        self.wire = Wire(log)
        self.events = RecordingLog()
        self.ids = seeded_ids(self.clock, seed=hash(name) % 1000)
        outside: dict[str, Any] = {"log": self.wire, "clock": self.clock}
        self.journals = OpenJournals(self.wire)  # type: ignore[arg-type]
        self.runner = Runner(
            echo,
            self.journals,
            name=name,
            events=self.events,
            tracer=RecordingTracer(),
            **outside,
        )
        self.runs = Runs(
            echo, self.runner, self.journals, ids=self.ids, is_run=lambda _: False, **outside
        )
        self.files = Files(FILE_LIMITS, ids=self.ids, **outside)
        self.numbers = Numbers()
        bounds = {"window": 8, "lines_max": 2000, "line_bytes_max": 10_000, **limits}
        self.coordinator = Coordinator(
            {ASK: Lines()},
            {EMBED: self.numbers},
            self.files,
            limits=BatchLimits(**bounds),
            ids=self.ids,
            events=self.events,
            **outside,
        )
        self.batches = Batches(self.files, ids=self.ids, active_max=3, kept_s=30 * DAY_S, **outside)
        self.steps = Errands(
            self.runner,
            self.coordinator.go_on,
            queue=QUEUE,
            events=self.events,
            poll_s=0.1,
            **outside,
        )
        self.life: asyncio.Task[None] | None = None

    async def up(self) -> "Server":
        await self.runner.enlist()
        self.life = asyncio.create_task(self._live())
        return self

    async def _live(self) -> None:
        async with asyncio.TaskGroup() as lives:
            lives.create_task(self.runner.run())
            lives.create_task(self.steps.run())

    async def down(self) -> None:
        """Stop in an orderly way."""
        assert self.life is not None
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)

    def die(self) -> None:
        """Die as a host does that lost its power: nothing that is sent arrives any more."""
        self.wire.cut()

    async def put(self, *lines: Any, tenant: str = "a", purpose: str = "batch") -> FileInfo:
        """Upload lines; a dict goes as JSON."""
        raw = [it if isinstance(it, bytes) else json.dumps(it).encode() for it in lines]
        async with self.files.upload(tenant) as upload:
            await upload.write(b"\n".join(raw) + b"\n")
            return await upload.keep("in.jsonl", purpose, expires_s=None)

    async def begin(
        self, *lines: Any, tenant: str = "a", endpoint: str = ASK, **terms: Any
    ) -> BatchView:
        file = await self.put(*lines, tenant=tenant)
        caller = Caller("key_1", tenant, ("chat", "batches"))
        return await self.batches.create(
            caller, endpoint=endpoint, input_file_id=file.id, terms=Terms(**terms)
        )

    async def over(self, batch: BatchView, *, tenant: str = "a") -> BatchView:
        """Wait until a batch is over."""
        found = await self.batches.show(tenant, batch.id)
        for _ in range(100_000):
            if found.status in OVER:
                return found
            await self.clock.sleep(0.05)
            found = await self.batches.show(tenant, batch.id)
        raise AssertionError(found)

    async def file(self, file_id: str | None, *, tenant: str = "a") -> dict[str, dict[str, Any]]:
        """Return the lines of a file of results by custom id; each is there once."""
        if file_id is None:
            return {}
        content = self.files.content(tenant, file_id)
        whole = b"".join([piece async for piece in content])
        found = [json.loads(line) for line in whole.splitlines()]
        by_id = {line["custom_id"]: line for line in found}
        assert len(by_id) == len(found), "a line is answered twice"
        return by_id


def line(number: int, *, endpoint: str = ASK, **body: Any) -> dict[str, Any]:
    """Return a line that says its number."""
    said = body or {"say": str(number)}
    return {"custom_id": f"c{number}", "method": "POST", "url": endpoint, "body": said}
