"""The command line: parse, ask the running server (or start one), print."""

from murmurate.cli.commands import main

__all__ = ["main"]
