"""Names that several methods share, and the page for contributors, as pages."""

from __future__ import annotations

import html
import re
from itertools import takewhile
from pathlib import Path

import pytest

import peftonomy
from peftonomy import KnowledgeBase
from peftonomy.knowledge.rules import RULES
from peftonomy.site import _names
from peftonomy.site._pages import each_page
from peftonomy.site._site import Site

from .site_kit import Pages
from .test_site import edited


def test_each_name_here_means_what_the_page_says(kb: KnowledgeBase) -> None:
    found = _names.shared(Site(kb))
    assert [row["key"] for row in found] == sorted({row["key"] for row in found})
    assert all(len(row["methods"]) > 1 for row in found)
    assert _names.key("(IA)^3") == _names.key("(IA)³") == _names.key("ia3") == "ia3"


def sharing(root: Path, folder: Path) -> KnowledgeBase:
    """Two entries that share a name, one of them in another spelling."""
    edited(root, folder, "lora", (r"^aliases: \[", "aliases: [mix-it, r, "))
    entry = folder / "methods" / "mam_adapter.yaml"
    text, n = re.subn(r"^aliases: \[", "aliases: [MixIt, ", entry.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert n == 1
    entry.write_text(text, encoding="utf-8")
    return peftonomy.load(folder)


@pytest.mark.slow
def test_a_shared_alias_is_listed_with_year_and_category(root: Path, tmp_path: Path) -> None:
    kb = sharing(root, tmp_path)
    found = {row["key"]: row for row in _names.shared(Site(kb))}
    assert [m["id"] for m in found["mixit"]["methods"]] == ["lora", "mam_adapter"]
    others = [m["id"] for m in found["r"]["methods"] if m["setting"]]  # a setting of the same name
    assert others == sorted(others, key=lambda m: (kb[m].year, kb[m].name.lower()))
    assert "lora" not in others
    assert set(others) == {m.id for m in kb.values() if "r" in m.entry.hyperparameters} - {"lora"}
    made = dict(takewhile(lambda page: page[0] != "memory.md", each_page(Site(kb), ())))
    for path, prefix in (("names.md", "methods/"), ("methods/index.md", "")):
        text = html.unescape(str(made[path]))
        assert re.search(rf'href="{prefix}lora.html">LoRA</a> \({kb["lora"].year}, [^)]*›', text), path
        assert re.search(rf'href="{prefix}mam_adapter.html">MAM Adapter</a> \({kb["mam_adapter"].year}, ', text), path
    assert 'data-key="mixit" hidden' in str(made["methods/index.md"])


def test_words_of_settings_keep_their_meanings_apart(kb: KnowledgeBase) -> None:
    found = {row["name"]: row for row in _names.settings(Site(kb))}
    wanted = {n for m in kb.values() for n in m.entry.hyperparameters}
    assert set(found) == {n for n in wanted if sum(n in m.entry.hyperparameters for m in kb.values()) > 1}
    for name, row in found.items():
        for meaning, methods in row["meanings"]:
            assert all(kb[m["id"]].entry.hyperparameters[name].meaning == meaning for m in methods)


@pytest.mark.slow
def test_the_contributors_page_has_every_rule_field_and_the_template(kb: KnowledgeBase, made: Pages) -> None:
    text = html.unescape(str(made["contribute.md"]))
    for rule in RULES:
        example = kb.taxonomy.rule_examples[rule.name]
        assert f"#rule-{rule.name} " in text
        assert all(part in text for part in (rule.sentence, example.good.strip(), example.bad.strip())), rule.name
    assert "id: my_method" in text
    assert "def apply(" in text
    for field in peftonomy.schema.method.MethodEntry.model_fields:
        assert f"<code>{field}</code>" in text
    assert 'href="contribute.html"' in str(made["about.md"])
