"""The renderer: pages from the knowledge base alone, safe whatever an entry says, and a calculator equal to Python."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import sympy
from py_mini_racer import MiniRacer

import peftonomy
from peftonomy import DataError, KnowledgeBase, UsageError
from peftonomy.site import _closed, pages, write

from .site_kit import REPOSITORY, Pages
from .trees import small_tree

pytestmark = pytest.mark.slow

LEDGERS = (
    "trained", "stored", "stored_bits", "stored_bytes", "served", "head", "backbone", "base_bytes", "percent",
)  # fmt: skip
ASKED = ("task", "num_labels", "targets", "target_modules", "dtype")
HOSTILE = "<script>alert(1)</script> *a* _b_ `c` [d](javascript:alert(2)) ${{7*7}} {{ 7*7 }} \u202egnp"


def tree(root: Path, target: Path) -> Path:
    """A copy of the data whose methods can be changed; what stays as it is is linked."""
    for name in ("taxonomy", "methods"):
        shutil.copytree(root / name, target / name)
    for name in ("backbones", "reference_impls", "site", "mkdocs.yml"):
        (target / name).symlink_to(root / name)
    return target


def edited(root: Path, target: Path, method: str, *changes: tuple[str, str]) -> KnowledgeBase:
    """The knowledge base with some lines of one entry replaced (pattern, new line)."""
    path = tree(root, target) / "methods" / f"{method}.yaml"
    text = path.read_text(encoding="utf-8")
    for pattern, line in changes:
        text, n = re.subn(pattern, lambda _, line=line: line, text, count=1, flags=re.MULTILINE)
        assert n == 1, pattern
    path.write_text(text, encoding="utf-8")
    return peftonomy.load(target)


# What is there.


def test_every_record_has_its_page_and_its_json(kb: KnowledgeBase, made: Pages) -> None:
    for folder, ids in (("methods", kb.methods), ("models", kb.models)):
        for key in ids:
            assert f"{folder}/{key}.md" in made
            assert f"api/v1/{folder}/{key}.json" in made
    assert all(f"categories/{key}.md" in made for key in kb.taxonomy.categories)


@pytest.mark.slow
def test_another_process_without_mkdocs_makes_the_same_bytes(root: Path, made: Pages) -> None:
    code = (
        "import pickle, sys; sys.modules['mkdocs'] = None; import peftonomy, peftonomy.site as s\n"
        f"sys.stdout.buffer.write(pickle.dumps(s.pages(peftonomy.load(), repository={REPOSITORY!r})))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, stdout=subprocess.PIPE)
    again = pickle.loads(done.stdout)
    assert list(again) == list(made)
    assert [p for p in made if again[p] != made[p]] == []


def test_a_method_page_says_what_the_entry_says(kb: KnowledgeBase, made: Pages) -> None:
    for method in kb.values():
        text = plain(str(made[f"methods/{method.id}.md"]))
        entry = method.entry
        said = [entry.summary, entry.full_name, *entry.aliases, *(c.reported for c in entry.claims)]
        said += [h.meaning for h in entry.hyperparameters.values()] + [r.note for r in entry.relations]
        said += [p.note for p in entry.pitfalls] + list(entry.tensors)
        assert [s for s in said if squeezed(s) not in text] == [], method.id


def test_relations_are_shown_from_both_ends(kb: KnowledgeBase, made: Pages) -> None:
    for method in kb.values():
        for relation in method.entry.relations:
            if relation.target in kb.methods:
                assert f'href="{method.id}.html"' in str(made[f"methods/{relation.target}.md"])


def test_every_internal_link_and_anchor_exists(made: Pages) -> None:
    anchors = {path: ids(str(text)) for path, text in made.items() if path.endswith(".md")}
    broken = []
    for path in anchors:
        for href in hrefs(str(made[path])):
            if re.match(r"https?:", href):
                continue
            target, _, anchor = href.partition("#")
            file = resolved(path, target.partition("?")[0])
            if file not in made or (anchor and anchor not in anchors.get(file, set())):
                broken.append((path, href))
    assert broken == []


def test_the_api_is_versioned_json_without_a_clock(kb: KnowledgeBase, made: Pages) -> None:
    answers = {p: json.loads(t) for p, t in made.items() if p.startswith("api/v1/")}
    assert all(a["schema_version"] == "1.0" for p, a in answers.items() if "/schema/" not in p)
    index = answers["api/v1/index.json"]
    assert [m["id"] for m in index["methods"]] == list(kb)
    assert all(f"api/v1/{r['href']}" in answers for r in index["methods"] + index["models"])
    assert not re.search(r"20\d\d-\d\d-\d\dT|generated_at|timestamp", json.dumps(index))
    lora = answers["api/v1/methods/lora.json"]["method"]
    assert lora["tensors"]["A"]["shape"] == ["r", "d_in"]
    assert lora["costs"][0]["trained"] == kb["lora"].cost(lora["costs"][0]["model"]).trained


def test_no_foreign_address_but_in_links(made: Pages) -> None:
    for path, text in made.items():
        if path.endswith((".md", ".js", ".css")):
            content = text.decode() if isinstance(text, bytes) else text
            loads = re.findall(r"""(?:src=|srcset=|@import\s|url\()["']?(https?:|//)""", content)
            assert loads == [], path


# What entries may do to a page: nothing.


@pytest.mark.slow
def test_hostile_text_is_shown_as_text(root: Path, tmp_path: Path) -> None:
    quoted = json.dumps(HOSTILE)
    few = small_tree(root, tmp_path / "few", "lora", "adalora", "qlora")
    (tmp_path / "tree").mkdir()
    kb = edited(
        few, tmp_path / "tree", "lora",
        (r"^full_name:.*$", f"full_name: {quoted}"), (r"^where:.*$", f"where: {quoted}"),
        (r"^name:.*$", "name: \"<img src=x onerror=alert(3)> # *LoRA* {.x}\""),
    )  # fmt: skip
    made = pages(kb)
    for path, text in made.items():
        if path.endswith((".md", ".svg")):
            shown = elements(str(text))
            assert "script" not in shown
            assert "img" not in shown
            assert not [h for h in hrefs(str(text)) if h.lower().startswith(("javascript:", "data:"))]
    page = str(made["methods/lora.md"])
    assert squeezed(HOSTILE) in plain(page)
    assert "\n# &#60;img src&#61;x" in page  # a heading is Markdown still: nothing special is left in it
    assert "</script" not in str(made["assets/data.js"])


def test_a_formula_that_cannot_be_set_names_the_file(root: Path, tmp_path: Path) -> None:
    kb = edited(root, tmp_path, "lora", (r"^update: >-\n  .*$", r'update: "h = W_0 x + \\frac{\\alpha}{r"'))
    with pytest.raises(DataError, match=r"methods/lora\.yaml: update: .*KaTeX"):
        pages(kb)


def test_a_seventeenth_method_needs_one_file_to_be_on_the_site(root: Path, tmp_path: Path) -> None:
    folder = small_tree(root, tmp_path, "lora", "ia3") / "methods"
    text = (folder / "lora.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^relations:\n(?:[ \t-].*\n|\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^id: lora$", "id: seventeenth", text, flags=re.MULTILINE)
    (folder / "seventeenth.yaml").write_text(text.replace("name: LoRA\n", "name: Seventeenth\n"), encoding="utf-8")
    made = pages(peftonomy.load(tmp_path))
    assert "methods/seventeenth.md" in made
    assert '"seventeenth":{' in str(made["assets/data.js"])
    for path in ("methods/index.md", "taxonomy.md", "assets/taxonomy.svg", "api/v1/index.json"):
        assert "methods/seventeenth" in str(made[path]), path


@pytest.mark.slow
def test_writing_leaves_what_did_not_change(kb: KnowledgeBase, tmp_path: Path) -> None:
    paths = write(kb, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in paths}
    assert {p: p.stat().st_mtime_ns for p in write(kb, tmp_path)} == before


# The calculator.


@pytest.fixture(scope="session")
def engine(made: Pages) -> MiniRacer:
    """The site's own scripts in an embedded V8, with a wrapper that turns errors into answers."""
    context = MiniRacer()
    context.eval(str(made["assets/engine.js"]))
    context.eval(str(made["assets/data.js"]))
    context.eval(
        "function ask(m, o) { try { return JSON.stringify(peft.cost(m, JSON.parse(o))); }"
        " catch (e) { return JSON.stringify({ problem: e.message, user: !!e.user }); } }"
    )
    return context


def settings(kb: KnowledgeBase, method: str, model: str) -> Iterator[dict[str, Any]]:
    """Three questions: the defaults; whole numbers doubled and choices turned; every targetable role in bfloat16."""
    specs = kb[method].entry.hyperparameters
    yield {}
    turned: dict[str, Any] = {
        n: 2 * h.default for n, h in specs.items() if h.type == "int" and isinstance(h.default, int)
    }
    turned |= {n: not h.default for n, h in specs.items() if h.type == "bool"}
    turned |= {n: h.values[-1] for n, h in specs.items() if h.values}
    yield {"values": turned}
    allowed = [p for part in kb[method].plan(model).parts if (t := part.entry.targets) for p in t.allowed]
    inventory = kb.models[model].inventory()
    roles = dict.fromkeys(s.role for s in inventory.resolve_roles(["*"]))
    fitting = [r for r in roles if any(re.fullmatch(p.replace(".", r"\.").replace("*", ".*"), r) for p in allowed)]
    yield {"targets": fitting or None, "dtype": "bfloat16"}


def python_answer(kb: KnowledgeBase, method: str, model: str, question: dict[str, Any]) -> dict[str, Any]:
    given = {k: question[k] for k in ASKED if k in question}
    try:
        return kb[method].cost(model, **given, **question.get("values", {})).to_dict()
    except UsageError as error:
        return {"problem": str(error)}


@pytest.mark.slow
def test_the_calculator_gives_the_integers_of_python(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    """The default setting on every model; on one model of each family all settings, tasks and ways to target."""
    compared, seen = 0, set()
    for model, backbone in kb.models.items():
        questions: list[dict[str, Any]] = [{}]
        if backbone.family.model_type not in seen:
            seen.add(backbone.family.model_type)
            with contextlib.suppress(UsageError):  # the method has nothing to act on in this model at all
                questions = list(settings(kb, method, model))
            questions += [{"task": task, "num_labels": 5} for task in backbone.tasks]
            questions += [{"target_modules": "all-linear"}]
        for question in questions:
            python = python_answer(kb, method, model, question)
            ours = json.loads(engine.call("ask", method, json.dumps({"model": model, **question})))
            assert ("problem" in ours) == ("problem" in python), (model, question, python, ours)
            if "problem" in python:
                assert ours["user"], ours  # a message for people, not a crash
                continue
            assert {k: ours[k] for k in LEDGERS} == {k: python[k] for k in LEDGERS}, (model, question)
            assert rows(ours) == rows(python), (model, question)
            compared += 1
    assert compared > 0


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "method" in metafunc.fixturenames:
        metafunc.parametrize("method", list(peftonomy.load(Path(__file__).parent.parent)))


def rows(cost: dict[str, Any]) -> list[Any]:
    keys = (
        "name", "per", "shape", "count", "sites", "total", "trained", "stored", "stored_bits", "served", "served_bits",
        "roles",
    )  # fmt: skip
    return [[tensor[key] for key in keys] for tensor in cost["tensors"]]


@pytest.mark.slow
def test_the_comparison_can_fail(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """A ledger that is off by one in a single formula is seen."""
    engine.eval(
        "var at = peft.data.methods.lora.parts[0].tensors[0].shape[0], kept = peft.data.formulas[at];"
        "peft.data.formulas[at] = function (names) { return kept(names) + 1; }"
    )
    try:
        assert differs(kb, engine, "lora")
    finally:
        engine.eval("peft.data.formulas[at] = kept")


def differs(kb: KnowledgeBase, engine: MiniRacer, method: str) -> bool:
    try:
        test_the_calculator_gives_the_integers_of_python(kb, engine, method)
    except AssertionError:
        return True
    return False


NUMBERS = (-7, -3, -1, 1, 2, 3, 5, 8, 2**31 + 1, 2**53 - 1, 0.1, 2.5, -0.75)


@pytest.mark.parametrize(
    ("name", "python"),
    [("fdiv", lambda a, b: a // b), ("mod", lambda a, b: a % b), ("gcd", lambda a, b: math.gcd(int(a), int(b)))],
)
def test_helpers_mean_what_they_mean_in_python(engine: MiniRacer, name: str, python: Any) -> None:
    numbers = [n for n in NUMBERS if name != "gcd" or isinstance(n, int)]
    for a in numbers:
        for b in numbers:
            assert float(engine.call(name, a, b)) == float(python(a, b)), (a, b)


def test_powers_of_whole_numbers_are_exact(engine: MiniRacer) -> None:
    assert all(engine.call("pow", a, n) == a**n for a in (-3, 0, 7, 97) for n in range(8))


# Closed forms.


@pytest.mark.parametrize("model", ["t5_base", "llama_3_2_1b"])
def test_closed_forms_add_up_to_the_counts(kb: KnowledgeBase, method: str, model: str) -> None:
    """Each formula that a page prints, summed over the places that its sums name, is the count."""
    specs = kb[method].entry.hyperparameters
    options = {n: h.values or [True, False] for n, h in specs.items() if h.type in ("bool", "choice")}
    for values in itertools.product(*options.values()):
        setting = dict(zip(options, values, strict=True))
        try:
            cost, plan = kb[method].cost(model, **setting), kb[method].plan(model)
        except UsageError:
            continue
        counted = {"trained": cost.trained, "stored": cost.stored, "mask bits": cost.stored_bits, "served": cost.served}
        numbers, arguments = plan.common | cost.hyperparameters, plan.arguments(cost.hyperparameters)
        found = _closed.sums(kb[method], setting)
        for ledger, count in counted.items():
            terms = found.get(ledger, {})
            total = sum(added_up(term, label, plan, numbers, arguments) for label, term in terms.items())
            assert total == count, (setting, ledger)


def added_up(term: Any, label: str, plan: Any, numbers: dict[str, Any], arguments: Any) -> float:
    """The term at each place that carries the label, summed; without a label it stands once."""
    value = sympy.sympify(term)
    spots = {
        (id(spot.source), spot.role, spot.suffix, layer): (1 if layers else spot.n, dims)
        for p in plan.pieces
        for _, spot in p.group.spots
        for layers in [spot.layers if p.measure.by_layer else ()]
        for layer in layers or [None]
        for dims in [spot.dims | ({} if layer is None else {"layer": layer})]
        if _closed.scope(p.tensor) == label and (p.tensor.where is None or p.tensor.where(numbers | dims))
    }
    wholes: dict[str, int] = {}
    for piece in {p.name: p for p in plan.pieces}.values():
        members = [p for p in plan.pieces if p.name == piece.name]
        own = dict(zip(piece.measure.hyperparameters, arguments[piece.part], strict=True))
        size = sum(p.group.n * p.measure.wanted[0](plan.common | p.group.dims | own) for p in members)
        name = _closed.over(piece.name.rpartition(".")[2], piece.tensor)
        assert wholes.setdefault(name, size) == size or not any(part.across for part in piece.tensor.stored)
    total = 0.0
    for n, dims in spots.values() if label else [(1, {})]:
        known = numbers | wholes | dims
        total += n * float(value.subs({s: known[s.name] for s in value.free_symbols}))
    return total


# Reading pages.


class _Reader(HTMLParser):
    """Elements, attributes and text of the HTML in a page."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def plain(text: str) -> str:
    return squeezed("".join(_Reader(text).words))


def squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def elements(text: str) -> set[str]:
    return {tag for tag, _ in _Reader(text).tags}


def hrefs(text: str) -> list[str]:
    return [a["href"] for _, a in _Reader(text).tags if a.get("href")]  # type: ignore[misc]


def ids(text: str) -> set[str]:
    found = {str(a["id"]) for _, a in _Reader(text).tags if "id" in a}
    return found | set(re.findall(r"^#+ .*\{ ?#([\w-]+)", text, flags=re.MULTILINE))


def resolved(page: str, target: str) -> str:
    """The source file behind a relative link of a page."""
    if not target:
        return page
    parts: list[str] = []
    for part in (PurePosixPath(page).parent / target).parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    path = "/".join(parts)
    return re.sub(r"\.html$", ".md", path)
