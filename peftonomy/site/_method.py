"""The page of one method: its whole entry, with derived values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import pygments
from markupsafe import Markup, escape
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from ..errors import UsageError
from ..formula import Formula
from ..knowledge.base import Method
from ..knowledge.claims import judge
from ..knowledge.evidence import LEVELS, Fact, recorded, tally
from ..knowledge.evidence import facts as known_facts
from ..knowledge.query import facts
from ..knowledge.rates import BY, reach
from ..knowledge.support import offered
from ..libraries.export import export
from ..schema.claims import Claim, ClosedForm
from ..schema.implementations import Implementation
from ..schema.method import MethodEntry
from ..schema.tensors import Hyperparameter, Moved, Stored, Tensor
from . import _about, _anchors, _block, _closed, _combine, _equation, _kin, _layers, _measured, _scale, _surveys
from ._site import Site, View
from ._text import count, prose, safe_url, volume

__all__ = ["claim_view", "method_page", "where"]

MERGE = {"exact": "yes, exactly", "none": "no"}
START = {
    "exact": "equals the base model", "approximate": "close to the base model", "none": "differs from the base model",
}  # fmt: skip
STORES = {"values": "values of tensors", "indices": "positions", "bits": "mask bits", "seed": "a random seed"}
MOST_NEAREST, MOST_DIFFERENCES = 5, 3
"""The number of nearest methods on a page, and of differences for each."""
MOST_OPEN = 6
"""The number of relations of others up to which they are not folded."""
TYPES = {"int": "whole number", "float": "number", "bool": "yes or no"}
PLACES = {
    "site": "every targeted module", "role": "every targeted role, all layers",
    "attention": "every attention block", "mlp": "every feed-forward block",
    "layer": "every layer", "model": "once per model", "weight": "every weight", "bias": "every bias",
    "norm": "every norm parameter",
}  # fmt: skip

LEXER, FORMATTER = PythonLexer(), HtmlFormatter(nowrap=True)


def method_page(site: Site, method: Method) -> str:
    """Return `methods/<id>.md`."""
    entry, file = method.entry, f"methods/{method.id}.yaml"
    known = {fact.field: fact for fact in known_facts(method)}
    symbols = _equation.marks(method)

    def tex(formula: str) -> Markup:
        return site.tex(formula, file=file, field="description")

    return site.page(
        "method.md",
        entry.name,
        entry.summary,
        meta={"source": file, "door": "Methods", "linked": _about.term(site, method)},
        entry=entry,
        trail=site.trail(entry.category),
        hue=site.hue(entry.category),
        byline=(site.cite(entry.source) or {}).get("label", entry.year),
        edit=f"{site.repository}/edit/main/{file}" if site.repository else "",
        arxiv=_arxiv(site, entry),
        facts=list(_facts(site, method)),
        idea=prose(entry.description, tex),
        use=_use(site, method),
        equation=site.once(_equation.equation, method),
        scale=site.once(_scale.to_scale, method),
        layers=_layers.by_layer(site, method),
        **site.once(where, method),
        examples=[{"id": m, "name": site.kb.models[m].name} | site.cost(method, m) for m in site.examples],
        setting=", ".join(f"{n} = {_plain(h.default)}" for n, h in entry.hyperparameters.items()),
        n_models=len(site.kb.models),
        combined=_combine.combined(site, method),
        evidence=_evidence(site, method, list(known.values())),
        update_level=_level(known, "update"),
        hyperparameters=[_hyperparameter(site, n, h, known) for n, h in entry.hyperparameters.items()],
        tensors=[
            _tensor(site, part.prefix + name, tensor, part.entry, _own(known, part.prefix, name),
                    symbols.get(part.prefix + name, ""))
            for part in method.parts
            for name, tensor in part.entry.tensors.items()
        ],
        totals=list(_totals(site, method)),
        closed_forms=[_closed_form(site, entry, form) for form in entry.closed_forms],
        code=_code(site, method.id),
        relations=list(_relations(site, method, known)),
        kin=_kin.kin(site, method),
        measured=_measured.of_method(site, method),
        rates=_rates(site, method, known), reach=reach(method.learning_rates),
        ours=list(_measured.ours(site, method)),
        nearest=_nearest(site, method),
        filed=list(_filed(site, method)),
        lists=[r for r in site.lists if method.id in r["ids"]],
        claims=[claim_view(site, method, claim) for claim in entry.claims],
        libraries=[_library(site, method, key, found, known) for key, found in entry.implementations.items()],
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
            name = site.kb.models[model].name
            yield {"name": f"Trained on {name}", "value": row["trained"], "note": f"{row['percent']} of it, by default"}
    yield from _apart(site, method)
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


def _apart(site: Site, method: Method) -> Iterator[View]:
    """Yield the stored values, if they are not the trained ones, with the tensors that make the difference."""
    try:
        found = method.cost(site.examples[0])
    except UsageError:  # the method has no targets in this model
        return
    if found.stored == found.trained or not found.stored:
        return
    trained = [t for t in found.tensors if t.trained]
    groups = {
        "without {}, which only training needs": [t for t in trained if not (t.stored or t.stored_bits or t.shared)],
        "without {}, which all tasks share": [t for t in trained if t.shared],
        "with {}, which the optimizer does not update": [t for t in found.tensors if t.stored and not t.trained],
    }
    reasons = [text.format(", ".join(dict.fromkeys(t.name for t in ts))) for text, ts in groups.items() if ts]
    name = site.kb.models[site.examples[0]].name
    yield {
        "name": f"Stored on {name}", "value": count(found.stored),
        "note": "; ".join(reasons) or "some of the trained entries",
    }  # fmt: skip


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


def _rates(site: Site, method: Method, known: Mapping[str, Fact]) -> list[View]:
    """Return the known learning rates, each with its source."""
    found = []
    for i, row in enumerate(method.learning_rates):
        key = row["source"].partition("#")[0]
        found.append({
            "shown": ", ".join(f"{v:g}" for v in row["values"]), "sort": row["values"][0], "by": BY[row["by"]],
            "model": row["model"], "task": row["task"], "note": row["note"],
            "source": site.cite(row["source"]) if key in site.kb.references else None,
            "level": _level(known, f"learning_rates.{i}"),
        })  # fmt: skip
    return found


def _evidence(site: Site, method: Method, known: list[Fact]) -> View:
    """Return the number of facts by level, and the implementations that tests run."""
    vectors = recorded(method)
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


def where(site: Site, method: Method) -> View:
    """Return the block picture with the method's locations, its legend and its remarks."""
    found = _block.acts(method)
    marks = [
        {"word": _block.WORDS[k].capitalize(), "places": ", ".join(found.places(k)), "sample": _block.sample(k)}
        for k in found.kinds
    ]
    notes = [n.capitalize() for n in found.notes]
    return {"block": _block.picture(found), "marks": marks, "notes": notes, "conditions": found.conditions}


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
    site: Site, name: str, tensor: Tensor, entry: MethodEntry, levels: Mapping[str, View | None], symbols: str
) -> View:
    conditions = [f.source for f in (tensor.if_, tensor.requires) if f is not None]
    if tensor.copies.literal != 1:
        conditions.append(f"{tensor.copies.source} of them")
    return {
        "name": name, "anchor": f"tensor-{name}", "symbols": symbols, "scope": PLACES[tensor.per],
        "roles": tensor.roles or [], "condition": "; ".join(conditions),
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


def _use(site: Site, method: Method) -> list[View]:
    """Return the complete program of each library that has the method, on the first example model that it fits."""
    found = list[View]()
    for key in method.entry.implementations:
        for model in site.examples if key in site.kb.libraries else ():
            try:
                script = export(method, method.plan(model), {}, site.kb.libraries[key]).script
            except UsageError:  # the library has no configuration for it, or the model lacks the targets
                continue
            found.append({
                "name": site.library(key), "code": _coloured(script),
                "model": site.kb.models[model].name,
            })  # fmt: skip
            break
    return found


def _nearest(site: Site, method: Method) -> list[View]:
    """Return the nearest methods, each with the first differences in words."""
    found = site.kb.nearest(method.id, n=MOST_NEAREST).found if len(site.kb) > 1 else []
    return [
        {
            "id": one.method, "name": one.name, "year": one.year, "hue": site.hue(site.kb[one.method].category),
            "likeness": f"{100 * one.likeness:.0f} %", "more": max(0, len(one.differences) - MOST_DIFFERENCES),
            "differences": [d.sentence for d in one.differences[:MOST_DIFFERENCES]],
        }
        for one in found
    ]  # fmt: skip


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


def _coloured(code: str) -> Markup:
    """Return Python code as the site builder highlights it, without anchors for its lines."""
    inner = pygments.highlight(code, LEXER, FORMATTER)
    return Markup(f'<div class="highlight"><pre><code>{inner}</code></pre></div>')


def _relations(site: Site, method: Method, levels: Mapping[str, Fact]) -> Iterator[View]:
    """Yield groups of relations: the method's own, then those that others declare, by their categories.

    A target without an entry is named, not linked.
    """
    numbers = {(r.target, r.note): i for i, r in enumerate(method.entry.relations)}
    own: list[View] = []
    others: dict[str, list[View]] = {}
    for found in site.kb.graph.related(method.id):
        key = found["method"]
        known = key in site.kb  # `check` reports the others
        number = numbers.get((key, found["note"]))
        settings = method.entry.relations[number].at if number is not None else {}
        view = {
            "type": found["name"], "name": site.kb[key].name if known else key,
            "link": f"{key}.html" if known else "", "note": found["note"], "source": site.cite(found["source"]),
            "at": [f"{n} = {v}" for n, v in settings.items()], "year": site.kb[key].year if known else 0,
            "level": _level(levels, f"relations.{'' if number is None else number}"),
        }  # fmt: skip
        if number is not None or not known:
            own.append(view)
        else:
            others.setdefault(site.kb[key].category, []).append(view)
    if own:
        yield {"name": "Builds on", "id": "own", "relations": own, "open": True, "hue": None}
    total = sum(map(len, others.values()))
    for category in (c for c in site.kb.taxonomy.categories if c in others):
        views = sorted(others[category], key=lambda v: (v["year"], v["name"].lower()))
        yield {
            "name": " › ".join(n for n, _ in site.trail(category)[1:]), "id": category.replace("_", "-"),
            "relations": views, "open": total <= MOST_OPEN, "hue": site.hue(category),
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
        "id": claim.id, "computed": computed, "verdict": claim.verdict, "source": site.cite(claim.source),
        "evidence": {"word": claim.evidence, "by": claim.source, "meaning": LEVELS.get(claim.evidence, "")},
    }  # fmt: skip


def _library(site: Site, method: Method, key: str, found: Implementation, known: Mapping[str, Fact]) -> View:
    named = ({"method": method.id, "library": key, "about": d.subject} for d in found.deviations)
    deviations = [
        {"anchor": anchor, "effect": d.effect, "note": d.note, "source": site.cite(d.source),
         "level": _level(known, f"implementations.{key}.deviations.{i}")}
        for (i, d), anchor in zip(enumerate(found.deviations), _anchors.deviations(named), strict=True)
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
