"""The pages that lay methods out: the survey, other surveys, lists, years, facets, and the pictures on method pages."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import peftonomy
from peftonomy import KnowledgeBase
from peftonomy.knowledge.claims import judge
from peftonomy.knowledge.evidence import level
from peftonomy.site import _block, _finder, _surveys, pages
from peftonomy.site._site import Site
from peftonomy.site._text import volume

from .site_kit import Pages
from .test_site import HOSTILE, _Reader, edited, elements, hrefs, ids, plain, squeezed
from .trees import small_tree

pytestmark = pytest.mark.slow

DRAWN = ("embed.token", "attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.gate", "mlp.down", "head.lm")


@pytest.fixture(scope="module")
def site(kb: KnowledgeBase) -> Site:
    return Site(kb)


def answer(made: Pages, path: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(made[f"api/v1/{path}"])
    return found


# The survey.


def test_the_survey_page_names_every_method_of_its_tree(kb: KnowledgeBase, made: Pages, site: Site) -> None:
    page = str(made["survey.md"]).partition("## New since the survey")[0]
    inside = {k for k, n in kb.taxonomy.categories.items() if n.source.partition("#")[0] == site.survey}
    its = {key for k in inside for key in kb.taxonomy.categories[k].methods}
    for method in kb.values():
        assert (f'href="methods/{method.id}.html"' in page) == (method.id in its), method.id
    for key in kb.taxonomy.categories:
        assert (f'href="categories/{key}.html"' in page) == (key in inside), key


def test_every_printed_count_of_the_survey_is_recomputed(kb: KnowledgeBase, made: Pages, site: Site) -> None:
    """The page and its data hold each claim of that source once, with the value that judging it gives."""
    wanted = {(m.id, c.id): c for m in kb.values() for c in m.entry.claims if c.source.partition("#")[0] == site.survey}
    rows = answer(made, "experiments.json")["experiments"]
    page = str(made["survey.md"])
    assert [(r["method"], r["claim"]) for r in rows] == list(dict.fromkeys((r["method"], r["claim"]) for r in rows))
    assert {(r["method"], r["claim"]) for r in rows} == set(wanted)
    for row in rows:
        claim = wanted[row["method"], row["claim"]]
        found = judge(kb[row["method"]], claim)
        assert Decimal(str(row["computed"])) == pytest.approx(found.value)
        agreement = found.agreement if claim.verdict else None
        assert (row["agreement"], row["verdict"], row["note"]) == (agreement, claim.verdict, claim.note or "")
        assert f'id="{row["method"]}-{row["claim"]}"' in page
        assert squeezed(claim.note or "") in plain(page)


def test_the_methods_of_its_experiments_are_counted_at_their_defaults(
    kb: KnowledgeBase, made: Pages, site: Site
) -> None:
    """Every cell is what `cost` gives, and no printed number stands there without a source that was opened."""
    asked = site.settings.survey
    page = str(made["survey.md"]).partition("## Its experiments, counted")[2].partition("### Numbers")[0]
    rows = re.findall(r"<tr>(<th scope=.row.>.*?)</tr>", page)
    assert len(rows) == len(asked.methods)
    for key, row in zip(asked.methods, rows, strict=True):
        assert f'href="methods/{key}.html"' in row
        cells = re.findall(r"<td class=.n.>(.*?)</td>", row)
        for model, cell in zip(asked.models, cells, strict=True):
            found = site.cost(kb[key], model)
            assert (">none<" if found["problem"] else f"{kb[key].cost(model).trained:,}") in cell


def test_no_number_stands_on_memory(kb: KnowledgeBase) -> None:
    """A claim was read, or is quoted by a named source; a source that nobody opened carries no claim that was read."""
    for method in kb.values():
        for claim in method.entry.claims:
            assert claim.evidence in ("read", "second_hand")
            if claim.evidence == "read":
                assert level(kb, claim.source) == "read", f"{method.id}: {claim.id} cites {claim.source}"


# Other surveys.


def test_disagreements_are_those_of_the_trees(root: Path, kb: KnowledgeBase, made: Pages) -> None:
    """Recomputed here from the YAML alone: top-level `like`, against the first part of our category."""
    raw = yaml.safe_load((root / "taxonomy" / "surveys.yaml").read_text(encoding="utf-8"))["surveys"]
    category = {m.id: m.category for m in kb.values()}
    wanted = set()

    def walk(survey: str, top: dict[str, Any], node: dict[str, Any]) -> None:
        for key in node.get("methods", []):
            if top.get("like") and top["like"] != category[key].split(".")[0]:
                wanted.add((survey, key))
        for child in node.get("children", []):
            walk(survey, top, child)

    for survey, body in raw.items():
        for top in body["tree"]:
            walk(survey, top, top)
    rows = answer(made, "surveys.json")["filed"]
    found = {(p["survey"], r["method"]) for r in rows for p in r["filed"] if p["stands"] == "differs"}
    assert found == wanted
    assert wanted
    marked = re.findall(r'<tr id="([\w-]+)" class="pf-differs">', str(made["crosswalk.md"]))
    assert {m.replace("-", "_") for m in marked} == {key for _, key in wanted}


def test_every_filing_is_on_the_crosswalk_and_on_the_method(kb: KnowledgeBase, made: Pages) -> None:
    crosswalk = plain(str(made["crosswalk.md"]))
    for method in kb.values():
        for survey in kb.taxonomy.surveys.values():
            for path in survey.filed(method.id):
                said = squeezed(" › ".join(node.name for node in path))
                assert said in crosswalk
                assert said in plain(str(made[f"methods/{method.id}.md"]).split("## Where surveys")[1])


def test_classes_of_another_axis_neither_agree_nor_differ(kb: KnowledgeBase) -> None:
    (han, wang) = _surveys.filed(kb, "qlora", kb["qlora"].category)
    assert (han["stands"], wang["stands"]) == ("other axis", "other axis")
    assert {f["stands"] for f in _surveys.filed(kb, "lora", kb["lora"].category)} == {"agrees"}
    assert {f["stands"] for f in _surveys.filed(kb, "lora", "additive.adapter")} == {"differs"}


# Lists.


def test_a_list_has_its_page_its_condition_and_its_methods(kb: KnowledgeBase, made: Pages) -> None:
    for key, stored in kb.taxonomy.lists.items():
        page, data = str(made[f"lists/{key}.md"]), answer(made, f"lists/{key}.json")["list"]
        inside = kb.stored_list(key).ids
        assert (data["methods"], data["where"]) == (inside, stored.where)
        assert set(re.findall(r'href="\.\./methods/(\w+)\.html"', page)) == set(inside)
        assert squeezed(stored.where) in plain(page)
        for index in ("lists/index.md", "methods/index.md", "index.md"):
            assert f"{key}.html" in str(made[index])
        for method in kb:
            assert (f'href="../lists/{key}.html"' in str(made[f"methods/{method}.md"])) == (method in inside)


# Pictures on method pages.


def test_the_block_shows_where_each_method_acts(kb: KnowledgeBase, made: Pages) -> None:
    for method in kb.values():
        found = _block.acts(method)
        assert found.marks, method.id
        svg = re.search(
            r'<svg [^>]*class="pf-block" viewBox[^>]*role="img"[^>]*>', str(made[f"methods/{method.id}.md"])
        )
        assert svg is not None, method.id
        assert squeezed(found.sentence) in squeezed(dict(_Reader(svg[0]).tags[0][1])["aria-label"] or "")


def test_the_block_follows_scopes_and_roles(kb: KnowledgeBase) -> None:
    def marks(key: str, kind: str) -> set[str]:
        return {p for p, kinds in _block.acts(kb[key]).marks.items() if kind in kinds}

    assert marks("lora", "added") == {"attn.q", "attn.v"}
    assert marks("lora", "optional") == {"attn.k", "attn.o", "mlp.gate", "mlp.up", "mlp.down"}
    assert marks("ia3", "scaled") == {"attn.k", "attn.v", "mlp.down"}
    assert marks("bitfit", "bias") >= {"attn.q", "mlp.down", "norm.attn"}
    assert marks("full_fine_tuning", "changed") >= set(DRAWN)
    assert marks("prefix_tuning", "prepended") == {"kv"}
    assert marks("prompt_tuning", "prepended") == {"prompt"}
    assert marks("parallel_adapter", "added") == {"mlp"}
    assert marks("lst", "added") == {"side"}
    assert marks("mad_x", "added") == {"layer", "embed.token", "head.lm"}
    assert marks("hyperformer_pp", "added") == {"model", "attn.o", "mlp.down"}
    assert marks("mam_adapter", "added") | marks("mam_adapter", "prepended") == {"mlp", "kv"}
    assert marks("s4", "added") == {"attention", "mlp"}
    assert marks("s4", "prepended") == {"kv"}
    assert marks("sequential_adapter", "changed") == {"norm.attn", "norm.mlp"}


def test_other_roles_in_an_entry_move_the_marks(root: Path, tmp_path: Path) -> None:
    changed = edited(root, tmp_path, "lora", (r"default: \[attn.q, attn.v, xattn.q, xattn.v\]", "default: [mlp.up]"))
    assert _block.acts(changed["lora"]).marks["mlp.up"] == {"added"}
    assert _block.acts(changed["lora"]).marks["attn.q"] == {"optional"}


def test_the_neighbourhood_links_each_relation_with_its_reason(kb: KnowledgeBase, made: Pages) -> None:
    for method in kb.values():
        related = kb.graph.related(method.id)
        page = str(made[f"methods/{method.id}.md"])
        pictures = re.findall(r'<svg [^>]*class="pf-kin".*?</svg>', page, flags=re.DOTALL)
        assert len(pictures) == bool(related) or method.entry.relations == [], method.id
        for r in related:
            own = any(one.target == r["method"] for one in method.entry.relations)
            there = pictures[0] if own else page                    # younger methods may stand in the list only
            assert f'href="{r["method"]}.html"' in there or r["method"] not in kb, (method.id, r["method"])
            assert squeezed(r["note"]) in plain(there)


def test_the_neighbourhood_is_ordered_by_year(kb: KnowledgeBase, made: Pages) -> None:
    for method in kb.values():
        page = str(made[f"methods/{method.id}.md"])
        for svg in re.findall(r'<svg [^>]*class="pf-kin".*?</svg>', page, flags=re.DOTALL):
            years = re.findall(r'<text class="year" x="[\d.]+" y="([\d.]+)"[^>]*>(\d+)<', svg)
            assert [int(y) for _, y in years] == sorted({int(y) for _, y in years})
            heights = [float(h) for h, _ in years]
            assert heights == sorted(heights)


def test_no_line_of_the_neighbourhood_runs_under_a_box(kb: KnowledgeBase, made: Pages) -> None:
    """Between its ends a line stays out of every box; all of its pieces are level or upright, but for the corners."""
    crossed = []
    for method in kb.values():
        for svg in re.findall(r'<svg [^>]*class="pf-kin".*?</svg>', str(made[f"methods/{method.id}.md"]), re.DOTALL):
            boxes = [
                tuple(float(n) for n in found)
                for found in re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
            ]
            for d in re.findall(r'<path class="edge \w+" d="([^"]+)"', svg):
                numbers = [float(n) for n in re.findall(r"[\d.]+", d)]
                points = list(zip(numbers[::2], numbers[1::2], strict=True))
                crossed += [
                    (method.id, d)
                    for (a, b), (c, e) in pairwise(points)
                    for x, y, w, h in boxes
                    if min(a, c) < x + w and max(a, c) > x and min(b, e) < y + h and max(b, e) > y
                ]
            assert len(boxes) > 1
    assert crossed == []


def test_the_facts_say_what_is_stored(kb: KnowledgeBase, made: Pages, site: Site) -> None:
    for method in kb.values():
        page = str(made[f"methods/{method.id}.md"])
        fact = re.search(r"<dt>What is stored</dt><dd>(.*?)</dd>", page)
        assert fact is not None, method.id
        try:
            size = method.cost(site.examples[0]).stored_bytes
        except peftonomy.UsageError:
            continue
        assert volume(size) in fact[1]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (16_777_216, "16.8 MB"), (999_600, "1 MB"), (2.7e10, "27 GB")],
)
def test_amounts_of_bytes(size: float, text: str) -> None:
    assert volume(size) == text


# Years and facets.


def test_the_timeline_has_every_method_in_its_year(kb: KnowledgeBase, made: Pages) -> None:
    page = str(made["timeline.md"])
    svg, rest = page.split("</svg>")
    for method in kb.values():
        assert svg.count(f'href="methods/{method.id}.html"') == 1
        row = re.search(rf'<li id="y{method.year}">.*', rest)
        assert row is not None
        assert f'href="methods/{method.id}.html"' in row[0]


def test_a_cell_of_the_matrix_counts_its_methods(kb: KnowledgeBase, made: Pages, site: Site) -> None:
    page = str(made["matrix.md"])
    for facet, spec in kb.taxonomy.facets.items():
        for value in spec.values:
            for leaf in kb.taxonomy.categories:
                inside = [m for m in kb.values() if m.category == leaf]
                n = sum(value in _finder.words(m)[facet] for m in inside)
                cell = re.search(
                    rf'href="methods/index\.html\?category={leaf}&amp;{facet}={value}" title="[^"]*">(\d+)<', page
                )
                assert (int(cell[1]) if cell else 0) == n, (facet, value, leaf)


# The finder.


def test_a_row_of_the_finder_knows_all_names(kb: KnowledgeBase, made: Pages) -> None:
    rows = dict(_rows(str(made["methods/index.md"])))
    assert set(rows) == set(kb)
    for method in kb.values():
        known = rows[method.id]["data-names"]
        reference = kb.references[method.entry.source.partition("#")[0]]
        said = [
            method.name,
            method.entry.full_name,
            *method.entry.aliases,
            *([reference.arxiv] if reference.arxiv else []),
        ]
        assert [s for s in said if s not in known] == []
        steps = method.category.split(".")
        facets = rows[method.id]["data-facets"].split()
        assert {f"category:{steps[0]}", f"category:{method.category}", f"merge:{method.merge}"} <= {
            *facets
        }


def _rows(page: str) -> list[tuple[str, dict[str, str]]]:
    return [
        (str(a["data-id"]), {k: v or "" for k, v in a.items()})
        for t, a in _Reader(page).tags
        if t == "tr" and "data-id" in a
    ]


def test_options_of_the_finder_count_what_they_find(kb: KnowledgeBase, made: Pages) -> None:
    page = str(made["methods/index.md"])
    facets = [row["data-facets"].split() for _, row in _rows(page)]
    offered = 0
    for name, options in re.findall(r'<select id="pf-by-\w+" name="(\w+)"[^>]*>(.*?)</select>', page):
        for value, n in re.findall(r'<option value="([^"]+)">[^<]*\((\d+)\)</option>', options):
            assert sum(f"{name}:{value}" in row for row in facets) == int(n), (name, value)
            offered += 1
    assert offered > 40


# All of these pages.


def test_new_pages_are_safe_and_have_single_anchors(root: Path, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(3)> # *LoRA* {.x}"
    few = small_tree(root, tmp_path / "few", "lora", "adalora", "qlora")
    (tmp_path / "tree").mkdir()
    changed = edited(
        few, tmp_path / "tree", "lora", (r"^name:.*$", f"name: {json.dumps(name)}"),
        (r"^aliases:.*$", f"aliases: [{json.dumps(HOSTILE[:70])}]"),
    )  # fmt: skip
    made = pages(changed)
    for path in (
        "survey.md",
        "crosswalk.md",
        "timeline.md",
        "matrix.md",
        "lists/recent.md",
        "methods/index.md",
        "methods/adalora.md",
    ):
        page = str(made[path])
        assert not elements(page) & {"script", "img"}, path
        assert not [h for h in hrefs(page) if h.lower().startswith("javascript:")]
        anchors = [str(a["id"]) for _, a in _Reader(page).tags if "id" in a]
        assert len(anchors) == len(set(anchors)), path
        assert ids(page)
