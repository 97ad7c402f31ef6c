"""Pages about collections: home, lists, categories, models, the taxonomy, references, API and about."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from ..backbones.modules import Module
from ..costs.cost import Cost
from ..errors import UsageError
from ..knowledge import scaffold as _scaffold
from ..knowledge.evidence import LEVELS
from ..knowledge.rules import RULES
from ..schema.taxonomy import CategoryNode
from . import _about, _anchors, _api, _fields, _finder, _gallery, _measured, _names, _radial
from ._method import claim_view
from ._overview import finder
from ._schemas import SCHEMAS
from ._site import KINDS, Site, View
from ._text import count, inline, percent

__all__ = ["category_page", "model_page", "picture", "standing_pages"]

BATCH, SEQ = 1, 512
"""The training step whose memory a model's page shows."""
WIDE = {"hide": ["toc"]}
ABOUT = "A knowledge base of parameter-efficient fine-tuning methods, checked by running it."
SAMPLE = ("id", "name", "year", "category", "summary", "tensors", "properties")


def category_page(site: Site, node: CategoryNode) -> str:
    """Return `categories/<id>.md`: its definition, its parts, and the methods in it and below."""
    children = [
        {"id": c.id, "name": c.name, "definition": c.definition, "count": _plural(_below(site, c.id), "method")}
        for c in node.children
    ]
    return site.page(
        "category.md",
        node.name,
        node.definition,
        meta={"source": "taxonomy/categories.yaml", "door": "Taxonomy"},
        trail=site.trail(node.id)[:-1],
        hue=site.hue(node.id),
        definition=node.definition,
        children=children,
        groups=site.groups(node.id),
        example_model=site.kb.models[site.examples[0]].name,
    )


def _below(site: Site, category: str) -> int:
    return sum(f"{m.category}.".startswith(f"{category}.") for m in site.kb.values())


def model_page(site: Site, key: str) -> str:
    """Return `models/<id>.md`: its sizes, every parameter by module, and the costs of methods on it.

    A page includes some methods only, and the page's script fills in the others. All methods on all models would
    dominate the site's build time and size.
    """
    model = site.kb.models[key]
    inventory, family = model.inventory(), model.family
    chosen = sorted((site.kb[m] for m in site.settings.on_models if m in site.kb.methods), key=lambda m: site.use[m.id])
    rows = [
        {
            "id": m.id, "name": m.name, "hue": site.hue(m.category),
            "libraries": site.libraries(m),
        } | site.cost(m, key)
        for m in chosen
    ]  # fmt: skip
    return site.page(
        "model.md",
        model.name,
        f"{model.name}: {count(model.parameters)} parameters, by module.",
        meta={"source": f"backbones/models/{key}.yaml", "door": "Models"},
        id=key,
        family={"id": family.model_type, "name": family.name, "kind": KINDS[family.kind]},
        parameters=count(model.parameters),
        note=model.file.note if model.file is not None else None,
        citation=site.cite(model.source),
        dims=[(name, count(value)) for name, value in inventory.dims.items() if value],
        klass=family.tasks[inventory.task].class_,
        modules=[_module(m) for m in inventory.modules],
        costs=rows, n_methods=len(site.kb), step={"batch": BATCH, "seq": SEQ if inventory.reads_tokens else None},
    )


def _module(module: Module) -> View:
    shapes = (f"{suffix} {' × '.join(map(count, shape))}" for suffix, shape in module.parameters)
    return {
        "path": module.path, "roles": [module.role, *(r for r, *_ in module.slices if r != module.role)],
        "layers": _layers(module.layers), "shapes": ", ".join(shapes) or "tied", "total": count(module.numel),
    }  # fmt: skip


def _layers(layers: Sequence[int]) -> str:
    if not layers:
        return "once"
    run = tuple(layers) == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}–{layers[-1]}" if run and len(layers) > 1 else ", ".join(map(str, layers))


def standing_pages(site: Site) -> Iterator[tuple[str, str]]:
    """Yield the pages that do not depend on the contents of the knowledge base."""
    shared = {
        "counts": site.counts, "example_model": site.kb.models[site.examples[0]].name, "groups": site.groups(),
    }  # fmt: skip
    terminal = _terminal(site)

    def page(path: str, title: str, description: str, meta: View | None = None, **values: object) -> tuple[str, str]:
        return path, site.page(path, title, description, meta, **values)

    shared["lists"] = site.lists
    meta = {"linked": _about.dataset(site), **WIDE}
    yield page(
        "index.md", "peftonomy", ABOUT, meta, art=picture(site, labels=False), terminal=terminal,
        pictures=_gallery.home(site), hues=_measured.hues(site), **shared,
    )  # fmt: skip
    meta = {"finder": True, **WIDE}
    yield page(
        "methods/index.md", "Methods", "All methods by category.", meta, facets=finder(site), facts=_finder.rows(site),
        names=_names.shared(site), **shared,
    )  # fmt: skip
    yield page(
        "models/index.md", "Models", "All models by architecture.", meta, families=list(_families(site)),
        kinds=KINDS.items(), counts=site.counts,
    )  # fmt: skip
    yield page(
        "calculator.md", "Calculator", "The cost of a method on a model.", {"calculator": True, **WIDE},
        command=terminal[0]["text"], model=site.examples[0], method=site.example_method,
    )  # fmt: skip
    yield page(
        "taxonomy.md", "Taxonomy", "The category of each method, and the methods that it builds on.",
        {"source": "taxonomy/categories.yaml", **WIDE},
        picture=picture(site, labels=True), tree=_radial.nested(_tree(site)),
        relation_types=[(key, kind.name) for key, kind in site.kb.taxonomy.relations.items()],
        facets=finder(site), classes=list(_finder.classes(site)),
    )  # fmt: skip
    meta = {"source": "taxonomy/references.bib", **WIDE}
    yield page("references.md", "Sources", "Every source, with BibTeX.", meta, references=_bibliography(site))
    about = "Differences between libraries and methods, by effect and subject."
    yield page("deviations.md", "Deviations", about, {"door": "About", **WIDE}, deviations=list(_deviations(site)))
    about = "Printed numbers that contradict their own formula or code, each with the proof."
    yield page("errata.md", "Errata", about, {"door": "About", **WIDE}, errata=list(_errata(site)))
    files = [
        {"path": _api.ROOT + p, "content": c, "example": _api.ROOT + _example(site, p)} for p, c in _api.FILES.items()
    ]
    yield page(
        "api.md", "API", "The data as JSON files.", {"door": "Reference"}, files=files, schemas=list(_schemas(site)),
        sample=_sample(site), terminal=terminal,
    )  # fmt: skip
    meta = {"source": "site/pages/about.md"}
    yield page(
        "about.md", "About", "How the numbers are checked, and how to add a method.", meta, counts=site.counts,
        libraries=_libraries(site), levels=LEVELS, bibtex=_about.citation()["bibtex"],
    )  # fmt: skip
    yield page(
        "contribute.md", "Contribute", "How to add a method: template, rules with examples, and every field.",
        {"source": "taxonomy/rules.yaml", "door": "About"},
        fields=_fields.table(), rules=list(_rules(site)), files=_template(site),
    )  # fmt: skip
    names = _names.shared(site)
    yield page(
        "names.md", "Names", "Names shared by several methods, and shared hyperparameter names.",
        {"door": "Methods"}, counts=site.counts, settings=_names.settings(site),
        shared=[row | {"heading": Markup(inline(row["name"]))} for row in names],
    )  # fmt: skip
    yield "references.bib", site.kb.references.text


def _libraries(site: Site) -> list[tuple[str, int]]:
    """Return each library with the number of entries that name it, the largest first, without the authors' code."""
    named = (key for m in site.kb.values() for key, i in m.entry.implementations.items() if i.symbol or i.type)
    found = Counter(key for key in named if key in site.kb.libraries)
    return [(site.library(key), n) for key, n in found.most_common()]


def _rules(site: Site) -> Iterator[View]:
    """Yield every rule with a passing and a failing example."""
    examples = site.kb.taxonomy.rule_examples
    for rule in RULES:
        if rule.name in examples:  # a knowledge base of somebody else may bring its own
            example = examples[rule.name]
            yield {
                "name": rule.name, "heading": Markup(inline(rule.name)), "sentence": rule.sentence,
                "good": example.good.strip(), "bad": example.bad.strip(),
            }  # fmt: skip


def _deviations(site: Site) -> Iterator[View]:
    """Yield every deviation with the names and links for the page."""
    for row, anchor in zip(site.kb.deviations, _anchors.deviations(site.kb.deviations), strict=True):
        shown = {"library": site.library(row["library"]), "source": site.cite(row["source"]), "anchor": anchor}
        yield {**row, "name": site.kb[row["method"]].name, **shown}


def _errata(site: Site) -> Iterator[View]:
    """Yield every printed number that our count contradicts, if we opened its source."""
    for method in site.kb.values():
        for claim in method.entry.claims:
            if claim.verdict == "contradicted" and claim.evidence == "read":
                yield claim_view(site, method, claim) | {"method": method.id, "name": method.name, "id": claim.id}


def _template(site: Site) -> list[View]:
    """Return the files that `peftonomy new my_method` writes."""
    year = max((m.year for m in site.kb.values()), default=2024)
    source = f"author{year}mymethod"
    known = {"id": "my_method", "name": _scaffold.TODO, "year": str(year), "category": _scaffold.WORD, "source": source}
    facets = {name: list(facet.values) for name, facet in site.kb.taxonomy.facets.items()}
    return [
        {"path": "methods/my_method.yaml", "text": _scaffold.entry_skeleton(known, facets).strip()},
        {"path": "reference_impls/my_method.py", "text": _scaffold.module_skeleton(source).strip()},
        {"path": "taxonomy/references.bib", "text": _scaffold.bibtex_stub(source, year).strip()},
    ]


def _example(site: Site, path: str) -> str:
    kind = path.partition("/")[0]
    id_ = {"models": site.examples[0], "lists": next(iter(site.kb.taxonomy.lists), "")}.get(kind, site.example_method)
    return path.replace("<id>", id_).replace("<kind>", "method")


def _schemas(site: Site) -> Iterator[View]:
    """Yield every schema with the file that it describes and an example."""
    parts = {
        "method": "An entry: methods/<id>.yaml, and most of `method` in methods/<id>.json.",
        "cost": "The cost of a method: each of `costs` in methods/<id>.json, and the output of `cost --json`.",
    }
    for kind, (_, path) in SCHEMAS.items():
        example = _example(site, path or "methods/<id>.json")
        yield {
            "path": f"{_api.ROOT}schema/{kind}.json", "of": parts.get(kind) or f"The file {path}",
            "example": _api.ROOT + example, "name": example,
        }  # fmt: skip


def _sample(site: Site) -> str:
    record = _api.method_record(site.kb[site.example_method], site.examples)
    shown = {"schema_version": _api.SCHEMA_VERSION, "method": {k: record[k] for k in SAMPLE}}
    return json.dumps(shown, indent=1, ensure_ascii=False)


def _terminal(site: Site) -> list[View]:
    """Return the example query as a command and in Python, with its real output."""
    query, method = site.settings.query, site.example_method
    known = method == query.method and query.model in site.kb.models
    model = query.model if known else site.examples[0]
    given: dict[str, Any] = dict(query.set) if known else {}
    targets = query.targets if known else []
    flags = [f"--set {n}={v}" for n, v in given.items()] + ([f"--targets {','.join(targets)}"] if targets else [])
    call = [json.dumps(model), *(f"{n}={v!r}" for n, v in given.items()), *([f"targets={targets}"] if targets else [])]
    command = {"input": True, "prompt": "$", "text": " ".join(["peftonomy cost", method, "--model", model, *flags])}
    try:
        found: Cost = site.kb[method].cost(model, targets=targets or None, **given)
    except UsageError:  # a small knowledge base may lack a method that applies to the model
        return [command]
    return [
        command,
        {"input": False, "text": f"{count(found.trained)} trained, {percent(found.percent)} of the model"},
        {"input": True, "prompt": ">>>", "text": "import peftonomy; kb = peftonomy.load()"},
        {"input": True, "prompt": ">>>", "text": f'kb["{method}"].cost({", ".join(call)}).trained'},
        {"input": False, "text": str(found.trained)},
    ]


def _families(site: Site) -> Iterator[View]:
    """Yield the families that have models, each with its models from small to large."""
    for key, family in site.kb.families.items():
        models = [(k, m) for k, m in site.kb.models.items() if m.family.model_type == key]
        rows = [
            {
                "id": k, "name": m.name, "size": m.parameters, "parameters": count(m.parameters),
                "width": count(m.dims["d_model"]),
                "layers": " + ".join(str(n) for n in m.layers.values()),
                "heads": f"{m.dims['n_heads']} ({m.dims['n_kv_heads']})",
            }
            for k, m in sorted(models, key=lambda pair: (pair[1].parameters, pair[0]))
        ]  # fmt: skip
        if rows:
            yield {
                "id": key, "name": family.name, "kind": KINDS[family.kind], "kind_id": family.kind, "models": rows,
                "source": site.cite(family.source), "note": family.note or "",
            }  # fmt: skip


def _bibliography(site: Site) -> list[View]:
    citing: dict[str, list[View]] = {}
    for m in site.kb.values():
        for key in sorted(m.entry.cited):
            citing.setdefault(key, []).append({"id": m.id, "name": m.name})
    rows = [site.reference(key) | {"methods": citing.get(key, [])} for key in site.kb.references]
    return sorted(rows, key=lambda r: (r["title"].lower(), r["key"]))


# The picture of the taxonomy


def picture(site: Site, *, labels: bool) -> Markup:
    """Return the radial picture, with names and links or as a bare figure."""
    types = site.kb.taxonomy.relations
    edges = [
        _radial.Edge(m.id, r.target, r.type, types[r.type].name, types[r.type].inverse)
        for m in site.kb.values()
        for r in m.entry.relations
    ]
    return _radial.picture(_tree(site), edges, labels=labels, title="Taxonomy of methods")


def _tree(site: Site) -> list[_radial.Node]:
    return [_node(site, root) for root in site.kb.taxonomy.tree]


def _node(site: Site, node: CategoryNode) -> _radial.Node:
    leaves = [
        _radial.Leaf(m.id, m.name, m.year, f"methods/{m.id}.html", m.entry.summary, _finder.tokens(site, m.id, node.id))
        for m in site.in_category(node.id)
    ]
    leaves.sort(key=lambda leaf: (leaf.year, leaf.id))
    children = [_node(site, child) for child in node.children]
    return _radial.Node(node.id, node.name, site.hue(node.id), leaves, children, f"categories/{node.id}.html")


def _plural(n: int, word: str) -> str:
    return f"{n} {word}" if n == 1 else f"{n} {word}s"
