"""A form is understood however it is cut into pieces, and whatever is no form is refused."""

import pytest

from murmurate.core.errors import BadRequestError, MediaTypeError
from murmurate.gateway.forms import (
    FIELD_BYTES_MAX,
    FIELDS_MAX,
    Field,
    FileBegins,
    Form,
    Part,
    boundary_of,
)


def part(head: str, body: bytes) -> bytes:
    return f"--x\r\ncontent-disposition: form-data; {head}\r\n\r\n".encode() + body + b"\r\n"


WHOLE = (
    part('name="purpose"', b"batch")
    + part('name="file"; filename="a \\"b\\".jsonl"', b"one\r\n--xtwo\r\n-")
    + b"--x--\r\n"
)


def received(body: bytes, size: int) -> list[Part]:
    """Return the parts of a body that comes in pieces, with a file's pieces joined."""
    form, found = Form(b"x"), list[Part]()
    for start in range(0, len(body), size):
        for it in form.receive(body[start : start + size]):
            if isinstance(it, bytes) and isinstance(found[-1], bytes):
                found[-1] += it
            else:
                found.append(it)
    form.end()
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_a_form_is_the_same_however_it_is_cut(size: int) -> None:
    assert received(WHOLE, size) == [
        Field("purpose", "batch"),
        FileBegins("file", 'a "b".jsonl'),
        b"one\r\n--xtwo\r\n-",
    ]


@pytest.mark.parametrize("end", [0, 10, 60, len(WHOLE) - 5])
def test_a_form_that_breaks_off_is_refused(end: int) -> None:
    with pytest.raises(BadRequestError, match="broke off"):
        received(WHOLE[:end], 16)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"no form at all", "no valid form"),
        (b"--x\r\ncontent-type: text/plain\r\n\r\nwords\r\n--x--", "has no name"),
        (part("filename=a", b"") + b"--x--", "has no name"),
        (part('name="a"', b"1" * (FIELD_BYTES_MAX + 1)) + b"--x--", "a: over 1024 bytes"),
        (part('name="a"', b"1") * (FIELDS_MAX + 1) + b"--x--", "more than 16 parts"),
        (part('name="a"', b"\xff") + b"--x--", "not UTF-8"),
        (b"--x\r\n" + b"h: 1\r\n" * 100, "no valid form"),
        (b"--x\r\nh: " + b"1" * 100_000, "no valid form"),
    ],
)
def test_what_is_no_form_or_too_much_of_one_is_refused(body: bytes, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        received(body, 4096)


def test_a_forms_media_type_names_its_boundary() -> None:
    assert boundary_of(b'Multipart/Form-Data; boundary="a b"', None) == b"a b"
    assert boundary_of(b"multipart/form-data; boundary=x", b"identity") == b"x"


@pytest.mark.parametrize(
    ("kind", "coding"),
    [
        (None, None),
        (b"application/json", None),
        (b"multipart/form-data", None),
        (b"multipart/mixed; boundary=x", None),
        (b"application/x-www-form-urlencoded", None),
        (b"multipart/form-data; boundary=x", b"gzip"),
    ],
)
def test_any_other_media_type_is_refused(kind: bytes | None, coding: bytes | None) -> None:
    with pytest.raises(MediaTypeError):
        boundary_of(kind, coding)
