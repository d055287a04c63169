"""Counters for Prometheus, with their label sets made once and kept at hand."""

from collections.abc import Callable
from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client import generate_latest as page_of

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """What this process has counted since it started. A label is never a client's free choice."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self._watched: dict[str, Gauge] = {}
        requests = Counter(
            "murmurate_requests", "Finished requests.", ["route", "status"], registry=registry
        )
        latency = Histogram(
            "inference_latency_seconds",
            "From a request's arrival to the end of its answer.",
            ["route"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        first = Histogram(
            "inference_first_token_seconds",
            "From a request's arrival to its first delta.",
            ["model"],
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        tokens = Counter(
            "murmurate_tokens",
            "Tokens that engines read and wrote.",
            ["model", "kind"],
            registry=registry,
        )
        self._in_flight = Gauge(
            "murmurate_requests_in_flight", "Requests under way.", registry=registry
        )
        # `labels()` builds and locks at each call; a kept child costs a dictionary look-up.
        self._requests = cache(requests.labels)
        self._latency = cache(latency.labels)
        self._first = cache(first.labels)
        self._tokens = cache(tokens.labels)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count a finished request."""
        self._requests(route, status).inc()
        self._latency(route).observe(seconds)

    def first_token(self, model: str, seconds: float) -> None:
        """Note the time to the first delta."""
        self._first(model).observe(seconds)

    def tokens(self, model: str, tokens_in: int, tokens_out: int) -> None:
        """Count the tokens of one engine call."""
        self._tokens(model, "in").inc(tokens_in)
        self._tokens(model, "out").inc(tokens_out)

    def in_flight(self, change: int) -> None:
        """Add to the number of requests under way."""
        self._in_flight.inc(change)

    def watch(self, name: str, text: str, read: Callable[[], float], **labels: str) -> None:
        """Show a value that is read when the page is asked for; at most once a set of labels."""
        gauge = self._watched.get(name)
        if gauge is None:
            gauge = Gauge(name, text, list(labels), registry=self._registry)
            self._watched[name] = gauge
        (gauge.labels(**labels) if labels else gauge).set_function(read)

    def exposition(self) -> tuple[bytes, str]:
        """Return the metrics page and its content type."""
        return page_of(self._registry), CONTENT_TYPE_LATEST
