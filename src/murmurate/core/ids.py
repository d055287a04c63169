"""Ids: a prefix that says what it names, and a UUIDv7, so that ids sort by time of making."""

import hashlib
import os
import random
from collections.abc import Callable

from murmurate.core.clock import Clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_PAIRS = tuple(first + second for first in _ALPHABET for second in _ALPHABET)
_SHIFTS = range(120, -1, -10)

CHANCE_BYTES = 4096


class SystemChance(random.SystemRandom):
    """The system's own chance, asked for many bits at a time: each question takes 2 µs.

    No bit is given out twice. Not for a process that forks.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bytes = b""
        self._at = 0

    def getrandbits(self, k: int) -> int:
        """Return `k` bits."""
        size = (k + 7) // 8
        if self._at + size > len(self._bytes):
            self._bytes, self._at = os.urandom(max(CHANCE_BYTES, size)), 0
        start, self._at = self._at, self._at + size
        return int.from_bytes(self._bytes[start : self._at]) >> (size * 8 - k)


class Ids:
    """Makes ids from a clock and a source of chance.

    Give it a `SystemChance` in production and a seeded `random.Random` in simulations.
    """

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._unix_ms: Callable[[], int] = clock.unix_ms
        self._chance = chance

    def new(self, prefix: str) -> str:
        """Return `prefix_` and 26 characters: a UUIDv7 (RFC 9562) in base 32."""
        number = (self._unix_ms() & 0xFFFFFFFFFFFF) << 80
        number |= 0x7 << 76 | self._chance.getrandbits(12) << 64
        number |= 0b10 << 62 | self._chance.getrandbits(62)
        return _written(prefix, number)

    def trace_id(self) -> str:
        """Return a W3C trace id: 32 hexadecimal digits, never all zero."""
        return f"{self._chance.getrandbits(128) or 1:032x}"

    def span_id(self) -> str:
        """Return a W3C span id: 16 hexadecimal digits, never all zero."""
        return f"{self._chance.getrandbits(64) or 1:016x}"

    def secret(self, prefix: str) -> str:
        """Return a key that nobody can guess: `prefix_` and 160 random bits."""
        number = self._chance.getrandbits(160)
        digits = (_ALPHABET[number >> shift & 31] for shift in range(155, -1, -5))
        return f"{prefix}_{''.join(digits)}"


def named(prefix: str, name: str, *, at_ms: int) -> str:
    """Return the id of what there can only be one of: the same for the same name and time.

    It looks like any other, and sorts by the time that is given.
    """
    chance = int.from_bytes(hashlib.sha256(f"{at_ms} {name}".encode()).digest()[:10])
    number = (at_ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | (chance >> 62 & 0xFFF) << 64
    return _written(prefix, number | 0b10 << 62 | chance & 0x3FFFFFFFFFFFFFFF)


def first_of(prefix: str, unix_ms: int) -> str:
    """Return what sorts before every id made at that time or later, and behind the earlier ones."""
    return _written(prefix, (max(unix_ms, 0) & 0xFFFFFFFFFFFF) << 80)


def made_ms(id_: str) -> int:
    """Return when an id was made, in milliseconds since 1970."""
    number = 0
    for digit in id_.rpartition("_")[2]:
        number = number * 32 + max(_ALPHABET.find(digit), 0)
    return number >> 80


def _written(prefix: str, number: int) -> str:
    pairs = [_PAIRS[number >> shift & 1023] for shift in _SHIFTS]
    return f"{prefix}_{''.join(pairs)}"
