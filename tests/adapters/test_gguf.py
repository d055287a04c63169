"""A GGUF file says what it is; whatever else stands in its place is told with what to do."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from murmurate.adapters.gguf import (
    Header,
    check_fits,
    context_fitting,
    read_header,
)
from murmurate.config import weights_path
from murmurate.core.errors import ConfigError

TINY = weights_path("builtin:tiny")
Value = int | str | list[int] | list[str]


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def value(found: Value) -> bytes:
    match found:
        case int():
            return struct.pack("<II", 4, found)
        case str():
            return struct.pack("<I", 8) + text(found)
        case list():
            kind = 8 if found and isinstance(found[0], str) else 4
            pieces = [
                text(piece) if isinstance(piece, str) else struct.pack("<I", piece)
                for piece in found
            ]
            return struct.pack("<IIQ", 9, kind, len(found)) + b"".join(pieces)


QWEN: dict[str, Value] = {
    "general.architecture": "qwen3",
    "qwen3.context_length": 4096,
    "qwen3.block_count": 2,
    "qwen3.embedding_length": 64,
    "qwen3.attention.head_count": 4,
    "qwen3.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "ü"],
    "tokenizer.chat_template": "{{ messages }}",
}


def gguf(metadata: dict[str, Value], *, version: int = 3, kind: int = 1, cut: int = 0) -> bytes:
    """Return a file with one tensor of 8 x 32 elements."""
    body = b"GGUF" + struct.pack("<IQQ", version, 1, len(metadata))
    body += b"".join(text(key) + value(found) for key, found in metadata.items())
    body += text("w") + struct.pack("<IQQIQ", 2, 8, 32, kind, 0)
    body += bytes(-len(body) % 32) + bytes(512)
    return body[: len(body) - cut]


def written(folder: Path, content: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as raised:
        read_header(path)
    return raised.value.detail


def test_the_model_of_the_package_says_what_it_is() -> None:
    header = read_header(TINY)
    assert (header.architecture, header.quantisation) == ("qwen3", "Q8_0")
    assert header.size_bytes == TINY.stat().st_size
    assert header.has_chat_template
    assert header.context_tokens is not None
    assert header.summary.startswith("qwen3, ")


def test_a_header_is_read_to_its_end(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, gguf(QWEN)))
    assert header == Header(
        files=(tmp_path / "m.gguf",),
        size_bytes=(tmp_path / "m.gguf").stat().st_size,
        architecture="qwen3",
        parameters=256,
        quantisation="F16",
        context_tokens=4096,
        has_chat_template=True,
        kv_bytes_per_token=2 * 2 * (16 + 16) * 2,
    )


def test_what_a_header_does_not_say_is_not_guessed(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, gguf({"general.architecture": "new"}, version=2)))
    assert header.context_tokens is None
    assert not header.has_chat_template
    assert header.kv_bytes_per_token == 0


def test_heads_that_differ_by_layer_count_as_the_most(tmp_path: Path) -> None:
    metadata = {**QWEN, "qwen3.attention.head_count_kv": [0, 4, 0, 4]}
    header = read_header(written(tmp_path, gguf(metadata)))
    assert header.kv_bytes_per_token == 2 * 4 * (16 + 16) * 2


def test_a_type_of_weights_that_is_newer_than_this_reader_is_not_refused(tmp_path: Path) -> None:
    assert read_header(written(tmp_path, gguf(QWEN, kind=999))).quantisation == "type 999"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.gguf", b"", "is empty: download it again"),
        ("m.gguf", b"not it at all", "is no GGUF file: expected one, such as"),
        ("m.gguf", b"version https://git-lfs.github.com/spec/v1", "run `git lfs pull`"),
        ("m.gguf", b"\n<!DOCTYPE html><html>", "is a web page: its download went wrong"),
        ("m.safetensors", b"\x10\0\0\0\0\0\0\0{}", "convert the model to GGUF"),
        ("m.gguf", b"FUGG" + bytes(60), "big-endian machines: take the usual one"),
        ("m.gguf", gguf(QWEN, version=1), "has version 1 of GGUF; expected 2 or 3"),
        ("m.gguf", gguf(QWEN, version=3 << 24), "it is for big-endian machines"),
        ("m.gguf", gguf(QWEN, cut=1), "is cut: it has 959 of 960 bytes; download it again"),
        ("m.gguf", gguf(QWEN)[:40], "ends within its header, after 40 bytes"),
        ("m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "is damaged: it claims"),
        ("m.gguf", gguf({"a": 1}), "names no architecture"),
        ("m.gguf", gguf({"general.architecture": "clip"}), "projector of a vision model"),
        ("m.gguf", gguf({"general.architecture": "bert"}), "it makes embeddings and can't chat"),
        ("m.gguf", gguf({**QWEN, "general.type": "adapter"}), "merge it into its model first"),
        ("m.gguf", gguf({**QWEN, "split.count": 3}), "is one of 3 parts: keep the names"),
    ],
)
def test_what_is_no_model_is_told_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = written(tmp_path, content, name)
    detail = refusal(path)
    assert detail.startswith(str(path))
    assert words in detail


@given(st.integers(0, 600), st.binary(max_size=16))
def test_a_damaged_file_is_refused_or_read_and_never_a_crash(at: int, noise: bytes) -> None:
    from tempfile import TemporaryDirectory  # noqa: PLC0415 - hypothesis shares no fixtures

    whole = gguf(QWEN)
    damaged = whole[:at] + noise + whole[at + len(noise) :]
    with TemporaryDirectory() as folder:
        path = written(Path(folder), damaged)
        try:
            header = read_header(path)
        except ConfigError as error:
            detail = error.detail
        else:
            detail = str(header.files[0])
        assert str(path) in detail


def test_a_missing_file_and_a_split_one_by_its_plain_name(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.gguf").endswith("m.gguf is missing: check the path")
    written(tmp_path, b"", "m-00001-of-00002.gguf")
    assert "its first part is there: m-00001-of-00002.gguf" in refusal(tmp_path / "m.gguf")


def test_a_split_model_is_all_its_parts(tmp_path: Path) -> None:
    first = written(tmp_path, gguf({**QWEN, "split.count": 2}), "m-00001-of-00002.gguf")
    assert "lacks 1 of its 2 parts: m-00002-of-00002.gguf" in refusal(first)
    second = written(tmp_path, gguf({"split.count": 2}), "m-00002-of-00002.gguf")
    header = read_header(first)
    assert header.files == (first, second)
    assert header.parameters == 512
    assert header.size_bytes == first.stat().st_size + second.stat().st_size
    assert "name the first, m-00001-of-00002.gguf" in refusal(second)
    second.write_bytes(gguf({"split.count": 2}, cut=9))
    assert "m-00002-of-00002.gguf is cut" in refusal(first)


def test_a_folder_is_told_by_what_is_in_it(tmp_path: Path) -> None:
    assert "a folder without a GGUF file" in refusal(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "convert it with llama.cpp's convert_hf_to_gguf.py" in refusal(tmp_path)
    written(tmp_path, gguf(QWEN), "b.gguf")
    assert "name a file in it, such as b.gguf" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("trained", "asked", "fitting"),
    [(8192, None, 4096), (2048, None, 2048), (None, None, 4096), (8192, 8192, 8192)],
)
def test_the_context_is_what_fits(
    tmp_path: Path, trained: int | None, asked: int | None, fitting: int
) -> None:
    metadata: dict[str, Value] = {"general.architecture": "a"}
    if trained is not None:
        metadata["a.context_length"] = trained
    header = read_header(written(tmp_path, gguf(metadata)))
    assert context_fitting(header, asked, default=4096) == fitting


def test_more_context_than_a_model_was_trained_for_is_refused_with_both_numbers() -> None:
    header = read_header(TINY)
    with pytest.raises(ConfigError, match=r"context_tokens = 100000, but .* trained for \d+"):
        context_fitting(header, 100_000, default=4096)


def test_weights_larger_than_the_memory_are_refused_with_both_numbers(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, gguf(QWEN)))
    check_fits(header, memory_bytes=header.size_bytes)
    check_fits(header, memory_bytes=None)
    with pytest.raises(ConfigError, match=r"has 0.0 MB of weights, but there are 0.0 MB of mem"):
        check_fits(header, memory_bytes=header.size_bytes - 1)
