"""The guided choice and the comparison in words: the scripts of the pages answer as Python does."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from py_mini_racer import MiniRacer

from peftonomy import KnowledgeBase, UsageError
from peftonomy.knowledge.choose import Candidate, trained_budget
from peftonomy.knowledge.mechanism import Neighbour
from peftonomy.memory.gpus import gpu_memory
from peftonomy.site import _engine
from peftonomy.site._choices import otherwise

from .cli_kit import LLAMA
from .engine_kit import ask, started

pytestmark = pytest.mark.slow

MODEL = "llama_3_1_8b"


@pytest.fixture(scope="module")
def engine(kb: KnowledgeBase) -> Iterator[MiniRacer]:
    with started(kb, *_engine.SCRIPTS, "choices", "chooser", "mechanism") as context:
        yield context


def asked(engine: MiniRacer, question: dict[str, Any], gpu: int, wishes: dict[str, Any]) -> Any:
    """Ask the page's script; a setting of a step that is not given has its default."""
    step = {"dtype": "bfloat16", "optimizer": "adamw", "checkpointing": False, "attention": "sdpa", "quantized": None}
    setting = step | {"batch": 1, "seq": 512} | {k: wishes[k] for k in {*step, "batch", "seq"} & {*wishes}}
    others = {k: v for k, v in wishes.items() if k not in (*setting, "n", "methods", "gpus", "shard")}
    if "gpus" in wishes:
        others["sharing"] = {"gpus": wishes["gpus"], "shard": wishes.get("shard", "fsdp")}
    given = [question, {"gpu": gpu, "setting": setting, **others}, wishes.get("n", 5), wishes.get("methods", [])]
    return ask(engine, "choose", *given)


@pytest.mark.parametrize("model", ["t5_base", "gemma_2_2b"])
def test_the_page_says_where_peft_counts_otherwise(kb: KnowledgeBase, model: str) -> None:
    """The program names both counts, and the page points to it, for all methods of which peft trains another number."""
    methods = [key for key, method in kb.items() if "hf_peft" in method.entry.implementations]
    choice = kb.choose(model, gpu="80GiB", seq=16, methods=methods)
    noted = {one.method for one in choice.found if "parameters here;" in written(one)}
    some = {"t5_base": {"prompt_tuning", "prefix_tuning", "lily"}, "gemma_2_2b": {"prefix_tuning", "cpt"}}
    assert noted >= some[model]
    assert [method for method in noted if not otherwise(kb[method])] == []
    assert not otherwise(kb["lora"])


@pytest.mark.parametrize(
    ("model", "wishes"),
    [
        (MODEL, {"gpu": "24GiB", "seq": 2048}),
        (MODEL, {"gpu": "4090", "seq": 1024, "batch": 16, "trained": "0.01%", "merge": True, "n": 3}),
        (MODEL, {"gpu": "8GiB", "batch": 4, "methods": ["lora", "full_fine_tuning", "bitfit", "qlora"], "seq": 2048}),
        ("gemma_2_2b", {"gpu": "T4", "by": "memory", "library": "hf_peft", "quantized": "nf4"}),
        ("roberta_base", {"gpu": "T4", "batch": 32, "seq": 256, "by": "stored", "anywhere": True, "dtype": "mixed"}),
        ("t5_base", {"gpu": "A100-40G", "batch": 8, "library": "adapters", "needs": ["no_positions"], "trained": "1M"}),
        ("llama_3_2_3b", {"gpu": "24GiB", "by": "evidence", "batch": 4, "n": 8}),
        (MODEL, {"gpu": "24GiB", "seq": 2048, "batch": 4, "gpus": 4, "n": 3}),
        ("llama_3_1_70b", {"gpu": "24GiB", "gpus": 2, "shard": "zero1", "methods": ["lora", "ia3", "galore"]}),
        ("gemma_2_2b", {"gpu": "T4", "gpus": 2, "shard": "ddp", "by": "stored", "batch": 2, "n": 2}),
        (LLAMA, {"gpu": "1GiB", "library": "any", "dtype": "float32", "optimizer": "sgd", "attention": "eager"}),
    ],
    ids=str,
)
def test_the_page_chooses_as_python_does(
    kb: KnowledgeBase, engine: MiniRacer, model: Any, wishes: dict[str, Any]
) -> None:
    choice = kb.choose(model, **wishes)
    question = {"model": model} if isinstance(model, str) else {"config": json.dumps(model)}
    found = asked(engine, question, choice.gpu, {k: v for k, v in wishes.items() if k != "gpu"})
    assert "problem" not in found, found
    assert [plain(c) for c in found["found"]] == [json.loads(json.dumps(c.to_dict())) for c in choice.found]
    ours = [(r["method"], len(r["reasons"]), r["bytes"], r["seq"], r["gpus"]) for r in found["refused"]]
    assert ours == [(r.method, len(r.reasons), r.bytes, r.seq, r.gpus) for r in choice.refused]
    for candidate, theirs in zip(found["found"], choice.found, strict=True):
        code = ask(engine, "script", candidate, question)
        if code is None:    # modules without roles are named in Python only
            assert kb[theirs.method].entry.targets is None or not written(theirs), theirs.method
        else:
            lines = written(theirs).splitlines()
            plainly = sorted(line for line in lines if not line.startswith("# "))
            assert sorted(code.splitlines()) == plainly, theirs.method


def written(candidate: Candidate) -> str:
    """Python's code; nothing for a method of which peft has no configuration."""
    try:
        return candidate.code
    except UsageError:
        return ""


def plain(candidate: dict[str, Any]) -> dict[str, Any]:
    """A candidate of the page, as `Candidate.to_dict` has it."""
    evidence = candidate["evidence"]
    shown = None if evidence is None else {k: v for k, v in evidence.items() if k != "trained"}
    found = {k: v for k, v in candidate.items() if k not in ("setting", "memory")}
    return {"gpus": None, "shard": None} | found | candidate["setting"] | {"evidence": shown}


def test_gpus_and_budgets_are_read_as_in_python(kb: KnowledgeBase, engine: MiniRacer) -> None:
    names = ["4090", "nvidia a100-sxm4-80gb", "A100", "V100 32 GB", "rtx 3080 ti", "24GiB", "80 GB", "l4", "xyz"]
    names += [name for gpu in kb.gpus for name in (gpu.name, f"NVIDIA {gpu.name}", *gpu.aliases)]
    for name in names:
        found = ask(engine, "gpuMemory", name)
        try:
            assert found == gpu_memory(kb.gpus, name), name
        except UsageError:
            assert found["user"], name
    for text in ("10M", "1e6", "250k", "0.1%", "12,345", "7", "1.5b", "", "x", "-1", "1e999", "%"):
        found = ask(engine, "trainedBudget", text, 123_456_789)
        try:
            assert found == trained_budget(text or None, 123_456_789), text
        except UsageError:
            assert found["user"], text


def test_differences_and_neighbours_are_those_of_python(kb: KnowledgeBase, engine: MiniRacer) -> None:
    draw = random.Random(5)
    for _ in range(60):
        chosen = draw.sample(sorted(kb), draw.choice((2, 2, 3)))
        ours, theirs = ask(engine, "comparedInWords", chosen), kb.compare(*chosen).to_dict()
        assert ours == {"differences": theirs["differences"], "same": theirs["same"]}, chosen
    for method in draw.sample(sorted(kb), 12):
        ours, theirs = ask(engine, "nearest", method, {}, 4), kb.nearest(method, n=4).found
        assert [(n["method"], n["likeness"]) for n in ours] == [(n.method, pytest.approx(n.likeness)) for n in theirs]
        assert [d["sentence"] for n in ours for d in n["differences"]] == sentences(theirs)
    idea = {"acts_on": ["weight"], "freezes": ["random"], "scope": ["model", "site"], "targets": ["attn.q"]}
    ours, theirs = ask(engine, "nearest", None, idea, 6), kb.nearest(n=6, **idea).found
    assert [n["method"] for n in ours] == [n.method for n in theirs]
    assert [d["sentence"] for n in ours for d in n["differences"]] == sentences(theirs)


def sentences(found: list[Neighbour]) -> list[str]:
    return [d.sentence for n in found for d in n.differences]
