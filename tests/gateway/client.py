"""A client that calls the gateway as an ASGI server would, in the same process, without a network.

It checks ASGI's rules on the way: one start, then bodies, nothing after the end.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from murmurate.adapters.memory import MemoryLog
from murmurate.config import AuthConfig, Effect
from murmurate.core.ports import Embedder, Model
from murmurate.files.service import FileLimits, Files
from murmurate.gateway.administration import Administration
from murmurate.gateway.approvals import Decisions
from murmurate.gateway.audit import Trail
from murmurate.gateway.auditing import Auditing
from murmurate.gateway.background import Background
from murmurate.gateway.batches import BatchRoutes
from murmurate.gateway.completions import Completions, Embeddings
from murmurate.gateway.files import FileRoutes
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import Key, KeyRecord, entry_of
from murmurate.gateway.lines import ChatLines, EmbeddingLines
from murmurate.gateway.management import Management
from murmurate.gateway.policy import Always, Gate
from murmurate.gateway.ports import Issuer, Policy
from murmurate.gateway.quota import Rate
from murmurate.gateway.registry import Registry
from murmurate.gateway.requests import Requests
from murmurate.gateway.responses.compaction import Compaction
from murmurate.gateway.responses.conversations import Conversations
from murmurate.gateway.responses.following import Following
from murmurate.gateway.responses.service import Responses
from murmurate.gateway.responses.store import Store
from murmurate.gateway.responses.stored import Stored
from murmurate.gateway.responses.talks import Talks
from murmurate.gateway.roles import Roles, roles_of
from murmurate.gateway.service import Gateway, Limits
from murmurate.gateway.surface import Handlers, ItemHandlers, scoped_routes
from murmurate.gateway.timetable import Timetable
from murmurate.gateway.tokenring import Tokens
from murmurate.gateway.usage import Usages
from murmurate.jobs.batches.service import Batches
from tests.fakes import (
    DONE,
    FakeApprovals,
    FakeClock,
    FakeEmbedder,
    FakeLedger,
    FakePlatform,
    FakeRuns,
    FakeSchedules,
    RecordingLog,
    RecordingMeter,
    RecordingTracer,
    Saying,
    seeded_ids,
)

_T = TypeVar("_T")

KEY = "mur_right"
BODY_BYTES_MAX = 10_000
BATCHES_MAX = 3
FILE_LIMITS = FileLimits(
    file_bytes_max=1_000_000,
    tenant_bytes_max=2_000_000,
    files_max=5,
    upload_s=60.0,
    kept_s=86_400.0,
)


@dataclass
class Answer:
    """What came back."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    chunks: list[bytes] = field(default_factory=list[bytes])
    ended: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json()["error"]

    def told(self) -> list[Any]:
        """Return the named events of a response, decoded; it ends with the end mark."""
        assert self.headers["content-type"].startswith("text/event-stream")
        *events, mark, rest = self.body.decode().split("\n\n")
        assert (mark, rest) == ("data: [DONE]", "")
        found: list[Any] = []
        for event in events:
            name, data = event.split("\n")
            found.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {found[-1]['type']}", "the name is the type"
        return found

    def events(self) -> list[Any]:
        """Return the server-sent events, decoded; the end mark stays a text."""
        assert self.headers["content-type"].startswith("text/event-stream")
        *events, rest = self.body.decode().split("\n\n")
        assert rest == "", "the stream ends in the middle of an event"
        assert all(event.startswith("data: ") and "\n" not in event for event in events)
        payloads = [event.removeprefix("data: ") for event in events]
        return [p if p == "[DONE]" else json.loads(p) for p in payloads]


class Call:
    """One request under way: what ASGI calls `receive` and `send`, and a way to hang up."""

    def __init__(self, body: Sequence[bytes]) -> None:
        self.answer = Answer()
        self.unread = list(body)
        self._gone = asyncio.Event()

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> MutableMapping[str, Any]:
        if self.unread and not self._gone.is_set():
            chunk = self.unread.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(self.unread)}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, sent: MutableMapping[str, Any]) -> None:
        assert not self.answer.ended, "sent after the end"
        if sent["type"] == "http.response.start":
            assert not self.answer.status, "two starts"
            self.answer.status = sent["status"]
            for name, value in sent["headers"]:
                assert name == name.lower()
                self.answer.headers[name.decode()] = value.decode()
            return
        assert self.answer.status, "a body before the start"
        if sent["body"] and not self._gone.is_set():
            self.answer.chunks.append(bytes(sent["body"]))
        self.answer.ended = not sent.get("more_body", False)


@dataclass
class House:
    """A gateway over fakes. Change what matters to the test before the first call."""

    model: Model = field(default_factory=lambda: Saying(DONE))
    embedders: Mapping[str, Embedder] = field(default_factory=lambda: {"minilm": FakeEmbedder()})
    runs: FakeRuns = field(default_factory=FakeRuns)
    schedules: FakeSchedules = field(default_factory=FakeSchedules)
    approvals: FakeApprovals = field(default_factory=FakeApprovals)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    platform: FakePlatform = field(default_factory=FakePlatform)
    clock: FakeClock = field(default_factory=FakeClock)
    tracer: RecordingTracer = field(default_factory=RecordingTracer)
    meter: RecordingMeter = field(default_factory=RecordingMeter)
    log: RecordingLog = field(default_factory=RecordingLog)
    rate: Rate = field(default_factory=lambda: Rate(per_s=10.0, burst=60.0))
    requests_max: int = 8
    scopes: tuple[str, ...] = ("*",)
    auth: Mapping[str, AuthConfig] = field(default_factory=dict[str, AuthConfig])
    issuers: Mapping[str, Issuer] = field(default_factory=dict[str, Issuer])
    roles: Roles = field(default_factory=lambda: roles_of({}))
    policy: Policy = field(default_factory=lambda: Always(Effect.ALLOW))
    new_secrets: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    app: Gateway = field(init=False)

    def __post_init__(self) -> None:
        ids = seeded_ids(self.clock)
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        record = KeyRecord("key_1", digest, "a", self.scopes, 0)
        self.keys = Keys([Key(record, 1)], clock=self.clock)
        self.kept = MemoryLog(clock=self.clock)
        self.kept._store(entry_of(record), 0)
        self.registry = Registry(self.keys, log=self.kept, clock=self.clock, ids=ids)
        gate = Gate(self.policy)
        self.trail = Trail(log=self.kept, clock=self.clock, events=self.log)
        self.files = Files(FILE_LIMITS, log=self.kept, clock=self.clock, ids=ids)
        requests = Requests(platform=self.platform, gate=gate, ledger=self.ledger, ids=ids)
        self.runs.log = self.kept
        self.store = Store(self.kept, runs=self.runs, archive=self.runs)
        conversations = Conversations(self.kept)
        following = Following(self.runs)
        handlers = Handlers(
            completions=Completions(
                self.model,
                requests=requests,
                body_bytes_max=BODY_BYTES_MAX,
                clock=self.clock,
                ids=ids,
                meter=self.meter,
                log=self.log,
            ),
            embeddings=Embeddings(
                self.embedders, gate=gate, ledger=self.ledger, body_bytes_max=BODY_BYTES_MAX
            ),
            management=Management(
                self.platform,
                gate=gate,
                trail=self.trail,
                meter=self.meter,
                body_bytes_max=BODY_BYTES_MAX,
            ),
            administration=Administration(
                self.keys,
                self.registry,
                roles=self.roles,
                rate=self.rate,
                clock=self.clock,
                ids=ids,
                on_secret=lambda old, secret: self.new_secrets.append((old, secret)),
            ),
            background=Background(
                self.runs,
                replays=self.runs,
                requests=requests,
                body_bytes_max=BODY_BYTES_MAX,
            ),
            timetable=Timetable(self.schedules),
            items=ItemHandlers(
                Responses(
                    self.model,
                    store=self.store,
                    conversations=conversations,
                    runs=self.runs,
                    following=following,
                    requests=requests,
                    body_bytes_max=BODY_BYTES_MAX,
                    clock=self.clock,
                    ids=ids,
                    meter=self.meter,
                    log=self.log,
                ),
                Stored(self.store, runs=self.runs, following=following, clock=self.clock),
                Talks(conversations, store=self.store, ids=ids, body_bytes_max=BODY_BYTES_MAX),
                Compaction(
                    self.model,
                    store=self.store,
                    requests=requests,
                    body_bytes_max=BODY_BYTES_MAX,
                    clock=self.clock,
                    ids=ids,
                    meter=self.meter,
                ),
            ),
            files=FileRoutes(
                self.files,
                file_bytes_max=FILE_LIMITS.file_bytes_max,
                upload_s=FILE_LIMITS.upload_s,
            ),
            batches=BatchRoutes(
                Batches(
                    self.files,
                    log=self.kept,
                    clock=self.clock,
                    ids=ids,
                    active_max=BATCHES_MAX,
                    kept_s=86_400.0,
                ),
                {
                    "/v1/chat/completions": ChatLines(requests),
                    "/v1/embeddings": EmbeddingLines(self.embedders, gate=gate, ledger=self.ledger),
                },
                body_bytes_max=BODY_BYTES_MAX,
            ),
            decisions=Decisions(self.approvals, trail=self.trail),
            auditing=Auditing(self.trail, clock=self.clock),
            usages=Usages(self.ledger, currency="EUR", clock=self.clock),
        )
        self.app = Gateway(
            handlers,
            routes=scoped_routes(handlers),
            keys=self.keys,
            tokens=Tokens(
                self.auth, self.issuers, roles=self.roles, clock=self.clock, events=self.log
            ),
            gate=gate,
            trail=self.trail,
            limits=Limits(requests_max=self.requests_max, rate=self.rate),
            hosts={"murmurate.example"},
            clock=self.clock,
            ids=ids,
            tracer=self.tracer,
            meter=self.meter,
            log=self.log,
        )

    def start(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        *,
        headers: Mapping[str, str | None] | None = None,
        client: str = "127.0.0.1",
    ) -> tuple[Call, asyncio.Task[None]]:
        """Begin a request; the task ends with it. A header of None is left out."""
        sent: dict[str, str | None] = {"host": "127.0.0.1", "authorization": f"Bearer {KEY}"}
        sent |= headers or {}
        call = Call([body] if isinstance(body, bytes) else body)
        scope = {
            "type": "http",
            "method": method,
            "path": path.partition("?")[0],
            "query_string": path.partition("?")[2].encode(),
            "headers": [(k.encode(), v.encode()) for k, v in sent.items() if v is not None],
            "client": (client, 50_000),
        }
        return call, asyncio.ensure_future(self._served(scope, call))

    async def send(self, method: str, path: str, body: Any = b"", **options: Any) -> Answer:
        """Send a request (a dict goes as JSON) and return the whole answer."""
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        call, served = self.start(method, path, raw, **options)
        await served
        assert call.answer.ended
        return call.answer

    def get(self, path: str, **options: Any) -> Answer:
        return run(lambda: self.send("GET", path, **options))

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return run(lambda: self.send("POST", path, body, **options))

    def respond(self, body: Mapping[str, Any] | None = None, **options: Any) -> Answer:
        return self.post("/v1/responses", {**ASK, **(body or {})}, **options)

    def complete(self, **fields: Any) -> Answer:
        return self.post("/v1/completions", {"model": "tiny", "prompt": "hello", **fields})

    def chat(self, body: Mapping[str, Any] | None = None, **options: Any) -> Answer:
        return self.post("/v1/chat/completions", {**HELLO, **(body or {})}, **options)

    def start_chat(self, **fields: Any) -> tuple[Call, asyncio.Task[None]]:
        body = json.dumps({**HELLO, **fields}).encode()
        return self.start("POST", "/v1/chat/completions", body)

    async def _served(self, scope: MutableMapping[str, Any], call: Call) -> None:
        await self.app(scope, call.receive, call.send)


ASK: Mapping[str, Any] = {"model": "tiny", "input": "hello"}
HELLO: Mapping[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}


def run(story: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    return asyncio.run(story())
