"""What is told of a run's end, and the signature that receivers check."""

import base64

import msgspec
import pytest

from murmurate.core.ports import Offer
from murmurate.core.types import SessionRef
from murmurate.jobs.entries import Begun, Kind
from murmurate.jobs.notices import (
    HOOKS,
    Notice,
    body_of,
    headers_of,
    notice_stream,
    signature,
    told_of,
)
from tests.fakes import ask

PLACE = ("a", "run/run_1")
BEGUN = Begun(ask("secret question", session=SessionRef("sess_1")), webhook="https://e.com/hook")


def test_the_signature_is_the_one_of_the_standards_own_libraries() -> None:
    """Computed by `standardwebhooks` 1.1.0 (PyPI) for this secret, id, time and body."""
    key = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    found = signature(
        b'{"test": 2432232314}',
        message="msg_p5jXN8AQM9LWM0D4loKWxJek",
        at_s=1614265330,
        key=key,
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_headers_say_which_message_and_when_it_was_sent() -> None:
    headers = headers_of(b"{}", message="run_1", now_ms=1_614_265_330_999, keys=[bytes(24)])
    assert headers["webhook-id"] == "run_1"
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == signature(
        b"{}", message="run_1", at_s=1614265330, key=bytes(24)
    )
    assert headers["content-type"] == "application/json"


@pytest.mark.parametrize("how", [Kind.FINISHED, Kind.FAILED, Kind.CANCELLED])
def test_an_end_is_told_and_offered_in_the_tenants_name(how: Kind) -> None:
    code = "engine.failed" if how is Kind.FAILED else None
    [entry], work = told_of(BEGUN, PLACE, how=how, ends=0, code=code)
    assert (entry.tenant, entry.stream) == ("a", "hook/run_1")
    assert work == (Offer("a", "hook/run_1", HOOKS),)
    notice = msgspec.json.decode(entry.body, type=Notice)
    assert notice == Notice("https://e.com/hook", how.value, "run_1", "tiny", "sess_1", code)
    assert b"secret question" not in entry.body


def test_a_run_that_waits_for_an_approval_is_told_as_a_message_of_its_own() -> None:
    [entry], work = told_of(BEGUN, PLACE, how=Kind.ASKED, ends=1, asked=4)
    assert (entry.stream, work) == (
        "hook/run_1-2-asks-4",
        (Offer("a", "hook/run_1-2-asks-4", HOOKS),),
    )
    assert entry.stream.startswith(notice_stream("run_1", 0)), "it is forgotten with the run"
    notice = msgspec.json.decode(entry.body, type=Notice)
    assert notice.type == "run.asked"
    assert b'"status":"asked"' in body_of(notice, 0)


def test_what_is_no_end_or_has_nobody_to_tell_is_not_told() -> None:
    assert told_of(BEGUN, PLACE, how=Kind.STUMBLED, ends=0) == ((), ())
    quiet = msgspec.structs.replace(BEGUN, webhook=None)
    assert told_of(quiet, PLACE, how=Kind.FINISHED, ends=0) == ((), ())


def test_each_end_of_a_run_is_a_message_of_its_own() -> None:
    assert [notice_stream("run_1", ends) for ends in range(3)] == [
        "hook/run_1",
        "hook/run_1-2",
        "hook/run_1-3",
    ]


def test_the_body_says_what_happened_to_which_run_and_nothing_of_its_content() -> None:
    notice = Notice("https://e.com", "run.failed", "run_1", "tiny", None, "run.deadline")
    assert msgspec.json.decode(body_of(notice, 1_614_265_330_123)) == {
        "type": "run.failed",
        "timestamp": "2021-02-25T15:02:10.123Z",
        "data": {
            "id": "run_1",
            "status": "failed",
            "model": "tiny",
            "session": None,
            "error": "run.deadline",
        },
    }


def test_while_a_secret_is_changed_each_notice_is_signed_with_both() -> None:
    keys = [bytes([number] * 24) for number in (1, 2)]
    headers = headers_of(b"{}", message="run_1", now_ms=1_614_265_330_999, keys=keys)
    proofs = [signature(b"{}", message="run_1", at_s=1_614_265_330, key=key) for key in keys]
    assert headers["webhook-signature"].split(" ") == proofs
