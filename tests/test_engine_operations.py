"""Memory by lists of operations in the site's engine, in an embedded V8, against Python: every integer and refusal."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

import peftonomy
from peftonomy import KnowledgeBase, UsageError
from peftonomy.memory.program import acts
from peftonomy.memory.rules import Rule
from peftonomy.memory.setting import ATTENTION, DTYPES, OPTIMIZERS, QUANTIZED
from peftonomy.site import _engine, _operations
from tests.engine_kit import Answer, changed, differential, started
from tests.grid import WHOLE
from tests.operations_kit import fitting

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "tests" / "data" / "operations"
KB = peftonomy.load(ROOT)
SETTINGS: list[Answer] = [
    dict(zip(("dtype", "optimizer", "checkpointing", "attention", "quantized"), values, strict=True))
    for values in itertools.product(DTYPES, OPTIMIZERS, (False, True), ATTENTION, (None, *QUANTIZED))
]
FAMILIES = sorted(name for name, family in KB.families.items() if family.operations is not None)
HOMES = ("gpt2", "llama", "roberta", "t5", "vit")
PUBLIC = ("gpt2", "llama_2_7b", "roberta_base", "t5_base")


def known(method: str) -> bool:
    """Whether all parts of a method declare their operations."""
    try:
        return all(acts(part.entry) is not None for part in KB[method].parts)
    except UsageError:
        return False


METHODS = [method for method in KB if known(method)]


@contextmanager
def engine_of(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb, *_engine.SCRIPTS) as context:
        yield context


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with engine_of(kb) as context:
        yield context


def tiny(family: str) -> Answer:
    """The config.json of a tiny model of a family."""
    config: Answer = json.loads((CONFIGS / f"{family}.json").read_text(encoding="utf-8"))
    return {"model_type": family, **config}


def drawn(
    kb: KnowledgeBase, engine: MiniRacer, method: str, model: Any, draw: random.Random, least: Answer | None = None
) -> Answer:
    """Compare a question with settings that are drawn."""
    setting = draw.choice(SETTINGS) | {"batch": draw.choice((1, 2, 3)), "seq": draw.choice((8, 9))} | (least or {})
    more: Answer = {"values": changed(kb, method, draw)}
    if draw.random() < 0.2:
        more |= {"task": "seq_cls", "num_labels": 5}
    return differential(kb, engine, method, model, more, setting)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_as_in_python(kb: KnowledgeBase, engine: MiniRacer, family: str) -> None:
    draw, model = random.Random(family), tiny(family)
    for method in ("full_fine_tuning", "lora", *draw.sample(METHODS, 3)):
        drawn(kb, engine, method, model, draw)
    plain = {"batch": 2, "seq": 8, "dtype": "float32"}
    for attention, checkpointing in itertools.product(ATTENTION, (False, True)):
        setting = plain | {"attention": attention, "checkpointing": checkpointing}
        differential(kb, engine, "full_fine_tuning", model, {}, setting)
    assert "peak" in differential(kb, engine, "full_fine_tuning", model, {}, plain)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_as_in_python(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    """On two families that it acts on, or on that with two towers; with GRID=whole (`make grid`) on all."""
    draw, answered = random.Random(method), 0
    for family in (*draw.sample(HOMES, len(HOMES)), "clip"):
        for checkpointing in (False, True):
            least = {"checkpointing": checkpointing, "quantized": draw.choice((None, None, "nf4", "int8"))}
            drawn(kb, engine, method, tiny(family), draw, least)
            mixed = {"batch": 2, "seq": 8, "dtype": "mixed", "checkpointing": checkpointing}
            differential(kb, engine, method, tiny(family), {}, mixed)
        plain = {"batch": 2, "seq": 8}
        found = differential(kb, engine, method, tiny(family), {}, plain)
        if "peak" not in found:     # its own hyperparameters or the type of numbers do not fit
            least = {"values": fitting(family, method)}
            found = differential(kb, engine, method, tiny(family), least, plain | {"dtype": "float32"})
        answered += "peak" in found
        if answered == 2 and not WHOLE:
            break
    model = draw.choice(PUBLIC)
    drawn(kb, engine, method, model, draw)
    answered += "peak" in differential(kb, engine, method, model, {}, {"batch": 2, "seq": 8})
    assert answered, "every question is refused"


@pytest.mark.parametrize("method", ["llama_pro", "diff_pruning", "lora"])
def test_what_is_added_beside_fused_experts_is_as_in_python(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    setting = {"batch": 2, "seq": 8, "dtype": "bfloat16"}
    assert "peak" in differential(kb, engine, method, tiny("mixtral"), {}, setting)


@pytest.mark.parametrize("targets", [["attn.q"], ["attn.o", "mlp.up"], ["mlp.down"], ["attn.*", "mlp.*"]])
@pytest.mark.parametrize("model", PUBLIC)
def test_chosen_targets_are_those_of_python(
    kb: KnowledgeBase, engine: MiniRacer, model: str, targets: list[str]
) -> None:
    for method in ("lora", "ia3"):
        differential(kb, engine, method, model, {"targets": targets}, {"batch": 2, "seq": 9})
        differential(kb, engine, method, model, {"target_modules": "all-linear"}, {"batch": 1, "seq": 9})


def test_operations_beyond_what_javascript_counts_exactly(kb: KnowledgeBase, engine: MiniRacer) -> None:
    found = differential(kb, engine, "lora", "llama_2_7b", {}, {"batch": 2**14 + 1, "seq": 4001})
    assert found["step_flops"] > found["forward_flops"] > 2**59


def test_bytes_that_javascript_rounds_are_refused_by_both(kb: KnowledgeBase, engine: MiniRacer) -> None:
    found = [
        differential(kb, engine, "lora", "t5_base", {}, {"batch": 2**n, "seq": 1000}).get("problem", "")
        for n in (10, 20, 29)
    ]
    assert found[0] == ""
    assert "2**53 bytes" in found[-1]


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("softmax", {"cuda": "float32"}), ("dropout", {"keeps": "s", "own": 0, "numbers": ["p"], "skip": "p == 0"}),
        ("mm", {"keeps": "a:b b:a", "shape": ["a0", "a1", "b1"], "flops": "a0*a1*a2*b1", "bias": True}),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_rule_would_be_noticed(
    kb: KnowledgeBase, monkeypatch: pytest.MonkeyPatch, kind: str, wrong: Answer
) -> None:
    """The broken twins."""
    load = _operations.load_language

    def twin(path: Path) -> Any:
        language = load(path)
        return language.model_copy(update={"rules": language.rules | {kind: Rule(**wrong)}})

    monkeypatch.setattr(_operations, "load_language", twin)
    with engine_of(kb) as broken, pytest.raises(AssertionError, match="lora"):
        differential(kb, broken, "lora", "roberta_base", {}, {"batch": 2, "seq": 9, "attention": "eager"})
