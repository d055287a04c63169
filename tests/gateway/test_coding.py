"""Which coding a client gets, and that it can read it."""

import gzip
import sys

import pytest

from murmurate.gateway.coding import Coding, chosen, compressed

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TEXT = b'{"embedding": [0.25, -0.5]}' * 1000


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (None, None),
        (b"", None),
        (b"gzip, deflate", Coding.GZIP),
        (b"gzip, deflate, br, zstd", Coding.ZSTD),
        (b"zstd;q=0.5, gzip;q=0.9", Coding.GZIP),
        (b"GZIP ; q=1", Coding.GZIP),
        (b"*", Coding.ZSTD),
        (b"zstd;q=0, *;q=0.3", Coding.GZIP),
        (b"gzip;q=0", None),
        (b"*;q=0", None),
        (b"identity", None),
        (b"identity;q=1, gzip;q=0.5", None),
        (b"identity;q=0.5, gzip;q=0.5", Coding.GZIP),
        (b"br, compress", None),
        (b"gzip;q=nine", None),
        (b"gzip;level=9", None),
        (b"\xff\xfe,,;q=", None),
    ],
)
def test_a_client_gets_what_it_likes_best(accepted: bytes | None, coding: Coding | None) -> None:
    assert chosen(accepted) == coding


def test_the_bytes_are_in_the_coding_and_fewer() -> None:
    as_gzip, as_zstd = compressed(TEXT, Coding.GZIP), compressed(TEXT, Coding.ZSTD)
    assert gzip.decompress(as_gzip) == TEXT
    assert zstd.decompress(as_zstd) == TEXT
    assert max(len(as_gzip), len(as_zstd)) < len(TEXT) / 10
