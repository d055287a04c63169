"""LangGraph's durable steps a second: graphs of trivial nodes, and its checkpointer alone.

Run by `durable.py` with the Python of LangGraph's own environment:

    langgraph_steps.py STORE RUNS STEPS    # STORE: a file for SQLite, or postgresql://…

Each node returns 500 bytes, which the state collects, as a message list does. Prints one JSON
object: steps a second with a checkpoint awaited after each step (`sync`), with one written beside
the next step (`async`, the default; after a crash finished steps may run again), and of the
checkpointer without a graph (`saver`). Each has all its runs under way at once.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from operator import add
from typing import Annotated, Any, TypedDict
from uuid import uuid4

from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

WARM_UP_RUNS = 3
CONNECTIONS = 16


class State(TypedDict):
    outputs: Annotated[list[str], add]


@asynccontextmanager
async def saver_of(store: str) -> AsyncGenerator[BaseCheckpointSaver]:
    if not store.startswith("postgresql:"):
        async with AsyncSqliteSaver.from_conn_string(store) as saver:
            yield saver
        return
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(store, max_size=CONNECTIONS, kwargs=options) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver


def graph_of(saver: BaseCheckpointSaver, steps: int) -> Any:
    graph = StateGraph(State)

    async def step(_: State) -> State:
        return {"outputs": [output()]}

    names = [f"step{number}" for number in range(steps)]
    for name in names:
        graph.add_node(name, step)
    for one, following in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(one, following)
    return graph.compile(checkpointer=saver)


async def save_alone(saver: BaseCheckpointSaver, steps: int) -> None:
    """Write what a graph of so many steps has its checkpointer write."""
    place: Any = {"configurable": {"thread_id": uuid4().hex, "checkpoint_ns": ""}}
    outputs: list[str] = []
    for number in range(1, steps + 1):
        new = output()
        outputs = [*outputs, new]
        checkpoint = empty_checkpoint()
        checkpoint["channel_values"] = {"outputs": outputs}
        versions: Any = {"outputs": number}
        checkpoint["channel_versions"] = versions
        facts: Any = {"source": "loop", "step": number}
        place = await saver.aput(place, checkpoint, facts, versions)
        await saver.aput_writes(place, [("outputs", [new])], uuid4().hex)


def output() -> str:
    return os.urandom(250).hex()


async def rate(run: Callable[[], Awaitable[None]], runs: int, steps: int) -> float:
    await asyncio.gather(*(run() for _ in range(WARM_UP_RUNS)))
    began_s = time.perf_counter()
    await asyncio.gather(*(run() for _ in range(runs)))
    return runs * steps / (time.perf_counter() - began_s)


async def main(store: str, runs: int, steps: int) -> None:
    found: dict[str, float] = {}
    async with saver_of(store) as saver:
        graph = graph_of(saver, steps)
        for durability in ("sync", "async"):

            async def run(durability: str = durability) -> None:
                config = {"configurable": {"thread_id": uuid4().hex}, "recursion_limit": steps + 5}
                end = await graph.ainvoke({"outputs": []}, config, durability=durability)
                assert len(end["outputs"]) == steps

            found[durability] = await rate(run, runs, steps)
        found["saver"] = await rate(lambda: save_alone(saver, steps), runs, steps)
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
