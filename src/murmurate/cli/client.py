"""A small HTTP client for the command line: standard library only, so that `ask` starts fast."""

import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from murmurate.core.errors import KeyInvalidError, MurmurateError

TIMEOUT_S = 300.0


class NotRunningError(MurmurateError):
    """No server answers. Start one with `murmurate up`, or name one with --url and --key."""

    code = "cli.not_running"


class RefusedError(MurmurateError):
    """The server answered with an error of its own; the detail is its message."""

    code = "cli.refused"


@dataclass(frozen=True, slots=True)
class Server:
    """Where the server is, and the key to it."""

    url: str
    key: str

    @property
    def address(self) -> str:
        """Return host and port."""
        return urlsplit(self.url).netloc


def find(url: str | None, key: str | None, state: Path) -> Server:
    """Return the server that was named, or the one that runs on this state folder."""
    if url is not None:
        if key is None:
            raise KeyInvalidError("--url needs --key (or MURMURATE_KEY)")
        return Server(url.rstrip("/"), key)
    file = state / "ready.json"
    try:
        ready = json.loads(file.read_text())
        os.kill(ready["pid"], 0)  # a supervisor that was killed leaves its file behind
    except (OSError, ValueError, KeyError) as cause:
        raise NotRunningError(
            f"no server runs on {state}: start one with `murmurate up`, or give --url and --key"
        ) from cause
    return Server(ready["url"], key or ready["key"])


def call(
    server: Server, path: str, body: object = None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    """Send a request (POST with a body, GET without) and return the response, or raise."""
    response = send(server, path, body, headers)
    if response.status != 200:
        raise RefusedError(_message(response))
    return response


def send(
    server: Server, path: str, body: object = None, headers: dict[str, str] | None = None
) -> http.client.HTTPResponse:
    """Send a request and return the response, whatever its status."""
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.netloc, timeout=TIMEOUT_S)
    sent = None if body is None else json.dumps(body)
    every = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    try:
        connection.request(
            "GET" if sent is None else "POST", path, sent, {**every, **(headers or {})}
        )
        return connection.getresponse()
    except OSError as cause:
        raise NotRunningError(f"{server.url} does not answer: {cause}") from cause


def fetch(server: Server, path: str) -> dict[str, Any]:
    """Return the JSON of a GET."""
    return json.loads(call(server, path).read())


def lines(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the values of a response of JSON lines; an error among them is raised."""
    for line in response:
        value = json.loads(line)
        if "error" in value:
            raise RefusedError(value["error"]["message"])
        yield value


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the values of server-sent events until the end mark; an error among them is raised."""
    for raw in response:
        line = raw.strip()
        if not line.startswith(b"data: "):
            continue
        if line == b"data: [DONE]":
            return
        value = json.loads(line[6:])
        if "error" in value:
            raise RefusedError(value["error"]["message"])
        yield value
    raise RefusedError("the server went away in the middle of the answer: ask again")


def _message(response: http.client.HTTPResponse) -> str:
    """Return the server's own words about an error."""
    body = response.read(64 * 1024)
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status}"
