"""Questions with digits, dashes and dots in them that ask for no arithmetic: ports, dates, flags.

What makes arithmetic is an operator between two numbers, not a number; these teach the difference.
"""

import random
import re
from collections.abc import Callable
from typing import Final

from questions import NOUNS, typo
from words import WORDINGS, Words, invented, is_held_out

_LISTS: Final = {kind: tuple(text.split()) for kind, text in WORDINGS["numbered"]["lists"].items()}
_VERBS: Final = tuple(WORDINGS["verbs"]["english"].split())
_NOUNS_CHINESE: Final = tuple(WORDINGS["nouns"]["chinese"].split())
CHINESE_SHARE: Final = 0.18


def numbered_question(r: random.Random, words: Words, held_out: bool = False) -> str:
    """Return a question with a number in it, in either language.

    Slots: g any value, and of its kinds: f a command or flag, k a number in a name, o a code, e a
    version, a an address, w a date or time, m a measure; n a noun, t a thing, v a verb; c a thing
    in Chinese.
    """

    def filled(slot: re.Match[str]) -> str:
        match slot[1]:
            case "n":
                return r.choice(NOUNS)
            case "t":
                thing = r.choice([r.choice(NOUNS), words.phrase(r)])
                return r.choice(["the ", "a ", "my ", ""]) + thing
            case "v":
                return r.choice(_VERBS)
            case "c":
                return r.choice([r.choice(_NOUNS_CHINESE), r.choice(words.chinese)])
            case kind:
                return value(r, r.choice(sorted(KINDS)) if kind == "g" else kind, held_out)

    language = "chinese" if r.random() < CHINESE_SHARE else "english"
    key = f"{language}_held_out" if held_out else language
    text = re.sub(r"\{(\w)\}", filled, r.choice(WORDINGS["numbered"][key].splitlines()))
    return text if language == "chinese" else _as_typed(r, text)


def _as_typed(r: random.Random, text: str) -> str:
    style = r.random()
    if style < 0.3:
        text = text[0].lower() + text[1:]
    elif style < 0.6:
        text = text[0].upper() + text[1:]
    if r.random() < 0.35:
        text = text.rstrip("?.")
    return typo(r, text) if r.random() < 0.05 else text


def value(r: random.Random, kind: str, held_out: bool) -> str:
    """Draw a value of a kind; one in ten is for the evaluation alone."""
    while is_held_out(drawn := KINDS[kind](r)) != held_out:
        pass
    return drawn


def _digits(r: random.Random) -> str:
    return str(r.randint(0, 10 ** r.randint(1, 4)))


def _flag(r: random.Random) -> str:
    command, letter = r.choice(_LISTS["commands"]), r.choice("abcdefjklmnopqrstvwxzCDGJLOPT")
    option = "-".join(r.sample(_LISTS["settings"], r.choice([1, 1, 2])))
    count, small = _digits(r), str(r.randint(0, 30))
    return r.choice(
        [
            f"{command} -{small}",
            f"{command} -{small}",
            f"-{small}",
            f"{command} {count}",
            f"{command} -{letter} {count}",
            f"{command} -{letter}{small}",
            f"-{letter} {count}",
            f"-{letter}{small}",
            f"--{option} {count}",
            f"--{option} {count}",
            f"--{option}={count}",
            f"{command} --{option} {count}",
            f"{option.replace('-', '_')} = {count}",
            f"{option.replace('-', '_')}={count}",
            f"{option.upper().replace('-', '_')}={count}",
            f"{option.replace('-', '_')}: {count}",
        ]
    )


def _name(r: random.Random) -> str:
    letters = invented(r).upper()[: r.randint(1, 4)]
    small, big = str(r.randint(1, 99)), str(r.randint(100, 9999))
    return r.choice(
        [
            f"{r.choice(_LISTS['names'])}-{r.choice([small, big])}",
            f"{r.choice(_LISTS['names'])} {r.choice([small, big])}",
            f"{r.choice(_LISTS['names'])}{small}",
            f"{letters}-{r.choice([small, big])}",
            f"{letters}-{r.randint(2000, 2030)}-{big}",
            f"{letters}{small}",
            f"{letters.lower()}{small}-{r.randint(1, 99)}",
            f"{invented(r)}-{small}b",
            f"{invented(r)}{small}",
            f"{invented(r)}_{small}",
            f"p{small}",
            f"Q{small}_{r.choice('01KM')}",
        ]
    )


def _code(r: random.Random) -> str:
    what, code = r.choice(_LISTS["codes"]), r.choice([_digits(r), str(r.randint(1, 255))])
    return r.choice(
        [
            *(f"{what} {code}", f"{what} {code}", f"{what} -{code}", f"exit {what} {code}"),
            *(f"{what}-{code}", f"{what} #{code}", f"{what}={code}", f"{what} {code} {code[::-1]}"),
        ]
    )


def _version(r: random.Random) -> str:
    major, minor, patch = r.randint(0, 30), r.randint(0, 40), r.randint(0, 20)
    version = r.choice([f"{major}.{minor}", f"{major}.{minor}", f"{major}.{minor}.{patch}"])
    version += r.choice(["", "", "", "", f"-rc{patch}", f"-beta.{patch}", "-dev", "-lts", "+"])
    product = r.choice([r.choice(_LISTS["products"]), invented(r).capitalize()])
    return r.choice([version, version, f"v{version}", f"{product} {version}", f"{product} {major}"])


def _address(r: random.Random) -> str:
    port = str(r.choice([r.randint(20, 999), r.randint(1000, 65535)]))
    ip = ".".join(str(r.randint(0, 255)) for _ in range(4))
    return r.choice(
        [
            *(port, f"port {port}", f"port {port}", f":{port}", f"localhost:{port}"),
            *(ip, f"{ip}:{port}", f"{ip}/{r.choice([8, 16, 24, 32])}"),
            *(f"{port}/{r.choice(['tcp', 'udp'])}", f"{invented(r)}-{r.randint(1, 12)}:{port}"),
            f"ports {port}-{int(port) + r.randint(1, 9)}",
        ]
    )


def _date(r: random.Random) -> str:
    year, month, day = r.randint(1980, 2040), r.randint(1, 12), r.randint(1, 28)
    name, hour = r.choice(_LISTS["months"]), f"{r.randint(0, 23)}:{r.randint(0, 59):02d}"
    return r.choice(
        [
            f"{year}-{month:02d}-{day:02d}",
            f"{year}-{month:02d}-{day:02d}",
            f"{day:02d}/{month:02d}/{year}",
            f"{day}.{month}.{year}",
            f"{day}.{month}.",
            f"{name} {day}",
            f"{day} {name} {year}",
            f"{name} {year}",
            hour,
            f"{hour}-{r.randint(0, 23)}:00",
            f"Q{r.randint(1, 4)} {year}",
            f"{r.randint(1, 12)} {r.choice(['am', 'pm'])}",
        ]
    )


def _measure(r: random.Random) -> str:
    unit, a, b = r.choice(_LISTS["units"]), _digits(r), str(r.randint(1, 60))
    return r.choice(
        [
            *(f"{a} {unit}", f"{a}{unit}", f"{b}.{r.randint(1, 9)} {unit}", f"{b}%", f"{b}x"),
            *(
                f"{b}-{int(b) + r.randint(1, 20)} {unit}",
                f"{b} to {int(b) + r.randint(1, 40)} {unit}",
            ),
            f"${a}",
        ]
    )


KINDS: Final[dict[str, Callable[[random.Random], str]]] = {
    "f": _flag,
    "k": _name,
    "o": _code,
    "e": _version,
    "a": _address,
    "w": _date,
    "m": _measure,
}
