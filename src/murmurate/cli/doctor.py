"""`murmurate doctor`: what is installed, configured and running, and what to do about the rest."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, cast

import click
from rich.console import Console

from murmurate.cli import local_checks, remote_checks
from murmurate.cli.client import (
    STRANGE,
    KeyRefusedError,
    RefusedError,
    Server,
    fetch,
    find,
    read,
    send,
)
from murmurate.cli.findings import Finding, show
from murmurate.cli.log_check import check_configured
from murmurate.cli.options import connected
from murmurate.compose import read_troubles
from murmurate.config import (
    Config,
    EmbeddingsEngine,
    Engine,
    Role,
    ServerConfig,
    documents_path,
    explain,
    load,
)
from murmurate.core.errors import MurmurateError
from murmurate.fleet.ends import TROUBLES
from murmurate.workers.state_lock import is_locked

TIMEOUT_S = 10.0
"""For each other server; they are asked side by side, so it is the time of all of them."""

SERVER_S = 5.0


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml].")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@click.option("--offline", is_flag=True, help="Ask no other server.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 300),
    default=TIMEOUT_S,
    help="Seconds that another server may take [10].",
)
@connected
def doctor(
    config: Path | None,
    *,
    as_json: bool,
    offline: bool,
    timeout_s: float,
    url: str | None,
    key: str | None,
    state: Path,
) -> None:
    """Check what is installed, configured and running, and say what to do.

    Other servers are asked for their models and for one vector, at most for one token. Exit code 1
    when something that the configuration needs is missing or broken.
    """
    found = local_checks.programs()
    try:
        loaded = load(config)
    except MurmurateError as error:
        found += local_checks.parts(EmbeddingsEngine.MINILM)
        found.append(Finding("configuration", "fail", error.detail, "correct this key"))
    else:
        found += here(loaded, state)
        found += log(loaded, state, offline=offline)
        found += elsewhere(loaded, state, timeout_s=None if offline else timeout_s)
        found += server(url, key, state, loaded.server)
        found += [
            Finding(setting, "setting", repr(value), origin)
            for setting, value, origin in explain(config)
        ]
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found], ensure_ascii=False))
    else:
        click.echo(show(found))
    sys.exit(any(finding.verdict == "fail" for finding in found))


def here(config: Config, state: Path) -> list[Finding]:
    """Look at this machine; never raises for what it finds."""
    found = local_checks.parts(config.embeddings.engine)
    for name, model in config.models.items():
        if model.engine is Engine.LLAMA_CPP:
            found.append(local_checks.weights(name, model))
        elif model.engine is Engine.SCRIPTED:
            found.append(local_checks.rules(name, model))
    if config.embeddings.url is None:
        found.append(local_checks.embedder(config, local_checks.embedded_by(state)))
    for name, collection in config.knowledge.items():
        found.append(local_checks.folder(name, documents_path(collection.folder)))
    return [*found, *local_checks.key_files(config), *local_checks.state_folder(state)]


def log(config: Config, state: Path, *, offline: bool) -> list[Finding]:
    """Look at the log, in the state folder or at its server; never raises for what it finds."""
    if offline and config.log.url is not None:
        return [Finding("log", "skipped", remote_checks.OFFLINE)]
    return [
        Finding("log", "ok" if it.is_well else "fail", it.detail, it.advice)
        for it in check_configured(config, state)
    ]


def elsewhere(config: Config, state: Path, *, timeout_s: float | None) -> list[Finding]:
    """Ask all other servers at once, with progress on a terminal; none at all without a time."""
    checks = remote_checks.checks(
        config, embedded_by=local_checks.embedded_by(state), timeout_s=timeout_s or TIMEOUT_S
    )
    if timeout_s is None:
        return [Finding(about, "skipped", remote_checks.OFFLINE) for about in checks]
    if not checks:
        return []
    waiting = list(checks)
    with Console(stderr=True).status(f"asking {', '.join(waiting)}") as status:

        def done(about: str) -> None:
            waiting.remove(about)
            status.update(f"asking {', '.join(waiting)}")

        return asyncio.run(remote_checks.asked(checks, timeout_s=timeout_s, on_done=done))


def server(
    url: str | None, key: str | None, state: Path, configured: ServerConfig
) -> list[Finding]:
    """Tell whether the server answers, and what its parts say; else whether it could start.

    A key that may not ask for all of it is told; what it may not see is left out.
    """
    refused: list[Finding] = []
    role = "" if configured.role is Role.ALL else f", role {configured.role.value}"
    is_worker = configured.role is Role.WORKER  # it answers nothing but how it is
    try:
        found = find(url, key, state)
        # While a dead server is started again and again, its socket takes whoever comes.
        if not is_worker:
            asked(found, "/v1/models", refused)
        parts = parts_of(read(send(found, "/readyz", timeout_s=SERVER_S)))
        known = {} if is_worker else asked(found, "/api/knowledge", refused)
    except MurmurateError as error:
        stopped = [Finding("server", "warn", error.detail, "murmurate up"), *processes(state)]
        return (
            stopped
            if url is not None or is_locked(state)
            else [*stopped, local_checks.port(configured.listen)]
        )
    return [
        Finding("server", "ok", f"{found.url}{role}"),
        *refused,
        *(
            Finding(f"  {name}", "ok" if state == "ready" else "fail", state)
            for name, state in parts.items()
        ),
        *by_words(known.get("collections", [])),
    ]


def asked(server: Server, path: str, refused: list[Finding]) -> dict[str, Any]:
    """Return what the server says there; nothing, and a finding, where the key may not ask."""
    try:
        return fetch(server, path, timeout_s=SERVER_S)
    except KeyRefusedError as error:
        refused.append(Finding(f"  key {path}", "warn", error.detail, "give --key one that may"))
        return {}


def by_words(collections: object) -> list[Finding]:
    """Tell in which collections search goes by words alone just now, and why."""
    if not isinstance(collections, list):
        raise RefusedError(STRANGE)
    found: list[Finding] = []
    for one in cast("list[Any]", collections):
        state = cast("dict[str, Any]", one) if isinstance(one, dict) else {}
        search = str(state.get("search", ""))
        if search.startswith("words only"):
            about = f"  search {state.get('collection')}"
            found.append(Finding(about, "warn", search, "see [embeddings]"))
    return found


def processes(state: Path) -> list[Finding]:
    """Tell what the supervisor says of its processes, where the server can't say it any more."""
    if not is_locked(state):
        return []
    return [
        Finding(f"process {name}", "fail", f"{trouble.how}; its last words: {trouble.words}")
        for name, trouble in read_troubles(state / TROUBLES).items()
    ]


def parts_of(answer: dict[str, Any]) -> dict[str, str]:
    """Return how each part of the server is."""
    parts = answer.get("parts")
    if not isinstance(parts, dict):
        raise RefusedError(STRANGE)
    return {str(name): str(how) for name, how in cast("dict[Any, Any]", parts).items()}
