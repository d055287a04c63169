"""Of several hosts, the one that takes writes; never one that another has taken over from.

All are asked side by side. A standby takes no writes. Of two that do, the one whose timeline is
higher was promoted later: each promotion begins a new one. What was seen once is remembered, so an
old primary that comes back is not written to, not even while the new one cannot be reached.
"""

from typing import Any
from urllib.parse import SplitResult, urlsplit

from murmurate.core.types import Frozen

# The control file has the timeline of the last checkpoint, which after a promotion comes late.
STANDING = """SELECT (SELECT system_identifier FROM pg_control_system()) AS cluster,
    current_setting('transaction_read_only') = 'off' AS takes_writes,
    CASE WHEN pg_is_in_recovery() THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int
    END AS timeline"""


class Standing(Frozen, frozen=True):
    """What a host says of itself: which cluster it is of, and since which promotion it leads."""

    cluster: int
    takes_writes: bool
    timeline: int


def urls_of(parts: SplitResult) -> list[str]:
    """Return the URL of each host, where one names several: `postgresql://u@a:1,b:2/db`.

    Raises:
        ValueError: A port is none.
    """
    who, at, hosts = parts.netloc.rpartition("@")
    urls = [parts._replace(netloc=f"{who}{at}{host}").geturl() for host in hosts.split(",")]
    if any(urlsplit(url).port == 0 for url in urls):
        raise ValueError
    if len(urls) > 1 and not all(hosts.split(",")):
        raise ValueError
    return urls


def standing_of(row: Any) -> Standing:  # noqa: ANN401 - any row of the driver's
    """Return what a row of `STANDING` says."""
    return Standing(row["cluster"], row["takes_writes"], row["timeline"])


def objection(to: Standing, *, seen: Standing | None) -> str | None:
    """Return why a host may not be written to; None where it may."""
    if not to.takes_writes:
        return "it takes no writes: it is a standby, or set to be read-only"
    if seen is None:
        return None
    if to.cluster != seen.cluster:
        return (
            "it is another cluster than the one that was written to before: restart murmurate if it"
            " has taken its place"
        )
    if to.timeline < seen.timeline:
        return (
            f"it is an old primary, on timeline {to.timeline}: {seen.timeline} was promoted since;"
            " end it, or make it a standby"
        )
    return None
