"""DBOS's durable steps a second: workflows of trivial steps.

Run by `durable.py` with the Python of DBOS's own environment:

    dbos_steps.py STORE RUNS STEPS    # STORE: a file for SQLite, or postgresql://…

Each step returns 500 bytes. Prints one JSON object with the steps a second (`workflow`), all runs
under way at once.
"""

import asyncio
import json
import os
import sys
import time

from dbos import DBOS, DBOSConfig

WARM_UP_RUNS = 3


@DBOS.step()
async def step() -> str:
    return os.urandom(250).hex()


@DBOS.workflow()
async def workflow(steps: int) -> int:
    return len([await step() for _ in range(steps)])


async def rate(runs: int, steps: int) -> float:
    await asyncio.gather(*(workflow(steps) for _ in range(WARM_UP_RUNS)))
    began_s = time.perf_counter()
    counts = await asyncio.gather(*(workflow(steps) for _ in range(runs)))
    assert counts == [steps] * runs
    return runs * steps / (time.perf_counter() - began_s)


def main(store: str, runs: int, steps: int) -> None:
    url = store if store.startswith("postgresql:") else f"sqlite:///{store}"
    config: DBOSConfig = {"name": "durable", "system_database_url": url, "log_level": "ERROR"}
    DBOS(config=config)
    DBOS.launch()
    found = asyncio.run(rate(runs, steps))
    print(json.dumps({"workflow": found}), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
