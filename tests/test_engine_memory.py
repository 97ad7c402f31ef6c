"""What the pages ask about memory, in an embedded V8, against Python: refusals, what fits, and the planner."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator

import pytest
from py_mini_racer import MiniRacer

from peftonomy import KnowledgeBase, PeftonomyError
from peftonomy.memory.fit import largest
from peftonomy.memory.gpus import gpu_bytes
from peftonomy.memory.setting import ATTENTION, Setting
from peftonomy.site import _engine
from tests.engine_kit import Answer, ask, differential, named, python, started
from tests.test_engine import TINY

pytestmark = pytest.mark.slow
MODELS = ("llama_2_7b", "roberta_large", "t5_base", "gpt2")


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb, *_engine.SCRIPTS) as context:
        yield context


def test_most_questions_have_an_answer(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """So that the comparison is not one of refusals."""
    known = [m for m in kb if "problem" not in python(kb, m, "llama_2_7b", {}, {"batch": 1, "seq": 8})]
    assert len(known) > 0.9 * len(kb)
    for method in known:
        assert "peak" in differential(kb, engine, method, "llama_2_7b", {}, {"batch": 4, "seq": 512})


def test_dropout_is_that_of_the_config(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """Of every family that has some: none, some at each place, and what is taken where the config does not say."""
    asked = 0
    for family, config in TINY.items():
        described = kb.families[family]
        keys = [key for key in described.config if "drop" in key] if described.operations is not None else []
        none = dict.fromkeys(keys, 0)
        for given in [{}, none, *({**none, key: 0.5} for key in keys)] if keys else []:
            model = {"model_type": family, **config, **given}
            for attention, checkpointing in itertools.product(ATTENTION, (False, True)):
                setting = {"batch": 2, "seq": 9, "attention": attention, "checkpointing": checkpointing}
                for method in ("lora", "full_fine_tuning"):
                    differential(kb, engine, method, model, {}, setting)
                    asked += 1
    assert asked > 300


@pytest.mark.parametrize(
    ("method", "model", "setting"),
    [
        ("lora", "llama_2_7b", {"batch": 0}), ("lora", "llama_2_7b", {"seq": 2.5}),
        ("lora", "llama_2_7b", {"seq": "x"}), ("lora", "llama_2_7b", {"seq": 10**9 + 1}),
        ("lora", "llama_2_7b", {"seq": 4097}),
        ("prompt_tuning", "llama_2_7b", {"seq": 4090}), ("lora", "gpt2", {"dtype": "float8"}),
        ("lora", "gpt2", {"optimizer": "adamx"}), ("lora", "gpt2", {"attention": "flash"}),
        ("lora", "gpt2", {"quantized": "nf5"}), ("full_fine_tuning", "llama_2_7b", {"quantized": "nf4"}),
        ("lora", "swin_tiny", {"checkpointing": True}), ("lora", "t5_base", {"batch": 10**9, "seq": 10**6}),
    ],
    ids=str,
)  # fmt: skip
def test_a_refusal_is_the_same_line(
    kb: KnowledgeBase, engine: MiniRacer, method: str, model: str, setting: Answer
) -> None:
    asked = {"batch": 1, "seq": 8, **setting}
    theirs = differential(kb, engine, method, model, {}, asked)["problem"]
    ours = ask(engine, "memory", method, {"model": model}, asked)["problem"]
    assert named(kb, theirs).startswith(ours)


# What fits.


@pytest.mark.parametrize("solved", ["batch", "seq", "r"])
@pytest.mark.parametrize("gpu", [10**9, 24 * 2**30, 80 * 10**9])
@pytest.mark.parametrize("model", MODELS)
def test_what_fits_is_what_fits_in_python(
    kb: KnowledgeBase, engine: MiniRacer, model: str, gpu: int, solved: str
) -> None:
    for setting in ({}, {"checkpointing": True, "quantized": "nf4"}):
        step = kb["lora"].on(model).training
        theirs = largest(step, {}, Setting(1, 64, **setting), solved, gpu)  # type: ignore[arg-type]
        ours = ask(engine, "fit", "lora", {"model": model}, {"batch": 1, "seq": 64, **setting}, solved, gpu)
        assert (ours["value"], ours["limited"]) == (theirs.value, theirs.limited)
        assert (ours["memory"] or {}).get("peak") == (theirs.memory.peak if theirs.memory else None)


@pytest.mark.parametrize("solve", ["batch", "seq", "size"])
@pytest.mark.parametrize("model", ["llama_3_8b", "roberta_base"])
def test_the_planner_finds_what_fit_finds(kb: KnowledgeBase, engine: MiniRacer, model: str, solve: str) -> None:
    """A third of the methods: the same largest value and memory, or both say that nothing fits or is known."""
    gpu, asked = 20 * 2**30, {"batch": 2, "seq": 128, "checkpointing": True}
    outcomes = []
    for method in random.Random(f"{model}{solve}").sample([*kb], len(kb) // 3):
        ours = ask(engine, "planned", method, {"model": model}, {"gpu": gpu, "step": asked, "solve": solve})
        size = json.loads(engine.eval(f"JSON.stringify(peft.data.methods[{method!r}].size)"))
        if solve == "size" and not size:
            continue
        try:
            training = kb[method].on(model).training
            theirs = largest(training, {}, Setting(**asked), size if solve == "size" else solve, gpu)  # type: ignore[arg-type]
        except PeftonomyError:
            outcomes.append("unknown")
            assert "fit" not in ours, (method, ours)
            continue
        outcomes.append("fits" if theirs.value else "takes")
        if theirs.memory is None:
            assert any("GiB on a GPU" in reason for reason in ours["reasons"]), (method, ours)
            continue
        assert ours["fit"]["value"] == theirs.value, method
        assert ours["fit"]["memory"]["peak"] == theirs.memory.peak, method
        assert ours["cost"]["trained"] == kb[method].cost(model, **theirs.memory.hyperparameters).trained
    assert outcomes.count("fits") > 15


def test_budgets_hold_together(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """The largest setting within all of them: the narrowest decides."""
    asked, budgets = {"batch": 1, "seq": 512}, (1_000_000, 10**9)
    for gpu, trained in itertools.product((16 * 2**30, 17 * 2**30, 24 * 2**30), budgets):
        wishes = {"gpu": gpu, "trained": trained, "step": asked, "solve": "size"}
        found = ask(engine, "planned", "lora", {"model": "llama_2_7b"}, wishes)

        def fits(r: int, gpu: int = gpu, trained: int = trained) -> bool:
            memory = kb["lora"].memory("llama_2_7b", batch=1, seq=512, r=r)
            return memory.trained <= trained and memory.peak + memory.gpu_extra <= gpu

        if "fit" in found:
            assert fits(found["value"])
            assert not fits(found["value"] + 1)
        else:
            assert not fits(1)


@pytest.mark.parametrize(
    "text", ["24GiB", "80 GB", "0.5 gib", "1024MiB", "", "0GiB", "GiB", "24 parsecs", "-3GB", "1e3GB", "24"]
)
def test_a_size_of_a_gpu_is_read_as_in_python(engine: MiniRacer, text: str) -> None:
    """But a bare number, which is bytes there and GiB in the page."""
    found = engine.eval(f"String(peft.gpuBytes({json.dumps(text)}))")
    if text == "":
        assert found == "null"
        return
    try:
        expected = str(gpu_bytes(text + "GiB" if text.isdigit() else text))
    except PeftonomyError:
        expected = "NaN"
    assert found == expected
