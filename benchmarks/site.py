"""What the site costs to build: `python benchmarks/site.py [METHODS ...]` prints a table (all methods, 600).

`python benchmarks/site.py --alone METHODS` only builds ours, once, for so many methods that the rest takes too long.

Beside each build of ours stands plain mkdocs-material on the same pages, written to a folder first; the ratio is from
one run. Beyond the methods there are, the trees hold renamed copies (`_synthetic.py`). Each step is a process of its
own, and its processor time counts: the steps have one thread, and another program on the machine does not change it
much. The stages are timed in a further build, without what they call of each other.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _synthetic

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("render", "markdown", "theme", "write")
HEAD = ("methods", "pages", "ours", "plain", "ratio", "a page", "peak", "KB a page", *STAGES, "rest")


def main(sizes: list[int]) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(f"| {' | '.join(HEAD)} |\n| {' | '.join(['---:'] * len(HEAD))} |")
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {' | '.join(measured(size, Path(folder)))} |", flush=True)


def measured(size: int, folder: Path) -> list[str]:
    """One row of the table."""
    tree = folder / "tree"
    tree.mkdir()
    _synthetic.tree(ROOT, tree, size)
    pages = folder / "plain" / "pages"
    run("-m", "peftonomy", "--root", str(tree), "site", "pages", "--out", str(pages), cwd=tree)
    config = plain(folder / "plain", tree)
    ours, peak = run("-m", "peftonomy", "--root", str(tree), "site", "build", "--out", str(folder / "ours"), cwd=tree)
    theirs, _ = run("-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", str(config), cwd=tree)
    n = sum(1 for _ in pages.rglob("*.md"))
    spent = stages(tree, folder)
    rest = ours - sum(spent.values())
    each = [f"{spent.get(name, 0.0):.1f} s" for name in STAGES]
    return [
        f"{size:,}", f"{n:,}", f"{ours:.1f} s", f"{theirs:.1f} s", f"{ours / theirs:.2f}", f"{1000 * ours / n:.0f} ms",
        f"{peak / 1000:.0f} MB", f"{peak / n:.0f}", *each, f"{max(rest, 0):.1f} s",
    ]  # fmt: skip


def alone(size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tree, out = Path(folder, "tree"), Path(folder, "ours")
        tree.mkdir()
        _synthetic.tree(ROOT, tree, size)
        ours, peak = run("-m", "peftonomy", "--root", str(tree), "site", "build", "--out", str(out), cwd=tree)
        n = sum(1 for _ in out.rglob("*.html")) - 1  # the theme's 404.html
        print(f"{size:,} methods, {n:,} pages: {ours:.1f} s, {1000 * ours / n:.0f} ms a page", end=", ")
        print(f"peak {peak / 1000:.0f} MB, {peak / n:.0f} KB a page")


def plain(folder: Path, tree: Path) -> Path:
    """The same configuration without our hook, for pages that lie in a folder."""
    shutil.copytree(tree / "site" / "overrides", folder / "overrides")
    text = (tree / "mkdocs.yml").read_text(encoding="utf-8")
    for key, value in (("hooks", "[]"), ("docs_dir", "pages"), ("site_dir", "out"), (" *custom_dir", "overrides")):
        text = re.sub(rf"^({key}):.*$", rf"\1: {value}", text, count=1, flags=re.MULTILINE)
    (folder / "mkdocs.yml").write_text(text, encoding="utf-8")
    return folder / "mkdocs.yml"


def run(*words: str, cwd: Path) -> tuple[float, int]:
    """Processor seconds and peak kilobytes of one Python process."""
    found = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_MKDOCS_2_WARNING": "1"}
    process = subprocess.Popen([sys.executable, *words], cwd=cwd, env=os.environ | found, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss


# The stages: each as long as it runs itself, without what it calls of the others.


def stages(tree: Path, folder: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--stages", str(tree), str(folder / "timed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(words, check=True, capture_output=True, text=True, env=environment).stdout
    spent: dict[str, float] = json.loads(answer.splitlines()[-1])
    return spent


def staged(tree: str, out: str) -> None:
    """Build once with clocks around the stages, and print them."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    spent, open_stages = dict.fromkeys(STAGES, 0.0), list[str]()
    last = time.process_time()

    def switch() -> None:
        nonlocal last
        now = time.process_time()
        if open_stages:
            spent[open_stages[-1]] += now - last
        last = now

    def clocked(stage: str, owner: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(inner)
        def outer(*args: Any, **kwargs: Any) -> Any:
            if "render" in open_stages:  # our own templates are part of it
                return inner(*args, **kwargs)
            switch()
            open_stages.append(stage)
            try:
                return inner(*args, **kwargs)
            finally:
                switch()
                open_stages.pop()

        setattr(owner, name, outer)

    import jinja2
    import mkdocs.structure.pages
    import mkdocs.utils

    import peftonomy.site

    clocked("render", peftonomy.site, "pages")
    clocked("markdown", mkdocs.structure.pages.Page, "render")
    clocked("theme", jinja2.Template, "render")
    clocked("write", mkdocs.utils, "write_file")
    peftonomy.site.build(peftonomy.load(tree), out)
    print(json.dumps(spent))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--stages"]:
        staged(*sys.argv[2:])
    elif sys.argv[1:2] == ["--alone"]:
        alone(int(sys.argv[2]))
    else:
        main([int(word) for word in sys.argv[1:]] or [len(list((ROOT / "methods").glob("*.yaml"))), 600])
