"""What settings name on this machine: files, folders and addresses."""

from pathlib import Path

from murmurate.core.errors import ConfigError

DATA = Path(__file__).parents[1] / "data"


def weights_path(weights: str) -> Path:
    """Return the file behind `builtin:NAME` or a path."""
    if weights.startswith("builtin:"):
        return DATA / f"{weights.removeprefix('builtin:')}.gguf"
    return Path(weights).expanduser()


def documents_path(folder: str) -> Path:
    """Return the folder behind `builtin:docs` or a path."""
    if folder == "builtin:docs":
        installed = DATA / "docs"
        return installed if installed.is_dir() else Path(__file__).parents[3] / "docs"
    return Path(folder).expanduser().absolute()


def listen_address(listen: str) -> tuple[str, int]:
    """Split `host:port` (or `[::1]:port`); port 0 lets the system choose."""
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"server.listen = {listen!r}: expected HOST:PORT, port 0 to 65535")
    return host.strip("[]") or "127.0.0.1", int(port)
