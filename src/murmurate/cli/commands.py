"""The `murmurate` command: finds its subcommands by name and loads only the one that is called."""

import importlib
from typing import Any

import click

from murmurate import __version__
from murmurate.core.errors import MurmurateError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

COMMANDS = {
    "up": "murmurate.cli.up",
    "ask": "murmurate.cli.ask",
    "chat": "murmurate.cli.ask",
    "ingest": "murmurate.cli.documents",
    "search": "murmurate.cli.documents",
    "knowledge": "murmurate.cli.documents",
    "trace": "murmurate.cli.ask",
    "runs": "murmurate.cli.runs",
    "replay": "murmurate.cli.replay",
    "batches": "murmurate.cli.batches",
    "keys": "murmurate.cli.keys",
    "usage": "murmurate.cli.usage",
    "backup": "murmurate.cli.backup",
    "restore": "murmurate.cli.backup",
    "log": "murmurate.cli.log",
    "deploy": "murmurate.cli.deploy",
    "doctor": "murmurate.cli.doctor",
}


class Commands(click.Group):
    """Prints our errors as one line that says what to do, instead of a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which one meets them."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the module of a command: a supervisor needs no HTTP client, `ask` no supervisor."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Run the command."""
        try:
            return super().invoke(ctx)
        except MurmurateError as error:
            click.echo(f"murmurate: {error.detail}", err=True)
            ctx.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Serve AI agents and models: on one machine with one command.

    \b
    murmurate up                          serve with the built-in model and documents
    murmurate ask "what is a session?"    ask the running server
    murmurate chat                        talk, with the conversation kept
    """
