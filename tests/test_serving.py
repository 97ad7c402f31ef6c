"""Serving: bytes as vLLM's own code allocates them, the engines' answers, and the properties of methods."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftonomy import DataError, KnowledgeBase, UsageError
from peftonomy.knowledge.check import check

from .cli_kit import Run
from .knowledge import KB

RECORDED = json.loads((Path(__file__).parent / "data" / "vllm_slots.json").read_text(encoding="utf-8"))
GROUPS = {"attn": 0, "mlp": 0, "moe": 1, "embed": 2, "head": 2}


def slots(model: str, tp: int, sharded: bool, loras: int, rank: int) -> list[int] | None:
    """The bytes of all slots by group; None if the setting is refused."""
    given = {"max_loras": loras, "max_rank": rank, "tp": tp, "fully_sharded": sharded, "r": 1}
    try:
        found = KB["lora"].serving(model, engine="vllm", **given)
    except UsageError:
        return None
    sums = [0, 0, 0]
    for role, size in found.parts.items():
        sums[GROUPS[role.partition(".")[0]]] += loras * size
    assert found.total_bytes == sum(sums)
    return sums


@pytest.mark.parametrize("model", RECORDED["models"])
def test_vllm_allocates_these_bytes(model: str) -> None:
    for setting, recorded in zip(RECORDED["settings"], RECORDED["models"][model], strict=True):
        assert slots(model, *setting) == (None if isinstance(recorded, str) else recorded), setting


@pytest.mark.parametrize("model", [m for m in RECORDED["models"] if not KB.models[m].inventory().roles(("parameter",))])
def test_a_slot_of_the_linear_layers_is_two_bytes_for_each_trained_parameter(model: str) -> None:
    targets = [role for role in KB.engines["vllm"].layers(KB.models[model].family.model_type) if role[0] in "am"]
    for rank in KB.engines["vllm"].ranks:
        found = slots(model, 1, False, 1, rank)
        assert found is not None
        assert found[0] == 2 * KB["lora"].cost(model, r=rank, targets=targets).trained


def test_engines_that_load_adapters_at_their_own_rank() -> None:
    lora = KB["lora"].on("llama_2_7b", targets=["attn.q", "mlp.down"])
    for rank, padded in ((4, 8), (8, 8), (9, 16), (40, 48)):
        for engine in ("lorax", "tgi"):
            assert lora.serving(engine=engine, r=rank).slot_bytes == 2 * lora.cost(r=padded).trained
            halves = lora.serving(engine=engine, r=rank, tp=2).slot_bytes
            assert halves == lora.cost(r=max(padded, 16)).trained, "a rank of 8 for each GPU"
    pool = KB["lora"].serving("llama_2_7b", engine="slora", r=8).slot_bytes
    assert pool == 16 * 8 * 32 * 4096
    assert pool == 2 * KB["lora"].cost("llama_2_7b", r=8, targets=["attn.*"]).trained


def test_refusals_name_the_reason(run: Run) -> None:
    for line, message in (
        ("--engine vllm --max-rank 17", "accepts 1, 8, 16, 32, 64, 128, 256, 320, 512; the next is 32"),
        ("--engine vllm --set r=24 --max-rank 16", "lora has the rank 24"),
        ("--engine vllm --tp 3", "requires n_kv_heads % tp == 0"),
        ("--engine vllm --tp 64", "64 GPUs do not divide n_heads = 32 of attn.q"),
        ("--engine vllm --max-loras 0", "expected a whole number from 1"),
        ("--engine lorax --fully-sharded", "no such option"),
        ("--engine slora --tp 2", "on 1 GPU only"),
        ("--engine vlm", "did you mean vllm"),
        ("--engine slora --dtype bfloat16", "known: float16"),
        ("--engine tgi --targets attn.q --dtype float32", "known: bfloat16, float16"),
        ("--fully-sharded", "needs an engine"),
        ("--max-loras 8", "max_loras needs an engine"),
        ("--max-rank 8", "max_rank needs an engine"),
    ):
        found = run(f"serving lora --model llama_2_7b {line}")
        assert (found.code, found.out, found.err.count("\n")) == (2, "", 1), line
        assert message in found.err, line
    for model, message in (("t5_base", "not described"), ("llama_3_8b", "requires n_kv_heads == n_heads")):
        found = run(f"serving lora --model {model} --engine slora")
        assert found.code == 2
        assert message in found.err


def test_the_command_prints_what_python_returns(run: Run) -> None:
    line = "serving vera --model llama_3_8b --engine vllm --max-loras 4 --max-rank 16 --tp 4 --set r=16"
    expected = KB["vera"].serving("llama_3_8b", engine="vllm", max_loras=4, max_rank=16, tp=4, r=16)
    assert json.loads(run(f"{line} --json").out) == json.loads(json.dumps(expected.to_dict()))
    text = run(line).out
    assert "takes it after a conversion" in text
    assert f"{expected.total_bytes:,}" in text
    refused = KB["dora"].serving("llama_3_8b", engine="vllm")
    assert (refused.works, refused.slot_bytes, refused.total_bytes) == ("refused", None, None)
    assert "refuses it: vLLM does not yet support DoRA." in run("serving dora --model llama_3_8b --engine vllm").out
    assert expected.table()[0]["layer"] == next(iter(expected.parts))


def test_prefixes_and_prompts_take_room_in_the_cache(run: Run) -> None:
    token = 2 * 32 * 8 * 128 * 2
    prompt = KB["prompt_tuning"].serving("llama_3_8b", prompt_length=7)
    assert (prompt.positions, prompt.key_value_bytes) == (7, 7 * token)
    prefix = KB["prefix_tuning"].serving("llama_3_8b", prefix_length=7)
    assert (prefix.positions, prefix.key_value_bytes) == (0, 7 * token)
    assert KB["prefix_tuning"].serving("llama_3_8b", prefix_length=7, tp=16).key_value_bytes == 7 * token // 8
    assert KB["lora"].serving("llama_3_8b").key_value_bytes == 0
    assert KB["prompt_tuning"].serving("t5_base").key_value_bytes is None
    assert f"{7 * token:,} bytes" in run("serving prompt_tuning --model llama_3_8b --set prompt_length=7").out


def test_each_method_has_an_answer_for_each_engine() -> None:
    rows = {row["method"]: row for row in KB.serving}
    assert list(rows) == list(KB)

    def works(method: str, engine: str) -> str:
        found: str = rows[method]["engines"][engine]["works"]
        return found

    assert [works(m, "vllm") for m in ("lora", "rslora", "dora", "pissa", "ia3", "vera", "full_fine_tuning")] == [
        "taken", "taken", "refused", "converted", "refused", "converted", "unknown",
    ]  # fmt: skip
    assert [works(m, "lorax") for m in ("lora", "dora", "pissa")] == ["taken", "wrong", "wrong"]
    for row in rows.values():
        for found in row["engines"].values():
            assert found["source"] or found["works"] == "unknown"
            assert found["note"]


def test_properties_are_derived() -> None:
    rows = {row["method"]: row for row in KB.serving}

    def holds(method: str) -> list[bool]:
        row = rows[method]
        return [row[name]["holds"] for name in ("mergeable", "swappable", "batched")]

    assert holds("lora") == [True, True, True]
    assert holds("prefix_tuning") == [False, True, True]
    assert holds("bitfit") == [True, False, False]
    assert holds("threshold_mask") == [True, False, False]
    assert holds("full_fine_tuning") == [True, False, False]
    assert holds("qlora") == [False, True, True]
    alike = {m.id for m in KB.stored_list("side_by_side").methods}
    assert {row["method"] for row in rows.values() if row["batched"]["holds"]} == alike
    assert {row["method"] for row in rows.values() if row["mergeable"]["holds"]} == set(KB.stored_list("mergeable").ids)


def test_a_spoilt_engine_is_one_problem(tree: Path) -> None:
    path = tree / "taxonomy" / "engines" / "slora.yaml"
    text = path.read_text(encoding="utf-8")

    spoilt, expected = text, []
    for old, new, message in (
        ("  dora:", "  dorra:", "did you mean"),
        ("  llama:", "  lama:", "a model_type"),
        ("attn.q: pool", "attn.qq: pool", "a role of taxonomy/roles.yaml"),
        ("[float16]", "[float17]", "a dtype"),
        ("[LORA]", "[LORRA]", "a type of a library"),
        ("source: code_slora\n", "source: code_slorra\n", "a key of taxonomy/references.bib"),
    ):
        spoilt = spoilt.replace(old, new, 1)
        expected.append(message)
    path.write_text(spoilt, encoding="utf-8")
    found = [str(problem) for problem in check(KnowledgeBase(tree), [path])]
    assert len(found) == len(expected)
    assert [m for m in expected if not any(m in one for one in found)] == []
    path.write_text(text.replace("4 * rank", "4 / (tp - 1)", 1), encoding="utf-8")
    (found,) = [str(problem) for problem in check(KnowledgeBase(tree), [path])]
    assert "expected a value on" in found
    assert "division by zero" in found
    for old, new, message in (
        ("4 * rank", "4 * rnk", "names rnk"),
        ("adapter: 4 * rank * 2 * n_layers * n_heads * head_dim\n", "", "either kinds or adapter"),
        ("    layers: {", "    like: lama\n    layers: {", "either layers or like"),
    ):
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(DataError, match=message):
            KnowledgeBase(tree).engines["slora"]
