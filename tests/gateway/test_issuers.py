"""An issuer is asked seldom, whatever tokens come, and no token with a new key is lost for it."""

import asyncio
from dataclasses import dataclass, field
from itertools import pairwise

import pytest

from murmurate.core.errors import MurmurateError
from murmurate.gateway.issuers import (
    AGAIN_S,
    FAILED_AGAIN_S,
    KEPT_S_MAX,
    KEPT_S_MIN,
    WAITING_MAX,
    IssuerUnreachableError,
    Trust,
)
from murmurate.gateway.ports import Published
from murmurate.gateway.tokens import TokenInvalidError
from tests.fakes import LoopClock, RecordingLog, run_skipping_time


class SleepingClock(LoopClock):
    """The time of the loop, in which others go on while somebody sleeps."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class FakeKey:
    """A key that signs whatever has its own name at the end."""

    id: str | None
    algorithms: frozenset[str] = frozenset({"RS256"})

    def signed(self, token: str, algorithm: str) -> bool:
        return token.endswith(f".{self.id}")


@dataclass
class FakeIssuer:
    """Publishes what it is told to, or fails; slowly when asked to."""

    keys: list[FakeKey] = field(default_factory=lambda: [FakeKey("a")])
    again_s: float = 300.0
    failure: MurmurateError | None = None
    slow_s: float = 0.0
    asked_at_s: list[float] = field(default_factory=list[float])

    async def published(self) -> Published:
        self.asked_at_s.append(asyncio.get_running_loop().time())
        found = Published(tuple(self.keys), self.again_s)
        await asyncio.sleep(self.slow_s)
        if self.failure is not None:
            raise self.failure
        return found


@dataclass
class Scene:
    """An issuer and our trust in it, in virtual time."""

    issuer: FakeIssuer = field(default_factory=FakeIssuer)
    events: RecordingLog = field(default_factory=RecordingLog)
    outage_s: float = 3600.0

    def __post_init__(self) -> None:
        self.trust = Trust(
            "town",
            self.issuer,
            outage_s=self.outage_s,
            clock=SleepingClock(),
            events=self.events,
        )

    async def knows(self, key_id: str | None, algorithm: str = "RS256") -> bool:
        try:
            key, _ = await self.trust.key(key_id, algorithm)
        except TokenInvalidError:
            return False
        assert key.id == key_id or key_id is None
        return True

    def down(self) -> None:
        self.issuer.failure = IssuerUnreachableError("no connection")


def test_the_issuer_is_asked_once_for_all_who_come_first() -> None:
    scene = Scene(FakeIssuer(slow_s=1.0))

    async def story() -> None:
        assert all(await asyncio.gather(*(scene.knows("a") for _ in range(WAITING_MAX))))
        assert await scene.knows("a")

    run_skipping_time(story())
    assert len(scene.issuer.asked_at_s) == 1


def test_a_storm_of_forged_keys_reaches_the_issuer_once_in_ten_seconds() -> None:
    scene = Scene()

    async def story() -> None:
        assert await scene.knows("a")
        began_s = asyncio.get_running_loop().time()
        turned_away: list[IssuerUnreachableError] = []

        async def forged(number: int) -> None:
            await asyncio.sleep(number / 100)
            try:
                assert not await scene.knows(f"forged-{number}")
            except IssuerUnreachableError as error:
                turned_away.append(error)

        await asyncio.gather(*(forged(number) for number in range(3000)))
        took_s = asyncio.get_running_loop().time() - began_s
        assert took_s <= 30 + AGAIN_S + 1
        assert len(turned_away) > 2000, "no more than some wait"
        assert all(1 <= (error.retry_s or 0) <= AGAIN_S for error in turned_away)
        assert await scene.knows("a"), "who has a known key does not notice"

    run_skipping_time(story())
    asked = scene.issuer.asked_at_s
    assert 3 <= len(asked) <= 5
    assert all(later - earlier >= AGAIN_S for earlier, later in pairwise(asked))


def test_the_same_forged_key_waits_once_and_is_then_refused_at_once() -> None:
    scene = Scene()

    async def story() -> None:
        assert await scene.knows("a")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        assert not await scene.knows("forged")
        assert loop.time() - began_s == pytest.approx(AGAIN_S, abs=0.1)
        again_s = loop.time()
        assert not await scene.knows("forged")
        assert loop.time() - again_s < 0.1

    run_skipping_time(story())


def test_no_request_is_lost_when_the_issuer_changes_its_key() -> None:
    """Also in the seconds in which it may not be asked, and while a look is under way."""
    scene = Scene(FakeIssuer(slow_s=0.5))

    async def story() -> None:
        assert await scene.knows("a")
        scene.issuer.keys = [FakeKey("b")]
        assert await scene.knows("b")
        looking = asyncio.create_task(scene.knows("forged"))
        await asyncio.sleep(AGAIN_S - 0.3)  # the look has begun, and saw the keys of then
        assert len(scene.issuer.asked_at_s) == 3
        scene.issuer.keys = [FakeKey("c")]
        assert await scene.knows("c")
        assert not await looking
        assert not await scene.knows("a"), "what is published no more counts no more"

    run_skipping_time(story())


def test_keys_are_fetched_again_in_time_and_nobody_waits_for_that() -> None:
    scene = Scene(FakeIssuer(again_s=120.0, slow_s=2.0))

    async def story() -> None:
        loop = asyncio.get_running_loop()
        assert await scene.knows("a")
        first = scene.trust.current()
        await asyncio.sleep(121)
        began_s = loop.time()
        assert await scene.knows("a")
        assert loop.time() - began_s < 0.1
        await asyncio.sleep(3)
        assert len(scene.issuer.asked_at_s) == 2
        assert scene.trust.current() is first, "the same keys are one object"
        scene.issuer.keys = [FakeKey("a"), FakeKey("b")]
        await asyncio.sleep(121)
        scene.trust.current()
        await asyncio.sleep(3)
        assert scene.trust.current() is not first

    run_skipping_time(story())


@pytest.mark.parametrize(("said_s", "kept_s"), [(0.0, KEPT_S_MIN), (1e9, KEPT_S_MAX)])
def test_how_long_keys_are_kept_has_bounds_of_our_own(said_s: float, kept_s: float) -> None:
    scene = Scene(FakeIssuer(again_s=said_s), outage_s=1e6)

    async def story() -> None:
        assert await scene.knows("a")
        await asyncio.sleep(kept_s - 1)
        assert await scene.knows("a")
        await asyncio.sleep(0)
        assert len(scene.issuer.asked_at_s) == 1
        await asyncio.sleep(2)
        assert await scene.knows("a")
        await asyncio.sleep(0.1)
        assert len(scene.issuer.asked_at_s) == 2

    run_skipping_time(story())


def test_when_the_issuer_is_down_its_keys_count_for_a_time_and_then_not() -> None:
    scene = Scene(outage_s=1800.0)

    async def story() -> None:
        assert await scene.knows("a")
        scene.down()
        for _ in range(17):
            await asyncio.sleep(100)
            assert await scene.knows("a")
        with pytest.raises(IssuerUnreachableError, match=r"auth.town can't be asked.*no connect"):
            await scene.knows("b")
        await asyncio.sleep(101)
        with pytest.raises(IssuerUnreachableError):
            await scene.knows("a")
        assert len(scene.events.named("issuer.unreachable")) == 1
        scene.issuer.failure = None
        await asyncio.sleep(FAILED_AGAIN_S)
        assert await scene.knows("a")

    run_skipping_time(story())


def test_an_issuer_that_never_answered_is_asked_every_two_seconds_at_most() -> None:
    scene = Scene()
    scene.down()

    async def story() -> None:
        for _ in range(100):
            with pytest.raises(IssuerUnreachableError) as raised:
                await scene.knows("a")
            assert raised.value.http_status == 503
            await asyncio.sleep(0.1)

    run_skipping_time(story())
    assert len(scene.issuer.asked_at_s) <= 6


def test_a_token_without_the_name_of_a_key_needs_an_issuer_with_one() -> None:
    scene = Scene(FakeIssuer([FakeKey("a"), FakeKey("e", frozenset({"ES256"}))]))

    async def story() -> None:
        assert await scene.knows(None)
        assert await scene.knows(None, "ES256")
        assert not await scene.knows(None, "EdDSA")
        assert not await scene.knows("a", "ES256"), "a key of another kind checks nothing"

    run_skipping_time(story())


def test_a_request_that_is_gone_stops_nobody_elses_look() -> None:
    scene = Scene(FakeIssuer(slow_s=5.0))

    async def story() -> None:
        gone, stays = (asyncio.create_task(scene.knows("a")) for _ in range(2))
        await asyncio.sleep(1)
        gone.cancel()
        assert await stays

    run_skipping_time(story())
    assert len(scene.issuer.asked_at_s) == 1


def test_a_fault_of_ours_in_a_look_is_raised_and_not_tried_for_ever() -> None:
    class Broken(FakeIssuer):
        async def published(self) -> Published:
            raise ZeroDivisionError

    scene = Scene(Broken())

    async def story() -> None:
        with pytest.raises(ZeroDivisionError):
            await scene.knows("a")

    run_skipping_time(story())
