"""Compressed answers: which coding a client takes (RFC 9110, 12.5.3), and the bytes in it."""

import re
import sys
import zlib
from enum import StrEnum

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

AT_ONCE_BYTES = 64 * 1024
"""Up to here compressing takes less than handing it to a thread is worth (half a millisecond)."""

_CHOICE = re.compile(r"([a-z*-]+)(?:;q=([01](?:\.[0-9]{0,3})?))?")


class Coding(StrEnum):
    """What we can write, the better one first."""

    ZSTD = "zstd"
    GZIP = "gzip"


def chosen(accept_encoding: bytes | None) -> Coding | None:
    """Return the coding that the client likes best; ours among equals. None: as it is."""
    if accept_encoding is None:
        return None
    weights: dict[str, float] = {}
    for part in accept_encoding.decode("latin-1").lower().split(","):
        if found := _CHOICE.fullmatch(part.replace(" ", "").replace("\t", "")):
            weights[found[1]] = float(found[2] or 1)
    others = weights.get("*", 0.0)
    best = max(Coding, key=lambda coding: weights.get(coding, others))
    liked = weights.get(best, others)
    return best if liked > 0 and liked >= weights.get("identity", 0.0) else None


def compressed(body: bytes, coding: Coding) -> bytes:
    """Return the body in the coding, at the speed of its lowest level: it is sent but once."""
    if coding is Coding.ZSTD:
        return zstd.compress(body, 1)
    return zlib.compress(body, 1, 31)  # 31: with gzip's head and checksum
