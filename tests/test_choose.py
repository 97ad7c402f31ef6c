"""The guided choice: which methods fit a model, a GPU, a step and some requirements, and with which settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from peftonomy import KnowledgeBase, UnknownName, UsageError
from peftonomy.knowledge.choose import RELAXATIONS, Choice, trained_budget, use
from peftonomy.knowledge.support import offered
from peftonomy.memory.gpus import gpu_memory
from peftonomy.memory.setting import Setting

from .cli_kit import LLAMA, Run, assert_one_line

MODEL = "llama_3_1_8b"
METHODS = ["lora", "full_fine_tuning", "qlora"]
PYTHON = Path(os.environ.get("ADAPTERS_PYTHON", Path(__file__).parents[1] / ".venv-adapters/bin/python")).absolute()


@pytest.fixture(scope="module")
def found(kb: KnowledgeBase) -> Choice:
    """The question of the issue: 24 GB, Llama 3.1 8B, 2,048 tokens."""
    return kb.choose(MODEL, gpu="24GiB", seq=2048)


def test_the_most_used_methods_come_first_with_what_makes_them_fit(kb: KnowledgeBase, found: Choice) -> None:
    first = found.found[0]
    assert len(found.found) == 5
    assert first.method == "lora"
    assert first.relaxed == ("checkpointing",)
    plain, relaxed = (kb["lora"].memory(MODEL, batch=1, seq=2048, checkpointing=on) for on in (False, True))
    assert first.steps == (plain.peak + plain.gpu_extra, relaxed.peak + relaxed.gpu_extra)
    assert first.steps[0] > found.gpu >= first.steps[1] == first.bytes
    assert use(kb["lora"])[1] == -len(kb.graph.descendants("lora"))
    used = [len(set(offered(kb, c.method)) - {"official"}) for c in found.found]
    assert used == sorted(used, reverse=True)
    assert found[0]["relaxed"] == "gradient checkpointing"
    assert [(r.method, r.reasons) for r in found.refused] == [
        ("full_fine_tuning", ("trains all parameters of the model",))
    ]
    (prefixes,) = kb.choose(MODEL, gpu="24GiB", seq=2048, methods=["prefix_tuning"]).refused
    assert "do not work with gradient checkpointing" in prefixes.reasons[1]


@pytest.mark.parametrize("asked", [{}, {"by": "memory"}, {"batch": 16}, {"batch": 16, "optimizer": "sgd"}], ids=str)
def test_nothing_is_relaxed_that_need_not_be(kb: KnowledgeBase, asked: dict[str, Any]) -> None:
    choice = kb.choose(MODEL, gpu="16GiB", seq=1024, methods=["lora", "dora", "prompt_tuning", "qlora"], **asked)
    assert choice.found
    for one in choice.found:
        on = kb[one.method].on(MODEL)

        def taken(names: tuple[str, ...], one: Any = one, on: Any = on) -> int:
            changes: dict[str, Any] = {}
            for name in names:
                changes |= RELAXATIONS[name][0]
            start = {"batch": one.setting.batch, "seq": 1024, "optimizer": asked.get("optimizer", "adamw")}
            memory = on.training.memory({}, Setting(**start | changes))
            return int(memory.peak + memory.gpu_extra)

        assert taken(one.relaxed) == one.bytes <= choice.gpu
        for name in one.relaxed:
            assert name == "batch" or taken(tuple(r for r in one.relaxed if r != name)) > choice.gpu
        if "batch" in one.relaxed:
            more = on.training.memory({}, Setting(**{**vars_of(one.setting), "batch": one.setting.batch + 1}))
            assert more.peak + more.gpu_extra > choice.gpu
            assert one.setting.batch * one.accumulate >= asked["batch"]
    keys = [c.bytes for c in choice.found]
    assert keys == sorted(keys) or asked.get("by") != "memory"


def vars_of(setting: Setting) -> dict[str, Any]:
    return {name: getattr(setting, name) for name in setting.__slots__}


def test_what_does_not_fit_says_what_would(kb: KnowledgeBase) -> None:
    choice = kb.choose(MODEL, gpu="8GiB", seq=2048, batch=4, methods=["lora", "full_fine_tuning", "bitfit"])
    assert choice.found == []
    refused = {r.method: r for r in choice.refused}
    lora, seq = refused["lora"], refused["lora"].seq
    assert seq is not None
    setting = Setting(1, seq, optimizer="adamw-8bit", checkpointing=True, quantized="nf4")
    for length, fits in ((seq, True), (seq + 1, False)):
        memory = kb["lora"].on(MODEL).training.memory({}, Setting(**{**vars_of(setting), "seq": length}))
        assert (memory.peak + memory.gpu_extra <= choice.gpu) == fits
    assert f"a length of {seq:,} fits" in lora.reasons[0]
    assert refused["full_fine_tuning"].seq is None
    assert "finds nothing to act on" in refused["bitfit"].reasons[0]


def test_several_gpus(kb: KnowledgeBase) -> None:
    """What does not fit on one GPU says on how many it does, as `fit` finds; with several, the memory is a rank's."""
    refused = {r.method: r for r in kb.choose(MODEL, gpu="8GiB", seq=2048, methods=METHODS).refused}
    for method, quantized in (("lora", "nf4"), ("full_fine_tuning", None)):
        step = {"batch": 1, "seq": 2048, "checkpointing": True, "quantized": quantized}
        assert refused[method].gpus == kb[method].fit(MODEL, gpu="8GiB", solve="gpus", **step).value > 1
    assert "; 4 such GPUs fit it with fsdp and the optimizer adamw" in refused["lora"].reasons[0]
    assert refused["qlora"].gpus is None    # its own form of the base is not covered with fsdp
    for shard in ("fsdp", "ddp", "zero1"):
        (one,) = kb.choose("gemma_2_2b", gpu="24GiB", gpus=4, shard=shard, batch=2, methods=["lora"]).found
        assert one.sharding is not None
        setting = vars_of(one.setting)
        memory = kb["lora"].memory("gemma_2_2b", gpus=4, shard=shard, **setting)
        assert (one.sharding.gpus, one.sharding.shard) == (4, shard)
        assert one.bytes == memory.peak + memory.gpu_extra
        assert one.to_dict() == one.to_dict() | {"gpus": 4, "shard": shard}
        if shard == "ddp":
            assert one.code == kb.choose("gemma_2_2b", gpu="24GiB", batch=2, methods=["lora"]).found[0].code
        else:
            with pytest.raises(UsageError, match=f"shard: found {shard}; the code is written for one GPU, or for ddp"):
                _ = one.code
    assert kb.choose(MODEL, gpu="12GiB", seq=4096, gpus=2, shard="ddp", methods=["lora"]).refused[0].gpus is None


def test_requirements_and_budgets(kb: KnowledgeBase) -> None:
    choice = kb.choose("roberta_base", gpu="T4", batch=32, seq=128, merge=True, library="adapters", trained="0.1%", n=3)
    backbone = kb.models["roberta_base"].parameters
    assert choice.found[0].given == {"r": 2}    # half of the default, until it fits
    for one in choice.found:
        assert kb[one.method].merge == "exact"
        assert "adapters" in one.libraries
        assert one.trained <= backbone / 1000
        assert kb[one.method].cost("roberta_base", **one.given).trained == one.trained
    smallest = kb.choose("roberta_base", gpu="T4", seq=128, by="stored", needs=["side_by_side"], anywhere=True)
    sizes = [c.stored_bytes for c in smallest.found]
    assert sizes == sorted(sizes)
    listed = list(kb.stored_list("side_by_side").ids)
    assert {c.method for c in smallest.found} <= {*listed}
    every = kb.choose("roberta_base", gpu="T4", seq=128, by="stored", methods=listed).found
    assert sizes[0] == min(c.stored_bytes for c in every)


def test_published_runs_rank_and_show(kb: KnowledgeBase) -> None:
    choice = kb.choose("llama_3_2_3b", gpu="24GiB", seq=768, batch=4, by="evidence")
    values = [c.evidence.value for c in choice.found if c.evidence is not None]
    assert len(values) == 5
    assert values == sorted(values, reverse=True)
    best = {m: max(r.value for r in kb[m].evidence if r.metric == "accuracy") for m in (c.method for c in choice.found)}
    assert values == [best[c.method] for c in choice.found]
    with pytest.raises(UsageError, match="no published comparison here has a model of the kind of roberta_base"):
        kb.choose("roberta_base", gpu="24GiB", by="evidence")
    assert kb.choose("roberta_base", gpu="24GiB", n=1).found[0].evidence is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("10M", 10**7), ("1e6", 10**6), ("250k", 250_000), ("0.1%", 1000), ("1,000", 1000), (77, 77), (None, None)],
)
def test_a_budget_is_read(text: str | int | None, number: int | None) -> None:
    assert trained_budget(text, 10**6) == number


@pytest.mark.parametrize(
    ("name", "gib"),
    [("4090", 23.99), ("NVIDIA A100-SXM4-80GB", 80), ("a100 40 GB", 40), ("Tesla T4", 15), ("24GiB", 24)],
)
def test_a_gpu_is_found_by_its_name(kb: KnowledgeBase, name: str, gib: float) -> None:
    assert gpu_memory(kb.gpus, name) == pytest.approx(gib * 2**30, rel=1e-3)
    assert kb["lora"].fit("gpt2", gpu=name).gpu == gpu_memory(kb.gpus, name)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpu": "a100"}, "may be A100 80GB or A100 40GB; name one of them"),
        ({"gpu": "A1000 80GB"}, "did you mean A100 80GB"),
        ({"gpu": "24"}, "without a unit; expected a size such as 24GiB"),
        ({"gpu": 0}, "gpu: found 0"),
        ({"trained": "many"}, "expected a number such as 10M, 250k, 1e6 or 0.1%"),
        ({"by": "memry"}, "unknown priority 'memry'; did you mean memory?"),
        ({"library": "pefft"}, "unknown library 'pefft'"),
        ({"needs": ["mergable"]}, "did you mean mergeable?"),
        ({"n": 0}, "n: found 0"),
        ({"methods": ["lroa"]}, "unknown method 'lroa'"),
        ({"seq": 0}, "seq: found 0"),
        ({"gpus": 1}, "gpus: found 1; expected a whole number from 2"),
        ({"shard": "ddp"}, "shard has no meaning for one GPU"),
        ({"gpus": 2, "optimizer": "adafactor"}, "optimizer: found adafactor; with shard fsdp expected"),
    ],
    ids=str,
)
def test_bad_questions_are_refused(kb: KnowledgeBase, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        kb.choose(MODEL, **{"gpu": "24GiB", **asked})
    assert issubclass(UnknownName, UsageError)


def test_the_command_line_answers(run: Run, found: Choice) -> None:
    printed = json.loads(run(f"choose --model {MODEL} --gpu 24GiB --seq 2048 --json").out)
    assert printed == json.loads(json.dumps(found.to_dict()))
    text = run(f"choose lora full_fine_tuning --model {MODEL} --gpu 24GiB --seq 2048").out
    assert re.search(r"lora +default +3,407,872 .* 27\.7 GiB +18\.97 GiB +gradient checkpointing", text)
    assert re.search(r"full_fine_tuning +needs 48\.45 GiB", text)
    code = run(f"choose --model {MODEL} --gpu 12GiB --seq 2048 --batch 4 --code -n 1").out
    compile(code, "code", "exec")
    assert "per_device_train_batch_size=1," in code
    assert "gradient_accumulation_steps=4," in code
    assert 'bnb_4bit_quant_type="nf4",' in code
    wrong = run(f"choose --model {MODEL} --gpu a100")
    assert wrong.code == 2
    assert_one_line(wrong.err)


ADAPTERS = """
import json, re, sys
import adapters

found = {}
for method, program in json.load(sys.stdin).items():
    before, after = program.split("arguments = transformers.TrainingArguments(")
    names = {}
    exec(compile(before, method, "exec"), names)
    model = names["model"]
    exec(compile(after.splitlines()[-1], method, "exec"), names)
    trainer = re.search(r"trainer = adapters[.](\\w+)[(]", after)[1]
    found[method] = [
        sum(p.numel() for p in model.parameters() if p.requires_grad),
        sorted({str(p.dtype) for p in model.parameters()}),
        callable(getattr(adapters, trainer)),
    ]
print(json.dumps(found))
"""
"""Runs programs up to their training, for which the environment lacks accelerate, and saves what they made."""


@pytest.mark.torch
@pytest.mark.xdist_group("adapters")
def test_the_code_runs_with_adapters(kb: KnowledgeBase, tmp_path: Path) -> None:
    """The same with AdapterHub's library, for methods that peft lacks or that are asked for there."""
    if not PYTHON.exists():
        absent = f"{PYTHON} is not there: `make test` builds it"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(absent)
    import transformers

    config = {**LLAMA, "num_key_value_heads": 2}
    live = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    live.save_pretrained(tmp_path / "path" / "to" / "model")
    methods = ["lora", "sequential_adapter", "pfeiffer_adapter", "parallel_adapter", "compacter"]
    choice = kb.choose(config, gpu="1GiB", seq=16, methods=methods)
    assert {c.method for c in choice.found} == {*methods}
    programs = {one.method: one.program("adapters") for one in choice.found}
    assert {one.method for one in choice.found if one.code != programs[one.method]} == {"lora"}, "peft has it too"
    ran = subprocess.run(
        [str(PYTHON), "-c", ADAPTERS], input=json.dumps(programs), capture_output=True, text=True, timeout=300,
        check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    for one in choice.found:
        there = kb.adapter(kb[one.method].export(config, to="adapters").to_dict(), config, method=one.method)
        assert found[one.method] == [there.cost.trained, ["torch.bfloat16"], True], one.method
        differs = f"trains {there.cost.trained:,} parameters here; {one.trained:,} were counted."
        assert (differs in programs[one.method]) == (there.cost.trained != one.trained)
        assert list((tmp_path / "output").glob("*.json"))
    assert "norms stay frozen" in " ".join(programs["sequential_adapter"].replace("\n# ", " ").split())


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")
def test_the_code_runs_with_peft(kb: KnowledgeBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method of the answer that peft has trains as many parameters as counted, in the type that is counted."""
    import torch
    import transformers

    config = {**LLAMA, "num_key_value_heads": 2}
    live = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    live.save_pretrained(tmp_path / "path" / "to" / "model")
    monkeypatch.chdir(tmp_path)
    torch.save([{"input_ids": [1] * 8, "labels": [1] * 8}] * 2, tmp_path / "path" / "to" / "dataset.pt")
    methods = ["lora", "dora", "ia3", "prompt_tuning"]
    choice = kb.choose(config, gpu="1GiB", seq=16, checkpointing=True, methods=methods)
    assert {c.method for c in choice.found} == {*methods}
    for one in choice.found:
        names: dict[str, Any] = {}
        exec(compile(one.code, one.method, "exec"), names)
        trained = [p for p in names["model"].parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == one.trained, one.method
        if not names["config"].is_prompt_learning:    # whose prompts peft always makes in float32
            assert {p.dtype for p in names["model"].parameters()} == {torch.bfloat16}
        assert names["arguments"].per_device_train_batch_size == 1
        assert names["trainer"].state.global_step > 0
        assert (tmp_path / "output" / "adapter_config.json").is_file()
        shutil.rmtree(tmp_path / "output")
