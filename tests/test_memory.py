"""The memory of a training step: against simulated steps of public models, against rules, and against bad input.

`benchmarks/memory/simulated.tsv` holds what `reference_impls/_simulate.py` said of true public sizes: bytes alive in
the second of two training steps of the reference implementations, on fake tensors.
"""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import peftonomy
from benchmarks import memory as tables
from benchmarks import published
from peftonomy import UsageError
from peftonomy.cli import main as _cli
from peftonomy.memory import asked as questions
from peftonomy.memory.fit import beside, largest
from peftonomy.memory.gpus import gpu_bytes
from peftonomy.memory.optimizer import COUNTER
from peftonomy.memory.program import acts
from peftonomy.memory.rules import Language
from peftonomy.memory.setting import OPTIMIZERS, PARTS, Memory, Setting
from peftonomy.site._memory import case, length

from .grid import drawn
from .knowledge import KB


def simulated(name: str) -> list[dict[str, str]]:
    """The rows of a table of the benchmarks, without those that were refused."""
    lines = (published.TABLE.parent / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
    return [row for row in csv.DictReader(lines, delimiter="\t") if not row["refused"]]


ROWS, FAMILY_ROWS = simulated("simulated"), simulated("families")
FAMILIES = published.TABLE.parent / "families.tsv"
MEDIAN, WORST = 1e-4, 0.01
EXCEPTIONS = {
    row["value"]: row["reason"]
    for row in published.read(published.TABLE.parent / "exceptions.tsv")
    if row["table"] == "simulated"
}
"""Cases whose simulated bytes between the passes are others, each with the reason."""


STORED = {case(row): int(row["predicted_peak"]) for row in published.read(tables.PREDICTED)}
"""The predictions that the site shows. `python benchmarks/memory.py predict` writes them."""


def test_a_prediction_is_stored_for_each_row() -> None:
    assert set(STORED) == set(map(case, ROWS + FAMILY_ROWS))


def remembered(row: dict[str, str]) -> Memory:
    """What is predicted for a row."""
    return KB[row["method"]].memory(
        row["model"], batch=int(row["batch"]), seq=length(row), dtype=row["dtype"],
        optimizer=row["optimizer"], checkpointing=row["checkpointing"] == "True", attention=row["attends"],
        task=row["task"], targets=row["targets"].split(",") if row["targets"] else None,
    )  # fmt: skip


def test_no_row_is_stale() -> None:
    """Each row was simulated with the hyperparameters that are the entry's defaults today, as far as they are noted."""
    noted = [row for row in ROWS if row["hyperparameters"]]
    assert len(noted) > len(ROWS) / 2
    assert [row for row in noted if tables.is_stale(row)] == []


@cache
def predictions() -> list[tuple[dict[str, str], Memory]]:
    """Every row with what is predicted for it."""
    return [(row, remembered(row)) for row in ROWS]


def assert_operations(row: dict[str, str], memory: Memory) -> None:
    """Where attention is written out: the counter does not see inside of PyTorch's own on a CPU."""
    assert memory.forward_flops == int(row["forward_flops"]), row
    assert memory.step_flops == int(row["step_flops"]), row


COUNTED = [row for row in ROWS if row["attends"] == "eager" and row["forward_flops"]]


@pytest.mark.slow
@pytest.mark.xdist_group("predictions")
def test_predictions_are_the_simulated_steps() -> None:
    found = predictions()
    errors = [abs(memory.peak / int(row["peak"]) - 1) for row, memory in found]
    worst = max(zip(errors, ROWS, strict=True), key=lambda pair: pair[0])
    assert worst[0] <= WORST, worst
    assert statistics.median(errors) <= MEDIAN
    for row, memory in found:
        name = f"{row['method']} {row['model']} {row['dtype']}"
        assert (memory.kept == int(row["kept"])) != (name in EXCEPTIONS), (name, memory.kept, row["kept"])
        assert memory.peak == STORED[case(row)], f"{name}: run `python benchmarks/memory.py predict`"
        if row in COUNTED:
            assert_operations(row, memory)
    assert len({row["method"] for row in COUNTED}) >= 100
    assert len({row["method"] for row in ROWS}) >= 100
    assert len({(row["batch"], row["seq"]) for row in ROWS}) >= 4
    assert {row["dtype"] for row in ROWS} == {"float32", "bfloat16", "mixed"}
    assert {row["optimizer"] for row in ROWS} == {"adamw", "adamw-foreach", "sgd"}


@pytest.mark.slow
@pytest.mark.xdist_group("predictions")
def test_a_prediction_without_the_loss_would_be_noticed() -> None:
    """The broken twin: most rows are off once the temporaries are left out."""
    errors = [abs((memory.peak - memory.temporaries) / int(row["peak"]) - 1) for row, memory in predictions()]
    assert statistics.median(errors) > MEDIAN


def test_operations_are_those_counted() -> None:
    """A sample of them: the comparison of all predictions takes every row."""
    for row in drawn("counted", COUNTED, 25):
        assert_operations(row, remembered(row))


def test_other_estimators_were_asked_about_every_simulated_case() -> None:
    """The table is written in an environment of its own, so it may be left behind when rows are added."""
    lines = (published.TABLE.parent / "estimators.tsv").read_text(encoding="utf-8").splitlines()
    asked = [row for row in csv.DictReader(lines, delimiter="\t") if row["source"] == "simulated"]
    same = ("method", "model", "batch", "seq", "dtype", "checkpointing")
    wanted = {
        (*(row[name] for name in same), row["attends"], row["peak"])
        for row in ROWS
        if row["method"] in ("lora", "full_fine_tuning") and row["optimizer"] == "adamw" and not row["targets"]
    }
    assert {(*(row[name] for name in same), row["attention"], row["found"]) for row in asked} == wanted


LARGE = {"llama_2_13b", "llama_3_8b", "qwen2_5_7b", "mixtral_8x7b"}


def test_large_models_are_the_simulated() -> None:
    rows = [row for row in ROWS if row["model"] in LARGE]
    assert {row["model"] for row in rows} == LARGE
    assert len({row["method"] for row in rows}) >= 6
    for row in rows:
        memory = remembered(row)
        asked = {key: row[key] for key in ("method", "model", "batch", "seq")}
        assert memory.peak == pytest.approx(int(row["peak"]), rel=WORST), asked
        assert memory.kept == int(row["kept"]), asked


# Every family

def of_family(row: dict[str, str]) -> Memory:
    """What is predicted for a family's model that was cut down to a few layers."""
    return KB[row["method"]].memory(
        json.loads(row["config"]), batch=int(row["batch"]), seq=length(row), dtype=row["dtype"],
        optimizer=row["optimizer"], checkpointing=row["checkpointing"] == "True", attention=row["attention"],
        task=row["task"],
    )  # fmt: skip


def test_every_family_is_simulated() -> None:
    described = {m.family.model_type for m in KB.models.values() if m.family.operations is not None}
    refused = {KB.models[row["model"]].family.model_type for row in published.read(FAMILIES) if row["refused"]}
    assert {json.loads(row["config"])["model_type"] for row in FAMILY_ROWS} | refused == described


@pytest.mark.parametrize("name", sorted(KB.families))
def test_what_a_family_keeps_is_what_is_simulated(name: str) -> None:
    rows = [row for row in FAMILY_ROWS if json.loads(row["config"])["model_type"] == name]
    for row in rows:
        memory = of_family(row)
        asked = {key: row[key] for key in ("method", "model", "attention", "checkpointing")}
        assert memory.setting.attention == row["attends"], asked
        assert memory.kept == int(row["kept"]), asked
        assert memory.peak == pytest.approx(int(row["peak"]), rel=WORST), asked
        assert memory.peak == STORED[case(row)], "run `python benchmarks/memory.py predict`"
        if row["attends"] == "eager":
            assert memory.forward_flops == int(row["forward_flops"]), asked
            assert memory.step_flops == int(row["step_flops"]), asked


def test_a_family_that_keeps_less_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The broken twin: where operations keep nothing, every family is off."""
    load = questions.load_language

    def forgetful(path: Path) -> Language:
        language = load(path)
        rules = {name: rule.model_copy(update={"keeps": ""}) for name, rule in language.rules.items()}
        for rule in rules.values():
            vars(rule).pop("needs", None)   # which a copy would remember
        return language.model_copy(update={"rules": rules})

    monkeypatch.setattr(questions, "load_language", forgetful)
    kb = peftonomy.load()
    for row in FAMILY_ROWS:
        if row["method"] == "full_fine_tuning":
            model = kb.backbone(json.loads(row["config"]))
            setting = Setting(int(row["batch"]), length(row), row["dtype"], attention=row["attends"])
            memory = kb["full_fine_tuning"].on(model, task=row["task"]).training.memory({}, setting)
            assert memory.kept < int(row["kept"])


# What methods do


def test_keys_are_seen_where_the_record_says() -> None:
    """A cartridge is in self-attentions only, a prefix in all: those of an encoder, and two in each decoder's layer."""

    def of_a_key(method: str, **given: Any) -> int:
        few, more = (
            asked(method, "t5_base", dtype="float32", attention="eager", prefix_length=n, **given).kept for n in (8, 9)
        )
        return more - few

    itself, everywhere = of_a_key("cartridges"), of_a_key("prefix_tuning", use_mlp=False)
    missing = 2 * 2 * 768 * 4  # in the first layer of each stack queries carry no gradient, so keys are not kept
    assert itself > 0
    assert 3 * (itself + missing) == 2 * (everywhere + missing)


def test_layers_beside_keep_what_layers_that_are_trained_keep() -> None:
    config = {"model_type": "llama", "hidden_size": 24, "intermediate_size": 34, "num_attention_heads": 4}
    sizes = {n: {**config, "num_hidden_layers": n, "vocab_size": 31} for n in (3, 4)}
    three, four = (KB["full_fine_tuning"].memory(sizes[n], batch=2, seq=16).kept for n in (3, 4))
    one, two = (KB["shadow_peft"].memory(sizes[4], batch=2, seq=16, shadow_layers=n).kept for n in (1, 2))
    assert two - one == four - three


def test_what_stands_behind_a_layer_is_not_computed_again() -> None:
    behind, inside = (
        [asked(method, checkpointing=ck, r=9).kept - asked(method, checkpointing=ck, r=8).kept for ck in (False, True)]
        for method in ("direft", "lora")
    )
    assert behind == [32 * 512 * 2] * 2
    assert (inside[0] > 0, inside[1]) == (True, 0)


def test_what_only_a_gradient_needs_is_not_kept_before_the_first() -> None:
    """A frozen adapter below the trained one keeps its hidden states, in all layers but the first."""
    more = [asked("mad_x", language_bottleneck=9, phase=p).kept for p in ("task", "language")]
    few = [asked("mad_x", language_bottleneck=8, phase=p).kept for p in ("task", "language")]
    assert [a - b for a, b in zip(more, few, strict=True)] == [31 * 512 * 2, 32 * 512 * 2]


def test_behind_the_embeddings_and_before_the_head() -> None:
    """The coupling keeps two hidden layers where it stands, and its inverse as much where there is a head."""
    for model, places in (("llama_2_7b", 2), ("roberta_base", 1), ("t5_base", 3)):
        more, few = (asked("invertible_adapter", model, width=n).kept for n in (9, 8))
        assert more - few == places * 2 * 512 * 2


# Rules that need no simulation


def asked(method: str = "lora", model: str = "llama_2_7b", **given: Any) -> Memory:
    return KB[method].memory(model, **{"batch": 2, "seq": 256, **given})


def test_the_parts_add_up_to_the_peak() -> None:
    memory = asked()
    assert memory.peak == sum(getattr(memory, part) for part in PARTS)
    assert memory.to_dict()["peak"] == memory.peak
    assert [row["bytes"] for row in memory.table()] == [getattr(memory, part) for part in PARTS]


def test_a_trained_factor_keeps_the_input_and_a_frozen_one_does_not() -> None:
    tokens, width, layers, size = 512, 4096, 32, 2
    lora, frozen = (asked(m, targets=["attn.o"]).kept for m in ("lora", "lora_fa"))
    assert lora - frozen == tokens * width * size  # attention keeps its output anyway, but for that of the first layer
    lora, frozen = (asked(m, targets=["attn.v"]).kept for m in ("lora", "lora_fa"))
    assert lora - frozen == layers * tokens * width * size


def test_rank_costs_one_number_a_token_and_site() -> None:
    assert asked(r=9).kept - asked(r=8).kept == 64 * 512 * 2


def test_a_mask_is_kept_only_where_a_gradient_flows() -> None:
    """Which nothing before the first correction gets."""
    plain, dropped = (asked(targets=["attn.q"], dropout=p).kept for p in (0.0, 0.1))
    assert dropped - plain == (32 - 1) * 512 * 4096


def test_what_is_held_counts_as_weights_do() -> None:
    full, ticket = (asked(method, batch=1, seq=8) for method in ("full_fine_tuning", "lt_sft"))
    assert ticket.weights - full.weights == (1 + 2) * full.trained  # a byte of the mask, and the start
    assert (ticket.kept, ticket.gradients) == (full.kept, full.gradients)


def test_more_tokens_never_take_less() -> None:
    peaks = [asked(seq=seq, checkpointing=ck).peak for ck in (False, True) for seq in range(8, 400, 7)]
    half = len(peaks) // 2
    assert peaks[:half] == sorted(peaks[:half])
    assert peaks[half:] == sorted(peaks[half:])


def test_checkpointing_keeps_less_and_computes_more() -> None:
    plain, again = asked(), asked(checkpointing=True)
    assert again.kept < plain.kept / 3
    once = 2 * 512 * 4096 * (32000 + 32 * 11008)  # the head, and the last map of each layer, which nothing waits for
    assert plain.forward_flops - once <= again.step_flops - plain.step_flops < plain.forward_flops


def test_nothing_below_the_first_adapter_is_kept() -> None:
    everywhere, dropped = (asked("adapterdrop", "bert_base", n_drop=n, robust=False) for n in (0, 6))
    assert dropped.kept < 0.6 * everywhere.kept
    assert dropped.step_flops < everywhere.step_flops


def test_a_side_network_keeps_none_of_the_backbone_but_its_states() -> None:
    assert asked("lst").kept < 0.6 * asked("lora").kept


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [("adamw", 2), ("adamw-foreach", 2), ("sgd", 0), ("adamw-8bit", 2 * (1 + 4 / 256) / 2), ("paged-adamw", 0)],
)
def test_optimizer_states(optimizer: str, numbers: float) -> None:
    memory = asked(optimizer=optimizer)
    counters = COUNTER * 2 * 2 * 32 if optimizer in ("adamw", "adamw-foreach") else 0     # of A and B at two sites
    assert memory.optimizer_states == numbers * memory.trained * 2 + counters
    assert (memory.paged > 0) == OPTIMIZERS[optimizer].paged


def test_adafactor_holds_rows_and_columns() -> None:
    assert asked(optimizer="adafactor", targets=["attn.q"]).optimizer_states == 4 * 32 * 2 * (8 + 4096)


def test_foreach_copies_all_that_is_trained() -> None:
    one, together = (asked("full_fine_tuning", optimizer=o, batch=1, seq=8) for o in ("adamw", "adamw-foreach"))
    assert (one.phase, together.phase) == ("optimizer", "optimizer")
    assert together.temporaries == together.gradients > one.temporaries


def test_mixed_precision_trains_in_float32() -> None:
    mixed, half = asked(dtype="mixed"), asked()
    counters = COUNTER * 2 * 2 * 32
    assert mixed.optimizer_states - counters == 2 * (half.optimizer_states - counters)
    assert mixed.weights - half.weights == 2 * mixed.trained


def test_quantised_weights_are_smaller() -> None:
    half, nf4, int8 = (asked(quantized=q).weights for q in (None, "nf4", "int8"))
    assert nf4 < int8 < half
    linears = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert half - nf4 == linears * 2 - linears // 2 - linears // 64 * 4
    assert asked("qlora").weights == pytest.approx(nf4, rel=0.06)


# What fits


@pytest.mark.parametrize("solved", ["batch", "seq", "r"])
def test_the_largest_that_fits_is_the_last_one_that_does(solved: str) -> None:
    step, setting, gpu = KB["lora"].on("llama_2_7b").training, Setting(1, 256), gpu_bytes("18GiB")
    found = largest(step, {}, setting, solved, gpu)
    assert found.memory is not None
    assert found.memory.peak + found.memory.gpu_extra <= gpu
    if not found.limited:
        beyond: dict[str, Any] = {solved: found.value + 1}
        more = step.memory(beyond, setting) if solved == "r" else step.memory({}, replace(setting, **beyond))
        assert more.peak + more.gpu_extra > gpu


def test_a_size_that_may_not_be_one_has_a_largest_too() -> None:
    step = KB["adalora"].on("llama_2_7b").training
    with pytest.raises(UsageError, match="domain"):
        step.memory({"init_r": 1}, Setting(1, 256))
    found = largest(step, {}, Setting(1, 256), "init_r", gpu_bytes("18GiB"))
    assert found.memory is not None
    more = step.memory({"init_r": found.value + 1}, Setting(1, 256))
    assert found.memory.peak + found.memory.gpu_extra <= gpu_bytes("18GiB") < more.peak + more.gpu_extra


def test_changes_stand_best_first() -> None:
    found = largest(KB["lora"].on("llama_2_7b").training, {}, Setting(1, 512), "batch", gpu_bytes("24GiB"))
    assert [c.value for c in found.changes] == sorted((c.value for c in found.changes), reverse=True)
    assert found.changes[0].name == "checkpointing"
    assert all(c.value > found.value for c in found.changes)


def test_what_is_solved_for_is_not_given() -> None:
    lora = KB["lora"].on("llama_2_7b")
    assert lora.fit(gpu="24GiB", solve="r", batch=1).value > 8
    for given, solve, message in (
        ({"r": 8}, "r", "r is both given and solved for"), ({}, "alpha", "unknown size 'alpha'"),
        ({"batch": 2}, "batch", "batch is both given"), ({"seq": 2}, "seq", "seq is both given"),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=message):
            lora.fit(gpu="24GiB", solve=solve, **given)


def test_only_text_has_a_length() -> None:
    """A length that is given is refused, in every question about a step."""
    lora, says = KB["lora"].on("vit_base"), "vit_base reads no tokens, so"
    peak = lora.memory(batch=8).peak
    assert lora.memory(batch=9).peak > peak
    found = lora.fit(gpu=peak + lora.memory(batch=8).gpu_extra)
    assert (found.value, found.memory) == (8, lora.memory(batch=8))
    (chosen,) = KB.choose("vit_base", gpu="8GiB", methods=["lora"], batch=8).found
    assert (chosen.memory, chosen.to_dict()["seq"]) == (lora.memory(batch=8), None)
    assert KB.choose("vit_base", gpu="1MiB", methods=["lora"]).refused[0].seq is None
    for ask in (
        lambda: lora.memory(batch=8, seq=197), lambda: lora.fit(gpu="8GiB", seq=197),
        lambda: lora.fit(gpu="8GiB", solve="seq"), lambda: KB.choose("vit_base", gpu="8GiB", seq=197),
    ):  # fmt: skip
        with pytest.raises(UsageError, match=says):
            ask()
    with pytest.raises(UsageError, match="seq: found nothing; expected the number of tokens in a sequence"):
        KB["lora"].memory("llama_2_7b", batch=1)


def test_shortcuts_answer_as_the_method_on_a_model_does() -> None:
    lora, where, step = KB["lora"], {"targets": ["attn.q"], "task": "causal_lm"}, {"batch": 2, "seq": 64}
    on = lora.on("llama_2_7b", **where)
    assert lora.cost("llama_2_7b", r=4, **where) == on.cost(r=4)
    assert lora.memory("llama_2_7b", r=4, **where, **step) == on.memory(r=4, **step)
    assert lora.fit("llama_2_7b", r=4, gpu=2**36, seq=64, **where) == on.fit(r=4, gpu=2**36, seq=64)
    assert lora.places("llama_2_7b", r=4, **where) == on.places(r=4)
    assert lora.export("llama_2_7b", r=4, **where).to_dict() == on.export(r=4).to_dict()
    assert list(lora.sweep("llama_2_7b", r=[4, 8], **where).trained) == list(on.sweep(r=[4, 8]).trained)


def test_another_method_is_a_change_where_it_allows_more() -> None:
    setting, gpu = Setting(1, 512), gpu_bytes("24GiB")
    steps = [KB[m].on("llama_2_7b").training for m in ("full_fine_tuning", "lora", "qlora")]
    fits = [largest(step, {}, setting, "batch", gpu) for step in steps]
    best, second, none = beside(fits)
    assert [best.method, second.method, none.method] == ["qlora", "lora", "full_fine_tuning"]
    assert [c.name for c in none.changes] == ["method qlora"]
    assert ("method qlora", best.value) in [(c.name, c.value) for c in second.changes]
    assert list(second.changes) == sorted(second.changes, key=lambda c: -c.value)
    assert best.changes == fits[2].changes


def test_what_never_fits_says_so() -> None:
    found = largest(KB["full_fine_tuning"].on("llama_2_7b").training, {}, Setting(1, 512), "batch", gpu_bytes("24GiB"))
    assert (found.value, found.memory) == (0, None)
    assert found.to_dict()["memory"] is None


# Bad input


def bad() -> Iterator[tuple[dict[str, Any], str]]:
    yield {"batch": 0}, "batch: found 0; expected a whole number from 1"
    yield {"seq": -3}, "seq: found -3; expected a whole number from 1"
    yield {"seq": 2.5}, "seq: found 2.5"
    yield {"seq": 4097}, "seq: found 4,097; llama_2_7b has 4,096 positions"
    yield {"dtype": "float8"}, "unknown dtype 'float8'"
    yield {"optimizer": "adamx"}, "did you mean adamw?"
    yield {"attention": "flash"}, "unknown attention 'flash'"
    yield {"quantized": "nf5"}, "did you mean nf4?"
    yield {"method": "full_fine_tuning", "quantized": "nf4"}, "trains weights that are to be held in nf4"
    yield {"r": 0}, "out of its domain"


@pytest.mark.parametrize(("given", "message"), list(bad()), ids=str)
def test_bad_input_is_one_clear_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        asked(**given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "0GiB", "GiB", "24 parsecs", "-3GB"])
def test_a_size_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="expected a size"):
        gpu_bytes(text)


def test_prompts_count_as_positions() -> None:
    with pytest.raises(UsageError, match="positions"):
        asked("prompt_tuning", seq=4090)


def test_every_entry_says_what_its_training_computes() -> None:
    for method in KB.values():
        for part in method.parts:
            acts(part.entry)


def test_an_entry_that_does_not_say_what_it_computes_is_refused() -> None:
    entry = KB["lora"].entry.model_copy(update={"memory": None})
    with pytest.raises(UsageError, match="lora does not say yet"):
        acts(entry)


# The command line


def run(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    code = _cli.main(line.split())
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_memory_is_printed_as_python_has_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "memory lora --model llama_2_7b --batch 2 --seq 256 --set r=4 --targets attn.q --json")
    assert code == 0
    assert json.loads(out) == json.loads(json.dumps(asked(r=4, targets=["attn.q"]).to_dict()))
    code, out, _ = run(capsys, "memory lora --model llama_2_7b --batch 2 --seq 256 --checkpointing --quantized nf4")
    assert code == 0
    assert "batch 2 x 256, bfloat16, adamw, sdpa, checkpointing, nf4" in out
    assert f"peak {asked(checkpointing=True, quantized='nf4').peak:,}" in " ".join(out.split())


def test_fit_prints_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    line = "fit lora full_fine_tuning --model llama_2_7b --gpu 24GiB --seq 512"
    code, out, _ = run(capsys, line)
    assert code == 0
    assert [row.split()[0] for row in out.splitlines()] == ["method", "lora", "full_fine_tuning"]
    code, out, _ = run(capsys, f"{line} --json")
    assert [(f["method"], f["value"] > 0) for f in json.loads(out)] == [("lora", True), ("full_fine_tuning", False)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("memory lora --model llama_2_7b --batch 0 --seq 8", "batch: found 0"),
        ("memory lora --model llama_2_7b --batch 1 --seq 9999", "4,096 positions"),
        ("memory lora --model llama_2_7b --batch 1 --seq 8 --dtype int4", "unknown dtype"),
        ("memory lora --model llama_2_7b --batch 1", "seq: found nothing; expected the number of tokens"),
        ("memory lora --model vit_base --batch 1 --seq 8", "seq: found 8; vit_base reads no tokens"),
        ("fit lora --model llama_2_7b --gpu 24GiB --batch 8", "batch is both given and solved for"),
        ("fit lora --model llama_2_7b --gpu big", "expected a size"),
        ("fit lora --model llama_2_7b --gpu 24GiB --solve rr", "unknown size 'rr'"),
    ],
)
def test_a_mistake_is_one_line(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    code, out, err = run(capsys, line)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
