"""Another builder takes over: `python benchmarks/canary.py [ZENSICAL]` builds the written pages with Zensical.

mkdocs-material ends in May 2027. Zensical reads the same `mkdocs.yml` but runs no hooks, so it gets the pages from
`peftonomy site pages`. ZENSICAL is its program, in an environment of its own (0.0.73 is what this was tried with):

    python -m venv build/zensical && build/zensical/bin/pip install zensical==0.0.73
    python benchmarks/canary.py build/zensical/bin/zensical

Not a part of the tests: it says whether the exit is open, not whether the site is right. What that site lacks is what
the hook adds: the Content-Security-Policy.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peftonomy
from peftonomy.site import write

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = "build/zensical/bin/zensical"
CHANGES = (("hooks", "[]"), ("docs_dir", "pages"), ("site_dir", "out"), (" *custom_dir", "overrides"))


def main(program: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pages = [p for p in write(peftonomy.load(ROOT), folder / "pages") if p.suffix == ".md"]
        configure(folder)
        start = time.perf_counter()
        command = [str(Path(program).resolve()), "build", "--strict", "--config-file", str(folder / "mkdocs.yml")]
        code = subprocess.run(command, cwd=folder).returncode
        seconds = time.perf_counter() - start
        missing = [
            str(path)
            for path in (p.relative_to(folder / "pages").with_suffix(".html") for p in pages)
            if not (folder / "out" / path).is_file()
        ]
        print(f"{len(pages) - len(missing)} of {len(pages)} pages in {seconds:.1f} s, exit status {code}")
        if code or missing:
            raise SystemExit(f"missing: {', '.join(missing[:10]) or 'nothing'}")


def configure(folder: Path) -> None:
    """`mkdocs.yml` and the overrides, as Zensical can read them."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for key, value in CHANGES:
        text = re.sub(rf"^({key}):.*$", rf"\1: {value}", text, count=1, flags=re.MULTILINE)
    (folder / "mkdocs.yml").write_text(text, encoding="utf-8")
    shutil.copytree(ROOT / "site" / "overrides", folder / "overrides")


if __name__ == "__main__":
    main(*sys.argv[1:2] or [PROGRAM])
