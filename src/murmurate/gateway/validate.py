"""Bodies against their schema: what does not fit is refused with the field's name."""

from typing import TypeVar

import msgspec

from murmurate.core.errors import BadRequestError

_B = TypeVar("_B")


def decode(body: bytes, kind: type[_B]) -> _B:
    """Return the typed body, or `BadRequestError` naming the field and what was expected."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at `")
        param = place.rstrip("`").removeprefix("$").removeprefix(".") or _named(message)
        where = f"{param}: " if param else ""
        raise BadRequestError(f"{where}{message}", param=param) from cause
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise BadRequestError(f"the body is not valid JSON: {cause}") from cause
    except RecursionError as cause:
        raise BadRequestError("the body is nested too deeply") from cause


def _named(message: str) -> str | None:
    """Return the field that an "unknown field" or "missing field" message is about."""
    _, quote, rest = message.partition("field `")
    return rest.partition("`")[0] if quote else None
