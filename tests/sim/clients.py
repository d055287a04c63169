"""The clients: what they do, as the seed says, and what each of them makes of its answers.

A client is a story: it asks, looks at the answer, asks again, or leaves. What it has seen it writes
into the book; the book and the log are compared at the end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from tests.sim.answers import Answer, read_chat
from tests.sim.book import Book, Outcome, Turn
from tests.sim.chat import LOOKUP, Chat, asked, fresh, hearing_faults, resent, user
from tests.sim.connection import Ask, Call
from tests.sim.deciders import Deciders
from tests.sim.invariants import SHARED_TRACE, check_call
from tests.sim.mistakes import MISTAKES
from tests.sim.outside import THINGS
from tests.sim.questions import about, for_agent, for_model
from tests.sim.world import KEYS, TENANTS, World

MODELS = ("tiny", "warm")
AGENTS = ("assistant", "writer")
LEAVES_SHARE = 0.12
HASTY = "mur_default_hasty"
OPERATOR = "mur_default_1"
ENDS_WITHIN_S = 1e-6
BUSY = frozenset({429, 502, 503})
"""A client must be ready for these at any time; anything else must be what it asked for."""


class Clients:
    """All clients of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance("clients")
        self.book = Book()
        self._signed: dict[tuple[str, str], tuple[str, str, str]] = {}
        self._deciders = Deciders(world, self._expect)
        self._searchable: dict[tuple[str, str], int] = {}
        self._stories: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._single, 40),
            (self._session, 22),
            (self._client_tools, 8),
            (self._wrong, 10),
            (self._crowd, 2),
            (self._hasty, 1),
            (self._snoop, 5),
            (self._edit, 4),
            (self._look, 4),
            (self._embed, 3),
            (self._short_lived, 4),
            (self._asking, 4),
        ]

    async def story(self) -> None:
        """Live one client's story."""
        stories, weights = zip(*self._stories, strict=True)
        [story] = self._chance.choices(stories, weights)
        await story()

    async def _single(self) -> None:
        chance = self._chance
        chat = self._chat(self._key(), chance.choice((*MODELS, *AGENTS)))
        for _ in range(3):
            call, _ = await self._ask(chat)
            if call.status not in BUSY:
                return
            await self._world.clock.sleep(float(call.headers.get("retry-after", "1")))

    async def _session(self) -> None:
        """Several turns of one conversation; sometimes two at a time, sometimes to nobody's joy."""
        world, chance = self._world, self._chance
        key, model = self._key(), chance.choice((*MODELS, *AGENTS))
        session: str | None = None
        # Some conversations are like nobody else's, others are the same word for word.
        marker = f"c{len(world.calls)} " if chance.random() < 0.5 else ""
        for number in range(chance.randint(2, 6)):
            turns = 2 if session and chance.random() < 0.15 else 1
            stories: list[asyncio.Task[None]] = []
            chats = [
                self._chat(key, model, suffix=f" ({marker}t{number}{twin})")
                for twin in "ab"[:turns]
            ]
            for chat in chats:
                if session and chance.random() < 0.3:
                    turns_before = self.book.acknowledged(session)[-chance.randint(1, 3) :]
                    chat.messages = [*resent(turns_before), *chat.messages]
                stories.append(world.spawn(self._turn(chat, session)))
            for story in stories:
                await story
            session = session or self._newest_session(chats[0].tenant, chats[0].messages)
            if session and not self.book.may_exist(session):
                session = None
            await world.clock.sleep(chance.expovariate(1.0))
        if session and self.book.acknowledged(session):
            await self._read_back(key, session)

    async def _turn(self, chat: Chat, session: str | None) -> None:
        """Send one turn of a session and write down what became of it."""
        chat.session = session or "new"
        stored = [] if session is None else self.book.acknowledged(session)
        chat.statuses |= set() if stored or session is None else {404}
        chat.heard_min = sum(turn.asked for turn in stored)
        added = fresh(chat.messages, begins=session is None)
        turn = Turn(
            tenant=chat.tenant,
            session=session,
            said=tuple(m["content"] for m in added),
            asked=asked(added),
            sent_s=self._world.loop.now_s,
        )
        call, answer = await self._ask(chat)
        turn.session = call.headers.get("x-murmurate-session", session)
        turn.answer = answer.text
        turn.calls = tuple(c["function"]["name"] for c in answer.tool_calls)
        turn.ended_s = self._world.loop.now_s
        if answer.reason is not None:
            turn.outcome = Outcome.ACKNOWLEDGED
        elif call.refused_to_connect or (call.ends and not call.broken):
            may_be_finished = answer.error is not None and answer.error.code == "run.open"
            turn.outcome = Outcome.UNKNOWN if may_be_finished else Outcome.REFUSED
        self.book.note(turn)

    async def _client_tools(self) -> None:
        """A model asks for a tool of the client's; with or without a session."""
        chance = self._chance
        key, model = self._key(), chance.choice(MODELS)
        chat = self._chat(key, model)
        word = f"tool {chance.choice(('x', 'y'))}"
        chat.messages, chat.question, chat.tools = [user(word)], None, [LOOKUP]
        stores = chance.random() < 0.5
        before = len(self.book.turns)
        if stores:
            await self._turn(chat, None)
            session = self._newest_session(chat.tenant, chat.messages)
            turns = [t for t in self.book.turns[before:] if t.session == session]
            if session is None or not turns or turns[-1].outcome is not Outcome.ACKNOWLEDGED:
                return
        else:
            session = None
            _, answer = await self._ask(chat)
            if answer.reason != "tool_calls":
                return
        call = {"id": "call_1", "function": {"name": "lookup", "arguments": "{}"}}
        again = self._chat(key, model)
        again.tools = [LOOKUP]
        again.question = None
        again.messages = [
            user(word),
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        ]
        if session is None:
            await self._ask(again)
        else:
            await self._turn(again, session)

    async def _crowd(self) -> None:
        """More at a time than the lane has places; a few of the other lane come in between."""
        chance = self._chance
        model, lane = chance.choice(MODELS), chance.choice(("urgent", "batch"))
        keys = [key for key in KEYS if key != HASTY]
        together_s = self._world.loop.now_s + chance.uniform(0.5, 2.0)
        for number in range(chance.randint(15, 30)):
            chat = self._chat(chance.choice(keys), model, suffix=f" {number}")
            chat.lane = chance.choice(("urgent", "batch")) if number % 5 == 4 else lane
            if chance.random() < 0.5:
                chat.leaves_at_s = together_s
            self._world.spawn(self._alone(chat))
            if chance.random() < 0.3:
                await self._world.clock.sleep(chance.uniform(0.0, 0.2))

    async def _hasty(self) -> None:
        """One key asks faster than it may."""
        for _ in range(50):
            ask = Ask(method="GET", path="/v1/models", headers=_headers(HASTY))
            self._world.spawn(self._expect(ask, {200, 429, 503}))
            await self._world.clock.sleep(0.01)

    async def _alone(self, chat: Chat) -> None:
        await self._ask(chat)

    async def _wrong(self) -> None:
        """Ask for what must be refused, and be told why."""
        good = msgspec.json.encode({"model": "tiny", "messages": [user("say ash")]})
        ask = Ask(headers=_headers(self._key()), body=good)
        mistake, status = self._chance.choice(MISTAKES)
        mistake(ask)
        await self._expect(ask, {status, *(BUSY if ask.counted else ())})

    async def _snoop(self) -> None:
        """Try what belongs to another tenant: its sessions and traces do not exist."""
        key = self._key()
        tenant = KEYS[key]
        chance = self._chance
        if sessions := self.book.sessions(not_of=tenant):
            session = chance.choice(sessions)
            path = f"/api/sessions/{session}"
            await self._expect(Ask(method="GET", path=path, headers=_headers(key)), {404, 429, 503})
            chat = self._chat(key, "tiny")
            chat.session, chat.statuses = session, frozenset({404})
            await self._ask(chat)
        path = f"/api/traces/{SHARED_TRACE}"
        ask = Ask(method="GET", path=path, headers=_headers(key))
        call = await self._expect(ask, {200, 404, 429, 503})
        if call.status == 200:
            body = msgspec.json.decode(b"".join(call.pieces))
            if {span["tenant"] for span in body["spans"]} != {tenant}:
                self._world.fail(f"{tenant} sees {body}")
        spans = [s[0] for s in self._world.traces.kept.values()]
        theirs = [s for s in spans if s.tenant != tenant and s.trace_id != SHARED_TRACE]
        if theirs:
            path = f"/api/traces/{chance.choice(theirs).trace_id}"
            await self._expect(Ask(method="GET", path=path, headers=_headers(key)), {404, 429, 503})

    async def _edit(self) -> None:
        """Change documents and read the folder again; from then on nothing older is quoted."""
        world, chance = self._world, self._chance
        key, thing = self._key(), chance.choice(THINGS)
        await self._ask(self._find(key, thing))
        for changed in (thing, *chance.sample(THINGS, 2)):
            world.library.edit(changed)
        for _ in range(4):
            world.spawn(self._later(self._find(key, thing), chance.uniform(0.0, 0.2)))
        await self._ingest(key)
        await self._ask(self._find(key, thing))

    async def _ingest(self, key: str) -> None:
        """Read the folder; what stood in it is searchable when this has come to its end."""
        editions = dict(self._world.library.editions)
        ask = Ask(path="/api/ingest", headers=_headers(key), body=b'{"collections":["docs"]}')
        self._may_leave(ask)
        call = await self._expect(ask, {200, 429, 503})
        if call.status == 200 and call.ends and b'"step":"done"' in call.pieces[-2]:
            for thing, edition in editions.items():
                place = KEYS[key], thing
                self._searchable[place] = max(self._searchable.get(place, 0), edition)

    def _find(self, key: str, thing: str) -> Chat:
        """Return a question about a document, the same from everybody."""
        question = about(thing, "assistant")
        messages = [user(question.text)]
        return Chat(key=key, model="assistant", question=question, messages=messages)

    async def _later(self, chat: Chat, after_s: float) -> None:
        await self._world.clock.sleep(after_s)
        await self._ask(chat)

    async def _look(self) -> None:
        """Look around."""
        places = ("/v1/models", "/v1/models/tiny", "/healthz", "/readyz", "/api/knowledge")
        path = self._chance.choice(places)
        ask = Ask(method="GET", path=path, headers=_headers(self._key()))
        ask.counted = path not in ("/healthz", "/readyz")
        await self._expect(ask, {200, 429, 503})

    async def _embed(self) -> None:
        body = msgspec.json.encode({"model": "minilm", "input": ["one", "three"]})
        ask = Ask(path="/v1/embeddings", headers=_headers(self._key()), body=body)
        call = await self._expect(ask, {200, 429, 503})
        if call.status == 200 and b'"embedding":[5.0]' not in call.pieces[0]:
            self._world.fail(f"embeddings: {call.pieces}")

    async def _short_lived(self) -> None:
        """Make a key, use it, and end it meanwhile: from then on it opens nothing, for good.

        What expires does so by the wall clock, so nothing is promised of it when that is set.
        """
        world, chance = self._world, self._chance
        tenant, expires_s = chance.choice(TENANTS), chance.choice((None, None, 1))
        wanted = {"tenant": tenant, "scopes": ["chat"]}
        if expires_s is not None:
            wanted["expires"] = f"{expires_s}s"
        ask = Ask(path="/api/keys", headers=_headers(OPERATOR), body=msgspec.json.encode(wanted))
        made = await self._expect(ask, {200, 429, 503})
        if made.status != 200 or not made.ends:
            return
        key = msgspec.json.decode(b"".join(made.pieces))
        chats = [self._chat(key["secret"], chance.choice((*MODELS, *AGENTS))) for _ in "123"]
        for chat in chats:
            chat.owner, chat.statuses = tenant, frozenset({200, 401})
        using = [world.spawn(self._alone(chat)) for chat in chats[:2]]
        await world.clock.sleep(chance.uniform(0.0, 1.0))
        if expires_s is None:
            ask = Ask(method="DELETE", path=f"/api/keys/{key['id']}", headers=_headers(OPERATOR))
            gone = await self._expect(ask, {200, 429, 503})
            if gone.status != 200 or not gone.ends:
                return
        else:
            await world.clock.sleep(expires_s)
        ended_s = world.loop.now_s
        await asyncio.gather(*using)
        if expires_s is not None and not world.clock.is_steady:
            return
        if world.loop.now_s - ended_s > ENDS_WITHIN_S:
            world.fail(f"key {key['id']} was in use {world.loop.now_s - ended_s:.3f} s too long")
        chats[2].statuses = frozenset({401})
        ask = self._encoded(chats[2])
        ask.counted = False
        await self._expect(ask, {401})

    async def _asking(self) -> None:
        """An agent asks, and somebody decides, or tries to."""
        await self._deciders.story(self._key())

    async def _read_back(self, key: str, session: str) -> None:
        """Read the stored session: all that was acknowledged is there, in order."""
        turns = self.book.acknowledged(session)
        ask = Ask(method="GET", path=f"/api/sessions/{session}", headers=_headers(key))
        call = await self._expect(ask, {200, 429, 503})
        if call.status == 200:
            body = msgspec.json.decode(b"".join(call.pieces))
            turns_shown = [m["parts"] for m in body["messages"] if m["role"] == "assistant"]
            shown = ["".join(p.get("text", "") for p in parts) for parts in turns_shown]
            for turn in turns:
                if turn.answer not in shown:
                    self._world.fail(f"session {session} is shown without {turn}")

    async def _expect(self, ask: Ask, statuses: set[int]) -> Call:
        """Send a request; its status must be one of these."""
        call = await self._world.call(ask)
        check_call(self._world, call)
        if not call.broken and not call.refused_to_connect and call.status not in statuses:
            self._world.fail(f"call {call.number} {ask.path}: {call.status} {call.pieces}")
        return call

    async def _ask(self, chat: Chat) -> tuple[Call, Answer]:
        """Send a chat and judge what came back."""
        editions = dict(self._searchable)
        ask = self._encoded(chat)
        call = await self._expect(ask, {*chat.statuses, *BUSY})
        answer = Answer() if call.refused_to_connect else read_chat(call)
        for what in self._wrongs(chat, call, answer, editions):
            about = f"{chat.tenant} {chat.model} {chat.messages[-1]} session={chat.session}"
            self._world.fail(f"call {call.number} {about}: {what}")
        return call, answer

    def _wrongs(
        self, chat: Chat, call: Call, answer: Answer, editions: dict[tuple[str, str], int]
    ) -> list[str]:
        """Return what is wrong with an answer."""
        if not call.broken and not call.refused_to_connect:
            if answer.done == (answer.error is not None and call.status == 200):
                return ["it ends neither, or both, with an error and the end mark"]
            if (answer.reason is not None) != (call.status == 200 and answer.error is None):
                return [f"finish_reason is {answer.reason} with {answer.error}"]
        wrong = list(answer.wrong)
        if answer.reason is None or chat.question is None:
            return wrong
        found = chat.question.answers.fullmatch(answer.text)
        if found is None or answer.reason != chat.question.reason:
            return [*wrong, f"answered {answer.text!r}, finish_reason {answer.reason}"]
        return [*wrong, *self._judge_signature(chat, found.groupdict(), editions)]

    def _judge_signature(
        self, chat: Chat, facts: dict[str, str | None], editions: dict[tuple[str, str], int]
    ) -> list[str]:
        """Whose answer is it, how old is it, and who has had it before?"""
        assert chat.question is not None
        wrong = [
            f"the answer belongs to {facts[name]}"
            for name in ("tenant", "signer")
            if facts.get(name) not in (None, chat.tenant)
        ]
        oldest = editions.get((chat.tenant, chat.question.thing or ""), 0)
        if int(facts.get("edition") or 0) < oldest:
            wrong.append(f"it quotes edition {facts['edition']}; {oldest} is searchable")
        if (heard := facts.get("heard")) and chat.model != "assistant":  # which forgets old ones
            wrong += hearing_faults(chat, int(heard))
        if number := facts.get("number"):
            about_it = (chat.tenant, chat.model, chat.question.text)
            signature = (str(facts["model"]), number)
            before = self._signed.setdefault(signature, about_it)
            again = before is not about_it
            if again and (before != about_it or not chat.cacheable):
                wrong.append(f"answer {signature} was given to {before} before")
        return wrong

    def _chat(self, key: str, model: str, suffix: str = "") -> Chat:
        """Return a chat about something that this model can answer."""
        chance = self._chance
        question = for_model(chance) if model in MODELS else for_agent(chance, model)
        if suffix:
            question = question.within(suffix)
        messages = [user(question.text)]
        if chance.random() < 0.2:
            messages.insert(0, {"role": "system", "content": "Be brief."})
        return Chat(
            key=key,
            model=model,
            question=question,
            messages=messages,
            stream=chance.random() < 0.5,
            lane=chance.choice((None, None, "urgent", "batch")),
            temperature=chance.choice((None, None, None, 0.0, 1.0)),
        )

    def _encoded(self, chat: Chat) -> Ask:
        """Return the request of a chat, from a client that may be slow, or leave."""
        chance = self._chance
        body: dict[str, Any] = {"model": chat.model, "messages": chat.messages}
        if chat.stream:
            body["stream"] = True
            if chance.random() < 0.5:
                body["stream_options"] = {"include_usage": True}
        if chat.temperature is not None:
            body["temperature"] = chat.temperature
        if chat.question and chat.question.tokens_max:
            body["max_tokens"] = chat.question.tokens_max
        if chat.tools:
            body["tools"] = chat.tools
        headers = _headers(chat.key)
        if chat.lane:
            headers["x-murmurate-lane"] = chat.lane
        if chance.random() < 0.1:
            headers["traceparent"] = f"00-{SHARED_TRACE}-00f067aa0ba902b7-01"
        if chat.session:
            headers["x-murmurate-session"] = chat.session
        ask = Ask(headers=headers, body=msgspec.json.encode(body))
        ask.pieces = chance.choice((1, 1, 1, 3))
        read_s = chance.choice((0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 0.05, 1.0))
        # How fast the end of a key ends an answer must not hang on how fast it is read.
        ask.read_s = 0.0 if chat.owner else read_s
        ask.leaves_at_s = chat.leaves_at_s
        if ask.leaves_at_s is None:
            self._may_leave(ask)
        return ask

    def _may_leave(self, ask: Ask) -> None:
        chance = self._chance
        if chance.random() < LEAVES_SHARE:
            if chance.random() < 0.5:
                ask.leaves_after_s = chance.choice((0.0, 0.005, chance.uniform(0.0, 1.0)))
            else:
                ask.leaves_after_pieces = chance.randint(1, 6)

    def _key(self) -> str:
        return self._chance.choice([key for key in KEYS if key != HASTY])

    def _newest_session(self, tenant: str, messages: list[dict[str, Any]]) -> str | None:
        """Return the session that this client's first turn has started, if it heard of it."""
        said = tuple(m["content"] for m in fresh(messages, begins=True))
        for turn in reversed(self.book.turns):
            if (turn.tenant, turn.said) == (tenant, said):
                return turn.session
        return None


def _headers(key: str) -> dict[str, str]:
    return {"host": "localhost:8080", "authorization": f"Bearer {key}"}
