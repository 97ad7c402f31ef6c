"""Several GPUs: predictions against FSDP2's own code on fake tensors, and that against two real processes."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from typing import Any

import pytest

from benchmarks import ranks
from peftonomy import UsageError
from peftonomy.memory.answer import Training
from peftonomy.memory.asked import billed
from peftonomy.memory.ranks import RankAsked
from peftonomy.memory.setting import Setting
from peftonomy.memory.sharding import RankMemory, Sharding

from .cli_kit import Run

KB = ranks.KB
ROWS = [ranks.parsed(row) for row in ranks.rows(ranks.RANDOM)]
RUN = [row for row in ROWS if not row["refused"] and row["method"] not in ranks.FROZEN]
REAL = [ranks.parsed(row) for row in ranks.rows(ranks.REAL)]
LLAMA = {
    "model_type": "llama", "vocab_size": 301, "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
SEVEN: Any = KB["lora"].on("llama_2_7b")


def error(row: dict[str, Any]) -> float:
    return abs(ranks.predicted(row).peak - row["peak"]) / row["peak"]


# Against FSDP2's own code


def test_predictions_are_those_of_simulated_steps() -> None:
    """A sample of the rows; `benchmarks/ranks.py report` takes all."""
    errors = [error(row) for row in RUN[::12]]
    assert statistics.median(errors) < 0.005
    assert max(errors) < 0.03
    assert sum(e == 0 for e in errors) > len(errors) / 2


def test_the_table_has_what_was_promised() -> None:
    assert len(RUN) >= 400
    assert len({row["method"] for row in RUN} - {"lora", "full_fine_tuning"}) >= 20
    assert len({row["family"] for row in RUN}) >= 6
    assert {2, 7, 64} <= {row["gpus"] for row in RUN}
    assert sum(row["simulated"] == row["peak"] for row in REAL if row["shard"] == "fsdp") >= 24


@pytest.mark.torch
@pytest.mark.parametrize(
    ("method", "family", "changes"),
    [
        ("lora", "llama", {"gpus": 7, "checkpointing": True, "dtype": "mixed"}),
        ("full_fine_tuning", "t5", {"gpus": 3, "reshard_after_forward": False, "reduce_dtype": "float32"}),
        ("ia3", "mixtral", {"gpus": 64, "dtype": "bfloat16"}),
        ("bitfit", "roberta", {"gpus": 2, "attention": "eager"}),
    ],
)
def test_a_prediction_is_a_simulated_step(method: str, family: str, changes: dict[str, Any]) -> None:
    case = ranks.real_case(method, {"family": family, "batch": 1, "seq": 16, **changes})
    (found,) = ranks.simulated(case)
    assert not found.get("refused")
    assert ranks.predicted(case).peak == pytest.approx(found["peak"], rel=0.001)


@pytest.mark.slow
@pytest.mark.torch
def test_two_processes_take_what_is_predicted() -> None:
    cases = [
        ("fsdp", ranks.real_case("lora", {"checkpointing": True})), ("ddp", ranks.real_case("lora", {})),
        ("zero1", ranks.real_case("full_fine_tuning", {})),
    ]  # fmt: skip
    for (shard, case), peaks in zip(cases, ranks.measured(cases), strict=True):
        if shard == "fsdp":
            assert peaks[0] == ranks.simulated(case)[0]["peak"]
        assert ranks.predicted(case, shard).peak == pytest.approx(max(peaks), rel=0.001)


@pytest.mark.parametrize("shard", ["ddp", "zero1"])
def test_replicated_predictions_are_those_of_real_runs(shard: str) -> None:
    cases = [row for row in REAL if row["shard"] == shard]
    assert cases
    for case in cases:
        assert ranks.predicted(case, shard).peak == pytest.approx(max(case["peak"], case["other"]), rel=0.001)


# What an answer consists of


def shared(gpus: int, shard: str = "fsdp", **options: Any) -> RankMemory:
    found = SEVEN.memory(batch=1, seq=512, gpus=gpus, shard=shard, **options)
    assert isinstance(found, RankMemory)
    return found


def test_a_form_answers_as_the_step_itself() -> None:
    plan = KB["lora"].on(LLAMA).training.plan
    for gpus, r, dtype in [(2, 8, "mixed"), (7, 3, "mixed"), (64, 5, "mixed"), (64, 5, "bfloat16")]:
        setting, sharding = Setting(2, 16, dtype), Sharding(gpus)
        asked = RankAsked(KB, plan, {"r": r}, setting, sharding)
        exact = billed(plan, setting, asked.values, asked.rows, *asked.answer(), sharding)
        assert Training(KB, plan, sharding).memory({"r": r}, setting) == exact


def test_the_parts_are_the_peak() -> None:
    for found in (shared(8), shared(8, reshard_after_forward=False), shared(8, "ddp"), shared(8, "zero1")):
        record = found.to_dict()
        assert sum(record[part] for part in RankMemory.parts) == record["peak"] == found.peak
        assert Counter(row["part"] for row in found.table()) == Counter(RankMemory.parts)


def test_what_is_replicated_is_one_gpu_and_the_buckets() -> None:
    one, ddp, zero1 = SEVEN.memory(batch=1, seq=512), shared(4, "ddp"), shared(4, "zero1")
    assert ddp.peak - one.peak == ddp.communication == 2 * one.trained
    assert zero1.optimizer_states == pytest.approx(one.optimizer_states / 4, rel=0.01)


def test_keeping_gathered_parameters_takes_a_copy_of_the_model() -> None:
    assert shared(8, reshard_after_forward=False).peak > SEVEN.memory(batch=1, seq=512).peak > shared(8).peak


def test_the_storage_of_quantised_weights_decides_whether_they_are_sharded() -> None:
    packed, bytes_ = (shared(8, quantized="nf4", quant_storage=storage) for storage in ("bfloat16", "uint8"))
    assert shared(8, quantized="nf4").weights == packed.weights < bytes_.weights
    assert bytes_.communication < packed.communication


def test_a_reduce_type_changes_the_buffers() -> None:
    full = KB["full_fine_tuning"].on("llama_2_7b")
    step: dict[str, Any] = {"batch": 1, "seq": 512, "gpus": 8}
    assert full.memory(**step, reduce_dtype="float32").peak > full.memory(**step).peak


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"gpus": 1}, r"gpus: found 1; expected a whole number from 2"),
        ({"shard": "fsdp"}, "shard has no meaning for one GPU"),
        ({"gpus": 2, "shard": "fsdp2"}, "did you mean fsdp"),
        ({"gpus": 2, "shard": "ddp", "reshard_after_forward": True}, "an option of fsdp"),
        ({"gpus": 2, "reduce_dtype": "float64"}, "known: bfloat16, float32"),
        ({"gpus": 2, "reshard_after_forward": 1}, "expected True or False"),
        ({"gpus": 2, "quant_storage": "uint8"}, "no meaning without quantized nf4"),
        ({"gpus": 2, "quantized": "int8"}, "which FSDP2 does not shard"),
        ({"gpus": 2, "optimizer": "adafactor"}, "with shard fsdp expected adamw, adamw-foreach or sgd"),
    ],
)
def test_what_is_not_covered_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SEVEN.memory(batch=1, seq=512, **given)


@pytest.mark.parametrize(
    ("method", "model", "message"),
    [
        ("qlora", "llama_2_7b", "ask for a method on plain weights"), ("galore", "llama_2_7b", "expected ddp"),
        ("lora", "clip_vit_b_32", "cannot shard scalar parameters, and the model has logit_scale"),
    ],
)
def test_methods_that_are_not_covered_are_refused(method: str, model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        KB[method].on(model).memory(batch=1, seq=64, gpus=2)


# The smallest number of GPUs


def test_the_fewest_gpus_fit_and_one_less_does_not() -> None:
    full = KB["full_fine_tuning"].on("llama_2_7b")
    found = full.fit(gpu="24GiB", solve="gpus", checkpointing=True)
    assert isinstance(found.memory, RankMemory)
    assert found.value == found.memory.sharding.gpus > 2
    fewer = full.memory(batch=1, seq=512, checkpointing=True, gpus=found.value - 1)
    assert fewer.peak + fewer.gpu_extra > found.gpu >= found.memory.peak + found.memory.gpu_extra
    assert SEVEN.fit(gpu="24GiB", solve="gpus").value == 1
    assert full.fit(gpu="1GiB", solve="gpus").value == 0
    batch = full.fit(gpu="24GiB", gpus=found.value, checkpointing=True)
    assert batch.value >= 1
    with pytest.raises(UsageError, match="both given and solved for"):
        full.fit(gpu="24GiB", solve="gpus", gpus=2)
    with pytest.raises(UsageError, match="every rank stores everything"):
        full.fit(gpu="24GiB", solve="gpus", shard="ddp")


# The command line


def test_the_commands_take_the_number_of_gpus(run: Run) -> None:
    step = "lora --model llama_2_7b --batch 1 --seq 512 --gpus 8"
    assert json.loads(run(f"memory {step} --json").out) == json.loads(json.dumps(shared(8).to_dict()))
    text = run(f"memory {step} --no-reshard").out
    assert "fsdp on 8 GPUs, not resharded" in text
    assert "Not covered: CPU offload" in text
    (fit,) = json.loads(run("fit full_fine_tuning --model llama_2_7b --gpu 24GiB --solve gpus --json").out)
    assert fit["value"] == fit["memory"]["gpus"]
    refused = run(f"memory {step} --shard ddp --simulate")
    assert refused == (2, "", "error: --simulate runs no shard ddp; expected fsdp\n")


# DeepSpeed


@pytest.mark.parametrize("gpus", [2, 8])
def test_the_states_of_zero_count_only_trained_parameters_as_trained(gpus: int) -> None:
    """Llama 2 7B with LoRA: figures worked out by hand from DeepSpeed's source."""
    P, t = 6_738_415_616, 4_194_304
    two, three = (SEVEN.deepspeed(gpus=gpus, stage=stage) for stage in (2, 3))
    assert (two.trained, two.frozen, three.trained, three.frozen) == (t, P, t, P)
    assert two.states == 2 * P + 2 * t + 12 * t // gpus
    assert two.estimator == 2 * (P + t) + 18 * (P + t) // gpus
    small = 65 * 4096 + 128 * 8 * 4096  # norms, and every A and B of rank 8
    assert three.states == (
        2 * (P + t - small) // gpus + 2 * small + 12 * t // gpus + 2 * t // gpus + 2 * 500_000_000
    )
    assert three.estimator == 4 * 32000 * 4096 + 18 * (P + t) // gpus
    assert SEVEN.deepspeed(gpus=gpus, stage=2).to_dict()["source"].startswith("from DeepSpeed's source")


def test_deepspeed_from_the_command_line(run: Run) -> None:
    shown = run("deepspeed lora --model llama_2_7b --gpus 8 --stage 2 --reduce-bucket-size 16777216")
    assert shown.code == 0
    assert "From DeepSpeed's source (0.16.5), not run; no peak" in shown.out
    assert "33,554,432" in shown.out
    found = run("deepspeed full_fine_tuning --model llama_2_7b --gpus 8 --stage 3 --json").out
    assert json.loads(found)["frozen"] == 0
    assert run("deepspeed lora --model llama_2_7b --gpus 8 --stage 1").err == "error: stage: found 1; expected 2 or 3\n"
