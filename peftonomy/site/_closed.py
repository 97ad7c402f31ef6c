"""Closed forms for the pages: each ledger of a method as one formula, simplified from the tensors it declares."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy

from .._formula import Formula
from .._kb import Method
from .._layout import flattened
from .._schema import Hyperparameter, MethodEntry, Moved, Tensor

__all__ = ["ledgers", "size", "symbol"]

SCOPES = {
    "site": "targets", "attention": "attention blocks", "mlp": "feed-forward blocks", "layer": "layers",
    "norm": "norm parameters", "bias": "biases", "weight": "weights", "model": "",
}  # fmt: skip
GREEK = frozenset({
    "alpha", "beta", "gamma", "delta", "epsilon", "eta", "theta", "kappa", "mu", "nu", "rho", "sigma", "tau", "phi",
    "psi", "omega",
})  # fmt: skip
PLACES = "numel_of_all"
Symbols = Mapping[str, Any]


def symbol(name: str, spec: Hyperparameter | None = None) -> str:
    """The LaTeX of a name: its declared symbol, else `d_model` as d with a subscript and whole words upright.

    >>> symbol("d_model"), symbol("alpha"), symbol("prompt_length")
    ('d_{\\\\text{model}}', '\\\\alpha', '\\\\text{prompt length}')
    """
    if spec is not None and spec.symbol:
        return spec.symbol
    if name in ("numel", PLACES):
        return "|w|" if name == "numel" else r"\textstyle\sum|w|"
    if name in GREEK:
        return f"\\{name}"
    if match := re.fullmatch(r"([A-Za-z])_(\w+)", name):
        return f"{match[1]}_{{\\text{{{match[2].replace('_', ' ')}}}}}"
    return name if len(name) == 1 else f"\\text{{{name.replace('_', ' ')}}}"


def size(formula: Formula, entry: MethodEntry) -> str:
    """One formula of an entry in LaTeX."""
    return _latex(formula.sympy(), entry, fold=True)


def _latex(expression: Any, entry: MethodEntry, fold: bool = False) -> str:
    names = {s: symbol(s.name, entry.hyperparameters.get(s.name)) for s in expression.free_symbols}
    return str(sympy.latex(expression, symbol_names=names, fold_short_frac=fold))


@dataclass
class _Term:
    """Equal places: what is summed over them, and for how many the sum is short."""

    scope: str
    condition: Any
    amounts: dict[str, Any] = field(default_factory=dict)

    def add(self, ledger: str, amount: Any) -> None:
        self.amounts[ledger] = self.amounts.get(ledger, 0) + amount


def ledgers(method: Method) -> dict[str, str]:
    """LaTeX of each ledger that is not nothing: trained, stored, mask bits, served."""
    terms: dict[tuple[str, str], _Term] = {}
    for entry, symbols in _parts(method):
        for tensor in entry.tensors.values():
            condition = sympy.true if tensor.when is None else _truth(tensor.when, symbols)
            if condition == sympy.false:
                continue
            for scope, ledger, amount in _amounts(tensor, symbols):
                term = terms.setdefault((scope, str(condition)), _Term(scope, condition))
                term.add(ledger, amount)
    found = {}
    for ledger in ("trained", "stored", "mask bits", "served"):
        parts = [_term(t, ledger, method.entry) for t in terms.values() if t.amounts.get(ledger, 0) != 0]
        if parts:
            found[ledger] = " + ".join(parts)
    return found


def _parts(method: Method) -> Iterator[tuple[MethodEntry, Symbols]]:
    """The entry and what it includes, with every hyperparameter as an expression over the entry's own."""
    everything: list[dict[str, Any]] = []
    for part in flattened(method):
        own: dict[str, Any] = {}
        if part.parent >= 0:
            above = everything[part.parent]
            for name, spec in part.entry.hyperparameters.items():
                if name in part.rename:
                    own[name] = above.get(part.rename[name], _plain(part.rename[name]))
                elif name in part.fixed:
                    own[name] = _value(spec, part.fixed[name], above)
                else:
                    own[name] = _value(spec, spec.default, {})
        everything.append(own)
        yield part.entry, own


def _plain(name: str) -> Any:
    return sympy.Symbol(name, integer=True, positive=True)


def _value(spec: Hyperparameter, value: Any, symbols: Symbols) -> Any:
    return sympy.Symbol(value) if spec.type == "choice" else Formula.parse(value).sympy(symbols)


def _truth(condition: Formula, symbols: Symbols) -> Any:
    """The condition as sympy has it; a plain number counts as true unless it is 0."""
    found = condition.sympy(symbols)
    relational = isinstance(found, sympy.logic.boolalg.Boolean) and not found.is_Symbol
    return found if relational else sympy.Ne(found, 0)


def _amounts(tensor: Tensor, symbols: Symbols) -> Iterator[tuple[str, str, Any]]:
    """(scope, ledger, amount at one place) of one tensor."""
    scope = SCOPES[tensor.per] if tensor.roles is None else ", ".join(tensor.roles)
    if tensor.where is not None:
        scope = f"{scope}, {tensor.where.source}"
    scope, everywhere = scope.replace("_", " "), ""
    whole = {**symbols, "numel": _plain(PLACES)}
    copies = tensor.copies.sympy(symbols)
    if tensor.selecting:
        numel = _plain("numel")
    elif tensor.count is not None:
        numel = tensor.count.sympy(symbols)
    else:
        numel = sympy.Mul(*(s.sympy(symbols) for s in tensor.shape or []))
    if isinstance(tensor.trained, Moved):
        yield everywhere, "trained", tensor.trained.across.sympy(whole)
    elif tensor.trained:
        yield scope, "trained", copies * (numel if tensor.trained is True else tensor.trained.sympy(symbols))
    masked = False
    for part in tensor.stored:
        if part.as_ in ("none", "seed"):
            continue
        masked |= part.as_ == "bits"
        ledger = "mask bits" if part.as_ == "bits" else "stored"
        if part.across is not None:
            yield everywhere, ledger, part.across.sympy(whole)
        else:
            yield scope, ledger, copies * (numel if part.count is None else part.count.sympy(symbols))
    if tensor.served == "kept" and not masked:
        yield scope, "served", copies * numel


def _term(term: _Term, ledger: str, entry: MethodEntry) -> str:
    shortest = min(_forms(term.amounts[ledger]), key=sympy.count_ops)
    text = _latex(shortest, entry)
    if isinstance(shortest, sympy.Add) and term.scope:
        text = rf"\left({text}\right)"
    if term.condition != sympy.true:
        text = rf"\left[{_latex(term.condition, entry)}\right] {text}"
    return rf"\sum_{{\text{{{term.scope}}}}} {text}" if term.scope else text


def _forms(expression: Any) -> list[Any]:
    """Equal forms, from which the shortest is shown."""
    expression = sympy.sympify(expression)
    return [sympy.factor(expression), sympy.expand(expression), expression]
