r"""An engine that answers from a file of rules, word by word, and fails on demand: for tests.

    first_token_s = 0.01
    tokens_per_s = 200

    [[rules]]
    match = 'weather in (\w+)'                   # what the last user message must have in it
    tools = true                                 # only when tools are offered
    result = false                               # and the last message is no tool result
    call = "get_weather"
    arguments = '{"city": "{1}"}'

    [[rules]]
    match = 'hello'
    text = "Hi there!"
    fail = "midway"                              # before, midway, garbage, hang, refuse, exit
    after = 1                                    # deltas before the failure
    times = 2                                    # the third request is answered

The first rule that fits answers. `{0}` is the whole match, `{1}` and `{name}` are its groups, and
`{result}` is the tool's result.
"""

import re
import tomllib
from collections.abc import AsyncGenerator, Mapping
from enum import StrEnum

import msgspec

from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    ConfigError,
    EngineFailedError,
    OverloadedError,
)
from murmurate.core.types import (
    CallPart,
    Delta,
    Finished,
    FinishReason,
    Frozen,
    Request,
    ResultPart,
    Role,
    Text,
    TextPart,
    ToolCall,
    Usage,
)

HANG_S = 3600.0
_PLACE = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"\s*\S+\s*")


class Fail(StrEnum):
    """How an answer goes wrong. Seen from a process: `exit` kills it, `midway` hangs up."""

    BEFORE = "before"
    MIDWAY = "midway"
    GARBAGE = "garbage"
    HANG = "hang"
    REFUSE = "refuse"
    EXIT = "exit"


class ScriptedFailureError(EngineFailedError):
    """The failure that a rule asked for. `how` tells a server what to do to its connection."""

    def __init__(self, how: Fail, detail: str) -> None:
        super().__init__(detail)
        self.how = how


class Rule(Frozen, frozen=True, forbid_unknown_fields=True):
    """What to answer to which question; see the module's own text."""

    match: str = ""
    tools: bool | None = None
    result: bool | None = None
    text: str | None = None
    call: str | None = None
    arguments: str = "{}"
    fail: Fail | None = None
    after: int = 0
    times: int | None = None


class Rules(Frozen, frozen=True, forbid_unknown_fields=True):
    """A whole script."""

    rules: tuple[Rule, ...]
    first_token_s: float = 0.0
    tokens_per_s: float | None = None


def parse_rules(text: str) -> Rules:
    """Read a script, or say which rule of it is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as cause:
        raise ConfigError(f"rules are not valid TOML: {cause}") from cause
    listed = raw.get("rules")
    if not isinstance(listed, list) or not listed:
        raise ConfigError("rules: expected at least one [[rules]]")
    rules: list[Rule] = []
    for number, rule in enumerate(listed, start=1):  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        try:
            rules.append(msgspec.convert(rule, Rule))
        except msgspec.ValidationError as cause:
            raise ConfigError(f"rule {number}: {cause}") from cause
        _check(number, rules[-1])
    try:
        script = msgspec.convert({**raw, "rules": ()}, Rules)
    except msgspec.ValidationError as cause:
        raise ConfigError(f"rules: {cause}") from cause
    if script.tokens_per_s is not None and script.tokens_per_s <= 0:
        raise ConfigError(f"tokens_per_s = {script.tokens_per_s:g}: expected more than 0")
    return msgspec.structs.replace(script, rules=tuple(rules))


def _check(number: int, rule: Rule) -> None:
    """Refuse a rule that could only go wrong later."""
    where = f"rule {number}"
    try:
        pattern = re.compile(rule.match)
    except re.error as cause:
        raise ConfigError(f"{where}: match = {rule.match!r}: {cause}") from cause
    if rule.text is not None and rule.call is not None:
        raise ConfigError(f"{where}: has text and call; expected one of them")
    if rule.text is None and rule.call is None and (rule.fail is None or rule.times is not None):
        raise ConfigError(f"{where}: expected text or call, to answer with")
    if rule.after < 0 or (rule.times is not None and rule.times < 1):
        raise ConfigError(f"{where}: expected after >= 0 and times >= 1")
    known = {"result", *map(str, range(pattern.groups + 1)), *pattern.groupindex}
    for template in (rule.text or "", rule.arguments):
        for place in _PLACE.findall(template):
            if place not in known:
                raise ConfigError(f"{where}: {{{place}}} is no group of match = {rule.match!r}")
    try:
        msgspec.json.decode(_PLACE.sub("0", rule.arguments), type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as cause:
        raise ConfigError(f"{where}: arguments: expected a JSON object: {cause}") from cause


class Scripted:
    """Plays a script.

    `fired` counts, by the rule's index, the failures that already happened; who gives the counts
    of an earlier life makes `times` hold across restarts. It is updated before the failure.
    """

    def __init__(self, rules: Rules, *, clock: Clock, fired: dict[int, int] | None = None) -> None:
        self._rules = rules
        self._clock = clock
        self.fired = {} if fired is None else fired
        self._calls = 0

    async def answer(self, request: Request) -> AsyncGenerator[Delta]:
        """Answer by the first rule that fits; `BadRequestError` when none does."""
        index, groups = self._find(request)
        rule = self._rules.rules[index]
        failure = self._failure(index, rule)
        pause_s = self._rules.first_token_s
        for emitted, delta in enumerate(self._deltas(rule, groups, request)):
            if failure is not None and emitted >= rule.after:
                break
            if pause_s > 0 and not isinstance(delta, Usage | Finished):
                await self._clock.sleep(pause_s)
            yield delta
            pause_s = 1 / self._rules.tokens_per_s if self._rules.tokens_per_s else 0.0
        if failure is not None:
            await self._break(failure, index)

    async def health(self) -> bool:
        """Return True: a script is never ill."""
        return True

    async def close(self) -> None:
        """Do nothing: a script holds nothing."""

    def _find(self, request: Request) -> tuple[int, Mapping[str, str]]:
        """Return the index of the rule that fits, and what its placeholders stand for."""
        asked = next((m.text for m in reversed(request.messages) if m.role is Role.USER), "")
        result = _last_result(request)
        for index, rule in enumerate(self._rules.rules):
            found = re.search(rule.match, asked)
            wanted = (rule.tools, rule.result)
            given = (bool(request.tools), result is not None)
            if found and all(w is None or w == g for w, g in zip(wanted, given, strict=True)):
                numbered = {str(n): found[n] or "" for n in range(len(found.groups()) + 1)}
                named = {name: value or "" for name, value in found.groupdict().items()}
                return index, {**numbered, **named, "result": result or ""}
        raise BadRequestError("no rule of the script fits the last user message", param="messages")

    def _deltas(self, rule: Rule, groups: Mapping[str, str], request: Request) -> list[Delta]:
        tokens_in = sum(_words_of(part) for m in request.messages for part in m.parts)
        if rule.call is not None:
            arguments = _PLACE.sub(lambda place: _escaped(groups[place[1]]), rule.arguments)
            self._calls += 1
            call = ToolCall(f"call_{request.id}_{self._calls}", rule.call, arguments)
            usage = Usage(tokens_in, len(_words(arguments)) + 1)
            return [call, usage, Finished(FinishReason.TOOL_CALLS)]
        words = _words(_PLACE.sub(lambda place: groups[place[1]], rule.text or ""))
        said = words[: request.sampling.tokens_max]
        reason = FinishReason.STOP if len(said) == len(words) else FinishReason.LENGTH
        return [*map(Text, said), Usage(tokens_in, len(said)), Finished(reason)]

    def _failure(self, index: int, rule: Rule) -> Fail | None:
        """Return how this answer goes wrong, and count it."""
        fired = self.fired.get(index, 0)
        if rule.fail is None or (rule.times is not None and fired >= rule.times):
            return None
        self.fired[index] = fired + 1
        return rule.fail

    async def _break(self, how: Fail, index: int) -> None:
        if how is Fail.REFUSE:
            raise OverloadedError(f"rule {index + 1} refuses", retry_s=1)
        if how is Fail.HANG:
            await self._clock.sleep(HANG_S)
        raise ScriptedFailureError(how, f"rule {index + 1} fails: {how.value}")


def _last_result(request: Request) -> str | None:
    """Return the tool's result that the conversation ends with, if it does."""
    last = request.messages[-1].parts[-1:] if request.messages else ()
    return last[0].text if last and isinstance(last[0], ResultPart) else None


def _words(text: str) -> list[str]:
    """Split into words, each with the white space around it: joined they are the text again."""
    return _WORD.findall(text)


def _words_of(part: TextPart | CallPart | ResultPart) -> int:
    return len(_words(part.arguments if isinstance(part, CallPart) else part.text))


def _escaped(text: str) -> str:
    """Return the text as it stands inside a JSON string."""
    return msgspec.json.encode(text).decode()[1:-1]
