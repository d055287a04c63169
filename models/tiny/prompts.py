"""Check that llama.cpp renders conversations as the training does, and streams what it answers."""

import json
import random

from evaluate import CLASSES, Case, Score, Server, body_of, show
from places import SHIPPED
from rendering import template
from tasks import Source
from words import words

CASES_PER_CLASS = 4


def same_prompts(server: Server, cases: list[Case]) -> Score:
    """Check that llama.cpp renders as the training does, and streams what it answers."""
    chat, failures = template(), list[dict[str, str]]()
    for case in cases:
        body = body_of(case.talk)
        theirs = json.loads(server.post("/apply-template", body))["prompt"]
        tools, messages = case.talk.tools, case.talk.messages
        ours = chat.render(messages=messages, tools=tools, add_generation_prompt=True)
        whole, streamed = server.answer(case.talk), server.streamed(case.talk)
        if ours != theirs or whole != streamed:
            failures.append({"asked": ours[-200:], "wanted": str(whole), "said": str(streamed)})
    name = "rendered alike, streamed alike"
    return Score(name, len(cases) - len(failures), len(cases), {}, failures)


def main() -> None:
    """Print how many are alike."""
    source = Source(random.Random(77), words(True), held_out=True)
    cases = [draw(source) for draw in CLASSES for _ in range(CASES_PER_CLASS)]
    show(same_prompts(Server(SHIPPED), cases))


if __name__ == "__main__":
    main()
