"""What clients do wrong, and the status that must tell them so."""

from collections.abc import Callable

from tests.sim.connection import Ask


def _with_body(old: bytes, new: bytes) -> Callable[[Ask], None]:
    def change(ask: Ask) -> None:
        ask.body = ask.body.replace(old, new)

    return change


def _with_header(name: str, value: str, *, counted: bool = True) -> Callable[[Ask], None]:
    def change(ask: Ask) -> None:
        ask.headers[name] = value
        ask.counted = counted

    return change


def _to(method: str, path: str) -> Callable[[Ask], None]:
    def change(ask: Ask) -> None:
        ask.method, ask.path, ask.counted = method, path, False

    return change


MISTAKES: tuple[tuple[Callable[[Ask], None], int], ...] = (
    (_with_header("authorization", "Bearer mur_stolen", counted=False), 401),
    (_with_header("authorization", "Basic abc", counted=False), 401),
    (_with_header("host", "evil.example", counted=False), 403),
    (_with_header("origin", "https://evil.example", counted=False), 403),
    (_to("POST", "/v1/nothing"), 404),
    (_to("GET", "/v1/chat/completions"), 405),
    (_with_header("x-murmurate-lane", "fast"), 400),
    (_with_body(b"tiny", b"huge"), 404),
    (_with_body(b"}", b""), 400),
    (_with_body(b'"model"', b'"modle"'), 400),
    (_with_body(b'"user"', b'"assistant"'), 400),
    (_with_body(b"say ash", b"hmm"), 400),
    (_with_body(b"say ash", b"x" * 20_001), 413),
)
