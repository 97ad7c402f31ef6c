"""The memory of a training step in the site's engine, in an embedded V8, against Python: every integer and refusal."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from py_mini_racer import MiniRacer

import peftonomy
from peftonomy import KnowledgeBase, PeftonomyError
from peftonomy.memory.fit import gpu_bytes, largest
from peftonomy.memory.setting import ATTENTION, DTYPES, OPTIMIZERS, QUANTIZED, Setting
from tests.engine_kit import ask, started
from tests.test_engine import TINY

pytestmark = pytest.mark.slow
Answer = dict[str, Any]
ROOT = Path(__file__).parent.parent
SETTINGS: list[Answer] = [
    dict(zip(("dtype", "optimizer", "checkpointing", "attention", "quantized"), values, strict=True))
    for values in itertools.product(DTYPES, OPTIMIZERS, (False, True), ATTENTION, (None, *QUANTIZED))
]
PAIRS = ((2, 7), (3, 16))
MODELS = ("llama_2_7b", "roberta_large", "t5_base", "gpt2")
DRAWN = 1
"""Settings of the whole grid that are drawn for each method on each model."""


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb, "engine", "memory") as context:
        yield context


def options(model: Any, more: Answer) -> Answer:
    return {"model": model, **more} if isinstance(model, str) else {"config": json.dumps(model), **more}


def python(kb: KnowledgeBase, method: str, model: Any, more: Answer, setting: Answer) -> Answer:
    where = {k: v for k, v in more.items() if k != "values"}
    try:
        memory = kb[method].on(model, **where).training.memory(more.get("values", {}), Setting(**setting))
    except PeftonomyError as error:
        return {"problem": str(error)}
    answer: Answer = json.loads(json.dumps(memory.to_dict()))
    return answer


def differential(
    kb: KnowledgeBase, engine: MiniRacer, method: str, model: Any, more: Answer, setting: Answer
) -> Answer:
    """Compare one question; Python's answer."""
    ours = ask(engine, "memory", method, options(model, more), setting)
    theirs = python(kb, method, model, more, setting)
    assert ("problem" in ours) == ("problem" in theirs), (method, model, more, setting, ours, theirs)
    if "problem" in theirs:
        assert ours["user"], (method, model, more, setting, ours)
        assert "\n" not in ours["problem"]
        return theirs
    ours |= ours.pop("setting") | {"model": theirs["model"]}
    ours |= {name: int(ours[name]) for name in ("forward_flops", "step_flops")}
    assert ours == theirs, (method, model, more, setting)
    return theirs


def models(kb: KnowledgeBase) -> Iterator[Any]:
    """Some public ones, and a small one of every family that says how it computes."""
    yield from MODELS
    for family, config in TINY.items():
        if kb.families[family].dataflow is not None:
            yield {"model_type": family, **config}


def tokens(kb: KnowledgeBase, model: Any) -> int:
    """Of an image, where the model sees images."""
    backbone = kb.backbone(model)
    flow = backbone.family.dataflow
    images = flow is not None and flow.pixels.literal != 0 and flow.frames.literal == 0
    return backbone.dims["max_positions"] if images else 0


def changed(kb: KnowledgeBase, method: str, draw: random.Random) -> Answer:
    """Hyperparameters of which one or two differ from the default, within their types."""
    specs = kb[method].entry.hyperparameters
    values: Answer = {}
    for name in draw.sample(sorted(specs), min(len(specs), draw.choice((0, 1, 2)))):
        spec = specs[name]
        of_type = {"bool": (True, False), "int": (1, 2, 3, 6), "float": (0.0, 0.1, 1.0)}
        values[name] = draw.choice(spec.values or of_type[spec.type])
    return values


@pytest.mark.parametrize("method", list(peftonomy.load(ROOT)))
def test_bytes_and_operations_are_those_of_python(kb: KnowledgeBase, engine: MiniRacer, method: str) -> None:
    for model in models(kb):
        draw = random.Random(f"{method}{model}")
        for setting in draw.sample(SETTINGS, DRAWN):
            batch, seq = draw.choice(PAIRS)
            seq = tokens(kb, model) or seq
            more: Answer = {"values": changed(kb, method, draw)}
            if draw.random() < 0.2:
                more |= {"task": "seq_cls", "num_labels": 5}
            differential(kb, engine, method, model, more, setting | {"batch": batch, "seq": seq})


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
        flow = kb.families[family].dataflow
        keys = sorted({name for p in flow.dropout.values() for name in p.names}) if flow is not None else []
        none = dict.fromkeys(keys, 0)
        for given in [{}, none, *({**none, key: 0.5} for key in keys)] if keys else []:
            model = {"model_type": family, **config, **given}
            for attention, checkpointing in itertools.product(ATTENTION, (False, True)):
                setting = {"batch": 2, "seq": 9, "attention": attention, "checkpointing": checkpointing}
                for method in ("lora", "full_fine_tuning"):
                    differential(kb, engine, method, model, {}, setting)
                    asked += 1
    assert asked > 300


@pytest.mark.parametrize("targets", [["attn.q"], ["attn.o", "mlp.up"], ["mlp.down"], ["attn.*", "mlp.*"]])
@pytest.mark.parametrize("model", MODELS)
def test_chosen_targets_are_those_of_python(
    kb: KnowledgeBase, engine: MiniRacer, model: str, targets: list[str]
) -> None:
    for name in ("lora", "dora", "ia3", "full_fine_tuning"):
        for pair in PAIRS:
            differential(kb, engine, name, model, {"targets": targets}, dict(zip(("batch", "seq"), pair, strict=True)))
            more = {"target_modules": "all-linear"}
            differential(kb, engine, name, model, more, {"batch": 1, "seq": 9, "checkpointing": True})


def test_a_wrong_constant_would_be_noticed(kb: KnowledgeBase, engine: MiniRacer) -> None:
    """The broken twin."""
    setting: Answer = {"batch": 2, "seq": 7}
    differential(kb, engine, "lora", "llama_2_7b", {}, setting)
    engine.eval("peft.data.training.LOGSUMEXP += 1")
    with pytest.raises(AssertionError):
        differential(kb, engine, "lora", "llama_2_7b", {}, setting)
    engine.eval("peft.data.training.LOGSUMEXP -= 1")


def named(kb: KnowledgeBase, text: str) -> str:
    """The page calls methods and models by their names."""
    for key, name in [(m.id, m.name) for m in kb.values()] + [(k, m.name) for k, m in kb.models.items()]:
        text = text.replace(f"{key} has", f"{name} has").replace(f"{key} trains", f"{name} trains")
        text = text.replace(f"{key} does not", f"{name} does not")
    return text


@pytest.mark.parametrize(
    ("method", "model", "setting"),
    [
        ("lora", "llama_2_7b", {"batch": 0}), ("lora", "llama_2_7b", {"seq": 2.5}),
        ("lora", "llama_2_7b", {"seq": "x"}), ("lora", "llama_2_7b", {"seq": 10**9 + 1}),
        ("lora", "llama_2_7b", {"seq": 4097}),
        ("prompt_tuning", "llama_2_7b", {"seq": 4090}), ("lora", "gpt2", {"dtype": "float8"}),
        ("lora", "gpt2", {"optimizer": "adamx"}), ("lora", "gpt2", {"attention": "flash"}),
        ("lora", "gpt2", {"quantized": "nf5"}), ("full_fine_tuning", "llama_2_7b", {"quantized": "nf4"}),
        ("lora", "swin_tiny", {}), ("lora", "t5_base", {"batch": 10**9, "seq": 10**6}),
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


def test_numbers_that_javascript_rounds_are_refused_by_both(kb: KnowledgeBase, engine: MiniRacer) -> None:
    found = [
        differential(kb, engine, "lora", "t5_base", {}, {"batch": 2**n, "seq": 1000}).get("problem", "")
        for n in range(10, 30)
    ]
    assert found[0] == ""
    assert "2**53 bytes" in found[-1]


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
    """Every method: the same largest value and memory, or both say that nothing fits or is known."""
    gpu, asked = 20 * 2**30, {"batch": 2, "seq": 128, "checkpointing": True}
    outcomes = []
    for method in kb:
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
