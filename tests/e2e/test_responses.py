"""The Responses API through the unmodified OpenAI client, and the cases of Open Responses.

The cases are those of its compliance suite, version 2026-04-24, that a server without images, files
and hosted tools has to meet; each names the one it was written after.
"""

import json
import os
import signal
from collections.abc import Generator
from typing import Any

import openai
import pytest

from tests.e2e.running import Running, running
from tests.e2e.test_crashes import CONFIG, RULES, steps, until
from tests.gateway.responses.test_resource import NULLABLE, REQUIRED

SCRIPT = r"""
[[rules]]
match = "(?i)weather"
tools = true
result = false
call = "get_weather"
arguments = '{"location": "San Francisco, CA"}'

[[rules]]
match = "(?i)weather"
result = true
text = "The weather tool said: {result}"

[[rules]]
match = "count"
call = "calculate"
arguments = '{"expression": "1+1"}'

[[rules]]
match = "break off"
text = "one two three"
fail = "midway"
after = 1

[[rules]]
match = ""
text = "one two three four five"
"""
TALKER = """
[models.talker]
engine = "scripted"
rules = "{talk}"
"""
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}
ENDS = {"completed", "incomplete", "failed", "cancelled"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[Running]:
    """Two servers over scripted models: one talks, one has an agent that calculates and goes on."""
    folder = tmp_path_factory.mktemp("responses")
    (folder / "rules.toml").write_text(RULES)
    (folder / "talk.toml").write_text(SCRIPT)
    config = folder / "murmurate.toml"
    text = CONFIG.format(rules=folder / "rules.toml", rounds=6)
    config.write_text(text + TALKER.format(talk=folder / "talk.toml"))
    with running(folder / "state", "--config", str(config)) as service:
        until(lambda: len(service.workers("server")) == 2)
        yield service


@pytest.fixture
def client(house: Running) -> Generator[openai.OpenAI]:
    with house.client() as it:
        yield it


def says(role: str, text: str) -> Any:
    return {"type": "message", "role": role, "content": text}


def checked(response: Any) -> Any:
    """Return a response that has what the schema requires."""
    shown = response.model_dump()
    assert shown.keys() >= REQUIRED
    assert {name for name in REQUIRED if shown[name] is None} <= NULLABLE
    assert response.output
    return response


def told(house: Running, **fields: Any) -> list[dict[str, Any]]:
    """Return the events of a stream as they are on the wire, checked for form and numbers."""
    connection = house.connection()
    headers = {"authorization": f"Bearer {house.key}"}
    body = {"model": "talker", "stream": True, **fields}
    try:
        connection.request("POST", "/v1/responses", json.dumps(body), headers)
        response = connection.getresponse()
        assert response.headers["content-type"].startswith("text/event-stream")
        *blocks, mark, rest = response.read().decode().split("\n\n")
    finally:
        connection.close()
    assert (mark, rest) == ("data: [DONE]", ""), "the terminal event is [DONE]"
    events: list[dict[str, Any]] = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}", "`event` matches `type`"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


# The cases of Open Responses.


def test_basic_response(client: openai.OpenAI) -> None:
    asked = [says("user", "Say hello in exactly 3 words.")]
    response = checked(client.responses.create(model="talker", input=asked))
    assert response.status == "completed"
    assert response.output_text == "one two three four five"


def test_streaming_response(house: Running) -> None:
    events = told(house, input=[says("user", "Say the numbers from 1 to 5.")])
    end = events[-1]
    assert (end["type"], end["response"]["status"]) == ("response.completed", "completed")
    words = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert len(words) == 5
    assert "".join(words) == end["response"]["output"][0]["content"][0]["text"]


def test_system_prompt_and_multi_turn(client: openai.OpenAI) -> None:
    asked = [
        says("system", "You are a pirate. Always respond in pirate speak."),
        says("user", "My name is Alice."),
        says("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
        says("user", "What is my name?"),
    ]
    response = checked(client.responses.create(model="talker", input=asked))
    assert response.status == "completed"


def test_tool_calling(client: openai.OpenAI) -> None:
    asked = [says("user", "What's the weather like in San Francisco?")]
    response = checked(client.responses.create(model="talker", input=asked, tools=[WEATHER]))
    [call] = response.output
    assert (call.type, call.name, call.status) == ("function_call", "get_weather", "completed")
    assert json.loads(call.arguments) == {"location": "San Francisco, CA"}


def test_tool_calling_streaming(house: Running) -> None:
    asked = [says("user", "What's the weather like in San Francisco?")]
    events = told(house, input=asked, tools=[WEATHER])
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[2]["item"]["name"] == events[5]["item"]["name"] == "get_weather"


def test_function_call_roundtrip(client: openai.OpenAI) -> None:
    asked = "Use the weather tool to get the temperature in San Francisco."
    choice: Any = {"type": "function", "name": "get_weather"}
    first = checked(
        client.responses.create(model="talker", input=asked, tools=[WEATHER], tool_choice=choice)
    )
    [call] = first.output
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "64 degrees"}
    by_hand = client.responses.create(
        model="talker", input=[says("user", asked), call.model_dump(), result], tools=[WEATHER]
    )
    by_id = client.responses.create(
        model="talker", input=[result], tools=[WEATHER], previous_response_id=first.id
    )
    for second in (by_hand, by_id):
        assert checked(second).status == "completed"
        assert second.output_text == "The weather tool said: 64 degrees"


def test_previous_response_id(client: openai.OpenAI) -> None:
    first = client.responses.create(model="talker", input="Remember this code word: papaya.")
    second = checked(
        client.responses.create(
            model="talker",
            input="What code word did I ask you to remember?",
            previous_response_id=first.id,
        )
    )
    assert second.status == "completed"
    assert first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + 5, "the model saw the first turn"


# The client.


def test_the_clients_stream_gathers_the_same_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="talker", input="hi") as stream:
        kinds = [event.type for event in stream]
        response = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert response.output_text == "one two three four five"


def test_an_answer_that_is_cut_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="talker", input="hi", max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == "one two "


def test_a_stream_that_breaks_tells_the_client_why(house: Running, client: openai.OpenAI) -> None:
    stream = client.responses.create(model="talker", input="break off", stream=True)
    with pytest.raises(openai.APIError) as raised:
        list(stream)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["code"].startswith("engine.")
    *_, trouble, end = told(house, input="break off")
    assert (trouble["type"], end["type"]) == ("error", "response.failed")


def test_a_stored_response_is_retrieved_listed_and_deleted(client: openai.OpenAI) -> None:
    made = client.responses.create(model="talker", input="hi", metadata={"a": "b"})
    assert client.responses.retrieve(made.id) == made
    [item] = client.responses.input_items.list(made.id)
    assert item.model_dump()["content"][0]["text"] == "hi"
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_conversation_is_kept_by_the_server(client: openai.OpenAI) -> None:
    conversation = client.conversations.create(items=[says("user", "hi")], metadata={"a": "b"})
    for asked in ("one", "two"):
        made = client.responses.create(
            model="talker", input=asked, conversation=conversation.id, store=False
        )
        assert made.conversation is not None
        assert made.conversation.id == conversation.id
    items = list(client.conversations.items.list(conversation.id, order="asc", limit=2))
    words = [item.model_dump()["content"][0]["text"] for item in items]
    talk = "one two three four five"
    assert words == ["hi", "one", talk, "two", talk]
    item_id: Any = items[1].id
    client.conversations.items.delete(item_id, conversation_id=conversation.id)
    with pytest.raises(openai.NotFoundError):
        client.conversations.items.retrieve(item_id, conversation_id=conversation.id)
    updated = client.conversations.update(conversation.id, metadata={"c": "d"})
    assert client.conversations.retrieve(conversation.id) == updated
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


def test_a_conversation_is_compacted(client: openai.OpenAI) -> None:
    asked = [says("user", "hi"), says("assistant", "hello"), says("user", "how are you?")]
    compacted = client.responses.compact(model="talker", input=asked)
    assert [item.type for item in compacted.output] == ["message", "message", "compaction"]
    assert compacted.usage.total_tokens > 0
    # The client has no type for a user's message in an output, as OpenAI itself gives it.
    items: Any = [it.model_dump(exclude_none=True, warnings=False) for it in compacted.output]
    response = client.responses.create(model="talker", input=[*items, says("user", "and now?")])
    assert checked(response).status == "completed"


def test_a_prompt_is_completed_as_before_there_were_chats(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="talker", prompt="hi")
    assert whole.choices[0].text == "one two three four five"
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(client.completions.create(model="talker", prompt="hi", max_tokens=2, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "one two "
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_wrong_field_is_named_to_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="talker", input="hi", tools=[{"type": "web_search"}])
    assert refused.value.param == "tools[0].type"


def test_an_agent_answers_as_a_model_does(service: Running) -> None:
    with service.client() as client:
        response = client.responses.create(
            model="assistant", input="Which process owns the listening socket?"
        )
    assert "supervisor" in response.output_text
    [message] = response.output
    assert message.type == "message"
    assert message.content[0].type == "output_text"
    [citation] = message.content[0].annotations
    assert citation.type == "file_citation"
    assert citation.model_dump()["quote"] in response.output_text


# In the background.


def ended(client: openai.OpenAI, response_id: str) -> Any:
    found = None

    def is_over() -> bool:
        nonlocal found
        found = client.responses.retrieve(response_id)
        return found.status in ENDS

    until(is_over, within_s=60, look_s=0.2)
    return found


def test_a_response_in_the_background_is_there_when_it_is_done(client: openai.OpenAI) -> None:
    made = client.responses.create(
        model="talker", input="What's the weather?", tools=[WEATHER], background=True
    )
    assert made.status == "queued"
    done = checked(ended(client, made.id))
    assert done.status == "completed"
    [call] = done.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    more = client.responses.create(
        model="talker", input=[result], tools=[WEATHER], previous_response_id=made.id
    )
    assert more.output_text == "The weather tool said: sun"


def test_one_that_fails_says_why(client: openai.OpenAI) -> None:
    made = client.responses.create(model="clerk", input="count", tools=[WEATHER], background=True)
    failed = ended(client, made.id)
    assert failed.status == "failed"
    assert "brings its own tools" in failed.error.message


def test_it_is_followed_as_a_stream_again_and_again(client: openai.OpenAI) -> None:
    stream = client.responses.create(model="talker", input="hi", background=True, stream=True)
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    response_id = events[-1].response.id  # pyright: ignore[reportAttributeAccessIssue]
    again = list(client.responses.retrieve(response_id, stream=True, starting_after=2))
    assert again == events[3:]


def test_it_is_cancelled(house: Running, client: openai.OpenAI) -> None:
    made = client.responses.create(model="clerk", input="count", background=True)
    until(lambda: steps(house, made.id.replace("resp", "run")) >= 1)
    assert client.responses.cancel(made.id).status == "cancelled"
    assert client.responses.cancel(made.id).status == "cancelled"
    assert ended(client, made.id).status == "cancelled"
    client.responses.delete(made.id)
    status, _, _ = house.request(f"/api/runs/{made.id.replace('resp', 'run')}")
    assert status == 404


def test_it_survives_the_death_of_its_servers(house: Running, client: openai.OpenAI) -> None:
    made = client.responses.create(model="clerk", input="count", background=True)
    run_id = made.id.replace("resp", "run")
    until(lambda: steps(house, run_id) >= 2)
    first, second = house.workers("server")
    os.kill(first, signal.SIGKILL)
    until(lambda: len(house.workers("server")) == 2 and first not in house.workers("server"))
    until(lambda: steps(house, run_id) >= 6)
    os.kill(second, signal.SIGKILL)
    until(lambda: len(house.workers("server")) == 2 and second not in house.workers("server"))
    done = ended(client, made.id)
    assert done.status == "incomplete", "the agent has used up its steps"
    assert done.output_text == "I stopped after 6 steps without an answer."
