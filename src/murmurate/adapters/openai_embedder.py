"""Any server that speaks OpenAI's embeddings, as an `Embedder`: batched, tried again, checked."""

import asyncio
import random
from collections.abc import Sequence

import aiohttp

from murmurate.adapters.openai_vectors import Batch, Encoding, batches, decode, encode
from murmurate.adapters.remote import (
    connector_to,
    open_session,
    refusal_of,
    retry_after_s,
    said_by,
    tls_context,
    why_unreachable,
)
from murmurate.config import EmbeddingsConfig, Remote
from murmurate.core.clock import Clock
from murmurate.core.errors import (
    BadRequestError,
    EngineFailedError,
    EngineUnreachableError,
    MurmurateError,
    OverloadedError,
)
from murmurate.core.ports import Embeddings

ATTEMPTS_MAX = 4
PAUSE_S = 0.5
"""Before the second attempt; twice as long before each further one, and by chance half more."""

CONNECT_S = 5.0
CONNECTIONS_MAX = 4
BODY_BYTES_MAX = 64 * 1024 * 1024
REFUSAL_S = 5.0
REFUSAL_BYTES_MAX = 64 * 1024
AGAIN = {408, 425, 500, 502, 503, 504, 529}


class OpenAIEmbedder:
    """An embedder behind a URL. Safe for many calls at once; `CONNECTIONS_MAX` go out together."""

    def __init__(
        self, config: EmbeddingsConfig, remote: Remote, *, clock: Clock, chance: random.Random
    ) -> None:
        assert config.model is not None, "the configuration was checked"
        self._config = config
        self._model = config.model
        self._remote = remote
        self._clock = clock
        self._chance = chance
        self._encoding = Encoding.BASE64
        self._dimensions = config.dimensions
        self._free = asyncio.Semaphore(CONNECTIONS_MAX)
        self._tls = tls_context(remote)
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The model's name."""
        return self._model

    @property
    def dimensions(self) -> int | None:
        """The numbers of a vector: as configured, else as the first answer had them."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Embeddings:
        """Return one unit vector a text, in order.

        Busy and failing servers are asked again after the time that they name: `ATTEMPTS_MAX` times
        in all, within `timeout_s`. `BadRequestError`: a text is refused, as one that is too long.
        `EngineUnreachableError`, `EngineFailedError`, `OverloadedError`: it does not work.
        """
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._caught(batch))
                for batch in batches(texts, texts_max=self._config.batch_texts)
            ]
        made: list[Batch] = []
        for task in tasks:
            found = task.result()
            if isinstance(found, MurmurateError):
                raise found
            made.append(found)
        vectors = tuple(vector for batch in made for vector in batch.vectors)
        return Embeddings(vectors, sum(batch.tokens for batch in made))

    async def close(self) -> None:
        """Close the connections; what is under way fails."""
        if self._session is not None:
            await self._session.close()

    async def _caught(self, texts: Sequence[str]) -> Batch | MurmurateError:
        """Return an error of ours as a value: a group would wrap it."""
        try:
            async with self._free:
                return await self._embedded(texts)
        except MurmurateError as error:
            return error

    async def _embedded(self, texts: Sequence[str]) -> Batch:
        """Embed one batch, trying again where that can help and while its time lasts."""
        give_up_s = self._clock.now_s() + self._config.timeout_s
        pause_s = PAUSE_S
        for attempts_left in range(ATTEMPTS_MAX - 1, -1, -1):
            try:
                return await self._attempt(texts)
            except MurmurateError as error:
                if error.retry_s is None or not attempts_left:
                    raise
                wait_s = max(pause_s * (1 + self._chance.random() / 2), error.retry_s)
                if self._clock.now_s() + wait_s > give_up_s:
                    raise
            await self._clock.sleep(wait_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, texts: Sequence[str]) -> Batch:
        """Send one request. Errors with `retry_s` are those that may pass."""
        encoding = self._encoding
        body = encode(texts, self._model, dimensions=self._config.dimensions, encoding=encoding)
        try:
            async with (
                asyncio.timeout(self._config.timeout_s),
                self._opened().post(
                    f"{self._remote.url}/embeddings", data=body, allow_redirects=False
                ) as response,
            ):
                if response.status != 200:
                    raise await self._refusal(response, encoding)
                answer = await self._whole(response)
        except aiohttp.ConnectionTimeoutError as cause:
            raise self._unreachable(cause) from cause
        except TimeoutError as cause:
            raise EngineUnreachableError(
                f"{self._model} took longer than {self._config.timeout_s:g} s", retry_s=0
            ) from cause
        except aiohttp.ClientError as cause:
            raise self._unreachable(cause) from cause
        batch = decode(answer, len(texts), name=self._model, dimensions=self._dimensions)
        self._dimensions = len(batch.vectors[0])
        return batch

    async def _whole(self, response: aiohttp.ClientResponse) -> bytes:
        answer = bytearray()
        async for chunk in response.content.iter_any():
            answer += chunk
            if len(answer) > BODY_BYTES_MAX:
                raise EngineFailedError(f"{self._model} answered over {BODY_BYTES_MAX} bytes")
        return bytes(answer)

    async def _refusal(
        self, response: aiohttp.ClientResponse, encoding: Encoding
    ) -> MurmurateError:
        """Return the error that stands for a status other than 200."""
        body = await refusal_of(response.content, bytes_max=REFUSAL_BYTES_MAX, seconds=REFUSAL_S)
        said = said_by(self._remote, body)
        detail = said.detail
        status, name = response.status, self._model
        wait_s = retry_after_s(response.headers, unix_ms=self._clock.unix_ms(), default_s=0)
        if status in (401, 403):
            return EngineUnreachableError(f"{name} refuses its key ({status}): embeddings.key")
        if status == 404:
            return EngineUnreachableError(
                f"there is no {name} (404): check embeddings.url and embeddings.model"
            )
        if status == 429 and said.code == "insufficient_quota":
            return EngineUnreachableError(f"{name}: the account's quota is used up (429)")
        if status == 429:
            return OverloadedError(f"{name} is busy (429): {detail}", retry_s=wait_s)
        if status in AGAIN:
            return EngineFailedError(f"{name} answered {status}: {detail}", retry_s=wait_s)
        if status in (400, 422) and encoding is Encoding.BASE64 and "encoding" in said.message:
            self._encoding = Encoding.FLOAT  # it knows no other: ask again so
            return EngineFailedError(f"{name} answered {status}: {detail}", retry_s=0)
        if 400 <= status < 500:
            return BadRequestError(f"{name}: {detail}", param="input")
        return EngineFailedError(f"{name} answered {status}: {detail}")

    def _unreachable(self, cause: aiohttp.ClientError) -> EngineUnreachableError:
        lasting = isinstance(cause, aiohttp.ClientSSLError | aiohttp.ClientHttpProxyError)
        return EngineUnreachableError(
            f"{self._model} cannot be reached ({why_unreachable(cause)})",
            retry_s=None if lasting else 0,
        )

    def _opened(self) -> aiohttp.ClientSession:
        """Return the session, made inside the loop that uses it."""
        if self._session is None:
            self._session = open_session(
                self._remote,
                connector=connector_to(self._tls, connections_max=CONNECTIONS_MAX),
                connect_s=CONNECT_S,
                accept="application/json",
            )
        return self._session
