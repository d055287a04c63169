"""Options that several commands share."""

from collections.abc import Callable
from pathlib import Path

import click

from murmurate.core.errors import MurmurateError

STATE_DEFAULT = Path("state")


def configured_state() -> Path:
    """Return the state folder of the file that `--config` names, or of the default one.

    A broken configuration is `up`'s and `doctor`'s to tell: a running server is asked all the same.
    """
    from murmurate.config import load  # noqa: PLC0415 - not needed when the folder is named

    named = click.get_current_context().params.get("config")  # read before what is not given
    try:
        return Path(load(named if isinstance(named, Path) else None).server.state)
    except (MurmurateError, OSError):
        return STATE_DEFAULT


def connected(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say which server to talk to."""
    for option in (
        click.option(
            "--state",
            type=click.Path(path_type=Path),
            default=configured_state,
            envvar="MURMURATE_SERVER__STATE",
            help="State folder of the local server [that of ./murmurate.toml, else ./state].",
        ),
        click.option("--key", envvar="MURMURATE_KEY", help="Key, when not that of the folder."),
        click.option("--url", envvar="MURMURATE_URL", help="Server, when not the local one."),
    ):
        command = option(command)
    return command
