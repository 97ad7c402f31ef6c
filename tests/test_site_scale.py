"""The pages as a folder for any builder, and rendering that stays linear in the number of methods."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import markdown
import pytest
from mkdocs.config import load_config

import peftonomy
from peftonomy import DataError, KnowledgeBase, UsageError
from peftonomy.cli import main as _cli
from peftonomy.site import build, preview
from peftonomy.site._around import Around

from .site_kit import REPOSITORY, Pages
from .trees import small_tree


@pytest.mark.slow
def test_the_written_folder_holds_exactly_the_pages(
    made: Pages, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    folder = tmp_path / "pages"
    assert _cli.main(["site", "pages", "--out", str(folder), "--repository", REPOSITORY]) == 0
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {name: text.encode() if isinstance(text, str) else text for name, text in made.items()}
    assert f"{len(made):,} files in {folder}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_preview_is_the_whole_site_with_the_edited_entries_first(kb: KnowledgeBase, made: Pages) -> None:
    found = list(preview(kb, ["lora", "bitfit"], repository=REPOSITORY))
    assert [path for path, _ in found[:2]] == ["methods/lora.md", "methods/bitfit.md"]
    assert len(dict(found)) == len(found)
    assert dict(found) == made


def test_reread_reads_the_edited_entries_and_nothing_else(root: Path, tmp_path: Path) -> None:
    methods = small_tree(root, tmp_path, "lora", "qlora") / "methods"
    before = peftonomy.load(tmp_path)
    costs = {key: before[key].cost("roberta_base").trained for key in before}
    for path in methods.glob("*.yaml"):
        path.write_text(re.sub("^summary:.*", f"summary: {WORDS}", path.read_text(), flags=re.MULTILINE))
    after = before.reread(["lora"])
    assert after["lora"].entry.summary == WORDS != before["lora"].entry.summary
    assert after["qlora"].entry is before["qlora"].entry
    assert all(m.kb is after for m in after.values())
    assert {key: after[key].cost("roberta_base").trained for key in after} == costs
    assert after.models is before.models


@pytest.mark.slow
def test_a_build_that_fails_says_why(root: Path, tmp_path: Path) -> None:
    entry = small_tree(root, tmp_path, "lora") / "methods" / "lora.yaml"
    entry.write_text(re.sub("^update: >-\n.*", r'update: "\\\\frac{x"', entry.read_text(), flags=re.MULTILINE))
    with pytest.raises(DataError, match=r"^methods/lora\.yaml: update: .* KaTeX"):
        build(peftonomy.load(tmp_path), tmp_path / "out")


@pytest.mark.slow
def test_a_script_in_a_page_is_refused(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_tree(root, tmp_path, "lora") / "site"
    folder.unlink()
    shutil.copytree(root / "site", folder)
    with (folder / "pages" / "about.md").open("a") as page:
        page.write("\n<div>\n<script>alert(1)</script>\n</div>\n")
    monkeypatch.setattr("peftonomy.site._site.data_root", lambda: tmp_path)
    with pytest.raises(UsageError, match=r"about\.md: a script in the page's content"):
        build(peftonomy.load(tmp_path), tmp_path / "out")


def test_templates_of_the_theme_call_no_method_of_python(root: Path) -> None:
    """Other builders' template engines know filters, and none of these (`benchmarks/canary.py` tries one)."""
    methods = {*dir(dict), *dir(list), *dir(str)}
    for path in (root / "site" / "overrides").rglob("*.html"):
        code = re.findall(r"{[{%](.*?)[%}]}", path.read_text(encoding="utf-8"), re.DOTALL)
        called = {name for part in code for name in re.findall(r"\.(\w+)\(", part)}
        assert not called & methods, path


# mkdocs serve.

WORDS = "Learns what this test has written into its entry."


class Served:
    """A tree that `mkdocs serve` shows."""

    def __init__(self, tree: Path):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{one.getsockname()[1]}"
        self.told = tree / "told.txt"
        words = [sys.executable, "-m", "mkdocs", "serve", "--quiet", "--dev-addr", self.address]
        known = os.environ | {"PYTHONPATH": str(Path(peftonomy.__file__).parents[1]), "NO_MKDOCS_2_WARNING": "1"}
        with self.told.open("w") as told:
            self.process = subprocess.Popen(words, cwd=tree, env=known, stdout=told, stderr=told)

    def get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://{self.address}/{path}", timeout=60) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, http.client.HTTPException):  # mkdocs writes it just now
            return ""

    def until(self, holds: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not holds():
            assert time.monotonic() < end, self.told.read_text()
            assert self.process.poll() is None, self.told.read_text()
            time.sleep(0.05)


@pytest.fixture
def served(root: Path, tmp_path: Path) -> Iterator[Served]:
    server = Served(small_tree(root, tmp_path, "lora", "qlora"))
    yield server
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 0, server.told.read_text()
    assert "Traceback" not in server.told.read_text()


@pytest.mark.slow
def test_mkdocs_serve_shows_an_edited_entry_everywhere(served: Served, tmp_path: Path) -> None:
    entry = tmp_path / "methods" / "lora.yaml"
    served.until(lambda: served.get("methods/lora.html"))
    text = entry.read_text()
    entry.write_text(re.sub("^summary:.*", "summary: short", text, flags=re.MULTILINE))
    served.until(lambda: "methods/lora.yaml:" in served.told.read_text())  # told in one line, and the page stays
    assert served.get("methods/lora.html")
    entry.write_text(re.sub("^summary:.*", f"summary: {WORDS}", text, flags=re.MULTILINE))
    own = "methods/lora.html"
    others = ("methods/index.html", "api/v1/index.json", "assets/data.js", "assets/search-data.js")
    served.until(lambda: WORDS in served.get(own))
    served.until(lambda: all(WORDS in served.get(page) for page in others))
    with (tmp_path / "reference_impls" / "lora.py").open("a") as module:
        module.write("# said by nobody else\n")
    served.until(lambda: "# said by nobody else" in served.get(own))
    written = {page: settled(served.get(page)) for page in (own, *others)}
    with (tmp_path / "taxonomy" / "references.bib").open("a") as file:  # no entry: mkdocs builds everything
        file.write("\n@misc{nobody2026,\n  title = {A source that nobody cites},\n  year = {2026},\n}\n")
    served.until(lambda: "A source that nobody cites" in served.get("references.html"))
    del written["assets/search-data.js"]  # which lists the new source
    assert {page: settled(served.get(page)) for page in written} == written


def settled(page: str) -> str:
    """The page without the numbers that the server counts its builds with."""
    return re.sub(r"livereload\(\d+, \d+\)", "", page)


# HTML that goes around Markdown.

MIXED = """<div>crumbs</div>

# A name { #top }

<p>Lead.</p>

Prose with *Markdown*.

<div class="a">

<div>inner</div> &lt;div>

</div>

```python
x = 1

<div>code</div>
```

## Out { #out }

<section><p>hidden</p>

<p>hidden as well</p></section>

<details><summary>One</summary>1</details>
<details><summary>Two</summary>2</details>
## Next { #next }

<nav>here</nav>

## In { #in }

<div>seen</div> and then prose

<div>without an end
"""


def built(text: str, root: Path) -> str:
    config = load_config(str(root / "mkdocs.yml"))
    made = markdown.Markdown(extensions=config.markdown_extensions, extension_configs=config.mdx_configs)
    return made.convert(text)


def test_marks_stand_for_whole_blocks_of_html(root: Path) -> None:
    around = Around()
    cut = around.cut(MIXED)
    assert (
        re.sub(r"<!--around \d+-->", "-", cut)
        == """-

# A name { #top }

-

Prose with *Markdown*.

-

```python
x = 1

<div>code</div>
```

## Out { #out }

-

-
-
## Next { #next }

-

## In { #in }

<div>seen</div> and then prose

<div>without an end
"""
    )
    assert around.whole(built(cut, root)) == built(MIXED, root)


@pytest.mark.slow
def test_a_page_is_what_markdown_makes_of_it(made: Pages, root: Path) -> None:
    for path in ("index.md", "about.md", "api.md", "contribute.md", "methods/lora.md", "models/t5_base.md"):
        text, around = re.sub(r"^---\n.*?\n---\n+", "", str(made[path]), flags=re.DOTALL), Around()
        cut = around.cut(text)
        assert len(cut) < len(text), path
        assert around.whole(built(cut, root)) == built(text, root), path
