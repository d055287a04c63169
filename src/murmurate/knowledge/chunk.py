"""Text into chunks that can be cited: whole sections and paragraphs where they fit. Pure.

`text[chunk.start:chunk.end] == chunk.text`, always. Headings of Markdown, reStructuredText and man
pages, and the signatures of source code, are not lost: they stand in `Chunk.context`, which the
index reads along with the text. A form feed ends a page, and with it a chunk.

Chunks are stable: what is inserted somewhere changes the chunks around it and not all that follow,
because some blocks, chosen by their own content, always begin one.
"""

# Over 400 lines: how text falls into blocks and blocks into chunks is read as one story.

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from murmurate.core.errors import DocumentUnreadableError
from murmurate.knowledge.code import definitions
from murmurate.knowledge.formats import Language, language_of
from murmurate.knowledge.words import HAN, sentences, stripped

VERSION = 2
"""Grows when the same text would be cut differently, so that indexes are built anew."""

CHUNKS_MAX = 50_000
"""Of one document. 15 million characters of prose make 31,000; a form feed after every character
makes millions, whose vectors fit into no memory."""
WEIGHT_MAX = 900
WEIGHT_FULL = 150
"""A chunk at least this heavy is closed at the end of its section. On the calibration questions the
first passage was right for 0.65 with 150, for 0.58 with 400."""
FENCE_WEIGHT_MAX = 2 * WEIGHT_MAX
HAN_WEIGHT = 1.8
"""A Chinese character says as much as 1.8 Latin ones: chunks of about 220 to 500."""
HEADING_CHARS_MAX = 120
PAGE_END = "\f"
PART_CHARS_MAX = 500_000
"""A longer text is cut in parts of this length first: the lines of 20 MB would take gigabytes."""
ANCHORS = 16
"""One block in so many begins a chunk, where no heading has begun one for long."""
ANCHORED_AFTER = 2
"""After so many chunks without a heading: in documents with sections the headings are enough."""
MAN_TITLE_CHARS_MAX = 250
"""A manual's first line is padded to the width of the terminal."""
WINDOW_CHARS_MAX = 300

_HAN_CHAR = re.compile(f"[{HAN}]")
_ATX = re.compile(r" {0,3}(#{1,6})(?=[ \t].)")
_UNDERLINE = re.compile(r"([=\-~^\"'`+*#.:])\1{2,}[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAN_TITLE = re.compile(r"\s*(\S+)\(\w+\)\s.*\b\1\(\w+\)\s*$")
_CAPITALS = re.compile(r"[A-Z][A-Z0-9 ,/&'()-]{2,59}$")


@dataclass(frozen=True, slots=True)
class Chunk:
    """A citable piece: characters `start` to `end` of the text, on lines counted from 1.

    `page` counts from 1 where the text has pages, and is None where it has none.
    """

    text: str
    start: int
    end: int
    line_first: int
    line_last: int
    context: str
    page: int | None = None


@dataclass(frozen=True, slots=True)
class _Block:
    """A heading, a fence, a definition in code, or a paragraph, with the headings above it."""

    start: int
    end: int
    headings: tuple[str, ...]
    is_heading: bool = False
    is_fence: bool = False
    is_definition: bool = False


def chunk(text: str, path: str = "") -> list[Chunk]:
    """Cut a text into chunks, in order and without overlap; white space alone gives none.

    The name in `path` says whether the text is source code, and of which language. One of more than
    `CHUNKS_MAX` chunks is refused with `DocumentUnreadableError`.
    """
    language = language_of(path)
    chunks: list[Chunk] = []
    line, counted = 1, 0
    for page, begin, part in _parts(text):
        for from_, to, headings in _packed(part, language):
            if len(chunks) >= CHUNKS_MAX:
                raise DocumentUnreadableError(f"{path}: falls into more than {CHUNKS_MAX} passages")
            start, end = begin + from_, begin + to
            line += text.count("\n", counted, start)
            last = line + text.count("\n", start, end)
            context = " > ".join(headings)
            chunks.append(Chunk(text[start:end], start, end, line, last, context, page))
            line, counted = last, end
    return chunks


def windows(text: str) -> list[str]:
    """Return a chunk's neighbouring sentences in small groups, for the embedder.

    One vector of 900 characters blurs what each sentence says. On the calibration questions,
    vectors of windows found the passage among the first five for 0.83, those of chunks for 0.73.
    """
    groups: list[str] = []
    first: int | None = None
    last = 0
    for start, end in sentences(text):
        if first is not None and end - first > WINDOW_CHARS_MAX:
            groups.append(text[first:last])
            first = None
        first = start if first is None else first
        last = end
    return groups if first is None else [*groups, text[first:last]]


def weight(text: str) -> float:
    """Return how much a text says, in Latin characters."""
    return len(text) + (HAN_WEIGHT - 1) * len(_HAN_CHAR.findall(text))


def _parts(text: str) -> Iterator[tuple[int | None, int, str]]:
    """Yield page, start and text of what is cut by itself; the page is None without form feeds."""
    number = 1 if PAGE_END in text else None
    start = 0
    while start <= len(text):
        end = text.find(PAGE_END, start)
        end = len(text) if end < 0 else end
        while end - start > PART_CHARS_MAX:
            reach = start + PART_CHARS_MAX
            at = max(text.rfind("\n\n", start, reach), 0) or text.rfind("\n", start, reach)
            at = reach if at <= start else at
            yield number, start, text[start:at]
            start = at
        yield number, start, text[start:end]
        start = end + len(PAGE_END)
        number = None if number is None else number + 1


def _packed(text: str, language: Language | None) -> Iterator[tuple[int, int, tuple[str, ...]]]:
    """Join neighbouring blocks into spans of a good size; a heading stays with what follows."""
    open_: list[_Block] = []
    open_weight = 0.0
    has_body = False
    chunks_since = 0
    for block in _pieces(text, language):
        piece = text[block.start : block.end]
        piece_weight = weight(piece)
        full = open_weight + piece_weight > WEIGHT_MAX
        is_start = block.is_heading or block.is_definition
        chunks_since = 0 if is_start else chunks_since
        closes = open_weight >= WEIGHT_FULL and (
            is_start or (chunks_since >= ANCHORED_AFTER and _is_anchor(piece))
        )
        if (full or closes) and has_body:
            body_end = max(at for at, b in enumerate(open_, start=1) if not b.is_heading)
            yield _span(open_[:body_end])
            chunks_since += 1
            open_ = open_[body_end:]
            open_weight = sum(weight(text[b.start : b.end]) for b in open_)
            has_body = False
        elif full and open_weight > WEIGHT_MAX:  # nothing but headings
            yield _span(open_)
            open_, open_weight = [], 0.0
        open_.append(block)
        has_body = has_body or not block.is_heading
        open_weight += piece_weight
    if open_:
        yield _span(open_)


def _span(blocks: list[_Block]) -> tuple[int, int, tuple[str, ...]]:
    """Return the span of joined blocks, under the headings that all of their texts share."""
    bodies = [block for block in blocks if not block.is_heading] or blocks
    shared = bodies[0].headings
    for block in bodies[1:]:
        common = 0
        for ours, theirs in zip(shared, block.headings, strict=False):
            if ours != theirs:
                break
            common += 1
        shared = shared[:common]
    return blocks[0].start, blocks[-1].end, shared


def _is_anchor(piece: str) -> bool:
    """Say whether a piece begins a chunk because of what it says, not of what stands before it."""
    return zlib.crc32(piece.encode()) % ANCHORS == 0


def _pieces(text: str, language: Language | None) -> Iterator[_Block]:
    """Yield the blocks; one that is too heavy falls into lines or sentences."""
    for block in _blocks(text) if language is None else _code_blocks(text, language):
        body = text[block.start : block.end]
        limit = FENCE_WEIGHT_MAX if block.is_fence else WEIGHT_MAX
        if weight(body) <= limit:
            yield block
            continue
        parts = _lines(body) if block.is_fence else sentences(body)
        for start, end in _grouped(body, parts):
            yield _Block(
                block.start + start, block.start + end, block.headings, is_fence=block.is_fence
            )


def _grouped(body: str, parts: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join parts up to the limit; cut a part that is heavier by itself."""
    first: int | None = None
    last = groups = 0
    for start, end in [piece for part in parts for piece in _cut(body, *part)]:
        if first is not None:
            anchored = groups >= ANCHORED_AFTER and last - first > WEIGHT_MAX // 3
            anchored = anchored and _is_anchor(body[start:end])
            if anchored or weight(body[first:end]) > WEIGHT_MAX:
                yield first, last
                groups += 1
                first = None
        if first is None:
            first = start
        last = end
    if first is not None:
        yield first, last


def _cut(body: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a span that is too heavy at a line's or a word's end, or anywhere when there is none."""
    # No character weighs less than 1: one more than the limit already says what the rest would.
    while weight(body[start : min(end, start + WEIGHT_MAX + 1)]) > WEIGHT_MAX:
        reach = start + WEIGHT_MAX
        while weight(body[start:reach]) > WEIGHT_MAX:
            reach -= (reach - start) // 8
        at = max(body.rfind("\n", start + 1, reach), 0) or body.rfind(" ", start + 1, reach)
        at = at if at > start + (reach - start) // 4 else reach
        yield from stripped(body, start, at)
        start = at
    yield from stripped(body, start, end)


def _lines(text: str, begin: int = 0) -> list[tuple[int, int]]:
    """Return the spans of the lines, without their newlines."""
    spans: list[tuple[int, int]] = []
    start = begin
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        spans.append((start, end))
        start = end + 1
    return spans


def _blocks(text: str) -> Iterator[_Block]:
    """Yield headings, fences and paragraphs in order, each with the headings above it."""
    lines = _lines(text)
    outline = _Outline(text, lines)
    fences = _Fences(text, lines)
    at = 0
    while at < len(lines):
        start, end = lines[at]
        line = text[start:end]
        if not line.strip():
            at += 1
            continue
        if taken := outline.take_heading(at):
            yield from _block(text, start, lines[at + taken - 1][1], outline, is_heading=True)
            at += taken
            continue
        last = fences.end(at)
        is_fence = last > at
        while not is_fence and last + 1 < len(lines) and not outline.breaks_at(last + 1):
            last += 1
        yield from _block(text, start, lines[last][1], outline, is_fence=is_fence)
        at = last + 1


def _code_blocks(text: str, language: Language) -> Iterator[_Block]:
    """Yield what stands before the first definition, then each definition up to the next."""
    lines = _lines(text)
    found = definitions([text[start:end] for start, end in lines], language)
    starts = [lines[definition.first][0] for definition in found]
    for inner in stripped(text, 0, starts[0] if starts else len(text)):
        yield _Block(*inner, (), is_fence=True)
    for definition, (start, end) in zip(found, pairwise([*starts, len(text)]), strict=True):
        for inner in stripped(text, start, end):
            yield _Block(*inner, definition.signatures, is_fence=True, is_definition=True)


def _block(text: str, start: int, end: int, outline: "_Outline", **kind: bool) -> Iterator[_Block]:
    for inner_start, inner_end in stripped(text, start, end):
        yield _Block(inner_start, inner_end, outline.path(), **kind)


class _Fences:
    """Which line closes a fence. Knows at once when none does, so that all of a text is linear."""

    def __init__(self, text: str, lines: list[tuple[int, int]]) -> None:
        self._text = text
        self._lines = lines
        self._marks = [_closing(text[start:end]) for start, end in lines]
        self._longest: dict[str, list[int]] = {}
        """By kind of mark: the length of the longest from each line on."""
        for kind in "`~":
            longest = [0] * (len(lines) + 1)
            for at in range(len(lines) - 1, -1, -1):
                length = len(self._marks[at]) if self._marks[at].startswith(kind) else 0
                longest[at] = max(length, longest[at + 1])
            self._longest[kind] = longest

    def end(self, at: int) -> int:
        """Return the line that closes the fence opened at `at`; `at` when it is none, or open."""
        opening = _FENCE.match(self._text[slice(*self._lines[at])])
        if opening is None:
            return at
        mark = opening.group(1)
        if self._longest[mark[0]][at + 1] < len(mark):
            return at
        return next(
            index
            for index in range(at + 1, len(self._lines))
            if self._marks[index].startswith(mark)
        )


def _closing(line: str) -> str:
    """Return the mark that this line is, if it is nothing else."""
    mark = line.strip()
    return mark if mark[:1] in {"`", "~"} and not mark.strip(mark[0]) else ""


class _Outline:
    """The headings above the current line, in whichever of three styles the text has."""

    def __init__(self, text: str, lines: list[tuple[int, int]]) -> None:
        self._text = text
        self._lines = lines
        self._path: list[tuple[int, str]] = []
        self._underlines: list[str] = []  # reStructuredText: the first seen is the highest
        first = next((at for at, (start, end) in enumerate(lines) if text[start:end].strip()), 0)
        title = self._line(first)
        is_title = len(title) <= MAN_TITLE_CHARS_MAX and _MAN_TITLE.match(title)
        self._man_title = first if is_title else None

    def path(self) -> tuple[str, ...]:
        return tuple(title for _, title in self._path)

    def take_heading(self, at: int) -> int:
        """Enter the heading that starts at this line; return its number of lines, or 0."""
        found = self._heading(at)
        if found is None:
            return 0
        level, title, taken = found
        while self._path and self._path[-1][0] >= level:
            self._path.pop()
        self._path.append((level, title[:HEADING_CHARS_MAX]))
        return taken

    def breaks_at(self, at: int) -> bool:
        """Say whether a paragraph ends before this line."""
        line = self._line(at)
        return not line.strip() or bool(_FENCE.match(line)) or self._heading(at) is not None

    def _line(self, at: int) -> str:
        return self._text[slice(*self._lines[at])] if at < len(self._lines) else ""

    def _heading(self, at: int) -> tuple[int, str, int] | None:
        """Return level, title and number of lines of the heading at this line."""
        line = self._line(at)
        if atx := _ATX.match(line):
            title = line[atx.end() :].lstrip(" \t")
            return len(atx.group(1)), (title.rstrip(" \t#") or title[:1]).strip(), 1
        if at == self._man_title:
            return 0, line.split()[0], 1
        if not line.strip() or len(line) > HEADING_CHARS_MAX:
            return None
        return self._underlined(at, line) or self._of_man_page(at, line)

    def _underlined(self, at: int, line: str) -> tuple[int, str, int] | None:
        if at and self._line(at - 1).strip() and not _UNDERLINE.match(self._line(at - 1)):
            return None  # the last line of a paragraph
        mark = _UNDERLINE.match(self._line(at + 1))
        title = line.strip()
        if mark is None or _UNDERLINE.match(line) or _width(title) > len(mark.group().strip()) + 2:
            return None
        if mark.group(1) not in self._underlines:
            self._underlines.append(mark.group(1))
        return self._underlines.index(mark.group(1)) + 1, title, 2

    def _of_man_page(self, at: int, line: str) -> tuple[int, str, int] | None:
        if line[0].isspace() or (at and self._line(at - 1).strip()):
            return None
        if not _CAPITALS.match(line.strip()) and self._man_title is None:
            return None
        below = self._line(at + 1) or self._line(at + 2)
        if below[:2].strip() or not below.strip():  # what it heads is indented
            return None
        return 1, line.strip(), 1


def _width(text: str) -> int:
    return len(text) + len(_HAN_CHAR.findall(text))
