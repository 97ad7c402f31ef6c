"""Find the symbols of an update rule in its LaTeX, and explain each from the entry, its tensors or the vocabulary.

An explanation comes from the first of: the entry's `symbols`, a tensor with that name, a hyperparameter with that name
or symbol, and `taxonomy/symbols.yaml`. Letters in subscripts and superscripts may lack one, because they are indices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalogue.records import MethodRecord

__all__ = ["Symbol", "latex", "legend", "occurrences", "unexplained"]

GREEK = frozenset(
    """alpha beta gamma delta epsilon varepsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi
    varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega ell""".split()  # noqa: SIM905
)
ACCENTS = frozenset({"hat", "bar", "tilde", "widetilde", "widehat", "vec", "overline"})
TOKEN = re.compile(
    r"\\(?:mathrm|operatorname|text|textbf|textit|begin|end)\s*\{[^{}]*\}"  # words
    r"|\\(?:mathbb|mathcal|mathbf|mathsf|boldsymbol)\s*(?:\{[^{}]*\}|[A-Za-z0-9])"  # letters in another style
    r"|\\[A-Za-z]+|\\.|\s+|.",
    re.DOTALL,
)
WORDS = ("\\mathrm", "\\operatorname", "\\text", "\\begin", "\\end")
STYLED = ("\\mathbb", "\\mathcal", "\\mathbf", "\\mathsf", "\\boldsymbol")


@dataclass(frozen=True)
class Symbol:
    """One symbol with its explanation."""

    tex: str
    meaning: str
    """The explanation; "" if the tensor or the hyperparameter explains the symbol."""
    tensors: tuple[str, ...] = ()
    """The tensors for which it stands, by their full names."""
    hyperparameter: str = ""


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int
    script: bool

    @property
    def atom(self) -> bool:
        """True if the token needs an explanation where it is not in a script."""
        command = self.text.removeprefix("\\")
        letter = len(self.text) == 1 and self.text.isalpha()
        return letter or (command != self.text and command in GREEK | ACCENTS) or self.text.startswith(STYLED)


def _tokens(tex: str) -> list[_Token]:
    """Return the tokens without spaces. Adjacent letters in a script group are one word."""
    found, stack, next_in_script = list[_Token](), [False], False
    for match in TOKEN.finditer(tex):
        text = match[0]
        if text.isspace():
            continue
        script = stack[-1] or next_in_script
        if text == "{":
            stack.append(script)
        elif text == "}" and len(stack) > 1:
            stack.pop()
        next_in_script = text in ("_", "^")
        if text.startswith((*WORDS, *STYLED)):
            text = re.sub(r"\s+", "", text)
            text = text if "{" in text else f"{text[:-1]}{{{text[-1]}}}"
        last = found[-1] if found else None
        if last and stack[-1] and script and text.isalpha() and last.text.isalpha() and last.end == match.start():
            found[-1] = _Token(last.text + text, last.start, match.end(), True)
        else:
            found.append(_Token(text, match.start(), match.end(), script))
    return found


def latex(name: str) -> str:
    """Return the LaTeX of a tensor's or hyperparameter's name.

    >>> latex("W_down"), latex("lambda_d"), latex("P")
    ('W_{down}', '\\\\lambda_{d}', 'P')
    """
    base, _, below = name.partition("_")
    base = f"\\{base}" if base in GREEK else base
    return f"{base}_{{{below}}}" if below else base


def _known(method: MethodRecord) -> dict[str, Symbol]:
    """Return every explained symbol by its LaTeX; later sources do not replace earlier ones."""
    tensors = {p.prefix + name: name for p in method.parts for name in p.entry.tensors}
    found: dict[str, Symbol] = {}
    for tex, spec in method.entry.symbols.items():
        found[tex] = Symbol(tex, spec.means or "", tuple(spec.tensors))
    by_name: dict[str, list[str]] = {}
    for full, name in tensors.items():
        by_name.setdefault(latex(name), []).append(full)
    for tex, names in by_name.items():
        found.setdefault(tex, Symbol(tex, "", tuple(names)))
    for name, setting in method.entry.hyperparameters.items():
        for tex in dict.fromkeys([setting.symbol or latex(name), latex(name)]):
            found.setdefault(tex, Symbol(tex, "", (), name))
    for tex, meaning in method.kb.taxonomy.symbols.items():
        found.setdefault(tex, Symbol(tex, meaning))
    return found


def _matched(tokens: Sequence[_Token], i: int, wanted: Sequence[str]) -> int | None:
    """Return the index after a symbol that begins at token `i`; braces are ignored, but must be balanced."""
    depth = done = 0
    while i < len(tokens) and (done < len(wanted) or depth):
        text = tokens[i].text
        if text == "{":
            depth += 1
        elif text == "}":
            depth -= 1
        elif done < len(wanted) and text == wanted[done]:
            done += 1
        else:
            return None
        if depth < 0:
            return None
        i += 1
    return None if done < len(wanted) or depth else i


@lru_cache(maxsize=4096)
def _words(tex: str) -> tuple[str, ...]:
    """Return the tokens of a symbol without braces."""
    return tuple(token.text for token in _tokens(tex) if token.text not in "{}")


def _found(method: MethodRecord) -> list[tuple[int, int, Symbol | None]]:
    """Return the range of each symbol in the update rule; None for one without an explanation. Computed once."""
    kept: dict[str, list[tuple[int, int, Symbol | None]]] = method.kb.memo.setdefault("symbols", {})
    if method.id not in kept:
        kept[method.id] = list(_walk(method))
    return kept[method.id]


def _walk(method: MethodRecord) -> Iterator[tuple[int, int, Symbol | None]]:
    tokens = _tokens(method.entry.update)
    known = [(_words(tex), symbol) for tex, symbol in _known(method).items()]
    known.sort(key=lambda pair: -len(pair[0]))
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token.text in ("{", "}"):
            i += 1
            continue
        found = next(((e, s) for words, s in known if (e := _matched(tokens, i, words)) is not None), None)
        if found is not None:
            end, symbol = found
            yield token.start, tokens[end - 1].end, symbol
            i = end
            continue
        if token.atom and not token.script:
            yield token.start, token.end, None
        i += 1


def occurrences(method: MethodRecord) -> Iterator[tuple[int, int, Symbol]]:
    """Yield the range of each explained symbol in the LaTeX of the update rule, from left to right."""
    yield from ((start, end, symbol) for start, end, symbol in _found(method) if symbol is not None)


def legend(method: MethodRecord) -> list[Symbol]:
    """Return the explained symbols of the update rule, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(symbol for _, _, symbol in occurrences(method)))


def unexplained(method: MethodRecord) -> list[str]:
    """Return the symbols of the update rule that nothing explains, each once."""
    tex = method.entry.update
    found = (tex[start : min(len(tex), end + 12)] for start, end, symbol in _found(method) if symbol is None)
    return list(dict.fromkeys(_short(text) for text in found))


def _short(text: str) -> str:
    """Return the first symbol of a text with its subscript."""
    match = re.match(r"(\\[A-Za-z]+\s*(\{[^{}]*\}|[A-Za-z](?=_))?|[A-Za-z])\s*(_\{[^{}]*\}|_\\?\w+)?", text)
    return match[0].strip() if match else text
