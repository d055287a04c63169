"""A finding is one line that says what to do."""

from murmurate.cli.findings import Finding, show


def test_findings_stand_under_each_other_with_verdict_time_and_advice() -> None:
    found = [
        Finding("disk", "ok", "5.0 GB free"),
        Finding("model big", "fail", "refuses the key (401)", "check models.big.key", 12.4),
        Finding("embeddings", "skipped", "not asked (--offline)"),
    ]
    assert show(found).splitlines() == [
        "OK    disk        5.0 GB free",
        "FAIL  model big   refuses the key (401), 12 ms  → check models.big.key",
        "-     embeddings  not asked (--offline)",
    ]


def test_settings_stand_apart_with_their_origin() -> None:
    found = [Finding("disk", "warn", "full"), Finding("server.listen", "setting", "'x'", "default")]
    assert show(found).splitlines() == [
        "WARN  disk  full",
        "",
        "settings",
        "  server.listen  'x'  (default)",
    ]


def test_json_has_every_part_of_a_finding() -> None:
    assert Finding("disk", "ok", "5.0 GB free").as_dict() == {
        "about": "disk",
        "verdict": "ok",
        "detail": "5.0 GB free",
        "advice": "",
        "ms": None,
    }
