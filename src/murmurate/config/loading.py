"""From a TOML file and the environment to a checked `Config`; every refusal names the key."""

import copy
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin

import msgspec

from murmurate.config.checks import NEEDS, check
from murmurate.config.models import EmbeddingsConfig, EmbeddingsEngine, ModelConfig
from murmurate.config.references import is_reference
from murmurate.config.tree import SECTIONS, TABLES, Config
from murmurate.core.errors import ConfigError

FILE_DEFAULT = Path("murmurate.toml")
ENVIRONMENT_PREFIX = "MURMURATE_"
_T = TypeVar("_T")
_PATHS = {
    "models": ("weights", "rules", "ca_file"),
    "embeddings": ("ca_file",),
    "knowledge": ("folder",),
}
"""What is read from disk. `server.state` is not: it begins where murmurate is started."""
_SECRETS = {"key", "redis_url", "headers", "proxy", "password", "secret", "secrets"}
"""Keys whose value may be a secret that was put there by mistake: it is never shown."""


def load(path: Path | None = None) -> Config:
    """Read the file (default: ./murmurate.toml if there is one), then the environment over it."""
    if path is not None and not path.is_file():
        raise ConfigError(f"--config {path}: no such file")
    path = path or FILE_DEFAULT
    raw: dict[str, Any] = {}
    if path.is_file():
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise ConfigError(f"{path} is not valid TOML: {cause}") from cause
        _anchor(raw, path.parent)
    return parse(raw, os.environ)


def _anchor(raw: Mapping[str, Any], folder: Path) -> None:
    """Let the paths that a file names begin at its own folder, wherever murmurate was started."""
    for place, key in _paths_in(raw):
        path = place[key]
        if isinstance(path, str) and not path.startswith(("builtin:", "~")):
            place[key] = str(folder / path)


def _paths_in(raw: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield the tables of a decoded file that have a path to read, and its key."""
    for section, keys in _PATHS.items():
        table = raw.get(section)
        if not isinstance(table, dict):
            continue
        found = cast("dict[str, Any]", table)
        for place in [found] if section in SECTIONS else list(found.values()):
            if isinstance(place, dict):
                yield from ((cast("dict[str, Any]", place), key) for key in keys if key in place)


def parse(raw: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Config:
    """Check a decoded file, with the `MURMURATE_SECTION__KEY` variables laid over it."""
    built_in = {name: msgspec.to_builtins(getattr(Config(), name)) for name in TABLES}
    tree = _overlay({**built_in, **raw}, environment or {})
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if key in SECTIONS:
            values[key] = _section(key, value, SECTIONS[key])
        elif key in TABLES:
            if not isinstance(value, dict):
                raise ConfigError(f"{key} = {value!r}: expected a table, such as [{key}.NAME]")
            table = cast("dict[str, Any]", value)
            values[key] = {
                name: _section(f"{key}.{name}", section, TABLES[key])
                for name, section in table.items()
            }
        else:
            known = ", ".join([*SECTIONS, *TABLES])
            raise ConfigError(f"{key}: no such section; expected one of {known}")
    config = Config(**values)
    if "agents" not in raw:  # the built-in ones stay where the file has not replaced what they need
        agents = {
            name: agent
            for name, agent in config.agents.items()
            if agent.model in config.models and set(agent.knowledge) <= set(config.knowledge)
        }
        config = msgspec.structs.replace(config, agents=agents)
    check(config)
    return config


def explain(path: Path | None = None) -> list[tuple[str, Any, str]]:
    """Return every setting as (key, value, origin): the default, the file, or the environment."""
    effective = load(path)
    file = path or FILE_DEFAULT
    raw = tomllib.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    from_file = set(_flat(raw))
    from_environment = set(_flat(_overlay({}, os.environ)))
    settings: list[tuple[str, Any, str]] = []
    for key, value in _flat(msgspec.to_builtins(effective)).items():
        if key in from_environment:
            origin = "environment"
        else:
            origin = str(file) if key in from_file else "default"
        settings.append((key, _shown(key, value), origin))
    return settings


def _shown(key: str, value: Any) -> Any:  # noqa: ANN401 - as it came
    """Return a setting's value for people; of headers only references, for the rest may be keys."""
    if ".headers." in key and not is_reference(str(value)):
        return "(set)"
    return value


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as `section.name.key` pairs."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flat(cast("dict[str, Any]", value), f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _overlay(raw: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Return a copy of `raw` with the environment's values in their places."""
    tree: dict[str, Any] = copy.deepcopy(dict(raw))
    for name in sorted(environment):
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        *path, last = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        place = tree
        for step in path:
            below = place.setdefault(step, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{name}: {step} is a value in the file, not a table")
            place = cast("dict[str, Any]", below)
        place[last] = _value(environment[name])
    return tree


def _value(text: str) -> Any:  # noqa: ANN401 - a TOML value has any of TOML's types
    """Read a variable as a TOML value where it is one (`8`, `true`, `["a"]`), else as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _section(where: str, raw: Any, kind: type[_T]) -> _T:  # noqa: ANN401 - not yet checked
    """Convert one table, or say which key of it is wrong."""
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} = {raw!r}: expected a table, [{where}]")
    table = _with_engine(cast("dict[str, Any]", raw), kind)
    try:
        return msgspec.convert(table, kind)
    except msgspec.ValidationError as cause:
        message, _, place = str(cause).partition(" - at `$.")
        key = place.rstrip("`")
        name = key.partition("[")[0]
        where = f"{where}.{key}" if key else where
        shown = f" = {table[name]!r}" if name and name not in _SECRETS else ""
        raise ConfigError(f"{where}{shown}: {message}{_choices(message, kind, name)}") from cause


def _with_engine(table: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return the table with the engine that it implies: one line, `weights` or `url`, is enough."""
    if kind is EmbeddingsConfig and "url" in table:
        return {"engine": EmbeddingsEngine.OPENAI.value, **table}
    if kind is ModelConfig:
        for engine, key in NEEDS.items():
            if key in table:
                return {"engine": engine.value, **table}
    return table


def _choices(message: str, kind: type[Any], name: str) -> str:
    """Return what msgspec leaves unsaid: the values of an enum, or the keys of a section."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    if message.startswith("Invalid enum value"):
        wanted = types[name]
        choices = get_args(wanted)[-1] if get_origin(wanted) is dict else wanted
        return f"; expected one of {', '.join(choice.value for choice in choices)}"
    if message.startswith("Object contains unknown field"):
        return f"; expected one of {', '.join(types)}"
    return ""
