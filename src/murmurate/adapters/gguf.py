"""Reads what stands before the weights of a GGUF file, and says why a file can't be served.

llama.cpp itself says little more than "failed to load"; this finds the usual reasons beforehand.
Nothing is copied but the header: a file of 40 GB takes no longer than its vocabulary.
"""

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from murmurate.core.errors import ConfigError

MAGIC = b"GGUF"
MAGIC_BIG_ENDIAN = b"FUGG"
VERSIONS = (2, 3)
COUNT_MAX = 1 << 20
"""Of metadata keys and of tensors; the largest models have some thousands."""
ARRAY_MAX = 1 << 24
ALIGNMENT_DEFAULT = 32
KV_BYTES = 2
"""llama.cpp keeps keys and values as F16."""

# Value types of the metadata: their `struct` format; 8 is a string, 9 an array.
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")

_TENSOR_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Name, elements of a block and bytes of a block. A newer type is served, but not measured."""

_SPLIT = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_NO_CHAT = {
    "clip": "it is the projector of a vision model; name the model's own file",
    "bert": "it makes embeddings and can't chat; serve it elsewhere and name it in [embeddings]",
    "nomic-bert": "it makes embeddings and can't chat; serve it elsewhere, see [embeddings]",
}
_TYPES_NOT_SERVED = {
    "adapter": "it is a LoRA adapter; merge it into its model first",
    "mmproj": "it is the projector of a vision model; name the model's own file",
    "imatrix": "it is an importance matrix; name the model's own file",
    "vocab": "it is a vocabulary without weights; name the model's own file",
}

Value = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. `files` are all parts of a split one, in order."""

    files: tuple[Path, ...]
    size_bytes: int
    architecture: str
    parameters: int
    quantisation: str
    context_tokens: int | None
    """What the model was trained for; None where the file does not say."""
    has_chat_template: bool
    kv_bytes_per_token: int
    """The most that a token of context takes in memory; 0 where the file does not say."""

    @property
    def summary(self) -> str:
        """The header in a few words."""
        trained = f", {self.context_tokens} tokens" if self.context_tokens else ""
        return (
            f"{self.architecture}, {billions(self.parameters)} parameters, {self.quantisation}, "
            f"{gigabytes(self.size_bytes)}{trained}"
        )


def read_header(path: Path) -> Header:
    """Return the header of a model, all its parts checked.

    `ConfigError` says what the file is instead, what it lacks, and what to do.
    """
    parts = [_Part(file) for file in _files(path)]
    first = parts[0]
    name = first.text("general.architecture")
    kind = first.text("general.type") or "model"
    if reason := _TYPES_NOT_SERVED.get(kind) or _NO_CHAT.get(name):
        raise ConfigError(f"{path} can't be served: {reason}")
    if not name:
        raise ConfigError(f"{path} names no architecture: it is no language model")
    expected = first.number("split.count") or 1
    if expected != len(parts):
        raise ConfigError(f"{path} is one of {expected} parts: keep the names that they came with")
    quantisations: Counter[str] = Counter()
    for part in parts:
        quantisations.update(part.elements)
    return Header(
        files=tuple(part.path for part in parts),
        size_bytes=sum(part.size_bytes for part in parts),
        architecture=name,
        parameters=quantisations.total(),
        quantisation=quantisations.most_common(1)[0][0] if quantisations else "unknown",
        context_tokens=first.number(f"{name}.context_length"),
        has_chat_template="tokenizer.chat_template" in first.values,
        kv_bytes_per_token=_kv_bytes(first, name),
    )


def check_fits(header: Header, *, memory_bytes: int | None) -> None:
    """Raise `ConfigError` when the weights alone are larger than the memory."""
    if memory_bytes is not None and header.size_bytes > memory_bytes:
        raise ConfigError(
            f"{header.files[0]} has {gigabytes(header.size_bytes)} of weights, but there are "
            f"{gigabytes(memory_bytes)} of memory: take a smaller model or quantisation"
        )


def context_fitting(header: Header, asked: int | None, *, default: int) -> int:
    """Return the context of one slot; `ConfigError` when more is asked than the model can use."""
    trained = header.context_tokens
    if asked is None:
        return default if trained is None else min(default, trained)
    if trained is not None and asked > trained:
        raise ConfigError(
            f"context_tokens = {asked}, but {header.files[0]} was trained for "
            f"{trained}; expected at most that"
        )
    return asked


def gigabytes(size_bytes: int) -> str:
    """Return a size for people."""
    if size_bytes < 1e9:
        return f"{size_bytes / 1e6:.1f} MB"
    return f"{size_bytes / 1e9:.1f} GB"


def billions(count: int) -> str:
    """Return a number of parameters for people."""
    return f"{count / 1e6:.1f} M" if count < 1e9 else f"{count / 1e9:.1f} B"


def _files(path: Path) -> list[Path]:
    """Return the file, or all parts of a split one; refuse what is none."""
    if path.is_dir():
        raise ConfigError(_about_folder(path))
    named = _SPLIT.fullmatch(path.name)
    if not path.is_file():
        split = sorted(path.parent.glob(f"{path.stem}-00001-of-*.gguf"))
        near = f"; its first part is there: {split[0].name}" if split else ": check the path"
        raise ConfigError(f"{path} is missing{near}")
    if named is None:
        return [path]
    count = int(named["count"])
    if int(named["number"]) != 1:
        first = f"{named['stem']}-00001-of-{named['count']}.gguf"
        raise ConfigError(f"{path} is a later part of a split model: name the first, {first}")
    names = [f"{named['stem']}-{at:05}-of-{count:05}.gguf" for at in range(1, count + 1)]
    files = [path.with_name(name) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ConfigError(f"{path} lacks {len(missing)} of its {count} parts: {shown}")
    return files


def _about_folder(path: Path) -> str:
    """Say what to do about a folder in the place of a file."""
    files = sorted(path.glob("*.gguf"))
    if files:
        return f"{path} is a folder: name a file in it, such as {files[0].name}"
    if next(path.glob("*.safetensors"), None) or (path / "config.json").is_file():
        return (
            f"{path} is a folder of safetensors, which llama.cpp can't read: convert it with "
            "llama.cpp's convert_hf_to_gguf.py, take a GGUF of the same model, or serve it with "
            "another server and name its url"
        )
    return f"{path} is a folder without a GGUF file: name the file itself"


def _about_stranger(path: Path, start: bytes) -> str:
    """Say what a file is that is no GGUF, where it can be seen."""
    if start.startswith(MAGIC_BIG_ENDIAN):
        return f"{path} is a GGUF file for big-endian machines: take the usual one"
    if start.startswith(b"version https://git-lfs"):
        return f"{path} is only a pointer of Git LFS: run `git lfs pull` beside it"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"{path} is a web page: its download went wrong; download the file itself"
    if path.suffix == ".safetensors":
        return f"{path} is a safetensors file: convert the model to GGUF, or take a GGUF of it"
    if not start:
        return f"{path} is empty: download it again"
    return f"{path} is no GGUF file: expected one, such as model-q4_k_m.gguf"


def _kv_bytes(part: "_Part", name: str) -> int:
    """Return the bytes of keys and values of a token, at most: some layers may keep fewer."""
    layers = part.number(f"{name}.block_count") or 0
    heads = part.number(f"{name}.attention.head_count") or 0
    width = part.number(f"{name}.embedding_length") or 0
    kv_heads = part.number(f"{name}.attention.head_count_kv") or heads
    head = width // heads if heads else 0
    keys = part.number(f"{name}.attention.key_length") or head
    values = part.number(f"{name}.attention.value_length") or head
    return layers * kv_heads * (keys + values) * KV_BYTES


class _Part:
    """One file: its metadata, its tensors by type, and whether all of them are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size
        self.values: dict[str, Value] = {}
        self.elements: Counter[str] = Counter()
        try:
            with path.open("rb") as file:
                start = file.read(64)
                if start[:4] != MAGIC:
                    raise ConfigError(_about_stranger(path, start))
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    self._read(_Reader(data))
        except OSError as cause:
            raise ConfigError(f"{path} can't be read: {cause.strerror}") from cause
        except (struct.error, IndexError, OverflowError) as cause:
            raise ConfigError(
                f"{path} ends within its header, after {self.size_bytes} bytes: download it again"
            ) from cause

    def text(self, key: str) -> str:
        """Return a text of the metadata, empty where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """Return a number of the metadata. Of numbers by layer the largest one is kept."""
        value = self.values.get(key)
        return value if isinstance(value, int) else None

    def _read(self, reader: "_Reader") -> None:
        reader.at = len(MAGIC)
        version = reader.number("I")
        if version not in VERSIONS:
            endian = ": it is for big-endian machines" if version & 0xFFFF == 0 else ""
            raise ConfigError(
                f"{self.path} has version {version} of GGUF{endian}; expected 2 or 3: take a file "
                "made by a current converter"
            )
        tensors, keys = reader.number("Q"), reader.number("Q")
        if max(tensors, keys) > COUNT_MAX:
            raise ConfigError(f"{self.path} is damaged: it claims {max(tensors, keys)} entries")
        for _ in range(keys):
            key = reader.text()
            value = self._value(reader, reader.number("I"))
            if value is not None:
                self.values[key] = value
        ends = [self._tensor(reader) for _ in range(tensors)]
        alignment = max(self.number("general.alignment") or ALIGNMENT_DEFAULT, 1)
        data_bytes = -(-reader.at // alignment) * alignment
        needed = data_bytes + max(ends, default=0)
        if needed > self.size_bytes:
            raise ConfigError(
                f"{self.path} is cut: it has {self.size_bytes} of {needed} bytes; download it again"
            )

    def _value(self, reader: "_Reader", kind: int) -> Value | None:
        """Return a value; None for an array, save that numbers by layer become their largest."""
        if kind in _SCALARS:
            return reader.number(_SCALARS[kind])
        if kind == _STRING:
            return reader.text()
        if kind != _ARRAY:
            raise ConfigError(f"{self.path} is damaged: metadata of the unknown type {kind}")
        kind, count = reader.number("I"), reader.number("Q")
        if count > ARRAY_MAX or kind == _ARRAY:
            raise ConfigError(f"{self.path} is damaged: a list of {count} entries")
        if kind in _SCALARS:
            numbers = reader.numbers(_SCALARS[kind], count)
            return max(numbers, default=0)
        reader.skip_texts(count)
        return None

    def _tensor(self, reader: "_Reader") -> int:
        """Note a tensor's elements; return where it ends, counted from where the tensors begin."""
        reader.skip_texts(1)
        shape = reader.numbers("Q", min(reader.number("I"), 8))
        kind, offset = reader.number("I"), reader.number("Q")
        elements = prod(shape)
        name, block, block_bytes = _TENSOR_TYPES.get(kind, (f"type {kind}", 1, 0))
        self.elements[name] += elements
        return offset + elements // block * block_bytes


class _Reader:
    """Reads numbers and texts, one behind the other. `struct.error` at the end of the file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self.at = 0

    def number(self, form: str) -> int:
        return self.numbers(form, 1)[0]

    def numbers(self, form: str, count: int) -> tuple[int, ...]:
        layout = f"<{count}{form}"
        found = struct.unpack_from(layout, self._data, self.at)
        self.at += struct.calcsize(layout)
        return found

    def text(self) -> str:
        length = self.number("Q")
        first = self.at
        self._skip(length)
        return self._data[first : self.at].decode(errors="replace")

    def skip_texts(self, count: int) -> None:
        """Pass over texts. A vocabulary has hundreds of thousands, so nothing else is done here."""
        data, at, length_at = self._data, self.at, _LENGTH.unpack_from
        for _ in range(count):
            at += _LENGTH.size + length_at(data, at)[0]
        self.at = at
        self._skip(0)

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self._data):
            raise IndexError(self.at)
