"""The conversations that the model learns from: which tool to call, what to say of its result."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import arithmetic
import prose
from facts import Context, Maker
from numbered import numbered_question
from questions import NOUNS, question
from smalltalk import small_talk
from words import WORDINGS, Words, invented, words

Json = dict[str, Any]

UNKNOWN: Final = "I don't know."
UNKNOWN_CHINESE: Final = "我不知道。"
DEFAULT_SYSTEM: Final = "Answer from the documents and cite them."
CONTEXT_SYSTEM: Final = "Answer from the context."


def tool(name: str, description: str, argument: str, kind: str = "string") -> Json:
    """Return a tool with one argument, as OpenAI's protocol describes it."""
    parameters = {
        "type": "object",
        "properties": {argument: {"type": kind}},
        "required": [argument],
    }
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


SEARCH: Final = tool("search", "Search the documents for passages that answer a question.", "query")
CALCULATE: Final = tool("calculate", "Calculate an arithmetic expression exactly.", "expression")
QUESTIONS: Final = (1, 1, 1, 1, 1, 2)
"""How many are asked of a context: each costs the whole context again (see chat_template.jinja)."""
UNKNOWN_SHARE: Final = 0.4
"""With a quarter, a model short of training said some other line in two of five such cases."""
NUMBERED_SHARE: Final = 0.25
"""The part of the questions for the documents that have a number in them."""
SIMPLE_SHARE: Final = 0.2
"""The part of the contexts of facts that are plain."""
_VERBS: Final = WORDINGS["tools"]["verbs"].split()
_OBJECTS: Final = WORDINGS["tools"]["objects"].split()


@dataclass(slots=True)
class Conversation:
    """Messages, tools, and for each of the assistant's messages whether it is to be learnt."""

    messages: list[Json]
    tools: list[Json] | None
    taught: list[bool] = field(default_factory=list[bool])

    def user(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def says(self, text: str, *, taught: bool = True) -> None:
        self.messages.append({"role": "assistant", "content": text})
        self.taught.append(taught)

    def calls(self, name: str, arguments: Json, *, taught: bool = True) -> None:
        function = {"name": name, "arguments": arguments}
        call = {"type": "function", "function": function}
        self.messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        self.taught.append(taught)

    def hears(self, content: str) -> None:
        self.messages.append({"role": "tool", "content": content})

    def has(self, name: str) -> bool:
        return any(t["function"]["name"] == name for t in self.tools or ())


@dataclass(frozen=True, slots=True)
class Source:
    """Where one conversation takes its chance and its words from."""

    r: random.Random
    words: Words
    held_out: bool
    checked: bool = False
    """Whether facts are in the wordings that training leaves out to be checked by."""

    def question(self) -> str:
        if not self.held_out and self.r.random() < NUMBERED_SHARE:
            return numbered_question(self.r, self.words)
        text = question(self.r, self.words, self.held_out)
        if self.r.random() < 0.04:
            extra = " ".join(
                self.r.choice(self.words.sentences) for _ in range(self.r.randint(1, 3))
            )
            text = self.r.choice([f"{extra} {text}", f"{text} {extra}", f"{extra}\n{text}"])
        return text


def conversation(r: random.Random, held_out: bool = False) -> Conversation:
    """Draw one conversation."""
    source = Source(r, words(held_out), held_out)
    kind = r.random()
    if kind < 0.34:
        return about_facts(source, r.choice(QUESTIONS))
    if kind < 0.46:
        return about_passage(source, r.choice(QUESTIONS))
    if kind < 0.54:
        return without_tools(source)
    return with_tools(source)


def with_tools(source: Source) -> Conversation:
    """Draw a conversation of one to eight exchanges in which tools may be called."""
    r = source.r
    talk = Conversation(opening(source), toolbox(r))
    exchanges: list[Callable[[Source, Conversation], None]] = [
        ask_documents,
        ask_arithmetic,
        chat,
        other_tool,
        quoted_before,
        calculated_before,
    ]
    count = r.choices([1, 2, 3, 4, 5, 6, 7, 8], [40, 24, 12, 8, 6, 4, 3, 3])[0]
    for drawn in r.choices(exchanges, [32, 48, 24, 10, 4, 4], k=count):
        drawn(source, talk)
    if not talk.taught[-1]:
        r.choice([ask_documents, ask_arithmetic, chat])(source, talk)
    if talk.messages[-2]["role"] == "tool" and talk.taught[-2] and r.random() < 0.4:
        del talk.messages[-2:], talk.taught[-1]  # end at the call
    return talk


def toolbox(r: random.Random) -> list[Json]:
    """Draw the tools on offer: mostly the product's two, in their order."""
    kind = r.random()
    own = [SEARCH, CALCULATE] if kind < 0.68 else [CALCULATE, SEARCH]
    if kind > 0.95:
        own = []
    elif kind > 0.86:
        own = [r.choice(own)]
    others = r.choices([0, 1, 2], [70, 18, 12])[0] or (not own)
    for _ in range(others):
        own.insert(r.randint(0, len(own)), _other(r))
    return own


def _other(r: random.Random) -> Json:
    verb, thing = r.choice(_VERBS), r.choice([*_OBJECTS, invented(r)])
    text = r.choice(["{} {}.", "{} a {}.", "{} the {} of the user.", "{} {} by name"])
    argument = r.choice(["id", "name", "text", "city", "path", "number", "key", thing])
    kind = r.choice(["string", "string", "integer"])
    return tool(f"{verb}_{thing}", text.format(verb.capitalize(), thing), argument, kind)


def opening(source: Source) -> list[Json]:
    """Draw the system prompt, or none."""
    kind = source.r.random()
    if kind < 0.15:
        return []
    text = DEFAULT_SYSTEM if kind < 0.5 else _system(source)
    return [{"role": "system", "content": text}]


def _system(source: Source) -> str:
    r, words = source.r, source.words
    name, topic, role = invented(r).capitalize(), words.phrase(r), r.choice(NOUNS)
    told = [
        f"You are {name}, a helpful assistant.",
        f"You are a {r.choice(['helpful', 'friendly', 'careful', 'brief'])} assistant.",
        f"You are the {role} expert of {name}.",
        f"You help people with {topic}.",
        f"You answer questions about {topic}.",
        r.choice(["Be brief.", "Be polite.", "Answer in one sentence.", "Answer in English."]),
        r.choice(["Use the tools.", "Cite your sources.", "Think before you answer."]),
        r.choice(["Never guess.", "If you don't know, say so.", "Quote the documents."]),
        "Answer from the documents.",
        f"Today is {r.randint(1, 28)}.{r.randint(1, 12)}.{r.randint(2000, 2040)}.",
        r.choice(words.sentences),
        r.choice(["请用中文回答。", "你是一个助手。", "请根据文档回答并注明出处。"]),
    ]
    return r.choice([" ", " ", "\n"]).join(r.sample(told, r.choice([1, 1, 2, 3, 4])))


def ask_documents(source: Source, talk: Conversation) -> None:
    """A question: the message itself is the query; what was found first is the answer."""
    text = source.question()
    talk.user(text)
    if not talk.has("search"):
        talk.says(unknown(text))
        return
    talk.calls("search", {"query": text})
    r = source.r
    if r.random() < 0.08:
        talk.hears(dumped(r, {"passages": []}))
        talk.says(unknown(text))
        return
    found = [_passage(source) for _ in range(r.choice([1, 1, 1, 1, 2, 3]))]
    talk.hears(dumped(r, {"passages": found}))
    talk.says(found[0]["text"])


def ask_arithmetic(source: Source, talk: Conversation) -> None:
    """Arithmetic: the expression goes to the calculator, and its result into a sentence."""
    r = source.r
    said, expression = arithmetic.arithmetic(r, source.held_out)
    talk.user(said)
    if not talk.has("calculate"):
        if talk.has("search"):
            talk.calls("search", {"query": said})
            talk.hears(dumped(r, {"passages": []}))
        talk.says(unknown(said))
        return
    talk.calls("calculate", {"expression": expression})
    phrase_result(source, talk, expression)


def phrase_result(source: Source, talk: Conversation, expression: str) -> None:
    """The calculator's result, or its refusal, in a sentence."""
    r = source.r
    if r.random() < 0.15:
        error = _error(source)
        talk.hears(dumped(r, {"error": error}))
        talk.says(f"That can't be calculated: {error}.")
        return
    as_json, text = arithmetic.result(r)
    gap = r.choice(["", " "])
    talk.hears(f'{{"result":{gap}{as_json}}}')
    talk.says(f"{expression} = {text}.")


def _error(source: Source) -> str:
    r = source.r
    return r.choice(
        [
            "division by zero",
            "ZeroDivisionError: division by zero",
            "float division by zero",
            "invalid syntax",
            "SyntaxError: invalid syntax",
            "the result is too large",
            "OverflowError: Result too large",
            "no result",
            f"took longer than {r.randint(1, 60)} s",
            f"the expression is over {r.randint(100, 900)} characters",
            "the expression is not arithmetic: its value is not a number",
            f"NameError: name '{invented(r)}' is not defined",
            f"unknown name {invented(r)}",
            source.words.phrase(r),
            r.choice(source.words.sentences).rstrip("."),
        ]
    )


def chat(source: Source, talk: Conversation) -> None:
    """Small talk: a fixed answer and no tool."""
    said, answer = small_talk(source.r, source.held_out)
    talk.user(said)
    talk.says(answer)


def other_tool(source: Source, talk: Conversation) -> None:
    """A call of some other tool, as found in the history; only what is said of it is learnt."""
    r = source.r
    name, argument = f"{r.choice(_VERBS)}_{r.choice(_OBJECTS)}", r.choice(["id", "name", "text"])
    talk.user(source.question())
    talk.calls(name, {argument: source.words.phrase(r)}, taught=False)
    if not source.held_out and r.random() < 0.3:
        value = r.choice(source.words.sentences)  # long copies teach to copy
    else:
        value = r.choice(
            [source.words.phrase(r), arithmetic.result(r)[1], r.choice(source.words.chinese)]
        )
    talk.hears(dumped(r, {"result": value}))
    talk.says(f'The result is "{value}".')


def quoted_before(source: Source, talk: Conversation) -> None:
    """A question that was answered with a quotation; the call is no longer in the history."""
    r = source.r
    text = source.question()
    talk.user(text)
    count = r.choice([1, 1, 2, 3, 3, 8]) if r.random() < 0.5 else 1
    quote = r.choice([" ", "\n"]).join(r.choice(source.words.sentences) for _ in range(count))
    first = r.randint(1, 400)
    lines = r.choice([f"line {first}", f"lines {first}-{first + r.randint(1, 20)}"])
    missing = r.choice([unknown(text), "I don't know: nothing in the documents answers this."])
    answers = [f"{quote}\n\n(quoted from {_path(source)}, {lines})", quote, missing]
    talk.says(r.choices(answers, [60, 25, 15])[0], taught=False)


def calculated_before(source: Source, talk: Conversation) -> None:
    """Arithmetic that was answered; the call is no longer in the history."""
    said, expression = arithmetic.arithmetic(source.r, source.held_out)
    talk.user(said)
    talk.says(f"{expression} = {arithmetic.result(source.r)[1]}.", taught=False)


def unknown(text: str) -> str:
    """Return "I don't know" in the language of the text."""
    return UNKNOWN_CHINESE if any("一" <= char <= "鿿" for char in text) else UNKNOWN


def dumped(r: random.Random, value: Json) -> str:
    """Return the JSON text, with or without spaces."""
    separators = r.choice([(",", ":"), (", ", ": ")])
    return json.dumps(value, ensure_ascii=False, separators=separators)


def _passage(source: Source) -> dict[str, str]:
    first = source.r.randint(1, 400)
    return {
        "path": _path(source),
        "lines": f"{first}-{first + source.r.randint(0, 20)}",
        "text": source.r.choice(source.words.sentences),
    }


def _path(source: Source) -> str:
    r = source.r
    folder = r.choice(["", "docs/", "guide/", f"{invented(r)}/"])
    stem = "-".join(source.words.phrase(r).lower().split())
    return folder + stem + r.choice([".md", ".txt", ".rst", ".html"])


def about_facts(source: Source, questions: int) -> Conversation:
    """Draw facts and questions; some ask for what is not among them."""
    drawn = draw_facts(source, questions)
    return in_context(source, drawn.text, list(drawn.asked))


def draw_facts(source: Source, questions: int) -> Context:
    """Draw facts, in training often plain ones."""
    r = source.r
    if not (source.held_out or source.checked) and r.random() < SIMPLE_SHARE:
        maker = Maker(r, source.words, held_out=False, chinese=False, simple=True)
    else:
        chinese = r.random() < 0.2
        maker = Maker(r, source.words, source.held_out, chinese, checked=source.checked)
    return maker.context(questions=questions, unknown_share=UNKNOWN_SHARE)


def about_passage(source: Source, questions: int) -> Conversation:
    """Draw a passage of prose and questions; a sentence answers, or nothing does."""
    r, library = source.r, prose.library(source.held_out)
    passage, text, answer = prose.asked_passage(r, library, held_out=source.held_out)
    asked: list[tuple[str, str | None]] = []
    for place in r.sample(range(len(passage.sentences)), len(passage.sentences))[:questions]:
        if r.random() < 0.2:
            asked.append((strange_question(source, passage), None))
        elif drawn := prose.ask_about(r, passage, place, library=library, held_out=source.held_out):
            asked.append(drawn)
    return in_context(source, passage.text, asked or [(text, answer)])


def strange_question(source: Source, passage: prose.Passage) -> str:
    """Return a question about another passage that shares few words with this one."""
    library, known = prose.library(source.held_out), set(prose.content(passage.text))
    while True:
        _, text, _ = prose.asked_passage(source.r, library, held_out=source.held_out)
        if not known & set(prose.content(text)):
            return text


def in_context(source: Source, told: str, asked: list[tuple[str, str | None]]) -> Conversation:
    """Return a conversation about what is told: each question and its answer, None if unknown."""
    r = source.r
    system = (
        [{"role": "system", "content": CONTEXT_SYSTEM}] if r.random() < 0.8 else opening(source)
    )
    talk = Conversation(system, None)
    for i, (text, answer) in enumerate(asked):
        talk.user(f"Context: {told}\nQuestion: {text}" if i == 0 else f"Question: {text}")
        talk.says(unknown(text) if answer is None else answer)
    return talk


def without_tools(source: Source) -> Conversation:
    """Draw a conversation without tools or context: small talk, and honest ignorance."""
    talk = Conversation(opening(source), None)
    for _ in range(source.r.choice([1, 2, 3])):
        if source.r.random() < 0.5:
            chat(source, talk)
            continue
        asked = arithmetic.arithmetic(source.r, source.held_out)[0]
        text = asked if source.r.random() < 0.25 else source.question()
        talk.user(text)
        talk.says(unknown(text))
    return talk
