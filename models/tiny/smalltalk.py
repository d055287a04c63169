"""Greetings, thanks and the like, with their fixed answers; they need no tool."""

import random

from questions import typo
from words import WORDINGS


def small_talk(r: random.Random, held_out: bool = False) -> tuple[str, str]:
    """Return what is said, as people type it, and the answer: of two remarks, to the second."""
    key = "held_out" if held_out else "said"
    kind = r.choice(WORDINGS["small_talk"])
    said = _remark(r, kind[key].splitlines())
    if r.random() < 0.2:
        before = _remark(r, r.choice(WORDINGS["small_talk"])[key].splitlines())
        if before.isascii() == said.isascii():
            said = before + (r.choice([", ", "! ", ". ", " "]) if said.isascii() else "，") + said
    if said.isascii() and not held_out and r.random() < 0.15:
        said = r.choice(["so ", "well, ", "and ", "ok, ", "um, ", ""]) + said
        said += r.choice(["", " today", " now", " everybody", " really", " again", " my dear"])
    if said.isascii():
        capital = said.capitalize()
        said = r.choice([said, said, said.lower(), capital, capital, said.upper()])
        said += r.choice(["", "", "", "!", ".", "?", "!!", " :)", "..", " ", ","])
        if len(said) > 5 and r.random() < 0.12:
            said = typo(r, said)
    else:
        said += r.choice(["", "", "！", "。", "？", "!", "~"])
    return said, kind["answer"]


def _remark(r: random.Random, remarks: list[str]) -> str:
    """Choose one; the first few are the most common, here as among people."""
    return r.choice(remarks[:6] if r.random() < 0.4 else remarks)
