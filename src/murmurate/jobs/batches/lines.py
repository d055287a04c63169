"""The input of a batch: a file of JSON lines, read piece by piece and checked. Pure."""

from collections.abc import AsyncGenerator, AsyncIterable, Generator

import msgspec

from murmurate.core.types import Frozen
from murmurate.jobs.batches.state import PROBLEMS_MAX, Problem

CUSTOM_ID_CHARS_MAX = 512
METHOD = "POST"
NUMBER_MAX = 999_999
"""Empty lines have numbers, too; the ids of runs have room for six digits."""


class Line(Frozen, frozen=True):
    """A line: its number from 1, where the next one begins, and what stands in it."""

    number: int
    end: int
    raw: bytes


class LineTooLongError(Exception):
    """A line is over its bound: what follows it is not read."""

    def __init__(self, number: int, bytes_max: int) -> None:
        super().__init__(f"line {number}")
        self.problem = Problem(
            "line_too_long", f"This line has more than {bytes_max} bytes.", number
        )


class Splitter:
    """Cuts pieces of a file into lines, from any place where one begins."""

    def __init__(self, *, number: int = 0, offset: int = 0, bytes_max: int) -> None:
        """`number` is that of the line before."""
        self._number = number
        self._offset = offset
        self._bytes_max = bytes_max
        self._rest = bytearray()

    def receive(self, piece: bytes) -> Generator[Line]:
        """Yield the lines that end in this piece. `LineTooLongError`."""
        start = 0
        while (end := piece.find(b"\n", start)) >= 0:
            raw = bytes(self._rest + piece[start:end]) if self._rest else piece[start:end]
            self._rest.clear()
            start = end + 1
            yield self._line(raw, len(raw) + 1)
        self._rest += piece[start:]
        if len(self._rest) > self._bytes_max:
            raise LineTooLongError(self._number + 1, self._bytes_max)

    def end(self) -> Generator[Line]:
        """Yield the last line, where no line break follows it."""
        if self._rest:
            yield self._line(bytes(self._rest), len(self._rest))
            self._rest.clear()

    def _line(self, raw: bytes, size: int) -> Line:
        if len(raw) > self._bytes_max:
            raise LineTooLongError(self._number + 1, self._bytes_max)
        self._number += 1
        self._offset += size
        return Line(self._number, self._offset, raw)


async def lines_of(
    pieces: AsyncIterable[bytes], *, number: int = 0, offset: int = 0, bytes_max: int
) -> AsyncGenerator[Line]:
    """Yield the lines that say something. `LineTooLongError`."""
    splitter = Splitter(number=number, offset=offset, bytes_max=bytes_max)
    async for piece in pieces:
        for line in splitter.receive(piece):
            if line.raw.strip():
                yield line
    for line in splitter.end():
        if line.raw.strip():
            yield line


class Asked(msgspec.Struct, frozen=True):
    """What a line asks for. Fields that nobody knows are let through, as OpenAI does."""

    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


def asked_of(line: Line, *, endpoint: str) -> Asked | Problem:
    """Return what a line asks for, or what is wrong with it."""
    try:
        asked = msgspec.json.decode(line.raw, type=Asked)
    except msgspec.ValidationError as cause:
        return Problem("invalid_request", f"This line is no request: {cause}", line.number)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = "This line is not parseable as valid JSON."
        return Problem("invalid_json_line", message, line.number)
    if not 0 < len(asked.custom_id) <= CUSTOM_ID_CHARS_MAX:
        message = f"custom_id: expected 1 to {CUSTOM_ID_CHARS_MAX} characters."
        return Problem("invalid_custom_id", message, line.number, "custom_id")
    if asked.method != METHOD:
        message = f"The method must be {METHOD}."
        return Problem("invalid_method", message, line.number, "method")
    if asked.url != endpoint:
        message = f"The url must be the endpoint of the batch, {endpoint}."
        return Problem("invalid_url", message, line.number, "url")
    if not bytes(asked.body).startswith(b"{"):
        return Problem("invalid_body", "The body must be a JSON object.", line.number, "body")
    return asked


class Inspection:
    """Looks at every line once, and remembers what is wrong and how many there are."""

    def __init__(self, *, endpoint: str, lines_max: int) -> None:
        self._endpoint = endpoint
        self._lines_max = lines_max
        self._seen: set[bytes] = set()
        self.total = 0
        self.line_last = 0
        self.problems: list[Problem] = []

    @property
    def goes_on(self) -> bool:
        """Whether further lines are worth looking at."""
        return len(self.problems) < PROBLEMS_MAX and self.total <= self._lines_max

    def see(self, line: Line) -> None:
        """Look at the next line."""
        self.total, self.line_last = self.total + 1, line.number
        if self.total > self._lines_max or line.number > NUMBER_MAX:
            message = f"The input file has more than {self._lines_max} lines: split it."
            self.problems.append(Problem("too_many_lines", message))
            return
        asked = asked_of(line, endpoint=self._endpoint)
        if isinstance(asked, Problem):
            self.problems.append(asked)
            return
        custom_id = asked.custom_id.encode()
        if custom_id in self._seen:
            message = f"The custom_id {asked.custom_id[:64]!r} is that of another line, too."
            problem = Problem("duplicate_custom_id", message, line.number, "custom_id")
            self.problems.append(problem)
        self._seen.add(custom_id)

    def end(self) -> None:
        """Note that there are no more lines."""
        if not self.total and not self.problems:
            message = "The input file is empty: it needs at least one request."
            self.problems.append(Problem("empty_file", message))
