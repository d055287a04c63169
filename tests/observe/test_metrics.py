"""What Prometheus reads."""

from murmurate.observe.metrics import Metrics


def lines(metrics: Metrics) -> list[str]:
    page, kind = metrics.exposition()
    assert kind.startswith("text/plain")
    return page.decode().splitlines()


def test_requests_are_counted_by_route_and_status_with_their_time() -> None:
    metrics = Metrics()
    for status, seconds in ((200, 0.02), (200, 0.2), (503, 0.001)):
        metrics.request("/v1/models", status, seconds)
    page = lines(metrics)
    assert 'murmurate_requests_total{route="/v1/models",status="200"} 2.0' in page
    assert 'murmurate_requests_total{route="/v1/models",status="503"} 1.0' in page
    assert 'inference_latency_seconds_bucket{le="0.025",route="/v1/models"} 2.0' in page
    assert 'inference_latency_seconds_count{route="/v1/models"} 3.0' in page


def test_the_time_to_the_first_token_is_kept_by_model() -> None:
    metrics = Metrics()
    metrics.first_token("tiny", 0.3)
    assert 'inference_first_token_seconds_count{model="tiny"} 1.0' in lines(metrics)
    assert 'inference_first_token_seconds_bucket{le="0.25",model="tiny"} 0.0' in lines(metrics)


def test_tokens_are_counted_by_model_and_direction() -> None:
    metrics = Metrics()
    metrics.tokens("tiny", 7, 3)
    metrics.tokens("tiny", 1, 0)
    page = lines(metrics)
    assert 'murmurate_tokens_total{kind="in",model="tiny"} 8.0' in page
    assert 'murmurate_tokens_total{kind="out",model="tiny"} 3.0' in page


def test_requests_under_way_rise_and_fall() -> None:
    metrics = Metrics()
    for change in (1, 1, -1):
        metrics.in_flight(change)
    assert "murmurate_requests_in_flight 1.0" in lines(metrics)


def test_two_platforms_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.in_flight(1)
    assert "murmurate_requests_in_flight 0.0" in lines(second)


def test_a_watched_value_is_read_when_the_page_is_asked_for() -> None:
    metrics, waiting = Metrics(), [3]
    metrics.watch("waiting", "Requests.", lambda: waiting[0], model="a")
    metrics.watch("waiting", "Requests.", lambda: 7, model="b")
    waiting[0] = 5
    page = metrics.exposition()[0].decode()
    assert 'waiting{model="a"} 5.0' in page
    assert 'waiting{model="b"} 7.0' in page
