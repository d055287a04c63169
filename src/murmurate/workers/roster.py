"""Which processes a service has, and what each is told at its start."""

import secrets
import socket
from pathlib import Path

import msgspec

from murmurate.config import Config, remote
from murmurate.workers.boot import EngineBoot, LibraryBoot, SandboxBoot, ServerBoot
from murmurate.workers.child import Child

SERVER = "murmurate.workers.server"


def children(config: Config, state: Path, listening: socket.socket, sockets: str) -> list[Child]:
    """Return the processes of a service: engines, library, sandbox, and the server in front."""
    found: list[Child] = []
    engine_keys: dict[str, str] = {}
    engine_sockets: dict[str, str] = {}
    for index, (name, model) in enumerate(config.models.items()):
        if model.engine.is_elsewhere:
            continue
        engine_keys[name] = secrets.token_hex(16)
        engine_sockets[name] = f"{sockets}/engine{index}.sock"
        boot = EngineBoot(name, model, engine_sockets[name], engine_keys[name])
        most = model.memory_bytes_max
        found.append(
            Child(f"engine {name}", "murmurate.workers.engine", boot, memory_bytes_max=most)
        )
    library = f"{sockets}/library.sock"
    sandbox = f"{sockets}/sandbox.sock"
    boot = LibraryBoot(
        library,
        str(state / "index"),
        config.embeddings,
        remote(config.embeddings) if config.embeddings.url is not None else None,
    )
    limits = config.workers
    most = limits.library_memory_bytes_max
    found.append(Child("library", "murmurate.workers.library", boot, memory_bytes_max=most))
    most = limits.sandbox_memory_bytes_max
    boot = SandboxBoot(sandbox)
    found.append(Child("sandbox", "murmurate.workers.sandbox", boot, memory_bytes_max=most))
    first = ServerBoot(
        config=config,
        state=str(state),
        listening=listening.fileno(),
        engine_sockets=engine_sockets,
        engine_keys=engine_keys,
        library=library,
        sandbox=sandbox,
    )
    most = limits.server_memory_bytes_max
    servers = [
        Child(
            f"server {number}" if number else "server",
            SERVER,
            msgspec.structs.replace(first, number=number),
            (listening.fileno(),),
            memory_bytes_max=most,
        )
        for number in range(config.server.workers)
    ]
    return [*servers, *found]  # first what takes longest until clients see it
