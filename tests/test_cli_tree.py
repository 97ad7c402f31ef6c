"""Commands for authors: `check` reports every problem of a tree, `new` begins a method."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import peftonomy
from tests.trees import small_tree

from .cli_kit import (
    Result,
    Run,
    assert_one_line,
)

# Checking a tree


def spoil(path: Path, old: str, new: str) -> int:
    """Replace the first `old` in a file; the line it stands on."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1


@pytest.mark.slow
def test_a_sound_tree_has_no_problem(run: Run, tree: Path, kb: peftonomy.KnowledgeBase) -> None:
    result = run(f"--root {tree} check")
    assert result == Result(0, f"{len(kb)} methods, {len(kb.models)} models: 0 problems\n", "")


SPOILT = {
    "a duplicate key": ("year:", "year: 2021\nyear:", "year"),
    "a tab": ("year:", "\tyear:", "tab"),
    "an anchor": ("year:", "x: &a [a]\nyear:", "anchor"),
    "an unquoted trap": ("identity_at_init: exact", "identity_at_init: no", "no"),
    "a wrong type": ("year: 2021", "year: soon", "year"),
    "an unknown field": ("year:", "yaer: 2021\nyear:", "did you mean year"),
    "a missing field": ("year: 2021\n", "", "year"),
    "a dangling citation": ("source: hu2022lora", "source: hu2022lara", "did you mean hu2022lora"),
    "an unknown category": ("low_rank_decomposition", "low_rank_decompositions", "low_rank_decomposition"),
    "attribute access": ("r >= 1", "r.real >= 1", "column"),
    "a call of an unknown name": ("r >= 1", "open(r) >= 1", "column"),
    "a tower of powers": ("r >= 1", "r >= 9**9**9", "column"),
    "ten thousand terms": ("r >= 1", f'r >= {"+".join(["1"] * 10_000)}', "domain"),
    "deep nesting": ("r >= 1", f'r >= {"(" * 500}1{")" * 500}', "domain"),
    "an aspect without a value": ("acts_on: weight", "acts_on: []", "at least 1"),
    "an unknown name in a formula": ("shape: [r, d_in]", "shape: [r, d_inn]", "did you mean d_in"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", SPOILT)
def test_a_spoilt_entry_is_reported_with_file_and_line(run: Run, root: Path, tmp_path: Path, what: str) -> None:
    old, new, hint = SPOILT[what]
    tree = small_tree(root, tmp_path, "lora")
    entry = tree / "methods" / "lora.yaml"
    line = spoil(entry, old, new)
    result = run(f"--root {tree} check {entry}")
    assert (result.code, result.err) == (1, "")
    problems = result.out.splitlines()[:-1]
    lines = {int(p.split(":")[1]) for p in problems if p.startswith("methods/lora.yaml:")}
    assert problems, "no problem was found"
    assert len(lines) == len({p.split(":")[1] for p in problems})
    assert lines & {1, line, line + 1}
    assert any(hint in p for p in problems)
    assert result.out.splitlines()[-1].startswith("1 file: ")


@pytest.mark.slow
def test_all_problems_of_a_file_come_at_once(run: Run, tree: Path) -> None:
    entry = tree / "methods" / "lora.yaml"
    for old, new in (("year: 2021", "year: soon"), ("facets:", "fasets:"), ("r >= 1", "r >= open(1)")):
        spoil(entry, old, new)
    problems = run(f"--root {tree} check {entry}").out.splitlines()[:-1]
    assert len(problems) >= 3
    numbers = [int(p.split(":")[1]) for p in problems]
    assert numbers == sorted(numbers)


@pytest.mark.slow
def test_dangling_relations_and_cycles_are_found(run: Run, tree: Path) -> None:
    def related(target: str) -> str:
        return f"relations:\n  - {{type: derives_from, target: {target}, note: Because., source: editors}}\n"

    lora, adalora = (tree / "methods" / f"{name}.yaml" for name in ("lora", "adalora"))
    spoil(lora, "relations:\n", related("adalroa"))
    assert "did you mean adalora" in run(f"--root {tree} check {lora}").out
    spoil(lora, "adalroa", "adalora")
    spoil(lora, "year: 2021", "year: 2023")
    out = run(f"--root {tree} check {lora} {adalora}").out
    assert "adalora -> lora -> adalora" in out


@pytest.mark.slow
def test_an_unreadable_tree_is_one_line_elsewhere(run: Run, tree: Path) -> None:
    spoil(tree / "methods" / "lora.yaml", "year: 2021", "year: soon")
    spoil(tree / "methods" / "lora.yaml", "facets:", "fasets:")
    result = run(f"--root {tree} cost lora --model llama_2_7b")
    assert (result.code, result.out) == (1, "")
    assert_one_line(result.err)
    assert "methods/lora.yaml:" in result.err
    assert "more: peftonomy check)" in result.err


@pytest.mark.slow
def test_check_as_json_has_the_parts_of_each_problem(run: Run, tree: Path) -> None:
    line = spoil(tree / "methods" / "lora.yaml", "year: 2021", "year: soon")
    result = run(f"--root {tree} check --json")
    assert result.code == 1
    places = [(p["file"], p["line"], p["field"]) for p in json.loads(result.out)]
    assert ("methods/lora.yaml", line, "year") in places


# Adding a method


@pytest.mark.slow
def test_new_writes_a_skeleton_once(run: Run, tree: Path) -> None:
    bibliography = (tree / "taxonomy" / "references.bib").read_text()
    result = run(f"--root {tree} new my_method --category additive.adapter --year 2025")
    assert result.code == 0
    assert result.out.splitlines()[:3] == [
        "wrote methods/my_method.yaml",
        "wrote reference_impls/my_method.py",
        "wrote taxonomy/references.bib",
    ]
    entry, module = tree / "methods" / "my_method.yaml", tree / "reference_impls" / "my_method.py"
    assert (tree / "taxonomy" / "references.bib").read_text().startswith(bibliography.rstrip())
    compile(module.read_text(), str(module), "exec")
    before = entry.read_text()
    again = run(f"--root {tree} new my_method")
    assert again.code == 2
    assert "methods/my_method.yaml exists already" in again.err
    assert entry.read_text() == before


@pytest.mark.slow
def test_a_skeleton_names_every_field_and_is_not_yet_sound(run: Run, tree: Path) -> None:
    run(f"--root {tree} new my_method --category additive.adapter")
    text = (tree / "methods" / "my_method.yaml").read_text()
    from peftonomy.schema.method import MethodEntry

    for name in MethodEntry.model_fields:
        assert f"\n{name}:" in f"\n{text}" or f"\n# {name}:" in text
    problems = run(f"--root {tree} check").out.splitlines()[:-1]
    assert {p.partition(":")[0] for p in problems} == {"methods/my_method.yaml", "taxonomy/references.bib"}
    assert {p.rpartition(" ")[2] for p in problems} == {"[finished]", "[cited]", "[facets]", "[operations]"}
    assert any("summary: found TODO" in p for p in problems)


SEVENTEENTH = """\
id: my_method
name: My Method
full_name: A method of mine
year: 2025
category: reparameterized.low_rank_decomposition
facets: {facets}
summary: Learns one number for every output of the weights it targets.
description: |
  Scales outputs.
source: me2025mine
update: "h = g * (W_0 x)"
where: on the outputs of targeted weights
hyperparameters:
  k: {type: int, domain: "k >= 1", default: 2, meaning: how many, source: me2025mine}
targets: {default: [attn.q], allowed: ["attn.*"], source: me2025mine}
tensors:
  g: {per: site, shape: ["k", "d_out"], init: ones, trained: true, stored: values, served: merged}
properties: {identity_at_init: exact}
memory:
  operations:
    - per: site
      functions:
        after x y: |
          g = positions .g 1
          mul y g
relations:
  - {type: derives_from, target: lora, note: Because., source: me2025mine}
"""
RECORD = """
@article{me2025mine,
  title  = {Mine},
  author = {Me, Myself},
  year   = {2025},
  eprint = {2501.00001},
  read   = {paper},
}
"""


@pytest.mark.slow
def test_one_entry_one_module_and_one_record_make_a_method(run: Run, tree: Path) -> None:
    facets = {name: next(iter(facet.values)) for name, facet in peftonomy.load(tree).taxonomy.facets.items()}
    answered = "{" + ", ".join(f"{name}: {word}" for name, word in facets.items()) + "}"
    (tree / "methods" / "my_method.yaml").write_text(SEVENTEENTH.replace("{facets}", answered))
    (tree / "reference_impls" / "my_method.py").write_text('"""Mine (me2025mine)."""\n')
    with (tree / "taxonomy" / "references.bib").open("a") as file:
        file.write(RECORD)
    assert run(f"--root {tree} check").code == 0
    printed = json.loads(run(f"--root {tree} cost my_method --model llama_2_7b --json").out)
    assert printed["trained"] == 2 * 4096 * 32
    assert "my_method" in run(f"--root {tree} methods").out
    assert "me2025mine" in run(f"--root {tree} cite my_method").out
    assert "method:my_method" in run(f"--root {tree} graph --format dot").out
    assert peftonomy.load(tree).graph.parents("my_method") == ["lora"]
