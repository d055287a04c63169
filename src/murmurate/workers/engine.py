"""The engine worker: one replica of one model, behind OpenAI's protocol on a Unix socket."""

import importlib
import os
import signal
import sys
import threading
from pathlib import Path

from murmurate.config import Engine
from murmurate.core.errors import ConfigError, MurmurateError
from murmurate.workers.boot import EngineBoot
from murmurate.workers.lifeline import EXIT_CONFIG, boot

SERVERS = {
    Engine.LLAMA_CPP: "murmurate.workers.llama_cpp",
    Engine.SCRIPTED: "murmurate.workers.scripted",
}
"""Imported when named: llama.cpp's library alone has 100 MB."""

EXIT_FAILED = 1


def main() -> None:
    """Serve until SIGTERM, or until the supervisor is gone."""
    end_at_once_on_sigterm()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's to handle
    message = boot(EngineBoot)
    os.umask(0o177)  # the socket is its owner's alone from the moment it exists
    Path(message.socket).unlink(missing_ok=True)  # left behind by a killed worker
    try:
        importlib.import_module(SERVERS[message.model.engine]).serve(message)
    except MurmurateError as error:
        sys.stderr.write(f"murmurate: models.{message.name}: {error.detail}\n")
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)


def end_at_once_on_sigterm() -> None:
    """Exit with 0 from a thread of its own: loading weights keeps the main thread for seconds.

    Must run before any other thread starts, as those inherit that the signal is blocked.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        signal.sigwait({signal.SIGTERM})
        os._exit(0)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


if __name__ == "__main__":
    main()
