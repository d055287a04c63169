"""Keys open by their hash, for as long as they are good, and not a moment longer."""

import asyncio

import msgspec
import pytest

from murmurate.core.errors import KeyExpiredError, KeyInvalidError, KeyReplacedError
from murmurate.core.errors import KeyRevokedError as Revoked
from murmurate.core.types import Caller, Lane
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import Key, KeyRecord, Rotation, digest
from murmurate.gateway.quota import Rate
from tests.fakes import FakeClock, LoopClock, run_skipping_time, until

RECORD = KeyRecord("key_1", digest("mur_right"), "acme", ("chat",), 5, lane=Lane.BATCH)
KEY = Key(RECORD, 1)
RIGHT = b"Bearer mur_right"


def rotated(key: Key, secret: str, *, at_ms: int, grace_ms: int) -> Key:
    return msgspec.structs.replace(
        key,
        seq=key.seq + 1,
        rotation=Rotation(digest(secret), at_ms, at_ms + grace_ms),
        old_sha256=key.sha256,
    )


def revoked(key: Key) -> Key:
    return msgspec.structs.replace(key, seq=key.seq + 1, revoked_ms=1)


def test_a_known_key_says_whose_it_is() -> None:
    keys = Keys([KEY], clock=FakeClock())
    caller = Caller("key_1", "acme", ("chat",), Lane.BATCH)
    assert keys.admit(RIGHT).caller == caller
    assert keys.admit(b"bearer  mur_right ").caller == caller
    assert keys.get("key_1") == KEY
    assert keys.get("key_2") is None
    assert keys.all() == [KEY]
    assert keys.rate("key_1", Rate(1.0, 2.0)) == Rate(1.0, 2.0)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (None, "no key"),
        (b"", "expected the header"),
        (b"Bearer", "expected the header"),
        (b"Basic mur_right", "expected the header"),
        (b"Bearer mur_wrong", "not known"),
        (b"Bearer \xff\xfe", "not known"),
    ],
)
def test_everything_else_is_refused_with_what_to_send(header: bytes | None, words: str) -> None:
    with pytest.raises(KeyInvalidError, match=words) as raised:
        Keys([KEY], clock=FakeClock()).admit(header)
    assert type(raised.value) is KeyInvalidError
    assert "mur_" not in raised.value.detail


def test_an_ended_key_says_why_to_whoever_holds_it() -> None:
    clock = FakeClock()
    expiring = Key(msgspec.structs.replace(RECORD, expires_ms=clock.unix_ms() + 1000), 1)
    keys = Keys([expiring], clock=clock)
    keys.admit(RIGHT)
    clock.time_s += 1
    with pytest.raises(KeyExpiredError, match="1970-01-01T00:16:41Z"):
        keys.admit(RIGHT)
    keys.put(revoked(expiring))
    with pytest.raises(Revoked):
        keys.admit(RIGHT)


def test_after_a_rotation_the_old_secret_is_good_for_its_grace() -> None:
    clock = FakeClock()
    keys = Keys([KEY], clock=clock)
    keys.put(rotated(KEY, "mur_next", at_ms=clock.unix_ms(), grace_ms=60_000))
    assert keys.admit(RIGHT).caller == keys.admit(b"Bearer mur_next").caller
    clock.time_s += 60
    with pytest.raises(KeyReplacedError, match="use that one"):
        keys.admit(RIGHT)
    keys.admit(b"Bearer mur_next")


def test_of_many_rotations_only_two_secrets_are_remembered() -> None:
    keys = Keys([KEY], clock=FakeClock())
    once = rotated(KEY, "mur_2", at_ms=0, grace_ms=10**9)
    keys.put(once)
    keys.put(rotated(once, "mur_3", at_ms=0, grace_ms=10**9))
    keys.admit(b"Bearer mur_3")
    keys.admit(b"Bearer mur_2")
    with pytest.raises(KeyInvalidError, match="not known"):
        keys.admit(RIGHT)
    assert len(keys) == 1


def test_the_last_use_is_remembered_and_a_refused_one_is_not() -> None:
    clock = FakeClock()
    keys = Keys([KEY], clock=clock)
    assert keys.last_used_ms("key_1") is None
    keys.admit(RIGHT)
    used_ms = clock.unix_ms()
    clock.time_s += 5
    keys.put(revoked(KEY))
    with pytest.raises(Revoked):
        keys.admit(RIGHT)
    assert keys.last_used_ms("key_1") == used_ms


def test_a_dropped_key_is_unknown_with_all_its_secrets() -> None:
    keys = Keys([KEY], clock=FakeClock())
    keys.put(rotated(KEY, "mur_next", at_ms=0, grace_ms=10**9))
    keys.admit(RIGHT)
    keys.drop("key_1")
    for secret in (RIGHT, b"Bearer mur_next"):
        with pytest.raises(KeyInvalidError, match="not known"):
            keys.admit(secret)
    assert (len(keys), keys.last_used_ms("key_1")) == (0, None)


def held_until(keys: Keys, gone: list[str], name: str = "") -> asyncio.Task[None]:
    """Hold the key in a task that waits for ever; note when its work was stopped."""
    ticket = keys.admit(RIGHT)

    async def work() -> None:
        async with keys.held(ticket):
            try:
                await asyncio.Event().wait()
            finally:
                gone.append(name)

    return asyncio.create_task(work())


def test_what_runs_with_a_revoked_key_ends_at_once_wherever_it_waits() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        gone: list[str] = []
        tasks = [held_until(keys, gone) for _ in range(3)]
        await until(lambda: len(keys._holds.get("key_1", ())) == 3)
        began_s = asyncio.get_running_loop().time()
        keys.put(revoked(KEY))
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(result, Revoked) for result in results)
        assert len(gone) == 3
        assert asyncio.get_running_loop().time() - began_s < 1
        assert not keys._holds["key_1"]

    run_skipping_time(story())


def test_what_runs_when_its_key_expires_ends_then() -> None:
    async def story() -> None:
        clock = LoopClock()
        expires_ms = clock.unix_ms() + 3_600_000
        keys = Keys([Key(msgspec.structs.replace(RECORD, expires_ms=expires_ms), 1)], clock=clock)
        with pytest.raises(KeyExpiredError):
            await held_until(keys, [])
        assert abs(clock.unix_ms() - expires_ms) < 1000

    run_skipping_time(story())


def test_a_timer_that_is_ahead_of_the_wall_clock_says_the_same() -> None:
    async def story() -> None:
        clock = FakeClock()  # it stands still, while the loop's time goes on
        expires_ms = clock.unix_ms() + 5000
        keys = Keys([Key(msgspec.structs.replace(RECORD, expires_ms=expires_ms), 1)], clock=clock)
        with pytest.raises(KeyExpiredError):
            await held_until(keys, [])

    run_skipping_time(story())


def test_what_runs_with_a_replaced_secret_ends_with_its_grace() -> None:
    async def story() -> None:
        clock = LoopClock()
        keys = Keys([KEY], clock=clock)
        task = held_until(keys, [])
        await until(lambda: bool(keys._holds.get("key_1")))
        replaced_ms = clock.unix_ms()
        keys.put(rotated(KEY, "mur_next", at_ms=replaced_ms, grace_ms=60_000))
        with pytest.raises(KeyReplacedError):
            await task
        assert abs(clock.unix_ms() - replaced_ms - 60_000) < 1000

    run_skipping_time(story())


def test_who_revokes_its_own_key_still_gets_its_answer() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        async with keys.held(keys.admit(RIGHT)):
            keys.put(revoked(KEY))
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    run_skipping_time(story())


def test_what_runs_with_a_key_that_is_forgotten_while_it_ends_is_refused() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        task = held_until(keys, [])
        await until(lambda: bool(keys._holds.get("key_1")))
        keys.put(revoked(KEY))
        keys.drop("key_1")
        with pytest.raises(KeyInvalidError, match="not known"):
            await task

    run_skipping_time(story())


def test_what_runs_with_a_key_that_is_dropped_ends_at_once() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        gone: list[str] = []
        task = held_until(keys, gone)
        await until(lambda: bool(keys._holds.get("key_1")))
        began_s = asyncio.get_running_loop().time()
        keys.drop("key_1")
        async with asyncio.timeout(60):
            with pytest.raises(KeyInvalidError, match="not known"):
                await task
        assert (len(gone), keys._holds) == (1, {})
        assert asyncio.get_running_loop().time() - began_s < 1

    run_skipping_time(story())


def test_time_outs_and_errors_of_the_work_pass_through() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        ticket = keys.admit(RIGHT)
        with pytest.raises(TimeoutError):
            async with keys.held(ticket):
                raise TimeoutError
        with pytest.raises(ZeroDivisionError):
            async with keys.held(ticket):
                raise ZeroDivisionError
        keys.put(rotated(KEY, "mur_next", at_ms=0, grace_ms=10**15))
        assert not keys._holds["key_1"]

    run_skipping_time(story())


def test_a_change_right_behind_an_end_does_no_harm() -> None:
    async def story() -> None:
        keys = Keys([KEY], clock=LoopClock())
        task = held_until(keys, [])
        await until(lambda: bool(keys._holds.get("key_1")))
        [hold] = keys._holds["key_1"]
        keys.put(revoked(KEY))
        # As when a timer fired first and the task has not run yet.
        keys._holds["key_1"][hold] = None
        await until(lambda: hold.is_over)
        keys.put(revoked(revoked(KEY)))
        with pytest.raises(Revoked):
            await task

    run_skipping_time(story())
