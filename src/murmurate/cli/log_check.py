"""What `murmurate doctor` says of the log: its format, its size, the room left, and all damage."""

import shutil
from pathlib import Path

from murmurate.adapters.sqlite.damage import SHOWN_MAX
from murmurate.adapters.sqlite.survey import survey
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
