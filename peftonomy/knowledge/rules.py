"""The rules of the knowledge base: conditions that the schema of one file cannot express.

A rule is a small object: a name, a sentence, and a check that yields findings. `taxonomy/rules.yaml` contains fields of
an entry that pass the rule and fields that violate it. The tests run both, and the site prints both. `check.py` applies
the rules to every entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from ..errors import FormulaError, PeftonomyError, UsageError, near
from ..formula import Formula
from ..schema.implementations import Implementation
from ..schema.initial import Start
from ..schema.library import Library
from ..schema.method import MethodEntry
from ..schema.names import LOCAL, MODEL_NAMES, OF_STEP, OF_UPDATE
from ..schema.programs import ORDERS, parse_all
from ..schema.tensors import Tensor
from .claims import QUANTITIES, judge, printed, share
from .legend import legend, unexplained

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..catalogue.records import MethodRecord
    from ..schema.memory import Act, Update

__all__ = ["RULES", "Finding", "Rule", "closest"]

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation of a rule at `keys` of the entry's file."""

    keys: Keys
    found: str
    expected: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for one entry; it may use the whole knowledge base."""

    name: str
    sentence: str
    check: Callable[[MethodRecord], Iterable[Finding]]


RULES: list[Rule] = []


def rule(name: str, sentence: str) -> Callable[[Any], Any]:
    """Register the decorated function as a rule."""

    def made(function: Callable[[MethodRecord], Iterable[Finding]]) -> Callable[[MethodRecord], Iterable[Finding]]:
        RULES.append(Rule(name, sentence, function))
        return function

    return made


def closest(name: str, known: Iterable[str]) -> str:
    """Return a question that offers the known names near to a name; "" if there is none."""
    matches = near(name, known)
    return f"did you mean {' or '.join(matches)}?" if matches else ""


@rule(
    "formula-names",
    "A formula names only hyperparameters and the dimensions of its scope.",
)
def _formula_names(method: MethodRecord) -> Iterator[Finding]:
    for keys, formula, known in _formulas(method.entry):
        try:
            formula.check(known)
        except FormulaError as error:
            name = next(n for n in sorted(formula.names) if n not in known)
            expected = f"names known here: {', '.join(sorted(known))}"
            yield Finding(
                keys, f"{name} in {formula.source!r} (column {error.column})", expected, closest(name, known)
            )


def _formulas(entry: MethodEntry) -> Iterator[tuple[Keys, Formula, frozenset[str]]]:
    own = frozenset(entry.hyperparameters)
    everywhere = own | MODEL_NAMES
    for name, spec in entry.hyperparameters.items():
        if spec.domain is not None:
            yield ("hyperparameters", name, "domain"), spec.domain, everywhere
        if isinstance(spec.default, str) and spec.type != "choice":
            yield ("hyperparameters", name, "default"), Formula.parse(spec.default), MODEL_NAMES
    for name, tensor in entry.tensors.items():
        for keys, formula in tensor.formulas():
            yield ("tensors", name, *keys), formula, _known(tensor, keys, own)
        for formula in Start.parse(tensor.init).formulas():
            yield ("tensors", name, "init"), formula, _known(tensor, ("init",), own)
    for name, storage in entry.base_storage.items():
        yield ("base_storage", name, "count"), storage.count, everywhere | {"numel"}
    yield ("properties", "inference_positions"), entry.properties.inference_positions, everywhere
    if entry.memory is not None:
        for keys, formula, scope in entry.memory.formulas():
            step = {"operations": OF_STEP, "updates": OF_UPDATE}.get(str(keys[0]), frozenset[str]())
            yield ("memory", *keys), formula, everywhere | LOCAL[scope] | step
    if entry.combines is not None:
        for keys, formula, scope in entry.combines.formulas():
            yield ("combines", *keys), formula, everywhere | LOCAL[scope] | OF_UPDATE
    for i, closed in enumerate(entry.closed_forms):
        yield ("closed_forms", i, "quantity"), closed.quantity, frozenset(QUANTITIES)
        yield ("closed_forms", i, "formula"), closed.formula, everywhere
        for j, assumed in enumerate(closed.assumes):
            yield ("closed_forms", i, "assumes", j), assumed, everywhere
    for i, claim in enumerate(entry.claims):
        yield ("claims", i, "quantity"), claim.quantity, MODEL_NAMES | frozenset(QUANTITIES)
    for i, found in enumerate(entry.shares):
        if found.quantity is not None:
            beside = [f"other_{name}" for name in QUANTITIES] if found.beside is not None else []
            yield ("shares", i, "quantity"), found.quantity, MODEL_NAMES | frozenset((*QUANTITIES, *beside))
    for key, implementation in entry.implementations.items():
        for name, formula in implementation.write.items():
            yield ("implementations", key, "write", name), formula, everywhere


def _known(tensor: Tensor, keys: Keys, own: frozenset[str]) -> frozenset[str]:
    if keys[-1] == "across":
        return own | MODEL_NAMES | {"numel"}
    return own | MODEL_NAMES | LOCAL[tensor.per]


@rule(
    "hyperparameter-names",
    "No hyperparameter has the name of a dimension; formulas could not tell the two apart.",
)
def _hyperparameter_names(method: MethodRecord) -> Iterator[Finding]:
    taken = MODEL_NAMES.union(*LOCAL.values())
    for name in method.entry.hyperparameters:
        if name in taken:
            yield Finding(("hyperparameters", name), name, "a name that is not a dimension's")


@rule(
    "cited",
    "Every source is a key of the bibliography (with a locator for a page, table or file), or `editors`.",
)
def _cited(method: MethodRecord) -> Iterator[Finding]:
    known = method.kb.references
    for keys, source in method.entry.citations():
        key = source.partition("#")[0]
        if key != "editors" and key not in known:
            yield Finding(keys, source, "a key of taxonomy/references.bib", closest(key, known.lines))


@rule(
    "category",
    "The category is a leaf of the tree.",
)
def _category(method: MethodRecord) -> Iterator[Finding]:
    known = method.kb.taxonomy.categories
    category = method.entry.category
    if category not in known:
        yield Finding(("category",), category, "a category of taxonomy/categories.yaml", closest(category, known))
    elif known[category].children:
        yield Finding(("category",), category, "a leaf: " + ", ".join(c.id for c in known[category].children))


@rule(
    "facets",
    "Every facet has a value, and each value is in the facet's list.",
)
def _facets(method: MethodRecord) -> Iterator[Finding]:
    facets, given = method.kb.taxonomy.facets, method.entry.facets
    for name, value in given.items():
        if name not in facets:
            yield Finding(("facets", name), "an unknown facet", f"one of {', '.join(facets)}", closest(name, facets))
            continue
        values = value if isinstance(value, list) else [value]
        if isinstance(value, list) and not facets[name].multiple:
            yield Finding(("facets", name), f"{len(value)} values", "one value")
        for word in values:
            if word not in facets[name].values:
                known = facets[name].values
                yield Finding(("facets", name), word, f"one of {', '.join(known)}", closest(word, known))
    for name in facets:
        if given and name not in given:
            yield Finding(("facets",), f"no {name}", "an answer to every facet")


@rule(
    "roles",
    "Every role exists in at least one backbone.",
)
def _roles(method: MethodRecord) -> Iterator[Finding]:
    known = {*method.kb.taxonomy.roles, "attn", "xattn", "mlp", "layer"}
    entry = method.entry
    named: list[tuple[Keys, str]] = []
    if entry.targets is not None:
        named += [(("targets", "default", i), role) for i, role in enumerate(entry.targets.default)]
        named += [(("targets", "allowed", i), role) for i, role in enumerate(entry.targets.allowed)]
    for name, tensor in entry.tensors.items():
        named += [(("tensors", name, "roles", i), role) for i, role in enumerate(tensor.roles or [])]
    for k, act in enumerate(entry.memory.operations if entry.memory else ()):
        named += [(("memory", "operations", k, "roles", i), role) for i, role in enumerate(act.roles or [])]
    for name, storage in entry.base_storage.items():
        named += [(("base_storage", name, "roles", i), role) for i, role in enumerate(storage.roles)]
    for k, one in enumerate(entry.combines.passes if entry.combines else ()):
        named += [(("combines", "passes", k, "roles", i), role) for i, role in enumerate(one.roles or [])]
    for keys, role in named:
        plain = role.rpartition(":")[2]
        if not any(fnmatchcase(one, plain) for one in known):
            yield Finding(
                keys, role, "a role of taxonomy/roles.yaml, or a pattern that one matches", closest(plain, known)
            )


@rule(
    "relations",
    "A relation has a known type and targets another method that is not younger; each pair has only one.",
)
def _relations(method: MethodRecord) -> Iterator[Finding]:
    kb, entry = method.kb, method.entry
    known, types = set(kb), kb.taxonomy.relations
    seen: set[str] = set()
    for i, relation in enumerate(entry.relations):
        if relation.type not in types:
            hint = closest(relation.type, types)
            yield Finding(("relations", i, "type"), relation.type, f"one of {', '.join(types)}", hint)
        target = relation.target
        if target not in known:
            yield Finding(("relations", i, "target"), target, "a method", closest(target, known))
            continue
        if target == entry.id or target in seen:
            yield Finding(("relations", i, "target"), target, "another method, once")
        seen.add(target)
        year = kb[target].year
        if year > entry.year:
            yield Finding(("relations", i, "target"), f"{target} ({year})", f"a method of {entry.year} or before")


@rule(
    "acyclic",
    "Methods do not descend from, or include, themselves; the message shows the whole cycle.",
)
def _acyclic(method: MethodRecord) -> Iterator[Finding]:
    kb = method.kb
    from .graph import graph_of, included, shortest_cycles  # networkx takes a third of the time that a query takes

    if method.entry.includes:
        if "include_cycles" not in kb.memo:
            kb.memo["include_cycles"] = shortest_cycles(included(kb))
        for cycle in kb.memo["include_cycles"]:
            if method.id == cycle[0]:
                second = cycle[1 % len(cycle)]
                position = next(i for i, include in enumerate(method.entry.includes) if include.method == second)
                chain = " -> ".join([*cycle, cycle[0]])
                yield Finding(("includes", position), chain, "entries that do not include themselves")
    lineage = {name for name, spec in kb.taxonomy.relations.items() if spec.acyclic}
    if "cycles" not in kb.memo:
        kb.memo["cycles"] = graph_of(kb).cycles()
    for cycle in kb.memo["cycles"]:
        if method.id == cycle[0]:
            position = next(
                (i for i, r in enumerate(method.entry.relations) if r.target in cycle and r.type in lineage), 0
            )
            yield Finding(("relations", position), " -> ".join([*cycle, cycle[0]]), "no method among its own ancestors")


@rule(
    "includes",
    "An included entry exists, and `rename` and `set` name its hyperparameters and ours.",
)
def _includes(method: MethodRecord) -> Iterator[Finding]:
    kb, entry = method.kb, method.entry
    for i, include in enumerate(entry.includes):
        if include.method not in kb:
            yield Finding(
                ("includes", i, "method"), include.method, "a method with an entry", closest(include.method, kb)
            )
            continue
        theirs = kb[include.method].entry.hyperparameters
        for name in [*include.rename, *include.set]:
            if name not in theirs:
                expected = f"a hyperparameter of {include.method}: {', '.join(theirs)}"
                yield Finding(("includes", i), name, expected, closest(name, theirs))
        for name in include.rename.values():
            if name not in entry.hyperparameters:
                yield Finding(
                    ("includes", i, "rename"), name, "one of our hyperparameters", closest(name, entry.hyperparameters)
                )


@rule(
    "combines",
    "The inputs of a combination are trained by another method that combines nothing, whose hyperparameters `rename` "
    "and `set` name. Whether its sum is exact is declared if and only if the method merges into the weights.",
)
def _combines(method: MethodRecord) -> Iterator[Finding]:
    kb, found = method.kb, method.entry.combines
    if found is None:
        return
    if found.method not in kb or found.method == method.id or kb[found.method].entry.combines is not None:
        known = [key for key in kb if key != method.id]
        yield Finding(("combines", "method"), found.method, "another method that trains", closest(found.method, known))
        return
    theirs = kb[found.method].entry.hyperparameters
    for field in ("rename", "set"):
        for name in getattr(found, field):
            if name not in theirs:
                expected = f"a hyperparameter of {found.method}: {', '.join(theirs) or 'it has none'}"
                yield Finding(("combines", field, name), name, expected, closest(name, theirs))
    for inner, outer in found.rename.items():
        if outer not in method.entry.hyperparameters:
            hint = closest(outer, method.entry.hyperparameters)
            yield Finding(("combines", "rename", inner), outer, "one of our hyperparameters", hint)
    if (found.sum is None) == (method.merge == "exact"):
        expected = "exact or approximate" if found.sum is None else "nothing, since a tensor stays beside the weights"
        yield Finding(("combines", "sum"), found.sum or "nothing", expected)


@rule(
    "claims",
    "A claim names a catalogued model and our hyperparameters, and its verdict agrees with the recomputed number.",
)
def _claims(method: MethodRecord) -> Iterator[Finding]:
    for i, claim in enumerate(method.entry.claims):
        if printed(claim.reported) is None:
            yield Finding(("claims", i, "reported"), claim.reported, "a number such as 37.7M, 0.08% or 20,480")
            continue
        try:
            verdict = judge(method, claim)
        except PeftonomyError as error:
            yield Finding(("claims", i), str(error).splitlines()[0], "a setting that can be counted")
            continue
        if not verdict.consistent:
            agrees = "reproduced or convention" if verdict.agrees else "contradicted"
            counted = f"{agrees}: we count {verdict.shown}, printed {claim.reported}"
            yield Finding(("claims", i, "verdict"), str(claim.verdict), counted)


SHARE = re.compile(
    r"per ?cent\b|\d ?%|\b(half|third|quarter|fifth|sixth|eighth|tenth|hundredth|thousandth)s? (of (a|an|the|its|all)\b"
    r"|as (many|much)\b)|\b(twice|\w+ times) (as (many|much|large)|more|fewer|less|what)\b"
    r"|\b(half|twice) the (numbers|parameters|adapters|count|size|cost|price|storage|memory)\b"
    r"|\b(tens|dozens|hundreds|thousands) of times\b|\borders? of magnitude\b",
    re.IGNORECASE,
)
"""Words that compare the sizes of two things."""


@rule(
    "shares",
    "A share or multiple in prose is computed or cites the source that printed it.",
)
def _shares(method: MethodRecord) -> Iterator[Finding]:
    entry = method.entry
    texts = list(entry.prose())
    for i, found in enumerate(entry.shares):
        words = " ".join(found.text.split())
        if not any(words in text for _, text in texts):
            yield Finding(("shares", i, "text"), found.text, "words of this entry's prose")
        if found.quantity is None or found.between is None:
            continue
        try:
            value = share(method, found)
        except PeftonomyError as error:
            yield Finding(("shares", i), str(error).splitlines()[0], "a setting that can be counted")
            continue
        low, high = found.between
        if not low <= value <= high:
            yield Finding(("shares", i, "between"), f"{low:g} to {high:g}", f"{value:.4g}, which we count")
    spans = [" ".join(found.text.split()) for found in entry.shares]
    for keys, text in texts:
        covered = [range(at, at + len(s)) for s in spans for at in _every(text, s)]
        for match in SHARE.finditer(text):
            if not any(match.start() in span for span in covered):
                around = text[max(0, match.start() - 30) : match.end() + 20]
                yield Finding(keys, around, "an item of `shares` that computes it or names its source")


def _every(text: str, part: str) -> Iterator[int]:
    """Yield each position where a part begins in a text."""
    at = text.find(part)
    while at >= 0:
        yield at
        at = text.find(part, at + 1)


@rule(
    "balanced",
    "LaTeX has balanced braces and no command that reaches outside a formula.",
)
def _balanced(method: MethodRecord) -> Iterator[Finding]:
    update = method.entry.update.replace("\\{", "").replace("\\}", "")
    depth = 0
    for character in update:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            break
    if depth:
        yield Finding(("update",), "unbalanced braces", "as many { as }")
    for command in ("\\href", "\\url", "\\html", "\\includegraphics", "\\input", "\\def", "\\newcommand"):
        if command in update:
            yield Finding(("update",), command, "mathematics only")


@rule(
    "symbols",
    "Every symbol of the update rule is explained: by the name of a tensor or hyperparameter, by `symbols`, or by "
    "`taxonomy/symbols.yaml`.",
)
def _symbols(method: MethodRecord) -> Iterator[Finding]:
    known = [part.prefix + name for part in method.parts for name in part.entry.tensors]
    for tex, spec in method.entry.symbols.items():
        for name in spec.tensors:
            if name not in known:
                yield Finding(("symbols", tex, "tensors"), name, "a tensor of this entry", closest(name, known))
    for tex in unexplained(method):
        yield Finding(("update",), tex, "a symbol with a meaning", "add it to `symbols`")
    shown = {symbol.tex for symbol in legend(method)}
    for tex in method.entry.symbols:
        if tex not in shown:
            yield Finding(("symbols", tex), tex, "a symbol of the update rule")


@rule(
    "finished",
    "A new entry's skeleton is complete: no text contains TODO.",
)
def _finished(method: MethodRecord) -> Iterator[Finding]:
    for keys, text in _texts(method.document.data, ()):
        if "TODO" in text:
            yield Finding(keys, text, "the finished text")


def _texts(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, str):
        yield keys, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts(inner, (*keys, key))


@rule(
    "renames",
    "An entry maps only its own hyperparameters and tensors to a library's arguments.",
)
def _renames(method: MethodRecord) -> Iterator[Finding]:
    entry = method.entry
    for library, implementation in entry.implementations.items():
        for field in ("rename", "read", "defaults", "wider", "apart"):
            known: Iterable[str] = entry.tensors if field == "apart" else entry.hyperparameters
            what = "one of our tensors" if field == "apart" else "one of our hyperparameters"
            if field == "wider":
                known, what = implementation.rename, f"one of our hyperparameters that {library} has"
            for name in getattr(implementation, field):
                if name not in known:
                    yield Finding(("implementations", library, field, name), name, what, closest(name, known))
        for argument, part in implementation.unites.items():
            other = method.kb.get(part)
            there = other.entry.implementations.get(library) if other is not None else None
            if there is None or there.type is None:
                what = f"a method that has a type in {library}"
                yield Finding(("implementations", library, "unites", argument), part, what, closest(part, method.kb))


@rule(
    "configurations",
    "The type, arguments and defaults that an entry declares for a library exist in that library.",
)
def _configurations(method: MethodRecord) -> Iterator[Finding]:
    entry = method.entry
    for key, implementation in entry.implementations.items():
        if implementation.type is None or key not in method.kb.libraries:
            continue
        library, keys = method.kb.libraries[key], ("implementations", key)
        if implementation.type not in library.types:
            expected = f"a type of {library.name}"
            yield Finding((*keys, "type"), implementation.type, expected, closest(implementation.type, library.types))
            continue
        known = library.defaults(implementation.type)
        for field in ("rename", "set", "write", "apart"):
            table = getattr(implementation, field)
            for name, theirs in table.items():
                argument = (name if field in ("set", "write") else theirs).partition(".")[0]
                if argument not in known:
                    expected = f"an argument of {library.types[implementation.type].symbol}"
                    yield Finding((*keys, field, name), argument, expected, closest(argument, known))
        yield from _misplaced(implementation, keys)
        yield from _unknown_there(entry, implementation, library, keys)
        for ours, theirs in implementation.rename.items():
            spec = entry.hyperparameters.get(ours)
            said = implementation.defaults.get(ours, None if spec is None else spec.default)
            default = known.get(theirs)
            if spec is not None and isinstance(default, bool | int | float) and said != default:
                expected = f"{default}, which is {library.name}'s for {theirs}"
                yield Finding((*keys, "defaults", ours), str(said), expected)


def _unknown_there(
    entry: MethodEntry, implementation: Implementation, library: Library, keys: Keys
) -> Iterator[Finding]:
    """Yield the names in formulas about a library that have no value there."""
    from ..libraries.adapter import formulas

    for place, formula, known in formulas(entry, implementation, library, str(implementation.type)):
        for unknown in sorted(formula.names - known):
            expected = f"a name for formulas about {library.name}"
            yield Finding((*keys, *place), f"{unknown} in {formula.source!r}", expected, closest(unknown, known))


def _misplaced(implementation: Implementation, keys: Keys) -> Iterator[Finding]:
    """Yield the arguments within another argument (`a.b`) whose value is no mapping."""
    from ..libraries.export import misplaced

    places = {theirs: ("rename", ours) for ours, theirs in implementation.rename.items()}
    said = {**implementation.set, **{theirs: ours for theirs, (_, ours) in places.items()}, **implementation.write}
    for name in misplaced(said.items()):
        place = places.get(name, ("set" if name in implementation.set else "write", name))
        yield Finding((*keys, *place), name, f"a mapping as the value of {name.rpartition('.')[0]}")


@rule(
    "operations",
    "A method with tensors of its own declares what training computes; the memory of a training step follows from it.",
)
def _operations(method: MethodRecord) -> Iterator[Finding]:
    from ..memory.program import acts

    try:
        found = acts(method.entry)
    except UsageError:
        yield Finding(("memory",), "nothing", "operations, as in the entry of the closest method")
    else:
        yield from _unknown_words(method, found)


def _unknown_words(method: MethodRecord, acts: Sequence[Act]) -> Iterator[Finding]:
    """Yield words of a method's functions that no model and no tensor of the entry has."""
    from ..memory.program import functions_of
    from ..memory.rules import load_language

    kb, memo = method.kb, method.kb.memo
    language = load_language(kb.root / "backbones" / "operations.yaml")
    if "operations" not in memo:
        families = [f.operations.functions for f in kb.families.values() if f.operations is not None]
        named = {name for functions in families for name in parse_all(functions)}
        memo["operations"] = named | {*ORDERS, *language.rules, *language.points, *language.shared}
    programs = [functions_of(act, language) for act in acts]
    own = {name for functions in programs for name in functions}
    kinds = memo["operations"] | own
    lines = [(k, line) for k, functions in enumerate(programs) for f in functions.values() for line in f.lines]
    tensors = {"weight", "bias", *method.entry.tensors}
    for k, line in lines:
        at, keys = ORDERS.get(line.kind, (0, 0, None))[2], ("memory", "operations", k, "functions")
        called = line.kind if at is None or at >= len(line.arguments) else line.arguments[at]
        if isinstance(called, str) and called not in kinds:
            expected = "an operation, or a function of the entry or of a family"
            yield Finding(keys, f"{called} in {line.text!r}", expected, closest(called, kinds))
        if line.kind not in own and (missing := language.lacks(line)):
            yield Finding(keys, f"{line.text!r} without {missing}", "a shape of its result, such as y[a0, a1, a2+b2]")
        for word in (word for word in line.arguments if isinstance(word, str) and word.startswith(".")):
            name = word.rpartition(".")[2]
            if name not in tensors and not name.endswith("?"):      # one with a question mark may be missing
                expected = f"one of {', '.join(sorted(tensors))}"
                yield Finding(keys, f"{word} in {line.text!r}", expected, closest(name, tensors))


@rule(
    "updates",
    "A rule of the update that has `tensors` is per `site`, and each of them is a trained tensor of the method at the "
    "same sites.",
)
def _updates(method: MethodRecord) -> Iterator[Finding]:
    tensors, updates = method.entry.tensors, method.entry.memory.updates if method.entry.memory is not None else []
    for k, update in enumerate(updates):
        keys = ("memory", "updates", k)
        if bool(update.tensors) != (update.per == "site"):
            expected = "site, with the names of tensors" if update.tensors else "weight, bias or norm; or tensors"
            yield Finding((*keys, "per"), update.per, expected)
        for i, name in enumerate(update.tensors):
            at = (*keys, "tensors", i)
            if name not in tensors:
                yield Finding(at, name, f"one of {', '.join(tensors)}", closest(name, tensors))
            elif not (tensors[name].trained and _alike(tensors[name], update)):
                yield Finding(at, name, "a trained tensor with the same per, roles and if")
            elif any(name in other.tensors for other in updates[:k]) or name in update.tensors[:i]:
                yield Finding(at, f"{name} twice", "one rule for each tensor")


def _alike(tensor: Tensor, update: Update) -> bool:
    """Return True if a tensor is at the locations of a record."""
    conditions = [None if one is None else one.source for one in (tensor.if_, update.if_)]
    return tensor.per == update.per and tensor.roles == update.roles and conditions[0] == conditions[1]


@rule(
    "counted",
    "With its default hyperparameters and targets the method can be counted on at least one model, and so can the "
    "memory of a training step or of a combination if the entry declares it.",
)
def _counted(method: MethodRecord) -> Iterator[Finding]:
    def counted(model: str) -> None:
        method.cost(model).to_dict()

    def trained(model: str) -> None:
        from ..memory.answer import Asked, check_length
        from ..memory.setting import Setting

        plan = method.plan(model, task=method.kb.models[model].trained_task)
        setting = Setting(1, 8 if plan.inventory.reads_tokens else None, dtype="float32")
        check_length(plan, plan.values({}), setting)
        Asked(method.kb, plan, {}, setting).memory()

    def combined(model: str) -> None:
        from ..memory.combining import combination

        combination(method.kb, method.plan(model), {}, "float32")

    reason = _reason(method, counted)
    if reason:
        yield Finding(("hyperparameters",), reason, "defaults that can be counted")
    elif method.entry.combines is not None and (reason := _reason(method, combined)):
        yield Finding(("combines",), reason, "a combination whose memory can be counted")
    elif method.entry.memory is not None and (reason := _reason(method, trained)):
        yield Finding(("memory",), reason, "a training step whose memory can be counted")


def _reason(method: MethodRecord, works: Callable[[str], object]) -> str:
    """Return the reason why something works on no model; "" if it works on one. The quickest models come first."""
    reason, memo = "there is no model", method.kb.memo
    if "quickest" not in memo:
        memo["quickest"] = sorted(method.kb.models, key=lambda key: _work(method.kb.models[key]))
    for model in memo["quickest"]:
        try:
            works(model)
        except PeftonomyError as error:
            reason = str(error).splitlines()[0]
        else:
            return ""
    return reason


def _work(model: Backbone) -> tuple[bool, int]:
    """Return an order of models by the operations of a training step: whether layers loop inside, and how many."""
    programs = {} if model.family.operations is None else model.family.operations.functions
    loops = any(line.kind == "loop" for function in parse_all(programs).values() for line in function.lines)
    return loops, sum(model.layers.values())
