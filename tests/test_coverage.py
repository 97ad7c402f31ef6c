"""The survey is covered: no method of its tree without an entry, an implementation, and tests that run it."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from peftonomy import KnowledgeBase

from .behaviour import tiny, trial
from .behaviour.test_behaviour import NOWHERE_TO_ACT, PAIRS


def test_every_planned_method_has_its_entry(kb: KnowledgeBase) -> None:
    assert sorted(kb.planned) == []


def test_every_leaf_of_the_tree_has_a_method(kb: KnowledgeBase) -> None:
    filled = {method.category for method in kb.values()}
    assert [n.id for n in kb.taxonomy.categories.values() if not n.children and n.id not in filled] == []


def test_every_entry_has_an_implementation_and_no_implementation_lacks_an_entry(
    kb: KnowledgeBase, root: Path
) -> None:
    modules = {path.stem for path in (root / "reference_impls").glob("[!_]*.py")}
    assert modules == {*kb.methods}


@pytest.mark.torch
def test_every_implementation_says_what_it_is(kb: KnowledgeBase) -> None:
    for key in kb:
        module = importlib.import_module(f"reference_impls.{key}")
        source = kb[key].entry.source.partition("#")[0]
        assert source in (module.__doc__ or ""), f"{key}: the docstring does not cite {source}"
        assert callable(module.apply)


@pytest.mark.torch
def test_every_method_runs_on_several_families() -> None:
    """What the suite leaves out is listed by name; a method acts on two families at least."""
    covered = {method: {f for m, f in PAIRS if m == method} for method in trial.KB.methods}
    assert [m for m, families in covered.items() if len(families) < 2] == []
    assert all(family in tiny.CONFIGS for _, family in NOWHERE_TO_ACT)


def test_enough_claims_are_recomputed(kb: KnowledgeBase) -> None:
    assert sum(len(method.entry.claims) for method in kb.values()) >= 120
