"""Runs seeds: `python -m tests.sim --seeds 0-99 --requests 500`."""

import argparse
import sys
import time
from collections import Counter

from tests.sim.run import simulate


def main() -> int:
    """Run all seeds; say which failed and how to run them again."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", default="0-19", help="one seed, or FIRST-LAST")
    parser.add_argument("--requests", type=int, default=500, help="requests of each run")
    parser.add_argument("--twice", action="store_true", help="run each seed twice and compare")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    failed: list[int] = []
    requests, began_s, began_cpu_s = 0, time.perf_counter(), time.process_time()
    statuses: Counter[str] = Counter()
    for seed in range(int(first), int(last or first) + 1):
        report = simulate(seed, requests=arguments.requests)
        violations = report.violations
        if arguments.twice and simulate(seed, requests=arguments.requests).digest != report.digest:
            violations = [*violations, "the second run of this seed went another way"]
        requests += report.requests * (2 if arguments.twice else 1)
        statuses += report.statuses
        outcome = f"{len(violations)} violations" if violations else "ok"
        print(
            f"seed {seed}: {report.requests} requests, {report.servers} servers, "
            f"{report.virtual_s:.0f} s of virtual time, history {report.digest[:8]}: {outcome}",
            flush=True,
        )
        if violations:
            failed.append(seed)
            for violation in violations[:10]:
                print(f"  {violation}")
            print(f"  again: python -m tests.sim --seeds {seed} --requests {arguments.requests}")
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(f"answers: {dict(sorted(statuses.items()))}")
    rates = f"{requests / seconds:.0f} requests/s, {requests / cpu_s:.0f} a CPU second"
    print(f"{requests} requests in {seconds:.1f} s: {rates}")
    if failed:
        print(f"failed seeds: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
