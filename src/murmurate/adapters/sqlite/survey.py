"""Looks through a log without changing it: for `doctor`, and for what a backup says of itself."""

from contextlib import closing
from pathlib import Path

from murmurate.adapters.sqlite.damage import KNOWN_MAX, Damage, Reason
from murmurate.adapters.sqlite.database import check_version, looking, translated, version_of
from murmurate.adapters.sqlite.format import SCHEMA
from murmurate.adapters.sqlite.mend import soundness
from murmurate.adapters.sqlite.queries import checked, known_damage, rows_of
from murmurate.core.types import Frozen

_ALL = """SELECT tenant, stream, seq, position, epoch, kind, at, body, crc FROM entry
    WHERE position > ? ORDER BY position LIMIT 256"""


class Survey(Frozen, frozen=True):
    """What a look at a log tells. `fault` is what SQLite finds wrong with the file as a whole.

    `checked_whole`: every entry was compared with its checksum, not only what is known was listed.
    """

    format: int
    size_bytes: int
    entries: int
    streams: int
    fault: str | None
    damage: tuple[Damage, ...]
    checked_whole: bool


def survey(path: Path, *, checked_bytes_max: int | None = None) -> Survey:
    """Look through the file; with a bound, one that is larger only as far as its lists go.

    Raises:
        LogNewerError: A newer version wrote it.
        LogCorruptError: Not even its tables can be read.
        LogUnavailableError: It cannot be opened.
    """
    size_bytes = path.stat().st_size
    whole = checked_bytes_max is None or size_bytes <= checked_bytes_max
    with translated(path):
        check_version(path, SCHEMA)
        fault = soundness(path) if whole else None
        with looking(path) as db:
            version = version_of(db)
            [(entries,)] = rows_of(db, "SELECT count(*) FROM entry", ())
            [(streams,)] = rows_of(db, "SELECT count(*) FROM head", ())
            damage = known_damage(db) if version == SCHEMA.version else []
        if whole and fault is None:
            places = {(d.tenant, d.stream, d.seq) for d in damage}
            damage += [
                d for d in _damaged_entries(path) if (d.tenant, d.stream, d.seq) not in places
            ]
    return Survey(version, size_bytes, entries, streams, fault, tuple(damage), whole)


def _damaged_entries(path: Path) -> list[Damage]:
    """Compare every entry with its checksum."""
    found: list[Damage] = []
    after, more = 0, True
    with looking(path) as db:
        while more and len(found) < KNOWN_MAX:
            with closing(db.execute(_ALL, (after,))) as rows:
                entries, damage = checked(rows)
            after = entries[-1].position if entries else after
            more = bool(entries) or damage is not None
            if damage is not None:
                found.append(damage)
                [(after,)] = rows_of(
                    db, "SELECT min(position) FROM entry WHERE position > ?", (after,)
                )
    return [place for place in found if place.reason is Reason.DAMAGED]
