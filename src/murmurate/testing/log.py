"""What every `Log` promises of its streams; of the work in them, `testing/work.py` tells."""

# Over 400 lines: one contract, read from top to bottom.

import asyncio
from contextlib import aclosing

from murmurate.core.errors import BodyTooLargeError, LogConflictError, LogUnavailableError
from murmurate.core.ports import SNAPSHOT, Entry, Log, Stored
from murmurate.testing.stories import (
    S,
    T,
    all_of,
    bodies_of,
    entry,
    names_of,
    positions_of,
    refused,
    seqs_of,
)
from murmurate.testing.work import WorkContract


class LogContract(WorkContract):
    """What every `Log` promises. Each test gets a new, empty log and closes it."""

    def test_seqs_count_from_one_without_gaps_in_each_stream(self) -> None:
        """The seqs of an append come back in the order of its entries."""

        async def story(log: Log) -> None:
            assert await log.append([entry("a"), entry("b", stream="run/1"), entry("c")]) == [
                1,
                1,
                2,
            ]
            assert await log.append([entry("d")]) == [3]
            assert seqs_of(await all_of(log.read(T, S))) == [1, 2, 3]

        self.play(story)

    def test_what_was_appended_is_read_back_unchanged(self) -> None:
        """Names and bodies may hold anything, also other scripts and zero bytes."""

        async def story(log: Log) -> None:
            strange = Entry("租户 ü", "doc/书/\N{SNOWMAN} 'x'", "käse", bytes(range(256)))
            await log.append([strange, entry("", stream="run/1")])
            [stored] = await all_of(log.read(strange.tenant, strange.stream))
            assert (stored.tenant, stored.stream) == (strange.tenant, strange.stream)
            assert (stored.kind, stored.body) == (strange.kind, strange.body)
            assert (stored.epoch, stored.position > 0, stored.at_ms > 0) == (0, True, True)
            assert bodies_of(await all_of(log.read(T, "run/1"))) == [""]

        self.play(story)

    def test_nothing_is_read_from_a_stream_that_does_not_exist(self) -> None:
        """An unknown stream is an empty one."""

        async def story(log: Log) -> None:
            assert await all_of(log.read(T, S)) == []
            await log.forget(T, S)
            assert await all_of(log.streams(T, "")) == []
            assert await log.append([]) == []

        self.play(story)

    def test_reading_starts_behind_the_given_seq(self) -> None:
        """`after` is the last seq already known."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 1001)])
            assert seqs_of(await all_of(log.read(T, S, after=300))) == list(range(301, 1001))
            assert await all_of(log.read(T, S, after=1000)) == []
            assert await all_of(log.read(T, S, after=5000)) == []

        self.play(story)

    def test_an_append_that_expects_another_head_writes_nothing_at_all(self) -> None:
        """Compare-and-append holds over all the streams of an append."""

        async def story(log: Log) -> None:
            await log.append([entry("a")])
            both = [entry("b", stream="run/1"), entry("c")]
            await refused(log.append(both, expected={(T, S): 0}), LogConflictError)
            await refused(log.append(both, expected={(T, S): 1, (T, "x"): 1}), LogConflictError)
            assert await all_of(log.read(T, "run/1")) == []
            assert await log.append(both, expected={(T, S): 1, (T, "run/1"): 0}) == [1, 2]

        self.play(story)

    def test_of_many_writers_that_expect_the_same_head_one_wins(self) -> None:
        """The others are told, and the winner's entry stands alone."""

        async def story(log: Log) -> None:
            outcomes = await asyncio.gather(
                *(log.append([entry(str(n))], expected={(T, S): 0}) for n in range(20)),
                return_exceptions=True,
            )
            assert sum(outcome == [1] for outcome in outcomes) == 1
            assert sum(isinstance(outcome, LogConflictError) for outcome in outcomes) == 19
            assert len(await all_of(log.read(T, S))) == 1

        self.play(story)

    def test_one_failing_append_never_hurts_the_others(self) -> None:
        """Neither those before it nor those behind it, even where they share a commit."""

        async def story(log: Log) -> None:
            appends = [log.append([entry(str(number))]) for number in range(100)]
            appends[40:40] = [log.append([entry("!")], expected={(T, "run/1"): 7})]
            outcomes = await asyncio.gather(*appends, return_exceptions=True)
            assert isinstance(outcomes.pop(40), LogConflictError)
            assert sorted(seq for [seq] in outcomes) == list(range(1, 101))  # type: ignore[misc]
            assert "!" not in bodies_of(await all_of(log.read(T, S)))

        self.play(story)

    def test_a_body_that_is_too_large_is_refused(self) -> None:
        """64 MiB is the most an entry can hold, so that nobody fills the memory with one."""

        async def story(log: Log) -> None:
            huge = Entry(T, S, "note", bytes(64 * 1024 * 1024 + 1))
            await refused(log.append([entry("a"), huge]), BodyTooLargeError)
            assert await log.append([entry("a")]) == [1]
            await refused(log.snapshot(T, S, 1, huge.body), BodyTooLargeError)

        self.play(story)

    def test_concurrent_appends_of_many_tasks_all_get_their_own_seq(self) -> None:
        """What an append returned is where its entry is found."""

        async def story(log: Log) -> None:
            found: dict[int, str] = {}

            async def write(task: int) -> None:
                for step in range(20):
                    body = f"{task}.{step}"
                    [seq] = await log.append([entry(body)])
                    found[seq] = body

            await asyncio.gather(*(write(task) for task in range(25)))
            stored = await all_of(log.read(T, S))
            assert seqs_of(stored) == list(range(1, 501))
            assert {one.seq: one.body.decode() for one in stored} == found

        self.play(story)

    def test_a_cancelled_append_leaves_the_log_usable(self) -> None:
        """Whether its entry is stored is open, as after any lost answer."""

        async def story(log: Log) -> None:
            task = asyncio.ensure_future(log.append([entry("a")]))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await log.append([entry("b")])
            assert bodies_of(await all_of(log.read(T, S)))[-1] == "b"

        self.play(story)

    def test_tenants_never_see_each_other(self) -> None:
        """The same name under two tenants is two streams."""

        async def story(log: Log) -> None:
            assert await log.append([entry("a"), entry("b", tenant="other")]) == [1, 1]
            await log.snapshot("other", S, 1, b"s")
            await log.forget("other", S)
            assert bodies_of(await all_of(log.read(T, S))) == ["a"]
            assert await all_of(log.read("other", S)) == []
            assert names_of(await all_of(log.streams(T, ""))) == [S]
            assert await all_of(log.streams("other", "")) == []

        self.play(story)

    def test_a_snapshot_stands_for_the_entries_up_to_its_seq(self) -> None:
        """It comes first, and only for readers who have not seen as much already."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 6)])
            await log.snapshot(T, S, 3, b"one to three")
            first, *behind = await all_of(log.read(T, S))
            assert (first.kind, first.seq, first.body) == (SNAPSHOT, 3, b"one to three")
            assert (first.tenant, first.stream) == (T, S)
            assert bodies_of(behind) == ["4", "5"]
            assert bodies_of(await all_of(log.read(T, S, after=2)))[0] == "one to three"
            assert bodies_of(await all_of(log.read(T, S, after=3))) == ["4", "5"]

        self.play(story)

    def test_the_newest_snapshot_counts_whenever_it_was_written(self) -> None:
        """A slow writer's older snapshot changes nothing; the same seq is replaced."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 6)])
            for seq, body in ((4, b"four"), (2, b"two"), (4, b"four again")):
                await log.snapshot(T, S, seq, body)
            assert bodies_of(await all_of(log.read(T, S))) == ["four again", "5"]

        self.play(story)

    def test_a_snapshot_needs_the_entry_that_it_stands_for(self) -> None:
        """Else it would hide entries to come, or bring a forgotten stream back."""

        async def story(log: Log) -> None:
            await refused(log.snapshot(T, S, 1, b"s"), LogConflictError)
            await log.append([entry("a"), entry("b")])
            await refused(log.snapshot(T, S, 3, b"s"), LogConflictError)
            await refused(log.snapshot(T, S, 0, b"s"), LogConflictError)
            await log.forget(T, S)
            await refused(log.snapshot(T, S, 2, b"s"), LogConflictError)
            assert await all_of(log.read(T, S)) == []

        self.play(story)

    def test_forgetting_up_to_a_seq_keeps_what_is_behind_it(self) -> None:
        """The snapshot stays: compaction is a snapshot, then forgetting what it stands for."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 6)])
            await log.forget(T, S, before=3)
            assert bodies_of(await all_of(log.read(T, S))) == ["3", "4", "5"]
            await log.snapshot(T, S, 4, b"all")
            await log.forget(T, S, before=5)
            assert bodies_of(await all_of(log.read(T, S))) == ["all", "5"]
            await log.forget(T, S, before=2)
            assert bodies_of(await all_of(log.read(T, S, after=4))) == ["5"]
            await log.forget(T, S, before=1000)
            assert await log.append([entry("6")]) == [6]
            assert bodies_of(await all_of(log.read(T, S))) == ["all", "6"]

        self.play(story)

    def test_a_forgotten_stream_goes_on_counting(self) -> None:
        """So a seq never means two things, and a writer's expectation still holds."""

        async def story(log: Log) -> None:
            await log.append([entry("a"), entry("b")])
            await log.snapshot(T, S, 1, b"s")
            await log.forget(T, S)
            assert await all_of(log.read(T, S)) == []
            assert await log.append([entry("c")], expected={(T, S): 2}) == [3]
            assert seqs_of(await all_of(log.read(T, S))) == [3]

        self.play(story)

    def test_streams_are_listed_by_prefix_in_order_of_name(self) -> None:
        """With their heads; the listing goes on behind any name."""

        async def story(log: Log) -> None:
            names = [f"session/{number:04}" for number in range(600)]
            await log.append([entry("a", stream=name) for name in reversed(names)])
            await log.append([entry("a", stream=name) for name in ("run/1", "sessions/1", "z")])
            await log.append([entry("b", stream=names[-1])])
            listed = await all_of(log.streams(T, "session/"))
            assert names_of(listed) == names
            assert [listed[0].head, listed[-1].head, listed[0].tenant] == [1, 2, T]
            behind = await all_of(log.streams(T, "session/", after="session/0597"))
            assert names_of(behind) == names[598:]
            assert names_of(await all_of(log.streams(T, "", after="session/0599"))) == [
                "sessions/1",
                "z",
            ]

        self.play(story)

    def test_a_stream_is_listed_while_it_has_something_to_read(self) -> None:
        """A forgotten one comes back with its next entry."""

        async def story(log: Log) -> None:
            await log.append([entry("a"), entry("b", stream="run/1")])
            await log.snapshot(T, "run/1", 1, b"s")
            await log.forget(T, "run/1", before=2)
            await log.forget(T, S)
            assert names_of(await all_of(log.streams(T, ""))) == ["run/1"]
            await log.append([entry("c")])
            assert names_of(await all_of(log.streams(T, ""))) == ["run/1", S]

        self.play(story)

    def test_a_tail_yields_the_old_entries_and_then_the_new_ones(self) -> None:
        """Over all streams of the prefix and all tenants, in the order of their commits."""

        async def story(log: Log) -> None:
            await log.append([entry("a"), entry("-", stream="run/1"), entry("b", tenant="other")])
            async with aclosing(log.tail("session/", after=0)) as tail:
                old = [await anext(tail), await anext(tail)]
                pending = asyncio.ensure_future(anext(tail))
                await asyncio.sleep(0)
                await log.append([entry("-", stream="run/2")])
                await log.append([entry("c", stream="session/2"), entry("d")])
                new = [await pending, await anext(tail)]
            assert bodies_of([*old, *new]) == ["a", "b", "c", "d"]
            assert positions_of([*old, *new]) == sorted(set(positions_of([*old, *new])))

        self.play(story)

    def test_a_tail_goes_on_behind_a_position(self) -> None:
        """What it yielded last is where the next one starts; forgotten entries are left out."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 601)])
            async with aclosing(log.tail("", after=0)) as tail:
                seen = [await anext(tail) for _ in range(300)]
            await log.forget(T, S, before=311)
            async with aclosing(log.tail("", after=seen[-1].position)) as tail:
                rest = [await anext(tail) for _ in range(290)]
            assert seqs_of(rest) == list(range(311, 601))

        self.play(story)

    def test_a_tail_misses_nothing_of_many_writers(self) -> None:
        """However their commits interleave."""

        async def story(log: Log) -> None:
            async def write(task: int) -> None:
                for step in range(25):
                    await log.append([entry(f"{task}.{step}", stream=f"session/{task}")])

            async def follow() -> list[Stored]:
                async with aclosing(log.tail("session/", after=0)) as tail:
                    return [await anext(tail) for _ in range(500)]

            async with asyncio.TaskGroup() as group:
                following = group.create_task(follow())
                for task in range(20):
                    group.create_task(write(task))
            seen = following.result()
            assert len(set(bodies_of(seen))) == 500
            assert positions_of(seen) == sorted(positions_of(seen))

        self.play(story)

    def test_reading_while_others_append_stays_gapless(self) -> None:
        """A reader sees at least what was there when it began."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(600)])

            async def write() -> None:
                for number in range(100):
                    await log.append([entry(str(number))])

            writing = asyncio.ensure_future(write())
            seqs = seqs_of(await all_of(log.read(T, S)))
            await writing
            assert len(seqs) >= 600
            assert seqs == list(range(1, len(seqs) + 1))

        self.play(story)

    def test_a_reader_overtaken_by_a_compaction_misses_nothing(self) -> None:
        """It gets either the entries or the snapshot that stands for them."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1, 1001)])
            async with aclosing(log.read(T, S)) as reader:
                last = (await anext(reader)).seq
                await log.snapshot(T, S, 900, b"s")
                await log.forget(T, S, before=901)
                async for stored in reader:
                    assert stored.seq == last + 1 or stored.kind == SNAPSHOT
                    last = stored.seq
            assert last == 1000

        self.play(story)

    def test_generators_can_be_closed_early(self) -> None:
        """The log is as usable as before, also when a tail was waiting."""

        async def story(log: Log) -> None:
            await log.append([entry(str(number)) for number in range(1000)])
            generators = (log.read(T, S), log.tail("", after=0), log.streams(T, ""))
            for generator in generators:
                async with aclosing(generator):
                    await anext(generator)
            waiting = asyncio.ensure_future(all_of(log.tail("none/", after=0)))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert await log.append([entry("a")]) == [1001]

        self.play(story)

    def test_closing_commits_what_was_accepted_and_ends_the_tails(self) -> None:
        """What comes after is refused; closing twice is fine."""

        async def story(log: Log) -> None:
            accepted = [asyncio.ensure_future(log.append([entry("a")])) for _ in range(50)]
            following = asyncio.ensure_future(all_of(log.tail("none/", after=0)))
            await asyncio.sleep(0)
            await log.close()
            await log.close()
            assert sorted(seq for [seq] in await asyncio.gather(*accepted)) == list(range(1, 51))
            assert await following == []
            await refused(log.append([entry("b")]), LogUnavailableError)
            await refused(all_of(log.read(T, S)), LogUnavailableError)

        self.play(story)
