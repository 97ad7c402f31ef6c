"""The knowledge base as a whole: the graph, the queries, the bibliography, and what adding a method takes."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import networkx
import pytest
from pydantic import ValidationError

import peftonomy
from peftonomy import DataError, KnowledgeBase, PeftonomyError, UnknownName, UsageError
from peftonomy.files.bibliography import Bibliography
from peftonomy.knowledge.claims import judge, printed
from peftonomy.knowledge.evidence import level
from peftonomy.knowledge.query import select
from peftonomy.schema.claims import Claim

from .trees import small_tree


def test_importing_it_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import peftonomy, sys; peftonomy.load()['lora'].cost('bert_base');"
        "print({'torch', 'transformers', 'networkx'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_the_core_names_no_method_and_no_model(kb: KnowledgeBase, root: Path) -> None:
    """Outside docstrings and doctests, no string of the core is the id of a record.

    The small models of the conformance suite are named after their families, of which one is called like a model.
    """
    import ast

    ids = {*kb.methods, *kb.models}
    for path in sorted({*(root / "peftonomy").rglob("*.py")} - {root / "peftonomy" / "conformance" / "tiny.py"}):
        tree = ast.parse(path.read_text())
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
        named = {
            n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in ids and id(n) not in docs
        }
        assert not named, f"{path.name} names {named}"


def test_check_finds_nothing(kb: KnowledgeBase) -> None:
    assert [str(p) for p in peftonomy.check(kb)] == []


def test_every_claim_is_judged_as_stated(kb: KnowledgeBase) -> None:
    verdicts = [judge(m, c) for m in kb.values() for c in m.entry.claims]
    assert len(verdicts) >= 30
    assert all(v.consistent for v in verdicts)


def test_a_number_from_memory_is_no_claim() -> None:
    record = {"id": "a", "quantity": "trained", "model": "bert_base", "reported": "1M", "source": "me2020"}
    assert Claim.model_validate({**record, "evidence": "read"}).verdict == "reproduced"
    with pytest.raises(ValidationError, match="evidence"):
        Claim.model_validate({**record, "evidence": "recalled"})


@pytest.mark.parametrize(
    ("text", "value", "digit"),
    [("37.7M", 37_700_000, 100_000), ("20,480", 20_480, 1), ("0.08%", 0.08, 0.01), ("175B", 175e9, 1e9), ("12", 12, 1)],
)
def test_printed_numbers(text: str, value: float, digit: float) -> None:
    found = printed(text)
    assert found is not None
    assert (float(found[0]), float(found[1])) == (value, digit)


def test_what_is_no_printed_number() -> None:
    assert [printed(t) for t in ("about 3M", "1,23", "", "M", "3MM")] == [None] * 5


@pytest.mark.slow
def test_closed_forms_equal_the_derived_counts(kb: KnowledgeBase) -> None:
    """On every catalogued model on which a closed form's assumptions hold; each must hold on one at least.

    A closed form speaks of one width: models whose layers differ in their sizes are left out.
    """
    from peftonomy.knowledge.claims import quantities

    for method in kb.values():
        for closed in method.entry.closed_forms:
            held = 0
            for model in kb.models:
                if closed.families and kb.models[model].family.model_type not in closed.families:
                    continue
                try:
                    plan = method.plan(model, targets=closed.targets, task=closed.task)
                    if len({str(b.dims | {"n_layers": 0}) for b in plan.inventory.blocks}) > 1:
                        continue
                    cost = plan.cost(closed.set)
                except UsageError:
                    continue
                known = {**plan.common, **cost.hyperparameters, "n_sites": sum(s.count for g in plan.sites for s in g)}
                if all(assumed(known) for assumed in closed.assumes):
                    held += 1
                    assert closed.formula(known) == closed.quantity(quantities(cost)), (
                        method.id,
                        closed.formula,
                        model,
                    )
            assert held, f"{method.id}: {closed.formula.source} is never tested"


def test_graph(kb: KnowledgeBase) -> None:
    graph = kb.graph
    assert "lora" in graph.ancestors("qlora")
    assert "qlora" in graph.descendants("lora")
    assert graph.roots("qlora") == graph.roots("lora")
    assert "prompt_tuning" in graph.siblings("prefix_tuning")
    assert set(graph.lineage("lora")) == {*graph.ancestors("lora"), "lora", *graph.descendants("lora")}
    assert graph.cycles() == []
    with pytest.raises(UnknownName, match="did you mean prompt_tuning"):
        graph.ancestors("prompt_tunning")
    both = [(r["method"], r["type"]) for r in graph.related("lora")]
    assert ("qlora", next(r.type for r in kb["qlora"].entry.relations if r.target == "lora")) in both


def test_graph_exports(kb: KnowledgeBase, tmp_path: Path) -> None:
    path = tmp_path / "graph.graphml"
    path.write_text(kb.graph.export("graphml"))
    read = networkx.read_graphml(path, force_multigraph=True)
    assert read.number_of_edges() == kb.graph.nx.number_of_edges()
    assert kb.graph.export("dot").startswith("digraph peftonomy {")
    assert kb.graph.export("mermaid").startswith("graph RL")
    assert '"method:lora"' in kb.graph.export("json")
    with pytest.raises(UnknownName, match="known: dot, graphml, json, mermaid"):
        kb.graph.export("svg")


def test_every_checkpoint_names_its_model(kb: KnowledgeBase) -> None:
    for key, model in kb.models.items():
        assert model.file is not None
        if model.file.checkpoint:
            assert kb.backbone(model.file.checkpoint) is model
            assert kb.backbone(model.file.checkpoint.lower()).id == key
    assert kb["lora"].cost("OpenAI-community/GPT2") == kb["lora"].cost("gpt2")
    assert kb["lora"].sweep(["openai-community/gpt2", "gpt2"], r=[1]).model == ("gpt2", "gpt2")
    for name in ("x" * 5000, "x/" * 5000, "x" * 5000 + "/y"):
        with pytest.raises(PeftonomyError):
            kb.backbone(name)


def test_a_checkpoint_of_several_models_names_none(root: Path, tmp_path: Path) -> None:
    folder = small_tree(root, tmp_path, "lora") / "backbones" / "models"
    text = (folder / "t5_base.yaml").read_text()
    (folder / "t5_twin.yaml").write_text(text.replace("id: t5_base", "id: t5_twin"))
    tree = peftonomy.load(tmp_path)
    checkpoint = str(tree.models["t5_base"].file.checkpoint)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match=r"checkpoint of t5_base and t5_twin; name one of them by its id"):
        tree.backbone(checkpoint)


def test_queries(kb: KnowledgeBase) -> None:
    assert "lora" in kb.query("merge == exact and year >= 2021").ids
    assert kb.query("merge == 'exact'").ids == kb.query("merge == exact").ids
    assert set(kb.query("category == 'additive.*'").ids) == set(kb.query(category="additive").ids)
    assert "qlora" in kb.query("quantised").ids
    assert "prefix_tuning" in kb.query("stores == none").ids
    assert kb.query("not (year < 2030)").ids == []
    assert {"bitfit"} <= set(select(kb, "stored_bytes < 1000000 and acts_on == bias", model="bert_base").ids)
    years = [kb[i].year for i in kb.query().ids]
    assert years == sorted(years)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mergee == exact", "unknown field 'mergee'; did you mean merge"),
        ("merge == exactt", "unknown value of merge 'exactt'; did you mean exact"),
        ("year >= x", "unknown value of year 'x'"),
        ("year >", "condition 'year >', column 1"),
        ("name < 3", "compares words with numbers"),
        ("year.real", "attribute access"),
    ],
)
def test_bad_queries(kb: KnowledgeBase, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        kb.query(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_selection_is_a_table(kb: KnowledgeBase) -> None:
    found = kb.query("year == 2021")
    assert "<table>" in found._repr_html_()
    assert len(found.to_frame()) == len(found)


def test_references(kb: KnowledgeBase) -> None:
    lora = kb.references["hu2022lora"]
    assert lora.arxiv == "2106.09685"
    assert lora.authors[0] == "Edward J. Hu"
    assert lora.url.startswith("https://")
    assert "read =" not in lora.bibtex
    assert lora.bibtex.startswith("@")


def test_bibtex_has_values_in_braces_in_quotes_numbers_and_months() -> None:
    text = """@Book{ one ,
      Title = {The {GPU},
        two lines}, author="A {"quoted"} name" # { and} # " more", month = mAr, year=2020,
    }
    Text between entries is none.
@misc{two, title={No comma at the end}}
    """
    one, two = Bibliography(text, "x.bib").values()
    assert (one.kind, one.line, two.line) == ("book", 1, 6)
    assert one.fields == {
        "title": "The {GPU}, two lines", "author": 'A {"quoted"} name and more', "month": "March", "year": "2020",
    }  # fmt: skip
    assert two.fields == {"title": "No comma at the end"}


@pytest.mark.parametrize(
    "fields",
    [
        "title = {open", "title = {open}", 'title = "open}', "title {x}}", "title = x y}", "title = {a} year = {b}}",
        "title = word}", "title = {a} # }", "title = }", "= {a}}", 'title = "a}b"}',
    ],
)  # fmt: skip
def test_bibtex_that_does_not_parse_is_told_with_its_line(fields: str) -> None:
    with pytest.raises(DataError, match=r"x\.bib:3: bad: found text that does not parse; expected a BibTeX entry"):
        list(Bibliography("@misc{good, title = {x}}\n\n@misc{bad, " + fields, "x.bib").values())


SEVENTEENTH = """
id: vector_scaling
name: Vector scaling
full_name: One trained factor per output of a linear module
year: 2024
category: additive.others
facets: {acts_on: hidden_state, change: scaled, budget: fixed, sharing: none, training: direct, goal: storage}
summary: Multiplies every output of the targeted linear modules by a factor of its own.
description: A method that exists in this test only.
source: nobody2024vector
update: "h = s \\\\odot W_0 x"
where: On the output of each targeted linear module.
hyperparameters:
  gain: {type: float, default: 1.0, meaning: what every factor is multiplied by, source: editors}
targets: {default: [attn.k, attn.v], allowed: ["attn.*"], source: nobody2024vector}
tensors:
  s: {per: site, shape: [d_out], init: ones, trained: true, stored: values, served: merged}
properties: {identity_at_init: exact}
memory: {operations: [{per: site, functions: {after x y: mul y .s}}]}
relations:
  - {type: modifies, target: ia3, note: Leaves the feed-forward block alone., source: editors}
"""
MODULE = '''"""Vector scaling (nobody2024vector#section-2): h = gain * s * W x. Trains s, which can be merged."""


def apply(model, *, gain=1.0, targets=None):
    """Shown on the site; this test does not run it."""
'''
BIBTEX = """
@article{nobody2024vector,
  title  = {Vector Scaling},
  author = {Nobody, Ann},
  year   = {2024},
  url    = {https://example.org/vector},
  read   = {none},
}
"""


@pytest.fixture
def grown(tmp_path: Path, root: Path) -> KnowledgeBase:
    """A copy of the tree with one more method: one YAML, one module, one BibTeX entry."""
    for folder in ("taxonomy", "methods", "backbones", "reference_impls", "site"):
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "methods" / "vector_scaling.yaml").write_text(SEVENTEENTH)
    (tmp_path / "reference_impls" / "vector_scaling.py").write_text(MODULE)
    with (tmp_path / "taxonomy" / "references.bib").open("a") as file:
        file.write(BIBTEX)
    return peftonomy.load(tmp_path)


@pytest.mark.slow
def test_one_more_method_shows_up_everywhere(grown: KnowledgeBase) -> None:
    pytest.importorskip("jinja2")
    from peftonomy.site import preview

    assert [str(p) for p in peftonomy.check(grown)] == []
    assert grown["vector_scaling"].cost("bert_base").trained == 12 * 2 * 768
    command = [sys.executable, "-m", "peftonomy", "--root", str(grown.root)]
    out = subprocess.run([*command, "methods"], capture_output=True, text=True, check=True)
    assert "vector_scaling" in out.stdout
    path, page = next(preview(grown, ["vector_scaling"]))
    assert path == "methods/vector_scaling.md"
    assert "Vector scaling" in str(page)
    assert "Shown on the site" in str(page)


def test_what_a_broken_entry_reports(grown: KnowledgeBase) -> None:
    """All problems of a file at once, each with its line."""
    path = grown.root / "methods" / "vector_scaling.yaml"
    text = (
        SEVENTEENTH.replace("year: 2024", "year: soon")
        .replace("summary:", "sumary:")
        .replace("served: merged", "served: melted")
    )
    path.write_text(text)
    found = [str(p) for p in peftonomy.check(peftonomy.load(grown.root), [path])]
    assert found == [
        "methods/vector_scaling.yaml:2: summary: found nothing; expected this field [schema]",
        "methods/vector_scaling.yaml:5: year: found 'soon'; expected a valid integer [schema]",
        "methods/vector_scaling.yaml:8: sumary: found an unknown field; expected one of "
        + found[2].partition("one of ")[2],
        ("methods/vector_scaling.yaml:17: tensors.s.served: found 'melted'; "
        "expected 'merged', 'kept' or 'absent' [schema]"),
    ]
    assert "did you mean summary?" in found[2]


@pytest.mark.slow
def test_dangling_links_and_cycles(grown: KnowledgeBase) -> None:
    path = grown.root / "methods" / "vector_scaling.yaml"
    path.write_text(
        SEVENTEENTH.replace("target: ia3", "target: ia4")
        .replace("source: nobody2024vector\nupdate", "source: nobody2024vectr\nupdate")
        .replace("[d_out]", "[d_otu]")
    )
    found = [str(p) for p in peftonomy.check(peftonomy.load(grown.root), [path])]
    assert len(found) == 1
    assert "tensors.s.shape[0]: found d_otu in 'd_otu' (column 1)" in found[0]
    path.write_text(
        SEVENTEENTH.replace("target: ia3", "target: ia4").replace(
            "source: nobody2024vector\nupdate", "source: nobody2024vectr\nupdate"
        )
    )
    found = [str(p) for p in peftonomy.check(peftonomy.load(grown.root), [path])]
    assert any(
        "relations[0].target: found ia4; expected a method; did you mean ia3" in p for p in found
    )
    assert any(
        "source: found nobody2024vectr; expected a key of taxonomy/references.bib; did you mean nobody2024vector" in p
        for p in found
    )
    path.write_text(SEVENTEENTH + "includes: [{method: vector_scaling, as: again}]\n")
    found = [str(p) for p in peftonomy.check(peftonomy.load(grown.root), [path])]
    assert any("vector_scaling -> vector_scaling" in p for p in found)


def test_a_method_is_as_old_as_its_first_paper(kb: KnowledgeBase) -> None:
    """The year of an entry is that of its paper on arXiv or in print, whichever was first."""
    for method in kb.values():
        key = method.entry.source.partition("#")[0]
        paper = kb.references.get(key)
        if paper is not None and re.match(r"\d{4}\.", paper.arxiv):
            assert method.year == min(2000 + int(paper.arxiv[:2]), int(paper.year)), f"{method.id} cites {key}"


def test_nothing_is_read_in_a_source_that_nobody_opened(kb: KnowledgeBase) -> None:
    for method in kb.values():
        for claim in method.entry.claims:
            if claim.evidence == "read":
                assert level(kb, claim.source) == "read", f"{method.id}: {claim.id} cites {claim.source}"
        if method.entry.basis is not None and method.entry.basis.rests_on != "second_hand":
            assert level(kb, method.entry.basis.source) != "unread", f"{method.id} rests on an unread source"
