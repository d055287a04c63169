"""What compose decides itself: keys at first start, what may be cached, and when it is ready."""

import asyncio
import stat
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from murmurate import compose
from murmurate.adapters.memory import MemoryLog
from murmurate.compose.keys import KEY_FORM
from murmurate.compose.platform import EXAMINE_EVERY_S, READY_WAIT_S
from murmurate.config import parse
from murmurate.core.errors import (
    ConfigError,
    FolderMissingError,
    KeyInvalidError,
    KeyRevokedError,
    LogCorruptError,
    LogUnavailableError,
    NotFoundError,
)
from murmurate.core.journal import NothingKept
from murmurate.core.ports import Entry, Stored
from murmurate.core.types import Caller, Sampling
from murmurate.fleet.ends import Trouble
from murmurate.gateway.keys import REGISTRY, KeyRecord, digest, entry_of
from murmurate.gateway.scopes import OPERATOR_TENANT, is_operator
from murmurate.knowledge.service import Collections, CollectionStatus, Source
from murmurate.observe.metrics import Metrics
from murmurate.observe.spans import Recorder
from tests.fakes import (
    FakeClock,
    FakeFetcher,
    FakeSandbox,
    RecordingLog,
    RecordingTracer,
    Saying,
    ask,
    seeded_ids,
    until,
)
from tests.knowledge.test_service import FakeLibrary
from tests.servers.postgres import PostgresServer

OTHERS = "documents of other tenants"
CONFIG = parse(
    {
        "models": {
            "exact": {"engine": "scripted", "rules": "r", "temperature": 0.0},
            "lively": {"engine": "scripted", "rules": "r"},
        },
        "knowledge": {
            "docs": {"folder": "/docs", "tenants": ["default", "acme"]},
            "ours": {"folder": "/ours", "tenants": ["acme"]},
        },
        "agents": {
            "clerk": {"model": "exact", "knowledge": ["docs"], "tools": ["search"]},
            "poet": {"model": "lively"},
            "insider": {"model": "exact", "knowledge": ["ours", "docs"], "tools": ["search"]},
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
        self.synced: list[tuple[str, str]] = []
        self.watched: list[tuple[str, str]] = []
        self.runs = 0
        self.forgotten: list[str] = []

    def version(self, tenant: str, collections: Sequence[str]) -> str:
        return f"{tenant}:{self.version_now}"

    async def sync(self, tenant: str, collection: str) -> AsyncGenerator[str]:
        if self.failures:
            self.failures -= 1
            raise FolderMissingError("/docs is gone")
        self.synced.append((tenant, collection))
        yield f"{tenant}/{collection}"

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> list[str]:
        return [f"{tenant} {collections} {question} {limit}"]

    async def forget_removed(self, tenant: str) -> list[str]:
        self.forgotten.append(tenant)
        return ["older"]

    def watch(self, tenant: str, name: str) -> "Documents":
        self.watched.append((tenant, name))
        return self

    async def run(self) -> None:
        """Watch: breaks once in a way that nobody foresaw, then sees nothing for ever."""
        self.runs += 1
        if self.runs == 1:
            raise ZeroDivisionError
        await asyncio.Event().wait()

    async def status(self, tenant: str) -> list[CollectionStatus]:
        return [
            CollectionStatus(name, "ready", 1, 1, 0, "words", None, (), index_bytes=9)
            for name, it in CONFIG.knowledge.items()
            if tenant in it.tenants
        ]


class NoTraces:
    async def spans(self, tenant: str, trace_id: str) -> Sequence[Any]:
        return []


def platform(
    *,
    well: bool = True,
    failures: int = 0,
    embedder: Any = None,
    leads: bool = True,
    troubles: Callable[[], Mapping[str, Trouble]] = dict,
) -> tuple[compose.Platform, FakeClock, RecordingLog]:
    clock = FakeClock()
    ids = seeded_ids(clock)
    events = RecordingLog()
    outside = compose.Outside(
        clock=clock,
        ids=ids,
        runner="server",
        leads=leads,
        log=MemoryLog(clock=clock),
        tracer=Recorder(clock=clock, ids=ids, sink=lambda _: None),
        traces=NoTraces(),
        events=events,
        engines={name: Engine(well=well) for name in CONFIG.models},
        library=None,  # type: ignore[arg-type] - the collections below need none
        embedder=embedder,
        sandbox=FakeSandbox(),
        fetcher=FakeFetcher(),
        troubles=troubles,
    )
    documents: Any = Documents(failures)
    journals = NothingKept(outside.log)
    book = compose.book_of(CONFIG, outside, tenants=set)
    sessions = compose.chain(CONFIG, outside, documents, Metrics(), book=book, journals=journals)
    return compose.Platform(CONFIG, outside, sessions, documents), clock, events


async def opened_keys(
    log: MemoryLog, clock: FakeClock, file: Path, *, seed: int = 1, events: Any = None
) -> compose.OpenedKeys:
    return await compose.open_keys(
        log, clock, seeded_ids(clock, seed), first_key=file, events=events or RecordingLog()
    )


def test_the_first_start_makes_a_key_that_only_its_file_knows(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        file = tmp_path / "key"
        opened = await opened_keys(log, clock, file)
        secret = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        caller = opened.keys.admit(f"Bearer {secret}".encode()).caller
        assert caller.tenant == OPERATOR_TENANT
        async with aclosing(log.streams(REGISTRY, "key/")) as streams:
            [stream] = [info.stream async for info in streams]
        async with aclosing(log.read(REGISTRY, stream)) as entries:
            bodies = b"".join([entry.body async for entry in entries])
        assert secret.encode() not in bodies
        again = await opened_keys(log, clock, file, seed=2)
        assert file.read_text().strip() == secret
        assert again.keys.admit(f"Bearer {secret}".encode()).caller.scopes == ("*",)
        with pytest.raises(KeyInvalidError):
            again.keys.admit(b"Bearer mur_other")

    asyncio.run(story())


def test_a_key_whose_log_is_lost_stays_valid_and_other_words_in_its_file_do_not(
    tmp_path: Path,
) -> None:
    async def story() -> None:
        clock = FakeClock()
        file = tmp_path / "key"
        await opened_keys(MemoryLog(clock=clock), clock, file)
        secret = file.read_text().strip()
        opened = await opened_keys(MemoryLog(clock=clock), clock, file, seed=2)
        assert file.read_text().strip() == secret
        caller = opened.keys.admit(f"Bearer {secret}".encode()).caller
        assert caller.tenant == OPERATOR_TENANT
        file.write_text("password\n")
        await opened_keys(MemoryLog(clock=clock), clock, file, seed=3)
        assert KEY_FORM.fullmatch(file.read_text().strip())

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
            record = KeyRecord(str(number), digest(f"mur_{number}"), "default", ("*",), 0)
            await log.append([entry_of(record)])
        (tmp_path / "key").write_text("mur_1")
        opened = await opened_keys(log, clock, tmp_path / "key")
        assert opened.keys.admit(b"Bearer mur_2").caller.key_id == "2"
        with pytest.raises(KeyInvalidError):
            opened.keys.admit(b"Bearer mur_1")
        log.damaged.add("key/2")
        with pytest.raises(LogCorruptError):
            await opened_keys(log, clock, tmp_path / "key")
        assert (tmp_path / "key").read_text() == "mur_1"
        (tmp_path / "key").unlink()
        with pytest.raises(LogCorruptError):
            await opened_keys(log, clock, tmp_path / "key")
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
        assert clock.slept_s[:2] == [EXAMINE_EVERY_S] * 2
        assert events.named("log.not_examined") == [
            {"detail": "[log.unavailable] the disk is gone"}
        ]

    asyncio.run(story())


def test_a_damaged_key_entry_stops_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        await log.append([Entry(REGISTRY, "key/key_1", "key.created", b'{"id": 1}')])
        with pytest.raises(LogCorruptError, match="id"):
            await opened_keys(log, clock, tmp_path / "key")

    asyncio.run(story())


def test_the_key_file_follows_a_rotation_of_its_own_key_only(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        file = tmp_path / "key"
        events = RecordingLog()
        opened = await opened_keys(MemoryLog(clock=clock), clock, file, events=events)
        first = file.read_text().strip()
        opened.on_secret(digest("mur_somebody_else"), "mur_theirs")
        assert file.read_text().strip() == first
        opened.on_secret(digest(first), "mur_next")
        assert file.read_text() == "mur_next\n"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        file.unlink()
        opened.on_secret(digest("mur_next"), "mur_last")
        assert not file.exists()
        [event] = events.named("keys.file_not_written")
        assert "mur_" not in str(event)

    asyncio.run(story())


def test_who_owns_the_folder_gets_a_new_key_when_none_manages_all_others(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        file = tmp_path / "key"
        opened = await opened_keys(log, clock, file)
        lost = file.read_text().strip()
        caller = opened.keys.admit(f"Bearer {lost}".encode()).caller
        key = opened.keys.get(caller.key_id)
        assert key is not None
        await opened.registry.revoke(key, by=caller)
        again = await opened_keys(log, clock, file, seed=2)
        assert file.read_text().strip() != lost
        fresh = again.keys.admit(f"Bearer {file.read_text().strip()}".encode())
        assert is_operator(fresh.caller)
        with pytest.raises(KeyRevokedError):
            again.keys.admit(f"Bearer {lost}".encode())

    asyncio.run(story())


def test_a_lost_key_file_gets_one_more_key_and_the_lost_one_stays_good(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        file = tmp_path / "key"
        await opened_keys(log, clock, file)
        lost = file.read_text().strip()
        file.unlink()
        for seed in (2, 3):  # the second start finds the file, and makes none
            again = await opened_keys(log, clock, file, seed=seed)
            assert len(again.keys) == 2
            for secret in (lost, file.read_text().strip()):
                assert is_operator(again.keys.admit(f"Bearer {secret}".encode()).caller)
        assert file.read_text().strip() != lost
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

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
    # Of several servers one reads the documents, and the others would not see the answer age.
    several = msgspec.structs.replace(CONFIG.server, workers=2)
    config = msgspec.structs.replace(CONFIG, server=several)
    assert compose.agent_policy(config, documents, clerk) is None


def test_a_server_beside_the_first_one_waits_for_no_documents() -> None:
    async def story() -> None:
        service, _, _ = platform(leads=False)
        readiness = await service.readiness()
        assert (readiness.ready, readiness.parts["documents docs"]) == (True, "ready")

    asyncio.run(story())


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


def test_whoever_asks_for_readiness_reads_no_names_of_other_tenants_collections() -> None:
    async def story() -> None:
        service, _, _ = platform()
        assert (await service.readiness()).parts[OTHERS] == "not read yet"
        await service.first_pass()
        parts = (await service.readiness()).parts
        assert parts[OTHERS] == "ready"
        assert not any("ours" in name for name in parts)

        broken, clock, _ = platform(failures=10**9)
        trying = asyncio.create_task(broken.first_pass())
        while clock.slept_s == []:
            await asyncio.sleep(0)
        assert (await broken.readiness()).parts[OTHERS] == "can't be read"
        trying.cancel()

    asyncio.run(story())


def test_a_first_pass_that_takes_for_ever_does_not_keep_the_service_from_being_ready() -> None:
    async def story() -> None:
        service, clock, _ = platform()
        clock.time_s += READY_WAIT_S
        assert (await service.readiness()).ready

    asyncio.run(story())


def test_a_folder_is_read_then_watched_and_removed_collections_are_told() -> None:
    async def story() -> None:
        service, _, events = platform(failures=1)
        documents: Any = service._collections
        following = asyncio.create_task(service.follow())
        await until(lambda: documents.runs == 4)
        following.cancel()
        each = [("acme", "docs"), ("acme", "ours"), ("default", "docs")]
        assert sorted(documents.synced) == sorted(documents.watched) == each
        assert documents.forgotten == ["acme", "default"]
        assert events.named("ingest.removed") == [{"collection": "older"}] * 2
        assert events.named("ingest.failed")[-1]["detail"] == "fault: ZeroDivisionError"

    asyncio.run(story())


def test_a_tenant_that_stands_in_no_list_any_more_loses_its_documents(tmp_path: Path) -> None:
    async def story() -> None:
        clock = FakeClock()
        log = MemoryLog(clock=clock)
        library = FakeLibrary({"a.md": "cats"})
        opened = await opened_keys(log, clock, tmp_path / "key")
        await log.append([entry_of(KeyRecord("1", digest("mur_1"), "acme", ("*",), 0))])
        opened = await opened_keys(log, clock, tmp_path / "key", seed=2)
        sources = {"ours": Source("/ours", tenants=("acme",))}
        before = Collections(
            library, log=log, clock=clock, tracer=RecordingTracer(), sources=sources
        )
        async with aclosing(before.sync("acme", "ours")) as steps:
            assert [step async for step in steps]
        assert await documents_of(log, "acme")
        config = msgspec.structs.replace(CONFIG, knowledge={}, agents={})
        outside = replace(platform()[0]._outside, log=log, library=library)
        following = compose.service(config, outside, opened).platform
        await following.follow()
        assert await documents_of(log, "acme") == []
        assert library.index == {}

    asyncio.run(story())


async def documents_of(log: MemoryLog, tenant: str) -> list[str]:
    async with aclosing(log.streams(tenant, "doc/")) as streams:
        return [info.stream async for info in streams]


def test_a_search_without_names_is_in_all_collections_of_the_tenant() -> None:
    async def story() -> None:
        service, _, _ = platform()
        assert await service.search("acme", [], "q", limit=2) == ["acme ['docs', 'ours'] q 2"]
        for names in (["docs"], ["docs"] * 3):
            assert await service.search("acme", names, "q", limit=2) == ["acme ['docs'] q 2"]
        with pytest.raises(NotFoundError, match="there are: docs"):
            await service.search("default", ["docs", "ours"], "q", limit=2)

    asyncio.run(story())


def test_an_ingest_of_files_reads_the_collection_that_has_them() -> None:
    async def story() -> None:
        service, _, _ = platform()
        paths = ["/docs/a.md", "/docs/deep/b.md"]
        async with aclosing(service.ingest("default", [], paths=paths)) as steps:
            assert [step async for step in steps] == ["default/docs"]
        with pytest.raises(NotFoundError, match=r"/docs2/a\.md: no collection's folder has it"):
            async with aclosing(service.ingest("default", [], paths=["/docs2/a.md"])) as steps:
                await anext(steps)

    asyncio.run(story())


def test_the_rules_of_a_collection_are_those_of_the_configuration() -> None:
    written = {"folder": "/d", "watch": False, "include": ["*.md"], "files_max": 7}
    [knowledge] = parse({"knowledge": {"docs": written}}).knowledge.values()
    source = compose.source_of(knowledge)
    assert (source.folder, source.watch) == ("/d", False)
    assert (source.rules.include, source.rules.files_max) == (("*.md",), 7)
    assert "node_modules" in source.rules.exclude


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
    assert list(service.models("default")) == ["clerk", "poet", "exact", "lively", "minilm"]
    assert list(service.chat_models("default")) == ["clerk", "poet", "exact", "lively"]


def test_a_tenant_sees_only_agents_whose_documents_are_all_its_own() -> None:
    service, _, _ = platform()
    assert list(service.chat_models("acme")) == ["clerk", "poet", "insider", "exact", "lively"]
    assert list(service.chat_models("default")) == ["clerk", "poet", "exact", "lively"]
    assert list(service.chat_models("nobody")) == ["poet", "exact", "lively"]


def test_a_tenant_sees_and_reads_only_its_own_collections() -> None:
    async def story() -> None:
        service, _, _ = platform()
        for tenant, own in (("acme", ["docs", "ours"]), ("default", ["docs"]), ("nobody", [])):
            assert [it.collection for it in await service.knowledge(Caller("k", tenant))] == own
            async with aclosing(service.ingest(tenant, [])) as steps:
                assert [step async for step in steps] == [f"{tenant}/{name}" for name in own]
        with pytest.raises(NotFoundError, match=r"no collection 'ours'; there are: docs$"):
            async with aclosing(service.ingest("default", ["ours"])) as steps:
                await anext(steps)

    asyncio.run(story())


def test_the_size_of_all_tenants_index_is_for_operators() -> None:
    async def story() -> None:
        service, _, _ = platform()
        for tenant, scopes, size in (
            ("default", ("*",), 9),
            ("default", ("knowledge",), None),
            ("acme", ("*",), None),
        ):
            shown = await service.knowledge(Caller("k", tenant, scopes))
            assert {it.index_bytes for it in shown} == {size}

    asyncio.run(story())


@pytest.mark.parametrize(
    ("embeddings", "name", "dimensions"),
    [
        ({}, "minilm", 384),
        ({"url": "http://h/v1", "model": "embed-3"}, "embed-3", None),
        ({"url": "http://h/v1", "model": "embed-3", "dimensions": 5}, "embed-3", 5),
        ({"engine": "none"}, None, None),
    ],
)
def test_the_embedder_is_served_under_its_own_name(
    tmp_path: Path, embeddings: dict[str, Any], name: str | None, dimensions: int | None
) -> None:
    async def story() -> None:
        config = parse({"embeddings": embeddings})
        workers = compose.Workers({"tiny": "/s"}, {"tiny": "k"}, "/s", "/s")
        outside = await compose.outside(config, compose.Place(tmp_path, "runner", 0), workers)
        try:
            embedder = outside.embedder
            assert (embedder is None) == (name is None)
            if embedder is not None:
                assert (embedder.name, embedder.dimensions) == (name, dimensions)
        finally:
            await compose.close(outside)

    asyncio.run(story())


def test_a_model_elsewhere_needs_its_key_at_the_start(tmp_path: Path) -> None:
    async def story() -> None:
        config = parse({"models": {"m": {"url": "http://h/v1", "key": "env:NOBODY_SETS_THIS"}}})
        with pytest.raises(ConfigError, match="NOBODY_SETS_THIS is not set"):
            await compose.outside(
                config, compose.Place(tmp_path, "runner", 0), compose.Workers({}, {}, "/s", "/s")
            )

    asyncio.run(story())


def test_the_log_is_opened_where_the_configuration_has_it(
    tmp_path: Path,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LOG_URL_OF_THIS_TEST", postgres.url)
    schema = postgres.new_schema()
    log = {"url": "env:LOG_URL_OF_THIS_TEST", "schema": schema}
    config = parse({"log": log, "embeddings": {"engine": "none"}})

    async def story() -> None:
        workers = compose.Workers({"tiny": "/s"}, {"tiny": "k"}, "/s", "/s")
        outside = await compose.outside(config, compose.Place(tmp_path, "runner", 0), workers)
        await outside.log.append([Entry("default", "session/1", "note", b"kept")])
        await compose.close(outside)

    (tmp_path / "truth.db").write_bytes(b"of before")
    asyncio.run(story())
    hint = f"schema {schema} is empty; `murmurate log copy {tmp_path} …` takes truth.db there"
    assert hint in capsys.readouterr().err
    asyncio.run(story())
    assert capsys.readouterr().err == ""
    assert (tmp_path / "truth.db").read_bytes() == b"of before"
    bodies = [row["body"] for row in postgres.ask(f"SELECT body FROM {schema}.entry")]
    assert bodies == [b"kept", b"kept"]


def test_the_first_pass_reads_a_collection_for_each_of_its_tenants() -> None:
    async def story() -> None:
        service, _, _ = platform()
        await service.first_pass()
        documents: Any = service._collections
        assert sorted(documents.synced) == [("acme", "docs"), ("acme", "ours"), ("default", "docs")]

    asyncio.run(story())


def test_what_the_supervisor_says_of_a_process_stands_in_the_readiness(tmp_path: Path) -> None:
    file = tmp_path / "troubles.json"
    service, clock, _ = platform(troubles=lambda: compose.read_troubles(file))
    clock.time_s += READY_WAIT_S

    def parts() -> tuple[dict[str, str], dict[str, str]]:
        readiness = asyncio.run(service.readiness())
        assert readiness.ready, "what does not need the process is served all the same"
        seen = {k: v for k, v in readiness.parts.items() if k.startswith("process")}
        return seen, readiness.parts_here

    assert parts() == ({}, {})
    troubles = {"library": Trouble("ended: it exited with 1", "no index"), "sandbox": Trouble("it")}
    file.write_bytes(msgspec.json.encode(troubles))
    how = "ended: it exited with 1"
    assert parts() == (
        {"process library": how, "process sandbox": "it"},
        {"process library": f"{how}; its last words: no index"},
    )
    file.write_text("{half")
    assert parts() == ({}, {})
