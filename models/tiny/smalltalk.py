"""Greetings, thanks and the like, with their fixed answers; they need no tool."""

import random

from questions import typo
from words import WORDINGS


def small_talk(r: random.Random, held_out: bool = False) -> tuple[str, str]:
    """Return what is said, as people type it, and the answer: of two remarks, to the second."""
    key = "held_out" if held_out else "said"
    kind = r.choice(WORDINGS["small_talk"])
    said = r.choice(kind[key].splitlines())
    if r.random() < 0.2:
        before = r.choice(r.choice(WORDINGS["small_talk"])[key].splitlines())
        if before.isascii() == said.isascii():
            said = before + (r.choice([", ", "! ", ". ", " "]) if said.isascii() else "，") + said
    if said.isascii():
        capital = said.capitalize()
        said = r.choice([said, said, said.lower(), capital, capital, said.upper()])
        said += r.choice(["", "", "", "!", ".", "?", "!!", " :)", "..", " ", ","])
        if len(said) > 5 and r.random() < 0.12:
            said = typo(r, said)
    else:
        said += r.choice(["", "", "！", "。", "？", "!", "~"])
    return said, kind["answer"]
