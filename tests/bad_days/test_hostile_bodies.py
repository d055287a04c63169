"""Bodies and headers meant to break a parser: each is refused with a code, none is a fault."""

import json
from typing import Any

import pytest

from tests.e2e.running import Running

HELLO = b'{"model":"slow","messages":[{"role":"user","content":"hello"}]}'
CHAT = "/v1/chat/completions"


def with_content(content: bytes) -> bytes:
    return HELLO.replace(b'"hello"', content)


REFUSED = {
    "no UTF-8": with_content(b'"\xff\xfe"'),
    "no UTF-8 where nobody looks": with_content(b'"a","x":"\xff"'),
    "half a surrogate pair": with_content(b'"\\ud800"'),
    "a null byte": with_content(b'"\x00"'),
    "a byte order mark": b"\xef\xbb\xbf" + HELLO,
    "UTF-16": HELLO.decode().encode("utf-16"),
    "nested lists": with_content(b"[" * 100_000),
    "nested lists where nobody looks": with_content(b'"a","x":' + b"[" * 50_000 + b"]" * 50_000),
    "nested objects": b'{"a":' * 100_000,
    "a million lists": with_content(b'"a","x":[' + b"[]," * 1_000_000 + b"0]"),
    "a key twice": HELLO[:-1] + b',"model":"tiny"}',
    "a key twice inside": with_content(b'"a","role":"system"'),
    "a key twice, once escaped": HELLO[:-1] + b',"\\u006dodel":"tiny"}',
    "NaN": HELLO[:-1] + b',"temperature":NaN}',
    "infinity": HELLO[:-1] + b',"temperature":1e999}',
    "a number without end": HELLO[:-1] + b',"seed":' + b"9" * 100_000 + b"}",
    "more than 64 bits": HELLO[:-1] + b',"seed":99999999999999999999}',
    "no JSON": b"model=slow",
    "two JSONs": HELLO + HELLO,
    "nothing": b"",
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_a_body_that_is_no_honest_json_gets_400(hardy: Running, body: bytes) -> None:
    status, _, answer = hardy.request(CHAT, body, {"content-type": "application/json"})
    assert (status, answer["error"]["code"]) == (400, "request.invalid")


@pytest.mark.parametrize(
    "content", ["\0", "\u202e\ufeff", "\U0010ffff", "a" * 3000, "<|im_end|>", "%s{}\\"]
)
def test_any_text_is_answered(hardy: Running, content: str) -> None:
    body = {"model": "slow", "messages": [{"role": "user", "content": content}]}
    status, _, answer = hardy.request(CHAT, body, {"content-type": "application/json"})
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "I hear you")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"content-type": "text/plain"}, 415, "request.media_type"),
        ({"content-encoding": "gzip"}, 415, "request.media_type"),
        ({"host": "evil.example"}, 403, "forbidden"),
        ({"host": "localhost:80@evil.example"}, 403, "forbidden"),
        ({"origin": "null"}, 403, "forbidden"),
        ({"x-murmurate-lane": "\xff"}, 400, "request.invalid"),
        ({"x-murmurate-session": "\xff/../key"}, 404, "not_found"),
        ({"Authorization": "Bearer \xff"}, 401, "invalid_api_key"),
        ({"traceparent": "00-\xff"}, 200, None),
        ({"x-forwarded-for": "8.8.8.8", "x-forwarded-host": "evil.example"}, 200, None),
    ],
)
def test_a_header_that_is_no_good_is_refused_or_ignored(
    hardy: Running, headers: dict[str, str], status: int, code: str | None
) -> None:
    got, _, answer = hardy.request(CHAT, HELLO, headers)
    error: dict[str, Any] = answer.get("error", {})
    assert (got, error.get("code")) == (status, code)


def test_whoever_forwards_says_nothing_about_who_asks(hardy: Running) -> None:
    headers = {"x-forwarded-for": "8.8.8.8", "forwarded": "for=8.8.8.8"}
    connection = hardy.connection()
    try:
        connection.request("GET", "/metrics", headers=headers)
        assert connection.getresponse().status == 200, "it comes from loopback, as anybody can see"
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/%ff", 400),
        ("/api/sessions/%00", 400),
        ("/api/sessions/..%2f..%2fkey", 404),
        ("/api/traces/%F0%9F%92%A5", 404),
        ("/v1/models/%2e%2e", 404),
        ("//evil.example/", 404),
        ("/v1/models?x=%ff%00", 200),
        ("/" + "a" * 9000, 414),
    ],
)
def test_a_path_leads_nowhere_else(hardy: Running, path: str, status: int) -> None:
    got, _, answer = hardy.request(path)
    assert got == status, json.dumps(answer)
