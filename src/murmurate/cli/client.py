"""A small HTTP client for the command line: standard library only, so that `ask` starts fast."""

import http.client
import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from murmurate.core.errors import ConfigError, KeyInvalidError, MurmurateError

TIMEOUT_S = 300.0
SCHEMES = {"http", "https"}
DONE = {200, 202}
KEY_REFUSED = {401, 403}
CUT = "the server went away in the middle of the answer: ask again"
STRANGE = "the answer is not in the form that murmurate speaks: check --url"


class NotRunningError(MurmurateError):
    """No server answers there.

    Start one with `murmurate up`, or name one with `--url` and `--key`.
    """

    code = "cli.not_running"


class RefusedError(MurmurateError):
    """The server answered with an error of its own, or with something strange.

    The message is its own: do what it says, or check `--url`.
    """

    code = "cli.refused"


class CutError(RefusedError):
    """The server went away in the middle of an answer."""


class KeyRefusedError(RefusedError):
    """The server runs, but this key may not ask for that there."""


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
    if key is not None and not (key.isascii() and key.isprintable()):
        raise KeyInvalidError("--key: expected one line of printable ASCII characters")
    if url is not None:
        if key is None:
            raise KeyInvalidError("--url needs --key (or MURMURATE_KEY)")
        return Server(_checked(url), key)
    file = state / "ready.json"
    try:
        ready = json.loads(file.read_text())
        found = Server(str(ready["url"]), key or _kept_key(state) or str(ready["key"]))
        os.kill(ready["pid"], 0)  # a supervisor that was killed leaves its file behind
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as cause:
        raise NotRunningError(
            f"no server runs on {state}: start one with `murmurate up`, or give --url and --key"
        ) from cause
    return found


def _kept_key(state: Path) -> str | None:
    """Return the key of the state folder, which may have been rotated since the server started."""
    try:
        kept = (state / "key").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return kept if kept.isascii() and kept.isprintable() else None


def _checked(url: str) -> str:
    """Return the URL when one can ask there."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in SCHEMES and parts.hostname is not None and parts.port != 0
    except ValueError:  # the port is none, or the brackets of the address don't close
        usable = False
    if not usable:
        raise ConfigError(f"--url {url!r}: expected http://HOST:PORT or https://HOST:PORT")
    return url.rstrip("/")


def call(
    server: Server,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> http.client.HTTPResponse:
    """Send a request (POST with a body, else GET) and return the response, or raise."""
    return answered(send(server, path, body, headers, method=method, timeout_s=timeout_s))


def answered(response: http.client.HTTPResponse) -> http.client.HTTPResponse:
    """Return a response that is what was asked for, or raise."""
    if response.status in KEY_REFUSED:
        raise KeyRefusedError(_message(response))
    if response.status not in DONE:
        raise RefusedError(_message(response))
    return response


def send(
    server: Server,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    timeout_s: float = TIMEOUT_S,
) -> http.client.HTTPResponse:
    """Send a request and return the response, whatever its status."""
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    sent = None if body is None else json.dumps(body)
    verb = method or ("GET" if sent is None else "POST")
    every = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    connection = kind(parts.netloc, timeout=timeout_s)
    try:
        connection.request(verb, path, sent, {**every, **(headers or {})})
        return connection.getresponse()
    except (OSError, http.client.HTTPException, ValueError) as cause:
        connection.close()
        raise _unanswered(server, cause) from cause


def _unanswered(server: Server, cause: Exception) -> NotRunningError | RefusedError:
    """Return why there is no answer."""
    if isinstance(cause, http.client.RemoteDisconnected):
        return NotRunningError(f"{server.url} hung up without an answer: ask again")
    if isinstance(cause, http.client.BadStatusLine | http.client.LineTooLong):
        return NotRunningError(f"{server.url} does not speak HTTP: check --url")
    if isinstance(cause, OSError | http.client.HTTPException):
        return NotRunningError(f"{server.url} does not answer: {cause}")
    return RefusedError(f"this can't be sent: {cause}")  # a header with a line break in it


def fetch(server: Server, path: str, *, timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
    """Return the JSON of a GET."""
    return read(call(server, path, timeout_s=timeout_s))


def read(response: http.client.HTTPResponse) -> dict[str, Any]:
    """Return the JSON object that is the body."""
    with whole():
        body = response.read()
    return _object(body)


def lines(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the values of a response of JSON lines; an error among them is raised."""
    for line in _received(response):
        yield _object(line)


def events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the values of server-sent events until the end mark; an error among them is raised."""
    for data in _data(response):
        if data == b"[DONE]":
            return
        yield _object(data)
    raise CutError(CUT)


def news(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """Yield the values of server-sent events as long as they come; an error among them is raised.

    Only who knows the last of them can tell whether the server has gone too early.
    """
    for data in _data(response):
        yield _object(data)


def _data(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the data of server-sent events."""
    if response.headers.get_content_type() != "text/event-stream":
        raise RefusedError(STRANGE)
    for raw in _received(response):
        line = raw.strip()
        if line.startswith(b"data: "):
            yield line[6:]


def _received(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a body as they come."""
    while True:
        with whole():
            line = response.readline()
        if not line:
            return
        yield line


@contextmanager
def whole() -> Generator[None]:
    """Say in our words that a body ended too early."""
    try:
        yield
    except (OSError, http.client.HTTPException) as cause:
        raise CutError(CUT) from cause


def _object(text: bytes) -> dict[str, Any]:
    """Return a JSON object; the error that it may carry is raised."""
    try:
        value = json.loads(text)
    except ValueError as cause:
        raise RefusedError(STRANGE) from cause
    if not isinstance(value, dict):
        raise RefusedError(STRANGE)
    found = cast("dict[str, Any]", value)
    error = found.get("error")
    if isinstance(error, dict) and "message" in error:  # that of a run has none, and is no answer
        raise RefusedError(str(cast("dict[str, Any]", error)["message"]))
    return found


def _message(response: http.client.HTTPResponse) -> str:
    """Return the server's own words about an error, and hang up."""
    with whole(), response:
        body = response.read(64 * 1024)
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {response.status}"
