"""How the tests grow with the methods: `python benchmarks/growth.py [METHODS ...]` prints a table (all methods, 400).

Each row is a copy of the checkout. Beyond the methods there are, it holds renamed copies (`_synthetic.py`). Every
number is the processor time of a process of its own, imports included. The last column is the behaviour suite of
twelve methods, without its collection, divided by twelve.
"""

from __future__ import annotations

import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import _synthetic

ROOT = Path(__file__).resolve().parents[1]
ASIDE = shutil.ignore_patterns(".*", "build", "__pycache__")
QUICK = "not slow and not browser and not torch"
HEAD = ("methods", "check", "collection", "collection of make check", "behaviour of a method")
SAMPLE = 12


def main(sizes: list[int]) -> None:
    """Print the table."""
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join(['---:'] * len(HEAD))} |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            cells = [f"{seconds:.1f} s" for seconds in measured(size, Path(folder))]
            print(f"| {size} | {' | '.join(cells)} |", flush=True)


def measured(size: int, folder: Path) -> list[float]:
    """Return the numbers of one row."""
    _synthetic.tree(ROOT, folder, size)
    for path in ROOT.iterdir():
        if path.name[0] != "." and path.name != "build" and not (folder / path.name).exists():
            if path.is_dir():
                shutil.copytree(path, folder / path.name, ignore=ASIDE)
            else:
                shutil.copy(path, folder / path.name)
    collect = ("pytest", "--collect-only", "-q")
    suite = ("pytest", "-q", "-p", "no:cacheprovider", "tests/behaviour/test_behaviour.py", "-k", "test_method")
    methods = sorted(path.stem for path in (folder / "methods").glob("*.yaml"))
    chosen = [f"--method={key}" for key in random.Random(1).sample(methods, SAMPLE)]
    return [
        spent(folder, "peftonomy", "check"),
        spent(folder, *collect),
        spent(folder, *collect, "-m", QUICK),
        (spent(folder, *suite, *chosen) - spent(folder, *suite, *chosen, "--collect-only")) / SAMPLE,
    ]


def spent(folder: Path, *words: str) -> float:
    """Return the processor seconds of one Python process; problems of copied entries are no failure."""
    found = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *words]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | found, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    existing = len([*(ROOT / "methods").glob("*.yaml")])
    main([int(word) for word in sys.argv[1:]] or [existing, 400])
