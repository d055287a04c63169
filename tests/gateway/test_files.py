"""The routes of files, through the whole gateway."""

import asyncio
from typing import Any

import msgspec
import pytest

from murmurate.core.errors import LogUnavailableError
from murmurate.files.entries import PIECE_BYTES
from tests.gateway.client import FILE_LIMITS, Answer, House

FORM = {"content-type": "multipart/form-data; boundary=x"}


def form(*parts: tuple[str, bytes], end: bytes = b"--x--\r\n") -> bytes:
    whole = b""
    for head, body in parts:
        whole += f"--x\r\ncontent-disposition: form-data; {head}\r\n\r\n".encode()
        whole += body + b"\r\n"
    return whole + end


PURPOSE = ('name="purpose"', b"batch")
FILE = ('name="file"; filename="in.jsonl"', b"some words")


def put(house: House, *parts: tuple[str, bytes], **options: Any) -> Answer:
    return house.post("/v1/files", form(*(parts or (PURPOSE, FILE))), headers=FORM, **options)


def test_an_uploaded_file_is_listed_shown_read_and_deleted() -> None:
    house = House()
    made = put(house)
    assert made.status == 200, made.body
    body = made.json()
    created = house.clock.unix_ms() // 1000
    assert body == {
        "id": body["id"],
        "object": "file",
        "bytes": 10,
        "created_at": created,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "expires_at": created + 86_400,
    }
    place = f"/v1/files/{body['id']}"
    assert house.get(place).json() == body
    listed = house.get("/v1/files").json()
    assert listed["data"] == [body]
    assert (listed["first_id"], listed["last_id"]) == (body["id"], body["id"])
    read = house.get(f"{place}/content")
    assert (read.status, read.body) == (200, b"some words")
    assert read.headers["content-type"] == "application/octet-stream"
    assert read.headers["content-length"] == "10"
    assert read.headers["x-content-type-options"] == "nosniff"
    gone = asyncio.run(house.send("DELETE", place))
    assert gone.json() == {"id": body["id"], "object": "file", "deleted": True}
    for path in (place, f"{place}/content"):
        assert (house.get(path).status, house.get(path).error["code"]) == (404, "not_found")


def test_fields_may_come_behind_the_file_and_say_when_it_expires() -> None:
    house = House()
    terms = (
        ('name="expires_after[anchor]"', b"created_at"),
        ('name="expires_after[seconds]"', b"3600"),
    )
    body = put(house, FILE, PURPOSE, *terms).json()
    assert body["expires_at"] - body["created_at"] == 3600


@pytest.mark.parametrize(
    ("given", "kept"),
    [("../../etc/passwd", "passwd"), ("C:\\dir\\a.txt", "a.txt"), ("a\tb", "ab"), ("dir/", "file")],
)
def test_a_files_name_is_no_path(given: str, kept: str) -> None:
    named = (f'name="file"; filename="{given}"', b"words")
    assert put(House(), PURPOSE, named).json()["filename"] == kept


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ((FILE,), "purpose"),
        ((('name="purpose"', b"fun"), FILE), "purpose"),
        ((('name="purpose"', b"batch_output"), FILE), "purpose"),
        ((PURPOSE,), "file"),
        ((PURPOSE, ('name="file"; filename="a"', b"")), "file"),
        ((PURPOSE, PURPOSE, FILE), "purpose"),
        ((PURPOSE, FILE, FILE), "file"),
        ((PURPOSE, ('name="image"; filename="a"', b"1")), "image"),
        ((PURPOSE, FILE, ('name="expires_after[seconds]"', b"3600")), "expires_after[anchor]"),
        (
            (
                PURPOSE,
                FILE,
                ('name="expires_after[anchor]"', b"created_at"),
                ('name="expires_after[seconds]"', b"3599"),
            ),
            "expires_after[seconds]",
        ),
    ],
)
def test_a_wrong_form_keeps_nothing(parts: tuple[tuple[str, bytes], ...], param: str) -> None:
    house = House()
    answer = put(house, *parts)
    assert (answer.status, answer.error["param"]) == (400, param)
    assert house.get("/v1/files").json()["data"] == []
    assert not house.files.arriving("a")


def test_json_is_no_form() -> None:
    answer = House().post("/v1/files", b"{}", headers={"content-type": "application/json"})
    assert (answer.status, answer.error["code"]) == (415, "request.media_type")


def test_a_form_gets_nowhere_with_a_foreign_origin() -> None:
    headers = {**FORM, "origin": "https://elsewhere.example"}
    answer = House().post("/v1/files", form(PURPOSE, FILE), headers=headers)
    assert (answer.status, answer.error["code"]) == (403, "forbidden")


def test_no_other_route_takes_a_form() -> None:
    answer = House().post("/v1/chat/completions", form(PURPOSE, FILE), headers=FORM)
    assert (answer.status, answer.error["code"]) == (415, "request.media_type")


def test_a_file_over_the_bound_is_refused_before_and_while_it_comes() -> None:
    house = House()
    most = FILE_LIMITS.file_bytes_max
    long = ('name="file"; filename="a"', bytes(most + 1))
    announced = {**FORM, "content-length": str(10 * most)}
    answer = house.post("/v1/files", form(PURPOSE, FILE), headers=announced)
    assert (answer.status, answer.error["code"]) == (413, "request.too_large")
    pieces = [form(PURPOSE, long)[at : at + 65_536] for at in range(0, most + 400, 65_536)]
    answer = house.post("/v1/files", pieces, headers=FORM)
    assert (answer.status, answer.error["code"]) == (413, "file.too_large")
    assert house.get("/v1/files").json()["data"] == []


def test_an_upload_that_breaks_off_leaves_nothing() -> None:
    house = House()

    async def story() -> None:
        begun = form(PURPOSE, ('name="file"; filename="a"', bytes(500_000)), end=b"")[:400_000]
        call, served = house.start("POST", "/v1/files", headers=FORM)
        news: list[Any] = [
            {"type": "http.request", "body": begun, "more_body": True},
            {"type": "http.disconnect"},
        ]

        async def receive() -> Any:
            return news.pop(0)

        call.receive = receive  # type: ignore[method-assign]
        await served
        assert not call.answer.status
        assert not house.files.arriving("a")
        answer = await house.send("POST", "/v1/files", form(PURPOSE, FILE, end=b""), headers=FORM)
        assert (answer.status, answer.error["code"]) == (400, "request.invalid")

    asyncio.run(story())
    assert house.get("/v1/files").json()["data"] == []


def test_lists_come_in_pages() -> None:
    house = House()
    ids: list[str] = []
    for purpose in (b"batch", b"user_data", b"batch"):
        house.clock.time_s += 1
        ids.append(put(house, ('name="purpose"', purpose), FILE).json()["id"])
    page = house.get("/v1/files?limit=2&order=asc").json()
    assert ([it["id"] for it in page["data"]], page["has_more"]) == (ids[:2], True)
    rest = house.get(f"/v1/files?limit=2&order=asc&after={page['last_id']}").json()
    assert ([it["id"] for it in rest["data"]], rest["has_more"]) == (ids[2:], False)
    newest = house.get("/v1/files?purpose=batch").json()
    assert [it["id"] for it in newest["data"]] == [ids[2], ids[0]]
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("order=up", "order")):
        answer = house.get(f"/v1/files?{query}")
        assert (answer.status, answer.error["param"]) == (400, param)
    assert house.get("/v1/files?after=file-x").status == 404


def test_a_content_that_ends_too_early_is_cut_off() -> None:
    async def story() -> None:
        house = House()
        async with house.files.upload("a") as upload:
            await upload.write(bytes(900_000))
            info = await upload.keep("a", "batch", expires_s=None)
        stream = house.kept._tenants["a"][f"file/{info.id}"]
        changed = msgspec.structs.replace(stream.entries[0], body=b"!" * 900_000)
        stream.entries[0] = changed
        call, served = house.start("GET", f"/v1/files/{info.id}/content")
        await served
        assert call.answer.status == 200
        assert not call.answer.ended, "the connection was dropped before the end"

    asyncio.run(story())


def test_a_log_that_is_out_refuses_the_upload() -> None:
    house = House()

    async def out(*args: Any, **options: Any) -> Any:
        raise LogUnavailableError("out", retry_s=1.0)

    house.kept.append = out  # type: ignore[method-assign]
    answer = put(house, PURPOSE, ('name="file"; filename="a"', bytes(min(PIECE_BYTES, 900_000))))
    assert (answer.status, answer.error["code"]) == (503, "log.unavailable")
