"""Files between this machine and a server, piece by piece."""

import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from murmurate.cli.client import (
    CutError,
    NotRunningError,
    RefusedError,
    Server,
    answered,
    call,
    whole,
)
from murmurate.core.errors import ConfigError, MurmurateError

PIECE_BYTES = 64 * 1024
UPLOAD_S = 600.0


def upload(server: Server, path: str, file: Path, *, purpose: str) -> http.client.HTTPResponse:
    """Send a file as a form; return the response. `ConfigError`: the file can't be read."""
    boundary = secrets.token_hex(16)
    name = json.dumps(file.name, ensure_ascii=False)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename={name}\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    ).encode()
    tail = f"\r\n--{boundary}--\r\n".encode()
    try:
        size_bytes = file.stat().st_size
        content = file.open("rb")
    except OSError as cause:
        raise ConfigError(f"{file}: {cause.strerror or cause}") from cause
    parts = urlsplit(server.url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    headers = {
        "Authorization": f"Bearer {server.key}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "Content-Length": str(len(head) + size_bytes + len(tail)),
    }
    with content:
        connection = kind(parts.netloc, timeout=UPLOAD_S)
        try:
            # A server that refuses it does not wait for its end: its answer is there all the same.
            with suppress(BrokenPipeError, ConnectionResetError):
                connection.request("POST", path, _body(head, content, tail), headers)
            return answered(connection.getresponse())
        except MurmurateError:
            connection.close()
            raise
        except (OSError, http.client.HTTPException) as cause:
            connection.close()
            raise NotRunningError(f"{server.url} does not answer: {cause}") from cause


def download(server: Server, path: str, file: Path) -> None:
    """Write what a GET brings into a file, which is there whole or as it was before."""
    response = call(server, path)
    announced = response.headers.get("content-length")
    part = file.with_name(f"{file.name}.part")
    size_bytes = 0
    try:
        with part.open("wb") as content:
            while True:
                with whole():
                    piece = response.read(PIECE_BYTES)
                if not piece:
                    break
                content.write(piece)
                size_bytes += len(piece)
        if announced is not None and int(announced) != size_bytes:
            raise CutError(f"{file.name} broke off after {size_bytes} of {announced} bytes")
        part.replace(file)
    except OSError as cause:
        raise RefusedError(f"{part}: {cause.strerror or cause}") from cause
    finally:
        response.close()
        part.unlink(missing_ok=True)


def _body(head: bytes, content: BinaryIO, tail: bytes) -> Iterator[bytes]:
    yield head
    while piece := content.read(PIECE_BYTES):
        yield piece
    yield tail
