"""Where source code can be cut: at the borders of functions, classes and sections. Pure.

Regular expressions over lines, not a parser: a border that is missed makes a chunk longer, and one
too many makes it shorter, and neither is wrong.
"""

import re
from dataclasses import dataclass

from murmurate.knowledge.formats import Language

SIGNATURE_CHARS_MAX = 120
INDENT_MAX = 8
"""Definitions deeper than this belong to the function around them."""
LINE_CHARS_MAX = 400
"""No definition is looked for in longer lines: they are data, or minified."""

_JAVA_WORDS = (
    "public|private|protected|internal|static|final|abstract|sealed|override|virtual|async|"
    "synchronized|default|open|data|suspend|inline|partial|readonly"
)
_PATTERNS = {
    Language.PYTHON: r"(?:async +)?(?:def|class) +\w",
    Language.SCRIPT: (
        r"(?:export +)?(?:default +)?(?:abstract +)?(?:declare +)?(?:async +)?"
        r"(?:(?:function\b|class|interface|enum|namespace) *\*? *\w"
        r"|type +\w+ *[=<]|(?:const|let|var) +\w+[^=]*= *(?:async\b|function\b|\())"
    ),
    Language.GO: r"(?:func|type)\b",
    Language.RUST: (
        r"(?:pub(?:\([^)]*\))? +)?(?:(?:async|unsafe|const|default|extern(?: +\"\w+\")?) +)*"
        r"(?:fn|struct|enum|trait|impl|mod|union|macro_rules!)\b"
    ),
    Language.JAVA: (
        rf"(?:@\w+ +)?(?:(?:{_JAVA_WORDS}) +)*(?:class|interface|enum|record|object|trait|namespace"
        rf"|fun|func|function|def|struct|protocol|extension) +\w"
        rf"|(?:(?:{_JAVA_WORDS}) +)+[\w<>\[\],.? ]+\([^;]*$"
    ),
    Language.C: (
        r"(?:typedef +)?(?:struct|class|enum|union|namespace|template)\b[^;]*$"
        r"|(?!return\b|else\b|if\b|for\b|while\b|switch\b)[A-Za-z_][\w:<>,*& ]*[ *&][\w:~]+\([^;]*$"
    ),
    Language.SHELL: r"function +[\w-]+|[\w-]+ *\(\)",
    Language.SECTIONS: r"\[",
    Language.KEYS: r"[\w.\"'/-][^#:=]*:(?!=)",
}
_STARTS = {language: re.compile(pattern) for language, pattern in _PATTERNS.items()}
_TOP_ONLY = frozenset({Language.GO, Language.C, Language.SHELL, Language.SECTIONS, Language.KEYS})
_ABOVE = re.compile(r"@|#|//|/\*|\*|--|\[<?\w|template\b")
"""Lines that belong to the definition below them: decorators, attributes and comments."""


@dataclass(frozen=True, slots=True)
class Definition:
    """The lines from `first` on, up to the next definition, below these signatures."""

    first: int
    signatures: tuple[str, ...]


def definitions(lines: list[str], language: Language) -> list[Definition]:
    """Return where definitions begin, in order; what stands before the first one is not named."""
    starts = _STARTS.get(language)
    if starts is None:
        return []
    found: list[Definition] = []
    above: list[tuple[int, str]] = []
    free = 0  # the first line that no definition has claimed yet
    for at, line in enumerate(lines):
        code = line[:LINE_CHARS_MAX].lstrip(" \t")
        indent = len(line[:LINE_CHARS_MAX]) - len(code)
        if not code or len(line) > LINE_CHARS_MAX or indent > INDENT_MAX:
            continue
        if (language in _TOP_ONLY and indent) or not starts.match(code):
            continue
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, code[:SIGNATURE_CHARS_MAX].rstrip(" {:")))
        first = at
        while first > free and _ABOVE.match(lines[first - 1].strip()):
            first -= 1
        found.append(Definition(first, tuple(signature for _, signature in above)))
        free = at + 1
    return found
