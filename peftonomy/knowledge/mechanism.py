"""Say in words how a method works, so that methods can be compared and the nearest ones found.

Every aspect is a facet of the taxonomy or follows from an entry's tensors. It has values, by which methods are alike,
and the end of a sentence that starts with the method's name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..backbones.modules import role_matches
from ..catalogue.records import MethodRecord
from ..costs.table import Table, Tabled
from ..errors import FormulaError, UnknownName, UsageError, shown
from ..formula import Formula
from ..schema.base import Value
from ..schema.initial import Start
from ..schema.names import DIMS
from ..schema.taxonomy import Facet, joined
from ..schema.tensors import Moved, Tensor
from .query import facts_of

if TYPE_CHECKING:
    from ..catalogue.records import Records

__all__ = ["Comparison", "Difference", "Nearest", "Neighbour", "Trait", "aspects", "compare", "nearest", "traits"]

NOTHING = "nothing"
"""The value of an aspect that a method lacks."""
WIDE = {*DIMS, "d_in", "d_out", "max_d_in", "max_d_out", "numel"} - {"n_heads", "n_kv_heads"}
"""Names of sizes that grow with the width of the model."""
FORMS = {
    "number": ("number", "numbers"), "vector": ("vector", "vectors"), "thin": ("thin matrix", "thin matrices"),
    "full": ("full matrix", "full matrices"), "small": ("small matrix", "small matrices"),
    "values": ("tensor", "tensors"),
}  # fmt: skip
PARAMETERS = {"weight": "pretrained parameters", "bias": "pretrained biases", "norm": "pretrained norm parameters"}
PLACES = {
    "site": "at each targeted module", "role": "for each kind of module, shared by its layers",
    "attention": "in each attention block", "mlp": "in each feed-forward block", "layer": "in each layer",
    "model": "for the whole model", "weight": "beside each pretrained parameter", "bias": "beside each bias",
    "norm": "beside each norm parameter",
}  # fmt: skip
ADJECTIVES = {
    "given": "previously trained ", "random": "random ", "zeros": "zero ", "constant": "constant ",
    "computed": "computed ", "pretrained": "",
}  # fmt: skip
STARTS = {
    "random": "at random", "zeros": "at zero", "constant": "at a constant", "pretrained": "at its pretrained values",
}  # fmt: skip
FIXED = {"zeros": "zeros", "ones": "constant", "constant": "constant", "identity": "constant", "dirac": "constant"} | {
    kind: kind for kind in ("pretrained", "computed")
}
"""Kinds of start that are not random, by the values of an aspect."""
NUMBERS = ("no", "a", "a pair of", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
ANY = 64
"""A size for formulas of which only one thing is asked: whether the number is zero."""


@dataclass(frozen=True)
class Trait:
    """One aspect of a method: its values, and the end of a sentence about it.

    key: equal for two methods that do not differ in this aspect. It leaves out the names of tensors. A trait that a
    user describes has none, and differs where its values do.
    """

    values: tuple[str, ...]
    phrase: str
    key: str


@dataclass(frozen=True)
class Own:
    """One of a method's tensors that exists at the default hyperparameters."""

    name: str
    tensor: Tensor
    form: str
    start: str
    prose: str
    trained: bool
    partly: bool
    frozen: bool
    place: str


@dataclass(frozen=True)
class Difference:
    """A difference between methods in one aspect, as a sentence."""

    aspect: str
    name: str
    sentence: str


def aspects(kb: Records[Any]) -> dict[str, Facet]:
    """Return every aspect by its id: the facets of the taxonomy and the derived ones, the weightiest first."""
    found = {**kb.taxonomy.facets, **kb.taxonomy.derived}
    return dict(sorted(found.items(), key=lambda item: -item[1].weight))


def traits(method: MethodRecord) -> dict[str, Trait]:
    """Return a method's traits by aspect; they are computed once."""
    kept: dict[str, dict[str, Trait]] = method.kb.memo.setdefault("traits", {})
    if method.id not in kept:
        kept[method.id] = dict(_traits(method))
    return kept[method.id]


def _traits(method: MethodRecord) -> Iterator[tuple[str, Trait]]:
    kb, known, own = method.kb, facts_of(method.kb)[method.id], list(_own(method))
    found: dict[str, Sequence[str]] = {
        "trains": [("pretrained" if o.tensor.selecting else o.form) for o in own if o.trained] or [NOTHING],
        "freezes": [o.start for o in own if o.frozen] or [NOTHING],
        "init": [o.start for o in own if o.trained] or [NOTHING],
        "scope": [o.tensor.per for o in own] or [NOTHING],
        "quantised": ["fewer" if known["quantised"] else "same"],
        "targets": _roles(method),
    }
    told = {"trains": _trains(own), "freezes": _freezes(own), "init": _starts(own), "targets": _targets(method)}
    for name, facet in aspects(kb).items():
        values = found[name] if name in found else known[name]
        words = tuple(dict.fromkeys((values,) if isinstance(values, str) else values))
        phrase, key = told[name] if name in told else (facet.said(words), facet.said(sorted(words)))
        yield name, Trait(words, phrase, key)


# The tensors


def _own(method: MethodRecord) -> Iterator[Own]:
    """Yield the tensors that exist at the default hyperparameters.

    A tensor is frozen if it is the method's own, is never trained, and does not come out of training.
    """
    parts, values = method.parts, list[dict[str, Value]]()
    produces = _produces(method)
    untrained = "none" in facts_of(method.kb)[method.id].get("training", ())  # it combines what was trained before
    for part in parts:
        known = {n: h.default for n, h in part.entry.hyperparameters.items() if _literal(h.type, h.default)}
        known |= {n: v for n, v in part.fixed.items() if _literal(part.entry.hyperparameters[n].type, v)}
        for inner, outer in part.rename.items():
            known.pop(inner, None)
            if outer in values[part.parent]:
                known[inner] = values[part.parent][outer]
        values.append(known)
        sited = any(t.per == "site" for t in part.entry.tensors.values())
        for name, tensor in part.entry.tensors.items():
            if tensor.when is not None and not _value(tensor.when, known, True):
                continue
            start, prose = _start(tensor.init, known)
            trained = tensor.trained if isinstance(tensor.trained, bool) else True
            if isinstance(tensor.trained, Formula):
                trained = bool(_value(tensor.trained, known, 1))
            place = "shared by all targeted modules" if tensor.per == "model" and sited else PLACES[tensor.per]
            partly = trained and tensor.trained is not True and (tensor.selecting or isinstance(tensor.trained, Moved))
            frozen = tensor.trained is False and not tensor.selecting
            frozen = frozen and not (produces and any(part.as_ == "values" for part in tensor.stored))
            if frozen and (untrained or any(part.as_ == "shared" for part in tensor.stored)):
                start, prose = "given", ""
            yield Own(part.prefix + name, tensor, _form(tensor), start, prose, trained, partly, frozen, place)


def _produces(method: MethodRecord) -> bool:
    """Return whether training discards some trained tensors, out of which the stored ones come."""
    tensors = [t for part in method.parts for t in part.entry.tensors.values()]
    discards = any(t.trained is not False and all(s.as_ == "none" for s in t.stored) for t in tensors)
    return discards and "none" not in facts_of(method.kb)[method.id].get("training", ())


def _literal(kind: str, value: Value) -> bool:
    """Return whether a hyperparameter's value is given, not a formula over the model's sizes."""
    return kind not in ("int", "float") or not isinstance(value, str)


def _value(formula: Formula, known: Mapping[str, Value], otherwise: Any) -> Any:
    """Return a formula's value at these hyperparameters, with any sizes of the model."""
    try:
        return formula({**dict.fromkeys(formula.names, ANY), **known})
    except FormulaError:
        return otherwise


def _start(text: str, known: Mapping[str, Value]) -> tuple[str, str]:
    """Return the kind of a tensor's start, and its description if it has one."""
    start = Start.parse(text)
    while start.condition is not None:
        start = start.branches[0 if _value(start.condition, known, True) else 1]
    return FIXED.get(start.kind, "random"), start.prose if start.kind == "computed" else ""


def _form(tensor: Tensor) -> str:
    if tensor.shape is None:
        return "values"
    sizes = [size for size in tensor.shape if size.literal != 1]
    wide = sum(bool(size.names & WIDE) for size in sizes)
    if len(sizes) < 2:
        return "vector" if sizes else "number"
    return ("small", "thin", "full")[min(wide, 2)]


# The sentences


def _trains(own: Sequence[Own]) -> tuple[str, str]:
    """Return the trained tensors in words, with and without their names."""
    trained = [o for o in own if o.trained]
    words = [f"trains {_listed(trained, named, plain=True) or NOTHING}" for named in (True, False)]
    return words[0], words[1]


def _freezes(own: Sequence[Own]) -> tuple[str, str]:
    """Return the frozen tensors in words, with and without their names."""
    frozen = [o for o in own if o.frozen]
    words = [f"freezes {_listed(frozen, named) or 'none of its own tensors'}" for named in (True, False)]
    return words[0], words[1]


def _listed(own: Sequence[Own], named: bool, plain: bool = False) -> str:
    """Return tensors in words, by place: `a random pair of thin matrices (A, B) at each targeted module`.

    plain: without their initial values.
    """
    found = []
    for place in _grouped(own, lambda o: "" if o.tensor.selecting else o.place):
        phrases = []
        for group in _grouped(place, lambda o: (o.tensor.selecting, o.form, o.partly, "" if plain else o.start)):
            first = group[0]
            kinds = dict.fromkeys(PARAMETERS.get(o.tensor.per, "") for o in group)
            start = "" if plain else ADJECTIVES[first.start]
            text = joined([*kinds]) if first.tensor.selecting else _count(group, start)
            text = f"a part of {text}" if first.partly else text
            phrases.append(f"{text} ({', '.join(o.name for o in group)})" if named else text)
        found.append(joined(phrases) + ("" if place[0].tensor.selecting else f" {place[0].place}"))
    return joined(found)


def _count(group: Sequence[Own], adjective: str = "") -> str:
    """Return how many tensors of which form there are: `a random pair of thin matrices`."""
    one, many = FORMS[group[0].form]
    n = len(group)
    if n == 2:
        return f"a {adjective}pair of {many}"
    return f"{NUMBERS[n] if n < len(NUMBERS) else n} {adjective}{one if n == 1 else many}"


def _starts(own: Sequence[Own]) -> tuple[str, str]:
    trained = [o for o in own if o.trained]
    if not trained:
        return ("has no trained tensors to start",) * 2
    groups = _grouped(trained, lambda o: (o.start, o.prose))
    phrases = [f"{joined([o.name for o in g])} {_started(g[0])}" for g in groups]
    keys = sorted(_started(g[0]) for g in groups)
    return f"starts {joined(phrases)}", joined(keys)


def _started(one: Own) -> str:
    return STARTS.get(one.start, f"at computed values ({one.prose})")


def _grouped(own: Iterable[Own], key: Any) -> list[list[Own]]:
    """Return the tensors in groups with the same key, in the order of their first members."""
    groups: dict[Any, list[Own]] = {}
    for one in own:
        groups.setdefault(key(one), []).append(one)
    return list(groups.values())


def _roles(method: MethodRecord) -> list[str]:
    """Return the roles that the method targets by default."""
    targets, roles = method.entry.targets, method.kb.taxonomy.roles
    if targets is None:
        return [NOTHING]
    return [r for r in roles if any(role_matches(pattern, r, "") for pattern in targets.default)] or targets.default


def _targets(method: MethodRecord) -> tuple[str, str]:
    """Return the default targets in words; cross-attention is named only where it differs from self-attention."""
    targets = method.entry.targets
    if targets is None:
        return ("takes no targets",) * 2
    crossed = [r for r in targets.default if r.startswith("x") and r[1:] in targets.default]
    shown = [r for r in targets.default if r not in crossed]
    return (f"targets {joined(shown)} by default{' (in cross-attention too)' if crossed else ''}",) * 2


# Comparing


class Comparison(Tabled):
    """Two or more methods, with a sentence for each aspect in which they differ."""

    def __init__(self, methods: Sequence[MethodRecord], differences: Sequence[Difference], same: Sequence[str]):
        self.methods = [m.id for m in methods]
        self.differences = list(differences)
        self.same = list(same)
        """The names of the aspects in which all agree."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "methods": self.methods, "same": self.same,
            "differences": [{"aspect": d.aspect, "name": d.name, "sentence": d.sentence} for d in self.differences],
        }  # fmt: skip

    def table(self) -> Table:
        """Return a table with one row per difference."""
        rows = [{"aspect": d.name, "difference": d.sentence} for d in self.differences]
        return Table(rows, caption=f"{', '.join(self.methods[:-1])} and {self.methods[-1]}")

    def __iter__(self) -> Iterator[str]:
        return (d.sentence for d in self.differences)

    def __str__(self) -> str:
        return "\n".join(self)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.methods)}: {len(self.differences)} differences>"


def compare(kb: Records[Any], methods: Sequence[str]) -> Comparison:
    """Return the differences between two or more methods. Raises UsageError."""
    records = [kb[method] for method in dict.fromkeys(methods)]
    if len(records) < 2:
        found = joined([m.id for m in records]) or "no method"
        raise UsageError(f"compare: found {found}; expected two or more methods")
    known = aspects(kb)
    differences = list(_differences(known, [(m.name, traits(m)) for m in records]))
    unlike = {d.aspect for d in differences}
    same = [facet.name for name, facet in known.items() if name not in unlike | {"scope"}]
    return Comparison(records, [*differences, *_defaults(records)], same)


def _differences(known: Mapping[str, Facet], told: Sequence[tuple[str, Mapping[str, Trait]]]) -> Iterator[Difference]:
    """Yield a sentence for each aspect of the last one in which not all are the same."""
    unlike = set()
    for name, facet in known.items():
        if name not in told[-1][1]:
            continue
        found = [traits[name] for _, traits in told]
        described = not all(trait.key for trait in found)
        if len({frozenset(trait.values) if described else trait.key for trait in found}) > 1:
            unlike.add(name)
            if name != "scope" or not unlike & {"trains", "freezes"}:  # their sentences name the places
                sentence = "; ".join(f"{who} {trait.phrase}" for (who, _), trait in zip(told, found, strict=True))
                yield Difference(name, facet.name, f"{sentence}.")


def _defaults(records: Sequence[MethodRecord]) -> Iterator[Difference]:
    """Yield a sentence for each hyperparameter that all have, with different defaults."""
    first = records[0].entry.hyperparameters
    for name in first:
        if all(name in m.entry.hyperparameters for m in records):
            values = [str(m.entry.hyperparameters[name].default) for m in records]
            if len(set(values)) > 1:
                told = joined([f"{value} in {m.name}" for m, value in zip(records, values, strict=True)])
                yield Difference("defaults", "Default settings", f"The default of {name} is {told}.")


# Finding the nearest


@dataclass(frozen=True)
class Neighbour:
    """A method near another method or a described mechanism.

    likeness: the weighted share of aspects in which they agree, from 0 to 1. differences: where they do not.
    """

    method: str
    name: str
    year: int
    likeness: float
    differences: tuple[Difference, ...]


class Nearest(Table):
    """The methods nearest to a method or to a described mechanism, best first."""

    def __init__(self, found: Sequence[Neighbour], caption: str):
        self.found = list(found)
        super().__init__([
            {"id": n.method, "name": n.name, "year": n.year, "likeness": round(n.likeness, 3),
             "differences": [d.sentence for d in n.differences]}
            for n in found
        ], caption)  # fmt: skip

    def __repr__(self) -> str:
        return f"<{self.caption}: {', '.join(n.method for n in self.found)}>"


def nearest(kb: Records[Any], method: str | None, described: Mapping[str, str | Sequence[str]], n: int) -> Nearest:
    """Return the `n` methods nearest to a method, or to a mechanism described by some aspects. Raises UsageError."""
    if (method is None) == (not described):
        raise UsageError("nearest: give either a method or a description by aspects, such as acts_on='weight'")
    if type(n) is not int or n < 1:
        raise UsageError(f"nearest: found {shown(n)} as the number of methods; expected a whole number from 1")
    known = aspects(kb)
    asked = _asked(kb, described) if method is None else traits(kb[method])
    name, year = ("the idea", None) if method is None else (kb[method].name, kb[method].year)
    likely = {key: likeness for key, likeness in zip(kb, _likenesses(kb, asked), strict=True) if key != method}
    least = min(heapq.nlargest(n, likely.values()), default=0.0)
    rated = [(likeness, kb[key]) for key, likeness in likely.items() if likeness >= least]
    # Among equals, the one of about the same time, or the oldest, which is the first to be known.
    rated.sort(key=lambda r: (-r[0], r[1].year if year is None else abs(r[1].year - year), r[1].id))
    found = [
        Neighbour(m.id, m.name, m.year, likeness, tuple(_differences(known, [(m.name, traits(m)), (name, asked)])))
        for likeness, m in rated[:n]
    ]
    return Nearest(found, f"Nearest to {name}")


def _asked(kb: Records[Any], described: Mapping[str, str | Sequence[str]]) -> dict[str, Trait]:
    """Return the traits that a user describes. Raises UsageError."""
    facets, found = aspects(kb), {}
    for name, given in described.items():
        if name not in facets:
            raise UnknownName("aspect", name, facets)
        words = tuple(w.strip() for w in given.split(",")) if isinstance(given, str) else tuple(given)
        known = [*facets[name].values, *(kb.taxonomy.roles if name == "targets" else ())]
        if not words:
            raise UsageError(f"{name}: found no value; expected one of {', '.join(known)}")
        for word in words:
            if word not in known:
                raise UnknownName(f"value of {name}", word, known)
        found[name] = Trait(words, facets[name].said(words), "")
    return found


def _likenesses(kb: Records[Any], asked: Mapping[str, Trait]) -> list[float]:
    """Return, for each method, the weighted mean over the asked aspects of the shared values among all values."""
    facets, columns = aspects(kb), _columns(kb)
    total, shared = 0.0, [0.0] * len(kb)
    for name, trait in asked.items():
        weight, wanted = facets[name].weight, {*trait.values}
        distinct, numbers = columns[name]
        shares = [weight * len(wanted.intersection(v)) / len(wanted.union(v)) for v in distinct]
        total += weight
        shared = [one + shares[number] for one, number in zip(shared, numbers, strict=True)]
    return [one / total for one in shared] if total else shared


def _columns(kb: Records[Any]) -> dict[str, tuple[list[tuple[str, ...]], list[int]]]:
    """Return the values of each aspect: the distinct ones, and the number of each method's among them."""
    if "columns" not in kb.memo:
        kb.memo["columns"] = {}
        for name in aspects(kb):
            numbers: dict[tuple[str, ...], int] = {}
            column = [numbers.setdefault(traits(m)[name].values, len(numbers)) for m in kb.values()]
            kb.memo["columns"][name] = list(numbers), column
    found: dict[str, tuple[list[tuple[str, ...]], list[int]]] = kb.memo["columns"]
    return found
