"""Every route of the gateway, tried with what belongs to another tenant.

A new route without a case here fails the first test.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from murmurate.core.ports import Entry
from tests.isolation.town import Town, content

Case = Callable[[Town], Awaitable[None]]

ABSENT = "0" * 26
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


async def chats(town: Town) -> None:
    """Agents, sessions, documents and cached answers stay with their tenant."""
    begun = await town.chat("acme", "remember ACME-WORD", session="new")
    session = begun.headers["x-murmurate-session"]
    body = {"model": "tiny", "messages": [{"role": "user", "content": "go on"}]}
    answer = await town.same(
        "birch",
        "POST",
        "/v1/chat/completions",
        names=(session, f"sess_{ABSENT}"),
        body=body,
        headers={"x-murmurate-session": "{name}"},
    )
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    body["model"] = "{name}"
    answer = await town.same(
        "birch", "POST", "/v1/chat/completions", names=("planner", "nobodys"), body=body
    )
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "planner" not in answer.error["message"].replace("'planner' is served", "")
    for who, name in (("birch", "filer"), ("birch", "porter"), ("acme", "planner")):
        found = content(await town.chat(who, "plans?", model=name))
        assert re.findall(r"the copy of (\w+)", found) == [who] * (2 if name == "planner" else 1)
        assert "ACME-SECRET" in found or who == "birch"
    again = content(await town.chat("acme", "remember ACME-WORD", session=session))
    assert "ACME-WORD" in again


async def completions(town: Town) -> None:
    """No prompt reaches another tenant's agent, or its session."""
    body = {"model": "{name}", "prompt": "hi"}
    names = ("planner", "nobodys")
    answer = await town.same("birch", "POST", "/v1/completions", names=names, body=body)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    begun = await town.chat("acme", "remember ACME-WORD", session="new")
    answer = await town.same(
        "birch",
        "POST",
        "/v1/completions",
        names=(begun.headers["x-murmurate-session"], f"sess_{ABSENT}"),
        body={"model": "tiny", "prompt": "hi"},
        headers={"x-murmurate-session": "{name}"},
    )
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def response_of_acme(town: Town, **fields: Any) -> str:
    """Let a tenant have a response stored."""
    body = {"model": "tiny", "input": "remember ACME-WORD", **fields}
    made = await town.call("acme", "POST", "/v1/responses", body)
    assert made.status == 200
    await town.work()
    response_id = made.json()["id"]
    shown = await town.call("acme", "GET", f"/v1/responses/{response_id}")
    assert "ACME-WORD" in shown.body.decode()
    return response_id


async def responses(town: Town) -> None:
    """No response continues another tenant's, refers to its items, or is another's agent's."""
    names = (await response_of_acme(town), f"resp_{ABSENT}")
    ask = {"model": "tiny", "input": "go on"}
    body = {**ask, "previous_response_id": "{name}"}
    answer = await town.same("birch", "POST", "/v1/responses", names=names, body=body)
    assert (answer.status, answer.error["param"]) == (404, "previous_response_id")
    items = tuple(f"msg_{name.partition('_')[2]}_0" for name in names)
    body = {**ask, "input": [{"type": "item_reference", "id": "{name}"}]}
    answer = await town.same(
        "birch", "POST", "/v1/responses", names=(items[0], items[1]), body=body
    )
    assert (answer.status, answer.error["param"]) == (404, "input[0].id")
    body = {**ask, "model": "{name}"}
    answer = await town.same(
        "birch", "POST", "/v1/responses", names=("planner", "nobodys"), body=body
    )
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    mine = {**ask, "previous_response_id": names[0]}
    assert "ACME-WORD" in (await town.call("acme", "POST", "/v1/responses", mine)).body.decode()


async def compacted(town: Town) -> None:
    """Nor is it shortened by others, or by another's agent's model."""
    names = (await response_of_acme(town), f"resp_{ABSENT}")
    body = {"model": "tiny", "previous_response_id": "{name}"}
    answer = await town.same("birch", "POST", "/v1/responses/compact", names=names, body=body)
    assert (answer.status, answer.error["param"]) == (404, "previous_response_id")
    body = {"model": "{name}", "input": "hi"}
    names = ("planner", "nobodys")
    answer = await town.same("birch", "POST", "/v1/responses/compact", names=names, body=body)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")


async def shown_response(town: Town) -> None:
    """A response is not shown to others, nor followed, wherever it was made."""
    for background in (False, True):
        names = (await response_of_acme(town, background=background), f"resp_{ABSENT}")
        for query in ("", "?stream=true"):
            place = "/v1/responses/{name}" + query
            answer = await town.same("birch", "GET", place, names=names)
            assert answer.status == 404


async def deleted_response(town: Town) -> None:
    """Nor deleted by them."""
    names = (await response_of_acme(town), f"resp_{ABSENT}")
    answer = await town.same("birch", "DELETE", "/v1/responses/{name}", names=names)
    assert answer.status == 404
    assert (await town.call("acme", "GET", f"/v1/responses/{names[0]}")).status == 200


async def cancelled_response(town: Town) -> None:
    """Nor cancelled."""
    body = {"model": "tiny", "input": "hi", "background": True}
    made = await town.call("acme", "POST", "/v1/responses", body)
    names = (made.json()["id"], f"resp_{ABSENT}")
    answer = await town.same("birch", "POST", "/v1/responses/{name}/cancel", names=names)
    assert answer.status == 404
    await town.work()
    shown = (await town.call("acme", "GET", f"/v1/responses/{names[0]}")).json()
    assert shown["status"] == "completed"


async def input_of_response(town: Town) -> None:
    """Nor is what was asked."""
    names = (await response_of_acme(town), f"resp_{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/responses/{name}/input_items", names=names)
    assert answer.status == 404


async def conversation_of_acme(town: Town) -> tuple[str, str]:
    """Let a tenant have a conversation; return its id and that of its item."""
    items = [{"role": "user", "content": "remember ACME-WORD"}]
    made = await town.call("acme", "POST", "/v1/conversations", {"items": items})
    place = f"/v1/conversations/{made.json()['id']}"
    [item] = (await town.call("acme", "GET", f"{place}/items")).json()["data"]
    assert item["content"][0]["text"] == "remember ACME-WORD"
    return made.json()["id"], item["id"]


async def conversations(town: Town) -> None:
    """Nothing goes on in another tenant's conversation, or begins with its items."""
    conversation, item = await conversation_of_acme(town)
    names = (conversation, f"conv_{ABSENT}")
    body = {"model": "tiny", "input": "go on", "conversation": "{name}"}
    answer = await town.same("birch", "POST", "/v1/responses", names=names, body=body)
    assert answer.status == 404
    made = await town.call("acme", "POST", "/v1/responses", {**body, "conversation": names[0]})
    assert "ACME-WORD" in made.body.decode()
    said = made.json()["output"][0]["id"]
    names = (said, f"msg_{ABSENT}_0")
    begin: dict[str, Any] = {"items": [{"type": "item_reference", "id": "{name}"}]}
    answer = await town.same("birch", "POST", "/v1/conversations", names=names, body=begin)
    assert (answer.status, answer.error["param"]) == (404, "items[0].id")
    assert item not in answer.body.decode()


def of_conversation(method: str, behind: str = "", body: dict[str, Any] | None = None) -> Case:
    """Return the case of a route that names a conversation, and perhaps an item of it."""

    async def case(town: Town) -> None:
        conversation, item = await conversation_of_acme(town)
        place = "/v1/conversations/{name}" + behind.replace("ITEM", item)
        names = (conversation, f"conv_{ABSENT}")
        answer = await town.same("birch", method, place, names=names, body=body)
        assert answer.status == 404
        shown = await town.call("acme", "GET", f"/v1/conversations/{conversation}/items")
        assert "ACME-WORD" in shown.body.decode()
        assert len(shown.json()["data"]) == 1

    return case


async def embeddings(town: Town) -> None:
    """Nothing is kept of them; the trace is the asker's."""
    body = {"model": "minilm", "input": "ACME-WORD"}
    answer = await town.call("acme", "POST", "/v1/embeddings", body)
    place = f"/api/traces/{answer.headers['x-murmurate-trace']}"
    assert (await town.call("acme", "GET", place)).status == 200
    assert (await town.call("birch", "GET", place)).status == 404


async def models(town: Town) -> None:
    """The agents of another tenant are not listed."""
    listed = (await town.call("birch", "GET", "/v1/models")).json()["data"]
    names = [model["id"] for model in listed]
    assert names == ["filer", "porter", "tiny", "minilm"]


async def model(town: Town) -> None:
    """Nor shown."""
    names = ("planner", "nobodys")
    answer = await town.same("birch", "GET", "/v1/models/{name}", names=names)
    assert answer.status == 404
    assert (await town.call("acme", "GET", "/v1/models/planner")).status == 200


async def session(town: Town) -> None:
    """A session is not found by others, and the same id in two tenants is two sessions."""
    begun = await town.chat("acme", "remember ACME-WORD", session="new")
    name = begun.headers["x-murmurate-session"]
    names = (name, f"sess_{ABSENT}")
    answer = await town.same("birch", "GET", "/api/sessions/{name}", names=names)
    assert answer.status == 404
    own = await town.chat("birch", "remember BIRCH-WORD", session="new")
    theirs = f"session/{own.headers['x-murmurate-session']}"
    entries = [entry async for entry in town.log.read("birch", theirs)]
    stream = f"session/{name}"
    await town.log.append([Entry("birch", stream, it.kind, it.body) for it in entries])
    for who, word, other in (("acme", "ACME", "BIRCH"), ("birch", "BIRCH", "ACME")):
        await town.chat(who, "and more", session=name)
        shown = (await town.call(who, "GET", f"/api/sessions/{name}")).body.decode()
        assert f"{word}-WORD" in shown
        assert "and more" in shown
        assert f"{other}-WORD" not in shown


async def run_of_acme(town: Town) -> str:
    """Begin a run for a tenant, and let the server finish it."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "remember ACME-WORD"}]}
    begun = await town.call("acme", "POST", "/api/runs", body)
    assert begun.status == 202
    run_id = begun.json()["id"]
    await town.work()
    assert "ACME-WORD" in (await town.call("acme", "GET", f"/api/runs/{run_id}")).body.decode()
    return run_id


async def new_run(town: Town) -> None:
    """No run is begun with another tenant's agent, or goes on in its session."""
    body = {"model": "{name}", "messages": [{"role": "user", "content": "hi"}]}
    names = ("planner", "nobodys")
    answer = await town.same("birch", "POST", "/api/runs", names=names, body=body)
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    begun = await town.chat("acme", "remember ACME-WORD", session="new")
    headers = {"x-murmurate-session": begun.headers["x-murmurate-session"]}
    body["model"] = "tiny"
    stray = await town.call("birch", "POST", "/api/runs", body, headers=headers)
    await town.work()
    shown = (await town.call("birch", "GET", f"/api/runs/{stray.json()['id']}")).body.decode()
    assert "not_found" in shown
    assert "ACME-WORD" not in shown


async def runs(town: Town) -> None:
    """Lists hold the tenant's own runs."""
    run_id = await run_of_acme(town)
    for who, ids in (("acme", [run_id]), ("birch", [])):
        listed = (await town.call(who, "GET", "/api/runs")).json()["runs"]
        assert [it["id"] for it in listed] == ids


async def shown_run(town: Town) -> None:
    """A run is not shown to others."""
    names = (await run_of_acme(town), f"run_{ABSENT}")
    answer = await town.same("birch", "GET", "/api/runs/{name}", names=names)
    assert answer.status == 404


async def followed_run(town: Town) -> None:
    """Nor followed by them."""
    names = (await run_of_acme(town), f"run_{ABSENT}")
    answer = await town.same("birch", "GET", "/api/runs/{name}/events", names=names)
    assert answer.status == 404


async def cancelled_run(town: Town) -> None:
    """Nor cancelled by them."""
    names = (await run_of_acme(town), f"run_{ABSENT}")
    answer = await town.same("birch", "POST", "/api/runs/{name}/cancel", names=names)
    assert answer.status == 404


async def resumed_run(town: Town) -> None:
    """Nor resumed by them."""
    names = (await run_of_acme(town), f"run_{ABSENT}")
    answer = await town.same("birch", "POST", "/api/runs/{name}/resume", names=names)
    assert answer.status == 404


async def replayed_run(town: Town) -> None:
    """Nor replayed by them, not even where the same agent is theirs, too."""
    body = {"model": "porter", "messages": [{"role": "user", "content": "plans?"}]}
    begun = await town.call("acme", "POST", "/api/runs", body)
    await town.work()
    run_id = begun.json()["id"]
    path, names = "/api/runs/{name}/replay", (run_id, f"run_{ABSENT}")
    answer = await town.same("birch", "POST", path, names=names)
    assert answer.status == 404
    own = await town.call("acme", "POST", f"/api/runs/{run_id}/replay")
    assert (own.status, len(own.json()["steps"])) == (200, 3)


async def asked_by_acme(town: Town) -> str:
    """Begin a run that waits for an approval; return its id."""
    body = {"model": "clerk", "messages": [{"role": "user", "content": "ACME-WORD?"}]}
    begun = await town.call("acme", "POST", "/api/runs", body)
    await town.work()
    return begun.json()["id"]


async def approvals(town: Town) -> None:
    """What an agent asks is shown to its own tenant."""
    run_id = await asked_by_acme(town)
    for who, runs_of in (("acme", [run_id]), ("birch", []), ("operator", [])):
        listed = (await town.call(who, "GET", "/api/approvals")).json()["approvals"]
        assert [it["run"] for it in listed] == runs_of


async def decided(town: Town) -> None:
    """And decided by nobody else."""
    run_id = await asked_by_acme(town)
    body = {"approve": True}
    for step in ("", ":2"):
        names = (run_id, f"run_{ABSENT}")
        path = f"/api/approvals/{{name}}{step}"
        assert (await town.same("birch", "POST", path, names=names, body=body)).status == 404
    shown = (await town.call("acme", "GET", f"/api/runs/{run_id}")).json()
    assert shown["status"] == "waiting for approval"


async def schedules(town: Town) -> None:
    """Lists hold the tenant's own schedules."""
    await town.service.schedules.take_up()
    for who, names in (("acme", ["brief"]), ("birch", []), ("operator", [])):
        listed = (await town.call(who, "GET", "/api/schedules")).json()["schedules"]
        assert [it["name"] for it in listed] == names


async def trace(town: Town) -> None:
    """A trace is not found by others, and the same id in two tenants is two traces."""
    first = (await town.chat("acme", "hi")).headers["x-murmurate-trace"]
    answer = await town.same("birch", "GET", "/api/traces/{name}", names=(first, "0" * 31 + "7"))
    assert answer.status == 404
    joined = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    await town.call("acme", "GET", "/v1/models", headers=joined)
    await town.call("birch", "GET", "/api/knowledge", headers=joined)
    for who, path in (("acme", "/v1/models"), ("birch", "/api/knowledge")):
        spans = (await town.call(who, "GET", f"/api/traces/{TRACE}")).json()["spans"]
        assert [span["attributes"]["path"] for span in spans] == [path]


async def knowledge(town: Town) -> None:
    """Each tenant sees its collections; who has none sees none."""
    for who, own in (("acme", ["plans", "hours"]), ("operator", [])):
        shown = (await town.call(who, "GET", "/api/knowledge")).json()["collections"]
        assert [it["collection"] for it in shown] == own


async def search(town: Town) -> None:
    """Passages are the tenant's own copies, and no other's collection can be named."""
    body = {"question": "plans?", "collections": ["{name}"]}
    names = ("plans", "nobodys")
    answer = await town.same("birch", "POST", "/api/search", names=names, body=body)
    assert answer.status == 404
    for who, other in (("acme", "birch"), ("birch", "acme")):
        found = (await town.call(who, "POST", "/api/search", {"question": "plans?"})).body.decode()
        assert f"the copy of {who}" in found
        assert f"the copy of {other}" not in found
        assert f"{other.upper()}-SECRET" not in found


async def ingest(town: Town) -> None:
    """The folder of another tenant is never read, neither by name nor with all others."""
    body = {"collections": ["{name}"]}
    names = ("plans", "nobodys")
    answer = await town.same("birch", "POST", "/api/ingest", names=names, body=body)
    assert answer.status == 404
    answer = await town.same(
        "birch", "POST", "/api/ingest", names=("acme", "nobodys"), body={"paths": ["/{name}/x.md"]}
    )
    assert answer.status == 404
    town.shelves.index.clear()
    assert (await town.call("birch", "POST", "/api/ingest")).status == 200
    filled = {place for place, documents in town.shelves.index.items() if documents}
    assert filled == {("birch", "files"), ("birch", "hours")}


UPLOAD = "\r\n".join(
    (
        "--x",
        'content-disposition: form-data; name="purpose"',
        "",
        "batch",
        "--x",
        'content-disposition: form-data; name="file"; filename="acme.jsonl"',
        "",
        "ACME-WORD",
        "--x--",
        "",
    )
).encode()
FORM = {"content-type": "multipart/form-data; boundary=x"}


async def file_of_acme(town: Town) -> str:
    """Upload a file for a tenant."""
    kept = await town.call("acme", "POST", "/v1/files", UPLOAD, headers=FORM)
    assert kept.status == 200, kept.body
    return kept.json()["id"]


async def new_file(town: Town) -> None:
    """What a tenant uploads takes none of another's room."""
    await file_of_acme(town)
    assert len((await town.call("acme", "GET", "/v1/files")).json()["data"]) == 1
    assert (await town.call("birch", "POST", "/v1/files", UPLOAD, headers=FORM)).status == 200
    assert len((await town.call("acme", "GET", "/v1/files")).json()["data"]) == 1


async def files(town: Town) -> None:
    """Lists hold the tenant's own files, also where another's is named as the place to go on."""
    file_id = await file_of_acme(town)
    for who, ids in (("acme", [file_id]), ("birch", []), ("operator", [])):
        listed = (await town.call(who, "GET", "/v1/files")).json()["data"]
        assert [it["id"] for it in listed] == ids
    names = (file_id, f"file-{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/files?after={name}", names=names)
    assert answer.status == 404


async def shown_file(town: Town) -> None:
    """A file is not shown to others."""
    names = (await file_of_acme(town), f"file-{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/files/{name}", names=names)
    assert (answer.status, answer.error["code"]) == (404, "not_found")


async def file_content(town: Town) -> None:
    """Nor read by them."""
    names = (await file_of_acme(town), f"file-{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/files/{name}/content", names=names)
    assert answer.status == 404
    own = await town.call("acme", "GET", f"/v1/files/{names[0]}/content")
    assert own.body == b"ACME-WORD"


async def file_gone(town: Town) -> None:
    """Nor deleted by them."""
    names = (await file_of_acme(town), f"file-{ABSENT}")
    answer = await town.same("birch", "DELETE", "/v1/files/{name}", names=names)
    assert answer.status == 404
    assert (await town.call("acme", "GET", f"/v1/files/{names[0]}")).status == 200


async def batch_of_acme(town: Town) -> str:
    """Begin a batch for a tenant."""
    body = {"input_file_id": await file_of_acme(town), "endpoint": "/v1/chat/completions"}
    begun = await town.call("acme", "POST", "/v1/batches", body)
    assert begun.status == 200, begun.body
    return begun.json()["id"]


async def new_batch(town: Town) -> None:
    """No batch is begun over another tenant's file, and lines ask what their tenant may ask."""
    body = {"input_file_id": "{name}", "endpoint": "/v1/chat/completions"}
    names = (await file_of_acme(town), f"file-{ABSENT}")
    answer = await town.same("birch", "POST", "/v1/batches", names=names, body=body)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
    asked = {"model": "planner", "messages": [{"role": "user", "content": "plans?"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": asked}
    upload = UPLOAD.replace(b"ACME-WORD", json.dumps(line).encode())
    for who, file in (("acme", "output_file_id"), ("birch", "error_file_id")):
        kept = (await town.call(who, "POST", "/v1/files", upload, headers=FORM)).json()
        body = {"input_file_id": kept["id"], "endpoint": "/v1/chat/completions"}
        batch = (await town.call(who, "POST", "/v1/batches", body)).json()
        done = await town.batch(who, batch["id"])
        assert done["status"] == "completed"
        found = await town.call(who, "GET", f"/v1/files/{done[file]}/content")
        assert ("ACME-SECRET" in found.body.decode()) is (who == "acme")
        assert ("model_not_found" in found.body.decode()) is (who == "birch")


async def batches(town: Town) -> None:
    """Lists hold the tenant's own batches, also where another's is the place to go on."""
    batch_id = await batch_of_acme(town)
    for who, ids in (("acme", [batch_id]), ("birch", []), ("operator", [])):
        listed = (await town.call(who, "GET", "/v1/batches")).json()["data"]
        assert [it["id"] for it in listed] == ids
    names = (batch_id, f"batch_{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/batches?after={name}", names=names)
    assert answer.status == 404
    lines = await town.call("birch", "GET", f"/api/runs?batch={batch_id}")
    assert lines.json()["runs"] == []


async def shown_batch(town: Town) -> None:
    """A batch is not shown to others."""
    names = (await batch_of_acme(town), f"batch_{ABSENT}")
    answer = await town.same("birch", "GET", "/v1/batches/{name}", names=names)
    assert answer.status == 404


async def cancelled_batch(town: Town) -> None:
    """Nor cancelled by them."""
    names = (await batch_of_acme(town), f"batch_{ABSENT}")
    answer = await town.same("birch", "POST", "/v1/batches/{name}/cancel", names=names)
    assert answer.status == 404
    own = (await town.call("acme", "GET", f"/v1/batches/{names[0]}")).json()
    assert own["status"] == "validating"


async def keys(town: Town) -> None:
    """Lists hold the tenant's own keys."""
    listed = (await town.call("birch", "GET", "/api/keys")).json()["keys"]
    assert [key["id"] for key in listed] == ["key_birch"]


async def new_key(town: Town) -> None:
    """No key is made for another tenant, whether it exists or not."""
    body = {"tenant": "{name}"}
    answer = await town.same("birch", "POST", "/api/keys", names=("acme", "nobody"), body=body)
    assert (answer.status, answer.error["code"]) == (403, "key.grant_too_wide")
    listed = (await town.call("operator", "GET", "/api/keys")).json()["keys"]
    assert len(listed) == 3


async def audit(town: Town) -> None:
    """A tenant's trail is its own; of an operator's deeds it hears that they were done."""
    await town.call("acme", "POST", "/api/keys", {"label": "ACME-KEY"})
    await town.call("operator", "DELETE", "/api/keys/key_birch")
    await town.call("operator", "POST", "/api/keys", {"label": "spare", "tenant": "birch"})
    await town.call("acme", "POST", "/api/ingest", {"collections": ["plans"]})
    refused = await town.call("birch", "GET", "/api/audit")
    assert refused.status == 401, "that was its only key"
    own = (await town.call("acme", "GET", "/api/audit")).json()["entries"]
    assert [entry["action"] for entry in own] == ["ingest", "key.created"]
    assert [entry["number"] for entry in own] == [2, 1], "numbers tell nothing of others"
    for query in ("?tenant=birch", "?tenant=default"):
        assert (await town.call("acme", "GET", f"/api/audit{query}")).status == 403
    done = {"label": "more", "tenant": "acme", "scopes": ["chat"]}
    await town.call("operator", "POST", "/api/keys", done)
    [newest, *_] = (await town.call("acme", "GET", "/api/audit")).json()["entries"]
    assert (newest["by"], newest["by_tenant"], newest["place"]) == (None, "default", None)
    every = (await town.call("operator", "GET", "/api/audit")).json()["entries"]
    assert {entry["tenant"] for entry in every} == {"acme", "birch"}
    assert every[0]["by"] == "key_operator"
    birchs = (await town.call("operator", "GET", "/api/audit?tenant=birch")).json()["entries"]
    assert [entry["action"] for entry in birchs] == ["key.created", "key.revoked"]


async def key(town: Town) -> None:
    """A key is not shown to others."""
    answer = await town.same("birch", "GET", "/api/keys/{name}", names=("key_acme", "key_none"))
    assert answer.status == 404


async def key_gone(town: Town) -> None:
    """Nor revoked by them."""
    answer = await town.same("birch", "DELETE", "/api/keys/{name}", names=("key_acme", "key_none"))
    assert answer.status == 404
    assert (await town.call("acme", "GET", "/v1/models")).status == 200


async def key_rotated(town: Town) -> None:
    """Nor rotated by them."""
    path, names = "/api/keys/{name}/rotate", ("key_acme", "key_none")
    assert (await town.same("birch", "POST", path, names=names)).status == 404
    assert (await town.call("acme", "GET", "/v1/models")).status == 200


async def page_without_tenants(town: Town, path: str) -> str:
    """What is open to everybody names no tenant and no id of theirs."""
    begun = await town.chat("acme", "remember ACME-WORD", model="planner", session="new")
    answer = await town.call(None, "GET", path)
    assert answer.status == 200
    page = answer.body.decode().lower()
    for word in ("acme", "birch", "key_", "sess_", begun.headers["x-murmurate-trace"]):
        assert word not in page
    return page


async def healthz(town: Town) -> None:
    await page_without_tenants(town, "/healthz")


async def readyz(town: Town) -> None:
    page = await page_without_tenants(town, "/readyz")
    assert not any(collection in page for collection in ("plans", "files", "hours"))


async def metrics(town: Town) -> None:
    await page_without_tenants(town, "/metrics")


async def usage(town: Town) -> None:
    """Nobody reads another tenant's book, but an operator."""
    for text in ("one", "two"):
        await town.chat("acme", text)
    await town.chat("birch", "three")
    await town.service.book.write()
    for who, requests in (("acme", 2), ("birch", 1)):
        answer = (await town.call(who, "GET", "/api/usage?by=")).json()
        assert answer["tenant"] == who
        assert [row["used"]["requests"] for row in answer["rows"]] == [requests]
    refused = await town.same("birch", "GET", "/api/usage?tenant={name}", names=("acme", "nobody"))
    assert refused.status == 403
    seen = (await town.call("operator", "GET", "/api/usage?by=&tenant=acme")).json()
    assert seen["rows"][0]["used"]["requests"] == 2


CASES: dict[tuple[str, str], Case] = {
    ("POST", "/v1/chat/completions"): chats,
    ("POST", "/v1/completions"): completions,
    ("POST", "/v1/responses"): responses,
    ("POST", "/v1/responses/compact"): compacted,
    ("GET", "/v1/responses/{id}"): shown_response,
    ("DELETE", "/v1/responses/{id}"): deleted_response,
    ("POST", "/v1/responses/{id}/cancel"): cancelled_response,
    ("GET", "/v1/responses/{id}/input_items"): input_of_response,
    ("POST", "/v1/conversations"): conversations,
    ("GET", "/v1/conversations/{id}"): of_conversation("GET"),
    ("POST", "/v1/conversations/{id}"): of_conversation("POST", body={"metadata": {"a": "b"}}),
    ("DELETE", "/v1/conversations/{id}"): of_conversation("DELETE"),
    ("POST", "/v1/conversations/{id}/items"): of_conversation(
        "POST", "/items", {"items": [{"role": "user", "content": "hi"}]}
    ),
    ("GET", "/v1/conversations/{id}/items"): of_conversation("GET", "/items"),
    ("GET", "/v1/conversations/{id}/items/{item}"): of_conversation("GET", "/items/ITEM"),
    ("DELETE", "/v1/conversations/{id}/items/{item}"): of_conversation("DELETE", "/items/ITEM"),
    ("POST", "/v1/embeddings"): embeddings,
    ("POST", "/v1/files"): new_file,
    ("GET", "/v1/files"): files,
    ("GET", "/v1/files/{id}"): shown_file,
    ("GET", "/v1/files/{id}/content"): file_content,
    ("DELETE", "/v1/files/{id}"): file_gone,
    ("POST", "/v1/batches"): new_batch,
    ("GET", "/v1/batches"): batches,
    ("GET", "/v1/batches/{id}"): shown_batch,
    ("POST", "/v1/batches/{id}/cancel"): cancelled_batch,
    ("GET", "/v1/models"): models,
    ("GET", "/v1/models/{id}"): model,
    ("GET", "/api/usage"): usage,
    ("GET", "/api/sessions/{id}"): session,
    ("POST", "/api/runs"): new_run,
    ("GET", "/api/runs"): runs,
    ("GET", "/api/runs/{id}"): shown_run,
    ("GET", "/api/runs/{id}/events"): followed_run,
    ("POST", "/api/runs/{id}/cancel"): cancelled_run,
    ("POST", "/api/runs/{id}/resume"): resumed_run,
    ("POST", "/api/runs/{id}/replay"): replayed_run,
    ("GET", "/api/approvals"): approvals,
    ("POST", "/api/approvals/{id}"): decided,
    ("GET", "/api/schedules"): schedules,
    ("GET", "/api/traces/{id}"): trace,
    ("GET", "/api/knowledge"): knowledge,
    ("POST", "/api/ingest"): ingest,
    ("POST", "/api/search"): search,
    ("GET", "/api/keys"): keys,
    ("POST", "/api/keys"): new_key,
    ("GET", "/api/keys/{id}"): key,
    ("DELETE", "/api/keys/{id}"): key_gone,
    ("POST", "/api/keys/{id}/rotate"): key_rotated,
    ("GET", "/api/audit"): audit,
    ("GET", "/healthz"): healthz,
    ("GET", "/readyz"): readyz,
    ("GET", "/metrics"): metrics,
}


def test_every_route_has_a_case() -> None:
    async def story() -> None:
        app = (await Town().open()).service.app
        routes = {(route.method, route.path) for route in app.routes}
        assert set(CASES) == routes | {("GET", path) for path in app.open_paths}

    asyncio.run(story())


@pytest.mark.parametrize("place", CASES, ids=" ".join)
def test_nothing_of_another_tenant_comes_through(place: tuple[str, str]) -> None:
    async def story() -> None:
        await CASES[place](await Town().open())

    asyncio.run(story())


def test_the_same_question_of_two_tenants_is_answered_twice() -> None:
    async def story() -> None:
        town = await Town().open()
        for model in ("tiny", "porter"):
            first, again = [content(await town.chat("acme", "when?", model=model)) for _ in "12"]
            assert first == again, "the cache works at all"
            other = content(await town.chat("birch", "when?", model=model))
            assert other.split(" to ")[0] != first.split(" to ")[0]

    asyncio.run(story())


def test_a_search_past_the_agents_finds_nothing_of_another_tenant() -> None:
    async def story() -> None:
        town = await Town().open()
        search = town.service.collections.search
        found = await search("birch", ["plans", "hours"], "plans office", limit=5)
        assert {passage.collection for passage in found} == {"hours"}
        version = town.service.collections.version
        assert version("birch", ["plans"]) != version("acme", ["plans"])

    asyncio.run(story())


def test_events_name_no_tenant_and_no_key() -> None:
    async def story() -> None:
        town = await Town().open()
        await town.chat("acme", "remember ACME-WORD", session="new")
        await town.call("birch", "GET", "/api/keys/key_acme")
        assert len(town.events.events) >= 2
        said = str(town.events.events).lower()
        assert "acme" not in said
        assert "key_" not in said

    asyncio.run(story())


def test_one_tenant_that_is_too_fast_slows_no_other() -> None:
    async def story() -> None:
        town = await Town().open()
        fast = [(await town.call("acme", "GET", "/v1/models")).status for _ in range(70)]
        assert fast[-1] == 429
        assert (await town.call("birch", "GET", "/v1/models")).status == 200

    asyncio.run(story())
