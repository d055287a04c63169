"""Runs llama.cpp's own server inside this process, by way of xllamacpp."""

import http.client
import os
import socket
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from xllamacpp import CommonParams, Server  # pyright: ignore[reportAttributeAccessIssue]

from murmurate.adapters.gguf import (
    Header,
    check_fits,
    context_fitting,
    gigabytes,
    read_header,
)
from murmurate.adapters.machine import memory_bytes
from murmurate.config import CONTEXT_TOKENS, weights_path
from murmurate.core.errors import ConfigError, EngineFailedError, MurmurateError
from murmurate.workers.boot import EngineBoot
from murmurate.workers.lifeline import BEAT_S, beat, say_ready

THREADS_MAX = 8
"""More threads than this wait for each other on memory more than they compute."""

BATCH_TOKENS = 256
"""A prompt is read in steps of this size, and a cancel is seen between two of them: eight prompts
of 1,900 tokens were given up after 0.9 s, with the default of 2,048 after 2.6 s; speed is equal."""

PROMPT_CACHE_MIB = 256
"""Kept prompts of idle slots, in memory; llama.cpp's default is 8 GiB."""

READY_S = 30.0
CGROUP_CPU = Path("/sys/fs/cgroup/cpu.max")


class _Generation(msgspec.Struct, frozen=True):
    n_ctx: int


class _Props(msgspec.Struct, frozen=True):
    default_generation_settings: _Generation


def serve(boot: EngineBoot) -> None:
    """Load the weights, serve them on the socket, and never return."""
    header = read_header(weights_path(boot.model.weights or ""))
    check_fits(header, memory_bytes=memory_bytes())
    asked = context_fitting(header, boot.model.context_tokens, default=CONTEXT_TOKENS)
    try:
        server = Server(parameters(boot, header.files[0], cores(), context_tokens=asked))
    except RuntimeError as cause:
        raise _failure(header, asked * boot.model.slots, memory_bytes()) from cause
    os.chmod(boot.socket, 0o600)  # noqa: PTH101
    context_tokens = _context_tokens(boot)
    if context_tokens < asked:  # the header did not say what it was trained for
        raise ConfigError(
            f"context_tokens = {asked}, but {header.files[0]} was trained for "
            f"{context_tokens}; expected at most that"
        )
    say_ready(name=boot.name)
    while server is not None:
        with suppress(OSError, http.client.HTTPException):
            # Asked, not assumed: a server that is stuck must fall silent. Work does not delay it.
            if _get(boot, "/health")[0] == 200:
                beat()
        time.sleep(BEAT_S)


def _failure(header: Header, tokens: int, memory: int | None) -> MurmurateError:
    """Say what llama.cpp leaves unsaid; lasting where it can't be for lack of memory."""
    needed = header.size_bytes + header.kv_bytes_per_token * tokens
    if memory is not None and needed < memory // 2:
        return ConfigError(
            f"llama.cpp can't load {header.files[0]}; its own words stand above. Where it does not "
            f"know the architecture {header.architecture!r}, a newer xllamacpp than "
            f"{version('xllamacpp')} may; else take another file of the model"
        )
    there = "" if memory is None else f"; there are {gigabytes(memory)}"
    return EngineFailedError(
        f"llama.cpp can't start on {header.files[0]}; its own words stand above. Weights and "
        f"{tokens} tokens of context take up to {gigabytes(needed)}{there}: try fewer slots or "
        "context_tokens"
    )


def parameters(boot: EngineBoot, weights: Path, cores: int, *, context_tokens: int) -> Any:  # noqa: ANN401 - has no stubs
    """Return llama.cpp's settings for this model."""
    model = boot.model
    threads = model.threads or min(cores, THREADS_MAX)
    params: Any = CommonParams()
    params.model.path = str(weights)
    params.n_parallel = model.slots
    # Apart, not unified: each slot has its context to itself, so that a request that was admitted
    # never fails because its neighbours' prompts are long.
    params.n_ctx = context_tokens * model.slots
    params.kv_unified = False
    params.fit_params = False  # never silently smaller than was asked for
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.hostnames, params.api_keys = [boot.socket], [boot.key]
    params.ui = params.endpoint_slots = False
    params.verbosity = 1  # errors only; prompts are never among them
    return params


def cores() -> int:
    """Return how many cores this process may use: of the machine, by affinity and by quota."""
    allowed = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = CGROUP_CPU.read_text().split()
        return max(1, min(allowed, int(quota) // int(period)))
    except (OSError, ValueError):  # no cgroup, or "max": no quota
        return allowed


def _context_tokens(boot: EngineBoot) -> int:
    """Wait for the server's own word that it is well; return the context that each slot got."""
    deadline_s = time.perf_counter() + READY_S
    while _get(boot, "/health")[0] != 200:
        if time.perf_counter() > deadline_s:
            raise EngineFailedError(f"llama.cpp was not well after {READY_S:g} s")
        time.sleep(0.01)
    _, body = _get(boot, "/props")
    return msgspec.json.decode(body, type=_Props).default_generation_settings.n_ctx


def _get(boot: EngineBoot, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("engine", timeout=READY_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(boot.socket)
        connection.request("GET", path, headers={"Authorization": f"Bearer {boot.key}"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
