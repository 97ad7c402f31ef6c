"""Run the fuzzer: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import GROUPS, World, run_case
from .workers import worked

SHARES = {
    "command": 30, "config": 17, "adapter": 14, "python": 20, "assistant": 8, "entry": 5, "text": 3.5, "site": 1.5,
    "address": 0.5, "process": 0.5,
}  # fmt: skip
"""The share of each group in percent. Cases of the last groups take long."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("again", metavar="GROUP:SEED:NUMBER", nargs="*", help="run these cases again")
    parser.add_argument("--cases", type=int, default=20_000, help="for each seed (default 20000)")
    parser.add_argument("--first", type=int, default=0, help="the number of each group's first case (default 0)")
    parser.add_argument("--seed", type=int, action="append", help="repeatable (default 1, 2, 3)")
    parser.add_argument("--group", choices=sorted(GROUPS), help="only this group")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    given = parser.parse_args()
    if given.again:
        return again(given.again)
    jobs = [
        (group, seed, given.first, max(1, round(given.cases * share / 100)) if given.group is None else given.cases)
        for seed in given.seed or (1, 2, 3)
        for group, share in SHARES.items()
        if given.group in (None, group)
    ]
    counts: dict[str, Counter[str]] = {group: Counter() for group in SHARES}
    started = time.monotonic()
    with ThreadPoolExecutor(given.jobs) as pool:
        for (group, seed, _, _), found in pool.map(lambda job: (job, list(worked(*job))), jobs):
            for number, case in found:
                counts[group]["cases"] += 1
                counts[group][f"exit {case.code}"] += case.code is not None
                for problem in case.problems:
                    counts[group]["problems"] += 1
                    print(f"{group}:{seed}:{number} {problem}\n    {case.text[:300]!r}", flush=True)
    report(counts, time.monotonic() - started)
    return int(any(found["problems"] for found in counts.values()))


def again(names: list[str]) -> int:
    failed = 0
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder))
            with world.stack:
                case = run_case(GROUPS[name.partition(":")[0]], name, world)
        print(f"{name} exit {case.code}\n    {case.text!r}", *case.problems, sep="\n    ")
        failed += bool(case.problems)
    return int(failed > 0)


def report(counts: dict[str, Counter[str]], seconds: float) -> None:
    """Print the table of `benchmarks/README.md`."""
    print(f"\n{sum(found['cases'] for found in counts.values()):,} cases in {seconds / 60:.0f} min\n")
    print("| group | cases | exit 0 | exit 1 | exit 2 | problems |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for group, found in counts.items():
        if found["cases"]:
            cells = (found[name] for name in ("cases", "exit 0", "exit 1", "exit 2", "problems"))
            print(f"| {group} | " + " | ".join(f"{n:,}" for n in cells) + " |")


if __name__ == "__main__":
    sys.exit(main())
