"""Contexts made of facts, and questions about them: names, places, dates, amounts and the like.

The answer to a question is what was told, word for word.
"""

import random
import tomllib
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from frames import framed_fact, framed_question, odd_fact, odd_question
from questions import number
from words import Words, invented, is_held_out

RELATIONS: Final[dict[str, Any]] = tomllib.loads(
    (Path(__file__).parent / "relations.toml").read_text("utf-8")
)
_NAMES: Final = {name: text.split() for name, text in RELATIONS["names"].items()}
_MONTHS: Final = RELATIONS["names"]["months"].split()
_WEEKDAYS: Final = RELATIONS["names"]["weekdays"].split()
_PLAIN_SHARE: Final = 0.45
_ODD_SHARE: Final = 0.25
"""The part of the relations that training tells in words that mean nothing."""
_FRAMED_SHARE: Final = 0.12
_ODD_WORDINGS: Final = 12
_CHECKED_ONE_IN: Final = 8
_VALUES: Final = ("person", "place", "organisation", "year", "amount", "measure", "date", "time")
_MORE_VALUES: Final = ("count", "port", "version", "code", "word", "phrase", "color", "number")
_FACTS_MIN, _FACTS_MAX = 4, 8
_SIMPLE: Final = (
    ("The {a} of {t} is {v}.",),
    ("The {a} of {t} is?", "The {a} of {t}?", "What is the {a} of {t}?"),
)


@dataclass(frozen=True, slots=True)
class Relation:
    """One way in which a thing has a value."""

    name: str
    thing: str
    value: str
    told: tuple[str, ...]
    asked: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """A thing, the relation and the value."""

    relation: Relation
    thing: str
    value: str

    @property
    def key(self) -> tuple[str, str]:
        return self.relation.name, self.thing


@dataclass(frozen=True, slots=True)
class Context:
    """What is told, and what can be asked: a question and what was told of it, None for nothing."""

    text: str
    asked: tuple[tuple[str, str | None], ...]
    values: tuple[str | None, ...]
    """The value in each of the answers."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Draws names, values and facts."""

    r: random.Random
    words: Words
    held_out: bool
    chinese: bool
    simple: bool = False
    """Whether there are few facts, all told and asked in the plainest ways."""
    checked: bool = False
    """Whether to use the wordings that training leaves out to be checked by, and no others."""

    def context(self, *, questions: int, unknown_share: float) -> Context:
        """Draw up to eight facts, some alike in the thing and some in the relation.

        The evaluation has four at least; training has two, as one learns from easy things first.
        """
        r = self.r
        least, most = (2, 4) if self.simple else (_FACTS_MIN if self.held_out else 2, _FACTS_MAX)
        facts = self._facts(r.randint(least, most))
        told = {fact.key: self._told(fact) for fact in facts}
        lines = r.random() < 0.2 or not all(t.endswith((".", "。")) for t in told.values())
        text = ("\n" if lines else "" if self.chinese else " ").join(told.values())
        asked: list[tuple[str, str | None]] = []
        values: list[str | None] = []
        for fact in r.sample(facts, min(questions, len(facts))):
            if r.random() < unknown_share:
                asked.append((self._asked(self._absent(facts)), None))
                values.append(None)
            else:
                asked.append((self._asked(fact), told[fact.key]))
                values.append(fact.value)
        return Context(text, tuple(asked), tuple(values))

    def _facts(self, count: int) -> list[Fact]:
        """Draw facts with different keys, over few things and few relations."""
        r = self.r
        relations = [self._relation() for _ in range(r.randint(2, 4))]
        things: dict[str, list[str]] = {}
        facts: dict[tuple[str, str], Fact] = {}
        for _ in range(60):
            if len(facts) == count:
                break
            if r.random() < 0.1:
                relations.append(self._relation())
            relation = r.choice(relations)
            known = things.setdefault(relation.thing, [])
            if not known or r.random() < (0.45 if len(known) < 4 else 0.05):
                known.append(self.thing(relation.thing))
            fact = Fact(relation, r.choice(known), self.value(relation.value))
            facts.setdefault(fact.key, fact)
        drawn = list(facts.values())
        r.shuffle(drawn)
        return drawn

    def _absent(self, facts: list[Fact]) -> Fact:
        """Return a fact that is not told: another thing, or another relation of a known thing."""
        r, keys = self.r, {fact.key for fact in facts}
        while True:
            near = r.choice(facts)
            if r.random() < 0.5:
                made = Fact(near.relation, self.thing(near.relation.thing), "")
            else:
                others = [f.relation for f in facts] + [self._relation() for _ in range(3)]
                alike = [o for o in others if o.thing == near.relation.thing]
                made = Fact(r.choice(alike or [self._relation()]), near.thing, "")
            if made.key not in keys and made.relation.thing == near.relation.thing:
                return made

    def _asked(self, fact: Fact) -> str:
        r = self.r
        text = r.choice(fact.relation.asked).format(**self._slots(fact))
        if self._frames():
            text = framed_question(r, text, chinese=self.chinese)
        if self.chinese:
            return text
        style = r.random()
        if style < 0.08:
            return text.lower()
        return text[0].upper() + text[1:] if style < 0.6 else text

    def _told(self, fact: Fact) -> str:
        text = self.r.choice(fact.relation.told).format(**self._slots(fact))
        if self._frames():
            return framed_fact(self.r, text, self.value("person"), chinese=self.chinese)
        return text

    def _frames(self) -> bool:
        """Say whether to put something before or after; the evaluation and the simple don't."""
        return not (self.held_out or self.simple) and self.r.random() < _FRAMED_SHARE

    @staticmethod
    def _slots(fact: Fact) -> dict[str, str]:
        return {"a": fact.relation.name, "t": fact.thing, "v": fact.value}

    def _relation(self) -> Relation:
        r = self.r
        if self.simple:
            value = r.choice(["word", "number", "place"])
            return Relation(self._attribute(), "word", value, *_SIMPLE)
        if r.random() < _PLAIN_SHARE:
            return self._plain()
        if not (self.held_out or self.checked) and r.random() < _ODD_SHARE:
            return self._odd()
        language = "chinese" if self.chinese else "english"
        told, asked = ("facts_held_out", "asked_held_out") if self.held_out else ("facts", "asked")
        while True:
            place = r.randrange(len(RELATIONS["relation"]))
            drawn = RELATIONS["relation"][place]
            if drawn.get("language", "english") != language or told not in drawn:
                continue
            wordings = self._lines(drawn[told]), self._lines(drawn[asked])
            if all(wordings):
                return Relation(f"relation {place}", drawn["thing"], drawn["value"], *wordings)

    def _plain(self) -> Relation:
        plain, prefix = RELATIONS["plain"], "chinese_" if self.chinese else ""
        told = plain[f"{prefix}{'held_out' if self.held_out else 'facts'}"]
        asked = plain[f"{prefix}asked{'_held_out' if self.held_out else ''}"]
        return self._attributed(self._lines(told), self._lines(asked))

    def _odd(self) -> Relation:
        """Return a relation told in words of no meaning: only the attribute's name helps."""
        r, chinese = self.r, self.chinese
        told = tuple(odd_fact(r, chinese=chinese) for _ in range(_ODD_WORDINGS))
        asked = tuple(odd_question(r, chinese=chinese) for _ in range(_ODD_WORDINGS))
        return self._attributed(told, asked)

    def _attributed(self, told: tuple[str, ...], asked: tuple[str, ...]) -> Relation:
        r = self.r
        things = ["person", "organisation", "product", "place", "service", "word"]
        value = r.choice(_VALUES + _MORE_VALUES)
        return Relation(self._attribute(), r.choice(things), value, told, asked)

    def _attribute(self) -> str:
        """Draw the name of an attribute; in training it is as often any noun."""
        r, attributes = self.r, RELATIONS["attributes"]
        if self.held_out:
            return r.choice(attributes["chinese_held_out" if self.chinese else "held_out"].split())
        if r.random() < 0.5:
            return r.choice(attributes["chinese" if self.chinese else "english"].split())
        if self.chinese:
            return r.choice(self.words.chinese)
        return " ".join(r.choice(self.words.phrases).lower().split()[: r.choice([1, 1, 2])])

    def _lines(self, text: str) -> tuple[str, ...]:
        """Return the wordings; training leaves out those that it is checked by."""
        lines = text.strip().splitlines()
        if self.held_out:
            return tuple(lines)
        return tuple(line for line in lines if _is_checked(line) == self.checked)

    def thing(self, kind: str) -> str:
        """Draw the name of a person, a product, a service and so on."""
        r = self.r
        if self.chinese:
            return self._chinese_thing(kind)
        match kind:
            case "person" | "place" | "organisation":
                return self.value(kind)
            case "product":
                return (
                    f"the {self._name()} {self._from('products')}"
                    if r.random() < 0.7
                    else self._code()
                )
            case "event":
                before = r.choice(
                    [self._name(), self.words.phrase(r).lower(), "annual", self._place()]
                )
                return f"the {before} {self._from('events')}"
            case "service":
                return r.choice(
                    [
                        f"the {self._from('services')}",
                        f"the {self.words.phrase(r).lower()} {self._from('services')}",
                        invented(r),
                        f"{invented(r)}-{self._from('services')}",
                    ]
                )
            case "room":
                return f"room {number(r, self.held_out)}"
            case "work":
                return (
                    f'"{self._name()}\'s {self._from("genres")}"'
                    if r.random() < 0.5
                    else f"The {self._from('genres')} of {self._name()}"
                )
            case _:
                return r.choice(
                    [self._name(), invented(r), self._code(), "the " + self.words.phrase(r).lower()]
                )

    def _chinese_thing(self, kind: str) -> str:
        r = self.r
        if kind in {"person", "place", "organisation"}:
            return self.value(kind)
        pool = {"product": "products", "event": "events", "service": "services"}.get(kind)
        word = r.choice(self.words.chinese)
        if pool is None:
            return word
        return word + r.choice(_NAMES[f"chinese_{pool}"])

    def value(self, kind: str) -> str:
        """Draw a value of a kind."""
        r = self.r
        draw: dict[str, Callable[[], str]] = {
            "person": self._person,
            "place": self._place,
            "organisation": self._organisation,
            "year": lambda: self._year() + ("年" if self.chinese else ""),
            "amount": self._amount,
            "measure": lambda: f"{number(r, self.held_out)} {self._from('units')}",
            "date": self._date,
            "time": lambda: f"{r.randint(0, 23)}:{r.randint(0, 59):02}",
            "version": lambda: ".".join(str(r.randint(0, 30)) for _ in range(r.choice([2, 3]))),
            "path": lambda: "/" + "/".join(invented(r) for _ in range(r.randint(1, 3))),
            "job": lambda: self._from("jobs"),
            "color": lambda: self._from("colors"),
            "code": self._code,
            "phrase": lambda: r.choice(self.words.chinese if self.chinese else self.words.phrases),
            "word": lambda: r.choice(self.words.chinese) if self.chinese else self._name(),
        }
        return draw[kind]() if kind in draw else number(r, self.held_out)

    def _organisation(self) -> str:
        if self.chinese:
            return self.r.choice(self.words.chinese) + self._from("chinese_firms")
        after = ["", " " + self._from("firms"), " & " + self._name()]
        return self._name() + self.r.choice(after)

    def _from(self, pool: str) -> str:
        """Draw a word of a list; small closed lists are shared with the training."""
        return self.r.choice(_NAMES[pool])

    def _drawn(self, pool: str) -> str:
        """Draw a name of a list, from the tenth that is held out or from the rest."""
        while True:
            name = self.r.choice(_NAMES[pool])
            if is_held_out(name) == self.held_out:
                return name

    def _name(self) -> str:
        r = self.r
        return (
            invented(r).capitalize()
            if r.random() < 0.75
            else r.choice(self.words.phrases).split()[0].capitalize()
        )

    def _person(self) -> str:
        r = self.r
        if self.chinese:
            given = _NAMES["chinese_given"][0]
            return r.choice(_NAMES["chinese_surnames"][0]) + "".join(
                r.sample(given, r.choice([1, 2]))
            )
        first = self._drawn("first") if r.random() < 0.7 else invented(r).capitalize()
        last = self._drawn("last") if r.random() < 0.6 else invented(r).capitalize()
        return r.choices([f"{first} {last}", first, last, f"Dr. {last}"], [60, 25, 10, 5])[0]

    def _place(self) -> str:
        if self.chinese:
            return self.r.choice(_NAMES["chinese_towns"])
        return self._drawn("towns") if self.r.random() < 0.6 else invented(self.r).capitalize()

    def _year(self) -> str:
        while True:
            year = str(self.r.randint(1500, 2039))
            if is_held_out(year) == self.held_out:
                return year

    def _amount(self) -> str:
        r, plain = self.r, number(self.r, self.held_out)
        if self.chinese:
            return plain + r.choice(["元", "美元", "欧元"])
        cents = f".{r.randint(0, 99):02}" if r.random() < 0.3 else ""
        return r.choice(
            [f"${plain}{cents}", f"{plain}{cents} euros", f"€{plain}{cents}", f"{plain}{cents} USD"]
        )

    def _date(self) -> str:
        r, day, month = self.r, self.r.randint(1, 28), self.r.randint(1, 12)
        if self.chinese:
            return r.choice([f"{month}月{day}日", f"{self._year()}年{month}月{day}日"])
        return r.choice(
            [
                f"{day} {_MONTHS[month - 1]} {self._year()}",
                f"{_MONTHS[month - 1]} {day}",
                f"{self._year()}-{month:02}-{day:02}",
                f"{r.choice(_WEEKDAYS)}",
                f"{_MONTHS[month - 1]} {self._year()}",
            ]
        )

    def _code(self) -> str:
        r = self.r
        letters = "".join(r.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(r.randint(1, 3)))
        return (
            f"{letters}-{number(r, self.held_out)}"
            if r.random() < 0.6
            else f"{invented(r)}{r.randint(1, 99)}"
        )


def _is_checked(line: str) -> bool:
    return zlib.crc32(line.encode()) % _CHECKED_ONE_IN == 0
