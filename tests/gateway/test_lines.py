"""A line of a batch is asked for as a request of its own would be."""

import asyncio
import json
from typing import Any

import pytest

from murmurate.core.errors import BadRequestError, ModelUnknownError, MurmurateError
from murmurate.core.ports import Embeddings
from murmurate.core.types import (
    Caller,
    Finished,
    FinishReason,
    Lane,
    Text,
    ToolCall,
    Usage,
)
from murmurate.gateway.lines import SIDE_BY_SIDE, ChatLines, EmbeddingLines
from murmurate.gateway.requests import Requests
from tests.fakes import TRACE, FakeEmbedder, FakeLedger, FakePlatform, seeded_ids
from tests.gateway.client import HELLO

CALLER = Caller("key_1", "a", ("chat",), Lane.BATCH)


def asked(**fields: Any) -> Any:
    lines = ChatLines(Requests(platform=FakePlatform(), ledger=FakeLedger(), ids=seeded_ids()))
    body = json.dumps({**HELLO, **fields}).encode()
    return lines.request(CALLER, body, run_id="batch_req_1-000002", trace=TRACE)


def test_a_chat_line_becomes_a_request_in_the_batch_lane() -> None:
    request = asked(temperature=0.5, max_tokens=7)
    assert (request.id, request.tenant, request.lane) == ("batch_req_1-000002", "a", Lane.BATCH)
    assert (request.scopes, request.session, request.trace) == (("chat",), None, TRACE)
    assert request.key == "key_1", "what it uses is noted for whoever began the batch"
    assert (request.sampling.temperature, request.sampling.tokens_max) == (0.5, 7)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"stream": True}, BadRequestError),
        ({"temperature": 9}, BadRequestError),
        ({"messages": []}, BadRequestError),
        ({"model": "nobodys"}, ModelUnknownError),
    ],
)
def test_a_line_that_would_be_refused_alone_is_refused(
    fields: dict[str, Any], error: type[MurmurateError]
) -> None:
    with pytest.raises(error):
        asked(**fields)


def test_an_answer_is_written_as_it_would_be_alone_with_the_calls_of_tools() -> None:
    lines = ChatLines(Requests(platform=FakePlatform(), ledger=FakeLedger(), ids=seeded_ids()))
    deltas = (
        Text("Let me see."),
        ToolCall("call_1", "weather", "{}"),
        Usage(3, 4),
        Finished(FinishReason.TOOL_CALLS),
    )
    body = json.loads(lines.written(deltas, run_id="batch_req_1-000002", model="tiny", at_ms=7000))
    assert (body["id"], body["created"], body["model"]) == ("chatcmpl_1-000002", 7, "tiny")
    [choice] = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
    assert body["usage"]["total_tokens"] == 7


class Busy(FakeEmbedder):
    """Counts how many are under way."""

    under_way = most = 0

    async def embed(self, texts: Any) -> Embeddings:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0)
        self.under_way -= 1
        return await super().embed(texts)


def test_embedding_lines_come_in_order_a_few_at_a_time_and_fail_alone() -> None:
    embedder = Busy()
    bodies = [json.dumps({"model": "minilm", "input": f"t{i}"}).encode() for i in range(40)]
    bodies[3] = b'{"model": "other", "input": "x"}'
    bodies[5] = b'{"model": "minilm", "input": ""}'
    ledger = FakeLedger()
    lines = EmbeddingLines({"minilm": embedder}, ledger=ledger)
    found = asyncio.run(lines.computed(CALLER, bodies))
    assert isinstance(found[3], ModelUnknownError)
    assert isinstance(found[5], BadRequestError)
    for number in (0, 4, 39):
        result = found[number]
        assert isinstance(result, bytes)
        [vector] = json.loads(result)["data"]
        alone = asyncio.run(embedder.embed([f"t{number}"])).vectors[0]
        assert vector["embedding"] == pytest.approx(alone)
    assert 1 < embedder.most <= SIDE_BY_SIDE
    used = [it for it in ledger.noted if it[3] is not None]
    assert {it[:3] for it in used} == {("a", "key_1", "minilm")}
    assert len(used) == 38
