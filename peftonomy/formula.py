"""The formula language: arithmetic for the shapes and counts of entries and model families.

    >>> area = Formula.parse("r * (d_in + d_out)")
    >>> area({"r": 8, "d_in": 4096, "d_out": 1024})
    40960
    >>> sorted(area.names), area.javascript()
    (['d_in', 'd_out', 'r'], '(r * (d_in + d_out))')

It has numbers, names, `+ - * / // % **`, comparisons, `and or not`, `a if c else b`, the functions of `FUNCTIONS`,
and quoted words to compare with a choice (`encoder == 'mlp'`). Nothing else is accepted. Python's own parser reads
the text into a tree, the tree is copied node by node into ours, and only ours is compiled.
Text length, size, depth and the magnitude of the result are bounded before anything is computed.

Each tree compiles to four targets: Python (exact integers), numpy (over arrays), JavaScript (the site; equal to Python
while values stay below 2**53) and sympy (closed forms and LaTeX, when the site is built).
"""

from __future__ import annotations

import ast
import functools
import math
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from types import CodeType
from typing import Any

from .errors import LISTED_TEXT, FormulaError, PeftonomyError, near, shown

__all__ = ["FUNCTIONS", "Formula", "Number"]

Number = int | float
MAX_LENGTH, MAX_NODES, MAX_DEPTH, MAX_BITS, MAX_EXPONENT = 1000, 200, 60, 4096, 8
MAX_LITERAL = 2**53
MAX_FACTORED = 10**9

FUNCTIONS: dict[str, tuple[int, int]] = {
    "abs": (1, 1), "ceil": (1, 1), "floor": (1, 1), "sqrt": (1, 1), "log2": (1, 1),
    "gcd": (2, 2), "factor": (2, 2), "max": (2, 8), "min": (2, 8), "sum": (2, 8),
}  # fmt: skip
"""The named functions, each with its minimum and maximum number of arguments. `factor(n, f)` is f if f divides n.
Otherwise it is the largest divisor of n up to f and up to the root of n (only up to the root if f is below 1)."""

ARITHMETIC = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"}
COMPARISONS = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="}

WORD = re.compile(r"[A-Za-z0-9_.:*-]{1,120}\Z")

Node = tuple[Any, ...]
"""("num", v) ("word", s) ("name", s) ("neg", x) ("not", x) ("bin", op, a, b) ("cmp", ops, items) ("and"|"or", items)
("if", condition, then, otherwise) ("call", function, arguments)"""


class Formula:
    """A parsed formula. `Formula.parse` creates it; equal texts share one object."""

    __slots__ = ("_columns", "_function", "names", "source", "tree")

    def __init__(self, source: str, tree: Node, columns: Mapping[str, int]):
        self.source, self.tree = source, tree
        self.names = frozenset(columns)
        self._columns = columns
        self._function: Callable[..., Any] | None = None

    @staticmethod
    def parse(text: str | int | float) -> Formula:
        """Parse a formula; a number is a formula too. Raises FormulaError with the column."""
        if isinstance(text, int) and text.bit_length() > MAX_BITS:  # Python prints no number of so many digits
            raise FormulaError(shown(text), 1, "a number beyond the range of formulas")
        try:
            return _parse(str(int(text)) if isinstance(text, bool) else str(text))
        except PeftonomyError:
            raise
        except Exception:  # of an object that cannot be printed
            raise FormulaError(shown(text), 1, "a text or a number was expected") from None

    @property
    def literal(self) -> Number | None:
        """The value, if the formula is a plain number; otherwise None."""
        return self.tree[1] if self.tree[0] == "num" else None

    def conjuncts(self) -> list[Formula]:
        """Split a condition into the conditions that must all hold."""
        body = ast.parse(self.source, mode="eval").body
        if not (isinstance(body, ast.BoolOp) and isinstance(body.op, ast.And)):
            return [self]
        return [Formula.parse(ast.unparse(part)) for part in body.values]

    def check(self, known: Iterable[str]) -> None:
        """Raise FormulaError at the first name that is not `known`."""
        known = set(known)
        unknown = sorted(self.names - known, key=self._columns.__getitem__)
        if unknown:
            matches = near(unknown[0], known)
            hint = f"did you mean {' or '.join(matches)}? " if matches else ""
            listed = ", ".join(sorted(known))
            listed = f"known: {listed}" if len(listed) <= LISTED_TEXT else f"{len(known)} names are known"
            found = f"unknown name {shown(unknown[0])!r}; {hint}{listed}"
            raise FormulaError(self.source, self._columns[unknown[0]], found)

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """Return the value with `values[name]` for every name. Raises FormulaError if there is no finite value."""
        function = self._function
        if function is None:
            names = tuple(self._columns)
            function = self._function = _function(names, _python(self.tree, {}), PYTHON, self._refused)
        try:
            given = [values[n] for n in self._columns]
        except KeyError:
            self.check(values)
            raise
        found = function(*given)
        if found.__class__ is float and not math.isfinite(found):
            raise FormulaError(self.source, 1, f"has no value here: {found}")
        return found

    def _refused(self, error: Exception, values: Mapping[str, Any]) -> FormulaError:
        """Return the error for a computation that Python refused with these values of the names."""
        try:
            self.check(values)
        except FormulaError as unknown:
            return unknown
        reason = _REASONS.get(type(error)) or str(error)
        return FormulaError(self.source, 1, f"has no value here: {reason}")

    @staticmethod
    def together(
        formulas: Sequence[Formula],
        arguments: Sequence[str],
        local: Container[str],
        conditions: Sequence[tuple[Formula, Any]] = (),
    ) -> Callable[..., Any]:
        """Return one function for several formulas: `f(common, local, *arguments)` gives the tuple of their values.

        A name is one of the arguments, or a key of the mapping `local` if listed there, or else a key of `common`. Each
        condition comes with the result for the case that it fails; the formulas after it are then not computed.
        The function raises FormulaError if a formula has no value.
        """
        names = _sources([*formulas, *(c for c, _ in conditions)], arguments, local)
        body = "(" + "".join(f"{_python(f.tree, names)}, " for f in formulas) + ")"
        for condition, otherwise in reversed(conditions):
            body = f"({body} if {_python(condition.tree, names)} else {otherwise!r})"
        every = [*(c for c, _ in conditions), *formulas]
        return _function(["_common", "_local", *arguments], body, PYTHON, _blamed(every, Formula.__call__))

    @staticmethod
    def over(formulas: Sequence[Formula], arguments: Sequence[str], written: Mapping[str, str]) -> Callable[..., Any]:
        """One function for several formulas: `f(common, *arguments)` gives the tuple of their values.

        written: of names, the Python expressions over the arguments that they stand for; others are found in the
        mapping `common`.
        """
        names = {**_sources(formulas, (), ()), **written}
        body = "(" + "".join(f"{_python(f.tree, names)}, " for f in formulas) + ")"

        def blame(error: Exception, bound: dict[str, Any]) -> FormulaError:
            """Raise the first formula's error with the values of names; else say what Python refused."""
            common = bound.pop("_common")
            given = {name: eval(text, {"__builtins__": {}}, bound) for name, text in written.items()}
            return _blamed(formulas, Formula.__call__)(error, {"_common": common, "_local": given})

        return _function(["_common", *arguments], body, PYTHON, blame)

    def numpy(self, arguments: Sequence[str]) -> Callable[..., Any]:
        """Return the same function over numpy arrays that broadcast against each other."""
        return _function(arguments, _numpy(self.tree, {}), _numpy_scope(), self._refused)

    @staticmethod
    def together_numpy(
        formulas: Sequence[Formula], arguments: Sequence[str], local: Container[str]
    ) -> Callable[..., Any]:
        """Return the same function as `together`, over numpy arrays and without conditions."""
        names = _sources(formulas, arguments, local)
        body = "(" + "".join(f"{_numpy(f.tree, names)}, " for f in formulas) + ")"
        blamed = _blamed(formulas, Formula._over_arrays)
        return _function(["_common", "_local", *arguments], body, _numpy_scope(), blamed)

    def _over_arrays(self, values: Mapping[str, Any]) -> Any:
        names = [name for name in self._columns if name in values]
        return self.numpy(names)(*[values[name] for name in names])

    def javascript(self) -> str:
        """Return a JavaScript expression over bare identifiers and the helpers `fdiv mod pow gcd factor`."""
        return _javascript(self.tree)

    def sympy(self, symbols: Mapping[str, Any] | None = None) -> Any:
        """Return a sympy expression; names are symbols for non-negative integers unless `symbols` gives them."""
        return _sympy(self.tree, symbols or {})

    def latex(self, symbol_names: Mapping[str, str] | None = None) -> str:
        """Return LaTeX of the formula, with names printed as in `symbol_names` (needs sympy)."""
        import sympy

        names = {sympy.Symbol(n, integer=True, nonnegative=True): s for n, s in (symbol_names or {}).items()}
        return str(sympy.latex(self.sympy(), symbol_names=names))

    def __repr__(self) -> str:
        return f"Formula({self.source!r})"


@functools.lru_cache(maxsize=8192)
def _parse(text: str) -> Formula:
    reader = _Reader(text)
    return Formula(text, reader.read(), reader.columns)


class _Reader:
    """A converter from Python's tree to ours. It rejects every node that ours does not have."""

    def __init__(self, text: str):
        self.text = text
        self.columns: dict[str, int] = {}
        self.nodes = 0

    def refuse(self, where: ast.AST | int, message: str) -> FormulaError:
        column = where if isinstance(where, int) else getattr(where, "col_offset", 0) + 1
        return FormulaError(self.text, column, message)

    def read(self) -> Node:
        text = self.text
        if len(text) > MAX_LENGTH:
            raise self.refuse(MAX_LENGTH, f"{len(text):,} characters; at most {MAX_LENGTH:,}")
        odd = next((i for i, c in enumerate(text) if not (" " <= c <= "~") or c in "\\#;`"), None)
        if odd is not None:
            raise self.refuse(odd + 1, f"the character {text[odd]!a} has no meaning in a formula")
        try:
            parsed = ast.parse(text.strip(), mode="eval").body
        except SyntaxError as error:
            raise self.refuse(error.offset or 1, f"not a formula: {error.msg}") from None
        except (RecursionError, MemoryError, ValueError):
            raise self.refuse(1, f"nested more than {MAX_DEPTH} levels deep") from None
        tree = self.copy(parsed, 0)
        if _bits(tree) > MAX_BITS:
            raise self.refuse(1, "its value could be astronomically large")
        return tree

    def copy(self, node: ast.expr, depth: int) -> Node:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.refuse(node, f"more than {MAX_NODES} terms")
        if depth > MAX_DEPTH:
            raise self.refuse(node, f"nested more than {MAX_DEPTH} levels deep")
        method = getattr(self, "_" + type(node).__name__.lower(), None)
        if method is None:
            raise self.refuse(node, f"{_plain(node)} has no place in a formula")
        result: Node = method(node, depth + 1)
        return result

    def _constant(self, node: ast.Constant, depth: int) -> Node:
        value = node.value
        if isinstance(value, str):
            raise self.refuse(node, "a quoted word can only be compared with a choice (== or !=)")
        if isinstance(value, bool):
            return ("num", int(value))
        if not isinstance(value, int | float):
            raise self.refuse(node, f"{shown(value)} is not a number")
        if abs(value) > MAX_LITERAL:
            raise self.refuse(node, "numbers stay below 2**53")
        return ("num", value)

    def _name(self, node: ast.Name, depth: int) -> Node:
        if node.id in FUNCTIONS:
            raise self.refuse(node, f"{node.id} is a function; call it")
        if node.id.startswith("_"):
            raise self.refuse(node, "a name begins with a letter")
        self.columns.setdefault(node.id, node.col_offset + 1)
        return ("name", node.id)

    def _unaryop(self, node: ast.UnaryOp, depth: int) -> Node:
        inner = self.copy(node.operand, depth)
        if isinstance(node.op, ast.Not):
            return ("not", inner)
        if isinstance(node.op, ast.USub):
            return ("neg", inner)
        raise self.refuse(node, f"{_plain(node.op)} has no place in a formula")

    def _binop(self, node: ast.BinOp, depth: int) -> Node:
        op = ARITHMETIC.get(type(node.op))
        if op is None:
            raise self.refuse(node, f"{_plain(node.op)} has no place in a formula")
        left, right = self.copy(node.left, depth), self.copy(node.right, depth)
        if op == "**" and not (right[0] == "num" and right[1] in range(MAX_EXPONENT + 1)):
            raise self.refuse(node.right, f"an exponent is a plain number from 0 to {MAX_EXPONENT}")
        return ("bin", op, left, right)

    def _boolop(self, node: ast.BoolOp, depth: int) -> Node:
        return ("and" if isinstance(node.op, ast.And) else "or", tuple(self.copy(v, depth) for v in node.values))

    def _compare(self, node: ast.Compare, depth: int) -> Node:
        ops = tuple(COMPARISONS.get(type(op), "") for op in node.ops)
        if "" in ops:
            raise self.refuse(node, f"{_plain(node.ops[ops.index('')])} has no place in a formula")
        words = all(op in ("==", "!=") for op in ops)
        items = [node.left, *node.comparators]
        return ("cmp", ops, tuple(self._word(i) if words and _is_word(i) else self.copy(i, depth) for i in items))

    def _word(self, node: ast.expr) -> Node:
        assert isinstance(node, ast.Constant)
        if not WORD.match(str(node.value)):
            raise self.refuse(node, "a quoted word is made of letters, digits and _.:*-")
        return ("word", node.value)

    def _ifexp(self, node: ast.IfExp, depth: int) -> Node:
        return ("if", self.copy(node.test, depth), self.copy(node.body, depth), self.copy(node.orelse, depth))

    def _call(self, node: ast.Call, depth: int) -> Node:
        if not isinstance(node.func, ast.Name):
            raise self.refuse(node, "only the named functions can be called")
        name = node.func.id
        if name not in FUNCTIONS:
            matches = near(name, FUNCTIONS)
            hint = f"did you mean {' or '.join(matches)}? " if matches else ""
            raise self.refuse(node, f"unknown function {shown(name)!r}; {hint}known: {', '.join(FUNCTIONS)}")
        low, high = FUNCTIONS[name]
        if node.keywords or not low <= len(node.args) <= high:
            wanted = str(low) if low == high else f"{low} to {high}"
            raise self.refuse(node, f"{name} takes {wanted} argument{'s' if wanted != '1' else ''}")
        return ("call", name, tuple(self.copy(a, depth) for a in node.args))


def _is_word(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _plain(node: ast.AST) -> str:
    """Return the name of a rejected piece of syntax in messages."""
    names = {
        "Attribute": "attribute access (a dot)",
        "Subscript": "indexing",
        "Lambda": "lambda",
        "JoinedStr": "an f-string",
    }
    kind = type(node).__name__
    return names.get(kind, f"Python's {kind}")


def _bits(node: Node) -> int:
    """Return an upper bound for the bits of a value, if every name is below 2**53."""
    kind = node[0]
    if kind == "num":
        return max(1, int(abs(node[1]) + 1).bit_length())
    if kind in ("name", "word"):
        return 53
    if kind in ("neg", "not"):
        return _bits(node[1])
    if kind == "bin":
        _, op, a, b = node
        if op == "**":
            return _bits(a) * max(1, int(b[1]))
        return _bits(a) + _bits(b) if op == "*" else max(_bits(a), _bits(b)) + 1
    if kind == "if":
        return max(map(_bits, node[1:]))
    return max(map(_bits, node[-1])) + 3  # functions and comparisons also compute their operands


def _gcd(a: Number, b: Number) -> int:
    return math.gcd(int(a), int(b))


@functools.lru_cache(maxsize=1024)
def _divisors(n: int) -> tuple[int, ...]:
    """Return the divisors of a number up to its root, in order."""
    if not 1 <= n <= MAX_FACTORED:
        raise ValueError(f"factor of {n:,}, which is not from 1 to {MAX_FACTORED:,}")
    return tuple(i for i in range(1, math.isqrt(n) + 1) if n % i == 0)


def _factor(n: int, f: int) -> int:
    if n != int(n) or f != int(f):
        raise ValueError(f"factor of {n} and {f}, which are not both whole numbers")
    n, f = int(n), int(f)
    if f > 0 and n % f == 0:
        return f
    divisors = _divisors(n)
    return divisors[-1 if f < 1 else bisect_right(divisors, f) - 1]


PYTHON: dict[str, Any] = {
    "abs": abs, "ceil": math.ceil, "floor": math.floor, "sqrt": math.sqrt, "log2": math.log2, "gcd": _gcd,
    "factor": _factor, "max": max, "min": min, "sum": lambda *a: sum(a), "_bool": bool,
}  # fmt: skip


FOREIGN = (ArithmeticError, ValueError, TypeError, LookupError, NameError)
"""The errors that Python raises for a formula without a value."""
_REASONS: dict[type[Exception], str] = {
    OverflowError: "its value is too large", TypeError: "it computes with a word, or with nothing",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _code(text: str) -> CodeType:
    return compile(text, "<formula>", "exec")


Blame = Callable[[Exception, dict[str, Any]], FormulaError]
"""A function that turns Python's error, for these values of the names, into ours."""


def _function(arguments: Sequence[str], body: str, scope: Mapping[str, Any], blame: Blame) -> Callable[..., Any]:
    """Return a function with this body, whose only error is FormulaError."""

    def blamed(values: dict[str, Any]) -> FormulaError:
        error = sys.exception()
        if not isinstance(error, FOREIGN):
            raise  # from the function below, which handles it
        return blame(error, values)

    # Safe: `body` is generated from a whitelisted tree, and its names are Python identifiers accepted by the parser.
    # Short, because a query takes longer to compile its functions than to call them.
    code = f"def _made({','.join(arguments)}):\n try:return {body}\n except:raise _blamed(_locals())from None"
    space: dict[str, Any] = {"__builtins__": {}, **scope, "_locals": locals, "_blamed": blamed}
    exec(_code(code), space)
    made: Callable[..., Any] = space["_made"]
    return made


def _blamed(formulas: Sequence[Formula], evaluate: Callable[[Formula, Mapping[str, Any]], Any]) -> Blame:
    """Return a function that finds the first of several formulas without a value."""

    def blame(error: Exception, bound: dict[str, Any]) -> FormulaError:
        known = {**bound.pop("_common"), **bound.pop("_local"), **bound}
        for formula in formulas:
            try:
                evaluate(formula, known)
            except FormulaError as found:
                return found
        return formulas[0]._refused(error, known)

    return blame


def _sources(formulas: Iterable[Formula], arguments: Sequence[str], local: Container[str]) -> dict[str, str]:
    """Return, for every name that is not an argument, the expression that looks it up in `_local` or `_common`."""
    names = {n for formula in formulas for n in formula.names if n not in arguments}
    return {n: f"{'_local' if n in local else '_common'}[{n!r}]" for n in names}


def _python(node: Node, fixed: Mapping[str, str]) -> str:
    """Return the Python expression; a name stays as it is unless `fixed` has an expression for it."""
    kind = node[0]
    if kind in ("num", "word"):
        return repr(node[1])
    if kind == "name":
        return fixed.get(node[1], node[1])
    if kind == "bin":
        left, right = _python(node[2], fixed), _python(node[3], fixed)
        if node[1] == "*":  # Python would repeat a word; a sign refuses it
            left, right = (text if n[0] == "num" else f"+{text}" for n, text in ((node[2], left), (node[3], right)))
        return f"({left} {node[1]} {right})"
    if kind == "neg":
        return f"(-{_python(node[1], fixed)})"
    if kind == "not":
        return f"(not {_python(node[1], fixed)})"
    if kind == "if":
        condition, then, otherwise = (_python(n, fixed) for n in node[1:])
        return f"({then} if {condition} else {otherwise})"
    if kind == "cmp":
        items = [_python(n, fixed) for n in node[2]]
        return "(" + items[0] + "".join(f" {op} {i}" for op, i in zip(node[1], items[1:], strict=True)) + ")"
    if kind == "call":
        return f"{node[1]}({', '.join(_python(n, fixed) for n in node[2])})"
    return "(" + f" {kind} ".join(f"_bool({_python(n, fixed)})" for n in node[1]) + ")"


@functools.cache
def _numpy_scope() -> dict[str, Any]:
    import numpy as np

    reduce = functools.reduce
    return {
        "abs": np.abs, "ceil": _rounded(np.ceil), "floor": _rounded(np.floor), "sqrt": np.sqrt, "log2": np.log2,
        "gcd": lambda a, b: np.gcd(_integers(a), _integers(b)), "factor": _factors,
        "max": lambda *a: reduce(np.maximum, a), "min": lambda *a: reduce(np.minimum, a),
        "sum": lambda *a: reduce(np.add, a), "_where": np.where, "_both": np.logical_and,
        "_either": np.logical_or, "_negate": np.logical_not,
    }  # fmt: skip


def _integers(a: Any) -> Any:
    import numpy as np

    return np.asarray(a).astype("int64")


def _factors(n: Any, f: Any) -> Any:
    """Return `factor` over arrays, computed element by element; there are few elements (widths)."""
    import numpy as np

    n, f = np.broadcast_arrays(n, f)
    found = np.where((f > 0) & (n % np.maximum(f, 1) == 0), f, 0)
    for one in np.unique(n[found == 0]):
        here, divisors = (n == one) & (found == 0), np.array(_divisors(int(one)))
        limits = np.where(f[here] < 1, one, f[here])
        found[here] = divisors[np.searchsorted(divisors, limits, "right") - 1]
    return found


def _rounded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda a: function(a).astype("int64")


def _numpy(node: Node, fixed: Mapping[str, str]) -> str:
    kind = node[0]
    if kind == "if":
        return f"_where({', '.join(_numpy(n, fixed) for n in node[1:])})"
    if kind in ("and", "or"):
        name = "_both" if kind == "and" else "_either"
        return functools.reduce(lambda a, b: f"{name}({a}, {b})", (_numpy(n, fixed) for n in node[1]))
    if kind == "not":
        return f"_negate({_numpy(node[1], fixed)})"
    if kind == "cmp":
        items = [_numpy(n, fixed) for n in node[2]]
        pairs = [f"({a} {op} {b})" for a, op, b in zip(items, node[1], items[1:], strict=False)]
        return functools.reduce(lambda a, b: f"_both({a}, {b})", pairs)
    if kind == "bin":
        return f"({_numpy(node[2], fixed)} {node[1]} {_numpy(node[3], fixed)})"
    if kind == "neg":
        return f"(-{_numpy(node[1], fixed)})"
    if kind == "call":
        return f"{node[1]}({', '.join(_numpy(n, fixed) for n in node[2])})"
    return repr(node[1]) if kind in ("num", "word") else fixed.get(node[1], node[1])


def _javascript(node: Node) -> str:
    kind = node[0]
    if kind == "num":
        return repr(node[1])
    if kind == "word":
        return f'"{node[1]}"'
    if kind == "name":
        return str(node[1])
    if kind == "neg":
        return f"(-{_javascript(node[1])})"
    if kind == "not":
        return f"(!{_javascript(node[1])})"
    if kind == "bin":
        _, op, a, b = node
        helper = {"//": "fdiv", "%": "mod", "**": "pow"}.get(op)
        left, right = _javascript(a), _javascript(b)
        return f"{helper}({left}, {right})" if helper else f"({left} {op} {right})"
    if kind == "if":
        condition, then, otherwise = map(_javascript, node[1:])
        return f"({condition} ? {then} : {otherwise})"
    if kind == "cmp":
        items = [_javascript(n) for n in node[2]]
        # Python's == between numbers equals JavaScript's ==, in which true equals 1 as well.
        pairs = [f"({a} {op} {b})" for a, op, b in zip(items, node[1], items[1:], strict=False)]
        return f"({' && '.join(pairs)})"
    if kind == "call":
        arguments = [_javascript(n) for n in node[2]]
        if node[1] == "sum":
            return f"({' + '.join(arguments)})"
        return f"{node[1] if node[1] in ('gcd', 'factor') else 'Math.' + node[1]}({', '.join(arguments)})"
    joint = " && " if kind == "and" else " || "
    return f"({joint.join(f'!!{_javascript(n)}' for n in node[1])})"


def _sympy(node: Node, symbols: Mapping[str, Any]) -> Any:
    import sympy

    kind = node[0]
    if kind == "num":
        return sympy.Integer(node[1]) if isinstance(node[1], int) else sympy.Rational(str(node[1]))
    if kind == "word":
        return sympy.Symbol(node[1])
    if kind == "name":
        found = symbols.get(node[1])
        return sympy.Symbol(node[1], integer=True, nonnegative=True) if found is None else found
    if kind == "neg":
        return -_sympy(node[1], symbols)
    if kind == "not":
        return sympy.Not(_condition(node[1], symbols))
    if kind == "bin":
        left, right = _sympy(node[2], symbols), _sympy(node[3], symbols)
        return _SYMPY_ARITHMETIC[node[1]](left, right)
    if kind == "if":
        then, otherwise = _sympy(node[2], symbols), _sympy(node[3], symbols)
        return sympy.Piecewise((then, _condition(node[1], symbols)), (otherwise, True))
    if kind == "call":
        return _sympy_call(node[1], [_sympy(n, symbols) for n in node[2]])
    return sympy.Piecewise((1, _condition(node, symbols)), (0, True))  # a truth value used as a number


_SYMPY_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b, "/": lambda a, b: a / b,
    "//": lambda a, b: _sympy_call("floor", [a / b]), "%": lambda a, b: a % b, "**": lambda a, b: a**b,
}  # fmt: skip


def _sympy_call(name: str, arguments: Sequence[Any]) -> Any:
    import sympy

    if name == "sum":
        return sum(arguments)
    if name == "log2":
        return sympy.log(arguments[0], 2)
    if name == "factor":
        return _sympy_factor()(*arguments)
    names = {"abs": "Abs", "ceil": "ceiling", "max": "Max", "min": "Min"}
    return getattr(sympy, names.get(name, name))(*arguments)


@functools.cache
def _sympy_factor() -> Any:
    """Return `factor` as a sympy function; it has a value once its arguments are numbers."""
    import sympy

    def value(cls: Any, n: Any, f: Any) -> Any:
        return sympy.Integer(_factor(int(n), int(f))) if n.is_Integer and f.is_Integer else None

    return type("factor", (sympy.Function,), {"nargs": 2, "is_integer": True, "eval": classmethod(value)})


def _condition(node: Node, symbols: Mapping[str, Any]) -> Any:
    """Return a sympy condition for a node in a boolean position."""
    import sympy

    if node[0] == "cmp":
        items = [_sympy(n, symbols) for n in node[2]]
        relation = {"<": sympy.Lt, "<=": sympy.Le, ">": sympy.Gt, ">=": sympy.Ge, "==": sympy.Eq, "!=": sympy.Ne}
        return sympy.And(*(relation[op](a, b) for a, op, b in zip(items, node[1], items[1:], strict=False)))
    if node[0] in ("and", "or"):
        joined = sympy.And if node[0] == "and" else sympy.Or
        return joined(*(_condition(n, symbols) for n in node[1]))
    if node[0] == "not":
        return sympy.Not(_condition(node[1], symbols))
    return sympy.Ne(_sympy(node, symbols), 0)
