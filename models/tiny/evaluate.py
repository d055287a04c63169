"""Measure the shipped file through llama.cpp's own HTTP server, on what training held out."""

import argparse
import json
import random
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import tasks
import xllamacpp
from arithmetic import arithmetic
from export import SHIPPED
from questions import question
from realistic import REALISTIC
from smalltalk import small_talk
from tasks import CALCULATE, DEFAULT_SYSTEM, SEARCH, Conversation, Source
from train import HERE, template
from words import words

SLOTS: Final = 2
ANSWER_TOKENS_MAX: Final = 220
FAILURES_KEPT_MAX: Final = 8
SAID_CHARS_MAX: Final = 300


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
        reply = json.loads(self.post("/v1/chat/completions", _body(talk)))
        message = reply["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        if not calls:
            return Said(message.get("content") or "")
        function = calls[0]["function"]
        return Said("", function["name"], _first_value(function["arguments"]))

    def streamed(self, talk: Conversation) -> Said:
        """Return the same answer, put together from its stream."""
        text, name, arguments = "", None, ""
        body = self.post("/v1/chat/completions", {**_body(talk), "stream": True})
        for line in body.decode().splitlines():
            if not line.startswith("data: {"):
                continue
            delta = json.loads(line[6:])["choices"][0]["delta"]
            text += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                name = call["function"].get("name") or name
                arguments += call["function"].get("arguments") or ""
        return Said(text, name, _first_value(arguments)) if name else Said(text)


def _body(talk: Conversation) -> dict[str, Any]:
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


def answers_from_context(source: Source) -> Case:
    """A fact that stands in the context."""
    return _context(source, known=True)


def misses_in_context(source: Source) -> Case:
    """A fact that does not: the model says that it doesn't know."""
    return _context(source, known=False)


def _context(source: Source, *, known: bool) -> Case:
    talk, answer = Conversation([], None), ""
    while len(talk.taught) != 1 or (answer != tasks.UNKNOWN) != known:
        talk = tasks.in_context(source)
        answer = talk.messages[-1]["content"]
    talk.messages.pop()
    return Case(talk, lambda said: said == Said(answer), answer)


def admits_ignorance(source: Source) -> Case:
    """A question without tools or context."""
    text = question(source.r, source.words, source.held_out)
    talk = Conversation([], None)
    talk.user(text)
    return Case(talk, lambda said: said == Said(tasks.unknown(text)), tasks.unknown(text))


CLASSES: Final = (
    asks_documents,
    asks_documents_later,
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
    answers_from_context,
    misses_in_context,
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
    failures = [
        {
            "asked": case.talk.messages[-1]["content"],
            "wanted": case.wanted,
            "said": str(said)[:SAID_CHARS_MAX],
        }
        for case, said in zip(cases, answers, strict=True)
        if not case.right(said)
    ]
    kept = failures[:FAILURES_KEPT_MAX]
    return Score(name, len(cases) - len(failures), len(cases), kept)


def same_prompts(server: Server, cases: list[Case]) -> Score:
    """Check that llama.cpp renders as the training does, and streams what it answers."""
    chat, failures = template(), list[dict[str, str]]()
    for case in cases:
        body = _body(case.talk)
        theirs = json.loads(server.post("/apply-template", body))["prompt"]
        tools, messages = case.talk.tools, case.talk.messages
        ours = chat.render(messages=messages, tools=tools, add_generation_prompt=True)
        whole, streamed = server.answer(case.talk), server.streamed(case.talk)
        if ours != theirs or whole != streamed:
            failures.append({"asked": ours[-200:], "wanted": str(whole), "said": str(streamed)})
    name = "rendered alike, streamed alike"
    return Score(name, len(cases) - len(failures), len(cases), failures)


def scores(server: Server, *, cases: int, seed: int) -> Iterator[Score]:
    """Yield the score of every class."""
    source = Source(random.Random(seed), words(True), held_out=True)
    for draw in CLASSES:
        yield score(server, draw.__name__.replace("_", " "), [draw(source) for _ in range(cases)])
    yield score(server, "realistic messages", realistic_cases())
    yield same_prompts(server, [draw(source) for draw in CLASSES for _ in range(4)])


def main() -> None:
    """Print a table and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--to", type=Path, default=HERE / "results" / "latest.json")
    parser.add_argument("--cases", type=int, default=200, help="of each class")
    parser.add_argument("--seed", type=int, default=77)
    told = parser.parse_args()
    gathered: list[Score] = []
    for found in scores(Server(told.model), cases=told.cases, seed=told.seed):
        gathered.append(found)
        share = 100 * found.right / found.cases
        print(f"| {found.name} | {found.right}/{found.cases} | {share:.1f} % |", flush=True)
        for failure in found.failures:
            print("   ", json.dumps(failure, ensure_ascii=False))
    told.to.write_text(json.dumps([asdict(s) for s in gathered], ensure_ascii=False, indent=1))


if __name__ == "__main__":
    main()
