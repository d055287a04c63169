"""`murmurate deploy`: prints the configuration of what stands around the servers."""

from pathlib import Path

import click

from murmurate.config import load
from murmurate.core.errors import ConfigError
from murmurate.deploy.edge_proxy import CERTIFICATE, PRIVATE_KEY, Edge, Proxy, edge_proxy

PORT = click.IntRange(1, 65535)


@click.group()
def deploy() -> None:
    """Make configuration for other programs; nothing is changed or started."""


@deploy.command("edge-proxy")
@click.argument("kind", type=click.Choice([kind.value for kind in Proxy]))
@click.option("--name", "names", multiple=True, required=True, help="Host name; may be repeated.")
@click.option(
    "--server", "servers", multiple=True, help="HOST:PORT of a server [server.listen]; repeatable."
)
@click.option("--certificate", default=CERTIFICATE, help=f"PEM, with its chain [{CERTIFICATE}].")
@click.option("--private-key", default=PRIVATE_KEY, help=f"Its key, PEM [{PRIVATE_KEY}].")
@click.option("--port", type=PORT, default=443, help="Where https comes in [443].")
@click.option("--clear-port", type=PORT, default=80, help="Whence http is sent on to https [80].")
@click.option("--no-clear-port", is_flag=True, help="Send no plain HTTP on to https.")
@click.option(
    "--config", "config_file", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml]."
)
def edge_proxy_command(
    *,
    kind: str,
    names: tuple[str, ...],
    servers: tuple[str, ...],
    certificate: str,
    private_key: str,
    port: int,
    clear_port: int,
    no_clear_port: bool,
    config_file: Path | None,
) -> None:
    """Print the configuration of nginx or Envoy with TLS and HTTP/2 before the servers.

    Its bounds are those of the servers' configuration; see docs/howto/edge-proxy.md.

    \b
    Examples:
      murmurate deploy edge-proxy nginx --name api.example.com > /etc/nginx/conf.d/murmurate.conf
      murmurate deploy edge-proxy envoy --name api.example.com --server 10.0.0.5:8080
    """
    config = load(config_file)
    for words in (*names, certificate, private_key):
        _plain(words)
    edge = Edge(
        names=names,
        servers=servers or (config.server.listen,),
        certificate=certificate,
        private_key=private_key,
        port=port,
        clear_port=None if no_clear_port else clear_port,
    )
    click.echo(edge_proxy(Proxy(kind), edge, config), nl=False)


def _plain(words: str) -> None:
    """Refuse what would mean something to the program that reads it."""
    if not words or any(char in words for char in "\"'{};#$\\ \t\n"):
        raise ConfigError(f"{words!r}: expected a plain name or path, without spaces or quotes")
