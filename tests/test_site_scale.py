"""The pages as a folder for any builder, and rendering that stays linear in the number of methods."""

from __future__ import annotations

import re
from pathlib import Path

import markdown
import pytest
from mkdocs.config import load_config

from peftonomy import KnowledgeBase, _cli
from peftonomy.site import pages, preview
from peftonomy.site._around import Around


@pytest.mark.slow
def test_the_written_folder_holds_exactly_the_pages(
    kb: KnowledgeBase, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    folder, repository = tmp_path / "pages", "https://example.org/peftonomy"
    assert _cli.main(["site", "pages", "--out", str(folder), "--repository", repository]) == 0
    wanted = pages(kb, repository=repository)
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert found == {name: text.encode() if isinstance(text, str) else text for name, text in wanted.items()}
    assert f"{len(wanted):,} files in {folder}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_preview_has_the_pages_of_the_edited_entries_as_the_whole_site_has_them(kb: KnowledgeBase) -> None:
    wanted = pages(kb)
    assert preview(kb, ["lora", "bitfit"]) == {p: wanted[p] for p in ("methods/lora.md", "methods/bitfit.md")}


# HTML that goes around Markdown.

MIXED = """<div data-search-exclude>crumbs</div>

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

## Out { #out data-search-exclude }

<section><p>hidden</p>

<p>hidden as well</p></section>

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

## Out { #out data-search-exclude }

-

## In { #in }

<div>seen</div> and then prose

<div>without an end
"""
    )
    searched = around.searched(built(cut, root))
    assert "hidden" not in searched
    assert all(word in searched for word in ("crumbs", "Lead.", "inner", "code", "Out", "seen", "without an end"))
    assert around.whole(searched) == built(MIXED, root)


@pytest.mark.slow
def test_a_page_is_what_markdown_makes_of_it(kb: KnowledgeBase, root: Path) -> None:
    made = pages(kb)
    for path in ("index.md", "about.md", "api.md", "contribute.md", "methods/lora.md", "models/t5_base.md"):
        text, around = re.sub(r"^---\n.*?\n---\n+", "", str(made[path]), flags=re.DOTALL), Around()
        cut = around.cut(text)
        assert len(cut) < len(text), path
        assert around.whole(around.searched(built(cut, root))) == built(text, root), path
