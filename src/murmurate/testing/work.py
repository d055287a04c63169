"""What every `Log` promises of work: one holder, no late write, and a turn for everybody."""

import asyncio
from collections.abc import Sequence

from murmurate.core.errors import FencedError, LogConflictError
from murmurate.core.ports import NEVER_MS, Claim, Done, Log, Nudge, Offer, Work
from murmurate.testing.stories import S, Stories, T, all_of, bodies_of, entry, refused

QUEUE = "runs"
A, B = "runner_a", "runner_b"


class WorkContract(Stories):
    """Claims, fences, beats and turns."""

    def test_work_is_claimed_once_and_by_one(self) -> None:
        """However many ask for it at the same time; the epoch counts its holders."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            names = [f"run/{number:02}" for number in range(40)]
            await offered(log, *names)
            claims = await asyncio.gather(
                *(log.claim(QUEUE, runner, limit=7) for runner in (A, B) * 5)
            )
            taken = [claim for batch in claims for claim in batch]
            assert sorted(claim.stream for claim in taken) == names
            assert {(c.tenant, c.queue, c.epoch) for c in taken} == {(T, QUEUE, 1)}
            assert await log.claim(QUEUE, A, limit=1) == []

        self.play(story)

    def test_an_offer_is_committed_with_its_entries_or_not_at_all(self) -> None:
        """Neither work without its description, nor a description that nobody works on."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            offer = Offer(T, S, QUEUE)
            await refused(
                log.append([entry("a")], expected={(T, S): 3}, work=[offer]), LogConflictError
            )
            assert await log.claim(QUEUE, A, limit=1) == []
            await log.append([entry("a")], work=[offer])
            [claim] = await log.claim(QUEUE, A, limit=1)
            assert (claim.stream, bodies_of(await all_of(log.read(T, S)))) == (S, ["a"])

        self.play(story)

    def test_whoever_offers_can_hold_the_work_from_the_first_moment(self) -> None:
        """Its first epoch is 1; a runner that was revoked meanwhile gets nothing."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await log.append([entry("a")], work=[Offer(T, S, QUEUE, holder=A)])
            assert await log.claim(QUEUE, B, limit=1) == []
            await log.append([entry("b")], fence=Claim(T, S, QUEUE, A, 1))
            again = log.append([], work=[Offer(T, S, QUEUE, holder=A)])
            await refused(again, FencedError)
            await log.append([], work=[Offer(T, S, QUEUE)], fence=Claim(T, S, QUEUE, A, 1))
            again = log.append([entry("c")], work=[Offer(T, S, QUEUE, holder=A)])
            await refused(again, LogConflictError)
            await log.revoke(A)
            late = log.append([entry("d")], work=[Offer(T, "run/2", QUEUE, holder=A)])
            await refused(late, FencedError)
            assert bodies_of(await all_of(log.read(T, S))) == ["a", "b"]

        self.play(story)

    def test_the_holder_writes_under_its_fence_and_its_entries_say_so(self) -> None:
        """The epoch of an entry tells which of the holders wrote it."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await offered(log, S)
            [first] = await log.claim(QUEUE, A, limit=1)
            await log.append([entry("a")], fence=first)
            await log.revoke(A)
            [second] = await log.claim(QUEUE, B, limit=1)
            await log.append([entry("b"), entry("c", stream="session/2")], fence=second)
            stored = await all_of(log.read(T, S))
            assert [(one.body, one.epoch) for one in stored] == [
                (S.encode(), 0),
                (b"a", 1),
                (b"b", 2),
            ]
            [other] = await all_of(log.read(T, "session/2"))
            assert other.epoch == 2

        self.play(story)

    def test_a_late_write_of_a_former_holder_is_refused(self) -> None:
        """From the moment of the revocation, also while nobody else has the work yet."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await offered(log, S)
            [stale] = await log.claim(QUEUE, A, limit=1)
            await log.revoke(A)
            await refused(log.append([entry("late")], fence=stale), FencedError)
            await log.claim(QUEUE, B, limit=1)
            late: list[Sequence[Work]] = [(), (Done(T, S),), (Offer(T, S, QUEUE),)]
            for work in late:
                await refused(log.append([entry("late")], fence=stale, work=work), FencedError)
            elsewhere = entry("late", stream="session/2")
            await refused(log.append([elsewhere], fence=stale), FencedError)
            assert bodies_of(await all_of(log.read(T, S))) == [S]
            assert await all_of(log.read(T, "session/2")) == []

        self.play(story)

    def test_the_same_runner_can_be_a_former_holder_too(self) -> None:
        """Its second claim has another epoch, and only that one counts."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            await offered(log, S)
            [first] = await log.claim(QUEUE, A, limit=1)
            await log.append([], work=[Offer(T, S, QUEUE)], fence=first)
            [second] = await log.claim(QUEUE, A, limit=1)
            assert (first.epoch, second.epoch) == (1, 2)
            await refused(log.append([entry("late")], fence=first), FencedError)
            await log.append([entry("b")], fence=second)

        self.play(story)

    def test_only_the_holder_puts_back_or_ends_what_is_held(self) -> None:
        """What nobody holds, anybody can offer again or end."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            await offered(log, S)
            [claim] = await log.claim(QUEUE, A, limit=1)
            changes: list[Work] = [Done(T, S), Offer(T, S, "other")]
            for change in changes:
                await refused(log.append([entry("x")], work=[change]), FencedError)
            other = Claim(T, "run/2", QUEUE, A, 1)
            await refused(log.append([], work=[Done(T, S)], fence=other), FencedError)
            await log.append([entry("done")], fence=claim, work=[Done(T, S)])
            assert await all_of(log.work(T, QUEUE)) == []
            await refused(log.append([entry("late")], fence=claim), FencedError)
            await offered(log, "run/3")
            await log.append([], work=[Done(T, "run/3"), Done(T, "unknown")])
            assert await log.claim(QUEUE, A, limit=1) == []

        self.play(story)

    def test_a_refused_change_undoes_the_ones_before_it(self) -> None:
        """All of an append's work, or nothing."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            await offered(log, "run/1", "run/2")
            await log.claim(QUEUE, A, limit=1)
            work = [Done(T, "run/2"), Offer(T, "run/3", QUEUE), Done(T, "run/1")]
            await refused(log.append([entry("x")], work=work), FencedError)
            names = [info.stream for info in await all_of(log.work(T, QUEUE))]
            assert names == ["run/1", "run/2"]
            assert await all_of(log.read(T, S)) == []

        self.play(story)

    def test_higher_priorities_come_first(self) -> None:
        """Within one, who was offered first; another queue is another matter."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            for name, priority in (("a", 0), ("b", 5), ("c", -1), ("d", 5)):
                await log.append([], work=[Offer(T, name, QUEUE, priority=priority)])
            await log.append([], work=[Offer(T, "e", "other", priority=9)])
            claims = await log.claim(QUEUE, A, limit=9)
            assert [claim.stream for claim in claims] == ["b", "d", "a", "c"]

        self.play(story)

    def test_work_that_is_put_back_keeps_its_priority_unless_it_gets_another(self) -> None:
        """Whoever puts it back need not know how urgent it is."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            await log.append([], work=[Offer(T, name, QUEUE, priority=5) for name in "ab"])
            first, second = await log.claim(QUEUE, A, limit=2)
            await log.append([], fence=first, work=[Offer(T, "a", QUEUE)])
            await log.append([], fence=second, work=[Offer(T, "b", QUEUE, priority=-1)])
            await log.append([], work=[Offer(T, "c", QUEUE)])
            listed = await all_of(log.work(T, QUEUE))
            assert [(it.stream, it.priority) for it in listed] == [("a", 5), ("b", -1), ("c", 0)]
            claims = await log.claim(QUEUE, A, limit=9)
            assert [claim.stream for claim in claims] == ["a", "c", "b"]

        self.play(story)

    def test_tenants_take_turns_however_much_each_of_them_offers(self) -> None:
        """Who comes late is served next, and gets nothing for the time before it came."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            for number in range(20):
                await log.append([], work=[Offer("busy", f"run/{number:02}", QUEUE)])
            served = await log.claim(QUEUE, A, limit=6)
            for claim in served[:5]:
                await log.append([], fence=claim, work=[Done(claim.tenant, claim.stream)])
            for number in range(3):
                await log.append([], work=[Offer("late", f"run/{number}", QUEUE)])
            tenants = [claim.tenant for claim in await log.claim(QUEUE, A, limit=6)]
            assert sorted(tenants) == ["busy"] * 3 + ["late"] * 3
            assert tenants[:2] != ["busy", "busy"]

        self.play(story)

    def test_work_that_is_due_later_waits_for_its_time_or_a_nudge(self) -> None:
        """A nudge is for what waits; nothing happens to what is not known."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            parked = [Offer(T, f"run/{n}", QUEUE, due_ms=NEVER_MS) for n in (1, 2)]
            await log.append([], work=[*parked, Offer(T, "run/3", QUEUE, due_ms=1)])
            assert [c.stream for c in await log.claim(QUEUE, A, limit=9)] == ["run/3"]
            await log.append([], work=[Nudge(T, "run/2"), Nudge(T, "unknown"), Nudge("x", "run/1")])
            assert [c.stream for c in await log.claim(QUEUE, A, limit=9)] == ["run/2"]
            assert [info.due_ms for info in await all_of(log.work(T, QUEUE))] == [NEVER_MS, 0, 0]

        self.play(story)

    def test_whoever_holds_the_work_hears_of_a_nudge_with_its_next_beat(self) -> None:
        """Once; and what is put back meanwhile is due at once, so that no news is missed."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await offered(log, "run/1", "run/2")
            first, second = await log.claim(QUEUE, A, limit=2)
            await log.append([entry("news")], work=[Nudge(T, "run/1"), Nudge(T, "run/2")])
            later = Offer(T, "run/2", QUEUE, due_ms=NEVER_MS)
            await log.append([], fence=second, work=[later])
            assert (await log.renew(B)).nudged == ()
            assert (await log.renew(A)).nudged == ((T, "run/1"),)
            assert (await log.renew(A)).nudged == ()
            assert [claim.stream for claim in await log.claim(QUEUE, B, limit=9)] == ["run/2"]
            await log.append([], fence=first, work=[Offer(T, "run/1", QUEUE, due_ms=NEVER_MS)])
            assert await log.claim(QUEUE, B, limit=9) == []

        self.play(story)

    def test_a_runner_is_revoked_unless_it_has_beaten_since(self) -> None:
        """So of many who saw it stand still only one takes over, and none takes from the living."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await offered(log, S)
            [claim] = await log.claim(QUEUE, A, limit=1)
            seen = (await log.beats())[A]
            await log.renew(A)
            assert not await log.revoke(A, beat=seen)
            await log.append([entry("a")], fence=claim)
            seen = (await log.beats())[A]
            verdicts = await asyncio.gather(*(log.revoke(A, beat=seen) for _ in range(5)))
            assert sorted(verdicts) == [False] * 4 + [True]
            assert await log.beats() == {B: 1}
            assert not await log.revoke(A)
            assert [c.epoch for c in await log.claim(QUEUE, B, limit=1)] == [2]

        self.play(story)

    def test_what_a_runner_holds_can_be_asked_for(self) -> None:
        """With the epochs of its claims: whoever lost the answer to a claim finds it here."""

        async def story(log: Log) -> None:
            await enlisted(log, A, B)
            await offered(log, "run/1", "run/2", "run/3")
            claims = await log.claim(QUEUE, A, limit=2)
            await log.append([], work=[Offer("other", S, "hooks", holder=A)])
            mine = await log.held(A)
            assert mine == [*claims, Claim("other", S, "hooks", A, 1)]
            await log.append([entry("a", stream="run/1")], fence=mine[0], work=[Done(T, "run/1")])
            assert [claim.stream for claim in await log.held(A)] == ["run/2", S]
            await log.revoke(A)
            assert await log.held(A) == await log.held(B) == []

        self.play(story)

    def test_a_revoked_runner_gets_nothing_until_it_has_renewed(self) -> None:
        """Its renewal tells it: everything that it held is gone."""

        async def story(log: Log) -> None:
            assert await log.claim(QUEUE, A, limit=1) == []
            assert not (await log.renew(A)).known
            assert (await log.renew(A)).known
            await offered(log, S)
            await log.revoke(A)
            assert await log.claim(QUEUE, A, limit=1) == []
            assert not (await log.renew(A)).known
            assert [c.epoch for c in await log.claim(QUEUE, A, limit=1)] == [1]

        self.play(story)

    def test_work_is_listed_by_tenant_and_queue_in_the_order_of_its_streams(self) -> None:
        """With who holds it, and since when it could be claimed."""

        async def story(log: Log) -> None:
            await enlisted(log, A)
            names = [f"run/{number:04}" for number in range(600)]
            await log.append([], work=[Offer(T, name, QUEUE) for name in reversed(names)])
            await log.append([], work=[Offer(T, "z", "other"), Offer("other", "run/0", QUEUE)])
            [claim] = await log.claim(QUEUE, A, limit=1)
            listed = await all_of(log.work(T, QUEUE))
            assert [info.stream for info in listed] == names
            held = [(info.stream, info.runner, info.epoch) for info in listed if info.runner]
            assert held == [(claim.stream, A, 1)]
            behind = await all_of(log.work(T, QUEUE, after=names[597]))
            assert [info.stream for info in behind] == names[598:]

        self.play(story)


async def enlisted(log: Log, *runners: str) -> None:
    """Let the runners renew for the first time."""
    for runner in runners:
        await log.renew(runner)


async def offered(log: Log, *streams: str) -> None:
    """Offer work that is described by an entry with its own name."""
    for stream in streams:
        await log.append([entry(stream, stream=stream)], work=[Offer(T, stream, QUEUE)])
