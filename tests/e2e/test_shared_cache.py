"""Two services, each with its own log, that share their answers in a real Redis."""

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.running import Running, running, until
from tests.servers.redis import RedisServer, redis_server

CONFIG = """
[models.wise]
engine = "scripted"
rules = "rules.toml"
temperature = 0.0

[cache]
redis_url = "{url}"

[knowledge]
"""
RULES = """
[[rules]]
match = ".*"
text = "I hear you"
"""


@pytest.fixture
def shared() -> Generator[RedisServer]:
    with redis_server() as it:
        yield it


def configured(folder: Path, url: str) -> tuple[str, str]:
    (folder / "rules.toml").write_text(RULES)
    config = folder / "murmurate.toml"
    config.write_text(CONFIG.format(url=url))
    return "--config", str(config)


def asked(service: Running, text: str) -> tuple[str, int]:
    """Return the answer, and how many of the tokens read an engine had not to read."""
    answer = service.client().chat.completions.create(
        model="wise", messages=[{"role": "user", "content": text}]
    )
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    cached = usage.prompt_tokens_details.cached_tokens or 0
    return answer.choices[0].message.content or "", usage.prompt_tokens - cached


def outcomes(service: Running) -> dict[str, float]:
    with closing(service.connection()) as connection:
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()
    lines = [line for line in page.splitlines() if line.startswith("murmurate_cache_shared{")]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


def test_an_answer_of_one_service_is_the_others_too(tmp_path: Path, shared: RedisServer) -> None:
    named = configured(tmp_path, shared.url)
    with running(tmp_path / "a", *named) as one, running(tmp_path / "b", *named) as other:
        answer, read = asked(one, "hello there")
        assert (answer, read > 0) == ("I hear you", True)
        until(lambda: shared.size() == 1)
        assert asked(other, "hello there") == ("I hear you", 0)
        assert outcomes(other) == {"hit": 1.0, "miss": 0.0}
        shared.stop()  # from here on each is on its own
        assert asked(other, "hello there") == ("I hear you", 0)
        assert asked(one, "and now?")[0] == "I hear you"
        assert asked(other, "and now?")[1] > 0
        shared.start()


def test_a_service_starts_without_its_redis(tmp_path: Path, shared: RedisServer) -> None:
    named = configured(tmp_path, shared.url)
    shared.stop()
    with running(tmp_path / "a", *named) as service:
        assert asked(service, "hello")[0] == "I hear you"
