"""The work of the log in memory: who may claim what, and who holds it. No I/O, no waiting.

Tenants take turns by start-time fair queueing (Goyal, Vin, Cheng, "Start-time Fair Queueing",
1996): the turn of new work is one behind the last one of its tenant, or behind the one that was
served last, if that is later. So a tenant that offers much waits behind itself, and one that offers
little is served soon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from murmurate.core.errors import FencedError, LogConflictError
from murmurate.core.ports import Claim, Done, Nudge, Offer, Renewal, Work, WorkInfo

_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Piece:
    offer: Offer
    turn: int
    runner: str | None = None
    epoch: int = 0
    nudged: bool = False

    @property
    def priority(self) -> int:
        return self.offer.priority or 0

    def due_now(self) -> "_Piece":
        return replace(self, offer=msgspec.structs.replace(self.offer, due_ms=0))


class Board:
    """All work by (tenant, stream), and the beats of all runners."""

    def __init__(self) -> None:
        self.beats: dict[str, int] = {}
        self._pieces: dict[_Key, _Piece] = {}
        self._served: dict[tuple[str, int], int] = {}

    def change(self, work: Sequence[Work], *, fence: Claim | None) -> None:
        """Change all or nothing; see `Log.append`."""
        if fence is not None:
            self._check(fence)
        before = {key: self._pieces.get(key) for key in ((w.tenant, w.stream) for w in work)}
        try:
            for change in work:
                self._change(change, fence)
        except (FencedError, LogConflictError):
            for key, piece in before.items():
                if piece is None:
                    self._pieces.pop(key, None)
                else:
                    self._pieces[key] = piece
            raise

    def claim(self, queue: str, runner: str, *, limit: int, now_ms: int) -> list[Claim]:
        """Give a runner the first pieces that are due."""
        if runner not in self.beats:
            return []
        due = [
            (-piece.priority, piece.turn, key)
            for key, piece in self._pieces.items()
            if piece.runner is None and piece.offer.queue == queue and piece.offer.due_ms <= now_ms
        ]
        claims: list[Claim] = []
        for *_, key in sorted(due)[:limit]:
            piece = self._pieces[key].due_now()
            piece = replace(piece, runner=runner, epoch=piece.epoch + 1, nudged=False)
            self._pieces[key] = piece
            lane = (queue, piece.priority)
            self._served[lane] = max(self._served.get(lane, 0), piece.turn)
            claims.append(Claim(*key, queue, runner, piece.epoch))
        return claims

    def renew(self, runner: str) -> Renewal:
        """Count a beat; hand over what the runner was nudged about."""
        known = runner in self.beats
        self.beats[runner] = self.beats.get(runner, 0) + 1
        nudged = [key for key, p in self._pieces.items() if p.runner == runner and p.nudged]
        for key in nudged:
            self._pieces[key] = replace(self._pieces[key], nudged=False)
        return Renewal(known, tuple(sorted(nudged)))

    def held(self, runner: str) -> list[Claim]:
        """Return what a runner holds."""
        return [
            Claim(*key, piece.offer.queue, runner, piece.epoch)
            for key, piece in sorted(self._pieces.items())
            if piece.runner == runner
        ]

    def revoke(self, runner: str, beat: int | None) -> bool:
        """Take everything from a runner, unless it has beaten since."""
        if runner not in self.beats or beat not in (None, self.beats[runner]):
            return False
        del self.beats[runner]
        for key, piece in self._pieces.items():
            if piece.runner == runner:
                self._pieces[key] = replace(piece, runner=None, nudged=False)
        return True

    def listed(self, tenant: str, queue: str) -> list[WorkInfo]:
        """Return the tenant's work of a queue, in the order of its streams."""
        return [
            WorkInfo(*key, queue, p.priority, p.offer.due_ms, p.runner, p.epoch)
            for key, p in sorted(self._pieces.items())
            if key[0] == tenant and p.offer.queue == queue
        ]

    def _check(self, fence: Claim) -> None:
        piece = self._pieces.get((fence.tenant, fence.stream))
        if piece is None or (piece.runner, piece.epoch) != (fence.runner, fence.epoch):
            raise FencedError(f"{fence.stream} is not held by {fence.runner} any more")

    def _change(self, change: Work, fence: Claim | None) -> None:
        key = (change.tenant, change.stream)
        piece = self._pieces.get(key)
        if isinstance(change, Nudge):
            if piece is not None:
                held = piece.runner is not None
                self._pieces[key] = replace(piece, nudged=True) if held else piece.due_now()
            return
        own = fence is not None and key == (fence.tenant, fence.stream)
        if piece is not None and piece.runner is not None and not own:
            raise FencedError(f"{change.stream} is held by {piece.runner}")
        if isinstance(change, Done):
            self._pieces.pop(key, None)
        elif piece is None:
            self._pieces[key] = self._new(change)
        elif change.holder is not None:
            raise LogConflictError(f"{change.stream} of {change.tenant} is offered already")
        else:
            if change.priority is None:
                change = msgspec.structs.replace(change, priority=piece.priority)
            offered = replace(piece, offer=change, runner=None, nudged=False)
            self._pieces[key] = offered.due_now() if piece.nudged else offered

    def _new(self, offer: Offer) -> _Piece:
        if offer.holder is not None and offer.holder not in self.beats:
            raise FencedError(f"{offer.holder} is not enlisted, or was revoked")
        epoch = 0 if offer.holder is None else 1
        return _Piece(offer, self._turn(offer), offer.holder, epoch)

    def _turn(self, offer: Offer) -> int:
        lane = (offer.queue, offer.priority or 0)
        own = [
            piece.turn
            for piece in self._pieces.values()
            if (piece.offer.queue, piece.priority) == lane and piece.offer.tenant == offer.tenant
        ]
        return max([0, *own, self._served.get(lane, 0)]) + 1
