"""Questions and requests that only the documents can answer, in English and Chinese."""

import random
import re
from typing import Final

from words import WORDINGS, Words, invented, is_held_out

NOUNS: Final = tuple(WORDINGS["nouns"]["english"].split())
_NOUNS_CHINESE: Final = tuple(WORDINGS["nouns"]["chinese"].split())
_VERBS: Final = tuple(WORDINGS["verbs"]["english"].split())
_VERBS_CHINESE: Final = tuple(WORDINGS["verbs"]["chinese"].split())
_DOES: Final = tuple(WORDINGS["verbs"]["without_object"].split())
_WHO: Final = tuple(WORDINGS["verbs"]["by_whom"].split())
_QUALITIES: Final = tuple(WORDINGS["qualities"]["english"].split())
_STATES: Final = tuple(WORDINGS["qualities"]["states"].splitlines())
_ADVERBS: Final = (
    *[""] * 7,
    " by default",
    " automatically",
    " on Linux",
    " in production",
    " again",
    " safely",
)
_OPENINGS: Final = (
    *[""] * 14,
    *("hi, ", "Hello! ", "hey, ", "ok, ", "Ok so ", "thanks. ", "Thanks! ", "Great, ", "so "),
    *("sorry, ", "Also, ", "please, ", "good morning, ", "one more thing: ", "quick question: "),
    *("and ", "but ", "hm, ", "alright, "),
)
SAID_TWICE_SHARE: Final = 0.08
_CLOSINGS: Final = (" please", " thanks", " Thanks!", " pls", " ?", " exactly", " now", " asap")


def question(r: random.Random, words: Words, held_out: bool = False) -> str:
    """Return a question in either language, as people type them."""
    text = _question(r, words, held_out)
    if not held_out and r.random() < SAID_TWICE_SHARE:
        return _said_twice(r, text)
    return text


def _question(r: random.Random, words: Words, held_out: bool) -> str:
    kind = r.random()
    if kind < 0.22:
        return _chinese(r, words, held_out)
    if kind < 0.36:
        return short_question(r, words, held_out)
    text = _english(r, words, held_out)
    if r.random() < 0.1:
        text = typo(r, text)
    return text


def _said_twice(r: random.Random, text: str) -> str:
    """Repeat a word or a Chinese character, at which a copy goes astray."""
    parts = re.findall(r"[!-~]+\s*|.", text, re.DOTALL)
    place = r.randrange(len(parts))
    return "".join([*parts[: place + 1], *parts[place:]])


def short_question(r: random.Random, words: Words, held_out: bool = False) -> str:
    """Return a question of a few words, such as might be taken for small talk."""
    template = r.choice(
        WORDINGS["questions"][f"short{'_held_out' if held_out else ''}"].splitlines()
    )
    text = template.format(
        c=_called(r, words),
        t=_thing(r, words),
        ts=_things(r, words),
        n=_noun(r, words),
        v=r.choice(_VERBS),
        d=r.choice(_DOES),
        s=r.choice(_STATES),
    )
    style = r.random()
    if style < 0.2:
        text = text.lower()
    elif style < 0.5:
        text = text[0].upper() + text[1:]
    return text.rstrip("?") + r.choice(["", "?", "?", ""])


def _called(r: random.Random, words: Words) -> str:
    """Return a name as programs have them: SIGTERM, --verbose, retry_max, Nginx."""
    name, phrase = invented(r), words.phrase(r).split()[-1]
    return r.choice(
        [
            phrase,
            phrase.upper(),
            name.upper()[: r.randint(2, 7)],
            name.capitalize(),
            f"--{phrase.lower()}",
            f"{phrase.lower()}_{r.choice(['max', 'min', 's', 'ms', 'url', 'name', 'path'])}",
            f"{name}.{r.choice(['toml', 'py', 'conf', 'log', 'txt'])}",
            r.choice(NOUNS),
            f"the {r.choice(NOUNS)}",
        ]
    )


def _templates(language: str, held_out: bool) -> list[str]:
    """Return the templates of a language.

    Slots: t, u a thing with its article; ts, ms things; n, m a noun; p a phrase and a an action of
    the docstrings; v, d verbs; s a state; q a quality; i, j, y numbers; x a name; z a sentence. In
    Chinese: c, e things; o a verb.
    """
    key = f"{language}_held_out" if held_out else language
    return WORDINGS["questions"][key].splitlines()


def _english(r: random.Random, words: Words, held_out: bool) -> str:
    if r.random() < 0.03:
        return r.choice([r.choice(NOUNS), words.phrase(r)]) + r.choice(["", "", "?"])
    template = r.choice(_templates("english", held_out))
    slots = {
        "t": _thing(r, words),
        "u": _thing(r, words),
        "ts": _things(r, words),
        "ms": _things(r, words),
        "n": r.choice(NOUNS),
        "m": r.choice(NOUNS),
        "p": words.phrase(r),
        "a": r.choice(words.actions),
        "v": r.choice(_VERBS),
        "d": r.choice(_DOES),
        "s": r.choice(_STATES),
        "w": r.choice(_WHO),
        "q": r.choice(_QUALITIES),
        "i": number(r, held_out),
        "j": str(r.randint(0, 20)),
        "y": str(r.randint(1000, 2030)),
        "x": invented(r).capitalize() + r.choice(["", " " + invented(r).capitalize()]),
        "z": r.choice(words.sentences),
    }
    text = template.format(**slots)
    if text.endswith("?") and r.random() < 0.3:
        text = text[:-1] + r.choice(_ADVERBS) + "?"
    text = r.choice(_OPENINGS) + text
    style = r.random()
    if style < 0.25:
        text = text.lower()
    elif style < 0.5:
        text = text[0].upper() + text[1:]
    if r.random() < 0.25:
        text = text.rstrip("?.!")
    if r.random() < 0.15:
        text += r.choice(_CLOSINGS)
    if r.random() < 0.04:
        text += r.choice([" ", "\n"]) + _english(r, words, held_out)
    return text


def _chinese(r: random.Random, words: Words, held_out: bool) -> str:
    def thing() -> str:
        if r.random() < 0.4:
            return r.choice(_NOUNS_CHINESE)
        return "".join(r.choice(words.chinese) for _ in range(r.choice([1, 1, 1, 2])))

    text = r.choice(_templates("chinese", held_out)).format(
        c=thing(),
        e=thing(),
        o=r.choice(_VERBS_CHINESE if r.random() < 0.7 else words.chinese),
        i=number(r, held_out),
        p=r.choice(words.phrases),
    )
    if r.random() < 0.3:
        text = text.rstrip("？。") + r.choice(["", "？", "?", "。", "！"])
    return text


def _noun(r: random.Random, words: Words) -> str:
    if r.random() < 0.45:
        return r.choice(NOUNS)
    return words.phrase(r)


def _thing(r: random.Random, words: Words) -> str:
    quality = r.choice(_QUALITIES) + " " if r.random() < 0.2 else ""
    article = r.choice(["the ", "the ", "a ", "my ", "this ", "our ", "each ", ""])
    return article + quality + _noun(r, words)


def _things(r: random.Random, words: Words) -> str:
    quality = r.choice(_QUALITIES) + " " if r.random() < 0.15 else ""
    return quality + _noun(r, words) + "s"


def number(r: random.Random, held_out: bool) -> str:
    """Return a whole number of one to five digits."""
    while True:
        drawn = str(r.randint(1, 10 ** r.randint(1, 5)))
        if len(drawn) < 3 or is_held_out(drawn) == held_out:
            return drawn


def typo(r: random.Random, text: str) -> str:
    """Drop, double or swap a letter."""
    places = [i for i in range(len(text) - 1) if text[i : i + 2].isalpha()]
    if not places:
        return text
    i = r.choice(places)
    return r.choice(
        [
            text[:i] + text[i + 1 :],
            text[:i] + text[i] + text[i:],
            text[:i] + text[i + 1] + text[i] + text[i + 2 :],
        ]
    )
