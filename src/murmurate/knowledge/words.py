"""How text falls into sentences and words: the same for questions, passages and the index. Pure."""

import re
from collections.abc import Iterator

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"

_RUN = re.compile(f"[{HAN}]+|[^\\W_{HAN}]+")
_HAN_CHAR = re.compile(f"[{HAN}]")
# A full stop ends a sentence only before white space, so that `3.11` and `a.out` stay whole.
_SENTENCE_END = re.compile(r"[。！？；…]+[”’」』）)]*|[.!?][\"'”’)\]]*(?=\s)|\n[ \t]*\n")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(])(?:e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|No|Fig|approx|resp)\.$", re.IGNORECASE
)

_ABBREVIATION_CHARS_MAX = len(" approx.")

_ENGLISH = """
a about after all also am an and any anything are as at be because been before being between
both but by can could did do does doing done for from get gets give given go had has have
having he her here him his how i if in into is it its itself just kind let like may me might
mine more most much must my need no nor not of off on one only or other our out over own
please same say says shall she should so some something such t than that the their them then
there these they thing this those through to too under until up us use used using very want
was way we were what when where which while who whom whose why will with without would you
your yours s
"""
_CHINESE = """
的 了 吗 呢 吧 啊 是 在 和 与 或 及 有 我 你 他 她 它 我们 你们 他们 这 那 这个
那个 哪 哪个 哪些 哪里 什么 怎么 怎样 怎么样 如何 为什么 为何 多少 几 谁 请 请问
可以 能 能够 会 要 想 需要 应该 应当 必须 用 使用 把 被 让 给 对 从 到 向 由 以
为 于 时 时候 中 里 上 下 后 前 个 一个 一 不 没 没有 都 也 就 才 又 再 还 很 更
最 地 得 着 过 并 而 但 如果 那么 因为 所以 哪种 哪一个 叫 做 去 来 进行 是否
什么样 之 其 该 所 某 某个 其中
"""
_STOP_WORDS = frozenset(_ENGLISH.split() + _CHINESE.split())


def is_mostly_latin(text: str) -> bool:
    """Say whether vectors of an English model mean anything for this text."""
    han = len(_HAN_CHAR.findall(text))
    letters = sum(char.isalpha() for char in text)
    ascii_letters = sum(char.isascii() and char.isalpha() for char in text)
    # One Han character carries about as much as an English syllable.
    return letters > 0 and han * 3 < ascii_letters and ascii_letters * 2 > letters


def runs(text: str) -> Iterator[tuple[str, bool]]:
    """Yield the runs of letters and digits, lower-cased, and whether each is Chinese."""
    for match in _RUN.finditer(text):
        run = match.group()
        yield run.lower(), _HAN_CHAR.match(run) is not None


def is_stop(word: str) -> bool:
    """Say whether the word tells nothing about what is asked."""
    return word in _STOP_WORDS


def stems(text: str) -> list[str]:
    """Return the words of a text: English ones as stems, Chinese ones as pairs of characters.

    For the index Chinese needs a dictionary; pairs are enough to compare sentences of a passage.
    """
    found: list[str] = []
    for run, chinese in runs(text):
        if not chinese:
            if not is_stop(run):
                found.append(stem(run))
        elif len(run) == 1:
            found.append(run)
        else:
            found.extend(run[at : at + 2] for at in range(len(run) - 1))
    return found


def stem(word: str) -> str:
    """Return a lower-case English word without its common endings; others as they are."""
    if len(word) < 4 or not word.isascii() or not word.isalpha():
        return word
    word = _singular(word)
    for ending, replacement, rest_min in _ENDINGS:
        rest = word[: -len(ending)]
        if word.endswith(ending) and len(rest) >= rest_min and re.search("[aeiouy]", rest):
            word = rest + replacement
            break
    if len(word) > 3 and word[-1] == "e":
        word = word[:-1]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiou":
        word = word[:-1]
    return word


# Ending, what stands for it, and how many letters must be left: long endings first.
_ENDINGS = (
    ("ically", "ic", 3),
    ("ations", "", 4),
    ("ation", "", 4),
    ("ments", "", 5),
    ("ment", "", 5),
    ("ness", "", 4),
    ("ally", "al", 3),
    ("ing", "", 3),
    ("ied", "y", 2),
    ("ed", "", 3),
    ("ion", "", 5),
    ("ly", "", 4),
    ("er", "", 5),
)


def _singular(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def sentences(text: str) -> list[tuple[int, int]]:
    """Return the spans of the sentences, English and Chinese, without the white space around."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        dot_end = match.start() + 1
        near = max(start, dot_end - _ABBREVIATION_CHARS_MAX)
        if text[match.start()] == "." and _ABBREVIATION.search(text, near, dot_end):
            continue
        spans.extend(stripped(text, start, match.end()))
        start = match.end()
    spans.extend(stripped(text, start, len(text)))
    return spans


def stripped(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the span without white space at its ends, or nothing when nothing is left."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return [(start, end)] if start < end else []
