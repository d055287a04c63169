"""Frames without meaning: random words around a fact or a question, in training only.

They teach to go by the words that a question shares with a fact, whatever stands between them.
"""

import random
from typing import Final

from words import WORDINGS

_FRAMES: Final = WORDINGS["frames"]
_FILLERS: Final = {
    False: WORDINGS["stop_words"]["english"].split()
    + WORDINGS["stop_words"]["more"].split()
    + _FRAMES["fillers"].split(),
    True: _FRAMES["chinese_fillers"].split(),
}


def odd_fact(r: random.Random, *, chinese: bool) -> str:
    """Return a template in which an attribute, a thing and a value stand among random words."""
    return _odd(r, ["{a}", "{t}", "{v}"], chinese=chinese) + ("。" if chinese else ".")


def odd_question(r: random.Random, *, chinese: bool) -> str:
    """Return a template of a question among random words."""
    ends = ["？", "", "。"] if chinese else ["?", "?", "", "."]
    return _odd(r, ["{a}", "{t}"], chinese=chinese) + r.choice(ends)


def _odd(r: random.Random, slots: list[str], *, chinese: bool) -> str:
    parts = r.choices(_FILLERS[chinese], k=r.randint(1, 6))
    for slot in r.sample(slots, len(slots)):
        parts.insert(r.randint(0, len(parts)), slot)
    return ("" if chinese else " ").join(parts)


def framed_fact(r: random.Random, text: str, name: str, *, chinese: bool) -> str:
    """Put a few words before the fact, or behind it."""
    prefix = "chinese_" if chinese else ""
    if r.random() < 0.5 or not text.endswith((".", "。")):
        return r.choice(_FRAMES[f"{prefix}before"].strip().splitlines()).format(n=name) + text
    after = r.choice(_FRAMES[f"{prefix}after"].strip().splitlines()).format(n=name)
    return text[:-1] + after


def framed_question(r: random.Random, text: str, *, chinese: bool) -> str:
    """Put a few words before the question, or behind it."""
    prefix = "chinese_" if chinese else ""
    before = r.choice(_FRAMES[f"{prefix}asked_before"].strip().splitlines())
    after = r.choice(_FRAMES[f"{prefix}asked_after"].strip().splitlines())
    gap = "" if chinese else " "
    return f"{before}{gap}{text}" if r.random() < 0.6 else f"{text}{gap}{after}"
