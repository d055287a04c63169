"""Bodies against their schema: what does not fit is refused with the field's name."""

import json
import re
from typing import Any, TypeVar

import msgspec

from murmurate.core.errors import BadRequestError

_B = TypeVar("_B")
CONTAINERS_MAX = 100_000
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""Also one that never ends: what starts it is then never looked at twice, whatever was sent."""
_COLON_ESCAPED = re.compile(rb"u003[aA]")


def decode(body: bytes, kind: type[_B]) -> _B:
    """Return the typed body, or `BadRequestError` naming the field and what was expected."""
    if containers(body) > CONTAINERS_MAX:  # first: to read those is what the bound is against
        raise BadRequestError(f"the body has more than {CONTAINERS_MAX} objects and lists")
    try:
        value = msgspec.json.decode(body, type=kind)
        twice = duplicate(body)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at `")
        place = place.removeprefix("key` in `").partition("[...]")[
            0
        ]  # what follows is below what the schema knows
        param = place.rstrip("`").removeprefix("$").removeprefix(".") or _named(message)
        where = f"{param}: " if param else ""
        raise BadRequestError(f"{where}{message}", param=param) from cause
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise BadRequestError(f"the body is not valid JSON: {cause}") from cause
    except RecursionError as cause:
        raise BadRequestError("the body is nested too deeply") from cause
    if twice is not None:
        raise BadRequestError(f"the body has the key {twice[:100]!r} twice in one object")
    return value


def containers(body: bytes) -> int:
    """Return how many objects and lists a JSON has: those are what takes time and memory to read.

    4 MB of nothing but empty lists took 0.4 s and 100 MB. Exact where there are many brackets;
    else an upper bound, as those within texts count as well.
    """
    brackets = body.count(b"[") + body.count(b"{")
    if brackets > CONTAINERS_MAX:
        bare = _STRING.sub(b"", body)
        brackets = bare.count(b"[") + bare.count(b"{")
    return brackets


def duplicate(body: bytes) -> str | None:
    """Return a key that stands twice in one object of this JSON, None where there is none.

    Two readers may take different ones of the two values, which is how a check is got around.
    Exact, and cheap (3 µs for 300 bytes, 50 µs for 20 KB, 11 ms for 4 MB): reading the body drops
    one of the two values, and with it at least one colon, so the colons are counted in what was
    sent and in what was read. Only where they differ, or where colons are escaped, it is read
    again by a parser that sees every pair.

    Raises:
        msgspec.DecodeError: It is no JSON; also where a typed reader had skipped over that.
        RecursionError: It is nested too deeply.
    """
    value = msgspec.json.decode(body)
    if _COLON_ESCAPED.search(body) is None and body.count(b":") == msgspec.json.encode(value).count(
        b":"
    ):
        return None
    try:
        json.loads(body, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except _DuplicateKeyError as found:
        return found.key
    return None


class _DuplicateKeyError(Exception):
    """Ends a parse at the first key that was there before."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    """See an object's keys; its value is of no interest."""
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise _DuplicateKeyError(key)
        seen.add(key)


def _named(message: str) -> str | None:
    """Return the field that an "unknown field" or "missing field" message is about."""
    _, quote, rest = message.partition("field `")
    return rest.partition("`")[0] if quote else None
