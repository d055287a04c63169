"""Two tenants, acme and birch, in one service: the real stages and routes, over a log in memory.

Each has documents, an agent, a key that may do everything, and an admin; an operator watches over
both. The model repeats what it is told and what its searches found, with a number that counts its
answers: whatever crosses from one tenant to the other can be seen in its words.
"""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncGenerator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from murmurate import compose
from murmurate.adapters.memory import MemoryLog
from murmurate.config import parse
from murmurate.core.types import (
    Delta,
    Finished,
    FinishReason,
    Request,
    ResultPart,
    Text,
    ToolCall,
    Usage,
)
from murmurate.gateway.keys import KeyRecord, digest, entry_of
from murmurate.jobs.batches.state import QUEUE as BATCHES
from murmurate.knowledge.ports import (
    Document,
    Extracted,
    FileSeen,
    Found,
    Hit,
    LibraryState,
    Listing,
)
from murmurate.knowledge.rules import Rules
from murmurate.observe.spans import Recorder, SpanRecord
from tests.fakes import FakeClock, FakeEmbedder, FakeFetcher, FakeSandbox, RecordingLog, seeded_ids
from tests.gateway.client import Answer, Call

TENANTS = ("acme", "birch")
FILES = {
    "/acme": {"plans.md": "The plans of ACME-SECRET are filed in room seven."},
    "/birch": {"plans.md": "The plans of BIRCH-SECRET are filed in room nine."},
    "/both": {"hours.md": "The office is open until noon."},
}
CONFIG = parse(
    {
        "models": {"tiny": {"engine": "scripted", "rules": "-", "temperature": 0.0}},
        "knowledge": {
            "plans": {"folder": "/acme", "tenants": ["acme"]},
            "files": {"folder": "/birch", "tenants": ["birch"]},
            "hours": {"folder": "/both", "tenants": ["acme", "birch"]},
        },
        "agents": {
            name: {
                "model": "tiny",
                "knowledge": knowledge,
                "tools": ["search"],
                "permissions": {"search": permission},
            }
            for name, knowledge, permission in (
                ("planner", ["plans", "hours"], "allow"),
                ("filer", ["files"], "allow"),
                ("porter", ["hours"], "allow"),
                ("clerk", ["plans"], "ask"),
            )
        },
        "schedules": {
            "brief": {"cron": "0 7 * * *", "model": "planner", "message": "?", "tenant": "acme"}
        },
    }
)


class Echo:
    """Searches when it can, then repeats the last message and all that was found."""

    def __init__(self) -> None:
        self.answers = 0

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        results = [p.text for m in request.messages for p in m.parts if isinstance(p, ResultPart)]
        if request.tools and not results:
            yield ToolCall("call_1", "search", '{"query": "plans office"}')
            yield Usage(1, 1)
            yield Finished(FinishReason.TOOL_CALLS)
            return
        self.answers += 1
        said = " | ".join(m.text for m in request.messages if m.text)
        yield Text(f"answer {self.answers} to {said} {' '.join(results)}")
        yield Usage(1, 1)
        yield Finished(FinishReason.STOP)

    async def health(self) -> bool:
        return True

    async def close(self) -> None:
        """Nothing to close."""


class Shelves:
    """A library over `FILES` that finds whatever stands on the shelf it is sent to."""

    def __init__(self) -> None:
        self.index: dict[tuple[str, str], dict[str, Document]] = defaultdict(dict)

    async def listing(self, folder: str, rules: Rules) -> Listing:
        files = FILES[folder]
        return Listing(tuple(FileSeen(path, len(files[path]), 1) for path in files), ())

    async def fingerprint(self, folder: str, rules: Rules) -> str:
        return folder

    async def extract(self, folder: str, path: str, *, bytes_max: int) -> Extracted:
        text = FILES[folder][path]
        return Extracted(text, path, sha256(text.encode()).hexdigest(), len(text), 1)

    async def held(self, tenant: str, collection: str) -> dict[str, str]:
        return {id_: it.sha256 for id_, it in self.index[tenant, collection].items()}

    async def put(self, tenant: str, collection: str, documents: Sequence[Document]) -> None:
        self.index[tenant, collection].update({it.id: it for it in documents})

    async def drop(self, tenant: str, collection: str, ids: Sequence[str]) -> None:
        for id_ in ids:
            self.index[tenant, collection].pop(id_, None)

    async def state(self, tenant: str, collection: str, *, wait_s: float) -> LibraryState:
        return LibraryState(len(self.index[tenant, collection]), 0, None)

    async def find(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Found:
        hits = [
            Hit(
                document=it.id,
                collection=name,
                path=it.path,
                title=it.title,
                context="",
                text=f"{it.text} (the copy of {tenant})",
                start=0,
                end=len(it.text),
                line_first=1,
                line_last=1,
                cosine=0.9,
                bm25=2.0,
            )
            for name in collections
            for it in self.index[tenant, name].values()
        ]
        return Found(tuple(hits[:limit]), ())


class Spans:
    """Traces in memory, by tenant as in the real store."""

    def __init__(self) -> None:
        self.kept: list[SpanRecord] = []

    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        return [it for it in self.kept if (it.tenant, it.trace_id) == (tenant, trace_id)]


class Town:
    """The service, and a way to call it as any of its tenants."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.log = MemoryLog(clock=self.clock)
        self.events = RecordingLog()
        self.spans = Spans()
        self.shelves = Shelves()
        self.echo = Echo()
        self.service: compose.Service

    async def open(self) -> "Town":
        """Read the documents of both tenants; be ready for requests."""
        ids = seeded_ids(self.clock)
        outside = compose.Outside(
            clock=self.clock,
            ids=ids,
            runner="server",
            log=self.log,
            tracer=Recorder(clock=self.clock, ids=ids, sink=self.spans.kept.append),
            traces=self.spans,
            events=self.events,
            engines={"tiny": self.echo},
            library=self.shelves,
            embedder=FakeEmbedder(),
            sandbox=FakeSandbox(),
            fetcher=FakeFetcher(),
        )
        who = {"operator": "default", **{name: name for name in TENANTS}}
        records = [
            KeyRecord(f"key_{name}", digest(f"mur_{name}"), tenant, ("*",), 0, label=f"{name}'s")
            for name, tenant in who.items()
        ]
        await self.log.append([entry_of(record) for record in records])
        opened = await compose.open_keys(
            self.log, self.clock, ids, first_key=Path(os.devnull), events=self.events
        )
        self.service = compose.service(CONFIG, outside, opened)
        await self.service.runner.enlist()
        await self.service.platform.first_pass()
        return self

    async def call(
        self,
        who: str | None,
        method: str,
        path: str,
        body: Mapping[str, Any] | bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request with somebody's key (`mur_…` of that name), or without any."""
        sent = {"host": "127.0.0.1", **(headers or {})}
        if who is not None:
            sent["authorization"] = f"Bearer {who if who.startswith('mur_') else f'mur_{who}'}"
        if not isinstance(body, bytes):
            body = b"" if body is None else json.dumps(body).encode()
        call = Call([body])
        scope = {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0],
            "query_string": path.partition("?")[2].encode(),
            "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
            "client": ("127.0.0.1", 50_000),
        }
        await self.service.app(scope, call.receive, call.send)
        assert call.answer.ended
        return call.answer

    async def chat(
        self, who: str, text: str, *, model: str = "tiny", session: str | None = None
    ) -> Answer:
        """Ask in somebody's name."""
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        headers = {} if session is None else {"x-murmurate-session": session}
        return await self.call(who, "POST", "/v1/chat/completions", body, headers=headers)

    async def work(self) -> None:
        """Let the server work on what was begun in the background, to its end."""
        await self.service.runner.work()
        while self.service.runner.working:
            await asyncio.sleep(0)

    async def batch(self, who: str, batch_id: str) -> Any:
        """Let the server work on a batch to its end; return what it has come to."""
        steps = next(it for it in self.service.errands if it.queue == BATCHES)
        for _ in range(100):
            await steps.look()
            while steps._tasks:
                await asyncio.sleep(0)
            await self.work()
            self.clock.time_s += 1
            batch = (await self.call(who, "GET", f"/v1/batches/{batch_id}")).json()
            if batch["status"] in {"completed", "failed"}:
                return batch
        raise AssertionError(batch_id)

    async def same(
        self,
        who: str,
        method: str,
        path: str,
        *,
        names: tuple[str, str],
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for something of another tenant, then for what nobody has: both must look alike.

        `{name}` in path, body and headers stands for the two `names`. Return the first answer.
        """
        answers: list[Answer] = []
        for name in names:
            raw = json.dumps([path, body, headers]).replace("{name}", name)
            its_path, its_body, its_headers = json.loads(raw)
            answers.append(await self.call(who, method, its_path, its_body, headers=its_headers))
        first, second = (
            (
                answer.status,
                {k for k in answer.headers if k != "content-length"},
                answer.body.decode().replace(name, "NAME"),
            )
            for answer, name in zip(answers, names, strict=True)
        )
        assert first == second, "another tenant's can be told from what does not exist"
        return answers[0]


def content(answer: Answer) -> str:
    """Return the words of a chat's answer."""
    assert answer.status == 200, answer.body
    return answer.json()["choices"][0]["message"]["content"]
