"""Does the model ever answer better than a quotation, where it is sure of itself?

Asks it for the sentence of a passage that answers, with the log-probability of each token, and lets
`murmurate.knowledge.quote` choose from the same passages. A threshold on the model's mean (or
least) log-probability is chosen on one half of the cases and judged on the other: there the model
would answer above it, and the quotation stands below.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from evaluate import F1_MIN, SLOTS, Case, Server, answers_from_passage, f1
from places import HERE, SHIPPED
from tasks import Source
from words import words

sys.path.append(str(HERE.parent.parent / "src"))

from murmurate.knowledge.quote import best_span
from murmurate.knowledge.words import sentences, stems


@dataclass(frozen=True, slots=True)
class Outcome:
    """One case: how sure the model was, and who was right."""

    mean: float
    least: float
    model: bool
    sentence: bool
    """Whether the best sentence alone, by the words it shares, is right by the same measure."""
    quotation: bool
    """Whether the quotation as it is shown, with what stands around, has the sentence in it."""


def outcome(server: Server, case: Case) -> Outcome:
    """Ask the model and the quotation."""
    text, certainty = server.sure(case.talk)
    told, _, asked = case.talk.messages[-1]["content"].partition("\nQuestion: ")
    passage = told.removeprefix("Context: ")
    start, end = best_span(asked, passage)
    return Outcome(
        mean=sum(certainty) / len(certainty),
        least=min(certainty),
        model=f1(text, case.wanted) >= F1_MIN,
        sentence=f1(best_sentence(asked, passage), case.wanted) >= F1_MIN,
        quotation=case.wanted in passage[start:end],
    )


def best_sentence(asked: str, passage: str) -> str:
    """Return the sentence that the quotation is built around."""
    spans = [passage[start:end] for start, end in sentences(passage)]
    return max(spans, key=lambda sentence: _alone(asked, passage, sentence), default="")


def _alone(asked: str, passage: str, sentence: str) -> float:
    """Weigh the words that a sentence shares with the question by their rarity in the passage."""
    all_words = [set(stems(passage[start:end])) for start, end in sentences(passage)]
    shared = set(stems(asked)) & set(stems(sentence))
    return sum(1 / sum(word in words for words in all_words) for word in shared)


def threshold(outcomes: Sequence[Outcome], by: str) -> float:
    """Return the certainty above which the model's answers gain most over the sentence's."""
    best, gained, gain = float("inf"), 0, 0
    for drawn in sorted(outcomes, key=lambda o: -getattr(o, by)):
        gain += drawn.model - drawn.sentence
        if gain > gained:
            best, gained = getattr(drawn, by), gain
    return best


def main() -> None:
    """Print the shares that are right."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, default=SHIPPED)
    parser.add_argument("--cases", type=int, default=400)
    told = parser.parse_args()
    server, source = Server(told.model), Source(random.Random(78), words(True), held_out=True)
    cases = [answers_from_passage(source) for _ in range(told.cases)]
    with ThreadPoolExecutor(SLOTS) as pool:
        outcomes = list(pool.map(lambda case: outcome(server, case), cases))
    chosen, judged = outcomes[: told.cases // 2], outcomes[told.cases // 2 :]
    shares = {
        name: sum(getattr(o, name) for o in judged) / len(judged)
        for name in ("model", "sentence", "quotation")
    }
    for by in ("mean", "least"):
        limit = threshold(chosen, by)
        used = [o for o in judged if getattr(o, by) >= limit]
        shares[f"used by {by}"] = len(used) / len(judged)
        right = sum(o.model if getattr(o, by) >= limit else o.sentence for o in judged)
        shares[f"mixed by {by}"] = right / len(judged)
    print(json.dumps({name: round(share, 3) for name, share in shares.items()}))


if __name__ == "__main__":
    main()
