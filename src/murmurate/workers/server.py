"""The server process: one event loop with everything between HTTP and the other workers."""

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

import uvicorn
import uvloop

from murmurate import compose
from murmurate.adapters.http_edge import Edge, EdgeLimits, HttpEdge, connections_max
from murmurate.adapters.logs import Bridge, Seldom
from murmurate.config import Config, Role
from murmurate.core.clock import Clock
from murmurate.core.errors import (
    ConfigError,
    LogCorruptError,
    LogNewerError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.ports import EventLog
from murmurate.workers.boot import ServerBoot
from murmurate.workers.lifeline import EXIT_CONFIG, beating, beating_meanwhile, boot, say_ready

READY_POLL_S = 0.05
EXIT_FAILED = 1
FAULT_PAUSE_S = 1.0
GC_THRESHOLDS = (10_000, 20, 50)
"""New objects, and rounds of the younger ones, before a generation is looked through."""
FAULT_CHARS_MAX = 500
LASTING = (ConfigError, LogCorruptError, LogNewerError, LogUnavailableError)
"""What starting again doesn't mend."""


class Server(uvicorn.Server):
    """uvicorn, with our own signal handling: it would end itself with the signal it was sent."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave the signals alone."""
        yield


class Words:
    """What the supervisor says while the server runs: each word is the name of a runner that died.

    They come in a thread of their own, also before the event loop is there.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._gone: asyncio.Queue[str] = asyncio.Queue()

    def hear(self, word: str) -> None:
        """Pass a word on to the loop. A server that is only starting revokes nobody yet."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._gone.put_nowait, word)

    async def take_over(self, service: compose.Service, known: Sequence[str]) -> None:
        """Free the runs of all who are known to be dead, now and later."""
        self._loop = asyncio.get_running_loop()
        for name in known:
            self._gone.put_nowait(name)
        while True:
            name = await self._gone.get()
            try:
                await service.runner.take_over(name)
            except MurmurateError as error:  # it will be seen to stand still
                service.outside.events.event("runs.log", code=error.code, detail=error.detail)


async def main(message: ServerBoot, words: Words) -> None:
    """Serve until SIGTERM, then finish what is under way and close everything in order."""
    try:
        # A large log is upgraded or salvaged here: a start that is ended for it never gets further.
        with beating_meanwhile():
            service = await composed(message)
    except MurmurateError as error:
        end(error.detail, EXIT_CONFIG if isinstance(error, LASTING) else EXIT_FAILED)
    except OSError as cause:  # such as a full disk, or a file of somebody else's in the folder
        end(f"{cause.filename or message.state}: {cause.strerror or cause}", EXIT_CONFIG)
    seldom_collected()
    heart = asyncio.create_task(beating())  # from here on nothing may keep the loop for long
    listening = socket.socket(fileno=message.listening)
    server = Server(settings(message.config, service))

    def drain() -> None:
        service.app.drain()
        service.runner.drain()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, drain)
    events, clock = service.outside.events, service.outside.clock
    work: list[Callable[[], Awaitable[None]]] = [
        lambda: announce(service, listening),
        lambda: service.opened.registry.follow(events),
        service.runner.run,
        lambda: words.take_over(service, message.gone),
        *(errands.run for errands in service.errands),
        service.schedules.keep,
        service.trail.keep,
        service.approvals.keep_count,
        service.book.keep,
    ]
    if message.number == 0:
        work += [service.platform.follow, service.platform.examine_log]
        work += [retention.keep_up for retention in service.retentions]
        work.append(service.book.keep_tidy)
    tasks = [asyncio.create_task(lasting(each, events, clock)) for each in work]
    try:
        await server.serve(sockets=[listening])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for write in (service.book.write, service.trail.write_counts):
            with contextlib.suppress(MurmurateError):  # the log may be what ended us
                await write()
        await compose.close(service.outside)
        heart.cancel()


def seldom_collected() -> None:
    """Let the garbage collector look less often, and never at what is there for good.

    What a request leaves behind is freed without it. As it comes by default, it took 11 % of the
    time while 1,000 streams were open (benchmarks/gateway.py).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def lasting(work: Callable[[], Awaitable[None]], events: EventLog, clock: Clock) -> None:
    """Do it, and begin again when it meets a fault that nobody foresaw: the server needs it."""
    while True:
        try:
            return await work()
        except Exception as fault:  # noqa: BLE001 - whatever it is must not go unseen
            events.event("server.fault", fault=f"{type(fault).__name__}: {fault}"[:FAULT_CHARS_MAX])
            await clock.sleep(FAULT_PAUSE_S)


def settings(config: Config, service: compose.Service) -> uvicorn.Config:
    """Return uvicorn's settings: our edge, and whatever it or asyncio says in our own log."""
    http = config.http
    seldom = Seldom(service.outside.events, clock=service.outside.clock)
    for name in ("uvicorn.error", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [Bridge(seldom)], False
    limits = EdgeLimits(
        head_s=http.head_s,
        head_bytes=http.head_bytes_max,
        headers=http.headers_max,
        url_bytes=http.url_bytes_max,
        unread_s=http.unread_s,
        connections=connections_max(http.connections_max),
    )
    if limits.connections < http.connections_max:
        service.outside.events.event("http.connections", most=limits.connections)
    edge = Edge(limits, on_refused=lambda code: seldom.event("http.refused", code))
    return uvicorn.Config(
        service.app,
        lifespan="off",
        ws="none",
        http=cast("type[HttpEdge]", partial(HttpEdge, edge=edge)),
        access_log=False,
        proxy_headers=False,  # anybody can write them, and "from loopback" opens /metrics
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=math.ceil(http.keep_alive_s),
        timeout_graceful_shutdown=math.ceil(config.server.drain_s),
    )


async def composed(message: ServerBoot) -> compose.Service:
    """Return the platform over its real adapters."""
    state = Path(message.state)
    workers = compose.Workers(
        message.engine_sockets, message.engine_keys, message.library, message.sandbox
    )
    place = compose.Place(
        state, message.runner, message.number, lambda detail: end(detail, EXIT_FAILED)
    )
    outside = await compose.outside(message.config, place, workers)
    if message.config.server.role is Role.WORKER:
        opened = await compose.read_keys(outside.log, outside.clock, outside.ids)
    else:
        opened = await compose.open_keys(
            outside.log, outside.clock, outside.ids, first_key=state / "key", events=outside.events
        )
    opened = replace(opened, by_token=compose.tenants_by_token(message.config))
    service = compose.service(message.config, outside, opened)
    await service.runner.enlist()
    return service


def end(detail: str, exit_code: int) -> NoReturn:
    """Say in one line why there is no service, and exit without unwinding what is half open."""
    with contextlib.suppress(OSError):  # nobody may read it
        sys.stderr.write(f"murmurate: {detail}\n")
        sys.stderr.flush()
    os._exit(exit_code)


async def announce(service: compose.Service, listening: socket.socket) -> None:
    """Tell the supervisor as soon as /readyz would say 200."""
    while not (await service.platform.readiness()).ready:
        await service.outside.clock.sleep(READY_POLL_S)
    host, port = listening.getsockname()[:2]
    say_ready(url=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    heard = Words()
    uvloop.run(main(boot(ServerBoot, on_word=heard.hear), heard))
