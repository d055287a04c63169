"""Measure the shipped file through llama.cpp's own HTTP server, on what training held out."""

import argparse
import json
import multiprocessing
import random
import re
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import prose
import tasks
import xllamacpp
from arithmetic import arithmetic
from numbered import numbered_question
from places import HERE, SHIPPED
from questions import question, short_question
from realistic import REALISTIC
from smalltalk import small_talk
from tasks import CALCULATE, DEFAULT_SYSTEM, SEARCH, Conversation, Source
from words import is_held_out, words

SLOTS: Final = 2
ANSWER_TOKENS_MAX: Final = 220
FAILURES_KEPT_MAX: Final = 8
SAID_CHARS_MAX: Final = 300
F1_MIN: Final = 0.5
UNKNOWNS: Final = (tasks.UNKNOWN, tasks.UNKNOWN_CHINESE)


@dataclass(frozen=True, slots=True)
class Said:
    """What the model said: text, or a call."""

    text: str
    tool: str | None = None
    argument: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """One conversation up to the answer, and what would be right."""

    talk: Conversation
    right: Callable[[Said], bool]
    wanted: str


@dataclass(slots=True)
class Score:
    """How many cases of a class were right."""

    name: str
    right: int
    cases: int
    outcomes: dict[str, int]
    """How often what kind of answer was given: a row of the confusion matrix."""
    failures: list[dict[str, str]]


class Server:
    """llama.cpp's server in this process, spoken to over HTTP."""

    def __init__(self, model: Path) -> None:
        told = xllamacpp.CommonParams()
        told.model.path = str(model)
        told.n_ctx, told.n_parallel, told.kv_unified = 8192, SLOTS, True
        told.cpuparams.n_threads = told.cpuparams_batch.n_threads = 1
        told.hostnames, told.port, told.verbosity = ["127.0.0.1"], 0, 0
        self._server = xllamacpp.Server(told)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the body of the answer."""
        request = urllib.request.Request(
            self._server.listening_address + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as reply:
            return reply.read()

    def answer(self, talk: Conversation) -> Said:
        """Return the greedy answer."""
        reply = json.loads(self.post("/v1/chat/completions", body_of(talk)))
        message = reply["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        if not calls:
            return Said(message.get("content") or "")
        function = calls[0]["function"]
        return Said("", function["name"], _first_value(function["arguments"]))

    def sure(self, talk: Conversation) -> tuple[str, list[float]]:
        """Return the greedy answer and the log-probability of each of its tokens."""
        reply = json.loads(self.post("/v1/chat/completions", {**body_of(talk), "logprobs": True}))
        choice = reply["choices"][0]
        told = (choice.get("logprobs") or {}).get("content") or [{"logprob": 0.0}]
        return choice["message"].get("content") or "", [token["logprob"] for token in told]

    def streamed(self, talk: Conversation) -> Said:
        """Return the same answer, put together from its stream."""
        text, name, arguments = "", None, ""
        body = self.post("/v1/chat/completions", {**body_of(talk), "stream": True})
        for line in body.decode().splitlines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                name = call["function"].get("name") or name
                arguments += call["function"].get("arguments") or ""
        return Said(text, name, _first_value(arguments)) if name else Said(text)


def body_of(talk: Conversation) -> dict[str, Any]:
    """Return the request for the next message."""
    body = {
        "messages": list(_on_the_wire(talk)),
        "temperature": 0,
        "max_tokens": ANSWER_TOKENS_MAX,
    }
    return {**body, "tools": talk.tools, "tool_choice": "auto"} if talk.tools else body


def _on_the_wire(talk: Conversation) -> Iterator[dict[str, Any]]:
    """Yield the messages as OpenAI's protocol has them: arguments are text, calls have an id."""
    for message in talk.messages:
        if message["role"] == "tool":
            yield {**message, "tool_call_id": "call"}
        elif "tool_calls" in message:
            function = message["tool_calls"][0]["function"]
            arguments = json.dumps(function["arguments"], ensure_ascii=False)
            call = {"id": "call", "type": "function"}
            yield {
                "role": "assistant",
                "content": None,
                "tool_calls": [{**call, "function": {**function, "arguments": arguments}}],
            }
        else:
            yield message


def _first_value(arguments: str) -> str:
    try:
        return str(next(iter(json.loads(arguments).values()), ""))
    except (ValueError, AttributeError):
        return arguments


def fresh(source: Source, *, history: int = 0) -> Conversation:
    """Return a conversation with the product's two tools, behind some earlier exchanges."""
    r = source.r
    system = r.choice([DEFAULT_SYSTEM, DEFAULT_SYSTEM, "You are a helpful assistant."])
    talk = Conversation([{"role": "system", "content": system}], [SEARCH, CALCULATE])
    for _ in range(history):
        earlier = [tasks.quoted_before, tasks.calculated_before, tasks.chat, tasks.ask_arithmetic]
        r.choice(earlier)(source, talk)
    return talk


def asks_documents(source: Source) -> Case:
    """A question: search is called."""
    return _search(source, 0)


def asks_documents_later(source: Source) -> Case:
    """The same behind one to three exchanges."""
    return _search(source, source.r.randint(1, 3))


def _search(source: Source, history: int) -> Case:
    talk, text = fresh(source, history=history), question(source.r, source.words, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said.tool == "search", text)


def copies_question(source: Source) -> Case:
    """A question: the query is the message, letter by letter."""
    talk, text = fresh(source), question(source.r, source.words, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: (said.tool, said.argument) == ("search", text), text)


def asks_shortly(source: Source) -> Case:
    """A question of a few words: it is searched for, not taken for small talk."""
    talk, text = fresh(source), short_question(source.r, source.words, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said.tool == "search", text)


def asks_with_number(source: Source) -> Case:
    """A question with a number in it (a port, a date, a flag): searched for, not calculated."""
    talk = fresh(source, history=source.r.choice([0, 0, 1]))
    text = numbered_question(source.r, source.words, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said.tool == "search", text)


def asks_arithmetic(source: Source) -> Case:
    """Arithmetic: calculate is called."""
    return _calculate(source, 0)


def asks_arithmetic_later(source: Source) -> Case:
    """The same behind one to three exchanges."""
    return _calculate(source, source.r.randint(1, 3))


def _calculate(source: Source, history: int) -> Case:
    talk, (text, _) = fresh(source, history=history), arithmetic(source.r, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said.tool == "calculate", text)


def writes_expression(source: Source) -> Case:
    """Arithmetic in held-out words and numbers: the expression is right, spaces aside."""
    return _expression(source, arithmetic(source.r, held_out=True))


def _expression(source: Source, drawn: tuple[str, str]) -> Case:
    talk = fresh(source)
    talk.user(drawn[0])
    wanted = drawn[1].replace(" ", "")
    return Case(
        talk,
        lambda said: (said.tool, said.argument.replace(" ", "")) == ("calculate", wanted),
        drawn[1],
    )


def chats(source: Source) -> Case:
    """Small talk: no call, and the fixed answer's first word."""
    return _small_talk(source, 0)


def chats_later(source: Source) -> Case:
    """The same behind one to three exchanges."""
    return _small_talk(source, source.r.randint(1, 3))


def _small_talk(source: Source, history: int) -> Case:
    talk, (text, answer) = fresh(source, history=history), small_talk(source.r, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said.tool is None and bool(said.text), answer)


def chats_fittingly(source: Source) -> Case:
    """Small talk: the answer that belongs to it."""
    talk, (text, answer) = fresh(source), small_talk(source.r, source.held_out)
    talk.user(text)
    return Case(talk, lambda said: said == Said(answer), answer)


def phrases_result(source: Source) -> Case:
    """A calculator's result: every digit of it, and the expression."""
    talk = fresh(source, history=source.r.choice([0, 0, 1]))
    tasks.ask_arithmetic(source, talk)
    answer = talk.messages.pop()["content"]
    return Case(talk, lambda said: said == Said(answer), answer)


def copies_result(source: Source) -> Case:
    """The same, but only what stands behind the equals sign counts: every digit of the result."""
    case = phrases_result(source)
    result = case.wanted.rpartition(" = ")[2]
    return Case(case.talk, lambda said: said.text.rpartition(" = ")[2] == result, case.wanted)


def phrases_other_result(source: Source) -> Case:
    """Another tool's result."""
    talk = fresh(source)
    tasks.other_tool(source, talk)
    answer = talk.messages.pop()["content"]
    return Case(talk, lambda said: said == Said(answer), answer)


def quotes_passage(source: Source) -> Case:
    """A search's first passage, word for word."""
    talk = fresh(source)
    tasks.ask_documents(source, talk)
    answer = talk.messages.pop()["content"]
    return Case(talk, lambda said: said == Said(answer), answer)


def answers_from_facts(source: Source) -> Case:
    """One of four to eight facts, as it was told."""
    return _context(source, tasks.about_facts, known=True)


def finds_value(source: Source) -> Case:
    """The same, but only the value counts, whatever sentence it stands in."""
    while True:
        drawn = tasks.draw_facts(source, 1)
        value = drawn.values[0]
        if value is not None:
            talk = tasks.in_context(source, drawn.text, list(drawn.asked))
            return _value(talk, value, talk.messages.pop()["content"])


def _value(talk: Conversation, value: str, answer: str) -> Case:
    """Return a case in which the value has to stand in the answer as a word of its own."""
    whole = re.compile(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])")
    return Case(talk, lambda said: whole.search(said.text) is not None, answer)


def misses_fact(source: Source) -> Case:
    """A fact that is not among them: the model says that it doesn't know."""
    return _context(source, tasks.about_facts, known=False)


def answers_from_passage(source: Source) -> Case:
    """The sentence of a passage that answers, at a token F1 of a half; it has a held-out word.

    The first version of the model learnt from single sentences of such documents, but never from
    one with a held-out word.
    """
    while True:
        case = _context(source, tasks.about_passage, known=True)
        if any(map(is_held_out, prose.content(case.wanted))):
            return _sentence(case.talk, case.wanted)


def misses_in_passage(source: Source) -> Case:
    """A question about another passage."""
    return _context(source, tasks.about_passage, known=False)


def _context(source: Source, draw: Callable[[Source, int], Conversation], *, known: bool) -> Case:
    talk, answer = Conversation([], None), ""
    while len(talk.taught) != 1 or (answer not in UNKNOWNS) != known:
        talk = draw(source, 1)
        answer = talk.messages[-1]["content"]
    talk.messages.pop()
    return Case(talk, lambda said: said == Said(answer), answer)


def _sentence(talk: Conversation, wanted: str) -> Case:
    return Case(talk, lambda said: f1(said.text, wanted) >= F1_MIN, wanted)


def f1(said: str, wanted: str) -> float:
    """Return the harmonic mean of precision and recall of words, as for reading tests."""
    ours, theirs = (Counter(re.findall(r"\w+", text.lower())) for text in (said, wanted))
    shared = (ours & theirs).total()
    return 2 * shared / (ours.total() + theirs.total()) if shared else 0.0


def admits_ignorance(source: Source) -> Case:
    """A question without tools or context."""
    text = question(source.r, source.words, source.held_out)
    talk = Conversation([], None)
    talk.user(text)
    return Case(talk, lambda said: said == Said(tasks.unknown(text)), tasks.unknown(text))


CLASSES: Final = (
    asks_documents,
    asks_documents_later,
    asks_shortly,
    asks_with_number,
    copies_question,
    asks_arithmetic,
    asks_arithmetic_later,
    writes_expression,
    chats,
    chats_later,
    chats_fittingly,
    phrases_result,
    copies_result,
    phrases_other_result,
    quotes_passage,
    answers_from_facts,
    finds_value,
    misses_fact,
    answers_from_passage,
    misses_in_passage,
    admits_ignorance,
)


def realistic_cases() -> list[Case]:
    """Return the sixty messages as an agent would get them."""
    cases: list[Case] = []
    for text, tool in REALISTIC:
        talk = Conversation([{"role": "system", "content": DEFAULT_SYSTEM}], [SEARCH, CALCULATE])
        talk.user(text)
        cases.append(Case(talk, lambda said, tool=tool: said.tool == tool, tool or "no tool"))
    return cases


def score(server: Server, name: str, cases: list[Case]) -> Score:
    """Ask every case and count."""
    with ThreadPoolExecutor(SLOTS) as pool:
        answers = list(pool.map(server.answer, [case.talk for case in cases]))
    drawn = list(zip(cases, answers, strict=True))
    failures = [
        {
            "asked": case.talk.messages[-1]["content"][-SAID_CHARS_MAX:],
            "wanted": case.wanted,
            "said": str(said)[:SAID_CHARS_MAX],
        }
        for case, said in drawn
        if not case.right(said)
    ]
    kept = failures[:FAILURES_KEPT_MAX]
    outcomes = Counter(_outcome(case, said) for case, said in drawn)
    return Score(name, len(cases) - len(failures), len(cases), dict(outcomes), kept)


def _outcome(case: Case, said: Said) -> str:
    """Return the column of the confusion matrix: what kind of answer it was."""
    if said.tool is not None:
        return said.tool
    if said.text in UNKNOWNS:
        return "I don't know"
    return "right text" if case.right(said) else "other text"


KEYS: Final = {
    "tools": ("copies question", "writes expression"),
    "tool_results": ("phrases result", "phrases other result"),
    "smalltalk": ("chats", "chats later"),
    "short_questions": ("asks shortly",),
    "numbered_questions": ("asks with number",),
    "unknown": ("misses fact", "misses in passage"),
    "facts": ("answers from facts",),
    "spans": ("answers from passage",),
}
"""Which classes a figure of the benchmark is made of."""


def keys(gathered: list[Score]) -> dict[str, float]:
    """Return the share that is right, by the benchmark's keys."""
    by_name = {score.name: score for score in gathered}
    parts = {key: [by_name[name] for name in names] for key, names in KEYS.items()}
    return {
        key: sum(part.right for part in some) / sum(part.cases for part in some)
        for key, some in parts.items()
    }


def scores(model: Path, *, cases: int, seed: int, processes: int) -> Iterator[Score]:
    """Yield the score of every class; each draws its cases by itself."""
    measure = partial(_score_class, model=model, cases=cases, seed=seed)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(measure, range(len(CLASSES) + 1))


def _score_class(place: int, *, model: Path, cases: int, seed: int) -> Score:
    server = _server(model)
    if place == len(CLASSES):
        return score(server, "realistic messages", realistic_cases())
    draw = CLASSES[place]
    source = Source(random.Random(f"{seed} {draw.__name__}"), words(True), held_out=True)
    return score(server, draw.__name__.replace("_", " "), [draw(source) for _ in range(cases)])


@cache
def _server(model: Path) -> Server:
    """Return this process's server."""
    return Server(model)


def main() -> None:
    """Print a table and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--to", type=Path, default=HERE / "results" / "latest.json")
    parser.add_argument("--cases", type=int, default=400, help="of each class")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--processes", type=int, default=2)
    told = parser.parse_args()
    gathered: list[Score] = []
    drawn = scores(told.model, cases=told.cases, seed=told.seed, processes=told.processes)
    for found in drawn:
        gathered.append(found)
        show(found)
    record = {
        "keys": keys(gathered) | {"bytes": told.model.stat().st_size},
        "classes": [asdict(found) for found in gathered],
    }
    told.to.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    print(json.dumps(record["keys"]))


def show(found: Score) -> None:
    """Print a row, and some failures."""
    share = 100 * found.right / found.cases
    print(f"| {found.name} | {found.right}/{found.cases} | {share:.1f} % |", flush=True)
    for failure in found.failures:
        print("   ", json.dumps(failure, ensure_ascii=False))


if __name__ == "__main__":
    main()
