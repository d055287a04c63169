"""Claim: the gateway adds <= 2 ms to an engine's first token and keeps >= 97 % of its throughput.

One service with one engine is started: llama.cpp with 88 million random weights
(`random_model.py`), 16 slots of 512 tokens, temperature 0. The same client then asks in turns
through the gateway (TCP, key, admission, sessions, caches, router, traces, as in any service) and
the engine's own HTTP server on its Unix socket: both sides have the same weights, settings and
threads, and whatever else the machine does hits both.

    added_p50_ms         median time to the first word through the gateway, minus the median without
                         it, over interleaved pairs; one token is asked for, streamed
    throughput_ratio_16  tokens per second of 16 streams at a time through the gateway, over the
                         same without it: median of interleaved rounds
    added_p10_ms         the same for the tenth percentiles, which other load hardly reaches
    cpu_us_per_request   CPU time of the server process for a streamed request of one word, and for
    cpu_us_per_chunk     each further word; measured with a scripted engine, for information

The engine has one thread, so that a second core is left for gateway and client. With as many
threads as cores (`--threads 2`) the gateway's CPU time is also the engine's loss; but llama.cpp's
threads wait for each other, so on a machine that does other work such figures mean nothing.

Every request has a prompt that no other has, so neither our exact cache nor llama.cpp's prefix
cache answers; at temperature 0 our cache is searched, and filled, each time.
"""

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import random_model
import report
import service
import streams
from streams import Answer, Target

STREAMS = 16
CPU_REQUESTS = 96
CPU_WORDS = 128
LIMITS = "[agents]\n[knowledge]\n[limits.default]\nrequests_per_minute = 6e6\nburst = 1000000\n"
LETTERS = "abcdefghijklmnopqrstuvwxyz"

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything a run does."""

    pairs: int
    rounds: int
    tokens: int
    cpu_rounds: int


QUICK = Plan(pairs=40, rounds=3, tokens=24, cpu_rounds=2)
FULL = Plan(pairs=200, rounds=5, tokens=192, cpu_rounds=5)
"""Streams of 192 words: through a gateway requests reach an engine one after another, which costs
it a step or two of small batches at the start. With 64 words that was 4 % of a round."""
WARM_UP = 8


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # the service is ended on the way
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples; nothing is kept")
    parser.add_argument("--threads", type=int, default=1, help="of the engine (default: 1)")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    samples = {**streams.run(cpu(plan)), **over_engine(plan, options.threads)}
    keys = summary(samples)
    show(keys, samples)
    name = "overhead" if options.threads == 1 else f"overhead-{options.threads}-threads"
    report.finish(name, keys, samples, quick=options.quick)


def over_engine(plan: Plan, threads: int) -> dict[str, list[float]]:
    """Compare with and without the gateway in front of one engine."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        weights = Path(folder) / "random.gguf"
        random_model.write(weights)
        config = (
            f'{LIMITS}[models.m]\nengine = "llama.cpp"\nweights = "{weights}"\n'
            f"slots = {STREAMS}\ncontext_tokens = 512\nthreads = {threads}\ntemperature = 0\n"
        )
        with service.running(config) as found:
            return streams.run(compare(found.gateway, found.engines["m"], plan))


async def compare(gateway: Target, engine: Target, plan: Plan) -> dict[str, list[float]]:
    prompts = unlike_prompts(random.Random(0))
    for target in (gateway, engine) * WARM_UP:
        await streams.ask(target, asking(prompts, 4))
    samples: dict[str, list[float]] = {
        name: [] for name in ("ttft_gateway_ms", "ttft_direct_ms", "rate_gateway", "rate_direct")
    }
    for number in range(plan.pairs):
        for target in turns(gateway, engine, number):
            answer = await streams.ask(target, asking(prompts, 1))
            name = "ttft_gateway_ms" if target is gateway else "ttft_direct_ms"
            samples[name].append(answer.first_s * 1000)
    for number in range(plan.rounds):
        for target in turns(gateway, engine, number):
            name = "rate_gateway" if target is gateway else "rate_direct"
            samples[name].append(await rate(target, prompts, plan.tokens))
    return samples


async def rate(target: Target, prompts: Iterator[str], tokens: int) -> float:
    """Return the tokens per second of all streams together, from the first to the last moment."""
    bodies = [asking(prompts, tokens) for _ in range(STREAMS)]
    began_s = time.perf_counter()
    answers = await asyncio.gather(*(streams.ask(target, body) for body in bodies))
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - began_s)


def turns(gateway: Target, engine: Target, number: int) -> tuple[Target, Target]:
    """Return who is asked first: each in turn, so that a drift of the machine cancels out."""
    return (gateway, engine) if number % 2 else (engine, gateway)


def asking(prompts: Iterator[str], tokens: int) -> dict[str, Any]:
    message = {"role": "user", "content": next(prompts)}
    return {"model": "m", "messages": [message], "max_tokens": tokens, "temperature": 0}


def unlike_prompts(chance: random.Random) -> Iterator[str]:
    """Yield prompts of equal length in tokens, no two alike."""
    while True:
        yield " ".join("".join(chance.choices(LETTERS, k=2)) for _ in range(8))


async def cpu(plan: Plan) -> dict[str, list[float]]:
    """Measure the server process alone: a script says one word, or 200 a second."""
    rules = (
        "tokens_per_s = 200\n[[rules]]\nmatch = 'long'\n"
        f"text = '{'word ' * CPU_WORDS}'\n[[rules]]\ntext = 'word'\n"
    )
    samples: dict[str, list[float]] = {"cpu_us_per_request": [], "cpu_us_per_chunk": []}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        script = Path(folder) / "rules.toml"
        script.write_text(rules, encoding="utf-8")
        config = (
            f'{LIMITS}[models.m]\nengine = "scripted"\nrules = "{script}"\n'
            f"slots = {STREAMS}\ntemperature = 0\n"
        )
        with service.running(config) as found:
            prompts = unlike_prompts(random.Random(0))
            pid = found.pids["server"]
            await _cpu_us(found.gateway, pid, prompts, "short")
            for _ in range(plan.cpu_rounds):
                short_us = await _cpu_us(found.gateway, pid, prompts, "short")
                long_us = await _cpu_us(found.gateway, pid, prompts, "long")
                samples["cpu_us_per_request"].append(short_us)
                samples["cpu_us_per_chunk"].append((long_us - short_us) / (CPU_WORDS - 1))
    return samples


async def _cpu_us(gateway: Target, pid: int, prompts: Iterator[str], kind: str) -> float:
    """Return the CPU time of a request, with `STREAMS` of them at a time."""
    count = CPU_REQUESTS if kind == "short" else STREAMS * 2

    async def ask_in_turn() -> list[Answer]:
        body = {"model": "m", "temperature": 0}
        said = [f"{kind} {next(prompts)}" for _ in range(count // STREAMS)]
        turns = [[{"role": "user", "content": text}] for text in said]
        return [await streams.ask(gateway, {**body, "messages": turn}) for turn in turns]

    began_s = service.cpu_s(pid)
    await asyncio.gather(*(ask_in_turn() for _ in range(STREAMS)))
    return (service.cpu_s(pid) - began_s) / count * 1e6


def summary(samples: dict[str, list[float]]) -> dict[str, float]:
    rounds = zip(samples["rate_gateway"], samples["rate_direct"], strict=True)
    ratios = [through / alone for through, alone in rounds]
    gateway, direct = samples["ttft_gateway_ms"], samples["ttft_direct_ms"]
    low, high = _interval(gateway, direct)
    return {
        "added_p50_ms": median(gateway) - median(direct),
        "added_p10_ms": quantiles(gateway, n=10)[0] - quantiles(direct, n=10)[0],
        "added_p50_low_ms": low,
        "added_p50_high_ms": high,
        "throughput_ratio_16": median(ratios),
        "cpu_us_per_request": median(samples["cpu_us_per_request"]),
        "cpu_us_per_chunk": median(samples["cpu_us_per_chunk"]),
    }


def _interval(gateway: list[float], direct: list[float]) -> tuple[float, float]:
    """Return what 95 % of resampled runs would have said of the difference of medians."""
    chance = random.Random(0)
    count = len(gateway)
    seen = sorted(
        median(chance.choices(gateway, k=count)) - median(chance.choices(direct, k=count))
        for _ in range(RESAMPLES)
    )
    return seen[RESAMPLES // 40], seen[-RESAMPLES // 40]


def show(keys: dict[str, float], samples: dict[str, list[float]]) -> None:
    through = [median(samples[name]) for name in ("ttft_gateway_ms", "rate_gateway")]
    direct = [median(samples[name]) for name in ("ttft_direct_ms", "rate_direct")]
    interval = f"{keys['added_p50_low_ms']:.2f} to {keys['added_p50_high_ms']:.2f}"
    report.table(
        ("", "gateway", "engine alone", "compared", "target"),
        [
            ("first token, p50 ms", through[0], direct[0], keys["added_p50_ms"], "<= 2 more"),
            ("  95 % interval of that", "", "", interval, ""),
            ("  the fastest tenth of both", "", "", keys["added_p10_ms"], ""),
            ("16 streams, tokens/s", through[1], direct[1], keys["throughput_ratio_16"], ">= 0.97"),
            ("server CPU, us a request", keys["cpu_us_per_request"], "", "", ""),
            ("server CPU, us a chunk", keys["cpu_us_per_chunk"], "", "", ""),
        ],
    )


if __name__ == "__main__":
    main()
