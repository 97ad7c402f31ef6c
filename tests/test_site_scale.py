"""The pages as a folder for any builder, and rendering that stays linear in the number of methods."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftonomy import KnowledgeBase, _cli
from peftonomy.site import pages, preview


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
