"""What stands before the servers towards the Internet: TLS and HTTP/2 by nginx or Envoy. Pure.

A proxy in front must not undo what the servers do: buffer no stream, repeat no request, keep a
client's leaving no secret, know the same bounds, and not open `/metrics`, which answers whoever
comes from the servers' own machine, as the proxy may.
"""

import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address

from murmurate.config import Config, listen_address
from murmurate.core.errors import ConfigError
from murmurate.core.types import Frozen
from murmurate.deploy.envoy import CLEAR_LISTENER, ENDPOINT, ENVOY
from murmurate.deploy.nginx import CLEAR_SERVER, NGINX

MARGIN_S = 15
"""How much longer than the servers the proxy waits: their errors say what happened, its don't."""
CERTIFICATE = "/etc/ssl/murmurate/fullchain.pem"
PRIVATE_KEY = "/etc/ssl/murmurate/privkey.pem"
HTTPS_PORT = 443
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - what nobody can connect to

_PLACE = re.compile(r"@([a-z_]+)@")


class Proxy(StrEnum):
    """The programs that can stand in front."""

    NGINX = "nginx"
    ENVOY = "envoy"


class Edge(Frozen, frozen=True):
    """Where clients come in, and where the servers are."""

    names: tuple[str, ...]
    """The host names that the certificate is for."""
    servers: tuple[str, ...]
    """HOST:PORT of each server."""
    certificate: str = CERTIFICATE
    private_key: str = PRIVATE_KEY
    port: int = HTTPS_PORT
    clear_port: int | None = 80
    """Where plain HTTP is sent on to https; None: nowhere."""


def edge_proxy(kind: Proxy, edge: Edge, config: Config) -> str:
    """Return the proxy's configuration for servers of that configuration.

    `ConfigError`: a server's address is none that can be reached, or the servers would refuse the
    `Host` that clients send.
    """
    for server in edge.servers:
        host, port = listen_address(server)
        if not port or host in ANY_ADDRESS:
            raise ConfigError(
                f"--server {server}: expected the HOST:PORT that the proxy can connect to"
            )
    if strangers := [name for name in edge.names if not _is_known(name, config)]:
        listed = ", ".join(f'"{name}"' for name in strangers)
        raise ConfigError(
            f"the servers would refuse requests for {', '.join(strangers)}: add"
            f" `hosts = [{listed}]` to [server]"
        )
    values = {**_shared(edge, config), **(_nginx if kind is Proxy.NGINX else _envoy)(edge)}
    return _filled(NGINX if kind is Proxy.NGINX else ENVOY, values)


def _is_known(name: str, config: Config) -> bool:
    """Tell whether the servers take this `Host` (see `gateway/auth.py`)."""
    try:
        ip_address(name)
    except ValueError:
        return name.lower() in {"localhost", *map(str.lower, config.server.hosts)}
    return True


def _shared(edge: Edge, config: Config) -> dict[str, object]:
    """Return what both programs are told, by its name in the templates."""
    http = config.http
    waits_s = [max(model.first_token_s, model.stall_s) for model in config.models.values()]
    return {
        "certificate": edge.certificate,
        "private_key": edge.private_key,
        "port": edge.port,
        "body_bytes_max": config.server.body_bytes_max,
        "head_s": f"{http.head_s:g}",
        "head_kb": max(http.head_bytes_max // 1024, 1),
        "url_bytes_max": http.url_bytes_max,
        "head_buffers": max(http.head_bytes_max // http.url_bytes_max, 4),
        "headers_max": http.headers_max,
        "body_s": f"{http.body_s:g}",
        "unread_s": f"{http.unread_s:g}",
        "keep_alive_s": f"{http.keep_alive_s:g}",
        "connections_max": http.connections_max,
        # How long an answer may say nothing: longer, and its server ends it itself.
        "silence_s": int(max([*waits_s, http.unread_s])) + MARGIN_S,
    }


def _nginx(edge: Edge) -> dict[str, object]:
    names = " ".join(edge.names)
    shown = "" if edge.port == HTTPS_PORT else f":{edge.port}"
    clear = {"clear_port": edge.clear_port, "names": names, "shown_port": shown}
    return {
        "names": names,
        "servers": "\n".join(
            f"    server {it} max_fails=1 fail_timeout=2s;" for it in edge.servers
        ),
        "clear_server": "" if edge.clear_port is None else _filled(CLEAR_SERVER, clear),
    }


def _envoy(edge: Edge) -> dict[str, object]:
    places = [listen_address(server) for server in edge.servers]
    redirect = "" if edge.port == HTTPS_PORT else f"port_redirect: {edge.port}, "
    clear = {"clear_port": edge.clear_port, "port_redirect": redirect}
    return {
        "domains": ", ".join(f'"{name}", "{name}:*"' for name in edge.names),
        "endpoints": "".join(_filled(ENDPOINT, {"host": h, "server_port": p}) for h, p in places),
        "clear_listener": "" if edge.clear_port is None else _filled(CLEAR_LISTENER, clear),
    }


def _filled(template: str, values: Mapping[str, object]) -> str:
    return _PLACE.sub(lambda found: str(values[found[1]]), template)
