"""The formula language: what it accepts, what it refuses and where, and that its readers agree."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftonomy import Formula, FormulaError
from peftonomy.site._scripts import bundle

REFUSED = [
    ("a.b", 1, "attribute access"),
    ("x[0]", 1, "indexing"),
    ("().__class__", 1, "attribute access"),
    ("__import__('os')", 1, "unknown function '__import__'"),
    ("cel(x)", 1, "did you mean ceil?"),
    ("lambda: 1", 1, "lambda"),
    ("[x for x in y]", 1, "ListComp"),
    ("f'{x}'", 1, "f-string"),
    ("x := 3", 3, "not a formula"),
    ("9**9**9", 7, "an exponent is a plain number from 0 to 8"),
    ("2 ** n", 6, "an exponent is a plain number"),
    ("((x**8)**8)**8", 1, "astronomically large"),
    ("1e400", 1, "below 2**53"),
    ("9007199254740993", 1, "below 2**53"),
    ("2j", 1, "not a number"),
    ("'word'", 1, "can only be compared with a choice"),
    ("'word' + 1", 1, "can only be compared with a choice"),
    ("x is 1", 1, "Python's Is"),
    ("x in y", 1, "Python's In"),
    ("a & b", 1, "Python's BitAnd"),
    ("min(x)", 1, "min takes 2 to 8 arguments"),
    ("ceil(x=1)", 1, "ceil takes 1 argument"),
    ("min", 1, "min is a function"),
    ("_x", 1, "a name begins with a letter"),
    ("", 1, "not a formula"),
    ("1 +", 1, "not a formula"),
    ("x # y", 3, "has no meaning"),
    ("a\\\nb", 2, "has no meaning"),
    ("\u202ex", 1, "has no meaning"),
    ("x\x00", 2, "has no meaning"),
    (" + ".join(["x"] * 10_000), 1000, "at most 1,000"),
    (f"sum({', '.join(['x + x + x + x + x + x + x + x + x + x + x + x + x + x'] * 8)})", 390, "more than 200 terms"),
    ("(" * 300 + "1" + ")" * 300, 201, "too many nested parentheses"),
    ("-" * 400 + "1", 62, "nested more than 60 levels deep"),
]


@pytest.mark.parametrize(("text", "column", "message"), REFUSED)
def test_refused_with_its_column(text: str, column: int, message: str) -> None:
    with pytest.raises(FormulaError) as caught:
        Formula.parse(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.column == column


def test_every_arithmetic_form() -> None:
    values = {"a": 7, "b": 3, "c": "mlp"}
    expected = {
        "a + b": 10, "a - b": 4, "a * b": 21, "a / b": 7 / 3, "a // b": 2, "a % b": 1, "a ** 2": 49, "-a": -7,
        "a > b": True, "1 < b < a": True, "a == 7 and b == 3": True, "a == 1 or b": True, "not a": False,
        "a if b > 5 else b": 3, "ceil(a / b)": 3, "floor(a / b)": 2, "min(a, b, 5)": 3, "max(a, b)": 7,
        "sum(a, b, 1)": 11, "gcd(a * 4, 14)": 14,
        "factor(a * 8, b + 1)": 4, "factor(a * 8, 8 * a)": 56, "factor(a * 8, 6)": 4, "factor(a * 8, -1)": 7,
        "factor(a, -1)": 1, "abs(b - a)": 4, "sqrt(a + 2)": 3.0, "log2(8)": 3.0,
        "c == 'mlp'": True, "c != 'lstm'": True,
        "-a // 2": -4, "-a % 3": 2, "(a > b) * 5": 5,
    }  # fmt: skip
    for text, value in expected.items():
        assert Formula.parse(text)(values) == value, text


def test_integers_stay_exact() -> None:
    assert Formula.parse("a * b + 1")({"a": 2**40, "b": 2**12}) == 2**52 + 1
    assert isinstance(Formula.parse("a * b")({"a": 3, "b": 4}), int)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(FormulaError, match=r"column 5: unknown name 'd_inn'; did you mean d_in\? known: d_in, r"):
        Formula.parse("r * d_inn")({"r": 1, "d_in": 2})


def test_no_value_is_one_line() -> None:
    with pytest.raises(FormulaError, match=r"has no value here: .*zero"):
        Formula.parse("1 / n")({"n": 0})
    for text in ("sqrt(n)", "factor(n, 2)"):
        with pytest.raises(FormulaError, match="has no value here"):
            Formula.parse(text)({"n": -1})


def test_equal_texts_share_one_object() -> None:
    assert Formula.parse("r * 2") is Formula.parse("r * 2")


NAMES = ("a", "b", "c")
ATOMS = st.one_of(st.sampled_from(NAMES), st.integers(0, 50).map(str))


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    two = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.sampled_from(["//", "%"]), st.integers(1, 9)).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(inner, st.integers(0, 2)).map(lambda t: f"({t[0]} ** {t[1]})"),
        st.tuples(st.sampled_from(["min", "max", "sum"]), two).map(lambda t: f"{t[0]}({t[1][0]}, {t[1][1]})"),
        st.tuples(st.sampled_from(["ceil", "floor"]), inner).map(lambda t: f"{t[0]}({t[1]} / 4)"),
        st.tuples(inner, st.sampled_from(["<", "<=", "==", "!=", ">"]), inner, inner, inner).map(
            lambda t: f"({t[3]} if {t[0]} {t[1]} {t[2]} else {t[4]})"
        ),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner, inner).map(
            lambda t: f"({t[0]} > 3 {t[1]} not {t[2]} < 2) * {t[3]}"
        ),
    )


FORMULAS = st.recursive(ATOMS, _grown, max_leaves=8)
SMALL = st.integers(-9, 40)


@settings(max_examples=150, deadline=None)
@given(FORMULAS, st.tuples(SMALL, SMALL, SMALL))
def test_numpy_equals_python(text: str, numbers: tuple[int, int, int]) -> None:
    try:
        formula = Formula.parse(text)
    except FormulaError:  # too deep, or its value could be too large
        return
    expected = formula(dict(zip(NAMES, numbers, strict=True)))
    if abs(expected) > 2**53:
        return
    found = formula.numpy(NAMES)(*(np.array([n, n]) for n in numbers))
    assert np.broadcast_to(found, 2)[1] == expected


@settings(max_examples=60, deadline=None)
@given(FORMULAS, st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)))
def test_sympy_equals_python(text: str, numbers: tuple[int, int, int]) -> None:
    import sympy

    try:
        formula = Formula.parse(text)
    except FormulaError:
        return
    expected = formula(dict(zip(NAMES, numbers, strict=True)))
    symbols = [sympy.Symbol(n, integer=True, nonnegative=True) for n in NAMES]
    found = sympy.sympify(formula.sympy()).subs(dict(zip(symbols, numbers, strict=True)))
    assert int(found) == int(expected)


def test_javascript_equals_python(root: Path) -> None:
    """The same values from the site's engine, in V8; the helpers are the site's own."""
    mini_racer = pytest.importorskip("py_mini_racer")
    context = mini_racer.MiniRacer()
    context.eval(bundle(root / "site", "engine"))
    draw = random.Random(0)
    texts = [
        "a // b", "-a // b", "a % b", "-a % b", "a ** 3", "gcd(a, b)", "factor(a, b)", "factor(a, -1)",
        "ceil(a / b)", "floor(-a / b)",
        "a if b > c else c",
        "(a > b) + (b >= c)", "min(a, b, c) + max(a, b)", "sum(a, b, c)", "not a or b == c and a != c", "1 < a < b",
    ]  # fmt: skip
    for text in texts:
        formula = Formula.parse(text)
        for _ in range(50):
            values = {n: draw.randint(1, 2**17) for n in NAMES}
            given_ = ", ".join(f"{n} = {v}" for n, v in values.items())
            assert context.eval(f"(() => {{ const {given_}; return +({formula.javascript()}); }})()") == formula(
                values
            ), text


def test_latex() -> None:
    pytest.importorskip("sympy")
    assert Formula.parse("2 * L * r * d").latex() == "2 L d r"
    assert Formula.parse("r * d_in").latex({"d_in": r"d_{\text{in}}"}) == r"d_{\text{in}} r"
