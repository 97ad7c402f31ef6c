"""Trainers: their names for our methods, the matrix of support, and the configurations that we write for them.

What is written is read back as the trainer's own code reads it: as the configuration of peft that the trainer would
build. It must be the same method at the same setting and cost.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftonomy import DataError, KnowledgeBase, UsageError
from peftonomy.knowledge.check import check
from peftonomy.libraries.trainers import Run as Written

from .cli_kit import Run
from .knowledge import KB

MODEL = "llama_3_2_1b"
WRITTEN = [
    (trainer.id, method)
    for trainer in KB.trainers.values()
    if trainer.recipe is not None
    for method, offer in trainer.methods.items()
    if not offer.fails and (trainer.offer(method).type or method == "oft")
]
SETTINGS: dict[str, dict[str, Any]] = {
    "oft": {"r": 8, "use_cayley_neumann": True}, "loftq": {"r": 3, "alpha": 6.0, "dropout": 0.25, "iterations": 1},
    "lora_plus": {"r": 3, "alpha": 6.0, "dropout": 0.25, "lr_ratio": 7.0},
}  # fmt: skip
OTHERS: dict[str, Any] = {"r": 3, "alpha": 6.0, "dropout": 0.25}


def llama_factory(keys: dict[str, Any]) -> dict[str, Any]:
    """The arguments that `_setup_lora_tuning` passes to peft."""
    modules = keys["lora_target"].split(",")
    if keys["finetuning_type"] == "oft":
        return {
            "peft_type": "OFT", "r": keys["oft_rank"], "oft_block_size": keys["oft_block_size"],
            "target_modules": modules,
        }  # fmt: skip
    steps = keys.get("pissa_iter", 16)
    start = {"init_lora_weights": "pissa" if steps == -1 else f"pissa_niter_{steps}"} if "pissa_init" in keys else {}
    return {
        "peft_type": "LORA", "r": keys["lora_rank"], "lora_alpha": keys["lora_alpha"],
        "lora_dropout": keys["lora_dropout"], "target_modules": modules, **start,
        "use_rslora": keys.get("use_rslora", False), "use_dora": keys.get("use_dora", False),
    }  # fmt: skip


def axolotl(keys: dict[str, Any]) -> dict[str, Any]:
    """The arguments that `_build_peft_lora_config` passes to peft."""
    bits = keys.get("peft", {}).get("loftq_config")
    start = {"init_lora_weights": "loftq", "loftq_config": {**bits, "loftq_iter": 1}} if bits else {}
    if "peft_init_lora_weights" in keys:
        start["init_lora_weights"] = keys["peft_init_lora_weights"]
    return {
        "peft_type": "LORA", "r": keys["lora_r"], "lora_alpha": keys["lora_alpha"],
        "lora_dropout": keys["lora_dropout"], "target_modules": keys["lora_target_modules"], **start,
        "use_rslora": keys.get("peft_use_rslora", False), "use_dora": keys.get("peft_use_dora", False),
    }  # fmt: skip


READERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {"llama_factory": llama_factory, "axolotl": axolotl}


@pytest.mark.parametrize(("trainer", "method"), WRITTEN)
def test_a_written_run_is_the_same_method_in_peft(trainer: str, method: str) -> None:
    setting = SETTINGS.get(method, OTHERS)
    written = KB[method].export(MODEL, to=trainer, **setting)
    assert isinstance(written, Written)
    keys = yaml.safe_load(written.yaml)
    assert keys == written.to_dict()
    as_lora = method in ("qlora", "lora_plus")  # the rest of these is not in a configuration of peft
    read = KB.adapter({"task_type": "CAUSAL_LM", **READERS[trainer](keys)}, MODEL)
    assert read.method.id == ("lora" if as_lora else method)
    expected = KB[method].cost(MODEL, **setting)
    assert (read.cost.trained, read.cost.stored) == (expected.trained, expected.stored)
    known = read.cost.hyperparameters
    assert {n: v for n, v in known.items() if n in setting} == {n: v for n, v in setting.items() if n in known}
    if method == "lora_plus":
        assert keys["loraplus_lr_ratio"] == 7.0
    if method == "qlora":
        assert keys["quantization_bit" if trainer == "llama_factory" else "load_in_4bit"] in (4, True)


def test_a_recipe_runs_without_further_keys() -> None:
    """The keys without which the trainers' own validation fails; see CHANGELOG for the releases in which we ran it."""
    for trainer, needed in {
        "llama_factory": {"model_name_or_path", "stage", "do_train", "finetuning_type", "dataset", "output_dir"},
        "axolotl": {
            "base_model", "datasets", "output_dir", "learning_rate", "micro_batch_size", "gradient_accumulation_steps",
        },
    }.items():  # fmt: skip
        keys = KB["lora"].export(MODEL, to=trainer).to_dict()
        assert needed <= keys.keys()
        assert KB.models[MODEL].file is not None
        assert KB.models[MODEL].file.checkpoint in keys.values()
        full = KB["full_fine_tuning"].export(MODEL, to=trainer).to_dict()
        assert not any(name.startswith("lora") for name in full)


def test_a_method_of_the_optimiser_needs_no_modules() -> None:
    keys = KB["galore"].export(MODEL, to="llama_factory", r=7, gap=11).to_dict()
    wanted = {"use_galore": True, "galore_rank": 7, "galore_update_interval": 11, "galore_scale": 0.25}
    assert {name: keys[name] for name in wanted} == wanted
    keys = KB["apollo"].export(MODEL, to="llama_factory", r=1, scale=128.0, per="tensor").to_dict()
    assert (keys["use_apollo"], keys["apollo_rank"], keys["apollo_scale_type"]) == (True, 1, "tensor")
    keys = KB["badam"].export(MODEL, to="llama_factory", interval=60).to_dict()
    assert (keys["use_badam"], keys["badam_switch_interval"], keys["finetuning_type"]) == (True, 60, "full")


def test_every_linear_module_is_named() -> None:
    """"all" of LLaMA-Factory leaves out the modules of GPT-2, which are no `Linear`."""
    keys = KB["lora"].export("gpt2", to="llama_factory", target_modules="all-linear").to_dict()
    assert keys["lora_target"] == "c_attn,c_fc,c_proj"


@pytest.mark.parametrize(
    ("method", "trainer", "model", "setting", "words"),
    [
        ("lora", "llama_factory", MODEL, {"lora_bias": True}, ("no key for lora's lora_bias", "there it is False")),
        ("lora", "axolotl", MODEL, {"alpha": 7.5}, ("lora_alpha", "7.5", "a whole number")),
        ("loftq", "axolotl", MODEL, {}, ("iterations", "found 5, there it is 1")),
        ("oft", "llama_factory", MODEL, {}, ("use_cayley_neumann", "there it is True")),
        ("llama_adapter", "axolotl", MODEL, {}, ("0.18.0 fails with llama_adapter", "peft_adapter")),
        ("loha", "llama_factory", MODEL, {}, ("unknown method 'loha' of LLaMA-Factory", "did you mean")),
        ("mora", "axolotl", MODEL, {}, ("names the modules of mora is not described",)),
        ("lora", "ms_swift", MODEL, {}, ("ms-swift", "expected one of axolotl, llama_factory")),
        ("lora", "llama_factori", MODEL, {}, ("unknown library", "did you mean llama_factory")),
        ("lora", "axolotl", "bert_base", {}, ("model of kind encoder", "expected decoder")),
        ("lora", "axolotl", MODEL, {"task": "seq_cls"}, ("task seq_cls", "expected causal_lm")),
    ],
)
def test_what_a_trainer_cannot_express_is_refused_by_name(
    method: str, trainer: str, model: str, setting: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as raised:
        KB[method].export(model, to=trainer, **setting)
    assert all(word in str(raised.value) for word in words), raised.value
    assert "\n" not in str(raised.value)


def test_the_matrix_and_the_queries_agree(run: Run) -> None:
    rows = json.loads(run("support --json").out)
    assert rows == list(KB.support)
    assert len({(r["method"], r["in"]) for r in rows}) == len(rows)
    for place in ("llama_factory", "hf_peft"):
        assert {r["method"] for r in rows if r["in"] == place} == set(KB.query(f"library == {place}").ids)
    assert [m["id"] for m in json.loads(run("methods --in llamafactory --json").out)] == (
        KB.query("library == llama_factory").ids
    )
    shown = run("support dora --in axolotl").out
    assert shown.splitlines()[1].split()[:4] == ["dora", "axolotl", "0.5.0", "has"]
    assert run("export lora --model llama_2_7b --to axolotl").out == KB["lora"].export("llama_2_7b", to="axolotl").yaml
    assert "did you mean axolotl?" in run("methods --in axolot").err


def test_like_another_method_except_for_what_is_declared() -> None:
    trainer = KB.trainers["ms_swift"]
    assert trainer.offer("dora").keys == trainer.offer("lora").keys
    assert trainer.abilities("dora")["moe"].works == "none"
    assert trainer.abilities("dora")["quantised"] == trainer.abilities("lora")["quantised"]
    assert trainer.abilities("lora_ga") == {}  # null: unknown there, whatever LoRA has
    assert trainer.named("rslora") == "tuner_type: lora, use_rslora: true"


def test_names_that_do_not_exist_are_found(tree: Path) -> None:
    path = tree / "taxonomy" / "trainers" / "axolotl.yaml"
    text = path.read_text(encoding="utf-8")
    wrong = {
        "  rslora:": ("  rslorra:", "found rslorra; expected a method; did you mean rslora"),
        "dropout: {key: lora_dropout": ("dropoutt: {key: lora_dropout", "expected a hyperparameter of lora"),
        "through: hf_peft": ("through: hf_pefft", "expected a library; did you mean hf_peft"),
        "code_axolotl#docs": ("code_axolotll#docs", "expected a key of taxonomy/references.bib"),
    }
    for old, (new, _) in wrong.items():
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    problems = [str(p) for p in check(KnowledgeBase(tree), [path])]
    for _, found in wrong.values():
        assert any(found in p for p in problems), (found, problems)
    path.write_text(text.replace("like: lora\n", "like: lorra\n", 1), encoding="utf-8")
    with pytest.raises(DataError, match="is like no plain method: lorra"):
        KnowledgeBase(tree).trainers["axolotl"]
