"""Closed forms for the pages: each ledger of a method as one formula, simplified from its declared tensors."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy

from ..formula import Formula
from ..knowledge.base import Method
from ..schema.method import MethodEntry
from ..schema.tensors import Hyperparameter, Moved, Tensor

__all__ = ["Ledgers", "ledgers", "over", "scope", "size", "sums", "symbol"]

SCOPES = {
    "site": "targets", "role": "roles", "attention": "attention blocks", "mlp": "feed-forward blocks",
    "layer": "layers", "norm": "norm parameters", "bias": "biases", "weight": "weights", "model": "",
}  # fmt: skip
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "mu", "nu", "rho", "sigma", "tau", "phi",
    "psi", "omega",
})  # fmt: skip
HELD = {"values": "stored", "indices": "stored", "bits": "mask bits"}
"""The ledger that counts each kind of stored value."""
OVER = "numel over "
"""The prefix of the symbol for the summed size of a tensor at all its locations (see `over`)."""
MOST_ROLES = 3
LEDGERS = ("trained", "stored", "mask bits", "served")
Symbols = Mapping[str, Any]


def symbol(name: str, spec: Hyperparameter | None = None) -> str:
    """Return the LaTeX of a name: its declared symbol, else `d_model` as d with a subscript and whole words upright.

    >>> symbol("d_model"), symbol("alpha"), symbol("prompt_length")
    ('d_{\\\\text{model}}', '\\\\alpha', '\\\\text{prompt length}')
    """
    if spec is not None and spec.symbol:
        return spec.symbol
    if name == "numel":
        return "|w|"
    if name.startswith(OVER):
        places, _, tensor = name.removeprefix(OVER).partition("|")
        return rf"\sum_{{{_words(places)}}} |{symbol(tensor)}|"
    if name in GREEK:
        return f"\\{name}"
    if match := re.fullmatch(r"([A-Za-z])_(\w+)", name):
        return f"{match[1]}_{{\\text{{{match[2].replace('_', ' ')}}}}}"
    return name if len(name) == 1 else f"\\text{{{name.replace('_', ' ')}}}"


def _words(text: str) -> str:
    """Return upright text in TeX. Markup characters are escaped (a remainder's `%` begins a comment)."""
    escaped = re.sub(r"([%#&$_{}])", r"\\\1", text)
    return rf"\text{{{escaped}}}"


def size(formula: Formula, entry: MethodEntry) -> str:
    """Return one formula of an entry in LaTeX."""
    return _latex(_expression(formula, _symbols(entry)), entry, fold=True)


def _latex(expression: Any, entry: MethodEntry, fold: bool = False) -> str:
    found = sorted(expression.free_symbols, key=lambda s: s.name)
    return _printed(expression, tuple((s, symbol(s.name, entry.hyperparameters.get(s.name))) for s in found), fold)


@functools.cache
def _printed(expression: Any, names: tuple[tuple[Any, str], ...], fold: bool) -> str:
    product = r" \cdot " if any(name.startswith(r"\text") for _, name in names) else None
    return str(sympy.latex(expression, symbol_names=dict(names), fold_short_frac=fold, mul_symbol=product))


@dataclass(frozen=True)
class Ledgers:
    """The LaTeX of each non-empty ledger, at one choice of the hyperparameters that are not numbers."""

    setting: Mapping[str, Any]
    formulas: Mapping[str, str]


def ledgers(method: Method) -> list[Ledgers]:
    """Return the closed forms, one for every relevant choice of switches and words."""
    specs = method.entry.hyperparameters
    options: dict[str, list[Any]] = {
        n: h.values or [True, False] for n, h in specs.items() if h.type in ("bool", "choice")
    }
    found = [_at(method, dict(zip(options, values, strict=True))) for values in itertools.product(*options.values())]
    return _distinct(found, list(options))


def _distinct(found: list[Ledgers], names: list[str]) -> list[Ledgers]:
    """Drop each name whose values all give the same formulas."""
    for name in names:
        rest: dict[str, list[Ledgers]] = {}
        for one in found:
            rest.setdefault(str({n: v for n, v in one.setting.items() if n != name}), []).append(one)
        if all(one.formulas == group[0].formulas for group in rest.values() for one in group):
            found = [
                Ledgers({n: v for n, v in group[0].setting.items() if n != name}, group[0].formulas)
                for group in rest.values()
            ]
    return found


def _at(method: Method, setting: Mapping[str, Any]) -> Ledgers:
    found = sums(method, setting)
    formulas = {ledger: _sum(found[ledger], method.entry) for ledger in LEDGERS if ledger in found}
    return Ledgers(setting, {ledger: text for ledger, text in formulas.items() if text})


def sums(method: Method, setting: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return, by ledger and scope, the amount that one location adds, as an expression.

    setting: the switches and words.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry, symbols in _parts(method, setting):
        for name, tensor in entry.tensors.items():
            if tensor.when is not None and not _holds(tensor.when, symbols):
                continue
            for where, ledger, amount in _amounts(name, tensor, symbols):
                terms = found.setdefault(ledger, {})
                terms[where] = terms.get(where, 0) + amount
    return found


def _parts(method: Method, setting: Mapping[str, Any]) -> Iterator[tuple[MethodEntry, Symbols]]:
    """Yield the entry and its included entries, with every hyperparameter as an expression over the entry's own."""
    everything: list[dict[str, Any]] = []
    for part in method.parts:
        own: dict[str, Any] = {}
        for name, spec in part.entry.hyperparameters.items():
            if part.parent < 0:
                own[name] = _word(setting[name]) if name in setting else _plain(name, spec)
            elif name in part.rename:
                own[name] = everything[part.parent][part.rename[name]]
            else:
                own[name] = _value(spec, part.fixed.get(name, spec.default), everything[part.parent])
        everything.append(own)
        yield part.entry, own


def _plain(name: str, spec: Hyperparameter | None = None) -> Any:
    """Return a symbol for a name: non-negative, and an integer unless its hyperparameter is not."""
    fraction = spec is not None and spec.type == "float"
    return sympy.Symbol(name, nonnegative=True) if fraction else sympy.Symbol(name, integer=True, nonnegative=True)


def _symbols(entry: MethodEntry) -> Symbols:
    return {name: _plain(name, spec) for name, spec in entry.hyperparameters.items()}


def _expression(formula: Formula, symbols: Symbols) -> Any:
    return _of(formula, tuple((name, symbols[name]) for name in sorted(formula.names) if name in symbols))


@functools.cache
def _of(formula: Formula, symbols: tuple[tuple[str, Any], ...]) -> Any:
    """Return the expression of a formula; cached, because many tensors have the same size."""
    return sympy.sympify(formula.sympy(dict(symbols)))


def _word(value: Any) -> Any:
    """Return a switch as 0 or 1, and a word as a symbol."""
    return sympy.Integer(int(value)) if isinstance(value, bool) else sympy.Symbol(value)


def _value(spec: Hyperparameter, value: Any, symbols: Symbols) -> Any:
    return _word(value) if spec.type in ("bool", "choice") else _expression(Formula.parse(value), symbols)


def _decided(expression: Any) -> Any:
    """Return the expression with words replaced by distinct numbers, so that comparisons evaluate."""
    words = sorted((s for s in expression.free_symbols if not s.is_nonnegative), key=str)
    return expression.subs({word: sympy.Integer(-1 - i) for i, word in enumerate(words)})


def _holds(condition: Formula, symbols: Symbols) -> bool:
    found = _decided(_expression(condition, symbols))
    return bool(found != sympy.false and found != 0)


def over(name: str, tensor: Tensor) -> str:
    """Return the name of the symbol for one tensor's summed size at all locations; w is the backbone's parameter."""
    return f"{OVER}{scope(tensor)}|{'w' if tensor.selecting else name}"


def _amounts(name: str, tensor: Tensor, symbols: Symbols) -> Iterator[tuple[str, str, Any]]:
    """Yield (scope, ledger, amount at one location) of one tensor."""
    where = scope(tensor)
    whole = {**symbols, "numel": _plain(over(name, tensor))}
    size = _size(tensor, symbols)
    copies = _expression(tensor.copies, symbols)
    if isinstance(tensor.trained, Moved):
        yield "", "trained", _expression(tensor.trained.across, whole)
    elif tensor.trained:
        yield where, "trained", copies * (size if tensor.trained is True else _in(tensor.trained, symbols))
    held = [part for part in tensor.stored if part.as_ in HELD]
    for part in held:
        if part.across is not None:
            yield "", HELD[part.as_], _expression(part.across, whole)
        else:
            yield where, HELD[part.as_], copies * (size if part.count is None else _in(part.count, symbols))
    if tensor.served == "kept" and not any(part.as_ == "bits" for part in held):
        yield where, "served", copies * size


def scope(tensor: Tensor) -> str:
    """Return the label of a sum over the locations of a tensor; "" if there is one location."""
    roles = tensor.roles or []
    named = ", ".join(roles) if len(roles) <= MOST_ROLES else f"{roles[0]} and {len(roles) - 1} more roles"
    label = named or SCOPES[tensor.per]
    return (label if tensor.where is None else f"{label}, {tensor.where.source}").replace("_", " ")


def _in(formula: Formula, symbols: Symbols) -> Any:
    return _decided(_expression(formula, symbols))


def _size(tensor: Tensor, symbols: Symbols) -> Any:
    if tensor.selecting:
        return _plain("numel")
    if tensor.count is not None:
        return _in(tensor.count, symbols)
    return sympy.Mul(*(_in(size, symbols) for size in tensor.shape or []))


def _sum(terms: Mapping[str, Any], entry: MethodEntry) -> str:
    """Return the sum of the terms, starting with those without a scope."""
    shown = [(scope, _shortest(amount)) for scope, amount in terms.items()]
    shown.sort(key=lambda pair: pair[0] != "")
    return " + ".join(_term(scope, amount, entry) for scope, amount in shown if amount != 0)


def _term(scope: str, amount: Any, entry: MethodEntry) -> str:
    text = _latex(amount, entry)
    if not scope:
        return text
    return rf"\sum_{{{_words(scope)}}} " + (rf"\left({text}\right)" if isinstance(amount, sympy.Add) else text)


@functools.cache
def _shortest(amount: Any) -> Any:
    """Return the shortest of some equal forms."""
    amount = sympy.sympify(amount)
    return min((sympy.factor_terms(amount), sympy.expand(amount), amount), key=sympy.count_ops)
