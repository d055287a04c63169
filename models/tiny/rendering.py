"""Conversations as the text and the tokens that llama.cpp makes of them."""

import json
from typing import Final

import jinja2
from places import HERE
from tasks import Conversation
from tokenizer import END, START
from tokenizers import Tokenizer

FIRST_WEIGHT: Final = 4.0
"""The first token of an answer decides; most others are only copied."""


class Renderer:
    """Turns conversations into tokens, exactly as llama.cpp renders the chat template."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._template = template()
        self._header = tokenizer.encode(f"{START}assistant\n").ids
        self._end = tokenizer.token_to_id(END)

    def tokens(self, talk: Conversation) -> tuple[list[int], list[float]]:
        """Return the tokens, and how much each weighs that the model is to say."""
        text = self._template.render(messages=talk.messages, tools=talk.tools)
        ids = self.tokenizer.encode(text).ids
        learnt = [0.0] * len(ids)
        taught, width, i = iter(talk.taught), len(self._header), 0
        while i < len(ids):
            if ids[i : i + width] != self._header:
                i += 1
                continue
            end = ids.index(self._end, i)
            if next(taught):
                learnt[i + width : end + 1] = [1.0] * (end + 1 - i - width)
                learnt[i + width] = FIRST_WEIGHT
            i = end
        return ids, learnt


def template() -> jinja2.Template:
    """Return the chat template; its JSON looks like llama.cpp's."""
    environment = jinja2.Environment(autoescape=False)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string((HERE / "chat_template.jinja").read_text())
