"""Arithmetic in the words of a person, beside the expression that a calculator takes."""

import random
from typing import Final

from words import WORDINGS, is_held_out, words

_SYMBOLS: Final = ("+", "-", "*", "/")
_SHOWN: Final = {
    "+": ("+", "+", "+", "plus", "added to"),
    "-": ("-", "-", "-", "minus", "−", "less"),
    "*": ("*", "*", "×", "x", "times", "multiplied by", "·"),
    "/": ("/", "/", "÷", "divided by", "over"),
    "**": ("**", "^", "to the power of", "to the power"),
    "%": ("%", "mod", "modulo"),
}
_SHOWN_CHINESE: Final = {
    "+": ("加", "加上", "+"),
    "-": ("减", "减去", "-"),
    "*": ("乘", "乘以", "乘", "×", "*"),
    "/": ("除以", "÷", "/"),
    "**": ("的{b}次方",),
    "%": ("除以{b}的余数", "模"),
}
_PHRASED: Final = (
    ("sum of {a} and {b}", "{a} + {b}"),
    ("the sum of {a}, {b} and {c}", "{a} + {b} + {c}"),
    ("the product of {a} and {b}", "{a} * {b}"),
    ("the difference between {a} and {b}", "{a} - {b}"),
    ("the difference of {a} and {b}", "{a} - {b}"),
    ("the quotient of {a} and {b}", "{a} / {b}"),
    ("the square root of {a}", "{a} ** 0.5"),
    ("square root of {a}", "{a} ** 0.5"),
    ("sqrt({a})", "{a} ** 0.5"),
    ("{a} squared", "{a} ** 2"),
    ("the square of {a}", "{a} ** 2"),
    ("{a} cubed", "{a} ** 3"),
    ("the remainder of {a} divided by {b}", "{a} % {b}"),
    ("the average of {a} and {b}", "({a} + {b}) / 2"),
    ("the average of {a}, {b} and {c}", "({a} + {b} + {c}) / 3"),
    ("the mean of {a} and {b}", "({a} + {b}) / 2"),
    ("half of {a}", "{a} / 2"),
    ("a third of {a}", "{a} / 3"),
    ("a quarter of {a}", "{a} / 4"),
    ("twice {a}", "{a} * 2"),
    ("double {a}", "{a} * 2"),
    ("{p}% of {a}", "{a} * {p} / 100"),
    ("{p}% of {a}", "{a} * {p} / 100"),
    ("{p} % of {a}", "{a} * {p} / 100"),
    ("{p} percent of {a}", "{a} * {p} / 100"),
    ("{p} per cent of {a}", "{a} * {p} / 100"),
)
_PHRASED_CHINESE: Final = (
    ("{a}和{b}的和", "{a} + {b}"),
    ("{a}与{b}的积", "{a} * {b}"),
    ("{a}和{b}的差", "{a} - {b}"),
    ("{a}的平方", "{a} ** 2"),
    ("{a}的平方根", "{a} ** 0.5"),
    ("{a}的{n}次方", "{a} ** {n}"),
    ("{a}的一半", "{a} / 2"),
    ("{a}的百分之{p}", "{a} * {p} / 100"),
    ("{a}的{p}%", "{a} * {p} / 100"),
    ("{a}和{b}的平均数", "({a} + {b}) / 2"),
)
_ORDERED: Final = (
    ("add {a} and {b}", "{a} + {b}"),
    ("add {a} to {b}", "{a} + {b}"),
    ("Add up {a}, {b} and {c}.", "{a} + {b} + {c}"),
    ("subtract {a} from {b}", "{b} - {a}"),
    ("Subtract {a} from {b}.", "{b} - {a}"),
    ("multiply {a} by {b}", "{a} * {b}"),
    ("Multiply {a} and {b}", "{a} * {b}"),
    ("divide {a} by {b}", "{a} / {b}"),
    ("Please divide {a} by {b}.", "{a} / {b}"),
    ("can you add {a} and {b}?", "{a} + {b}"),
    ("Could you multiply {a} by {b}?", "{a} * {b}"),
    ("square {a}", "{a} ** 2"),
    ("How many times does {b} go into {a}?", "{a} / {b}"),
    ("raise {a} to the power of {n}", "{a} ** {n}"),
)
_VERBS: Final = tuple(WORDINGS["verbs"]["english"].split())
_NAMES: Final = tuple(WORDINGS["numbers"]["english"].split())


def arithmetic(r: random.Random, held_out: bool = False) -> tuple[str, str]:
    """Return what is said and the expression it means."""
    kind = r.random()
    chinese = r.random() < 0.18
    if kind < 0.1 and not chinese:
        said, expression = _filled(r, r.choice(_ORDERED), held_out)
        return _cased(r, said), expression
    if kind < 0.25:
        said, expression = _filled(r, r.choice(_PHRASED_CHINESE if chinese else _PHRASED), held_out)
    elif kind < 0.33:
        said, expression = _power_or_rest(r, chinese, held_out)
    elif kind < 0.4 and not chinese:
        said, expression = _in_words(r)
    else:
        said, expression = _with_operators(r, chinese, held_out)
    if r.random() < 0.25 and not held_out:
        if chinese:
            return _surrounded_chinese(r, said), expression
        return _cased(r, _surrounded(r, said)), expression
    asked = r.choice(_templates("chinese" if chinese else "english", held_out)).format(e=said)
    return (asked if chinese else _cased(r, asked)), expression


def _surrounded(r: random.Random, said: str) -> str:
    """Put any words around it: arithmetic is arithmetic, whatever stands beside it."""
    ordinary = words(held_out=False)
    before = r.choice([r.choice(_VERBS), r.choice(ordinary.phrases), r.choice(ordinary.sentences)])
    if r.random() < 0.4:
        before = r.choice(["can you ", "how do I ", "please ", "I ", "what ", "you "]) + before
    after = r.choice(
        ["", "", "", "?", ".", " " + r.choice(ordinary.phrases), " for me", " is what"]
    )
    return before + r.choice([" ", " ", " ", ": ", ", "]) + said + after


def _surrounded_chinese(r: random.Random, said: str) -> str:
    """Put any Chinese words around it."""
    ordinary = words(held_out=False).chinese
    before, after = ("".join(r.choices(ordinary, k=r.choice([0, 1, 1, 2]))) for _ in range(2))
    return before + said + after + r.choice(["", "", "？", "。", "呢？", "吗？"])


def _templates(language: str, held_out: bool) -> list[str]:
    """Return the ways to ask; the slot e takes the arithmetic."""
    key = f"{language}_held_out" if held_out else language
    return WORDINGS["arithmetic"][key].splitlines()


def _with_operators(r: random.Random, chinese: bool, held_out: bool) -> tuple[str, str]:
    """Join two to four numbers; symbols alone keep the spacing that they were typed with."""
    count = r.choice([2, 2, 2, 3, 3, 4])
    operators = [r.choice(_SYMBOLS) for _ in range(count - 1)]
    opening, closing = _parentheses(r, count)
    numbers = [number(r, held_out) for _ in range(count)]
    style = r.random()
    if style < 0.6 and not chinese:
        shown = operators
        gap = "" if r.random() < 0.4 else " "
        written_gap = gap
    elif chinese:
        shown = [r.choice(_SHOWN_CHINESE[o]) for o in operators]
        gap, written_gap = r.choice(["", "", " "]), " "
    else:
        shown = [r.choice(_SHOWN[o]) for o in operators]
        gap, written_gap = " ", " "
        if all(o == "x" or not o[0].isalpha() for o in shown) and r.random() < 0.4:
            gap = ""
    said = expression = "-" if r.random() < 0.04 and not chinese and 0 not in opening else ""
    for i, (typed, plain) in enumerate(numbers):
        before, after = "(" * opening.count(i), ")" * closing.count(i)
        if i:
            said += gap + shown[i - 1] + gap
            expression += written_gap + operators[i - 1] + written_gap
        said += before + typed + after
        expression += before + plain + after
    return said, expression


def _parentheses(r: random.Random, count: int) -> tuple[list[int], list[int]]:
    """Choose which operands open and close a parenthesis."""
    if count == 2 or r.random() < 0.4:
        return [], []
    first = r.randint(0, count - 2)
    last = r.randint(first + 1, count - 1)
    if (first, last) == (0, count - 1):
        last -= 1
    if count == 4 and (first, last) == (0, 1) and r.random() < 0.4:
        return [0, 2], [1, 3]
    return [first], [last]


def _power_or_rest(r: random.Random, chinese: bool, held_out: bool) -> tuple[str, str]:
    a, b = number(r, held_out)[1], str(r.randint(2, 40))
    operator = r.choice(["**", "**", "%"])
    shown = r.choice((_SHOWN_CHINESE if chinese else _SHOWN)[operator])
    if chinese:
        said = a + (shown.format(b=b) if "{b}" in shown else shown + b)
    elif shown.isascii() and shown[0] in "*^%" and r.random() < 0.5:
        said = a + shown + b
        if shown == operator:
            return said, said
    else:
        said = f"{a} {shown} {b}"
    return said, f"{a} {operator} {b}"


def _in_words(r: random.Random) -> tuple[str, str]:
    a, b = r.randrange(21), r.randrange(21)
    operator = r.choice(_SYMBOLS)
    shown = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}[operator]
    return f"{_NAMES[a]} {shown} {_NAMES[b]}", f"{a} {operator} {b}"


def _filled(r: random.Random, phrase: tuple[str, str], held_out: bool) -> tuple[str, str]:
    drawn = {slot: number(r, held_out) for slot in "abc"}
    small = {"p": r.choice([str(r.randint(1, 120)), f"{r.randint(0, 30)}.{r.randint(1, 9)}"])}
    small["n"] = str(r.randint(2, 12))
    said = phrase[0].format(**small, **{slot: typed for slot, (typed, _) in drawn.items()})
    return said, phrase[1].format(**small, **{slot: plain for slot, (_, plain) in drawn.items()})


def number(r: random.Random, held_out: bool) -> tuple[str, str]:
    """Return a number as typed and as a calculator takes it."""
    while True:
        digits = r.choices([1, 2, 3, 4, 5, 6, 7], [4, 6, 5, 4, 2, 1, 1])[0]
        plain = str(r.randint(10 ** (digits - 1) if digits > 1 else 0, 10**digits - 1))
        if len(plain) < 3 or is_held_out(plain) == held_out:
            break
    kind = r.random()
    if kind < 0.15:
        plain += "." + str(r.randint(0, 10 ** r.randint(1, 4) - 1))
    elif kind < 0.21 and len(plain) > 3:
        return f"{int(plain):,}", plain
    return plain, plain


def _cased(r: random.Random, said: str) -> str:
    style = r.random()
    if style < 0.15:
        return said.lower()
    return said[0].upper() + said[1:] if style < 0.3 else said


def result(r: random.Random) -> tuple[str, str]:
    """Return a calculator's result, as JSON and as text."""
    kind = r.random()
    if kind < 0.5:
        text = str(r.randint(0, 10 ** r.randint(1, 9)))
    elif kind < 0.8:
        text = f"{r.randint(0, 10 ** r.randint(1, 6))}.{r.randint(1, 10 ** r.randint(1, 11))}"
    elif kind < 0.92:
        text = f"-{r.randint(1, 10 ** r.randint(1, 7))}" + r.choice(["", f".{r.randint(1, 99999)}"])
    elif kind < 0.96:
        text = f"{r.randint(1, 9)}.{r.randint(1, 999999)}e{r.choice(['+', '-'])}{r.randint(10, 40)}"
    else:
        text = str(r.randint(10**12, 10**24))
    return (f'"{text}"' if r.random() < 0.25 else text), text
