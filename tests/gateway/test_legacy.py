"""A prompt is answered, in the form that OpenAI's first API had."""

from typing import Any

import pytest

from murmurate.core.errors import EngineFailedError
from murmurate.core.types import (
    Finished,
    FinishReason,
    Sampling,
    SessionRef,
    Text,
    ToolCall,
    Usage,
)
from tests.fakes import DONE, Saying, user
from tests.gateway.client import House

HI = (Text("Hel"), Text("lo"), Usage(3, 2), DONE)


def test_an_answer_is_one_text() -> None:
    answer = House(Saying(*HI)).complete()
    assert answer.status == 200
    whole = answer.json()
    assert whole.pop("id").startswith("cmpl_")
    assert whole == {
        "object": "text_completion",
        "created": 1000,
        "model": "tiny",
        "choices": [{"text": "Hello", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 2,
            "total_tokens": 5,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


@pytest.mark.parametrize("prompt", ["hello", ["hello"]])
def test_the_model_sees_a_users_message(prompt: Any) -> None:
    model = Saying(*HI)
    House(model).complete(prompt=prompt, stop="\n", logit_bias={"7": 1.0}, seed=4)
    [asked] = model.asked
    assert asked.messages == (user("hello"),)
    assert asked.sampling == Sampling(
        tokens_max=16, seed=4, stop=("\n",), options={"logit_bias": {"7": 1.0}}
    )


def test_how_much_is_said_and_where_it_stops_is_the_clients_choice() -> None:
    model = Saying(*HI)
    House(model).complete(max_tokens=99, stop=["a", "b"], temperature=0.5, top_p=0.9)
    sampling = Sampling(tokens_max=99, temperature=0.5, top_p=0.9, stop=("a", "b"))
    assert model.asked[0].sampling == sampling


def test_a_stream_is_pieces_of_text_and_a_reason() -> None:
    cut = Finished(FinishReason.LENGTH)
    house = House(Saying(Text("Hel"), ToolCall("c1", "now", "{}"), Text("lo"), Usage(3, 2), cut))
    *chunks, mark = house.complete(stream=True).events()
    assert mark == "[DONE]"
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "text_completion" for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["text"] for choice in choices] == ["", "Hel", "lo", ""]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "length"]
    assert all("usage" not in chunk for chunk in chunks)


def test_usage_is_streamed_when_asked_for() -> None:
    house = House(Saying(*HI))
    events = house.complete(stream=True, stream_options={"include_usage": True}).events()
    *chunks, used, mark = events
    assert mark == "[DONE]"
    assert [chunk["usage"] for chunk in chunks] == [None] * 4
    assert used["choices"] == []
    assert used["usage"]["total_tokens"] == 5


def test_an_error_in_mid_stream_is_the_last_event() -> None:
    answer = House(Saying(Text("Hel"), EngineFailedError("broke off"))).complete(stream=True)
    assert answer.events()[-1]["error"]["code"] == "engine.failed"


def test_a_prompt_may_continue_a_session() -> None:
    model = Saying(*HI)
    house = House(model)
    body = {"model": "tiny", "prompt": "hello"}
    answer = house.post("/v1/completions", body, headers={"x-murmurate-session": "new"})
    assert model.asked[0].session == SessionRef(answer.headers["x-murmurate-session"], new=True)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "gpt-9"}, 404, "model"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": []}, 400, "prompt"),
        ({"prompt": ["a", "b"]}, 400, "prompt"),
        ({"prompt": [1, 2]}, 400, "prompt[0]"),
        ({"n": 2}, 400, "n"),
        ({"best_of": 2}, 400, "best_of"),
        ({"echo": True}, 400, "echo"),
        ({"logprobs": 1}, 400, "logprobs"),
        ({"suffix": "."}, 400, "suffix"),
        ({"max_tokens": 0}, 400, "max_tokens"),
    ],
)
def test_a_wrong_request_is_named(fields: dict[str, Any], status: int, param: str) -> None:
    model = Saying(*HI)
    answer = House(model).complete(**fields)
    assert (answer.status, answer.error["param"]) == (status, param)
    assert model.asked == []
