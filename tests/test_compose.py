"""What compose decides itself: keys at first start, what may be cached, and when it is ready."""

import asyncio
import stat
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from murmurate import compose
from murmurate.adapters.memory import MemoryLog
from murmurate.config import parse
from murmurate.core.errors import (
    FolderMissingError,
    KeyInvalidError,
    LogCorruptError,
    LogUnavailableError,
    NotFoundError,
)
from murmurate.core.ports import Entry, Stored
from murmurate.core.types import Sampling
from murmurate.gateway.auth import REGISTRY, KeyRecord, digest, entry_of
from murmurate.observe.metrics import Metrics
from murmurate.observe.spans import Recorder
from tests.fakes import FakeClock, FakeSandbox, RecordingLog, Saying, ask, seeded_ids, until

CONFIG = parse(
    {
        "models": {
            "exact": {"engine": "scripted", "rules": "r", "temperature": 0.0},
            "lively": {"engine": "scripted", "rules": "r"},
        },
        "knowledge": {"docs": {"folder": "/docs"}},
        "agents": {
            "clerk": {"model": "exact", "knowledge": ["docs"], "tools": ["search"]},
            "poet": {"model": "lively"},
        },
    }
)


class Engine(Saying):
    """An engine that is well or not."""

    def __init__(self, *, well: bool = True) -> None:
        super().__init__()
        self.well = well

    async def health(self) -> bool:
        return self.well

    async def close(self) -> None:
        """Nothing to close."""


class Documents:
    """Collections that can be read after some failures."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.version_now = "docs@1"

    def version(self, tenant: str, collections: Sequence[str]) -> str:
        return f"{tenant}:{self.version_now}"

    async def sync(self, tenant: str, collection: str) -> AsyncGenerator[str]:
        if self.failures:
            self.failures -= 1
            raise FolderMissingError("/docs is gone")
        yield f"{tenant}/{collection}"


class NoTraces:
    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        return []


def platform(
    *, well: bool = True, failures: int = 0, embedder: Any = None
) -> tuple[compose.Platform, FakeClock, RecordingLog]:
    clock = FakeClock()
    ids = seeded_ids(clock)
    events = RecordingLog()
    outside = compose.Outside(
        clock=clock,
        ids=ids,
        log=MemoryLog(clock=clock),
        tracer=Recorder(clock=clock, ids=ids, sink=lambda _: None),
        traces=NoTraces(),
        events=events,
        engines={name: Engine(well=well) for name in CONFIG.models},
        library=None,  # type: ignore[arg-type] - the collections below need none
        embedder=embedder,
        sandbox=FakeSandbox(),
    )
    documents: Any = Documents(failures)
    sessions = compose.chain(CONFIG, outside, documents, Metrics())
    return compose.Platform(CONFIG, outside, sessions, documents), clock, events


def test_the_first_start_makes_a_key_that_only_its_file_knows(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        file = tmp_path / "key"
        keys = await compose.open_keys(log, clock, seeded_ids(clock), first_key=file)
        secret = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert keys.caller(f"Bearer {secret}".encode()).tenant == compose.TENANT
        async with aclosing(log.streams(REGISTRY, "key/")) as streams:
            [stream] = [info.stream async for info in streams]
        async with aclosing(log.read(REGISTRY, stream)) as entries:
            bodies = b"".join([entry.body async for entry in entries])
        assert secret.encode() not in bodies
        again = await compose.open_keys(log, clock, seeded_ids(clock, 2), first_key=file)
        assert file.read_text().strip() == secret
        assert again.caller(f"Bearer {secret}".encode()).scopes == ("*",)
        with pytest.raises(KeyInvalidError):
            again.caller(b"Bearer mur_other")

    asyncio.run(story())


def test_a_key_whose_log_is_lost_stays_valid_and_other_words_in_its_file_do_not(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        clock = FakeClock()
        file = tmp_path / "key"
        await compose.open_keys(MemoryLog(clock=clock), clock, seeded_ids(clock), first_key=file)
        secret = file.read_text().strip()
        lost = MemoryLog(clock=clock)
        keys = await compose.open_keys(lost, clock, seeded_ids(clock, 2), first_key=file)
        assert file.read_text().strip() == secret
        assert keys.caller(f"Bearer {secret}".encode()).tenant == compose.TENANT
        file.write_text("password\n")
        empty = MemoryLog(clock=clock)
        await compose.open_keys(empty, clock, seeded_ids(clock, 3), first_key=file)
        assert compose.KEY_FORM.fullmatch(file.read_text().strip())

    asyncio.run(story())


class DamagedLog(MemoryLog):
    """A log in which some streams cannot be read."""

    def __init__(self, *damaged: str, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.damaged = set(damaged)

    async def read(self, tenant: str, stream: str, *, after: int = 0) -> AsyncGenerator[Stored]:
        if stream in self.damaged:
            raise LogCorruptError(f"entry 1 of stream {stream} is damaged")
        async with aclosing(super().read(tenant, stream, after=after)) as entries:
            async for stored in entries:
                yield stored


def test_a_damaged_key_locks_out_its_owner_alone_and_never_makes_a_new_one(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = DamagedLog("key/1", clock=clock)
        for number in (1, 2):
            record = KeyRecord(str(number), digest(f"mur_{number}"), "t", ("*",), 0)
            await log.append([entry_of(record)])
        ids = seeded_ids(clock)
        keys = await compose.open_keys(log, clock, ids, first_key=tmp_path / "key")
        assert keys.caller(b"Bearer mur_2").tenant == "t"
        with pytest.raises(KeyInvalidError):
            keys.caller(b"Bearer mur_1")
        log.damaged.add("key/2")
        with pytest.raises(LogCorruptError):
            await compose.open_keys(log, clock, ids, first_key=tmp_path / "key")
        assert not (tmp_path / "key").exists()

    asyncio.run(story())


class Care:
    """A log's care that knows of some damage."""

    def __init__(self, *damage: str) -> None:
        self.damage = damage
        self.examined = 0

    async def examine(self) -> None:
        self.examined += 1
        if self.examined == 2:
            raise LogUnavailableError("the disk is gone")


def test_a_damaged_log_is_counted_and_its_service_stays_ready() -> None:
    async def story() -> None:
        service, clock, events = platform()
        await service.first_pass()
        assert (await service.readiness()).parts["log"] == "ready"
        care = Care("entry 1 of stream session/secret", "entry 2 of stream session/secret")
        service._outside = replace(service._outside, log_care=care)
        readiness = await service.readiness()
        assert readiness.ready
        assert readiness.parts["log"] == "2 places are damaged: murmurate doctor"
        assert service.log_damaged() == 2
        examining = asyncio.create_task(service.examine_log())
        await until(lambda: care.examined == 3)
        examining.cancel()
        assert clock.slept_s[:2] == [compose.EXAMINE_EVERY_S] * 2
        assert events.named("log.not_examined") == [
            {"detail": "[log.unavailable] the disk is gone"}
        ]

    asyncio.run(story())


def test_a_damaged_key_entry_stops_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        await log.append([Entry(REGISTRY, "key/key_1", "key.created", b'{"id": 1}')])
        with pytest.raises(Exception, match="id"):
            await compose.open_keys(log, clock, seeded_ids(clock), first_key=tmp_path / "key")

    asyncio.run(story())


@pytest.mark.parametrize(
    ("model", "temperature", "cacheable"),
    [
        ("exact", None, True),
        ("exact", 0.7, False),
        ("lively", None, False),
        ("lively", 0.0, True),
    ],
)
def test_a_completion_is_cached_only_where_asking_again_gives_the_same(
    model: str, temperature: float | None, *, cacheable: bool
) -> None:
    request = ask("hi", model=model, sampling=Sampling(temperature=temperature))
    assert (compose.plain_policy(CONFIG, request) is not None) is cacheable


def test_an_agents_answer_is_cached_under_the_version_of_its_documents() -> None:
    documents: Any = Documents()
    clerk, poet, plain = (ask("hi", model=name) for name in ("clerk", "poet", "exact"))
    assert compose.agent_policy(CONFIG, documents, clerk) == f"{clerk.tenant}:docs@1"
    assert compose.agent_policy(CONFIG, documents, poet) is None
    assert compose.agent_policy(CONFIG, documents, plain) is None


def test_it_is_ready_when_the_engines_are_well_and_the_documents_are_read() -> None:
    async def story() -> None:
        service, _, _ = platform()
        assert not (await service.readiness()).ready
        await service.first_pass()
        readiness = await service.readiness()
        assert readiness.ready
        assert readiness.parts["documents docs"] == "ready"

    asyncio.run(story())


def test_it_is_not_ready_while_a_local_engine_is_down() -> None:
    async def story() -> None:
        service, _, _ = platform(well=False)
        await service.first_pass()
        readiness = await service.readiness()
        assert not readiness.ready
        assert readiness.parts["model exact"] == "not reachable"

    asyncio.run(story())


def test_documents_that_cannot_be_read_are_tried_again_and_hold_nobody_up() -> None:
    async def story() -> None:
        service, _, events = platform(failures=2)
        await service.first_pass()
        assert len(events.named("ingest.failed")) == 2
        assert (await service.readiness()).parts["documents docs"] == "ready"

        never, clock, _ = platform(failures=10**9)
        trying = asyncio.create_task(never.first_pass())
        while clock.slept_s == []:
            await asyncio.sleep(0)
        readiness = await never.readiness()
        assert readiness.ready
        assert "gone" in readiness.parts["documents docs"]
        trying.cancel()

    asyncio.run(story())


def test_a_first_pass_that_takes_for_ever_does_not_keep_the_service_from_being_ready() -> None:
    async def story() -> None:
        service, clock, _ = platform()
        clock.time_s += compose.READY_WAIT_S
        assert (await service.readiness()).ready

    asyncio.run(story())


def test_an_unknown_collection_or_trace_is_not_found() -> None:
    async def story() -> None:
        service, _, _ = platform()
        with pytest.raises(NotFoundError, match="there are: docs"):
            async with aclosing(service.ingest("default", ["no"])) as steps:
                await anext(steps)
        with pytest.raises(NotFoundError):
            await service.trace("default", "0" * 32)

    asyncio.run(story())


def test_agents_are_listed_before_models_and_embedders() -> None:
    service, _, _ = platform(embedder=object())
    assert list(service.models()) == ["clerk", "poet", "exact", "lively", "minilm"]
    assert list(service.chat_models()) == ["clerk", "poet", "exact", "lively"]
