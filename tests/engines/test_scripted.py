"""The scripted engine: which rule answers, at which pace, and how it fails."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

import msgspec
import pytest

from murmurate.core.errors import (
    BadRequestError,
    ConfigError,
    EngineFailedError,
    OverloadedError,
)
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Message,
    Request,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from murmurate.engines.scripted import HANG_S, Fail, Scripted, ScriptedFailureError, parse_rules
from tests.engines.fakes import FakeClock, all_of, ask, result

TOOLS = (Tool("get_weather", "", "{}"),)
WEATHER = r"""
[[rules]]
match = 'weather in (?P<city>[^?]+)'
tools = true
result = false
call = "get_weather"
arguments = '{"city": "{city}", "days": 1}'

[[rules]]
result = true
text = "It is {result} there."

[[rules]]
match = 'I am (\w+)( Smith)?'
text = "Hello {1}{2}, you said: {0}"

[[rules]]
match = 'count'
text = "one two  three"
"""


def play(rules: str, *requests: Request, clock: FakeClock | None = None) -> list[Sequence[Delta]]:
    engine = Scripted(parse_rules(rules), clock=clock or FakeClock())

    async def story() -> list[Sequence[Delta]]:
        return [await all_of(engine, request) for request in requests]

    return asyncio.run(story())


def said(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def test_words_are_the_tokens() -> None:
    assert play(WEATHER, ask("please count")) == [
        [Text("one "), Text("two  "), Text("three"), Usage(2, 3), Finished(FinishReason.STOP)]
    ]


def test_the_bound_on_tokens_is_kept() -> None:
    (deltas,) = play(WEATHER, ask("count", sampling=Sampling(tokens_max=2)))
    assert deltas == [Text("one "), Text("two  "), Usage(1, 2), Finished(FinishReason.LENGTH)]


def test_groups_stand_where_the_template_has_them() -> None:
    (deltas,) = play(WEATHER, ask("I am Ann"))
    assert said(deltas) == "Hello Ann, you said: I am Ann"


def test_a_tool_is_called_only_when_it_is_offered() -> None:
    question = ask('weather in "Bern"?', tools=TOOLS, id="r1")
    (deltas,) = play(WEATHER, question)
    assert deltas == [
        ToolCall("call_r1_1", "get_weather", '{"city": "\\"Bern\\"", "days": 1}'),
        Usage(3, 5),
        Finished(FinishReason.TOOL_CALLS),
    ]
    with pytest.raises(BadRequestError, match="no rule"):
        play(WEATHER, ask("weather in Bern?"))


def test_the_tools_result_is_answered_with() -> None:
    call = Message(Role.ASSISTANT, (CallPart("x", "get_weather", "{}"),))
    (deltas,) = play(WEATHER, ask("weather in Bern?", call, result("x", "sunny"), tools=TOOLS))
    assert said(deltas) == "It is sunny there."
    assert deltas[-2] == Usage(5, 4)


def test_a_conversation_without_any_user_is_the_empty_question() -> None:
    (deltas,) = play('[[rules]]\ntext = "ok"', msgspec.structs.replace(ask(), messages=()))
    assert said(deltas) == "ok"


def test_the_pace_is_kept_on_the_clock() -> None:
    clock = FakeClock()
    rules = 'first_token_s = 2\ntokens_per_s = 4\n[[rules]]\ntext = "one two three"'
    play(rules, ask(), clock=clock)
    assert clock.slept_s == [2, 0.25, 0.25]


@pytest.mark.parametrize("how", [Fail.BEFORE, Fail.MIDWAY, Fail.GARBAGE, Fail.EXIT])
def test_a_failure_comes_after_as_many_deltas_as_the_rule_says(how: Fail) -> None:
    async def story() -> None:
        rules = parse_rules(f'[[rules]]\ntext = "a b c"\nfail = "{how}"\nafter = 2')
        engine = Scripted(rules, clock=FakeClock())
        seen: list[Delta] = []
        with pytest.raises(ScriptedFailureError, match="rule 1 fails") as failure:  # noqa: PT012
            async for delta in engine.answer(ask()):
                seen.append(delta)
        assert seen == [Text("a "), Text("b ")]
        assert failure.value.how is how
        assert isinstance(failure.value, EngineFailedError)

    asyncio.run(story())


def test_a_failure_with_times_fails_so_often_and_then_answers() -> None:
    rules = parse_rules('[[rules]]\ntext = "ok"\nfail = "before"\ntimes = 2')
    engine = Scripted(rules, clock=FakeClock())
    for _ in range(2):
        with pytest.raises(ScriptedFailureError):
            asyncio.run(all_of(engine, ask()))
    assert said(asyncio.run(all_of(engine, ask()))) == "ok"


def test_failures_of_an_earlier_life_count() -> None:
    rules = parse_rules('[[rules]]\ntext = "ok"\nfail = "exit"\ntimes = 1')
    engine = Scripted(rules, clock=FakeClock(), fired={0: 1})
    assert said(asyncio.run(all_of(engine, ask()))) == "ok"


def test_refusing_looks_like_an_engine_that_is_busy() -> None:
    with pytest.raises(OverloadedError):
        play('[[rules]]\nfail = "refuse"', ask())


def test_hanging_is_silence_and_can_be_closed() -> None:
    clock = FakeClock()
    with pytest.raises(ScriptedFailureError):
        play('[[rules]]\nfail = "hang"', ask(), clock=clock)
    assert clock.slept_s == [HANG_S]


def test_it_is_always_well_and_can_be_closed() -> None:
    async def story() -> None:
        engine = Scripted(parse_rules(WEATHER), clock=FakeClock())
        assert await engine.health()
        async with aclosing(engine.answer(ask("count"))) as deltas:
            await anext(deltas)
        await engine.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("rules", "fault"),
    [
        ("rules = [", "not valid TOML"),
        ("", r"expected at least one \[\[rules\]\]"),
        ("rules = 3", r"expected at least one \[\[rules\]\]"),
        ("tokens = 1\n[[rules]]\ntext='a'", "rules: .*unknown field `tokens`"),
        ("tokens_per_s = 0\n[[rules]]\ntext='a'", "tokens_per_s = 0"),
        ("[[rules]]\ntext='a'\n[[rules]]\ntxt='a'", "rule 2: .*unknown field `txt`"),
        ("[[rules]]\nmatch='('\ntext='a'", r"rule 1: match = '\('"),
        ("[[rules]]\ntext='a'\ncall='b'", "rule 1: has text and call"),
        ("[[rules]]\nmatch='a'", "rule 1: expected text or call"),
        ("[[rules]]\nfail='before'\ntimes=1", "rule 1: expected text or call"),
        ("[[rules]]\nfail='sometimes'", "rule 1: Invalid enum value 'sometimes'"),
        ("[[rules]]\ntext='a'\nafter=-1", "rule 1: expected after >= 0"),
        ("[[rules]]\ntext='a'\ntimes=0", "rule 1: expected after >= 0 and times >= 1"),
        ("[[rules]]\ntext='{1}'", r"rule 1: \{1\} is no group"),
        ("[[rules]]\ncall='t'\narguments='[]'", "rule 1: arguments: expected a JSON object"),
    ],
)
def test_a_wrong_script_is_refused_with_the_rule_that_is_wrong(rules: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        parse_rules(rules)
