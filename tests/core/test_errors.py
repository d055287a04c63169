"""Every error has a stable code of its own, a status, and words."""

import re

import pytest

from murmurate.core import errors
from murmurate.core.errors import BadRequestError, MurmurateError, OverloadedError


def family() -> list[type[MurmurateError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MurmurateError)
    ]


def test_no_two_errors_share_a_code() -> None:
    codes = [kind.code for kind in family()]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", family())
def test_an_error_has_code_status_kind_and_words(kind: type[MurmurateError]) -> None:
    assert re.fullmatch(r"[a-z_]+(\.[a-z_]+)?", kind.code)
    assert 400 <= kind.http_status < 600
    assert (kind.http_status < 500) == (kind.kind != "server_error")
    assert kind.__doc__ is not None
    assert kind.__doc__.strip().endswith((".", ")"))
    assert kind.__name__.endswith("Error")


def test_an_error_shows_its_code_and_keeps_the_detail_apart() -> None:
    error = BadRequestError("model: expected text", param="model")
    assert str(error) == "[request.invalid] model: expected text"
    assert (error.detail, error.param, error.retry_s) == ("model: expected text", "model", None)


def test_an_error_says_when_to_try_again() -> None:
    assert OverloadedError("full", retry_s=2.5).retry_s == 2.5
