"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which server to talk to."""
    for option in (
        click.option(
            "--state",
            type=click.Path(path_type=Path),
            default=Path("state"),
            envvar="MURMURATE_SERVER__STATE",
            show_default=True,
            help="State folder of the local server.",
        ),
        click.option("--key", envvar="MURMURATE_KEY", help="Key, when not that of the folder."),
        click.option("--url", envvar="MURMURATE_URL", help="Server, when not the local one."),
    ):
        command = option(command)
    return command
