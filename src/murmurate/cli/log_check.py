"""What `murmurate doctor` says of the log: its format, its size, the room left, and all damage."""

import asyncio
import shutil
from pathlib import Path

from murmurate.adapters.sqlite.damage import SHOWN_MAX
from murmurate.adapters.sqlite.survey import survey
from murmurate.config import Config, log_place
from murmurate.core.errors import LogNewerError, MurmurateError
from murmurate.core.types import Frozen

CHECKED_BYTES_MAX = 256 * 1024 * 1024
"""Up to this size all of the file is read; a larger one is examined by the server, day by day."""
FREE_BYTES_MIN = 256 * 1024 * 1024
"""With less than this, a busy service is soon refused by its disk."""


class Found(Frozen, frozen=True):
    """One thing about the log. `advice` says what to do where it is not well."""

    is_well: bool
    detail: str
    advice: str = ""


def check_configured(config: Config, state: Path) -> list[Found]:
    """Look at the log wherever the configuration has it; never raises for what it finds."""
    try:
        place = log_place(config.log)
    except MurmurateError as error:
        return [_broken(error.detail, "see [log]")]
    if place is None:
        return check_log(state)
    try:
        from murmurate.adapters.postgres.database import Database  # noqa: PLC0415 - an extra
        from murmurate.adapters.postgres.survey import survey as look  # noqa: PLC0415 - an extra
    except ModuleNotFoundError as cause:
        detail = f"{cause.name} is not installed"
        return [_broken(detail, "pip install 'murmurate[postgres]'")]
    try:
        seen = asyncio.run(look(Database(place.url, schema=place.schema, password=place.password)))
    except LogNewerError as error:
        return [_broken(error.detail, "run the version that wrote it")]
    except MurmurateError as error:
        return [_broken(error.detail, "see [log], and whether the server runs")]
    detail = f"PostgreSQL {seen.server}, {seen.name}: none yet (made at the first start)"
    if seen.format is not None:
        detail = (
            f"PostgreSQL {seen.server}, {seen.name}: format {seen.format}, about {seen.entries}"
            f" entries, {seen.size_bytes / 1e6:.1f} MB, {seen.runners} servers work on it"
        )
    found = [Found(is_well=True, detail=detail)]
    found += [_broken(fault, "see docs/howto/postgres.md") for fault in seen.faults]
    found += [
        _broken(f"{name} = off: a power cut loses what was acknowledged", f"set {name} = on")
        for name in seen.unsafe
    ]
    return found


def check_log(state: Path) -> list[Found]:
    """Look at the log of a state folder, changing nothing; never raises for what it finds."""
    path = state / "truth.db"
    if not path.exists():
        return [Found(is_well=True, detail="none yet (made at the first start)")]
    try:
        seen = survey(path, checked_bytes_max=CHECKED_BYTES_MAX)
        free_bytes = shutil.disk_usage(state).free
    except LogNewerError as error:
        return [_broken(error.detail, "run the version that wrote it, or restore a backup")]
    except MurmurateError as error:
        return [_broken(error.detail, "start the service: it saves what can be read")]
    except OSError as error:
        return [_broken(str(error), "chown or chmod")]
    how = "checked" if seen.checked_whole else "too large to be checked here"
    detail = (
        f"format {seen.format}, {seen.entries} entries of {seen.streams} streams,"
        f" {seen.size_bytes / 1e6:.1f} MB, {how}"
    )
    found = [Found(is_well=True, detail=detail)]
    if seen.fault is not None:
        advice = "restart the service: it saves what can be read; or murmurate restore"
        found = [_broken(f"{detail}: {seen.fault}", advice)]
    for place in seen.damage[:SHOWN_MAX]:
        found.append(_broken(str(place), "restore a backup, or go on without"))
    if len(seen.damage) > SHOWN_MAX:
        found.append(_broken(f"and {len(seen.damage) - SHOWN_MAX} more damaged places", ""))
    if free_bytes < FREE_BYTES_MIN:
        found.append(_broken(f"{free_bytes / 1e6:.1f} MB are free", "make room on the disk"))
    return found


def _broken(detail: str, advice: str) -> Found:
    return Found(is_well=False, detail=detail, advice=advice)
