"""The keys of a service at its start, and the first one of all."""

import re
from dataclasses import dataclass
from pathlib import Path

from murmurate.adapters.files import write_private
from murmurate.core.clock import Clock
from murmurate.core.ids import Ids
from murmurate.core.ports import EventLog, Log
from murmurate.gateway.keyring import Keys
from murmurate.gateway.keys import digest
from murmurate.gateway.registry import OnSecret, Registry

KEY_FORM = re.compile(r"mur_[A-Za-z0-9_-]{20,64}")


@dataclass(frozen=True, slots=True)
class OpenedKeys:
    """The keys at hand, where they are changed, and who hears of new secrets."""

    keys: Keys
    registry: Registry
    on_secret: OnSecret

    def tenants(self) -> set[str]:
        """Return who has keys."""
        return {key.record.tenant for key in self.keys.all()}


async def open_keys(
    log: Log, clock: Clock, ids: Ids, *, first_key: Path, events: EventLog
) -> OpenedKeys:
    """Read all keys; where none manages all others, make one and leave it in `first_key` (0600).

    So too where that file is lost: who owns the folder must get in, and the old key stays good for
    whoever still has it. The file follows when the secret that it holds is rotated. A damaged key
    locks out its owner alone; where none is left that manages the others, that is a
    `LogCorruptError` and no new key: it would open what the old ones protected. A file without any
    key in the log is one whose log was lost, or was not written yet: its owner keeps it.
    """
    keys = Keys(clock=clock)
    registry = Registry(keys, log=log, clock=clock, ids=ids)
    damaged = await registry.open()
    if damaged and not registry.has_operator():
        raise damaged[0]

    def keep(_: str, secret: str) -> None:
        _keep(first_key, secret)

    if registry.has_operator() and not first_key.exists():  # noqa: ASYNC240 - once, at the start
        await registry.replace_lost(keep)
    kept = None if len(keys) or damaged else _kept_key(first_key)
    await registry.ensure_operator(keep, kept=kept)

    def follow_rotation(old_sha256: str, secret: str) -> None:
        try:
            if digest(first_key.read_text(encoding="utf-8").strip()) == old_sha256:
                _keep(first_key, secret)
        except (OSError, UnicodeDecodeError) as cause:
            # The rotation stands, and its caller has the secret: only this convenience is lost.
            events.event("keys.file_not_written", file=str(first_key), detail=str(cause))

    return OpenedKeys(keys, registry, follow_rotation)


async def read_keys(log: Log, clock: Clock, ids: Ids) -> OpenedKeys:
    """Read all keys for a server that opens nothing with them, and makes none."""
    keys = Keys(clock=clock)
    registry = Registry(keys, log=log, clock=clock, ids=ids)
    await registry.open()
    return OpenedKeys(keys, registry, lambda _, __: None)


def _keep(file: Path, secret: str) -> None:
    write_private(file, secret.encode() + b"\n")


def _kept_key(file: Path) -> str | None:
    """Return the key that stands in the file, if there is one of ours."""
    try:
        found = file.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return found if KEY_FORM.fullmatch(found) else None
