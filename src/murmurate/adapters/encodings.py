"""Bytes into text: which encoding they are in, as far as that can be told with certainty."""

import codecs
import re

from murmurate.core.errors import DocumentUnreadableError

_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE_BYTES = 4096


def decoded(content: bytes, named: str | None = None) -> str:
    """Return the bytes as text, its lines ended as in Unix.

    By the byte order mark, else in the encoding that the file names itself, else as UTF-8, as
    UTF-16 without a mark, or as Chinese GB18030. `DocumentUnreadableError`: none of these fits.
    """
    for mark, encoding in _BOMS:
        if content.startswith(mark):
            return _clean(content[len(mark) :], (encoding,))
    if named is not None:
        return _clean(content, (named,))
    return _clean(content, (_unmarked_utf16(content) or "utf-8", "gb18030"))


def _unmarked_utf16(content: bytes) -> str | None:
    """Return the byte order of mostly Latin UTF-16: every other byte is zero, the rest are not."""
    sample = content[:_SAMPLE_BYTES]
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    if len(sample) < 8 or len(content) % 2:
        return None
    if second * 2 > half and not first:
        return "utf-16-le"
    return "utf-16-be" if first * 2 > half and not second else None


def _clean(content: bytes, encodings: tuple[str, ...]) -> str:
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if _CONTROL.search(text):
            raise DocumentUnreadableError("binary, not text")
        if encoding == "gb18030" and len(encodings) > 1 and not _is_chinese(text):
            break
        return text.replace("\r\n", "\n").replace("\r", "\n")
    raise DocumentUnreadableError(f"not valid {' or '.join(encodings)} text")


def _is_chinese(text: str) -> bool:
    """Nearly any bytes are valid GB18030; only common Chinese characters make it believable."""
    beyond = [char for char in text if not char.isascii()]
    common = sum(
        "\u4e00" <= char <= "\u9fa5" or char in "，。、；：？！“”‘’（）《》—…　" for char in beyond
    )
    return common * 10 >= len(beyond) * 9
