"""Claim: the built-in model chooses the tool, repeats what it is told, and knows what it doesn't.

Asks the shipped file through llama.cpp's HTTP server, at temperature 0, on what its training held
out: wordings, names, values and documents. The classes and the cases are those of
`models/tiny/evaluate.py`; see the model's card there.

    tools           the right tool is called with the right argument: a search for the message
                    itself, or the right expression, spaces aside
    tool_results    a calculator's result or error, or another tool's result, in its sentence
    smalltalk       small talk is answered without a tool
    short_questions a question of a few words is searched for, not taken for small talk
    numbered_questions  a question with a number in it is searched for, not calculated
    unknown         "I don't know" where the context lacks the fact
    facts           the fact that was asked for, word for word, from a context of four to eight
    spans           the sentence of a passage of real prose that answers, at a token F1 of 0.5
    bytes           the size of the file
"""

import argparse
import sys
from pathlib import Path

import report

sys.path.append(str(Path(__file__).parents[1] / "models" / "tiny"))

import evaluate
from places import SHIPPED

CASES_QUICK, CASES_FULL = 25, 400
SEED = 77
PROCESSES = 2
TARGETS = {
    "tools": 0.95,
    "tool_results": 0.95,
    "smalltalk": 0.95,
    "short_questions": 0.95,
    "numbered_questions": 0.95,
    "unknown": 0.9,
    "facts": 0.8,
    "spans": 0.6,
}
BYTES_MAX = 20_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cases; nothing is kept")
    quick = parser.parse_args().quick
    cases = CASES_QUICK if quick else CASES_FULL
    gathered = list(evaluate.scores(SHIPPED, cases=cases, seed=SEED, processes=PROCESSES))
    keys = evaluate.keys(gathered) | {"bytes": SHIPPED.stat().st_size}
    samples = {found.name: [found.right / found.cases] for found in gathered}
    rows = [(found.name, found.cases, found.right / found.cases) for found in gathered]
    report.table(("class", "cases", "right"), rows)
    print()
    targets = {**{key: f">= {share}" for key, share in TARGETS.items()}, "bytes": f"<= {BYTES_MAX}"}
    report.table(("", "result", "target"), [(k, keys[k], targets[k]) for k in keys])
    report.finish("tiny", keys, samples, quick=quick)


if __name__ == "__main__":
    main()
