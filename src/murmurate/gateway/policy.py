"""The gate that everybody passes before anything is begun: local rules, then whoever is below them.

What a key or token has no scope for never comes here. A request is decided on once: where its
route names a model, when that is known (`requests.py`), else before its handler runs.
"""

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

from murmurate.config import Effect, PolicyConfig, PolicyRule
from murmurate.core.errors import ConfigError, ForbiddenError, MurmurateError
from murmurate.core.types import Caller
from murmurate.gateway.ports import Action, Decision, Policy, Resource
from murmurate.gateway.scopes import Scope

CHAT = Action(Scope.CHAT.value, "POST", "/v1/chat/completions")
EMBED = Action(Scope.EMBEDDINGS.value, "POST", "/v1/embeddings")


class PolicyDeniedError(ForbiddenError):
    """The policy does not let this caller do this, or ask this model; nothing was begun.

    Whoever runs the service can change `[policy]`, or the policies of its Open Policy Agent.
    """

    code = "policy.denied"


class PolicyUnavailableError(MurmurateError):
    """The policy server does not answer, or not as it should, so nothing is allowed.

    Try again after `Retry-After`; `murmurate doctor` says what is wrong.
    """

    code = "policy.unavailable"
    http_status = 503


class Always:
    """Decides the same about everything."""

    def __init__(self, effect: Effect) -> None:
        self._decision = Decision(
            effect is Effect.ALLOW, "" if effect is Effect.ALLOW else "no rule allows it"
        )

    async def decide(self, caller: Caller, action: Action, resource: Resource) -> Decision:
        """Return what it always returns; see `Policy`."""
        del caller, action, resource
        return self._decision


class Rules:
    """Decides by the first rule that fits; what none fits is for the policy below."""

    def __init__(self, rules: Sequence[PolicyRule], below: Policy) -> None:
        self._rules = rules
        self._below = below

    async def decide(self, caller: Caller, action: Action, resource: Resource) -> Decision:
        """Return what the first rule that fits says; see `Policy`."""
        for rule in self._rules:
            if fits(rule, caller, action, resource):
                return Decision(rule.effect is Effect.ALLOW, rule.reason)
        return await self._below.decide(caller, action, resource)


def fits(rule: PolicyRule, caller: Caller, action: Action, resource: Resource) -> bool:
    """Tell whether all that a rule names is so; one that names models fits only where one is."""
    place, model = f"{action.method} {action.route}", resource.model
    return (
        (not rule.roles or not set(rule.roles).isdisjoint(caller.roles))
        and (not rule.tenants or caller.tenant in rule.tenants)
        and (not rule.scopes or action.scope in rule.scopes)
        and (not rule.routes or _is_one_of(place, rule.routes))
        and (not rule.models or (model is not None and _is_one_of(model, rule.models)))
    )


class Gate:
    """Asks the policy before anything is begun."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    async def check(self, caller: Caller, action: Action, model: str | None = None) -> None:
        """Return when the caller may do it, with that model where there is one.

        Raises:
            PolicyDeniedError: The policy says no.
            PolicyUnavailableError: It says nothing.
        """
        decision = await self._policy.decide(caller, action, Resource(model))
        if not decision.allowed:
            what = f"{action.method} {action.route}"
            asked = what if model is None else f"{what} with the model {model!r}"
            because = f": {decision.reason}" if decision.reason else ""
            raise PolicyDeniedError(f"the policy does not allow {asked}{because}")

    async def usable(
        self, caller: Caller, models: Sequence[str], *, action: Action = CHAT
    ) -> list[str]:
        """Return those models that the caller may ask."""
        return [
            model
            for model in models
            if (await self._policy.decide(caller, action, Resource(model))).allowed
        ]


def check_rules(
    config: PolicyConfig,
    *,
    roles: Collection[str],
    routes: Collection[str],
    models: Collection[str],
) -> None:
    """Return when everything that rules name is there: a typing error would make one useless.

    `ConfigError` names the rule.
    """
    scopes = [scope.value for scope in Scope]
    for number, rule in enumerate(config.rules):
        known: Mapping[str, tuple[Sequence[str], Collection[str]]] = {
            "roles": (rule.roles, roles),
            "scopes": (rule.scopes, scopes),
            "routes": (rule.routes, routes),
            "models": (rule.models, models),
        }
        for key, (patterns, names) in known.items():
            for pattern in patterns:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise ConfigError(
                        f"policy.rules[{number}].{key} has {pattern!r}, which fits none of"
                        f" {', '.join(sorted(names))}"
                    )


def _is_one_of(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
