"""Conversations to learn from: every answer to learn follows from what stands before it."""

import json
import random
from collections import Counter

import pytest
from questions import short_question
from smalltalk import small_talk
from tasks import (
    UNKNOWN,
    UNKNOWN_CHINESE,
    Conversation,
    Source,
    about_passage,
    conversation,
)
from words import WORDINGS, words

CONVERSATIONS = 900
UNKNOWNS = {UNKNOWN, UNKNOWN_CHINESE}


@pytest.fixture(scope="module")
def talks() -> list[Conversation]:
    r = random.Random(4)
    return [conversation(r, held_out=True) for _ in range(CONVERSATIONS)]


def test_each_message_of_the_assistant_is_marked(talks: list[Conversation]) -> None:
    for talk in talks:
        said = [message for message in talk.messages if message["role"] == "assistant"]
        assert len(talk.taught) == len(said)
        assert any(talk.taught)


def test_a_search_asks_for_the_message_itself(talks: list[Conversation]) -> None:
    for talk in talks:
        for before, message in zip(talk.messages, talk.messages[1:], strict=False):
            for call in message.get("tool_calls", ()):
                if call["function"]["name"] == "search":
                    assert call["function"]["arguments"]["query"] == before["content"]


def test_an_answer_from_prose_is_a_sentence_of_it() -> None:
    source = Source(random.Random(7), words(held_out=True), held_out=True)
    for _ in range(60):
        talk = about_passage(source, 4)
        told = next(m["content"] for m in talk.messages if "Context: " in m["content"])
        for message in talk.messages:
            if message["role"] == "assistant":
                assert message["content"] in UNKNOWNS or message["content"] in told


def test_the_first_passage_that_was_found_is_the_answer(talks: list[Conversation]) -> None:
    answers = Counter[str]()
    for talk in talks:
        for heard, said in zip(talk.messages, talk.messages[1:], strict=False):
            if heard["role"] == "tool" and '"passages"' in heard["content"]:
                found = json.loads(heard["content"])["passages"]
                assert said["content"] == found[0]["text"] if found else said["content"] in UNKNOWNS
                answers["quoted" if found else "unknown"] += 1
    assert min(answers["quoted"], answers["unknown"]) > 5


@pytest.mark.parametrize("language", ["english", "chinese", "short"])
def test_the_evaluation_asks_in_wordings_of_its_own(language: str) -> None:
    asked = WORDINGS["questions"]
    assert not set(asked[language].splitlines()[1:]) & set(
        asked[f"{language}_held_out"].splitlines()[1:]
    )


def test_held_out_small_talk_is_never_trained_on() -> None:
    for kind in WORDINGS["small_talk"]:
        trained = {line.lower() for line in kind["said"].splitlines() if line}
        assert not trained & {line.lower() for line in kind["held_out"].splitlines() if line}


def test_a_short_question_is_short_and_no_small_talk() -> None:
    r = random.Random(5)
    remarks = {small_talk(r)[0].lower() for _ in range(2000)}
    for _ in range(200):
        text = short_question(r, words(held_out=True), held_out=True)
        assert len(text.split()) <= 12
        assert text.lower() not in remarks
