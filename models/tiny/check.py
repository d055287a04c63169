"""Check a checkpoint while it trains, on wordings that training leaves out (none held out).

An answer counts as right if each of its tokens is the likeliest after the right ones before it,
which is what greedy decoding would say. The evaluation proper is evaluate.py.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import tasks
import torch
from drills import Drills
from network import Network
from numbered import numbered_question
from places import BUILD
from rendering import Renderer
from tasks import UNKNOWN, UNKNOWN_CHINESE, Conversation, Source
from train import load
from words import words

Drawn = tuple[list[int], list[float]]


def alone(kind: Callable[[Source, Conversation], None]) -> Callable[[Source], Conversation]:
    """Return a way to draw a conversation of one exchange, with the product's two tools."""

    def draw(source: Source) -> Conversation:
        talk = Conversation(tasks.opening(source), [tasks.SEARCH, tasks.CALCULATE])
        kind(source, talk)
        return talk

    return draw


def with_number(source: Source, talk: Conversation) -> None:
    """A question with a number in it: a search, not a calculation."""
    text = numbered_question(source.r, source.words)
    talk.user(text)
    talk.calls("search", {"query": text})


KINDS: Final[dict[str, Callable[[Source], Conversation]]] = {
    "facts": lambda source: tasks.about_facts(source, 1),
    "passages": lambda source: tasks.about_passage(source, 1),
    "other tools": alone(tasks.other_tool),
    "documents": alone(tasks.ask_documents),
    "numbered": alone(with_number),
    "arithmetic": alone(tasks.ask_arithmetic),
    "small talk": alone(tasks.chat),
    "no tools": tasks.without_tools,
}


@torch.no_grad()
def is_right(network: Network, drawn: Drawn) -> bool:
    """Say whether everything that is to be said would be said."""
    tokens = torch.tensor([drawn[0]])
    said = torch.tensor(drawn[1][1:]) > 0
    with torch.autocast("cpu", torch.bfloat16):
        likeliest = network.logits(network(tokens)[0, :-1][said]).argmax(-1)
    return bool((likeliest == tokens[0, 1:][said]).all())


def checked(out: Path, cases: int) -> Iterator[tuple[str, bool]]:
    """Yield for each case its kind and whether it is right."""
    network, tokenizer = load(out)
    renderer, drills = Renderer(tokenizer), Drills(tokenizer)
    for name, draw in KINDS.items():
        source = Source(random.Random(name), words(False), held_out=False, checked=True)
        for _ in range(cases):
            talk = draw(source)
            unknown = talk.messages[-1]["content"] in (UNKNOWN, UNKNOWN_CHINESE)
            kind = f"{name}, unknown" if unknown and name in {"facts", "passages"} else name
            yield kind, is_right(network, renderer.tokens(talk))
    r = random.Random("drills")
    for _ in range(cases):
        yield "drills", is_right(network, drills.draw(r))


def main() -> None:
    """Print the share that is right of each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD)
    parser.add_argument("--cases", type=int, default=100, help="of each kind")
    told = parser.parse_args()
    torch.set_num_threads(1)
    counted: dict[str, list[bool]] = {}
    for kind, right in checked(told.out, told.cases):
        counted.setdefault(kind, []).append(right)
    print(", ".join(f"{k} {sum(v) / len(v):.2f} of {len(v)}" for k, v in counted.items()))


if __name__ == "__main__":
    main()
