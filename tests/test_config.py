"""Configuration fails early and says which key, which value, and what was expected."""

import base64
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.config import (
    DATA,
    AgentConfig,
    AnswerStyle,
    Config,
    EmbeddingsEngine,
    Engine,
    KnowledgeConfig,
    LimitConfig,
    ModelConfig,
    Permission,
    Remote,
    documents_path,
    explain,
    listen_address,
    load,
    log_place,
    parse,
    remote,
    secret,
    webhook_keys,
    weights_path,
)
from murmurate.core.errors import ConfigError

SCHEDULE = {"cron": "0 7 * * mon-fri", "model": "assistant", "message": "What is new?"}
MODEL = {"engine": "llama.cpp", "weights": "w.gguf"}
REMOTE = {"url": "https://h/v1"}
EMBEDDER = {"url": "https://h/v1", "model": "embed-3"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder, without variables of ours around."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MURMURATE_SERVER__LISTEN", raising=False)
    return tmp_path


# What works.


def test_without_anything_the_built_in_profile_serves_the_tiny_model_and_our_documents() -> None:
    config = parse({})
    assert config == Config()
    assert config.models["tiny"].weights == "builtin:tiny"
    assert config.agents["assistant"].answers is AnswerStyle.QUOTE
    assert config.server.listen == "127.0.0.1:8080"


def test_a_file_sets_what_it_names_and_the_rest_keeps_its_default() -> None:
    config = parse(
        {
            "server": {"listen": "0.0.0.0:9000", "drain_s": 5},
            "models": {"big": {"engine": "openai", "url": "https://h/v1", "key": "env:KEY"}},
            "agents": {"helper": {"model": "big", "knowledge": ["docs"], "tools": ["search"]}},
            "limits": {"default": {"requests_per_minute": 60}},
        }
    )
    assert (config.server.listen, config.server.drain_s) == ("0.0.0.0:9000", 5.0)
    assert config.server.body_bytes_max == 4 * 1024 * 1024
    assert config.models == {
        "big": ModelConfig(engine=Engine.OPENAI, url="https://h/v1", key="env:KEY")
    }
    assert config.agents == {
        "helper": AgentConfig(model="big", knowledge=("docs",), tools=("search",))
    }
    assert config.knowledge == {"docs": KnowledgeConfig(folder="builtin:docs")}
    assert config.limits == {"default": LimitConfig(requests_per_minute=60.0)}


def test_an_engine_with_rules_needs_only_them() -> None:
    model = {"engine": "scripted", "rules": "rules.toml"}
    config = parse({"models": {"tiny": model}})
    assert config.models["tiny"].engine is Engine.SCRIPTED


@pytest.mark.parametrize(
    ("line", "engine"),
    [
        ({"weights": "m.gguf"}, Engine.LLAMA_CPP),
        ({"url": "https://h/v1"}, Engine.OPENAI),
        ({"rules": "rules.toml"}, Engine.SCRIPTED),
    ],
)
def test_one_line_is_enough_for_a_model(line: dict[str, str], engine: Engine) -> None:
    assert parse({"models": {"mine": line}}).models["mine"].engine is engine


def test_one_line_is_enough_for_an_embedder() -> None:
    embeddings = parse({"embeddings": EMBEDDER}).embeddings
    assert embeddings.engine is EmbeddingsEngine.OPENAI
    assert (embeddings.name, embeddings.dimensions) == ("embed-3", None)
    assert Config().embeddings.name == "minilm"


def test_headers_and_proxies_may_be_references(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"K": "sk-secret-1", "O": "org-secret", "P": "http://u:pw@p:1"}.items():
        monkeypatch.setenv(name, value)
    table = {**REMOTE, "key": "env:K", "headers": {"X-Org": "env:O", "X-A": "b"}, "proxy": "env:P"}
    found = remote(parse({"models": {"m": table}}).models["m"])
    assert found == Remote(
        "https://h/v1",
        "sk-secret-1",
        {"X-Org": "org-secret", "X-A": "b"},
        proxy="http://u:pw@p:1",
    )
    assert repr(found) == "Remote('https://h/v1')"
    text = "sk-secret-1 and org-secret by http://u:pw@p:1 are not for b"
    assert found.redacted(text) == "[hidden] and [hidden] by [hidden] are not for b"


def test_what_leads_to_another_server_must_be_there(tmp_path: Path) -> None:
    for key, value, words in (
        ("ca_file", str(tmp_path / "none.pem"), "none.pem': no such file"),
        ("key", "env:NOBODY_SETS_THIS", "NOBODY_SETS_THIS is not set"),
        ("proxy", "env:NOBODY_SETS_THIS", "NOBODY_SETS_THIS is not set"),
    ):
        model = parse({"models": {"m": {**REMOTE, key: value}}}).models["m"]
        with pytest.raises(ConfigError, match=words):
            remote(model)


# What does not.


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        # Unknown names.
        (
            {"sever": {}},
            "sever: no such section; expected one of server, http, workers, log, router",
        ),
        (
            {"server": {"listn": 1}},
            "server: .*unknown field `listn`; expected one of listen, state",
        ),
        ({"models": {"m": {**MODEL, "slot": 1}}}, "models.m: .*`slot`; expected one of engine"),
        ({"limits": {"default": {"burts": 1}}}, "limits.default: .*`burts`.*burst"),
        # Wrong types.
        ({"server": 5}, r"server = 5: expected a table, \[server\]"),
        ({"models": 5}, r"models = 5: expected a table, such as \[models.NAME\]"),
        ({"models": {"m": 5}}, r"models.m = 5: expected a table, \[models.m\]"),
        ({"server": {"listen": 8080}}, "server.listen = 8080: Expected `str`, got `int`"),
        ({"server": {"requests_max": "x"}}, "server.requests_max = 'x': Expected `int`, got `str`"),
        ({"server": {"drain_s": True}}, "server.drain_s = True: Expected `float`, got `bool`"),
        ({"server": {"hosts": "a"}}, "server.hosts = 'a': Expected `array`, got `str`"),
        ({"agents": {"a": {"model": "tiny", "tools": [3]}}}, r"agents.a.tools\[0\] = \[3\]: Exp"),
        ({"models": {"m": {"engine": "vllm"}}}, "models.m.engine = 'vllm': .*one of llama.cpp, op"),
        ({"models": {"m": {}}}, "models.m: .*missing required field `engine`"),
        ({"agents": {"a": {"model": "tiny", "answers": "long"}}}, "'long': .*one of quote, comp"),
        # Values out of their range.
        ({"server": {"requests_max": 0}}, "server.requests_max = 0: Expected `int` >= 1"),
        ({"server": {"body_bytes_max": -1}}, "server.body_bytes_max = -1: Expected `int` >= 1"),
        ({"server": {"drain_s": -1}}, "server.drain_s = -1: Expected `float` >= 0.0"),
        ({"models": {"m": {**MODEL, "slots": 0}}}, "models.m.slots = 0: Expected `int` >= 1"),
        ({"models": {"m": {**MODEL, "context_tokens": 10}}}, "context_tokens = 10: .* >= 64"),
        ({"models": {"m": {**MODEL, "temperature": 3}}}, "temperature = 3: .* <= 2.0"),
        ({"models": {"m": {**MODEL, "stall_s": 0}}}, "stall_s = 0: Expected `float` > 0.0"),
        ({"router": {"urgent_queue_max": -1}}, "router.urgent_queue_max = -1: Expected `int` >= 0"),
        ({"cache": {"ttl_s": float("inf")}}, "cache.ttl_s = inf: Expected `float` <= "),
        ({"limits": {"default": {"requests_per_minute": 0}}}, "per_minute = 0: .* > 0.0"),
        ({"limits": {"default": {"requests_per_minute": float("nan")}}}, "= nan: Expected"),
        ({"agents": {"a": {"model": "tiny", "steps_max": 0}}}, "steps_max = 0: .* >= 1"),
        ({"server": {"listen": "8080"}}, "server.listen = '8080': expected HOST:PORT"),
        # Pairs that can't work together.
        ({"models": {"m": {"engine": "llama.cpp"}}}, "models.m.weights is missing.*'llama.cpp'"),
        ({"models": {"m": {"engine": "openai"}}}, "models.m.url is missing: engine 'openai'"),
        ({"models": {"m": {"engine": "scripted"}}}, "models.m.rules is missing"),
        ({"models": {"minilm": MODEL}}, "models.minilm: the embedder has this name"),
        ({"embeddings": {**EMBEDDER, "model": "tiny"}}, "models.tiny: the embedder has this name"),
        (
            {"embeddings": {**EMBEDDER, "model": "assistant"}},
            "agents.assistant: a model has this name",
        ),
        ({"embeddings": {"url": "https://h/v1"}}, "embeddings.model is missing: engine 'openai'"),
        ({"embeddings": {"engine": "openai", "model": "m"}}, "embeddings.url is missing"),
        ({"embeddings": {"model": "m"}}, "embeddings.model: engine 'minilm' has no use for it"),
        (
            {"embeddings": {"engine": "none", "headers": {"a": "b"}}},
            "embeddings.headers: engine 'none' has no use for it",
        ),
        ({"embeddings": {**EMBEDDER, "dimensions": 0}}, "embeddings.dimensions = 0: .* >= 1"),
        ({"embeddings": {**EMBEDDER, "key": "sk-live"}}, "embeddings.key: expected a reference"),
        ({"outgoing": {"allow": ["10.0.0.1/8"]}}, "outgoing.allow has '10.0.0.1/8': .* host bits"),
        ({"schedules": {"s": {}}}, "schedules.s: .* missing required field `cron`"),
        ({"schedules": {"a/b": SCHEDULE}}, "schedules.'a/b': expected a name"),
        ({"schedules": {"s": {**SCHEDULE, "cron": "0 7 * *"}}}, "schedules.s: .* five fields"),
        ({"schedules": {"s": {**SCHEDULE, "cron": "60 7 * * *"}}}, "schedules.s: .* Bad minute"),
        ({"schedules": {"s": {**SCHEDULE, "cron": "0 0 30 2 *"}}}, "'0 0 30 2 \\*'.* day-of-month"),
        ({"schedules": {"s": {**SCHEDULE, "zone": "Mars/Base"}}}, "'Mars/Base' is no time zone"),
        ({"schedules": {"s": {**SCHEDULE, "zone": "../etc"}}}, "'../etc' is no time zone"),
        ({"schedules": {"s": {**SCHEDULE, "model": "big"}}}, "schedules.s.model = 'big': expected"),
        ({"schedules": {"s": {**SCHEDULE, "tenant": "A b"}}}, "schedules.s.tenant = 'A b'"),
        ({"schedules": {"s": {**SCHEDULE, "tenant": "acme"}}}, "'docs', which the tenant 'acme'"),
        ({"schedules": {"s": {**SCHEDULE, "session": "a/b"}}}, "schedules.s.session = 'a/b'"),
        ({"schedules": {"s": {**SCHEDULE, "message": ""}}}, "schedules.s.message = ''"),
        ({"schedules": {"s": {**SCHEDULE, "missed": "all"}}}, "expected one of once, skip"),
        ({"outgoing": {"allow": ["lan"]}}, "outgoing.allow has 'lan': expected a network"),
        ({"outgoing": {"ports": []}}, "outgoing.ports"),
        ({"outgoing": {"ports": [70000]}}, "outgoing.ports"),
        ({"webhooks": {"secret": "whsec_live"}}, "webhooks.secret: expected a reference"),
        ({"webhooks": {"secrets": {"acme": "whsec_l"}}}, "webhooks.secrets.acme: expected a ref"),
        ({"webhooks": {"secrets": {"A/b": "env:X"}}}, "webhooks.secrets has 'A/b'"),
        ({"webhooks": {"secrets": {"default": "env:X"}}}, "webhooks.secrets has 'default'"),
        ({"models": {"m": {**MODEL, "ca_file": "c"}}}, "models.m.ca_file: .*'llama.cpp' has no"),
        ({"models": {"m": {**MODEL, "headers": {"a": "b"}}}}, "models.m.headers: engine"),
        ({"models": {"m": {"url": "ftp://h"}}}, "models.m.url = 'ftp://h': expected http"),
        ({"models": {"m": {"url": "http://"}}}, "models.m.url = 'http://': expected http"),
        ({"models": {"m": {"url": "http://h:x"}}}, "models.m.url: expected http"),
        ({"models": {"m": {**REMOTE, "proxy": "p:1"}}}, "models.m.proxy = 'p:1': expected http"),
        ({"models": {"m": {**REMOTE, "headers": {"a b": "c"}}}}, "models.m.headers.a b: expected"),
        ({"models": {"m": {**REMOTE, "headers": {"a": "b\nc"}}}}, "models.m.headers.a: expected"),
        (
            {"models": {"m": {**REMOTE, "headers": {"Authorization": "x"}}}},
            "models.m.headers.Authorization: set by murmurate itself",
        ),
        ({"agents": {"tiny": {"model": "tiny"}}}, "agents.tiny: a model has this name"),
        ({"agents": {"minilm": {"model": "tiny"}}}, "agents.minilm: a model has this name"),
        ({"agents": {"a": {"model": "big"}}}, "agents.a.model = 'big': expected one of tiny"),
        ({"agents": {"a": {"model": "tiny", "tools": ["serch"]}}}, "'serch': .*search, calculate"),
        ({"agents": {"a": {"model": "tiny", "tools": ["search"]}}}, "'search' but knowledge = "),
        (
            {"agents": {"a": {"model": "tiny", "knowledge": ["x"]}}},
            "agents.a.knowledge = 'x': expected one of docs",
        ),
        (
            {"knowledge": {}, "agents": {"a": {"model": "tiny", "knowledge": ["x"]}}},
            "none is configured",
        ),
        (
            {"knowledge": {"docs": {"folder": "d", "tenants": ["Acme/x"]}}},
            "knowledge.docs.tenants = 'Acme/x': expected a name of small letters",
        ),
        ({"knowledge": {"docs": {"folder": "d", "tenants": []}}}, r"knowledge.docs.tenants = \[\]"),
        ({"limits": {}}, r"limits has nothing: expected the one section \[limits.default\]"),
    ],
)
def test_what_cannot_work_names_key_value_and_expectation(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(raw)
    assert re.search(words, raised.value.detail), raised.value.detail


@pytest.mark.parametrize("key", ["headers", "proxy", "url"])
def test_what_may_hold_a_secret_by_mistake_is_not_shown(key: str) -> None:
    wrong = {"headers": "X: sk-1", "proxy": "http://u:sk-1@p:1", "url": "https://u:sk-1@h/v1"}
    with pytest.raises(ConfigError, match=f"models.m.{key}") as raised:
        parse({"models": {"m": {**REMOTE, key: wrong[key]}}})
    assert "sk-1" not in raised.value.detail


def test_a_key_of_the_wrong_type_is_not_shown_as_it_may_be_the_secret() -> None:
    with pytest.raises(ConfigError) as raised:
        parse({"models": {"m": {**MODEL, "key": 123456}}})
    assert "models.m.key: Expected" in raised.value.detail
    assert "123456" not in raised.value.detail


# The environment.


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("MURMURATE_SERVER__LISTEN", "127.0.0.1:9000", "server.listen", "127.0.0.1:9000"),
        ("MURMURATE_SERVER__REQUESTS_MAX", "7", "server.requests_max", 7),
        ("MURMURATE_SERVER__HOSTS", '["a", "b"]', "server.hosts", ("a", "b")),
        ("MURMURATE_SERVER__DRAIN_S", "0.5", "server.drain_s", 0.5),
        ("MURMURATE_SERVER__STATE", "a b [c", "server.state", "a b [c"),
        ("MURMURATE_MODELS__TINY__SLOTS", "3", "models.tiny.slots", 3),
        ("MURMURATE_LIMITS__DEFAULT__BURST", "9", "limits.default.burst", 9),
    ],
)
def test_a_variable_sets_one_key_and_leaves_the_rest(
    name: str, text: str, key: str, value: object
) -> None:
    config: Any = parse({}, {name: text, "PATH": "/bin"})
    for step in key.split("."):
        config = config[step] if isinstance(config, dict) else getattr(config, step)
    assert config == value


def test_the_environment_wins_over_the_file() -> None:
    raw = {"server": {"listen": "127.0.0.1:1", "state": "s"}}
    config = parse(raw, {"MURMURATE_SERVER__LISTEN": "127.0.0.1:2"})
    assert (config.server.listen, config.server.state) == ("127.0.0.1:2", "s")
    assert raw["server"]["listen"] == "127.0.0.1:1"


def test_variables_can_make_a_whole_model() -> None:
    environment = {
        "MURMURATE_MODELS__BIG__ENGINE": "openai",
        "MURMURATE_MODELS__BIG__URL": "https://h/v1",
    }
    assert set(parse({}, environment).models) == {"tiny", "big"}


def test_variables_without_two_underscores_are_not_settings() -> None:
    assert parse({}, {"MURMURATE_KEY": "k", "MURMURATE_URL": "u"}) == Config()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MURMURATE_SERVER__LISTN": "x"}, "server: .*`listn`"),
        ({"MURMURATE_SEVER__LISTEN": "x"}, "sever: no such section"),
        ({"MURMURATE_SERVER__REQUESTS_MAX": "many"}, "server.requests_max = 'many'"),
        ({"MURMURATE_SERVER__LISTEN__PORT": "5"}, "MURMURATE_SERVER__LISTEN__PORT: listen is a"),
    ],
)
def test_a_wrong_variable_stops_the_start_too(environment: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse({"server": {"listen": "127.0.0.1:1"}}, environment)


# Files.


def test_a_named_file_must_be_there(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*no such file"):
        load(folder / "none.toml")


@pytest.mark.parametrize("content", [b"[server", b"\xff\xfe", b"a = 1\na = 2"])
def test_a_file_that_is_not_toml_names_itself(folder: Path, content: bytes) -> None:
    (folder / "x.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        load(folder / "x.toml")


def test_paths_in_a_file_begin_at_its_own_folder(folder: Path) -> None:
    below = folder / "conf"
    below.mkdir()
    (below / "x.toml").write_text(
        '[models.a]\nweights = "a.gguf"\n[models.b]\nweights = "/b.gguf"\n'
        '[models.c]\nweights = "~/c.gguf"\n[models.d]\nweights = "builtin:tiny"\n'
        '[models.e]\nrules = "e.toml"\n[models.f]\nurl = "http://h/v1"\nca_file = "ca.pem"\n'
        '[knowledge.docs]\nfolder = "docs"\n[server]\nstate = "state"\n'
        '[embeddings]\nurl = "http://h/v1"\nmodel = "m"\nca_file = "ca.pem"\n'
    )
    config = load(below / "x.toml")
    weights = [config.models[name].weights for name in "abcd"]
    assert weights == [f"{below}/a.gguf", "/b.gguf", "~/c.gguf", "builtin:tiny"]
    assert config.models["e"].rules == f"{below}/e.toml"
    assert config.models["f"].ca_file == config.embeddings.ca_file == f"{below}/ca.pem"
    assert config.knowledge["docs"].folder == f"{below}/docs"
    assert config.server.state == "state"


def test_the_file_of_the_working_folder_is_read_without_being_named(folder: Path) -> None:
    assert load() == Config()
    (folder / "murmurate.toml").write_text('[server]\nlisten = "127.0.0.1:5"\n')
    assert load().server.listen == "127.0.0.1:5"


@pytest.mark.parametrize("value", ["1979-05-27", "99999999999999999999999999"])
def test_a_value_of_a_type_that_only_toml_has_is_refused(folder: Path, value: str) -> None:
    (folder / "murmurate.toml").write_text(f"[server]\nstate = {value}\n")
    with pytest.raises(ConfigError, match=r"server\.state"):
        load()


def test_explain_says_where_each_setting_comes_from(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / "x.toml"
    file.write_text('[server]\nlisten = "127.0.0.1:5"\nstate = "s"\n')
    monkeypatch.setenv("MURMURATE_SERVER__LISTEN", "127.0.0.1:6")
    settings = {key: (value, origin) for key, value, origin in explain(file)}
    assert settings["server.listen"] == ("127.0.0.1:6", "environment")
    assert settings["server.state"] == ("s", str(file))
    assert settings["server.requests_max"] == (1024, "default")
    assert settings["models.tiny.engine"] == ("llama.cpp", "default")


def test_explain_shows_references_and_hides_what_may_be_a_key(folder: Path) -> None:
    file = folder / "x.toml"
    file.write_text(
        '[models.m]\nurl = "https://h/v1"\nkey = "env:K"\n'
        'headers = { api-key = "sk-1", X-Org = "env:O" }\n'
    )
    settings = {key: value for key, value, _ in explain(file)}
    assert settings["models.m.key"] == "env:K"
    assert settings["models.m.headers.X-Org"] == "env:O"
    assert settings["models.m.headers.api-key"] == "(set)"


def test_explain_without_a_file_knows_only_defaults(folder: Path) -> None:
    assert not list(folder.iterdir())
    assert {origin for _, _, origin in explain()} == {"default"}


# References.


def test_a_secret_is_read_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIG_KEY", "sk-1")
    assert secret("env:BIG_KEY") == "sk-1"


def test_a_secret_is_read_from_a_file_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-2\n")
    assert secret(f"file:{tmp_path}/key") == "sk-2"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe", b"a\nb", "ä".encode()])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match=r"the file is (empty|not text)|expected one line"):
        secret(f"file:{tmp_path}/key")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("env:NOBODY_SETS_THIS", "NOBODY_SETS_THIS is not set"),
        ("file:/nowhere/key", "No such file"),
        ("sk-live-12345", "expected a reference"),
        ("vault:a#b", "expected a reference"),
    ],
)
def test_a_reference_that_leads_nowhere_is_refused_without_showing_secrets(
    reference: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        secret(reference)
    assert "sk-live" not in raised.value.detail


def test_each_tenant_has_a_secret_of_its_own_for_its_notices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOOKS", "whsec_" + base64.b64encode(bytes(24)).decode())
    monkeypatch.setenv("ACME_HOOKS", base64.b64encode(bytes(range(64))).decode())
    config = parse({"webhooks": {"secret": "env:HOOKS", "secrets": {"acme": "env:ACME_HOOKS"}}})
    assert webhook_keys(config.webhooks) == {"default": (bytes(24),), "acme": (bytes(range(64)),)}
    assert webhook_keys(parse({}).webhooks) == {}


def test_while_one_secret_takes_the_place_of_another_both_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old, new = (base64.b64encode(bytes([byte] * 24)).decode() for byte in (1, 2))
    config = parse({"webhooks": {"secret": "env:HOOKS"}})
    monkeypatch.setenv("HOOKS", f"whsec_{new} whsec_{old}")
    assert webhook_keys(config.webhooks) == {"default": (bytes([2] * 24), bytes([1] * 24))}
    monkeypatch.setenv("HOOKS", f"{new} {old} {new}")
    with pytest.raises(ConfigError, match="or two of them"):
        webhook_keys(config.webhooks)


def test_a_schedule_may_have_a_deadline_and_a_webhook_if_its_tenant_has_a_secret() -> None:
    schedule = {"cron": "0 7 * * *", "model": "tiny", "message": "?", "deadline_s": 60}
    schedule["webhook"] = "https://receiver.example/"
    with pytest.raises(ConfigError, match=r"schedules.brief.webhook: the tenant 'default' has no"):
        parse({"schedules": {"brief": schedule}})
    found = parse({"schedules": {"brief": schedule}, "webhooks": {"secret": "env:HOOKS"}})
    assert found.schedules["brief"].deadline_s == 60


@pytest.mark.parametrize("value", ["whsec_c2hvcnQ=", "not base64 at all!", "c2hvcnQ" * 99])
def test_a_secret_that_is_none_stops_the_start_and_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HOOKS", value)
    with pytest.raises(ConfigError, match="expected whsec_ and base64 of 24 to 64") as raised:
        webhook_keys(parse({"webhooks": {"secret": "env:HOOKS"}}).webhooks)
    assert value not in raised.value.detail


def test_paths_may_name_what_is_built_in() -> None:
    assert weights_path("builtin:tiny") == DATA / "tiny.gguf"
    assert weights_path("~/a.gguf") == Path.home() / "a.gguf"
    assert (documents_path("builtin:docs") / "guarantees.md").is_file()
    assert documents_path("docs").is_absolute()


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]:0", ("::1", 0)),
        (":65535", ("127.0.0.1", 65535)),
        ("host.example:80", ("host.example", 80)),
    ],
)
def test_a_listen_address_is_host_and_port(listen: str, address: tuple[str, int]) -> None:
    assert listen_address(listen) == address


@pytest.mark.parametrize("listen", ["", "8080", "a:", "a:b", "a:-1", "a:65536", "a:1²"])
def test_a_wrong_listen_address_shows_itself(listen: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT") as raised:
        listen_address(listen)
    assert repr(listen) in raised.value.detail


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=5,
)
NAMES = st.sampled_from(["server", "models", "agents", "limits", "listen", "tiny", "engine", "x"])


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, JSON, max_size=2) | JSON, max_size=3))
def test_whatever_a_file_holds_the_answer_is_a_config_or_our_error(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(parse(raw), Config)
    except ConfigError:
        return


def test_what_an_agent_may_do_is_said_by_tool() -> None:
    agent = {"model": "tiny", "tools": ["calculate"], "permissions": {"calculate": "ask"}}
    config = parse({"agents": {"clerk": {**agent, "approval_s": 60}}})
    assert config.agents["clerk"].permissions == {"calculate": Permission.ASK}
    assert (config.agents["clerk"].approval_s, config.approvals.own) == (60, False)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"permissions": {"calculate": "maybe"}}, "expected one of allow, ask, deny"),
        ({"permissions": {"search": "ask"}}, "has 'search': expected one of its tools, calculate"),
        ({"approval_s": 0}, "agents.clerk.approval_s = 0"),
        ({"approval_s": 1e9}, "agents.clerk.approval_s"),
    ],
)
def test_a_permission_that_cannot_be_stops_the_start(settings: dict[str, Any], words: str) -> None:
    agent = {"model": "tiny", "tools": ["calculate"], **settings}
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse({"agents": {"clerk": agent}})


def test_the_built_in_agent_stays_as_long_as_its_model_and_documents_do() -> None:
    qwen = {"engine": "llama.cpp", "weights": "/models/qwen.gguf"}
    own = {"folder": "./handbook"}
    assert list(parse({}).agents) == ["assistant"]
    assert list(parse({"knowledge": {"docs": own}}).agents) == ["assistant"]
    assert list(parse({"knowledge": {"handbook": own}}).agents) == []
    assert list(parse({"models": {"qwen": qwen}}).agents) == []


@pytest.mark.parametrize("key", ["url", "rules", "key", "upstream_name"])
def test_a_key_that_the_engine_has_no_use_for_is_refused(key: str) -> None:
    model = {"engine": "llama.cpp", "weights": "m.gguf", key: "x"}
    with pytest.raises(ConfigError, match=f"models.m.{key}: engine 'llama.cpp' has no use for it"):
        parse({"models": {"m": model}})


PLAIN = {"url": "postgresql://me@db.example:5432/murmurate?sslmode=verify-full"}


def test_the_log_is_in_the_state_folder_until_a_url_is_named() -> None:
    assert log_place(parse({}).log) is None
    place = log_place(parse({"log": PLAIN}).log)
    assert place is not None
    assert (place.url, place.schema, place.password) == (PLAIN["url"], "murmurate", None)


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ({"url": "postgresql://me:s3cret@h/db"}, "it has a secret in it"),
        ({"url": "postgresql://h/db?password=s3cret"}, "it has a secret in it"),
        ({"url": "mysql://h/db"}, "expected postgresql://"),
        ({"url": "postgresql://h:0/db"}, "expected postgresql://"),
        ({"url": "postgresql://[h/db"}, "expected postgresql://"),
        ({**PLAIN, "password": "s3cret"}, "log.password: expected a reference"),
        ({"password": "env:P"}, "log.url is missing"),
        ({"schema": "other"}, "log.url is missing"),
        ({**PLAIN, "schema": "Mine; --"}, "log.schema = 'Mine; --': expected small letters"),
        ({**PLAIN, "password": ["s3cret"]}, "log.password"),
    ],
)
def test_a_log_that_cannot_be_where_it_is_said_stops_the_start(
    log: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        parse({"log": log})
    assert "s3cret" not in str(caught.value)


def test_the_secrets_of_the_log_come_by_reference_and_are_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOG_URL", "postgresql://me:s3cret@h/db")
    monkeypatch.setenv("LOG_PASSWORD", "s3cret")
    whole = log_place(parse({"log": {"url": "env:LOG_URL"}}).log)
    assert whole is not None
    assert whole.url == "postgresql://me:s3cret@h/db"
    beside = log_place(parse({"log": {**PLAIN, "password": "env:LOG_PASSWORD"}}).log)
    assert beside is not None
    assert beside.password == "s3cret"
    assert "s3cret" not in f"{whole!r} {beside!r}"
    with pytest.raises(ConfigError, match=r"log: .*NOBODY_SETS_THIS is not set"):
        log_place(parse({"log": {"url": "env:NOBODY_SETS_THIS"}}).log)
