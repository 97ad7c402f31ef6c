"""The update rule with a legend: each symbol is explained and tied to the rows of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from markupsafe import Markup, escape

from ..knowledge.base import Method
from ..knowledge.legend import Symbol, legend, occurrences
from ..schema.tensors import Tensor
from . import _closed
from ._site import Site, View
from ._text import spans

__all__ = ["equation", "marks"]

ANNOTATION = re.compile(r"(<annotation[^>]*>).*?(</annotation>)", re.DOTALL)
"""Matches the source of a formula in its MathML, which should not contain our marks."""
LONGEST = 70
"""The number of characters of the longest shape that a legend shows."""
SCOPES = {
    "site": "for each targeted module", "role": "for each targeted role", "attention": "for each attention block",
    "mlp": "for each feed-forward block", "layer": "for each layer", "model": "for the whole model",
    "weight": "for each weight", "bias": "for each bias", "norm": "for each norm parameter",
}  # fmt: skip


def equation(site: Site, method: Method) -> View:
    """Return the rendered update rule and its legend. Symbols in both have the same number as `data-symbol`."""
    file, symbols = f"methods/{method.id}.yaml", legend(method)
    numbers = {symbol: i for i, symbol in enumerate(symbols, start=1)}
    tex, last = "", 0
    source = method.entry.update
    for start, end, symbol in occurrences(method):
        tex += f"{source[last:start]}{{\\htmlData{{symbol={numbers[symbol]}}}{{{source[start:end]}}}}}"
        last = end

    def set_(text: str) -> Markup:
        return site.tex(text, file=file)

    html = site.tex(source, display=True, file=file, marked=tex + source[last:])
    return {
        "html": Markup(ANNOTATION.sub(lambda m: f"{m[1]}{escape(source)}{m[2]}", html)),
        "legend": [_shown(site, method, symbol, numbers[symbol], set_) for symbol in symbols],
    }


def marks(method: Method) -> dict[str, str]:
    """Return the numbers of the symbols that stand for each tensor, as the row's `data-symbol`."""
    found: dict[str, list[str]] = {}
    for number, symbol in enumerate(legend(method), start=1):
        for name in symbol.tensors:
            found.setdefault(name, []).append(str(number))
    return {name: " ".join(numbers) for name, numbers in found.items()}


def _shown(site: Site, method: Method, symbol: Symbol, number: int, set_: Callable[[str], Markup]) -> View:
    """Return one line of the legend."""
    meaning = spans(symbol.meaning, set_) if symbol.meaning else Markup("")
    if symbol.hyperparameter:
        spec = method.entry.hyperparameters[symbol.hyperparameter]
        meaning = meaning or Markup("{} (<code>{}</code>, default {})").format(
            spec.meaning, symbol.hyperparameter, _plain(spec.default)
        )
    elif symbol.tensors and not symbol.meaning:
        meaning = _tensor(method, symbol.tensors[0], set_)
    return {
        "number": number, "symbol": set_(symbol.tex), "meaning": meaning,
        "tensors": [{"name": name, "anchor": f"tensor-{name}"} for name in symbol.tensors],
    }  # fmt: skip


def _tensor(method: Method, name: str, set_: Callable[[str], Markup]) -> Markup:
    """Return a tensor in words: trained or frozen, its shape, its scope."""
    part, tensor = next(
        (part, t) for part in method.parts for n, t in part.entry.tensors.items() if part.prefix + n == name
    )
    if tensor.selecting:
        return Markup("{}, {}").format(_trained(tensor), SCOPES[tensor.per])
    sizes = tensor.shape if tensor.count is None else [tensor.count]
    shape = r" \times ".join(_closed.size(s, part.entry) for s in sizes or []) or "1"
    note = f": {tensor.note}" if tensor.note and len(tensor.note) < 60 else ""
    if len(shape) > LONGEST:  # the table of tensors has it
        return Markup("{}, {}{}").format(_trained(tensor), SCOPES[tensor.per], note)
    return Markup("{}, {} {}{}").format(_trained(tensor), set_(shape), SCOPES[tensor.per], note)


def _trained(tensor: Tensor) -> str:
    return "frozen" if tensor.trained is False else "trained" if tensor.trained is True else "partly trained"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
