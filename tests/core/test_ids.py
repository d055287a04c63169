"""Ids sort by time, have one form, and are as hard to guess as they promise."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from murmurate.core.ids import CHANCE_BYTES, Ids, SystemChance, first_of, made_ms, named
from tests.fakes import FakeClock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LAST_MS = 2**48 - 1


class _Zeros(random.Random):
    """Chance at its most unlucky."""

    def getrandbits(self, k: int, /) -> int:
        del k
        return 0


def made_at(unix_ms: int, seed: int = 1) -> str:
    return Ids(FakeClock(unix_ms / 1000), random.Random(seed)).new("req")


def number_of(made: str) -> int:
    number = 0
    for digit in made.partition("_")[2]:
        number = number * 32 + ALPHABET.index(digit)
    return number


def test_an_id_is_its_prefix_and_26_characters_that_nobody_misreads() -> None:
    assert re.fullmatch(r"req_[0-9a-hjkmnp-tv-z]{26}", made_at(1_700_000_000_000))


@given(st.integers(0, 2**41), st.integers())
def test_an_id_is_a_uuid_version_7(unix_ms: int, seed: int) -> None:
    number = number_of(made_at(unix_ms, seed))
    assert number >> 128 == 0
    assert number >> 80 == unix_ms
    assert number >> 76 & 0xF == 7
    assert number >> 62 & 0b11 == 0b10


@given(st.integers(0, 2**41), st.integers(1, 2**20), st.integers(), st.integers())
def test_a_later_id_sorts_behind(unix_ms: int, later_ms: int, seed: int, other: int) -> None:
    assert made_at(unix_ms, seed) < made_at(unix_ms + later_ms, other)


def test_a_time_beyond_48_bits_wraps_and_leaves_the_form_whole() -> None:
    assert number_of(made_at(LAST_MS + 1 + 5)) >> 80 == 5


def test_ids_of_the_same_millisecond_differ() -> None:
    ids = Ids(FakeClock(), random.Random(1))
    assert len({ids.new("req") for _ in range(1000)}) == 1000


def test_the_same_seed_makes_the_same_ids() -> None:
    assert made_at(5, seed=3) == made_at(5, seed=3) != made_at(5, seed=4)


def test_trace_and_span_ids_are_hexadecimal_of_w3c_length() -> None:
    ids = Ids(FakeClock(), random.Random(1))
    assert re.fullmatch("[0-9a-f]{32}", ids.trace_id())
    assert re.fullmatch("[0-9a-f]{16}", ids.span_id())


def test_trace_and_span_ids_are_never_all_zero() -> None:
    ids = Ids(FakeClock(), _Zeros())
    assert ids.trace_id() == "0" * 31 + "1"
    assert ids.span_id() == "0" * 15 + "1"


def test_a_secret_carries_160_bits_behind_its_prefix() -> None:
    secrets = {Ids(FakeClock(), random.Random(n)).secret("mur") for n in range(100)}
    assert len(secrets) == 100
    assert all(re.fullmatch(r"mur_[0-9a-hjkmnp-tv-z]{32}", secret) for secret in secrets)
    assert Ids(FakeClock(), _Zeros()).secret("mur") == "mur_" + "0" * 32


def test_what_there_is_one_of_has_one_id_that_looks_and_sorts_like_any_other() -> None:
    ids = [named("run", "a/brief", at_ms=at_ms) for at_ms in (1_000_000, 1_000_001, 2**40)]
    assert ids == sorted(ids)
    assert ids[0] == named("run", "a/brief", at_ms=1_000_000)
    assert ids[0] != named("run", "a/brief2", at_ms=1_000_000)
    for each in ids:
        assert re.fullmatch(r"run_[0-9a-hjkmnp-tv-z]{26}", each)
    assert ids[0][:14] == Ids(FakeClock(1000.0), random.Random(1)).new("run")[:14]


@given(st.integers(0, LAST_MS), st.integers(0, LAST_MS), st.integers())
def test_a_time_divides_ids_into_earlier_and_later(then_ms: int, at_ms: int, seed: int) -> None:
    before = Ids(At(then_ms), random.Random(seed)).new("run") < first_of("run", at_ms)
    assert before == (then_ms < at_ms)


@given(st.integers(0, LAST_MS), st.integers(0))
def test_an_id_tells_when_it_was_made(unix_ms: int, seed: int) -> None:
    assert made_ms(Ids(At(unix_ms), random.Random(seed)).new("run")) == unix_ms


class At(FakeClock):
    """A clock that stands still at a millisecond."""

    def __init__(self, unix_ms: int) -> None:
        super().__init__()
        self._unix_ms = unix_ms

    def unix_ms(self) -> int:
        return self._unix_ms


def test_the_systems_chance_is_never_the_same_twice_and_reaches_every_bit() -> None:
    chance = SystemChance()
    seen = [chance.getrandbits(62) for _ in range(CHANCE_BYTES // 8 * 3)]
    assert len(set(seen)) == len(seen)
    either = everywhere = seen[0]
    for number in seen:
        either |= number
        everywhere &= number
    assert (either, everywhere) == (2**62 - 1, 0)
    assert chance.getrandbits(CHANCE_BYTES * 16).bit_length() > CHANCE_BYTES * 16 - 64
    assert 0 <= chance.random() < 1
