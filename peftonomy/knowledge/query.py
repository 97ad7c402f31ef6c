"""Find the methods with a property. Python, the command line and saved queries share one predicate language.

It is the formula language over the facts of an entry. A bare word that is not a field is a string, so `merge == exact`
and `merge == 'exact'` are equal. `==` on a field with several values is true if one of them matches. A word may be a
pattern (`category == 'additive.*'`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Generic, get_args

from pydantic import BaseModel

from ..catalogue.records import M, Merge, MethodRecord, Records
from ..costs.table import Table
from ..errors import FormulaError, UnknownName, UsageError, id_list, shown
from ..formula import PYTHON, Formula, Node
from ..schema.tensors import Properties, Stored, Tensor
from .support import offered

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

__all__ = ["LEDGERS", "Selection", "facts", "select"]

LEDGERS = ("trained", "stored", "stored_bytes", "served", "percent")
"""Facts that a query may also use if it names a model for the counts."""
CLOSED: dict[str, tuple[type[BaseModel], str]] = {
    "stores": (Stored, "as_"), "scope": (Tensor, "per"), "inference": (Tensor, "served"),
    "identity_at_init": (Properties, "identity_at_init"),
}  # fmt: skip
"""Facts whose possible words are those of a schema field."""
COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "//": operator.floordiv,
    "%": operator.mod, "**": operator.pow,
}  # fmt: skip


class Selection(Table, Generic[M]):
    """The methods that match a query, as a table of their facts."""

    def __init__(self, methods: list[M], caption: str = ""):
        self.methods = methods
        super().__init__([_row(m) for m in methods], caption)

    @property
    def ids(self) -> list[str]:
        """The ids of the methods, in order of year and id."""
        return [m.id for m in self.methods]

    def only(self, ids: Iterable[str]) -> Selection[M]:
        """Return the methods that `ids` names. Raises UsageError for anything but several texts."""
        wanted = set(id_list(ids, "ids"))
        return Selection([m for m in self.methods if m.id in wanted], self.caption)


def _row(method: MethodRecord) -> dict[str, Any]:
    entry = method.entry
    return {
        "id": entry.id, "name": entry.name, "year": entry.year, "category": entry.category,
        "merge": method.merge, "identity_at_init": entry.properties.identity_at_init,
        "summary": entry.summary,
    }  # fmt: skip


def facts(method: MethodRecord) -> dict[str, Any]:
    """Return this method's values of the fields that a predicate may name; several values are a tuple."""
    entry = method.entry
    tensors = list(entry.tensors.values())
    for include in entry.includes:
        tensors += method.kb[include.method].entry.tensors.values()
    known: dict[str, Any] = {
        "id": entry.id, "name": entry.name, "year": entry.year, "category": entry.category,
        "merge": method.merge, "identity_at_init": entry.properties.identity_at_init,
        "stores": tuple(sorted({part.as_ for t in tensors for part in t.stored})),
        "scope": tuple(sorted({t.per for t in tensors})),
        "inference": tuple(sorted({t.served for t in tensors})),
        "library": offered(method.kb, method.id),
        "hyperparameter": tuple(entry.hyperparameters),
        "quantised": int(bool(entry.base_storage)),
        "positions": "nothing" if entry.properties.inference_positions.literal == 0 else "some",
    }  # fmt: skip
    for facet in method.kb.taxonomy.facets:
        value = entry.facets.get(facet, "unknown")
        known[facet] = tuple(value) if isinstance(value, list) else value
    return known


def facts_of(kb: Records[Any]) -> dict[str, dict[str, Any]]:
    """Return the facts of every method by its id; they are computed once."""
    if "facts" not in kb.memo:
        kb.memo["facts"] = {key: facts(kb[key]) for key in kb}
    found: dict[str, dict[str, Any]] = kb.memo["facts"]
    return found


def select(kb: Records[M], where: str, category: str | None = None, model: str | None = None) -> Selection[M]:
    """Return the methods for which `where` holds (all, if it is empty), below a category, by year.

    With a `model`, the ledgers at default hyperparameters are facts too (`stored_bytes < 1000000`). Raises UsageError,
    or ConfigError for a model that cannot be counted.
    """
    if not isinstance(where, str):
        raise UsageError(f"condition: found {shown(where)}; expected text")
    methods = [kb[key] for key in kb]
    backbone = None if model is None else kb.backbone(model)
    if category is not None:
        if category not in kb.taxonomy.categories:
            raise UnknownName("category", category, kb.taxonomy.categories)
        methods = [m for m in methods if f"{m.category}.".startswith(f"{category}.")]
    if where.strip():
        predicate = Predicate(kb, where, with_ledgers=backbone is not None)
        methods = [m for m in methods if predicate(_with_ledgers(m, backbone))]
    return Selection(sorted(methods, key=lambda m: (m.year, m.id)), where)


def _with_ledgers(method: MethodRecord, backbone: Backbone | None) -> Mapping[str, Any]:
    known = facts_of(method.kb)[method.id]
    if backbone is None:
        return known
    try:
        cost = method.cost(backbone)
    except UsageError:  # the method has no targets in this model, so no comparison holds
        return known | dict.fromkeys(LEDGERS, float("nan"))
    return known | {name: getattr(cost, name) for name in LEDGERS}


def stored(kb: Records[M], name: str) -> Selection[M]:
    """Return the methods of a stored list. Raises UnknownName."""
    lists = kb.taxonomy.lists
    if name not in lists:
        raise UnknownName("list", name, lists)
    return select(kb, lists[name].where, model=lists[name].model)


class Predicate:
    """A condition over the facts of a method."""

    def __init__(self, kb: Records[Any], text: str, with_ledgers: bool = False):
        try:
            self.formula = Formula.parse(text)
        except FormulaError as error:
            raise UsageError(f"condition {shown(text)!r}, column {error.column}: {error.message}") from None
        examples = facts_of(kb).values()
        self.fields = set().union(*examples) | (set(LEDGERS) if with_ledgers else set())
        self.words: dict[str, set[str]] = {}
        self.several: set[str] = set()
        for example in examples:
            for name, value in example.items():
                values = value if isinstance(value, tuple) else (value,)
                self.several |= {name} if isinstance(value, tuple) else set()
                self.words.setdefault(name, set()).update(v for v in values if isinstance(v, str))
        self.words["merge"] = set(get_args(Merge))
        self.words["category"] = set(kb.taxonomy.categories)
        for facet, spec in kb.taxonomy.facets.items():
            self.words[facet] = {*spec.values, "unknown"}
        self.words |= {name: set(get_args(model.model_fields[key].annotation)) for name, (model, key) in CLOSED.items()}
        self._check(self.formula.tree)
        self._check_words(self.formula.tree, "a comparison")

    def __call__(self, known: Mapping[str, Any]) -> bool:
        try:
            return bool(self._value(self.formula.tree, known))
        except TypeError:
            raise UsageError(f"{self._shown} compares words with numbers") from None
        except (ArithmeticError, ValueError) as error:
            raise UsageError(f"{self._shown} has no value for {known['id']}: {error}") from None

    def _check_words(self, node: Node, expected: str) -> None:
        """Check that words are only compared: they are no numbers, and no conditions."""
        kind = node[0]
        if kind == "name" and (self.words.get(node[1]) or node[1] in self.several):
            raise UsageError(f"{self._shown}: {node[1]} has words; found it alone, expected {expected}")
        if kind in ("and", "or", "not"):
            for inner in node[1] if kind != "not" else node[1:]:
                self._check_words(inner, "a comparison")
        elif kind == "if":
            self._check_words(node[1], "a comparison")
            for inner in node[2:]:
                self._check_words(inner, expected)
        elif kind == "cmp":
            for inner in node[2]:
                if inner[0] != "name":
                    self._check_words(inner, "a number")
        elif kind in ("neg", "bin", "call"):
            for inner in node[2] if kind == "call" else node[1 + (kind == "bin"):]:
                self._check_words(inner, "a number")

    def _check(self, node: Node) -> None:
        """Check that every comparison names a field and a possible value of it."""
        kind = node[0]
        if kind == "cmp":
            fields = [n[1] for n in node[2] if n[0] == "name" and n[1] in self.fields]
            names = [n[1] for n in node[2] if n[0] in ("name", "word") and n[1] not in self.fields]
            if names and not fields:
                raise UnknownName("field", names[0], self.fields)
            for word in names:
                known = self.words.get(fields[0], set())
                if "*" not in word and word not in known:
                    raise UnknownName(f"value of {fields[0]}", word, known)
            for left, op, right in zip(node[2], node[1], node[2][1:], strict=False):
                self._check_pair(left, op, right)
                self._check_pair(right, op, left)
            return
        if kind == "name" and node[1] not in self.fields:
            raise UnknownName("field", node[1], self.fields)
        for child in node[1:]:
            for inner in child if isinstance(child, tuple) and child and isinstance(child[0], tuple) else (child,):
                if isinstance(inner, tuple):
                    self._check(inner)

    def _check_pair(self, field: Node, op: str, other: Node) -> None:
        """Check that fields with several values are not ordered, and that words are not compared with numbers."""
        if field[0] != "name":
            return
        if op not in ("==", "!=") and field[1] in self.several:
            raise UsageError(f"{self._shown}: {field[1]} has several values; expected == or != beside it, found {op}")
        if other[0] == "num" and self.words.get(field[1]):
            raise UsageError(f"{self._shown} compares words with numbers: {field[1]} has words, found {other[1]}")

    @property
    def _shown(self) -> str:
        return f"condition {shown(self.formula.source)!r}"

    def _value(self, node: Node, known: Mapping[str, Any]) -> Any:
        kind = node[0]
        if kind in ("num", "word"):
            return node[1]
        if kind == "name":
            return known.get(node[1], node[1])
        if kind == "cmp":
            items = [self._value(n, known) for n in node[2]]
            return all(_compare(op, a, b) for a, op, b in zip(items, node[1], items[1:], strict=False))
        if kind == "and":
            return all(self._value(n, known) for n in node[1])
        if kind == "or":
            return any(self._value(n, known) for n in node[1])
        if kind == "not":
            return not self._value(node[1], known)
        if kind == "neg":
            return -self._value(node[1], known)
        if kind == "if":
            return self._value(node[2] if self._value(node[1], known) else node[3], known)
        if kind == "call":
            return PYTHON[node[1]](*(self._value(n, known) for n in node[2]))
        return ARITHMETIC[node[1]](self._value(node[2], known), self._value(node[3], known))


def _compare(op: str, a: Any, b: Any) -> bool:
    if isinstance(b, tuple):
        a, b = b, a
    if isinstance(a, tuple):
        if op not in ("==", "!="):
            raise TypeError
        found = any(_compare("==", one, b) for one in a)
        return found if op == "==" else not found
    if op in ("==", "!=") and isinstance(a, str) and isinstance(b, str):
        pattern, word = (a, b) if "*" in a else (b, a)
        return fnmatchcase(word, pattern) == (op == "==")
    return bool(COMPARE[op](a, b))
