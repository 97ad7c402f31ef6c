"""Run the fuzzer: `python -m tests.fuzz --help`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from . import GROUPS, Case, World, run_case
from .workers import worked

SHARES = {
    "command": 30, "config": 17, "adapter": 14, "python": 19, "assistant": 8, "agreement": 1, "entry": 5, "text": 3.5,
    "site": 1.5, "address": 0.5, "process": 0.5,
}  # fmt: skip
"""The share of each group in percent. Cases of the last groups take long."""

MOST = 4_000
"""The number of cases of one worker process."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("again", metavar="GROUP:SEED:NUMBER", nargs="*", help="run these cases again")
    parser.add_argument("--cases", type=int, default=20_000, help="for each seed (default 20000)")
    parser.add_argument("--first", type=int, default=0, help="the number of each group's first case (default 0)")
    parser.add_argument("--seed", type=int, action="append", help="repeatable (default 1, 2, 3)")
    parser.add_argument("--group", choices=sorted(GROUPS), help="only this group")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument(
        "--record", type=Path, metavar="FILE",
        help="append a line for each case, and leave out the cases recorded there; the table then counts all of them",
    )  # fmt: skip
    given = parser.parse_args()
    if given.again:
        return again(given.again)
    record = Record(given.record)
    jobs = []
    for group in [given.group] if given.group else SHARES:
        cases = given.cases if given.group else max(1, round(given.cases * SHARES[group] / 100))
        numbers = range(given.first, given.first + cases)
        names = [f"{group}:{seed}:{number}" for seed in given.seed or (1, 2, 3) for number in numbers]
        left = [name for name in names if name not in record.cases]
        jobs += [(group, left[i : i + MOST]) for i in range(0, len(left), MOST)]
    started, before = time.monotonic(), len(record.cases)

    def run(job: tuple[str, list[str]]) -> None:
        for name, case in worked(*job):
            record.add(name, case)

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(run, jobs))
    print(f"\n{len(record.cases) - before:,} cases in {(time.monotonic() - started) / 60:.0f} min")
    return record.report()


class Record:
    """The cases that have run, with their exit codes and the numbers of their problems."""

    def __init__(self, path: Path | None):
        self.path, self.lock = path, Lock()
        lines = path.read_text().splitlines() if path is not None and path.exists() else ()
        self.cases = {name: (code, problems) for name, code, problems in map(json.loads, lines)}

    def add(self, name: str, case: Case) -> None:
        with self.lock:
            self.cases[name] = case.code, len(case.problems)
            for problem in case.problems:
                print(f"{name} {problem}\n    {case.text[:300]!r}", flush=True)
            if self.path is not None:
                with self.path.open("a") as file:
                    file.write(json.dumps([name, case.code, len(case.problems)]) + "\n")

    def report(self) -> int:
        """Print the table of `benchmarks/README.md`, and return whether a case has a problem."""
        counts: dict[str, Counter[str]] = {group: Counter() for group in SHARES}
        for name, (code, problems) in self.cases.items():
            found = counts[name.partition(":")[0]]
            found.update({"cases": 1, f"exit {code}": 1, "problems": problems})
        print(f"\n{len(self.cases):,} cases\n")
        print("| group | cases | exit 0 | exit 1 | exit 2 | problems |\n| --- | ---: | ---: | ---: | ---: | ---: |")
        for group, found in counts.items():
            if found["cases"]:
                cells = (found[name] for name in ("cases", "exit 0", "exit 1", "exit 2", "problems"))
                print(f"| {group} | " + " | ".join(f"{n:,}" for n in cells) + " |")
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


if __name__ == "__main__":
    sys.exit(main())
