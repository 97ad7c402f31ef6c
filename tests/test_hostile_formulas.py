"""Hostile formulas: every computation ends, needs little memory, and fails with one located error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import peftonomy
from peftonomy import DataError, FormulaError, KnowledgeBase, PeftonomyError, UsageError
from peftonomy.formula import Formula
from tests.trees import small_tree

NO_VALUE = [
    ("1 % n", {"n": 0}, "integer modulo by zero"),
    ("factor(1.5, 2)", {}, "not both whole numbers"),
    ("factor(n, 2.5)", {"n": 8}, "not both whole numbers"),
    ("word * 99999999999", {"word": "gelu"}, "it computes with a word"),
    ("99999999999 * word", {"word": "gelu"}, "it computes with a word"),
    ("(word if n else word) * 99999999999", {"word": "gelu", "n": 1}, "it computes with a word"),
    ("word < 3", {"word": "gelu"}, "it computes with a word"),
    ("n * 2", {"n": None}, "it computes with a word, or with nothing"),
    ("n ** 8 * n ** 8 * n ** 8 * 1.5", {"n": 2**52}, "its value is too large"),
    ("n * 1.5", {"n": 1.7e308}, "inf"),
    ("n - n", {"n": float("inf")}, "nan"),
    ("ceil(n)", {"n": float("inf")}, "its value is too large"),
    ("sqrt(n)", {"n": -1}, "math domain error"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "values", "reason"), NO_VALUE)
def test_a_formula_without_a_value_names_itself_and_the_reason(text: str, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(FormulaError) as caught:
        Formula.parse(text)(values)
    assert caught.value.text == text
    assert reason in caught.value.message


def test_compiled_formulas_name_the_one_without_a_value() -> None:
    fine, broken = Formula.parse("a + b"), Formula.parse("a / b")
    both = Formula.together([fine, broken], ["a"], ["b"])
    assert both({}, {"b": 2}, 4) == (6, 2)
    with pytest.raises(FormulaError) as caught:
        both({}, {"b": 0}, 4)
    assert (caught.value.text, caught.value.message) == ("a / b", "has no value here: division by zero")
    guarded = Formula.together([broken], ["a"], ["b"], [(Formula.parse("b > 0"), None)])
    assert guarded({}, {"b": 0}, 4) is None
    with pytest.raises(FormulaError, match="unknown name 'b'"):
        both({}, {}, 4)


CONDITIONS = [
    ("name * 99999999", "name has words; found it alone, expected a number"),
    ("stores * 9999999 == 1", "stores has words; found it alone, expected a number"),
    ("(name * 9999999) * 99999 == 1", "name has words"),
    ("max(name, 3) == 1", "name has words"),
    ("(name if year else id) * 9 == 1", "name has words"),
    ("-name == 1", "name has words"),
    ("name", "name has words; found it alone, expected a comparison"),
    ("not stores", "stores has words; found it alone, expected a comparison"),
    ("year >= 2020 and merge", "merge has words; found it alone, expected a comparison"),
    ("1 if name else 0", "name has words"),
    ("year / 0 == 1", "has no value for "),
    ("sqrt(0 - year) == 1", "has no value for "),
]


@pytest.mark.parametrize(("text", "expected"), CONDITIONS)
def test_a_condition_computes_with_numbers_only(kb: KnowledgeBase, text: str, expected: str) -> None:
    with pytest.raises(UsageError) as caught:
        kb.query(text)
    assert expected in str(caught.value)


@pytest.mark.parametrize("condition", [3, None, ["year"]])
def test_a_condition_is_text(kb: KnowledgeBase, condition: Any) -> None:
    with pytest.raises(UsageError, match=r"condition: found .*; expected text"):
        kb.query(condition)


def _edited(root: Path, tmp_path: Path, change: Any) -> KnowledgeBase:
    """Return a small tree whose `lora` is changed."""
    tree = small_tree(root, tmp_path, "lora")
    path = tree / "methods" / "lora.yaml"
    data = yaml.safe_load(path.read_text())
    data["claims"] = []
    change(data)
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return peftonomy.load(tree)


def _storage(count: str) -> Any:
    return lambda data: data.update(base_storage={"q": {"roles": ["attn.*"], "count": count, "bits": 4}})


def _acts(**record: Any) -> Any:
    return lambda data: data.update(memory={"operations": [{"per": "site", "like": "low_rank", **record}]})


def _claim(quantity: str) -> Any:
    claim = {
        "id": "x", "quantity": quantity, "model": "roberta_base", "reported": "37.7M", "source": "editors",
        "evidence": "read", "verdict": "contradicted", "note": "A note.",
    }  # fmt: skip
    return lambda data: data.update(claims=[claim])


def _shape(size: str) -> Any:
    return lambda data: data["tensors"]["A"].update(shape=[size, "d_in"])


REPORTED = [
    (_shape("factor(1.5, 2)"), "counted", "not both whole numbers"),
    (_storage("numel / 0"), "counted", "division by zero"),
    (_storage("sqrt(-1)"), "counted", "math domain error"),
    (_storage("0 - numel"), "counted", "found -"),
    (_storage("numel * 9007199254740992 ** 8 * 1.5"), "counted", "expected a count"),
    (_storage("numel ** 8 * 9007199254740992 ** 8" + 3 * " * numel ** 8" + " * 1.5"), "counted", "too large"),
    (_acts(**{"if": "1 % 0"}), "counted", "integer modulo by zero"),
    (_acts(holds="1 % 0"), "counted", "integer modulo by zero"),
    (_acts(holds="d_in ** 8 * 1.5"), "counted", "expected at most 2**53"),
    (_acts(holds="0 - d_in ** 8 * 1.5"), "counted", "expected at most 2**53"),
    (lambda data: data["memory"].update(positions="1 % 0"), "counted", "integer modulo by zero"),
    (lambda data: data["memory"].update(positions="0 - 3"), "counted", "expected a count"),
    (_claim("trained ** 8 * trained ** 8 * trained ** 8 * 1.0"), None, ""),
    (_claim("trained ** 8 * trained ** 8 * trained ** 8"), None, ""),
    (_claim("not 1"), None, ""),
    (_claim("trained / 0"), "claims", "division by zero"),
    (_claim("trained ** 8 * trained ** 8 * trained ** 8 * trained ** 8 * trained ** 8 * trained ** 8 * trained ** 8 "
            "* trained ** 8 * 1.5"), "claims", "no value"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "rule", "reason"), REPORTED)
def test_check_reports_a_formula_without_a_value(
    root: Path, tmp_path: Path, change: Any, rule: str | None, reason: str
) -> None:
    kb = _edited(root, tmp_path, change)
    problems = [p for p in peftonomy.check(kb, [kb.methods.path("lora")]) if p.rule in ("counted", "claims")]
    assert [p.rule for p in problems] == ([] if rule is None else [rule])
    assert all(reason in f"{p.found} {p.expected}" for p in problems)


WORDS = [
    ("tensors", lambda data: data["tensors"]["A"].update(shape=["rr", "d_in"]), "did you mean"),
    ("domain", lambda data: data["hyperparameters"]["r"].update(domain="r >= 1 and layer"), "unknown name 'layer'"),
]


@pytest.mark.parametrize(("field", "change", "hint"), WORDS)
def test_a_broken_entry_is_refused_with_the_reason(
    root: Path, tmp_path: Path, field: str, change: Any, hint: str
) -> None:
    with pytest.raises(PeftonomyError, match=hint):
        _edited(root, tmp_path, change)["lora"].cost("roberta_base")


def test_errors_of_formulas_are_data_errors() -> None:
    with pytest.raises(DataError):
        Formula.parse("1 / n")({"n": 0})
