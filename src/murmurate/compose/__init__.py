"""Config in, running platform out: the only place that names concrete classes.

`service()` wires the stages over whatever outside it is given: real adapters in a server
(`outside()`), fakes with a virtual clock in the simulation. Read `path.py` first.
"""

from murmurate.compose.edge import Inside, gateway, limits_of
from murmurate.compose.keys import OpenedKeys, open_keys, read_keys
from murmurate.compose.opening import (
    LogCare,
    Outside,
    Place,
    Traces,
    Workers,
    close,
    open_postgres,
    outside,
    read_troubles,
)
from murmurate.compose.path import agent_policy, chain, plain_policy, watch_cache, watch_load
from murmurate.compose.platform import Platform
from murmurate.compose.wiring import (
    Service,
    book_of,
    collections_of,
    errands_of,
    hooks_of,
    retention_of,
    schedules_of,
    service,
    source_of,
)

__all__ = [
    "Inside",
    "LogCare",
    "OpenedKeys",
    "Outside",
    "Place",
    "Platform",
    "Service",
    "Traces",
    "Workers",
    "agent_policy",
    "book_of",
    "chain",
    "close",
    "collections_of",
    "errands_of",
    "gateway",
    "hooks_of",
    "limits_of",
    "open_keys",
    "open_postgres",
    "outside",
    "plain_policy",
    "read_keys",
    "read_troubles",
    "retention_of",
    "schedules_of",
    "service",
    "source_of",
    "watch_cache",
    "watch_load",
]
