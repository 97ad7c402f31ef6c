"""What the pages ask about memory, in an embedded V8, against Python: refusals, and what fits."""

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

from .grid import drawn

pytestmark = pytest.mark.slow
MODELS = ("llama_2_7b", "roberta_large", "t5_base", "gpt2")


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb, *_engine.SCRIPTS) as context:
        yield context


def acts(kb: KnowledgeBase, method: str, model: str) -> bool:
    """Whether a method can be counted on a model."""
    try:
        return kb[method].cost(model).trained > 0
    except PeftonomyError:
        return False


def test_most_questions_have_an_answer(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """So that the comparison is not one of refusals."""
    acting = [m for m in kb if acts(kb, m, "llama_2_7b")]
    known = [m for m in acting if "problem" not in python(kb, m, "llama_2_7b", {}, {"batch": 1, "seq": 8})]
    assert len(known) > 0.9 * len(acting)
    assert len(acting) > 0.8 * len(kb)
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
            every = itertools.product(ATTENTION, (False, True), ("lora", "full_fine_tuning"))
            for attention, checkpointing, method in drawn(f"{family} {given}", every, 2):
                setting = {"batch": 2, "seq": 9, "attention": attention, "checkpointing": checkpointing}
                differential(kb, engine, method, model, {}, setting)
                asked += 1
    assert asked > 75


@pytest.mark.parametrize(
    ("method", "model", "setting"),
    [
        ("lora", "llama_2_7b", {"batch": 0}), ("lora", "llama_2_7b", {"seq": 2.5}),
        ("lora", "llama_2_7b", {"seq": "x"}), ("lora", "llama_2_7b", {"seq": 10**9 + 1}),
        ("lora", "llama_2_7b", {"seq": 4097}),
        ("prompt_tuning", "llama_2_7b", {"seq": 4090}), ("lora", "gpt2", {"dtype": "float8"}),
        ("lora", "gpt2", {"optimizer": "adamx"}), ("lora", "gpt2", {"attention": "flash"}),
        ("lora", "gpt2", {"quantized": "nf5"}), ("full_fine_tuning", "llama_2_7b", {"quantized": "nf4"}),
        ("lora", "swin_tiny", {"checkpointing": True, "seq": None}),
        ("lora", "t5_base", {"batch": 10**9, "seq": 10**6}),
        ("lora", "gpt2", {"gpus": 1}), ("lora", "gpt2", {"shard": "ddp"}), ("lora", "gpt2", {"gpus": 2, "shard": "x"}),
        ("lora", "gpt2", {"gpus": 2, "shard": "ddp", "reduce_dtype": "float32"}),
        ("lora", "gpt2", {"gpus": 2, "optimizer": "adafactor"}), ("lora", "gpt2", {"gpus": 2, "quantized": "int8"}),
        ("lora", "gpt2", {"gpus": 2, "quant_storage": "uint8"}), ("qlora", "llama_2_7b", {"gpus": 2}),
        ("galore", "llama_2_7b", {"gpus": 2}), ("lora_pro", "gpt2", {"gpus": 2}),
        ("lora_rite", "gpt2", {"optimizer": "sgd"}), ("lora", "clip_vit_b_32", {"gpus": 2}),
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


@pytest.mark.parametrize("method", ["lora_pro", "lora_rite"])
def test_a_rule_for_the_methods_own_tensors(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    for model, setting in itertools.product(
        ("gpt2", "t5_base"), ({"dtype": "mixed"}, {"checkpointing": True}, {"gpus": 2, "shard": "ddp"})
    ):
        differential(kb, engine, method, model, {}, {"batch": 1, "seq": 8, **setting})


@pytest.mark.parametrize(("model", "seq", "says"), [
    ("vit_base", 197, "seq: found 197; vit_base reads no tokens, so leave seq out"),
    ("llama_2_7b", None, "seq: found nothing; expected the number of tokens in a sequence for llama_2_7b"),
])  # fmt: skip
def test_only_text_has_a_length(
    kb: KnowledgeBase, engine: MiniRacer, model: str, seq: int | None, says: str
) -> None:
    asked = {"batch": 2, "seq": seq}
    assert python(kb, "lora", model, {}, asked) == {"problem": says}
    told = ask(engine, "memory", "lora", {"model": model}, asked)["problem"]
    assert told == says.replace(model, kb.models[model].name)
    assert ask(engine, "readsTokens", {"model": model}) is (seq is None)


# Several GPUs.


def test_a_rank_is_that_of_python(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """All methods on one of a few models each, and LoRA and full fine-tuning on small models of many families."""
    draw = random.Random(5)
    known = [(method, draw.choice(MODELS)) for method in kb]
    tiny = [(draw.choice(("lora", "full_fine_tuning")), {"model_type": f, **c}) for f, c in TINY.items()]
    answered = 0
    for method, model in [*known, *tiny]:
        setting: Answer = {
            "batch": 2, "seq": 48, "gpus": draw.choice((2, 3, 7, 8, 64)),
            "shard": draw.choice(("fsdp", "fsdp", "fsdp", "ddp", "zero1")),
            "dtype": draw.choice(("bfloat16", "mixed", "float32")), "checkpointing": draw.random() < 0.3,
            "optimizer": draw.choice(("adamw", "adamw", "adamw-foreach", "sgd")),
        }  # fmt: skip
        if setting["shard"] == "fsdp":
            setting["reshard_after_forward"] = draw.choice((None, False))
            setting["reduce_dtype"] = draw.choice((None, "float32", "bfloat16"))
            if draw.random() < 0.3:
                setting |= {"quantized": "nf4", "quant_storage": draw.choice((None, "uint8"))}
        answered += "peak" in differential(kb, engine, method, model, {}, setting)
    assert answered > 0.7 * len(known)


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
