"""OpenAI's files: uploaded as a form, listed, shown, read, deleted.

Field by field after https://platform.openai.com/docs/api-reference/files.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import quote

from murmurate.core.errors import BadRequestError, MurmurateError, NotFoundError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.forms import FRAME_BYTES_MAX, Field, FileBegins, parts
from murmurate.gateway.ports import FileInfo, Files, Upload

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
LISTED_MAX = 10_000
EXPIRES_S_MIN, EXPIRES_S_MAX = 3600, 30 * 86_400
FILENAME_CHARS_MAX = 255
BYTES = (b"content-type", b"application/octet-stream")

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_T = TypeVar("_T")


class FileRoutes:
    """The routes of files."""

    def __init__(self, files: Files, *, file_bytes_max: int, upload_s: float) -> None:
        self._files = files
        self._bytes_max = file_bytes_max + FRAME_BYTES_MAX
        self._upload_s = upload_s

    async def upload(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Keep a file.

        The body is a form (`multipart/form-data`) with `file`, `purpose` (`batch`, `user_data`, …)
        and perhaps `expires_after[anchor]=created_at` and `expires_after[seconds]` (an hour to 30
        days; default: `files.kept_days`). It is on disk when its id is returned.
        """
        async with self._files.upload(caller.tenant) as upload:
            form = await self._received(exchange, upload)
            purpose = _purpose(form.get("purpose"))
            info = await upload.keep(
                _filename(form), purpose, expires_s=_expires_s(form.get(_ANCHOR), form)
            )
        span.note(file=info.id, bytes=info.size_bytes)
        await exchange.answer_json(200, body_of(info))

    async def _received(self, exchange: Exchange, upload: Upload) -> Mapping[str, str]:
        """Hand on the file's bytes as they come; return the fields, with the file's name as one."""
        form: dict[str, str] = {}
        found = parts(exchange, bytes_max=self._bytes_max, whole_s=self._upload_s)
        async with aclosing(found) as received:
            async for part in received:
                match part:
                    case Field(name, value):
                        _set(form, name, value)
                    case FileBegins("file", filename):
                        _set(form, "file", filename)
                    case FileBegins(name):
                        raise BadRequestError(
                            f"{name[:64]}: expected the file as `file`", param=name[:64]
                        )
                    case bytes():
                        await upload.write(part)
        if "file" not in form:
            raise BadRequestError("file: it is missing", param="file")
        return form

    async def listing(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """List files, the newest first.

        Of the URL: `purpose`, `order` (`desc`, `asc`), `limit` (1 to 10,000) and `after`, the id
        of the last one seen.
        """
        del span
        query = exchange.query()
        newest_first = order_of(query)
        found = await self._files.listing(
            caller.tenant, purpose=query.get("purpose"), newest_first=newest_first
        )
        limit = limit_of(query, default=LISTED_MAX, most=LISTED_MAX)
        page, more = page_of(found, query.get("after"), limit=limit, id_of=lambda info: info.id)
        await exchange.answer_json(200, list_body([body_of(info) for info in page], more=more))

    async def show(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Show a file's name, size, purpose and times."""
        del span
        await exchange.answer_json(
            200, body_of(await self._files.show(caller.tenant, file_id_of(exchange)))
        )

    async def content(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Read a file: its bytes, as they were uploaded."""
        del span
        await exchange.while_connected(self._read(exchange, caller))

    async def _read(self, exchange: Exchange, caller: Caller) -> None:
        file_id = file_id_of(exchange)
        info = await self._files.show(caller.tenant, file_id)
        async with aclosing(self._files.content(caller.tenant, file_id)) as pieces:
            piece = await anext(pieces, b"")
            name = quote(info.filename, safe="")
            exchange.headers += [
                (b"content-length", str(info.size_bytes).encode()),
                (b"content-disposition", f"attachment; filename*=UTF-8''{name}".encode()),
                (b"x-content-type-options", b"nosniff"),  # it is whatever a client has sent
            ]
            await exchange.open(BYTES)
            while piece:
                await exchange.write(piece)
                try:
                    piece = await anext(pieces, b"")
                except MurmurateError:
                    exchange.cut()  # the client has got too little, and sees it
        await exchange.end()

    async def remove(self, exchange: Exchange, caller: Caller, span: Span) -> None:
        """Delete a file."""
        del span
        file_id = file_id_of(exchange)
        await self._files.remove(caller.tenant, file_id)
        await exchange.answer_json(200, {"id": file_id, "object": "file", "deleted": True})


def body_of(info: FileInfo) -> dict[str, Any]:
    """Return a file as OpenAI shows one."""
    body = {
        "id": info.id,
        "object": "file",
        "bytes": info.size_bytes,
        "created_at": info.created_ms // 1000,
        "filename": info.filename,
        "purpose": info.purpose,
        "status": "processed",
    }
    expires_ms = info.expires_ms
    return body if expires_ms is None else {**body, "expires_at": expires_ms // 1000}


def file_id_of(exchange: Exchange) -> str:
    """Return the id in the path."""
    return exchange.path.split("/")[3]


def order_of(query: Mapping[str, str]) -> bool:
    """Tell whether the newest shall come first."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise BadRequestError(f"order: expected asc or desc, not {order[:64]!r}", param="order")
    return order == "desc"


def limit_of(query: Mapping[str, str], *, default: int, most: int) -> int:
    """Return how many to list, or `BadRequestError`."""
    given = query.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= most):
        raise BadRequestError(f"limit: expected 1 to {most}, not {given[:64]!r}", param="limit")
    return int(given)


def page_of(
    found: Sequence[_T], after: str | None, *, limit: int, id_of: Callable[[_T], str]
) -> tuple[Sequence[_T], bool]:
    """Return what follows on the one of that id, and whether there is more."""
    if after is not None:
        place = next((at for at, it in enumerate(found) if id_of(it) == after), None)
        if place is None:
            raise NotFoundError(f"there is no {after[:64]!r} in this list", param="after")
        found = found[place + 1 :]
    return found[:limit], len(found) > limit


def list_body(data: Sequence[Mapping[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return a page as OpenAI writes it."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": more,
    }


def _set(form: dict[str, str], name: str, value: str) -> None:
    if name in form:
        raise BadRequestError(f"{name[:64]}: it is there twice", param=name[:64])
    form[name] = value


def _purpose(given: str | None) -> str:
    if given not in PURPOSES:
        expected = ", ".join(PURPOSES)
        raise BadRequestError(
            f"purpose: expected one of {expected}, not {(given or '')[:64]!r}", param="purpose"
        )
    return given


def _filename(form: Mapping[str, str]) -> str:
    """Return the name without what a client may have put before it: it is shown, never opened."""
    name = _CONTROL.sub("", form["file"].replace("\\", "/").rpartition("/")[2])
    return name[:FILENAME_CHARS_MAX] or "file"


def _expires_s(anchor: str | None, form: Mapping[str, str]) -> float | None:
    seconds = form.get(_SECONDS)
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise BadRequestError("expires_after: expected the anchor created_at", param=_ANCHOR)
    return expires_s_of(seconds or "", param=_SECONDS)


def expires_s_of(seconds: str, *, param: str) -> float:
    """Return after how long a file shall go, or `BadRequestError`."""
    if not (seconds.isascii() and seconds.isdigit()) or not (
        EXPIRES_S_MIN <= int(seconds[:9]) <= EXPIRES_S_MAX
    ):
        raise BadRequestError(
            f"{param}: expected {EXPIRES_S_MIN} to {EXPIRES_S_MAX}, not {seconds[:64]!r}",
            param=param,
        )
    return float(seconds)
