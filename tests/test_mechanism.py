"""How methods differ, in sentences, and which are near a method or a described mechanism."""

from __future__ import annotations

import json
import re

import pytest

from peftonomy import KnowledgeBase, UnknownName, UsageError
from peftonomy.knowledge.mechanism import aspects, traits

from .cli_kit import Run, assert_one_line


def test_two_methods_are_compared_in_sentences(kb: KnowledgeBase) -> None:
    found = kb.compare("vera", "lora_fa")
    assert {d.aspect for d in found.differences} >= {"trains", "freezes", "targets", "stores", "defaults"}
    assert (
        "VeRA freezes a random pair of thin matrices (A, B) shared by all targeted modules; "
        "LoRA-FA freezes a random thin matrix (A) at each targeted module."
    ) in list(found)
    assert "The default of r is 256 in VeRA and 8 in LoRA-FA." in str(found)
    assert "Acts on" in found.same
    assert not {d.name for d in found.differences} & {*found.same}
    assert [row["difference"] for row in found.table()] == list(found)
    assert "<table>" in found._repr_html_()
    three = kb.compare("lora", "vera", "lora_fa")
    assert any(s.count("; ") == 2 and s.startswith("LoRA freezes none of its own tensors; VeRA") for s in three)


def test_what_training_produces_is_not_called_frozen(kb: KnowledgeBase) -> None:
    """Prefix-Tuning's network and Delta-LoRA's factors are discarded; the stored tensors come out of them."""
    assert {traits(kb[m])["freezes"].values for m in ("prefix_tuning", "delta_lora", "adamix")} == {("nothing",)}
    assert traits(kb["lorahub"])["freezes"].values == ("given",)    # modules of others, combined without training
    assert traits(kb["adapterfusion"])["freezes"].phrase.startswith("freezes a previously trained pair of thin")


def test_every_method_has_values_of_the_vocabulary(kb: KnowledgeBase) -> None:
    """The taxonomy lists the values of the derived aspects, and phrases for all of them."""
    known = aspects(kb)
    for name, facet in known.items():
        assert set(facet.phrases) == set(facet.values), name
        assert facet.phrase.count("{}") == 1, name
    for method in kb.values():
        found = traits(method)
        assert [*found] == [*known]
        for name, trait in found.items():
            roles = {*kb.taxonomy.roles, *method.entry.targets.default} if method.entry.targets else set()
            assert {*trait.values} <= {*known[name].values} | (roles if name == "targets" else set()), name
            assert re.fullmatch(r"[a-z][^\n;]*[^\n; .]", trait.phrase), f"{method.id}: {trait.phrase}"


def test_the_nearest_methods_to_a_method(kb: KnowledgeBase) -> None:
    found = kb.nearest("compacter", n=3)
    first = found.found[0]
    assert first.method == "compacter_pp"
    assert len(found) == 3
    assert "compacter" not in {n.method for n in found.found}
    assert [n.likeness for n in found.found] == sorted((n.likeness for n in found.found), reverse=True)
    assert found[0]["differences"] == [d.sentence for d in first.differences] != []
    pair = kb.compare("compacter_pp", "compacter").differences
    assert first.differences == tuple(d for d in pair if d.aspect != "defaults")


def test_the_nearest_methods_to_an_idea(kb: KnowledgeBase) -> None:
    idea = {"acts_on": "weight", "freezes": "random", "trains": "vector", "stores": "seed, values"}
    found = kb.nearest(**idea, scope=["model", "site"], n=len(kb) - 1)
    alike = [n for n in found.found if n.likeness == 1]
    assert "vera" in {n.method for n in alike}
    assert alike == list(found.found[: len(alike)])
    assert not any(n.differences for n in alike)
    near = {n.method: n for n in found.found}
    assert [d.sentence for d in near["lora_fa"].differences if d.aspect == "trains"] == [
        "LoRA-FA trains a thin matrix (B) at each targeted module; the idea trains vectors."
    ]


def test_bad_questions_are_refused(kb: KnowledgeBase) -> None:
    with pytest.raises(UsageError, match="found lora; expected two or more methods"):
        kb.compare("lora", "lora")
    with pytest.raises(UnknownName, match="did you mean vera"):
        kb.compare("lora", "verra")
    with pytest.raises(UsageError, match="either a method or a description"):
        kb.nearest()
    with pytest.raises(UsageError, match="either a method or a description"):
        kb.nearest("lora", acts_on="weight")
    with pytest.raises(UnknownName, match="unknown aspect 'act_on'; did you mean acts_on"):
        kb.nearest(act_on="weight")
    with pytest.raises(UnknownName, match="unknown value of freezes 'randomm'; did you mean random"):
        kb.nearest(freezes="randomm")
    with pytest.raises(UsageError, match="found 0 as the number"):
        kb.nearest("lora", n=0)


def test_the_command_line_explains_and_finds(run: Run, kb: KnowledgeBase) -> None:
    text = run("compare vera lora_fa --model roberta_base --explain").out
    assert text.endswith(f"\n\n{kb.compare('vera', 'lora_fa')}\n")
    printed = json.loads(run("compare vera lora_fa --model roberta_base --explain --json").out)
    assert [c["method"] for c in printed["costs"]] == printed["methods"] == ["vera", "lora_fa"]
    assert [d["sentence"] for d in printed["differences"]] == [*kb.compare("vera", "lora_fa")]
    found = json.loads(run("nearest --aspect acts_on=weight --aspect scope=model,site -n 4 --json").out)
    assert found == list(kb.nearest(acts_on="weight", scope="model,site", n=4))
    text = run("nearest vera -n 1").out
    first = kb.nearest("vera", n=1).found[0]
    head = f"{first.method} ({kb[first.method].year}), {first.likeness:.0%} alike\n  {first.differences[0].sentence}\n"
    assert text.startswith(head)
    assert "acts_on" in run("nearest --aspects").out
    for line in ("nearest", "nearest vera --aspect acts_on=weight", "nearest --aspect a=b", "compare vera --explain"):
        wrong = run(line if "compare" not in line else f"{line} --model gpt2")
        assert wrong.code == 2
        assert_one_line(wrong.err)
