"""What a service says of itself, and its documents' first reading."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec

from murmurate.compose.opening import Outside
from murmurate.config import Config, documents_path
from murmurate.core.errors import MurmurateError, NotFoundError
from murmurate.core.types import Caller, SessionRef
from murmurate.gateway.ports import Readiness
from murmurate.gateway.scopes import OPERATOR_TENANT, is_operator
from murmurate.knowledge.service import Collections
from murmurate.sync.service import Sessions

NOT_READ = "not read yet"
NOT_READABLE = "can't be read"
READY = "ready"
OTHER_DOCUMENTS = "documents of other tenants"
FIRST_PASS_WAIT_S = 2.0
FIRST_PASS_WAIT_S_MAX = 60.0
HEALTH_KEPT_S = 1.0
EXAMINE_EVERY_S = 24 * 3600.0
READY_WAIT_S = 60.0
"""How long /readyz waits for the first pass over the documents; after that it is ready without."""


class Platform:
    """Answers questions about the service itself (the gateway's `Platform` port)."""

    def __init__(
        self,
        config: Config,
        outside: Outside,
        sessions: Sessions,
        collections: Collections,
        *,
        tenants: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """`tenants` says who has keys: they may have documents that are configured no more."""
        self._config = config
        self._tenants = tenants
        self._outside = outside
        self._sessions = sessions
        self._collections = collections
        self._began_s = outside.clock.now_s()
        self._healthy: dict[str, bool] = {}
        self._healthy_until_s = 0.0
        begins = NOT_READ if outside.leads else READY
        self._first_pass: dict[str, str] = dict.fromkeys(config.knowledge, begins)

    def chat_models(self, tenant: str) -> Sequence[str]:
        """Return agents first, then models; no agent that answers from what is not the tenant's."""
        own = set(self._collections_of(tenant))
        agents = (name for name, it in self._config.agents.items() if own.issuperset(it.knowledge))
        return [*agents, *self._outside.engines]

    def model_of(self, name: str) -> str:
        """Return an agent's own model, or the model of that name."""
        agent = self._config.agents.get(name)
        return name if agent is None else agent.model

    def models(self, tenant: str) -> Sequence[str]:
        """Return every name, embedders last."""
        embedders = [] if self._outside.embedder is None else [self._config.embeddings.name]
        return [*self.chat_models(tenant), *embedders]

    def _collections_of(self, tenant: str) -> list[str]:
        return [name for name, it in self._config.knowledge.items() if tenant in it.tenants]

    async def readiness(self) -> Readiness:
        """Ready: every local engine answers, and the documents have been read, or tried to be."""
        parts: dict[str, str] = {}
        ready = True
        for name, healthy in (await self._engines_healthy()).items():
            parts[f"model {name}"] = READY if healthy else "not reachable"
            ready = ready and healthy
        waiting = self._outside.clock.now_s() - self._began_s < READY_WAIT_S
        for name, state in self._first_pass.items():
            if OPERATOR_TENANT in self._config.knowledge[name].tenants:
                parts[f"documents {name}"] = state
            elif parts.get(OTHER_DOCUMENTS, READY) == READY:  # anybody may read this: no names
                parts[OTHER_DOCUMENTS] = state if state in {READY, NOT_READ} else NOT_READABLE
            ready = ready and (state != NOT_READ or not waiting)
        # It says how many places, never whose: /readyz is open to everybody. All else is served.
        damaged = self.log_damaged()
        parts["log"] = f"{damaged} places are damaged: murmurate doctor" if damaged else READY
        # What does not need them is served all the same, so they are said and no reason to be not.
        troubles = {f"process {name}": t for name, t in self._outside.troubles().items()}
        parts |= {name: trouble.how for name, trouble in troubles.items()}
        here = {
            name: f"{trouble.how}; its last words: {trouble.words}"
            for name, trouble in troubles.items()
            if trouble.words
        }
        return Readiness(ready, parts, here)

    def log_damaged(self) -> int:
        """Return how many places of the log are known to be damaged."""
        return 0 if self._outside.log_care is None else len(self._outside.log_care.damage)

    def log_faults(self) -> int:
        """Return how often a write to the log failed by the disk, or by a lost connection."""
        return 0 if self._outside.log_care is None else self._outside.log_care.faults

    async def examine_log(self) -> None:
        """Look for damage in the log, once a day, as long as the service runs."""
        care = self._outside.log_care
        while care is not None:
            try:
                await care.examine()
            except MurmurateError as error:
                self._outside.events.event("log.not_examined", detail=str(error))
            await self._outside.clock.sleep(EXAMINE_EVERY_S)

    async def _engines_healthy(self) -> dict[str, bool]:
        """Ask our own engines, at most once a second: /readyz is open to everybody.

        A remote upstream is left alone: its outage is not ours to be restarted for.
        """
        now_s = self._outside.clock.now_s()
        if now_s >= self._healthy_until_s:
            local = {
                name: engine
                for name, engine in self._outside.engines.items()
                if not self._config.models[name].engine.is_elsewhere
            }
            well = await asyncio.gather(*(engine.health() for engine in local.values()))
            self._healthy = dict(zip(local, well, strict=True))
            # A bad word is not kept: whoever waits for readiness asks again soon.
            self._healthy_until_s = now_s + (HEALTH_KEPT_S if all(well) else 0.0)
        return self._healthy

    async def trace(self, tenant: str, trace_id: str) -> Sequence[Any]:
        """Return the spans of one of the tenant's traces."""
        spans = await self._outside.traces.spans(tenant, trace_id)
        if not spans:
            raise NotFoundError(f"there is no trace {trace_id[:64]!r}")
        return spans

    async def session(self, tenant: str, session_id: str) -> Sequence[Any]:
        """Return the newest messages of one of the tenant's sessions."""
        return await self._sessions.history(tenant, SessionRef(session_id))

    async def knowledge(self, caller: Caller) -> Sequence[Any]:
        """Return the state of every collection of the tenant; the index's size to operators."""
        found = await self._collections.status(caller.tenant)
        if is_operator(caller):
            return found
        return [msgspec.structs.replace(it, index_bytes=None) for it in found]

    async def ingest(
        self, tenant: str, collections: Sequence[str], *, paths: Sequence[str] = ()
    ) -> AsyncGenerator[Any]:
        """Read the tenant's folders again and say how far it is."""
        names = [*collections, *(self._holder(tenant, path) for path in paths)]
        for name in self._own(tenant, dict.fromkeys(names)):
            async with aclosing(self._collections.sync(tenant, name)) as steps:
                async for step in steps:
                    yield step

    async def search(
        self, tenant: str, collections: Sequence[str], question: str, *, limit: int
    ) -> Sequence[Any]:
        """Return the passages of documents that may answer, best first; no names: of all."""
        names = list(self._own(tenant, dict.fromkeys(collections)))
        return await self._collections.search(tenant, names, question, limit=limit)

    def _own(self, tenant: str, collections: Collection[str]) -> Collection[str]:
        """Return the collections, when they are the tenant's; none means all that are."""
        own = self._collections_of(tenant)
        for name in collections:
            if name not in own:
                known = ", ".join(own) or "none is configured"
                raise NotFoundError(f"there is no collection {name!r}; there are: {known}")
        return collections or own

    def _holder(self, tenant: str, path: str) -> str:
        """Return the tenant's collection that has this path in its folder; no file is looked at."""
        for name in self._collections_of(tenant):
            if Path(path).is_relative_to(documents_path(self._config.knowledge[name].folder)):
                return name
        raise NotFoundError(
            f"{path}: no collection's folder has it; put it into one, or configure its folder "
            "as [knowledge.NAME] folder = …"
        )

    async def follow(self) -> None:
        """Read every collection, then again whenever its folder changes, until cancelled."""
        tenants = {tenant for it in self._config.knowledge.values() for tenant in it.tenants}
        for tenant in sorted({OPERATOR_TENANT, *tenants, *self._tenants()}):
            try:
                for name in await self._collections.forget_removed(tenant):
                    self._outside.events.event("ingest.removed", collection=name)
            except MurmurateError as error:
                self._outside.events.event("ingest.failed", collection="", detail=str(error))
        async with asyncio.TaskGroup() as following:
            for name in self._first_pass:
                following.create_task(self._follow(name))

    async def _follow(self, name: str) -> None:
        await self._read_first(name)
        async with asyncio.TaskGroup() as watches:
            for tenant in self._config.knowledge[name].tenants:
                watches.create_task(self._watch(tenant, name))

    async def _watch(self, tenant: str, name: str) -> None:
        watch = self._collections.watch(tenant, name)
        while watch is not None:
            try:
                await watch.run()
            except Exception as fault:  # noqa: BLE001 - one that nobody foresaw ends no watch
                detail = f"fault: {type(fault).__name__}"
                self._outside.events.event("ingest.failed", collection=name, detail=detail)
                await self._outside.clock.sleep(FIRST_PASS_WAIT_S_MAX)

    async def first_pass(self) -> None:
        """Read every collection once at start, side by side: a fault in one stops no other."""
        async with asyncio.TaskGroup() as passes:
            for name in self._first_pass:
                passes.create_task(self._read_first(name))

    async def _read_first(self, name: str) -> None:
        """Read a collection; note a fault and try again, less often each time."""
        wait_s = FIRST_PASS_WAIT_S
        while self._first_pass[name] != READY:
            try:
                for tenant in self._config.knowledge[name].tenants:
                    async with aclosing(self.ingest(tenant, [name])) as steps:
                        async for _ in steps:
                            pass
                self._first_pass[name] = READY
            except MurmurateError as error:
                self._first_pass[name] = str(error)
            except Exception as fault:  # noqa: BLE001 - one that nobody foresaw must be seen, too
                self._first_pass[name] = f"fault: {type(fault).__name__}"
            if self._first_pass[name] != READY:
                state = self._first_pass[name]
                self._outside.events.event("ingest.failed", collection=name, detail=state)
                await self._outside.clock.sleep(wait_s)
                wait_s = min(wait_s * 2, FIRST_PASS_WAIT_S_MAX)
