"""What differs between the protocols of other servers: where to ask, how, and how to read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from murmurate.adapters import anthropic_wire, openai_wire
from murmurate.config import Dialect
from murmurate.core.types import Delta, Request, Text


class Assembler(Protocol):
    """Turns the payloads of a stream into deltas."""

    done: bool
    events: int
    """How many payloads there were that show progress."""

    def feed(self, payload: bytes) -> Sequence[Text]:
        """Take the next payload; return the text in it."""
        ...

    def end(self) -> Sequence[Delta]:
        """Return what comes last. Raises if the answer was cut."""
        ...


class NewAssembler(Protocol):
    """Makes an assembler for one answer of the model of that name."""

    def __call__(
        self, name: str, new_id: Callable[[], str], *, redacted: Callable[[str], str]
    ) -> Assembler:
        """Return it."""
        ...


@dataclass(frozen=True, slots=True)
class Wire:
    """One protocol."""

    path: str
    encode: Callable[[Request, str], bytes]
    assembler: NewAssembler


WIRES: Mapping[Dialect, Wire] = {
    Dialect.OPENAI: Wire("/chat/completions", openai_wire.encode, openai_wire.Assembler),
    Dialect.ANTHROPIC: Wire("/messages", anthropic_wire.encode, anthropic_wire.Assembler),
}
