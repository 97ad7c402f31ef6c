"""The survey and what came since are covered: no method without an entry, an implementation, and tests that run it."""

from __future__ import annotations

import shutil
from pathlib import Path

from peftonomy import KnowledgeBase
from peftonomy.knowledge.check import check


def test_every_leaf_of_the_tree_has_a_method(kb: KnowledgeBase) -> None:
    filled = {method.category for method in kb.values()}
    assert [n.id for n in kb.taxonomy.categories.values() if not n.children and n.id not in filled] == []


def test_every_entry_has_an_implementation_and_no_implementation_lacks_an_entry(
    kb: KnowledgeBase, root: Path
) -> None:
    modules = {path.stem for path in (root / "reference_impls").glob("[!_]*.py")}
    assert modules == {*kb.methods}


def test_what_the_survey_has_stands_where_the_survey_has_it(kb: KnowledgeBase, root: Path, tmp_path: Path) -> None:
    for key, node in kb.taxonomy.categories.items():
        assert all(kb[method].category == key for method in node.methods), key
    for folder in ("taxonomy", "methods", "backbones"):
        shutil.copytree(root / folder, tmp_path / folder)
    file = tmp_path / "taxonomy" / "categories.yaml"
    file.write_text(file.read_text().replace("methods: [bitfit, ", "methods: [nobody, lora, "))
    assert [(p.field, p.found, p.expected) for p in check(KnowledgeBase(tmp_path))] == [
        ("partial.bias_update.lora", "reparameterized.low_rank_decomposition", "partial.bias_update"),
        ("partial.bias_update.nobody", "no method", "partial.bias_update"),
    ]


def test_enough_claims_are_recomputed(kb: KnowledgeBase) -> None:
    assert sum(len(method.entry.claims) for method in kb.values()) >= 120
