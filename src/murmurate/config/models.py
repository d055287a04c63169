"""The sections of models and of the embedder."""

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from murmurate.config.sections import Amount, Count, Memory, Price, Section

EMBEDDER_NAME = "minilm"
CONTEXT_TOKENS = 4096


class Engine(StrEnum):
    """What runs a model."""

    LLAMA_CPP = "llama.cpp"
    OPENAI = "openai"
    SCRIPTED = "scripted"


class ModelConfig(Section, frozen=True):
    """A name that clients may use, and the engine behind it."""

    engine: Engine
    """`llama.cpp` (a GGUF file on this machine), `openai` (any OpenAI-compatible server) or
    `scripted` (answers from a file of rules, for tests); without it, `weights`, `url` or `rules`
    decides. [by the next keys]"""
    weights: str | None = None
    """For `llama.cpp`: `builtin:tiny`, or the path of a GGUF file (of a split one, the first
    part)."""
    url: str | None = None
    """For `openai`: the base URL, such as `https://llm.example/v1`."""
    key: str | None = None
    """For `openai`: a reference to the secret, `env:NAME` or `file:PATH`; never the secret
    itself."""
    upstream_name: str | None = None
    """For `openai`: what the other server calls the model. [the model's own name]"""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """For `openai`: further headers, such as `{ OpenAI-Organization = "org-1" }`; a value may be a
    reference."""
    ca_file: str | None = None
    """For `openai`: a file of certificates (PEM) to trust besides the system's."""
    proxy: str | None = None
    """For `openai`: an HTTP proxy, `http://HOST:PORT` or a reference such as `env:HTTPS_PROXY`;
    the environment's own proxies are not used unless named here."""
    rules: str | None = None
    """For `scripted`: the path of the rules."""
    slots: Count = 4
    """How many requests the engine works on at once; the others wait in their lane."""
    context_tokens: Annotated[int, Meta(ge=64)] | None = None
    """The longest prompt and answer together; a longer prompt gets status 400. [4096, or what the
    model was trained for where that is less]"""
    threads: Count | None = None
    """For `llama.cpp`: how many threads it computes with. [all cores, at most 8]"""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """Used where a request names none; at 0 answers are exact and can be cached. [the engine's]"""
    input_price: Price = 0.0
    """What a million tokens read cost, in `accounts.currency`."""
    cached_input_price: Price | None = None
    """What a million of them cost where the engine had read them before. [as much]"""
    output_price: Price = 0.0
    """What a million tokens written cost."""
    first_token_s: Amount = 60.0
    """How long the first token may take before the engine counts as dead."""
    stall_s: Amount = 30.0
    """How long an answer may pause before the engine counts as dead."""
    memory_bytes_max: Memory | None = None
    """How much memory the engine's process may write to, without the weights that it maps; see
    `[workers]`."""


class EmbeddingsEngine(StrEnum):
    """What turns texts into vectors."""

    MINILM = "minilm"
    OPENAI = "openai"
    NONE = "none"


class EmbeddingsConfig(Section, frozen=True):
    """The one embedder: of the documents, of the questions, and of `/v1/embeddings`."""

    engine: EmbeddingsEngine = EmbeddingsEngine.MINILM
    """`minilm` (on this machine, English), `openai` (any OpenAI-compatible server) or `none`
    (search by words only). [`minilm`, or `openai` where `url` is set]"""
    url: str | None = None
    """For `openai`: the base URL, such as `https://llm.example/v1`."""
    key: str | None = None
    """As for a model."""
    model: str | None = None
    """For `openai`: the model's name, there and here."""
    dimensions: Annotated[int, Meta(ge=1, le=65_536)] | None = None
    """For `openai`: how many numbers a vector has; asked of the server, and checked. [the model's
    own]"""
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    """As for a model."""
    ca_file: str | None = None
    """As for a model."""
    proxy: str | None = None
    """As for a model."""
    input_price: Price = 0.0
    """What a million tokens cost, in `accounts.currency`."""
    batch_texts: Annotated[int, Meta(ge=1, le=2048)] = 64
    """For `openai`: how many texts one request carries at most."""
    timeout_s: Amount = 30.0
    """For `openai`: how long one request may take."""
    question_prefix: str = ""
    """For `openai`: put before each question, for models that were trained so, such as `"query:
    "`."""
    passage_prefix: str = ""
    """For `openai`: put before each passage of a document, such as `"passage: "`."""

    @property
    def name(self) -> str:
        """Return the name that `/v1/embeddings` knows it by."""
        return self.model or EMBEDDER_NAME
