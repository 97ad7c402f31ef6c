"""Every rule passes its good example and refuses its bad one, and says what is wrong in a line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from peftonomy import KnowledgeBase, Method, Problem, check, load
from peftonomy.files.documents import Document, parse_yaml
from peftonomy.knowledge.check import _problem
from peftonomy.knowledge.rules import RULES, Rule
from peftonomy.schema.method import method_from
from tests.knowledge import another
from tests.trees import small_tree

BASE = """
id: example
name: Example
full_name: An example for tests
year: 2024
category: additive.adapter
facets: {}
summary: Adds what the rule at hand looks at.
description: Nothing more.
source: editors
update: "h"
where: Somewhere.
hyperparameters: {r: {type: int, default: 2, domain: r >= 1, meaning: rank, source: editors}}
targets: {default: [attn.q], allowed: ["attn.*"], source: editors}
tensors: {A: {per: site, shape: [r, d_in], init: zeros, trained: true, stored: values, served: kept}}
properties: {identity_at_init: none}
"""


def problems(kb: KnowledgeBase, rule: Rule, fragment: str) -> list[Problem]:
    """What the rule finds in the example entry with the fragment's fields in place of its own."""
    changed = parse_yaml(fragment)
    data = parse_yaml(BASE).data | changed.data
    method = Method(kb, method_from(Document("example.yaml", data, changed.lines)), changed)
    kb.methods.held["example"] = method
    kb.methods.__dict__["ids"] = (*kb.methods.ids, "example")
    return [_problem(method, rule.name, finding) for finding in rule.check(method)]


@pytest.fixture
def fresh() -> KnowledgeBase:
    """A knowledge base of its own, since the examples move in."""
    return another()


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_the_good_example_passes(fresh: KnowledgeBase, rule: Rule) -> None:
    assert problems(fresh, rule, fresh.taxonomy.rule_examples[rule.name].good) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_the_bad_example_is_refused(fresh: KnowledgeBase, rule: Rule) -> None:
    found = problems(fresh, rule, fresh.taxonomy.rule_examples[rule.name].bad)
    assert found
    for problem in found:
        assert problem.rule == rule.name
        assert problem.line == 1
        assert "\n" not in str(problem)


def test_each_rule_has_a_name_a_sentence_and_its_examples(kb: KnowledgeBase) -> None:
    assert sorted(r.name for r in RULES) == sorted(kb.taxonomy.rule_examples)
    assert all(r.sentence.endswith(".") for r in RULES)


SHARE = 'text: "{text}", quantity: trained / backbone, between: [{between}], model: gpt2, targets: [attn.qkv]'


@pytest.mark.parametrize(
    ("prose", "item", "found", "expected"),
    [
        ("About a thousandth of the model.", "", "thousandth of the", "computes it or names its source"),
        ("Half of the model.", "", "Half of the", "computes it or names its source"),
        ("It is 0.015% of the model.", SHARE.format(text="half of it", between="0, 1"), "half of it", "words of"),
        ("It is 0.015% of it.", SHARE.format(text="0.015%", between="0.02, 0.04"), "0.02 to 0.04", "which we count"),
    ],
    ids=["uncomputed", "capital", "text", "between"],
)
def test_a_share_is_computed(fresh: KnowledgeBase, prose: str, item: str, found: str, expected: str) -> None:
    rule = next(r for r in RULES if r.name == "shares")
    fragment = f"description: {prose}\nshares: [{f'{{{item}}}' if item else ''}]"
    lines = [str(p) for p in problems(fresh, rule, fragment)]
    assert any(found in line.split("; expected")[0] and expected in line for line in lines), lines


def test_a_share_as_counted_is_no_problem(fresh: KnowledgeBase) -> None:
    rule = next(r for r in RULES if r.name == "shares")
    item = SHARE.format(text="0.015%", between="0.0001, 0.0002")
    assert problems(fresh, rule, f"description: It is 0.015% of it.\nshares: [{{{item}}}]") == []


def test_what_a_family_and_a_model_name_must_exist(tmp_path: Path, root: Path) -> None:
    for folder in ("taxonomy", "methods", "backbones"):
        shutil.copytree(root / folder, tmp_path / folder)
    family, model = tmp_path / "backbones/families/bert.yaml", tmp_path / "backbones/models/bert_base.yaml"
    family.write_text(family.read_text().replace("role: mlp.up", "role: mlp.upp"))
    model.write_text(model.read_text().replace("source: devlin2019bert", "source: devlin2019bart"))
    found = [str(p) for p in check(KnowledgeBase(tmp_path), [family, model])]
    assert len(found) == 2
    assert "found mlp.upp; expected a role of taxonomy/roles.yaml; did you mean mlp.up" in found[0]
    assert "found devlin2019bart; expected a key of taxonomy/references.bib; did you mean devlin2019bert" in found[1]


def test_a_published_run_names_what_exists(tmp_path: Path, root: Path) -> None:
    for folder in ("taxonomy", "backbones", "evidence"):
        (tmp_path / folder).symlink_to(root / folder)
    (tmp_path / "methods").mkdir()
    shutil.copy(root / "methods/lora.yaml", tmp_path / "methods")
    (tmp_path / "evidence").unlink()
    (tmp_path / "evidence").mkdir()
    studies = (root / "evidence/studies.yaml").read_text().partition("hf_peft_image_gen:")[0]
    (tmp_path / "evidence/studies.yaml").write_text(studies.replace("model: llama_3_2_3b", "model: llama_3_2_3"))
    runs = tmp_path / "evidence/hf_peft_metamathqa.jsonl"
    good = next(li for li in (root / runs.relative_to(tmp_path)).read_text().splitlines() if '"method": "lora"' in li)
    changed = {'"method": "lora"': '"method": "lara"', '"metric": "accuracy"': '"metric": "acuracy"'}
    spoilt = [good, *(good.replace(a, b).replace('"run": "', f'"run": "{b[-4:-1]}-') for a, b in changed.items())]
    runs.write_text("\n".join(spoilt) + "\n")
    lines = [str(problem) for problem in check(KnowledgeBase(tmp_path), [runs, runs.with_name("studies.yaml")])]
    assert [line.partition(";")[0] for line in lines] == [
        "evidence/hf_peft_metamathqa.jsonl:2: method: found lara",
        "evidence/hf_peft_metamathqa.jsonl:3: metric: found acuracy",
        "evidence/studies.yaml:6: hf_peft_metamathqa.model: found llama_3_2_3",
    ]
    assert all("did you mean" in line for line in lines)
    broken = {good.replace('"seed": 0, ', ""): "seed: found nothing", good[:-1]: "expected valid JSON", "[]": "a list"}
    broken[good.replace('"value": 0.4', '"value": NaN, "x": 0.4')] = "NaN, which JSON does not have"
    for line, found in {**broken, f"{good}\n{good}": "again (line 1)"}.items():
        runs.write_text(line + "\n")
        [problem] = check(KnowledgeBase(tmp_path), [runs])
        assert found in str(problem)


def test_a_line_that_lacks_an_input_of_its_size_is_found(root: Path, tmp_path: Path) -> None:
    """`join` adds the widths of three inputs: with two, the result is one number too wide unless the line says it."""
    tree = small_tree(root, tmp_path, "lora")
    path = tree / "methods" / "lora.yaml"
    data = yaml.safe_load(path.read_text())
    for line, found in (("join x y", ["'join x y' without c"]), ("z[a0, a1, a2+b2] = join x y", [])):
        data["memory"] = {"operations": [{"per": "site", "functions": {"after x y": line}}]}
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        kb = load(tree)
        problems = [p for p in check(kb, [kb.methods.path("lora")]) if p.rule == "operations"]
        assert [p.found for p in problems] == found
