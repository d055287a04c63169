"""A replay as people read it, and its exit code."""

import json
from typing import Any

import pytest

from murmurate.cli.replay import differences
from murmurate.core.journal import StepKind
from murmurate.jobs.differences import AnswerChange, StepChange, Verdict
from murmurate.jobs.replay import Replayed
from tests.cli.test_client import HTML, OK, STRANGE, answering, assert_one_line, run

# A command ends after its request, and its socket with it.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SAME = AnswerChange(Verdict.SAME)


def lines(*steps: StepChange, answer: AnswerChange = SAME) -> list[str]:
    return list(differences(Replayed(id="r", model=None, same=False, steps=steps, answer=answer)))


def test_what_is_the_same_is_a_line_and_what_is_not_a_diff() -> None:
    assert lines(
        StepChange(Verdict.SAME, StepKind.MODEL, "tiny", 1),
        StepChange(Verdict.OTHER_ARGUMENTS, StepKind.TOOL, "add", 2, "[1]", "[2]", stopped=True),
        StepChange(Verdict.ADDITIONAL, StepKind.TOOL, "sub", now="[3]", stopped=True),
        StepChange(Verdict.MISSING, StepKind.RETRIEVAL, "search", 3, was="{}"),
        StepChange(Verdict.NOT_REACHED, StepKind.MODEL, "tiny", 4, was="hello"),
        answer=AnswerChange(Verdict.NOT_REACHED, was="hello"),
    ) == [
        "same             1 model tiny",
        "other arguments  2 tool add",
        "    - [1]",
        "    + [2]",
        "    no record: stopped here",
        "additional       tool sub",
        "    + [3]",
        "    no record: stopped here",
        "missing          3 retrieval search",
        "    - {}",
        "not reached      4 model tiny",
        "not reached      answer",
    ]


def test_of_a_long_answer_the_lines_that_differ_are_shown_with_their_neighbours() -> None:
    was = "\n".join(["one", "two", "three", "- four", "five", "six"])
    now = was.replace("- four", "\x1b[2Jfour")
    assert lines(answer=AnswerChange(Verdict.OTHER_ANSWER, was, now)) == [
        "other answer  answer",
        "      three",
        "    - - four",
        "    + ?[2Jfour",
        "      five",
    ]


def replayed(*, same: bool) -> bytes:
    verdict = "same" if same else "other answer"
    body: dict[str, Any] = {"id": "run_1", "model": None, "same": same, "steps": []}
    return OK + b"\r\n" + json.dumps({**body, "answer": {"verdict": verdict}}).encode()


@pytest.mark.parametrize("options", [(), ("--json",)])
@pytest.mark.parametrize("same", [True, False])
def test_the_exit_code_says_whether_all_is_the_same(same: bool, options: tuple[str, ...]) -> None:
    with answering(replayed(same=same)) as (url, asked):
        result = run("replay", "run/1", "--url", url, "--key", "k", *options)
    assert (result.exit_code, result.stderr) == (0 if same else 1, "")
    assert asked[0].startswith(b"POST /api/runs/run%2F1/replay HTTP/1.1\r\n")
    assert asked[0].endswith(b'\r\n\r\n{"model": null}')
    if options:
        assert json.loads(result.stdout)["same"] is same


@pytest.mark.parametrize("reply", [HTML, OK + b"\r\n{}", OK + b'\r\n{"same": true}'])
def test_a_strange_answer_is_told_in_one_line(reply: bytes) -> None:
    with answering(reply) as (url, _):
        assert_one_line(run("replay", "run_1", "--url", url, "--key", "k"), STRANGE)
