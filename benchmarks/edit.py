"""How soon an edit shows in an author's preview: `python benchmarks/edit.py [METHODS] [EDITS]` (100, 5).

It starts `mkdocs serve` on a tree with so many methods (`_synthetic.py`), saves an entry with another summary, and asks
for pages until they say it: the method's own page, then the home page, which lists it. Seconds by the clock.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import _synthetic

ROOT = Path(__file__).resolve().parents[1]
METHOD = "lora"
PAGES = {"its own page": f"methods/{METHOD}.html", "the list of methods": "methods/index.html"}


def main(methods: int, edits: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree = _synthetic.tree(ROOT, Path(folder), methods)
        port = free_port()
        began = time.monotonic()
        words = [sys.executable, "-m", "mkdocs", "serve", "--quiet", "--dev-addr", f"127.0.0.1:{port}"]
        found = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
        server = subprocess.Popen(words, cwd=tree, env=os.environ | found)
        try:
            address = f"http://127.0.0.1:{port}/"
            until(address + PAGES["its own page"], "", 300)
            print(f"{methods} methods, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
            print(f"first build: {time.monotonic() - began:.1f} s")
            took: dict[str, list[float]] = {name: [] for name in PAGES}
            for number in range(edits):
                found_at = edited(tree, address, f"Learns what edit {number} says in this benchmark.")
                for name, seconds in found_at.items():
                    took[name].append(seconds)
            for name, all_ in took.items():
                print(f"{name}: {', '.join(f'{s:.2f}' for s in all_)} s, median {statistics.median(all_):.2f} s")
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)


def edited(tree: Path, address: str, summary: str) -> dict[str, float]:
    """Seconds from the save of the entry until each page says the new summary."""
    path = tree / "methods" / f"{METHOD}.yaml"
    text = re.sub(r"^summary:.*(\n +.*)*", f"summary: {summary}", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    path.write_text(text, encoding="utf-8")
    saved = time.monotonic()
    return {name: until(address + page, summary, 60) - saved for name, page in PAGES.items()}


def until(url: str, words: str, limit: float) -> float:
    """Ask until the answer has these words; when that was."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=limit) as answer:
                if words in answer.read().decode():
                    return time.monotonic()
        except (urllib.error.URLError, ConnectionError):
            pass
        time.sleep(0.02)
    raise SystemExit(f"{url} does not say {words!r} after {limit:.0f} s")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main(*(int(word) for word in (*sys.argv[1:], *("100", "5")[len(sys.argv) - 1 :])))
