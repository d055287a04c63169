"""The table of routes: which method and path needs which scope, and who answers. Pure.

A path may hold an `{id}`, and more in braces, which stands for anything without a slash. The path
as written here is also the label under which its requests are counted: labels are few, whatever
clients ask for.
"""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from murmurate.core.errors import NotFoundError
from murmurate.core.ports import Span
from murmurate.core.types import Caller
from murmurate.gateway.exchange import Exchange
from murmurate.gateway.ports import Action
from murmurate.gateway.scopes import Scope

Handler = Callable[[Exchange, Caller, Span], Awaitable[None]]

_PLACE = re.compile(r"\{[a-z]+\}")
PATH_UNKNOWN = "other"
"""The label of whatever is no route."""


@dataclass(frozen=True, slots=True)
class Route:
    """One thing that a client can ask for; without the scope its handler never runs."""

    method: str
    path: str
    scope: Scope
    handler: Handler
    names_model: bool = False
    """Its handler asks the policy itself, as soon as it knows for which model."""

    @property
    def action(self) -> Action:
        """What a policy calls it."""
        return Action(self.scope.value, self.method, self.path)


class Routes:
    """Finds routes by path: whole paths at once, those with an `{id}` one after the other."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.all = tuple(routes)
        self._whole: dict[str, dict[str, Route]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Route]] = {}
        for route in self.all:
            methods = self._whole.setdefault(route.path, {})
            assert route.method not in methods, f"two handlers for {route.method} {route.path}"
            methods[route.method] = route
        for path in [path for path in self._whole if "{" in path]:
            plain = map(re.escape, _PLACE.split(path))
            pattern = re.compile("[^/]*".join(plain))
            self._patterns[pattern] = self._whole.pop(path)

    def methods(self, path: str) -> dict[str, Route]:
        """Return the routes of a path by method, or raise `NotFoundError`."""
        if found := self._find(path):
            return found
        raise NotFoundError(f"there is nothing at {path[:200]}")

    def label(self, path: str) -> str:
        """Return the path as it stands in the table."""
        found = self._find(path)
        return next(iter(found.values())).path if found else PATH_UNKNOWN

    def _find(self, path: str) -> dict[str, Route] | None:
        if found := self._whole.get(path):
            return found
        return next((m for p, m in self._patterns.items() if p.fullmatch(path)), None)
