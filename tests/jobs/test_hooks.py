"""Notices reach their receiver at least once, whoever delivers them, or are given up."""

import asyncio
from itertools import pairwise

import msgspec
import pytest

from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    FetchFailedError,
    FetchRefusedError,
    LogCorruptError,
    LogUnavailableError,
    MurmurateError,
)
from murmurate.core.ports import Entry, Offer
from murmurate.core.reach import Reach
from murmurate.jobs.attempts import HOLDERS_MAX
from murmurate.jobs.entries import stream_of
from murmurate.jobs.errands import POLL_S
from murmurate.jobs.hooks import ATTEMPT_S, PAUSES_MS, Hooks, folded
from murmurate.jobs.notices import HOOKS, HOOKS_DEAD, signature
from murmurate.jobs.views import Webhook
from murmurate.testing.stories import all_of
from tests.fakes import FakeFetcher, RecordingLog
from tests.jobs.stage import HOOK_KEY, request
from tests.jobs.test_runner import Stage, play

URL = "https://receiver.example/hook?token=1"


async def begun(stage: Stage) -> str:
    return await stage.a.runs.submit(request(), webhook=URL)


async def told(stage: Stage, run_id: str, status: str = "delivered") -> Webhook:
    """Wait until the notice has that status."""
    async with asyncio.timeout(2000):
        while (found := (await stage.shown(run_id)).webhook) is None or found.status != status:
            await asyncio.sleep(0.1)
    return found


def answers(stage: Stage, *answers: int | MurmurateError) -> None:
    """Let whichever server delivers get these, one after the other."""
    stage.a.fetcher.answers = stage.b.fetcher.answers = list(answers)


def sent(stage: Stage) -> list[tuple[float, str, str]]:
    """Return the attempts of both servers: id, time and status."""
    fetches = [*stage.a.fetcher.sent, *stage.b.fetcher.sent]
    found = [
        (
            float(it.headers["webhook-timestamp"]),
            it.headers["webhook-id"],
            msgspec.json.decode(it.body)["type"],
        )
        for it in fetches
    ]
    return sorted(found)


def test_the_end_of_a_run_is_told_once_and_signed() -> None:
    async def story(stage: Stage) -> None:
        run_id = await begun(stage)
        assert await told(stage, run_id) == Webhook(URL, "delivered", 1, "delivered")
        [fetch] = [*stage.a.fetcher.sent, *stage.b.fetcher.sent]
        assert (fetch.method, fetch.target.host) == ("POST", "receiver.example")
        assert (fetch.whole_s, fetch.bytes_max) == (ATTEMPT_S, 64 * 1024)
        at_s = int(fetch.headers["webhook-timestamp"])
        assert fetch.headers["webhook-signature"] == signature(
            fetch.body, message=run_id, at_s=at_s, key=HOOK_KEY
        )
        assert await all_of(stage.log.work("a", HOOKS)) == []
        *_, ended = await all_of(stage.log.read("a", stream_of(run_id)))
        offered, delivered = await all_of(stage.log.read("a", f"hook/{run_id}"))
        assert (ended.kind, delivered.kind) == ("run.finished", "hook.delivered")
        assert offered.position == ended.position + 1, "both are one append"

    play(story)


def test_failed_and_cancelled_runs_are_told_too() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        await told(stage, await begun(stage))
        stage.shop.error, stage.shop.hold["thing 2"] = None, asyncio.Event()
        run_id = await begun(stage)
        while not stage.shop.effects["2"]:
            await asyncio.sleep(0.01)
        await stage.a.runs.cancel("a", run_id)
        await told(stage, run_id)
        assert [kind for *_, kind in sent(stage)] == ["run.failed", "run.cancelled"]

    play(story)


def test_a_resumed_run_is_told_again_as_another_message() -> None:
    async def story(stage: Stage) -> None:
        stage.shop.error = EngineFailedError("broke")
        run_id = await begun(stage)
        await told(stage, run_id)
        stage.shop.error = None
        await stage.a.runs.resume("a", run_id)
        await stage.ended(run_id)
        await told(stage, run_id)
        assert [it[1:] for it in sent(stage)] == [
            (run_id, "run.failed"),
            (f"{run_id}-2", "run.finished"),
        ]

    play(story)


def test_a_receiver_that_fails_is_tried_again_with_the_same_id_and_growing_pauses() -> None:
    async def story(stage: Stage) -> None:
        troubles = (500, 302, FetchFailedError("hung"), 404, 200)
        answers(stage, *troubles)
        run_id = await begun(stage)
        assert (await told(stage, run_id)).attempts == 5
        times, ids, _ = zip(*sent(stage), strict=True)
        assert set(ids) == {run_id}
        pauses = [after - before for before, after in pairwise(times)]
        for pause_s, least_ms in zip(pauses, PAUSES_MS, strict=True):
            assert least_ms / 1000 - 1 <= pause_s <= least_ms / 1000 + POLL_S + 1.5
        assert 540 < times[-1] - times[0] < 660, "about ten minutes"

    play(story)


def test_after_five_attempts_it_is_put_among_the_dead_where_it_can_be_seen() -> None:
    async def story(stage: Stage) -> None:
        answers(stage, *[503] * 99)
        run_id = await begun(stage)
        found = await told(stage, run_id, "given up")
        assert (found.attempts, found.detail) == (5, "https://receiver.example answered 503")
        assert len(sent(stage)) == 5
        [dead] = await all_of(stage.log.work("a", HOOKS_DEAD))
        assert dead.stream == f"hook/{run_id}"
        events = stage.a.events.named("hook.given_up") + stage.b.events.named("hook.given_up")
        assert events == [{"message": f"hook/{run_id}", "detail": found.detail}]
        assert (await stage.shown(run_id)).status == "finished"

    play(story)


@pytest.mark.parametrize("answer", [410, FetchRefusedError("10.0.0.1 is not public")])
def test_what_no_other_attempt_can_mend_is_given_up_at_once(
    answer: int | FetchRefusedError,
) -> None:
    async def story(stage: Stage) -> None:
        answers(stage, answer)
        assert (await told(stage, await begun(stage), "given up")).attempts == 1

    play(story)


def test_a_server_that_dies_while_it_delivers_is_followed_by_another_with_the_same_id() -> None:
    async def story(stage: Stage) -> None:
        stage.a.fetcher.hold = asyncio.Event()
        await stage.a.up()
        run_id = await begun(stage)
        while not stage.a.fetcher.sent:
            await asyncio.sleep(0.01)
        stage.a.wire.cut()
        await stage.b.up()
        await told(stage, run_id)
        assert [it[1] for it in sent(stage)] == [run_id, run_id]
        stage.a.fetcher.hold.set()  # the late one comes to its end, and is refused by the log
        stage.a.wire.mend()
        await asyncio.sleep(5)
        assert (await told(stage, run_id)).attempts == 1
        for server in (stage.a, stage.b):
            await server.down()

    play(story, servers="")


def test_a_server_that_stops_in_order_leaves_its_notices_to_others() -> None:
    async def story(stage: Stage) -> None:
        stage.a.fetcher.hold = asyncio.Event()
        await stage.a.up()
        run_id = await begun(stage)
        while not stage.a.fetcher.sent:
            await asyncio.sleep(0.01)
        await stage.a.down()
        await stage.b.up()
        await told(stage, run_id)
        await stage.b.down()

    play(story, servers="")


def test_an_outcome_that_cannot_be_written_is_delivered_again() -> None:
    async def story(stage: Stage) -> None:
        append, failures = stage.log.append, [LogUnavailableError("full")] * 3

        async def flaky(entries: list[Entry], **kwargs: object) -> list[int]:
            if failures and any(it.kind.startswith("hook.deliv") for it in entries):
                raise failures.pop()
            return await append(entries, **kwargs)  # type: ignore[arg-type]

        stage.log.append = flaky  # type: ignore[method-assign,assignment]
        run_id = await begun(stage)
        await told(stage, run_id)
        assert [it[1] for it in sent(stage)] == [run_id] * 4

    play(story)


def test_a_notice_that_its_servers_die_of_is_given_up() -> None:
    async def story(stage: Stage) -> None:
        stage.a.errands.clear()
        await stage.a.up()
        run_id = await begun(stage)
        await stage.ended(run_id)
        for number in range(HOLDERS_MAX):
            await stage.log.renew(f"dead {number}")
            assert await stage.log.claim(HOOKS, f"dead {number}", limit=1)
            await stage.log.revoke(f"dead {number}")
        await stage.b.up()
        found = await told(stage, run_id, "given up")
        assert found.detail == "too many servers died while they delivered it"
        assert sent(stage) == []
        for server in (stage.a, stage.b):
            await server.down()

    play(story, servers="")


def test_what_was_never_offered_is_struck_off() -> None:
    async def story(stage: Stage) -> None:
        await stage.log.append([], work=[Offer("a", "hook/run_none", HOOKS)])
        await asyncio.sleep(3)
        assert await all_of(stage.log.work("a", HOOKS)) == []
        assert sent(stage) == []

    play(story)


def test_a_damaged_notice_is_put_aside_and_stops_no_other() -> None:
    async def story(stage: Stage) -> None:
        damaged = Entry("a", "hook/run_bad", "hook.offered", b"nonsense")
        await stage.log.append([damaged], work=[Offer("a", "hook/run_bad", HOOKS)])
        run_id = await begun(stage)
        await told(stage, run_id)
        [dead] = await all_of(stage.log.work("a", HOOKS_DEAD))
        assert dead.stream == "hook/run_bad"
        with pytest.raises(LogCorruptError, match="is no notice"):
            folded(await all_of(stage.log.read("a", "hook/run_bad")))
        await stage.log.append([Entry("a", f"hook/{run_id}", "hook.tried", b"nonsense")])
        shown = (await stage.shown(run_id)).webhook
        assert shown is not None
        assert (shown.status, "is no notice" in (shown.detail or "")) == ("given up", True)

    play(story)


def hooks(*allow: str, keys: dict[str, list[bytes]] | None = None) -> Hooks:
    fetcher = FakeFetcher(reach=Reach.of(allow, [80, 443]))
    known = {"a": [HOOK_KEY]} if keys is None else keys
    return Hooks(fetcher, known, log=None, clock=None, events=RecordingLog())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://receiver.example/", "expected https"),
        ("http://127.0.0.1/", "not an address of the public"),
        ("https://10.0.0.1/", "not an address of the public"),
        ("https://receiver.example:22/", "port 22"),
        ("nonsense", "expected https"),
    ],
)
def test_a_url_that_no_notice_would_reach_is_refused_at_once(url: str, why: str) -> None:
    with pytest.raises(BadRequestError, match=why) as refusal:
        hooks().check("a", url)
    assert (refusal.value.param, refusal.value.http_status) == ("webhook", 400)


def test_plain_http_goes_to_loopback_where_that_is_allowed_and_nowhere_else() -> None:
    allowing = hooks("127.0.0.0/8", "10.0.0.0/8", "::1/128")
    for url in ("http://127.0.0.1/", "http://localhost/", "http://[::1]/", "https://10.0.0.1/"):
        allowing.check("a", url)
    for url in ("http://10.0.0.1/", "http://localhost.example/"):
        with pytest.raises(BadRequestError, match="http only to loopback"):
            allowing.check("a", url)


def test_without_a_secret_of_the_tenant_there_are_no_webhooks() -> None:
    with pytest.raises(BadRequestError, match="webhooks are not configured for this tenant"):
        hooks(keys={"other": [HOOK_KEY]}).check("a", URL)

    async def story(stage: Stage) -> None:
        stage.a.runs._hooks = None
        with pytest.raises(BadRequestError, match="not configured"):
            await begun(stage)
        assert await all_of(stage.log.streams("a", "")) == []

    play(story)


def test_a_secret_that_is_gone_is_waited_for() -> None:
    async def story(stage: Stage) -> None:
        run_id = await begun(stage)
        for server in (stage.a, stage.b):
            server.hooks._keys = {}
        while not (found := await told(stage, run_id, "waiting")).attempts:
            await asyncio.sleep(0.1)
        assert found.detail == "there is no secret to sign with any more"
        for server in (stage.a, stage.b):
            server.hooks._keys = {"a": [HOOK_KEY]}
        await told(stage, run_id)

    play(story)
