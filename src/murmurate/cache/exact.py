"""The exact cache: bytes by key, least recently used out first, stale never served. Pure."""

from collections import OrderedDict

import msgspec

ENTRY_OVERHEAD_BYTES = 400
"""What an entry costs beside its bytes: the dict's slot, the key, two objects (sys.getsizeof)."""


class Counts(msgspec.Struct):
    """What has happened so far, for metrics; only ever grows."""

    hits: int = 0
    misses: int = 0
    evicted_full: int = 0
    evicted_stale: int = 0


class _Entry(msgspec.Struct, frozen=True, gc=False):
    value: bytes
    stale_at_s: float


class ExactCache:
    """At most `entries_max` values and `bytes_max` bytes, none older than `ttl_s`."""

    def __init__(self, *, ttl_s: float, entries_max: int, bytes_max: int) -> None:
        self.ttl_s = ttl_s
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._bytes = 0
        self.counts = Counts()

    def get(self, key: bytes, *, now_s: float) -> bytes | None:
        """Return the value, if it is there and fresh, and count it as used."""
        entry = self._entries.get(key)
        if entry is not None and now_s >= entry.stale_at_s:
            self._drop(key)
            self.counts.evicted_stale += 1
            entry = None
        if entry is None:
            self.counts.misses += 1
            return None
        self._entries.move_to_end(key)
        self.counts.hits += 1
        return entry.value

    def put(self, key: bytes, value: bytes, *, now_s: float, ttl_s: float | None = None) -> None:
        """Keep the value, at most for `ttl_s`; older ones make room.

        One that is larger than the cache is not kept.
        """
        self._drop(key)
        if _size(value) > self._bytes_max or self._entries_max < 1:
            return
        self._entries[key] = _Entry(
            value, now_s + min(self.ttl_s, ttl_s if ttl_s is not None else self.ttl_s)
        )
        self._bytes += _size(value)
        while len(self._entries) > self._entries_max or self._bytes > self._bytes_max:
            self._drop(next(iter(self._entries)))
            self.counts.evicted_full += 1

    @property
    def size_bytes(self) -> int:
        """What the entries take, overhead included."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._entries)

    def _drop(self, key: bytes) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(entry.value)


def _size(value: bytes) -> int:
    return len(value) + ENTRY_OVERHEAD_BYTES
