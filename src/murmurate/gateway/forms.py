"""Uploads: a form (`multipart/form-data`) as it arrives, never the whole of it in memory. Sans-IO.

A web page may send a form anywhere without being asked, unlike JSON. It gets nowhere with it: a key
goes in a header that no browser adds by itself, and a foreign `Origin` is refused before.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from murmurate.core.errors import BadRequestError, MediaTypeError
from murmurate.core.types import Frozen
from murmurate.gateway.exchange import Exchange, check_plain

FIELDS_MAX = 16
FIELD_BYTES_MAX = 1024
FRAME_BYTES_MAX = 64 * 1024
"""What a form may have beside its file: fields, heads of parts, boundaries."""


class Field(Frozen, frozen=True):
    """A field without a file."""

    name: str
    value: str


class FileBegins(Frozen, frozen=True):
    """The pieces that follow are those of this file."""

    name: str
    filename: str


Part = Field | FileBegins | bytes


async def parts(exchange: Exchange, *, bytes_max: int, whole_s: float) -> AsyncGenerator[Part]:
    """Yield the form of a request as it comes: fields, and a file's pieces behind its beginning.

    Raises:
        MediaTypeError: It says that it is no form, or is compressed.
        BadRequestError: It is no form, or broke off before its end.
        BodyTooLargeError, RequestTimeoutError: It is over `bytes_max`, or takes over `whole_s`.
    """
    kind, coding = exchange.header(b"content-type"), exchange.header(b"content-encoding")
    form = Form(boundary_of(kind, coding))
    async with aclosing(exchange.pieces(bytes_max, whole_s=whole_s)) as pieces:
        async for piece in pieces:
            for part in form.receive(piece):
                yield part
    form.end()


def boundary_of(kind: bytes | None, coding: bytes | None) -> bytes:
    """Return what stands between the parts of a form, or `MediaTypeError`."""
    check_plain(coding)
    name, options = parse_options_header(kind)
    boundary = options.get(b"boundary", b"")
    if name != b"multipart/form-data" or not boundary:
        shown = (kind or b"")[:100].decode("latin-1")
        raise MediaTypeError(f"content-type {shown!r}: expected multipart/form-data")
    return boundary


class Form:
    """A form that arrives: bytes in, parts out."""

    def __init__(self, boundary: bytes) -> None:
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_end,
                "on_end": self._whole,
            },
        )
        self._out: list[Part] = []
        self._name = self._value = b""
        self._disposition = b""
        self._field: str | None = None
        self._text = b""
        self._fields = 0
        self._is_whole = False

    def receive(self, chunk: bytes) -> Generator[Part]:
        """Yield what these bytes bring. `BadRequestError`: they are no form, or too much of one."""
        try:
            self._parser.write(chunk)
        except FormParserError as cause:
            raise BadRequestError(f"the body is no valid form: {cause}") from cause
        out, self._out = self._out, []
        yield from out

    def end(self) -> None:
        """Refuse a form that has no end: `BadRequestError`."""
        if not self._is_whole:
            raise BadRequestError("the form broke off before its end: send it again")

    def _begin(self) -> None:
        self._fields += 1
        if self._fields > FIELDS_MAX:
            raise BadRequestError(f"the form has more than {FIELDS_MAX} parts")
        self._disposition = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        if kind != b"form-data" or b"name" not in options:
            raise BadRequestError("a part of the form has no name")
        name, filename = _text(options[b"name"]), options.get(b"filename")
        if filename is None:
            self._field, self._text = name, b""
        else:
            self._field = None
            self._out.append(FileBegins(name, _text(filename)))

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            self._out.append(data[start:end])
            return
        self._text += data[start:end]
        if len(self._text) > FIELD_BYTES_MAX:
            raise BadRequestError(
                f"{self._field[:64]}: over {FIELD_BYTES_MAX} bytes, or a file without its name",
                param=self._field[:64],
            )

    def _end(self) -> None:
        if self._field is not None:
            self._out.append(Field(self._field, _text(self._text)))

    def _whole(self) -> None:
        self._is_whole = True


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as cause:
        raise BadRequestError("the form has a name or field that is not UTF-8") from cause
