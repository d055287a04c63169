"""What the contract cannot see: lost servers and connections, several servers, refusals, damage."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

import pytest

from murmurate.adapters.postgres.bell import Bell
from murmurate.adapters.postgres.database import Connection, Database
from murmurate.adapters.postgres.format import VERSION, lock
from murmurate.adapters.postgres.log import NAMES_BYTES_MAX, PostgresLog
from murmurate.adapters.postgres.survey import survey
from murmurate.adapters.sqlite.damage import Damage
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    BadRequestError,
    ConfigError,
    FencedError,
    LogConflictError,
    LogCorruptError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.ports import Claim, Done, Entry, Offer
from murmurate.testing.stories import (
    S,
    T,
    all_of,
    bodies_of,
    entry,
    positions_of,
    refused,
    seqs_of,
)
from tests.servers.postgres import PASSWORD, TLS, PostgresServer

STORY_S = 60
STRANGERS = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def schema(postgres: PostgresServer) -> str:
    return postgres.new_schema()


def play(
    server: PostgresServer,
    schema: str,
    story: Callable[[PostgresLog], Awaitable[None]],
    *,
    queue_max: int = 4096,
    on_damage: Callable[[Damage], None] = lambda _: None,
) -> None:
    async def whole() -> None:
        log = await PostgresLog.open(
            Database(server.url, schema=schema),
            clock=SystemClock(),
            queue_max=queue_max,
            on_damage=on_damage,
        )
        try:
            async with asyncio.timeout(STORY_S):
                await story(log)
        finally:
            await log.close()

    asyncio.run(whole())


@asynccontextmanager
async def second(server: PostgresServer, schema: str) -> AsyncGenerator[PostgresLog]:
    """Another server's log in the same schema."""
    log = await PostgresLog.open(Database(server.url, schema=schema), clock=SystemClock())
    try:
        yield log
    finally:
        await log.close()


async def why(opening: Awaitable[object]) -> MurmurateError:
    with pytest.raises(MurmurateError) as caught:
        await opening
    said = str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
    assert PASSWORD not in said
    return caught.value


def test_a_server_killed_in_the_middle_of_commits_loses_nothing_acknowledged(
    postgres: PostgresServer, schema: str
) -> None:
    """And the log goes on by itself when the server is back."""
    acknowledged: dict[int, str] = {}
    failures: list[MurmurateError] = []
    enough = asyncio.Event()

    async def write(log: PostgresLog, task: int, over: asyncio.Event) -> None:
        step = 0
        while not over.is_set():
            step += 1
            body = f"{task}.{step}"
            try:
                [seq] = await log.append([entry(body)])
            except LogUnavailableError as error:
                failures.append(error)
                await asyncio.sleep(0.01)
            else:
                acknowledged[seq] = body
                if len(acknowledged) > 200:
                    enough.set()

    async def story(log: PostgresLog) -> None:
        over = asyncio.Event()
        tasks = [asyncio.create_task(write(log, task, over)) for task in range(10)]
        await enough.wait()
        postgres.kill()
        before = len(acknowledged)
        await asyncio.sleep(0.1)  # the tasks hear of it
        postgres.start()
        while len(acknowledged) < before + 100:
            await asyncio.sleep(0.01)
        over.set()
        await asyncio.gather(*tasks)
        stored = await all_of(log.read(T, S))
        assert seqs_of(stored) == list(range(1, len(stored) + 1))
        found = {one.seq: one.body.decode() for one in stored}
        assert {seq: found.get(seq) for seq in acknowledged} == acknowledged
        assert positions_of(stored) == sorted(positions_of(stored))
        assert all(PASSWORD not in str(error) for error in failures)

    play(postgres, schema, story)


def test_two_servers_share_one_log_and_each_sees_everything_in_order(
    postgres: PostgresServer, schema: str
) -> None:
    async def write(log: PostgresLog, name: str) -> None:
        for step in range(60):
            await log.append([entry(f"{name}.{step}", stream=f"session/{step % 3}")])

    async def follow(log: PostgresLog) -> list[tuple[int, str]]:
        async with aclosing(log.tail("session/", after=0)) as tail:
            return [
                ((stored := await anext(tail)).position, stored.body.decode()) for _ in range(360)
            ]

    async def story(one: PostgresLog) -> None:
        async with second(postgres, schema) as other, asyncio.TaskGroup() as group:
            following = [group.create_task(follow(log)) for log in (one, other)]
            for log, name in ((one, "a"), (other, "b")):
                for part in range(3):
                    group.create_task(write(log, f"{name}{part}"))
        seen, also = (task.result() for task in following)
        assert seen == also
        assert [position for position, _ in seen] == sorted({position for position, _ in seen})
        assert len({body for _, body in seen}) == 360
        for stream in ("session/0", "session/1", "session/2"):
            assert seqs_of(await all_of(one.read(T, stream))) == list(range(1, 121))

    play(postgres, schema, story)


def test_of_two_servers_one_gets_each_piece_of_work_and_one_wins_each_race(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(one: PostgresLog) -> None:
        async with second(postgres, schema) as other:
            for log, runner in ((one, "a"), (other, "b")):
                await log.renew(runner)
            offers = [Offer(T, f"run/{number:02}", "runs") for number in range(40)]
            await one.append([], work=offers)
            claims = await asyncio.gather(
                *(
                    log.claim("runs", runner, limit=7)
                    for log, runner in ((one, "a"), (other, "b")) * 5
                )
            )
            streams = [claim.stream for batch in claims for claim in batch]
            assert sorted(streams) == [offer.stream for offer in offers]
            races = await asyncio.gather(
                *(log.append([entry("x")], expected={(T, S): 0}) for log in (one, other) * 5),
                return_exceptions=True,
            )
            assert sum(outcome == [1] for outcome in races) == 1
            assert sum(isinstance(outcome, LogConflictError) for outcome in races) == 9

    play(postgres, schema, story)


def test_the_late_write_of_a_server_that_hung_is_refused(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(hung: PostgresLog) -> None:
        async with second(postgres, schema) as other:
            await hung.renew("hung")
            await other.renew("other")
            await hung.append([entry("begun")], work=[Offer(T, S, "runs", holder="hung")])
            held = Claim(T, S, "runs", "hung", 1)
            assert await other.revoke("hung", beat=(await other.beats())["hung"])
            [claim] = await other.claim("runs", "other", limit=1)
            assert claim.epoch == 2
            await refused(hung.append([entry("late")], fence=held), FencedError)
            await other.append([entry("next")], fence=claim)
            assert bodies_of(await all_of(hung.read(T, S))) == ["begun", "next"]

    play(postgres, schema, story)


def test_a_server_that_hangs_in_its_transaction_is_waited_for_within_a_bound(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(log: PostgresLog) -> None:
        database = Database(postgres.url, schema=schema)
        hung = await database.connect()
        await hung.execute(f"BEGIN; {lock(database)}")
        error = await why(log.append([entry("a")]))
        assert isinstance(error, LogUnavailableError)
        assert "lock timeout; nothing was written" in error.detail
        hung.terminate()
        assert await log.append([entry("b")]) == [1]

    play(postgres, schema, story)


def test_every_transaction_is_bounded_and_durable_whatever_the_role_is_set_to(
    postgres: PostgresServer, schema: str
) -> None:
    """One that hangs is ended by PostgreSQL, so that the others get their turn."""
    wanted = {
        "lock_timeout": "5s",
        "statement_timeout": "20s",
        "idle_in_transaction_session_timeout": "10s",
        "synchronous_commit": "on",
    }

    async def settings(db: Connection) -> dict[str, str]:
        return {name: str(await db.fetchval(f"SHOW {name}")) for name in wanted}

    async def story(log: PostgresLog) -> None:
        assert await log._writer.do(settings) == wanted

    postgres.ask_all(["ALTER ROLE CURRENT_USER SET synchronous_commit = off"])
    try:
        play(postgres, schema, story)
    finally:
        postgres.ask_all(["ALTER ROLE CURRENT_USER RESET synchronous_commit"])


def test_connections_that_are_ended_are_made_anew_and_nobody_notices(
    postgres: PostgresServer, schema: str
) -> None:
    ending = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'murmurate log_%' AND datname = current_database()"""

    async def story(log: PostgresLog) -> None:
        await log.append([entry("1")])
        async with aclosing(log.tail("session/", after=0)) as tail:
            assert (await anext(tail)).seq == 1
            waiting = asyncio.ensure_future(anext(tail))
            for number in range(2, 6):
                ended = await asyncio.to_thread(postgres.ask, ending)
                assert len(ended) >= 2
                assert await log.append([entry(str(number))]) == [number]
                assert (await waiting).seq == number
                waiting = asyncio.ensure_future(anext(tail))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert seqs_of(await all_of(log.read(T, S))) == [1, 2, 3, 4, 5]

    play(postgres, schema, story)


class Wire:
    """Stands between a log and its server, and cuts the connection at the next commit."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.cuts = False
        self.forwards = True

    @asynccontextmanager
    async def listening(self) -> AsyncGenerator[int]:
        serving: set[asyncio.Task[None]] = set()

        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            await asyncio.gather(*serving)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)

        async def back() -> None:
            while data := await from_server.read(65536):
                writer.write(data)
            writer.close()

        answering = asyncio.create_task(back())
        while data := await reader.read(65536):
            if self.cuts and b"COMMIT" in data:
                self.cuts = False
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)
                if self.forwards:
                    to_server.write(data)
                    await from_server.read(65536)
                break
            to_server.write(data)
        for end in (to_server, writer):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()
        await asyncio.gather(answering, return_exceptions=True)


@asynccontextmanager
async def behind(wire: Wire, server: PostgresServer, schema: str) -> AsyncGenerator[PostgresLog]:
    """A log that reaches its server through the wire."""
    async with wire.listening() as port, asyncio.timeout(STORY_S):
        url = server.url.replace(f":{server.port}/", f":{port}/")
        log = await PostgresLog.open(Database(url, schema=schema), clock=SystemClock())
        try:
            yield log
        finally:
            await log.close()


@pytest.mark.parametrize("forwards", [True, False])
def test_a_commit_whose_answer_is_lost_is_looked_for_and_made_only_if_it_is_not_there(
    postgres: PostgresServer, schema: str, *, forwards: bool
) -> None:
    async def story() -> None:
        wire = Wire(postgres.port)
        async with behind(wire, postgres, schema) as log:
            await log.append([entry("a")])
            wire.cuts, wire.forwards = True, forwards
            assert await log.append([entry("b"), entry("c")]) == [2, 3]
            assert not wire.cuts
            assert log.faults == 1
            assert bodies_of(await all_of(log.read(T, S))) == ["a", "b", "c"]

    asyncio.run(story())


@pytest.mark.parametrize("forwards", [True, False])
def test_a_lost_commit_that_left_nothing_to_look_for_is_left_open_and_that_is_said(
    postgres: PostgresServer, schema: str, *, forwards: bool
) -> None:
    async def story() -> None:
        wire = Wire(postgres.port)
        async with behind(wire, postgres, schema) as log:
            await log.append([], work=[Offer(T, S, "runs")])
            wire.cuts, wire.forwards = True, forwards
            error = await why(log.append([], work=[Done(T, S)]))
            assert isinstance(error, LogUnavailableError)
            assert "whether this was written is not known" in error.detail
            assert len(await all_of(log.work(T, "runs"))) == (0 if forwards else 1)

    asyncio.run(story())


def test_what_keeps_us_out_is_told_in_a_line_without_the_password(
    postgres: PostgresServer, schema: str
) -> None:
    verified = f"{postgres.address}?sslmode=verify-full&sslrootcert="
    cases = {
        postgres.url.replace(PASSWORD, "wrong"): "password authentication failed",
        postgres.url.replace("127.0.0.1", "nowhere.invalid"): "cannot be reached",
        postgres.url.replace(f":{postgres.port}", ":1"): "cannot be reached",
        postgres.url.replace("/postgres", "/absent"): 'database "absent" does not exist',
        f"{verified}{STRANGERS}": "certificate verify failed",
        f"{verified}/nowhere": "a file that its URL names is not there",
        f"{postgres.address}?sslmode=strange": "sslmode",
    }

    async def story() -> None:
        for url, words in cases.items():
            opening = PostgresLog.open(Database(url, schema=schema), clock=SystemClock())
            error = await why(opening)
            assert isinstance(error, LogUnavailableError)
            assert words in error.detail
            assert "postgresql://murmurate@" in error.detail

    asyncio.run(story())


def test_the_server_is_known_by_its_certificate(postgres: PostgresServer, schema: str) -> None:
    async def story() -> None:
        url = f"{postgres.address}?sslmode=verify-full&sslrootcert={TLS / 'ca.pem'}"
        database = Database(url, schema=schema)
        log = await PostgresLog.open(database, clock=SystemClock())
        assert await log.append([entry("a")]) == [1]
        await log.close()
        assert (await survey(database)).is_encrypted

    asyncio.run(story())


def test_a_url_that_is_none_is_refused_before_anything_is_asked() -> None:
    urls = ("mysql://h/db", "postgresql://h:0/db", "postgresql://h:x/db", "not one")
    for url in (*urls, "postgresql://h/db?statement_cache_size=many"):
        with pytest.raises(ConfigError):
            Database(url)
    with pytest.raises(ConfigError):
        Database("postgresql://h/db", schema='x"; DROP TABLE entry; --')
    database = Database("postgresql://me:hidden@h/db?password=also", password="given")
    for secret in ("hidden", "also", "given"):
        assert secret not in f"{database!r} {database.name}"
    assert database.name == "postgresql://me@h/db"


def test_a_password_can_stand_beside_the_url_and_prepared_statements_can_be_left_out(
    postgres: PostgresServer, schema: str
) -> None:
    async def story() -> None:
        bare = postgres.url.replace(f":{PASSWORD}", "") + "&statement_cache_size=0"
        database = Database(bare, schema=schema, password=PASSWORD)
        log = await PostgresLog.open(database, clock=SystemClock())
        assert await log.append([entry("a")]) == [1]
        assert bodies_of(await all_of(log.read(T, S))) == ["a"]
        await log.close()

    asyncio.run(story())


def test_a_log_of_a_newer_program_is_refused_at_the_start_and_under_a_running_one(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(log: PostgresLog) -> None:
        await log.append([entry("a")])
        newer = f"UPDATE {schema}.about SET format = {VERSION + 1}"
        await asyncio.to_thread(postgres.ask_all, [newer])
        database = Database(postgres.url, schema=schema)
        await refused(PostgresLog.open(database, clock=SystemClock()), LogNewerError)
        await refused(log.append([entry("b")]), LogNewerError)
        assert bodies_of(await all_of(log.read(T, S))) == ["a"]

    play(postgres, schema, story)


def test_a_schema_of_another_program_is_left_alone(postgres: PostgresServer, schema: str) -> None:
    postgres.ask_all([f"CREATE SCHEMA {schema}", f"CREATE TABLE {schema}.theirs (x int)"])

    async def story() -> None:
        opening = PostgresLog.open(Database(postgres.url, schema=schema), clock=SystemClock())
        assert "tables of another program" in (await why(opening)).detail

    asyncio.run(story())
    assert len(postgres.ask(f"SELECT tablename FROM pg_tables WHERE schemaname = '{schema}'")) == 1


def test_many_servers_that_start_at_once_make_one_log(
    postgres: PostgresServer, schema: str
) -> None:
    async def story() -> None:
        opening = (
            PostgresLog.open(Database(postgres.url, schema=schema), clock=SystemClock())
            for _ in range(6)
        )
        logs = await asyncio.gather(*opening)
        seqs = await asyncio.gather(*(log.append([entry("x")]) for log in logs))
        assert sorted(seqs) == [[number] for number in range(1, 7)]
        await asyncio.gather(*(log.close() for log in logs))

    asyncio.run(story())


def test_damage_is_named_where_it_is_and_told_once(postgres: PostgresServer, schema: str) -> None:
    told: list[str] = []

    async def story(log: PostgresLog) -> None:
        await log.append([entry(str(number)) for number in range(1, 6)])
        await log.append([entry("x", stream="session/2"), entry("y", stream="session/2")])
        await log.append([entry("z", stream="session/3")])
        statements = (
            f"UPDATE {schema}.entry SET at = 1 WHERE stream = '{S}' AND seq = 3",
            f"DELETE FROM {schema}.entry WHERE stream = 'session/2' AND seq = 1",
            f"UPDATE {schema}.head SET seq = 7 WHERE stream = 'session/3'",
        )
        await asyncio.to_thread(postgres.ask_all, statements)
        with pytest.raises(LogCorruptError, match=f"entry 3 of stream {S} of default is damaged"):
            await all_of(log.read(T, S))
        assert await log.append([entry("6")]) == [6]
        await refused(log.append([entry("z", stream="session/3")]), LogCorruptError)
        await log.examine()
        await log.examine()
        assert len(log.damage) == 3
        assert sorted(told) == [
            "entry 1 of stream session/2 of default is lost",
            f"entry 3 of stream {S} of default is damaged",
            "the count of stream session/3 of default is damaged or lost",
        ]

    play(postgres, schema, story, on_damage=lambda damage: told.append(str(damage)))


def test_a_name_that_postgresql_cannot_keep_is_refused(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(log: PostgresLog) -> None:
        await refused(log.append([entry("a", stream="doc/\0")]), BadRequestError)
        await refused(log.append([entry("a", stream="d" * NAMES_BYTES_MAX)]), BadRequestError)
        room = NAMES_BYTES_MAX - len(T)
        unlike = "".join(chr(33 + (number * number) % 90) for number in range(room))
        assert await log.append([entry("a", stream=unlike)]) == [1]

    play(postgres, schema, story)


def test_an_append_that_cannot_be_written_at_all_fails_alone(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(log: PostgresLog) -> None:
        strange = Entry(T, S, "\ud800", b"no text has this name")
        appends = [log.append([entry(str(number))]) for number in range(30)]
        appends[10:10] = [log.append([strange])]
        outcomes = await asyncio.gather(*appends, return_exceptions=True)
        assert isinstance(outcomes.pop(10), UnicodeEncodeError)
        assert sorted(seq for [seq] in outcomes) == list(range(1, 31))  # type: ignore[misc]

    play(postgres, schema, story)


def test_large_bodies_come_page_by_page(postgres: PostgresServer, schema: str) -> None:
    async def story(log: PostgresLog) -> None:
        for number in range(5):
            await log.append([entry(f"{number}" * 3_000_000)])
        assert bodies_of(await all_of(log.read(T, S))) == [f"{n}" * 3_000_000 for n in range(5)]
        async with aclosing(log.tail("", after=0)) as tail:
            assert [(await anext(tail)).seq for _ in range(5)] == [1, 2, 3, 4, 5]

    play(postgres, schema, story)


def test_more_than_the_queue_holds_is_refused_at_once(
    postgres: PostgresServer, schema: str
) -> None:
    async def story(log: PostgresLog) -> None:
        outcomes = await asyncio.gather(
            *(log.append([entry("x")]) for _ in range(30)), return_exceptions=True
        )
        assert sum(isinstance(outcome, LogUnavailableError) for outcome in outcomes) == 20
        assert len(await all_of(log.read(T, S))) == 10

    play(postgres, schema, story, queue_max=10)


def test_a_bell_is_heard_by_the_others(postgres: PostgresServer, schema: str) -> None:
    async def story() -> None:
        database = Database(postgres.url, schema=schema)
        heard = {"a": asyncio.Event(), "b": asyncio.Event()}
        bells = {
            name: Bell(database, clock=SystemClock(), heard=event.set)
            for name, event in heard.items()
        }
        async with asyncio.timeout(STORY_S):
            for event in heard.values():
                await event.wait()  # each begins to listen with a look of its own
                event.clear()
            bells["a"].ring()
            await heard["b"].wait()
        for bell in bells.values():
            await bell.close()

    asyncio.run(story())
