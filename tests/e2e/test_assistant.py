"""The assistant over real documents with the real built-in model, through the OpenAI client."""

import json
import os
import subprocess
import sys
from typing import Any

import openai
import pytest

from tests.e2e.running import Running

QUESTION = "Which process owns the listening socket?"
SAY_IT = ("processes.md", "0002-supervisor-owns-the-socket.md")
"""The documents that answer it: both say the same, and either may be quoted."""


def say(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_a_question_about_the_documents_is_answered_with_the_right_citation(
    service: Running,
) -> None:
    answer = service.client().chat.completions.create(model="assistant", messages=say(QUESTION))
    message = answer.choices[0].message
    assert "supervisor" in (message.content or "")
    assert message.annotations is not None
    citation = message.annotations[0].model_dump()["file_citation"]
    assert citation["filename"].endswith(SAY_IT)
    assert citation["quote"] in (message.content or "")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0


def test_the_stream_says_the_same_as_the_plain_answer(service: Running) -> None:
    question = say("When is an answer cached?")
    client = service.client()
    stream = client.chat.completions.create(
        model="assistant",
        messages=question,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    plain = client.chat.completions.create(model="assistant", messages=question)
    assert text == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-2].choices[0].finish_reason == "stop"


def test_what_is_not_in_the_documents_is_not_known(service: Running) -> None:
    answer = service.client().chat.completions.create(
        model="assistant", messages=say("What is the capital of Australia?")
    )
    assert "I don't know" in (answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("question", "result"),
    [("What is 12 * (3 + 4)?", "84"), ("calculate 7.5 / 2", "3.75"), ("23 * 45", "1035")],
)
def test_arithmetic_goes_through_the_calculator(
    service: Running, question: str, result: str
) -> None:
    answer = service.client().chat.completions.create(model="assistant", messages=say(question))
    assert result in (answer.choices[0].message.content or "")


@pytest.mark.parametrize("words", ["Hello!", "thank you", "你好"])
def test_small_talk_needs_no_tool(service: Running, words: str) -> None:
    response = service.client().chat.completions.with_raw_response.create(
        model="assistant", messages=say(words)
    )
    assert response.parse().choices[0].message.content
    _, _, trace = service.request(f"/api/traces/{response.headers['x-murmurate-trace']}")
    assert not [span for span in trace["spans"] if span["name"].startswith("tool")]


def test_the_models_are_listed_and_the_embedder_embeds(service: Running) -> None:
    client = service.client()
    assert [model.id for model in client.models.list()] == ["assistant", "tiny", "minilm"]
    made = client.embeddings.create(model="minilm", input=["a cat", "a kitten", "a tax form"])
    cat, kitten, tax = (item.embedding for item in made.data)
    near = sum(a * b for a, b in zip(cat, kitten, strict=True))
    far = sum(a * b for a, b in zip(cat, tax, strict=True))
    assert len(cat) == 384
    assert near > far
    assert made.usage.prompt_tokens > 0


def test_one_trace_shows_every_stage(service: Running) -> None:
    response = service.client().chat.completions.with_raw_response.create(
        model="assistant", messages=say("What does the library process hold?")
    )
    trace_id = response.headers["x-murmurate-trace"]
    _, _, trace = service.request(f"/api/traces/{trace_id}")
    names = [span["name"] for span in trace["spans"]]
    for name in ("gateway", "agent", "tool search", "retrieval", "router", "engine"):
        assert name in names
    engine = next(span for span in trace["spans"] if span["name"] == "engine")
    assert engine["attributes"]["tokens_in"] > 0
    drawn = murmurate(service, "trace", trace_id)
    assert "gateway" in drawn
    assert "engine" in drawn


def test_a_conversation_is_kept_and_continued(service: Running) -> None:
    client = service.client()
    first = client.chat.completions.with_raw_response.create(
        model="assistant", messages=say("Hello!"), extra_headers={"x-murmurate-session": "new"}
    )
    session = first.headers["x-murmurate-session"]
    client.chat.completions.create(
        model="assistant", messages=say("thanks"), extra_headers={"x-murmurate-session": session}
    )
    _, _, kept = service.request(f"/api/sessions/{session}")
    assert [m["role"] for m in kept["messages"]] == ["user", "assistant", "user", "assistant"]
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(
            model="assistant", messages=say("x"), extra_headers={"x-murmurate-session": "sess_no"}
        )


def test_a_prompt_over_the_context_is_refused_with_the_numbers(service: Running) -> None:
    with pytest.raises(openai.BadRequestError) as error:
        service.client().chat.completions.create(model="tiny", messages=say("word " * 20_000))
    assert error.value.code == "context_length_exceeded"


def test_a_body_of_10_mb_is_refused(service: Running) -> None:
    status, _, body = service.request("/v1/chat/completions", b"x" * 10_000_000)
    assert (status, body["error"]["code"]) == (413, "request.too_large")


def test_a_wrong_key_is_refused(service: Running) -> None:
    with pytest.raises(openai.AuthenticationError):
        service.client("mur_wrong").models.list()


def test_ask_prints_one_json_object(service: Running) -> None:
    answer = json.loads(murmurate(service, "ask", "--json", QUESTION))
    assert set(answer) >= {"answer", "citations", "model", "trace_id", "ms"}
    assert answer["citations"][0]["filename"].endswith(SAY_IT)


def test_doctor_finds_everything_in_order(service: Running) -> None:
    findings = json.loads(murmurate(service, "doctor", "--json"))
    assert not [finding for finding in findings if finding["verdict"] == "fail"]


def test_ingest_says_how_far_it_is(service: Running) -> None:
    assert "docs" in murmurate(service, "ingest")


def test_without_a_server_the_error_says_what_to_do(service: Running) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "murmurate", "ask", "hi", "--state", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "murmurate up" in done.stderr


def murmurate(service: Running, *arguments: str) -> str:
    """Run the command line against the service."""
    done = subprocess.run(
        [sys.executable, "-m", "murmurate", *arguments, "--state", str(service.state)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "120"},
    )
    return done.stdout
