"""Which files are documents, by their names, and in what form their text stands. Pure."""

import re
from enum import StrEnum
from pathlib import PurePosixPath


class Format(StrEnum):
    """How a file's bytes become text."""

    TEXT = "text"
    CODE = "code"
    HTML = "html"
    PDF = "pdf"
    DOCX = "docx"


class Language(StrEnum):
    """What a source file is written in, as far as cutting it at definitions needs to know."""

    PYTHON = "python"
    SCRIPT = "javascript"
    GO = "go"
    RUST = "rust"
    JAVA = "java"
    C = "c"
    SHELL = "shell"
    SECTIONS = "sections"
    KEYS = "keys"
    LINES = "lines"


_TEXT_SUFFIXES = ".md .markdown .txt .text .rst .org .adoc .tex .csv .tsv .log"
_TEXT = frozenset(_TEXT_SUFFIXES.split())
_OTHERS = {
    ".html": Format.HTML,
    ".htm": Format.HTML,
    ".xhtml": Format.HTML,
    ".pdf": Format.PDF,
    ".docx": Format.DOCX,
}
_LANGUAGES = {
    Language.PYTHON: ".py .pyi",
    Language.SCRIPT: ".js .jsx .mjs .cjs .ts .tsx .mts .cts .vue .svelte",
    Language.GO: ".go",
    Language.RUST: ".rs",
    Language.JAVA: ".java .kt .kts .cs .scala .swift .groovy .dart .php",
    Language.C: ".c .h .cc .cpp .cxx .hh .hpp .hxx .cu .cuh .m .mm",
    Language.SHELL: ".sh .bash .zsh .ksh",
    Language.SECTIONS: ".toml .ini .cfg .conf .properties",
    Language.KEYS: ".yaml .yml",
    Language.LINES: ".json .jsonl .sql .rb .lua .pl .r .css .scss .proto .graphql .tf .xml .cmake",
}
_BY_SUFFIX = {
    suffix: language for language, suffixes in _LANGUAGES.items() for suffix in suffixes.split()
}
_NAMES = {
    "README": None,
    "LICENSE": None,
    "CHANGELOG": None,
    "Makefile": Language.KEYS,
    "Dockerfile": Language.LINES,
}
"""Files without a suffix that are read all the same; None: as text."""
_MAN_SUFFIX = re.compile(r"\.[1-9][a-z]*$")


def format_of(path: str) -> Format | None:
    """Return how a file with this name is read; None when it is not."""
    name = PurePosixPath(path)
    suffix = name.suffix.lower()
    if suffix in _OTHERS:
        return _OTHERS[suffix]
    if language_of(path) is not None:
        return Format.CODE
    if suffix in _TEXT or _MAN_SUFFIX.match(suffix) or name.name in _NAMES:
        return Format.TEXT
    return None


def language_of(path: str) -> Language | None:
    """Return the language of a source file, None for everything else."""
    name = PurePosixPath(path)
    return _BY_SUFFIX.get(name.suffix.lower()) or _NAMES.get(name.name)
