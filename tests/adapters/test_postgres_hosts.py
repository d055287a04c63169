"""Which of several hosts is written to, as a table."""

from urllib.parse import urlsplit

import pytest

from murmurate.adapters.postgres.hosts import Standing, objection, urls_of

PRIMARY = Standing(7, takes_writes=True, timeline=2)


@pytest.mark.parametrize(
    ("to", "seen", "words"),
    [
        (PRIMARY, None, None),
        (PRIMARY, PRIMARY, None),
        (Standing(7, takes_writes=True, timeline=3), PRIMARY, None),
        (Standing(7, takes_writes=True, timeline=1), PRIMARY, "an old primary, on timeline 1"),
        (Standing(8, takes_writes=True, timeline=9), PRIMARY, "another cluster"),
        (Standing(7, takes_writes=False, timeline=0), PRIMARY, "it takes no writes"),
        (Standing(7, takes_writes=False, timeline=0), None, "it takes no writes"),
    ],
)
def test_who_may_be_written_to(to: Standing, seen: Standing | None, words: str | None) -> None:
    said = objection(to, seen=seen)
    assert said is None if words is None else words in str(said)


def test_a_url_of_several_hosts_becomes_one_for_each() -> None:
    parts = urlsplit("postgresql://u:p@a:1,[::1]:2,c/db?sslmode=require")
    assert urls_of(parts) == [
        "postgresql://u:p@a:1/db?sslmode=require",
        "postgresql://u:p@[::1]:2/db?sslmode=require",
        "postgresql://u:p@c/db?sslmode=require",
    ]
    assert urls_of(urlsplit("postgresql:///db?host=/run/postgresql")) == [
        "postgresql:/db?host=/run/postgresql"
    ]


@pytest.mark.parametrize("hosts", ["a:x", "a:0", "a,b:0", "a,", ",a"])
def test_hosts_that_are_none_are_refused(hosts: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says, its caller says it better
        urls_of(urlsplit(f"postgresql://u@{hosts}/db"))
