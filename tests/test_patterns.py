"""Regular expressions from outside: they mean what they mean to Python, and every one is matched in bounded time."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftonomy import ConfigError, KnowledgeBase
from peftonomy.patterns import Matcher, SlowPatternError, linear

ENDLESS = "([a-z0-9_.]+)+X"
ATOMS = st.sampled_from([
    "a", "b", ".", r"\.", "[ab]", "[^a]", r"\w", r"\d", "1", "^", "$", r"\b", "[a-c-]", "[]a]", r"[\w.]", "(?:)", "é",
    "(?i:A)", "(?P<x>a)", "(?P=x)", r"\1", "(?=a)", "(?<!b)", "{", "}", "{,2}", "{01}", "{1,2}", "{3}", "a{2}", r"\x61",
    r"\061", r"\0", "-", "&", r"\s", r"\S", r"\A", r"\Z",
])  # fmt: skip
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, inner).map("|".join),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "{0,1}?", "++", "*+"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
        inner.map("({})".format),
    ),
    max_leaves=8,
)
TEXTS = st.text("ab1.A_é ", max_size=6)


@settings(max_examples=600, deadline=None)
@given(PATTERNS, TEXTS, st.sampled_from(["match", "fullmatch", "search"]))
def test_an_expression_means_what_it_means_to_python(pattern: str, text: str, how: str) -> None:
    matcher = Matcher()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            python = re.compile(pattern)
        except (re.error, FutureWarning):
            return
    expression = matcher.compile(pattern)
    if expression._linear is None:
        return  # Python itself matches it, in another process
    found, expected = getattr(expression, how)(text), getattr(python, how)(text)
    assert found == (None if expected is None else expected.groupdict())


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"(?=.*q)[a-z_]+", "q_proj", {}),
        (r".*(?<!k)_proj", "k_proj", None),
        (r"(?P<twice>.)(?P=twice)", "aa", {"twice": "a"}),
        ("a{,3}", "aaa", {}),
        ("a{,3}", "a{,3}", None),
        ("é+", "éé", {}),
        (r"\w+", "éé", {}),
    ],
)
def test_what_re2_lacks_is_matched_by_python(pattern: str, text: str, found: Any) -> None:
    assert Matcher().compile(pattern).fullmatch(text) == found


REFUSED = [
    ("x{99999999999999999999}", "the repetition number is too large"),
    ("[[:alpha:]]", "[ within a set, which Python warns of"),
    ("[a--b]", "-- within a set, which Python warns of"),
    ("(", "missing ), unterminated subpattern"),
    ("(" * 20, "missing ), unterminated subpattern"),
    ("(" * 1000, "it is nested too deeply"),
    ("a" * 10_001, "10,001 characters; at most 10,000"),
    ("(?P<x>a)(?P<x>b)" + "a" * 2000, "redefinition of group name"),
    (3, "found 3; expected text"),
]


@pytest.mark.parametrize(("pattern", "reason"), REFUSED)
def test_an_expression_that_python_does_not_accept_is_refused(pattern: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        Matcher().compile(pattern)


@pytest.mark.parametrize("pattern", [ENDLESS, "(a|a)*b", "(?:a?){1000}a{1000}", "(.*)*" * 9 + "X"])
def test_nested_repeats_take_linear_time(pattern: str) -> None:
    test = Matcher().compile(pattern).fullmatch
    assert all(test("a" * n) is None for n in range(200))


@pytest.mark.slow
def test_python_has_a_few_seconds_for_all_expressions_of_a_matcher() -> None:
    matcher = Matcher()
    slow, quick = matcher.compile(f"(?=a){ENDLESS}"), matcher.compile("(?=a).*")
    assert quick.match("a") == {}
    with pytest.raises(SlowPatternError, match="found no answer in 3 seconds; expected a simpler one"):
        slow.match("a" * 60)
    with pytest.raises(SlowPatternError):
        quick.match("a")
    assert Matcher().compile("(?=a).*").match("a") == {}


def test_families_have_expressions_of_linear_time() -> None:
    assert linear("(?i:c2p)").fullmatch("C2P")
    with pytest.raises(ValueError, match="lookaheads"):
        linear("(?=a)a")


CONFIGURATIONS = {
    "target_modules": {"target_modules": ENDLESS},
    "exclude_modules": {"target_modules": ["q_proj"], "exclude_modules": ENDLESS},
    "rank_pattern": {"target_modules": ["q_proj"], "rank_pattern": {ENDLESS: 4}},
    "alpha_pattern": {"target_modules": ["q_proj"], "alpha_pattern": {ENDLESS: 4}},
    "modules_to_save": {"target_modules": ["q_proj"], "modules_to_save": [ENDLESS]},
    "layers_pattern": {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": ENDLESS},
}


@pytest.mark.parametrize("argument", CONFIGURATIONS)
def test_an_endless_expression_of_a_configuration_ends(kb: KnowledgeBase, argument: str) -> None:
    config = {"peft_type": "LORA", "r": 8, **CONFIGURATIONS[argument]}
    if argument in ("target_modules", "layers_pattern"):  # which then select nothing
        with pytest.raises(ConfigError, match="target_modules: found .*; expected names that select"):
            kb.adapter(config, "llama_2_7b")
    else:
        plain = kb.adapter({"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"]}, "llama_2_7b")
        assert kb.adapter(config, "llama_2_7b").cost.trained == plain.cost.trained


BAD = [
    pytest.param(
        {"target_modules": f"(?=m){ENDLESS}"}, "expected an expression that takes less time to match",
        marks=pytest.mark.slow,
    ),
    ({"target_modules": "x{99999999999999999999}"}, "the repetition number is too large"),
    ({"target_modules": ".*[[:alpha:]]"}, "within a set, which Python warns of"),
    ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "(?P<idx>a)"}, "redefinition of"),
    ({"target_modules": ["q_proj"], "rank_pattern": {f"a{n}": 4 for n in range(20_000)}}, "20,000 names; expected at"),
    ({"target_modules": ["q_proj"], "modules_to_save": ["a"] * 20_000}, "20,000 names; expected at most"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_a_bad_expression_of_a_configuration_is_refused(
    kb: KnowledgeBase, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        kb.adapter({"peft_type": "LORA", "r": 8, **arguments}, "llama_2_7b")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lookarounds_select_modules(kb: KnowledgeBase) -> None:
    adapter = kb.adapter({"peft_type": "LORA", "r": 8, "target_modules": r".*(?<!k_)(?<!o_)proj"}, "gpt2_medium")
    plain = kb.adapter({"peft_type": "LORA", "r": 8, "target_modules": ".*c_proj"}, "gpt2_medium")
    assert adapter.cost.trained == plain.cost.trained
