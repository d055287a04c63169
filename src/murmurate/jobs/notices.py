"""What a client's server is told when its run ends, and how it can tell that it was us. Pure.

After https://www.standardwebhooks.com: libraries for it check our signatures. A notice says that
something has happened to which run, never what was asked or answered.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from murmurate.core.ports import Entry, Offer, Work
from murmurate.core.types import Frozen
from murmurate.jobs.entries import Begun, Kind, id_of

HOOKS = "hooks"
"""The queue of notices to be delivered."""
HOOKS_DEAD = "hooks.dead"
"""The queue of those that were given up; nobody claims from it."""
OFFERED = "hook.offered"
PREFIX = "hook/"

TOLD = {Kind.FINISHED, Kind.FAILED, Kind.CANCELLED, Kind.ASKED}

Told = tuple[tuple[Entry, ...], tuple[Work, ...]]
"""What is written, and what is offered."""


class Notice(Frozen, frozen=True, omit_defaults=True):
    """What is to be told, and where: the first entry of a notice's stream."""

    url: str
    type: str
    """What happened, such as `run.finished`."""
    run: str
    model: str
    session: str | None = None
    error: str | None = None
    """The code of the error that the run failed with."""


def told_of(
    begun: Begun,
    place: tuple[str, str],
    *,
    how: Kind,
    ends: int,
    code: str | None = None,
    asked: int | None = None,
) -> Told:
    """Return what belongs to the append that ends a run: nothing where nobody wants to be told.

    `ends` is how often the run has ended before: each end is told as a message of its own. So is
    that it waits for an approval, the first of which is `asked`.
    """
    if begun.webhook is None or how not in TOLD:
        return (), ()
    tenant, run_id = place[0], id_of(place[1])
    session = begun.request.session
    notice = Notice(
        begun.webhook,
        how.value,
        run_id,
        begun.request.model,
        None if session is None else session.id,
        code,
    )
    stream = notice_stream(run_id, ends) + ("" if asked is None else f"-asks-{asked}")
    entry = Entry(tenant, stream, OFFERED, msgspec.json.encode(notice))
    return (entry,), (Offer(tenant, stream, HOOKS),)


def notice_stream(run_id: str, ends: int) -> str:
    """Return the stream of the notice about a run's end; `ends` counts those before it."""
    return f"{PREFIX}{run_id}" if not ends else f"{PREFIX}{run_id}-{ends + 1}"


def body_of(notice: Notice, at_ms: int) -> bytes:
    """Return what is sent: the same at each attempt."""
    data = {
        "id": notice.run,
        "status": notice.type.removeprefix("run."),
        "model": notice.model,
        "session": notice.session,
        "error": notice.error,
    }
    at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode(
        {"type": notice.type, "timestamp": at.replace("+00:00", "Z"), "data": data}
    )


def headers_of(
    body: bytes, *, message: str, now_ms: int, keys: Sequence[bytes]
) -> Mapping[str, str]:
    """Return the headers of an attempt. `message` is the id by which receivers drop repetitions.

    Of several keys, each signs: a receiver takes the message if it knows one of them.
    """
    at_s = now_ms // 1000
    signatures = [signature(body, message=message, at_s=at_s, key=key) for key in keys]
    return {
        "content-type": "application/json",
        "user-agent": "murmurate",
        "webhook-id": message,
        "webhook-timestamp": str(at_s),
        "webhook-signature": " ".join(signatures),
    }


def signature(body: bytes, *, message: str, at_s: int, key: bytes) -> str:
    """Return the proof that whoever has the key sent this message at that time."""
    signed = b"%b.%d.%b" % (message.encode(), at_s, body)
    return f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
