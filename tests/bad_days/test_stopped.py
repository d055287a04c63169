"""Processes that live and do nothing (SIGSTOP): what a client sees, and who notices."""

import os
import signal
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.bad_days.conftest import configured
from tests.e2e.running import Running, is_alive, running, until, wait_for_output

SILENT = "murmurate: {} had said nothing for"


def ask(service: Running, text: str, model: str = "slow") -> str:
    answer = service.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}]
    )
    return answer.choices[0].message.content or ""


@contextmanager
def stopped(service: Running, name: str) -> Generator[int]:
    """Stop a worker; at the end it has been replaced, or goes on."""
    pid = service.worker(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            until(lambda: service.request("/readyz")[0] == 200)


def test_a_stopped_server_is_replaced_and_its_clients_waited(hardy: Running) -> None:
    with stopped(hardy, "server") as pid:
        assert ask(hardy, "are you there?") == "I hear you"
        assert hardy.worker("server") != pid
    wait_for_output(hardy.state, SILENT.format("server"))


def test_a_stopped_engine_ends_its_stream_with_an_error_and_is_replaced(hardy: Running) -> None:
    stream = hardy.client().chat.completions.create(
        model="slow", messages=[{"role": "user", "content": "slow"}], stream=True
    )
    next(stream)
    for pid in hardy.workers("engine"):
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(openai.APIError) as error:
        list(stream)
    assert error.value.code == "engine.failed"
    assert ask(hardy, "still there?") == "I hear you"
    assert ask(hardy, "Where does the lighthouse of Brack stand?", model="tiny")
    for name in ("engine slow", "engine tiny"):
        wait_for_output(hardy.state, SILENT.format(name))
    until(lambda: hardy.request("/readyz")[0] == 200)


def test_a_stopped_librarys_searches_come_late_or_are_refused_and_nothing_else(
    hardy: Running,
) -> None:
    question = "When was the lighthouse of Brack built?"
    body = {"model": "assistant", "messages": [{"role": "user", "content": question}]}
    with stopped(hardy, "library"), ThreadPoolExecutor(1) as threads:
        searching = threads.submit(hardy.request, "/v1/chat/completions", body)
        assert ask(hardy, "are you there?") == "I hear you"
        status, _, answer = searching.result()
        if status == 200:  # it came so late that the new process was asked
            assert "1871" in answer["choices"][0]["message"]["content"]
        else:
            assert (status, answer["error"]["code"]) == (503, "worker.unreachable")
        assert "1871" in ask(hardy, question, "assistant")
    wait_for_output(hardy.state, SILENT.format("library"))


def test_a_stopped_sandbox_is_replaced(hardy: Running) -> None:
    with stopped(hardy, "sandbox"):
        wait_for_output(hardy.state, SILENT.format("sandbox"))
        assert "1035" in ask(hardy, "What is 23 * 45?", model="assistant")


@pytest.mark.parametrize("name", ["server", "engine", "library", "sandbox"])
def test_a_worker_that_goes_on_in_time_is_left_alone(hardy: Running, name: str) -> None:
    pid = hardy.worker(name)
    with ThreadPoolExecutor(1) as threads:
        with stopped(hardy, name):
            asking = threads.submit(ask, hardy, "What is 7 * 8?", "assistant")
        assert "56" in asking.result()
    assert hardy.worker(name) == pid


def test_a_supervisor_that_was_stopped_ends_nobody_for_it(hardy: Running) -> None:
    before = {name: hardy.worker(name) for name in ("server", "engine", "library", "sandbox")}
    os.kill(hardy.pid, signal.SIGSTOP)
    since_s = time.monotonic()
    try:
        until(lambda: time.monotonic() - since_s > 4.0)  # more than any worker may be silent
        assert ask(hardy, "are you there?") == "I hear you"
    finally:
        os.kill(hardy.pid, signal.SIGCONT)
    hardy.kill("sandbox")  # it looks after them again
    del before["sandbox"]
    assert {name: hardy.worker(name) for name in before} == before


def test_a_stopped_worker_does_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    options = configured(tmp_path)
    with running(tmp_path / "state", *options) as service:
        port = service.url.rpartition(":")[2]
        pids = [service.worker(name) for name in ("server", "engine", "library", "sandbox")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        os.kill(service.pid, signal.SIGKILL)
        service.process.wait()
        until(lambda: not any(is_alive(pid) for pid in pids))
    (tmp_path / "state.ready").unlink()  # the killed one's
    with running(tmp_path / "state", "--listen", f"127.0.0.1:{port}", *options) as service:
        assert ask(service, "are you there?") == "I hear you"
