"""What the supervisor tells each worker at its start, as one line of JSON on its stdin."""

import msgspec

from murmurate.config import Config, EmbeddingsConfig, ModelConfig, Remote


class EngineBoot(msgspec.Struct, frozen=True):
    """Serve this model on that socket, to whoever has the key."""

    name: str
    model: ModelConfig
    socket: str
    key: str


class LibraryBoot(msgspec.Struct, frozen=True):
    """Serve on that socket, and keep the index in that folder.

    `remote` is how to reach the embedder where it is another server, with its secrets.
    """

    socket: str
    index: str
    embeddings: EmbeddingsConfig = EmbeddingsConfig()
    remote: Remote | None = None


class SandboxBoot(msgspec.Struct, frozen=True):
    """Serve on that socket."""

    socket: str


class ServerBoot(msgspec.Struct, frozen=True):
    """Serve HTTP on an inherited listening socket, with the other workers behind."""

    config: Config
    state: str
    listening: int
    engine_sockets: dict[str, str]
    engine_keys: dict[str, str]
    library: str
    sandbox: str
    runner: str = ""
    """The name of this life of the server, under which it holds runs; drawn at each start."""
    gone: tuple[str, ...] = ()
    """The names of lives that are over: their runs are free."""
    number: int = 0
    """Which of the servers side by side it is; the first one looks after documents and the log."""
