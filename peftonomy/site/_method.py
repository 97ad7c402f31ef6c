"""The page of one method: its whole entry, with derived values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from markupsafe import Markup, escape

from ..errors import UsageError
from ..formula import Formula
from ..knowledge.base import Method
from ..knowledge.claims import judge
from ..knowledge.evidence import LEVELS, Fact, recordings, tally
from ..knowledge.evidence import facts as known_facts
from ..knowledge.query import facts
from ..knowledge.support import offered
from ..schema.claims import Claim, ClosedForm
from ..schema.implementations import Implementation
from ..schema.method import MethodEntry
from ..schema.tensors import Hyperparameter, Moved, Stored, Tensor
from . import _block, _closed, _lineage, _names, _surveys
from ._site import Site, View
from ._text import prose, safe_url, volume

__all__ = ["claim_view", "method_page"]

MERGE = {"exact": "yes, exactly", "none": "no"}
START = {"exact": "equals the base model", "approximate": "close to the base model", "none": "differs from it"}
STORES = {"values": "numbers", "indices": "positions", "bits": "mask bits", "seed": "a random seed"}
MOST_KIN = 16
TYPES = {"int": "whole number", "float": "number", "bool": "yes or no"}
PLACES = {
    "site": "every targeted module", "role": "every targeted role, all layers",
    "attention": "every attention block", "mlp": "every feed-forward block",
    "layer": "every layer", "model": "once per model", "weight": "every weight", "bias": "every bias",
    "norm": "every norm parameter",
}  # fmt: skip


def method_page(site: Site, method: Method) -> str:
    """Return `methods/<id>.md`."""
    entry, file = method.entry, f"methods/{method.id}.yaml"
    known = {fact.field: fact for fact in known_facts(method)}

    def tex(formula: str) -> Markup:
        return site.tex(formula, file=file, field="description")

    return site.page(
        "method.md",
        entry.name,
        entry.summary,
        meta={
            "source": file, "door": "Methods", "calculator": True,
            "search": {"boost": _boost(site, method)}, "tags": _keywords(entry),
        },
        entry=entry,
        trail=site.trail(entry.category),
        hue=site.hue(entry.category),
        byline=(site.cite(entry.source) or {}).get("label", entry.year),
        edit=f"{site.repository}/edit/main/{file}" if site.repository else "",
        arxiv=_arxiv(site, entry),
        facts=list(_facts(site, method)),
        idea=prose(entry.description, tex),
        update=site.tex(entry.update, display=True, file=file),
        **_where(method),
        examples=[{"id": m, "name": site.kb.models[m].name} | site.cost(method, m) for m in site.examples],
        setting=", ".join(f"{n} = {_plain(h.default)}" for n, h in entry.hyperparameters.items()),
        n_models=len(site.kb.models),
        evidence=_evidence(site, method, list(known.values())),
        update_level=_level(known, "update"),
        hyperparameters=[_hyperparameter(site, n, h, known) for n, h in entry.hyperparameters.items()],
        tensors=[
            _tensor(site, part.prefix + name, tensor, part.entry, _own(known, part.prefix, name))
            for part in method.parts
            for name, tensor in part.entry.tensors.items()
        ],
        totals=list(_totals(site, method)),
        closed_forms=[_closed_form(site, entry, form) for form in entry.closed_forms],
        code=_code(site, method.id),
        relations=list(_relations(site, method, known)),
        kin=_kin(site, method),
        filed=list(_filed(site, method)),
        lists=[r for r in site.lists if method.id in r["ids"]],
        claims=[claim_view(site, method, claim) for claim in entry.claims],
        libraries=[_library(site, key, found, known) for key, found in entry.implementations.items()],
        pitfalls=[
            {"note": p.note, "source": site.cite(p.source), "level": _level(known, f"pitfalls.{i}")}
            for i, p in enumerate(entry.pitfalls)
        ],
        references=_references(site, entry),
    )


def _facts(site: Site, method: Method) -> Iterator[View]:
    """Yield the facts for the strip below the summary."""
    entry = method.entry
    for model in site.examples:
        row = site.cost(method, model)
        if not row["problem"]:
            note = f"{row['percent']} of {site.kb.models[model].name}"
            yield {"name": "Trained by default", "value": row["trained"], "note": note}
    yield _stores(site, method)
    yield {"name": "Merges into the weights", "value": MERGE[method.merge]}
    yield {"name": "At the first step", "value": START[entry.properties.identity_at_init]}
    if entry.properties.inference_positions.literal != 0:
        yield {"name": "Extra sequence positions", "value": entry.properties.inference_positions.source}
    for key, value in entry.facets.items():
        facet = site.kb.taxonomy.facets.get(key)
        words = value if isinstance(value, list) else [value]
        yield {"name": facet.name if facet else key, "value": ", ".join(w.replace("_", " ") for w in words)}
    libraries = [site.library(key) for key in offered(site.kb, entry.id) if key != "official"]
    if libraries:
        yield {"name": "In libraries", "value": ", ".join(libraries)}


def _stores(site: Site, method: Method) -> View:
    """Return the contents of one task's checkpoint, with its size on the first example model."""
    kinds = [k for k in facts(method)["stores"] if k != "none"]
    words = [STORES[k] for k in STORES if k in kinds]
    fact: View = {"name": "What is stored", "value": ", ".join(words) or "nothing"}
    try:
        size = method.cost(site.examples[0]).stored_bytes
    except UsageError:  # the method has no targets in this model
        return fact
    return fact | {"note": f"{volume(size)} on {site.kb.models[site.examples[0]].name}"}


def _evidence(site: Site, method: Method, known: list[Fact]) -> View:
    """Return the number of facts by level, and the implementations that tests run."""
    vectors = [r for r in recordings(site.kb.root) if r.method == method.id]
    libraries = [site.library(key) for key, found in method.entry.implementations.items() if "outputs" in found.checked]
    basis = method.entry.basis
    return {
        "counts": [(word, n) for word, n in tally(known).items() if n], "total": len(known),
        "origins": list(dict.fromkeys(v.origin for v in vectors)), "libraries": libraries,
        "reason": basis.reason if basis else "", "as_in": libraries if basis and basis.rests_on == "library" else [],
    }  # fmt: skip


def _level(known: Mapping[str, Fact], field: str) -> View | None:
    """Return the level of one fact with its evidence, for the `level` macro."""
    fact = known.get(field)
    return None if fact is None else {"word": fact.level, "by": fact.by, "meaning": LEVELS[fact.level]}


def _own(known: Mapping[str, Fact], prefix: str, name: str) -> dict[str, View | None]:
    """Return the levels of a tensor's initial values and training.

    The page of an included method shows its own levels.
    """
    return {word: None if prefix else _level(known, f"tensors.{name}.{word}") for word in ("init", "trained")}


def _arxiv(site: Site, entry: MethodEntry) -> str:
    found = site.kb.references.get(entry.source.partition("#")[0])
    return found.arxiv or "" if found else ""


# Pictures


def _where(method: Method) -> View:
    """Return the block picture with the method's locations, its legend and its remarks."""
    found = _block.acts(method)
    marks = [
        {"word": _block.WORDS[k].capitalize(), "places": ", ".join(found.places(k)), "sample": _block.sample(k)}
        for k in found.kinds
    ]
    notes = [n.capitalize() for n in found.notes]
    return {"block": _block.picture(found), "marks": marks, "notes": notes, "conditions": found.conditions}


def _kin(site: Site, method: Method) -> Markup:
    """Return the picture of methods one relation away, of their ancestors, and of grandchildren if they are few."""
    graph, near = site.kb.graph, dict[str, list[str]]()
    for r in graph.related(method.id):
        near.setdefault(r["method"], []).append(f"{method.name} {r['name']} it: {r['note']}")
    known = {key for key in (*near, method.id) if _known(site, key)}
    far = {g for parent in graph.parents(method.id) for g in graph.parents(parent)}
    younger = {g for child in graph.children(method.id) for g in graph.children(child)} - known
    known |= far | (younger if len(known | far | younger) <= MOST_KIN else set())
    spots = [_spot(site, key, near.get(key, [])) for key in known]
    links = [
        _lineage.Link(key, r.target, site.kb.taxonomy.relations[r.type].name, r.note)
        for key in sorted(known & set(site.kb))
        for r in site.kb[key].entry.relations
        if r.target in known
    ]
    return _lineage.neighbourhood(method.id, sorted(spots, key=lambda s: (s.year, s.id)), links)


def _known(site: Site, key: str) -> bool:
    return key in site.kb


def _spot(site: Site, key: str, about: list[str]) -> _lineage.Spot:
    one = site.kb[key]
    return _lineage.Spot(key, one.name, one.year, site.hue(one.category), f"{key}.html", about)


def _filed(site: Site, method: Method) -> Iterator[View]:
    """Yield the classes in which other surveys file the method."""
    for place in _surveys.filed(site.kb, method.id, method.category):
        survey = site.kb.taxonomy.surveys[place["survey"]]
        yield place | {"survey": survey.name, "cite": site.cite(survey.source)}


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _hyperparameter(site: Site, name: str, spec: Hyperparameter, known: Mapping[str, Fact]) -> View:
    kind = f"one of {', '.join(spec.values)}" if spec.values else TYPES[spec.type]
    return {
        "name": name, "meaning": spec.meaning, "default": _plain(spec.default), "kind": kind,
        "domain": spec.domain.source if spec.domain else "", "source": site.cite(spec.source),
        "level": _level(known, f"hyperparameters.{name}.default"),
    }  # fmt: skip


def _tensor(
    site: Site, name: str, tensor: Tensor, entry: MethodEntry, levels: Mapping[str, View | None]
) -> View:
    conditions = [f.source for f in (tensor.if_, tensor.requires) if f is not None]
    if tensor.copies.literal != 1:
        conditions.append(f"{tensor.copies.source} of them")
    return {
        "name": name, "scope": PLACES[tensor.per], "roles": tensor.roles or [], "condition": "; ".join(conditions),
        "shape": _shape(site, tensor, entry), "init": _init(tensor), "levels": levels, "trained": _trained(tensor),
        "stored": Markup("; ").join(map(_stored, tensor.stored)), "served": tensor.served, "note": tensor.note or "",
    }  # fmt: skip


def _init(tensor: Tensor) -> Markup:
    """Return the initial values: prose as text, distributions as code."""
    kind, colon, words = tensor.init.partition(":")
    return Markup("{}:{}" if colon else "<code>{}</code>").format(*((kind, words) if colon else (tensor.init,)))


def _shape(site: Site, tensor: Tensor, entry: MethodEntry) -> Markup | str:
    if tensor.selecting:
        return "as in the model"
    sizes = tensor.shape if tensor.count is None else [tensor.count]
    latex = r" \times ".join(_closed.size(s, entry) for s in sizes or []) or "1"
    return site.tex(latex, file=f"methods/{entry.id}.yaml", field="tensors")


def _trained(tensor: Tensor) -> str:
    if isinstance(tensor.trained, Formula):
        return Markup("<code>{}</code>").format(tensor.trained.source)
    if isinstance(tensor.trained, Moved):
        return Markup("<code>{}</code> in all").format(tensor.trained.across.source)
    return "all" if tensor.trained else "frozen"


def _stored(part: Stored) -> Markup:
    amount = part.across if part.across is not None else part.count
    if amount is None:
        return Markup(escape(part.as_))
    return Markup("{}, <code>{}</code>{}").format(part.as_, amount.source, " in all" if part.across else "")


def _totals(site: Site, method: Method) -> Iterator[View]:
    """Yield each ledger as one formula; equal ledgers share a line."""
    for one in _closed.ledgers(method):
        lines: dict[str, list[str]] = {}
        for ledger, latex in one.formulas.items():
            lines.setdefault(latex, []).append(ledger)
        setting = ", ".join(f"{n} = {_plain(v)}" for n, v in one.setting.items())
        for latex, names in lines.items():
            left = " = ".join(rf"\text{{{name}}}" for name in names)
            html = site.tex(f"{left} = {latex}", display=True, file=f"methods/{method.id}.yaml", field="tensors")
            yield {"name": " and ".join(names), "html": html, "setting": setting}


def _closed_form(site: Site, entry: MethodEntry, form: ClosedForm) -> View:
    latex = f"{_closed.size(form.quantity, entry)} = {_closed.size(form.formula, entry)}"
    html = site.tex(latex, file=f"methods/{entry.id}.yaml", field="closed_forms")
    return {"html": html, "assumes": [a.source for a in form.assumes], "source": site.cite(form.source)}


def _code(site: Site, key: str) -> Markup | None:
    """Return the reference implementation as a fenced block, which the site builder highlights.

    Each line has an anchor.
    """
    path = site.code / f"{key}.py"
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8").rstrip("\n")
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f'{fence} {{.python linenums="1"}}\n{text}\n{fence}')


def _boost(site: Site, method: Method) -> int:
    """Return the boost of the page in search results, which grows with the number of its relations."""
    return 2 + len(site.kb.graph.related(method.id)) // 4


def _keywords(entry: MethodEntry) -> list[str]:
    """Return further search names: the aliases, and every name in letters and digits only ("ia3" for "(IA)^3")."""
    names = (entry.name, entry.id, *entry.aliases)
    return list(dict.fromkeys([*entry.aliases, *map(_names.key, names)]))


def _relations(site: Site, method: Method, levels: Mapping[str, Fact]) -> Iterator[View]:
    """Yield the method's relations in both directions. A target without an entry is named, not linked."""
    settings = {(r.target, r.type): r.at for r in method.entry.relations}
    numbers = {(r.target, r.note): i for i, r in enumerate(method.entry.relations)}
    for found in site.kb.graph.related(method.id):
        key = found["method"]
        known = key in site.kb  # `check` reports the others
        at = settings.get((key, found["type"]), {})
        yield {
            "type": found["name"], "name": site.kb[key].name if known else key,
            "link": f"{key}.html" if known else "", "note": found["note"], "source": site.cite(found["source"]),
            "at": [f"{n} = {v}" for n, v in at.items()],
            "level": _level(levels, f"relations.{numbers.get((key, found['note']), '')}"),
        }  # fmt: skip


def claim_view(site: Site, method: Method, claim: Claim) -> View:
    """Return a printed number with our count, for tables."""
    try:
        computed = judge(method, claim).shown
    except (UsageError, AssertionError):  # the claim's verdict states that it cannot be recomputed
        computed = "–"
    setting = [f"{n} = {v}" for n, v in claim.set.items()]
    setting += [", ".join(claim.targets)] if claim.targets else []
    model = site.kb.models.get(claim.model)
    return {
        "reported": claim.reported, "quantity": claim.quantity.source, "model": claim.model,
        "model_name": model.name if model else claim.model, "setting": "; ".join(setting), "note": claim.note or "",
        "computed": computed, "verdict": claim.verdict, "source": site.cite(claim.source),
        "evidence": {"word": claim.evidence, "by": claim.source, "meaning": LEVELS.get(claim.evidence, "")},
    }  # fmt: skip


def _library(site: Site, key: str, found: Implementation, known: Mapping[str, Fact]) -> View:
    deviations = [
        {"effect": d.effect, "note": d.note, "source": site.cite(d.source),
         "level": _level(known, f"implementations.{key}.deviations.{i}")}
        for i, d in enumerate(found.deviations)
    ]  # fmt: skip
    return {
        "name": site.library(key), "symbol": found.symbol, "url": safe_url(found.url), "deviations": deviations,
        "rename": {ours: theirs for ours, theirs in found.rename.items() if ours != theirs},
    }  # fmt: skip


def _references(site: Site, entry: MethodEntry) -> list[View]:
    """Return the sources of an entry, starting with the method's own."""
    first = entry.source.partition("#")[0]
    ordered = sorted((k for k in entry.cited if k in site.kb.references), key=lambda k: (k != first, k))
    return [site.reference(key) for key in ordered]
