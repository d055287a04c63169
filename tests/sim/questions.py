"""What clients ask, and which answers are right: the scripted models leave no doubt."""

import random
import re
from dataclasses import dataclass

from murmurate.agents.turn import UNKNOWN_EN
from tests.sim.outside import THINGS
from tests.sim.world import CONFIG

WORDS = ("ash", "birch", "cedar", "elm", "fir")
SIGNED = r" \[(?P<tenant>\w+) (?P<model>\w+)#(?P<number>\d+) heard (?P<heard>\d+)\]"
_EDITION = r"The secret of {thing} stands in edition (?P<edition>\d+) for (?P<tenant>\w+)\."


@dataclass(frozen=True, slots=True)
class Question:
    """A question, the pattern of its answers, and how they end. `thing`: the document meant."""

    text: str
    answers: re.Pattern[str]
    reason: str = "stop"
    thing: str | None = None
    tokens_max: int | None = None

    def within(self, suffix: str) -> "Question":
        """Return the same question with something behind it that changes no answer."""
        return Question(self.text + suffix, self.answers, self.reason, self.thing, self.tokens_max)


def for_model(chance: random.Random) -> Question:
    """Return a question that a model answers by itself."""
    word = chance.choice(WORDS)
    if chance.random() < 0.15:
        answers = re.compile(f"said {word} ")
        return Question(f"say {word}", answers, reason="length", tokens_max=2)
    return Question(f"say {word}", re.compile(f"said {word} and {word} again{SIGNED}"))


def for_agent(chance: random.Random, agent: str) -> Question:
    """Return a question that needs an agent's tools, or none."""
    steps = CONFIG.agents[agent].steps_max
    kind = chance.choice(("say", "count", "count", "find", "find", "find", "loop", "lost", "bad"))
    if kind == "count":
        left, right = chance.randrange(9), chance.randrange(9)
        result = re.escape(f'It is {{"result":{left + right}}}')
        return Question(f"count {left}+{right}", re.compile(result + SIGNED))
    if kind == "find":
        return about(chance.choice(THINGS), agent)
    if kind == "loop":
        stopped = re.escape(f"I stopped after {steps} steps without an answer.")
        return Question("loop", re.compile(stopped), reason="length")
    if kind == "lost":
        error = re.escape('It is {"error":"there is no tool \'nowhere\'"}')
        return Question("lost", re.compile(error + SIGNED))
    if kind == "bad":
        return Question("count 1+x", re.compile(r'It is {"error":"not a sum"}' + SIGNED))
    return for_model(chance)


def about(thing: str, agent: str) -> Question:
    """Return a question whose answer stands in a document."""
    edition = _EDITION.format(thing=thing)
    if agent == "writer":
        none = r'{"passages":\[\]}'
        found = rf'{{"passages":\[{{"path":"{thing}.md","lines":"1-1","text":"{edition}"}}\]}}'
        signed = SIGNED.replace("tenant", "signer")
        return Question(
            f"note {thing}", re.compile(f"It is (?:{found}|{none}){signed}"), thing=thing
        )
    quoted = rf"{edition}\n\n\(quoted from {thing}\.md, line 1\)"
    answers = re.compile(f"{quoted}|{re.escape(UNKNOWN_EN)}")
    return Question(f"find {thing}", answers, thing=thing)
