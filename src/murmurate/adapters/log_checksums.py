"""The checksums of a log's rows: the same in every store, so that a copy is checked as it is."""

import zlib


def entry_checksum(fields: tuple[bytes, bytes, int, int, bytes, int], body: bytes) -> int:
    """Return the CRC of an entry or snapshot: of tenant, stream, seq, epoch, kind, at and body.

    Raises:
        TypeError: A field is of another type, which only damage can bring about.
    """
    return zlib.crc32(body, zlib.crc32(b"%b\0%b\0%d\0%d\0%b\0%d\0" % fields))


def head_checksum(key: tuple[bytes, bytes], seq: int, first: int, snapshot: int) -> int:
    """Return the CRC of a head.

    Raises:
        TypeError: A field is of another type, which only damage can bring about.
    """
    return zlib.crc32(b"%b\0%b\0%d\0%d\0%d\0" % (*key, seq, first, snapshot))
