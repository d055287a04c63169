"""The engine worker as a real process: scripted, and with the model of the package."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from murmurate.adapters.openai_http import OpenAIHttp
from murmurate.config import Engine, ModelConfig, Remote, parse, weights_path
from murmurate.core.clock import SystemClock
from murmurate.core.errors import (
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
    PromptTooLongError,
)
from murmurate.core.types import (
    CallPart,
    Finished,
    FinishReason,
    Message,
    Role,
    Sampling,
    Text,
    Tool,
    ToolCall,
    Usage,
)
from murmurate.workers.boot import EngineBoot
from tests.engines.fakes import FakeTracer, all_of, ask, result

pytestmark = pytest.mark.e2e

TINY = "builtin:tiny"
LOOK = Tool("look", "looks", '{"type": "object", "properties": {"at": {"type": "string"}}}')
RULES = r"""
[[rules]]
match = 'slow'
text = "one two three"
fail = "hang"
after = 1

[[rules]]
match = 'fail (before|refuse)'
text = "unused"
fail = "before"

[[rules]]
match = 'busy'
fail = "refuse"

[[rules]]
match = 'drop'
text = "one two three"
fail = "midway"
after = 2

[[rules]]
match = 'garbage'
fail = "garbage"

[[rules]]
match = 'die'
text = "alive again"
fail = "exit"
after = 1
times = 1

[[rules]]
result = true
text = "It is {result}."

[[rules]]
match = 'look at (\w+)'
tools = true
call = "look"
arguments = '{"at": "{1}"}'

[[rules]]
text = "You said: {0}"
match = '.+'
"""


class Worker:
    """A worker's process, and the adapter that talks to it."""

    def __init__(self, folder: str, model: ModelConfig) -> None:
        self.socket = f"{folder}/e.sock"
        self.model = model
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "murmurate.workers.engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        boot = EngineBoot("tiny", self.model, self.socket, "secret")
        process.stdin.write(msgspec.json.encode(boot) + b"\n")
        process.stdin.flush()
        return process

    def ready(self) -> bool:
        assert self.process.stdout is not None
        return b'"ready":true' in self.process.stdout.readline()

    def last_words(self) -> tuple[int, str]:
        assert self.process.stderr is not None
        return self.process.wait(), self.process.stderr.read().decode()

    def end(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        self.process.wait()

    def restart(self) -> None:
        self.end()
        self.process = self._start()

    def engine(self, key: str = "secret") -> OpenAIHttp:
        return OpenAIHttp(
            name="tiny",
            remote=Remote("http://engine/v1", key),
            socket=self.socket,
            first_token_s=10,
            stall_s=10,
            clock=SystemClock(),
            tracer=FakeTracer(),
            new_id=lambda: "new",
        )


@contextmanager
def worker(model: ModelConfig) -> Generator[Worker]:
    with tempfile.TemporaryDirectory(prefix="e") as folder:
        started = Worker(folder, model)
        try:
            yield started
        finally:
            started.end()


@contextmanager
def scripted(rules: str = RULES) -> Generator[Worker]:
    with tempfile.TemporaryDirectory(prefix="r") as folder:
        path = Path(folder, "rules.toml")
        path.write_text(rules)
        with worker(ModelConfig(engine=Engine.SCRIPTED, rules=str(path))) as started:
            yield started


def llama(**settings: Any) -> ModelConfig:
    defaults: dict[str, Any] = {"weights": TINY, "slots": 2, "context_tokens": 1024, "threads": 1}
    return ModelConfig(engine=Engine.LLAMA_CPP, **{**defaults, **settings})


async def said(engine: OpenAIHttp, *messages: str | Message, **fields: Any) -> str:
    deltas = await all_of(engine, ask(*messages, **fields))
    return "".join(delta.text for delta in deltas if isinstance(delta, Text))


def test_a_script_answers_calls_tools_and_reads_their_results() -> None:
    async def story(engine: OpenAIHttp) -> None:
        assert await engine.health()
        assert await all_of(engine, ask("hi there")) == [
            *map(Text, ("You ", "said: ", "hi ", "there")),
            Usage(2, 4),
            Finished(FinishReason.STOP),
        ]
        call, _, end = await all_of(engine, ask("look at Bern", tools=(LOOK,)))
        assert isinstance(call, ToolCall)
        assert (call.name, call.arguments) == ("look", '{"at": "Bern"}')
        assert end == Finished(FinishReason.TOOL_CALLS)
        turn = Message(Role.ASSISTANT, (CallPart(call.id, call.name, call.arguments),))
        assert await said(engine, "look", turn, result(call.id, "big")) == "It is big."
        await engine.close()

    with scripted() as it:
        assert it.ready()
        assert Path(it.socket).stat().st_mode & 0o777 == 0o600
        asyncio.run(story(it.engine()))


def test_a_script_fails_as_a_real_engine_would() -> None:
    async def story(engine: OpenAIHttp) -> None:
        for question, kind, detail in (
            ("fail before", EngineFailedError, "answered 500"),
            ("busy", OverloadedError, "busy (503)"),
            ("drop", EngineFailedError, "broke off (ClientPayloadError)"),
            ("garbage", EngineFailedError, "sent garbage"),
        ):
            with pytest.raises(MurmurateError) as error:
                await all_of(engine, ask(question))
            assert isinstance(error.value, kind)
            assert detail in error.value.detail
        async with aclosing(engine.answer(ask("slow"))) as deltas:
            assert await anext(deltas) == Text("one ")
        assert await said(engine, "well?") == "You said: well?"
        await engine.close()

    with scripted() as it:
        assert it.ready()
        asyncio.run(story(it.engine()))


def test_a_process_that_a_rule_kills_is_well_in_its_next_life() -> None:
    async def story(it: Worker) -> None:
        engine = it.engine()
        with pytest.raises(EngineFailedError):
            await all_of(engine, ask("die"))
        it.restart()
        assert await said(engine, "die") == "alive again"
        await engine.close()

    with scripted() as it:
        assert it.ready()
        asyncio.run(story(it))


@pytest.mark.parametrize("build", [scripted, lambda: worker(llama())])
def test_a_worker_takes_only_its_own_key(build: Any) -> None:
    async def story(engine: OpenAIHttp) -> None:
        with pytest.raises(EngineUnreachableError, match="refuses its key"):
            await all_of(engine, ask())
        await engine.close()

    with build() as it:
        assert it.ready()
        asyncio.run(story(it.engine(key="wrong")))


@pytest.mark.parametrize("build", [scripted, lambda: worker(llama())])
def test_a_worker_ends_at_once_on_sigterm_and_not_on_ctrl_c(build: Any) -> None:
    with build() as it:
        assert it.ready()
        it.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            it.process.wait(0.05)
        it.process.terminate()
        assert it.process.wait(2) == 0


@pytest.mark.parametrize("build", [scripted, lambda: worker(llama())])
def test_a_worker_dies_with_its_supervisor(build: Any) -> None:
    with build() as it:
        assert it.ready()
        assert it.process.stdin is not None
        it.process.stdin.close()
        assert it.process.wait(2) == 3


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (llama(weights="/nowhere.gguf"), "models.tiny: /nowhere.gguf is missing: check the path"),
        (llama(weights=__file__), "is no GGUF file"),
        (llama(weights=str(Path(__file__).parent)), "is a folder without a GGUF file"),
        (
            ModelConfig(engine=Engine.SCRIPTED, rules="/nowhere.toml"),
            "models.tiny: rules = '/nowhere.toml': No such file",
        ),
        pytest.param(
            llama(context_tokens=100_000, slots=1),
            "was trained for",
        ),
    ],
)
def test_a_fault_that_a_restart_cannot_mend_has_its_own_exit_code(
    model: ModelConfig, words: str
) -> None:
    with worker(model) as it:
        assert not it.ready()
        code, last_words = it.last_words()
        assert code == 2
        assert words in last_words
        assert "Traceback" not in last_words


def test_cut_weights_are_refused_before_llama_cpp_tries_them(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(weights_path(TINY).read_bytes()[:2_000_000])
    with worker(llama(weights=str(cut))) as it:
        assert not it.ready()
        code, last_words = it.last_words()
        assert code == 2
        assert "cut.gguf is cut: it has 2000000 of " in last_words
        assert "download it again" in last_words


def test_an_unknown_architecture_is_told_with_llama_cpps_own_words(tmp_path: Path) -> None:
    strange = tmp_path / "strange.gguf"
    strange.write_bytes(weights_path(TINY).read_bytes().replace(b"qwen3", b"qwenX"))
    with worker(llama(weights=str(strange))) as it:
        assert not it.ready()
        code, last_words = it.last_words()
        assert code == 2
        assert "unknown model architecture: 'qwenX'" in last_words
        assert "a newer xllamacpp than" in last_words
        assert "Traceback" not in last_words


def test_one_line_is_enough_and_the_context_is_then_what_fits() -> None:
    model = parse({"models": {"tiny": {"weights": TINY}}}).models["tiny"]
    with worker(model) as it:
        assert it.ready()


def test_the_model_of_the_package_answers_and_knows_its_bounds() -> None:
    async def story(it: Worker) -> None:
        engine = it.engine()
        assert await engine.health()
        request = ask("hello", sampling=Sampling(tokens_max=8, temperature=0.0))
        first, second = await all_of(engine, request), await all_of(engine, request)
        *text, usage, end = first
        assert text == list(second[:-2])
        assert isinstance(usage, Usage)
        assert 0 < usage.tokens_out <= 8
        assert isinstance(end, Finished)
        cached = second[-2]
        assert isinstance(cached, Usage)
        assert cached.tokens_cached > 0
        with pytest.raises(PromptTooLongError, match="the context of tiny has 1024"):
            await all_of(engine, ask("hello " * 2000))
        await engine.close()

    with worker(llama()) as it:
        assert it.ready()
        assert Path(it.socket).stat().st_mode & 0o777 == 0o600
        asyncio.run(story(it))


def test_closing_an_answer_frees_its_slot_for_the_next_request() -> None:
    endless = ask(sampling=Sampling(options={"ignore_eos": True, "n_predict": -1}))

    async def story(it: Worker) -> None:
        engine = it.engine()
        for _ in range(5):
            async with aclosing(engine.answer(endless)) as deltas:
                await anext(deltas)
        async with asyncio.timeout(5):
            await said(engine, "hello", sampling=Sampling(tokens_max=4))
        await engine.close()

    with worker(llama(slots=1)) as it:
        assert it.ready()
        asyncio.run(story(it))


def test_broken_arguments_in_the_history_do_not_break_the_engine() -> None:
    turn = Message(Role.ASSISTANT, (CallPart("x", "look", '{"at": "Be'),))

    async def story(it: Worker) -> None:
        engine = it.engine()
        sampling = Sampling(tokens_max=4)
        messages = ("look", turn, result("x", "no JSON"))
        await all_of(engine, ask(*messages, tools=(LOOK,), sampling=sampling))
        await engine.close()

    with worker(llama()) as it:
        assert it.ready()
        asyncio.run(story(it))


def test_a_killed_engine_is_a_failed_answer_and_the_next_request_waits_for_the_new_one() -> None:
    endless = ask(sampling=Sampling(options={"ignore_eos": True, "n_predict": -1}))

    async def story(it: Worker) -> None:
        engine = it.engine()
        with pytest.raises(EngineFailedError, match="broke off"):  # noqa: PT012
            async for delta in engine.answer(endless):
                if isinstance(delta, Text):
                    os.kill(it.process.pid, signal.SIGKILL)
        it.restart()
        await said(engine, "hello", sampling=Sampling(tokens_max=4))
        await engine.close()

    with worker(llama()) as it:
        assert it.ready()
        asyncio.run(story(it))
