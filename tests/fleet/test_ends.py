"""The words for how a process ended."""

import pytest

from murmurate.fleet.ends import WORDS_CHARS_MAX, End, last_words, told


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End(0), "exited with 0"),
        (End(1), "exited with 1"),
        (End(-15), "was killed by signal 15"),
        (End(-11), "was killed by signal 11"),
        (End(-9), "was killed by signal 9 (kill -9, or out of memory)"),
        (End(-9, is_system_short=True), "was killed by signal 9: the system was out of memory"),
        (
            End(-6),
            "was killed by signal 6 (a fault of its own, or out of memory: see memory_bytes_max)",
        ),
        (End(-9, silent_s=15.2), "had said nothing for 15 s and was killed"),
    ],
)
def test_an_end_says_what_it_may_come_from(end: End, words: str) -> None:
    assert told(end) == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"Traceback\n  File x\nMemoryError\n\n", "MemoryError"),
        (b"half a line", "half a line"),
        (b"\xff\x1b[31mred\n", "\ufffd [31mred"),
        (b"x" * 1000, "x" * WORDS_CHARS_MAX),
    ],
)
def test_the_last_words_are_one_line_that_any_terminal_can_show(text: bytes, expected: str) -> None:
    assert last_words(text) == expected
