"""peft as oracle for counts: every method that an entry says it has, exported, built by peft and counted.

What is exported must read back as the same method at the same cost, and peft must report exactly what we say that it
reports: numbers that are trained, all parameters, and numbers in the file. Models are as small as the setting allows:
tiny ones for small settings, medium ones for the defaults. They have no numbers, where peft can do without.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from peftonomy import ConfigError, Configuration, Cost, UsageError
from peftonomy.conformance import tiny
from peftonomy.conformance.trial import _candidates
from tests import shapes  # noqa: F401 (adds families)
from tests.families import OTHERS
from tests.knowledge import KB
from tests.peft_counts import Counts, counts, plain, question, wrapped
from tests.test_adapter import ELSEWHERE

from .grid import WHOLE, drawn

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),      # peft asks transformers by the old name
]
PEFT = KB.libraries["hf_peft"]
METHODS = [m.id for m in KB.values() if (i := m.entry.implementations.get("hf_peft")) is not None and i.type]
MEDIUM_SIZES = {
    "vocab_size": 40, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512,
}  # fmt: skip
SMALL: dict[str, tuple[str, dict[str, Any]]] = {**tiny.CONFIGS, **OTHERS}
MEDIUM: dict[str, tuple[str, dict[str, Any]]] = {
    "medium bert": ("BertForSequenceClassification", MEDIUM_SIZES | {"max_position_embeddings": 40}),
    "medium llama": ("LlamaForCausalLM", MEDIUM_SIZES | {"num_key_value_heads": 2}),
    "medium gpt2": ("GPT2LMHeadModel", {"vocab_size": 40, "n_embd": 256, "n_layer": 2, "n_head": 4, "n_positions": 40}),
    "medium t5": ("T5ForConditionalGeneration", {
        "vocab_size": 40, "d_model": 256, "d_kv": 32, "num_heads": 8, "d_ff": 512, "num_layers": 2,
        "decoder_start_token_id": 0,
    }),
}  # fmt: skip
IMAGES = "peft puts prompts before token embeddings, which a vision model does not have"
OTHER_MODELS = "peft has LLaMA-Adapter for LLaMA, Mistral and GPT-2 only"
UNSUPPORTED: dict[tuple[str, str], str] = {
    ("qa_lora", "*"): "peft has QA-LoRA on GPTQ layers only; elsewhere it makes plain LoRA of the same configuration",
    **{(m, "vit"): IMAGES for m in ("prompt_tuning", "p_tuning", "prefix_tuning", "mpt", "cpt", "cartridges")},
    **{("llama_adapter", f): OTHER_MODELS for f in (*SMALL, *MEDIUM) if not re.search("llama|mistral|gpt2", f)},
}  # fmt: skip
"""(method, family, or * for all) that peft cannot build, with the reason; a test sees that it really cannot."""
UNSUPPORTED |= {(m, f): "peft has it for Linear only" for m in ("kasa", "bd_lora") for f in ("gpt2", "medium gpt2")}
UNSUPPORTED |= {
    ("x_lora", "*"): "peft makes X-LoRA of LoRA files that were trained before; a test of its own has some",
}  # fmt: skip
UNSUPPORTED |= {
    ("cpt", f): "peft has CPT for causal language models only"
    for f in (*SMALL, *MEDIUM) if not re.search("llama|mistral|gpt2|qwen2", f)
}  # fmt: skip
BOUNDED: dict[str, dict[str, Any]] = {
    "llama_adapter": {"layers": 2}, "qa_lora": {"group": 2}, "adamss": {"subspace_rank": 1},
}  # fmt: skip
"""What peft refuses to exceed on models of two layers, what makes a difference at all, and what the smallest cluster of
random weights has room for."""
NARROW: dict[str, dict[str, Any]] = {"adamss": {"r": 4}}
"""What the weights of tiny models have room for where a default is above it."""
WITH_NUMBERS = {"monteclora"}
"""Methods that peft leaves out without a word where there are no numbers."""
STARTS = {"init_lora_weights": (True, {"corda", "loftq", "lora_ga"})}
"""Arguments that ask for a start which needs data or another library, and what has the same tensors."""


@functools.cache
def base(family: str, device: str) -> Any:
    return plain(*{**SMALL, **MEDIUM, **ELSEWHERE}[family], device=device)


@functools.cache
def asked(family: str) -> tuple[Any, dict[str, Any]]:
    return question(base(family, "meta"))


def targets(method: str, family: str) -> tuple[str, ...] | None:
    """The default targets, or where these are slices of fused modules the whole of those; None for no targets."""
    backbone, question = asked(family)
    kind = PEFT.types[str(KB[method].entry.implementations["hf_peft"].type)]
    if KB[method].entry.targets is None or not kind.accepts:
        return None
    sites = [site for group in KB[method].plan(backbone, **question).sites for site in group]
    return tuple(dict.fromkeys(site.module.role for site in sites))


def settings(method: str, family: str) -> Iterator[dict[str, Any]]:
    """The defaults of peft where the model admits them, and two small settings for a tiny one."""
    backbone, question = asked(family)
    specs = KB[method].entry.hyperparameters
    entry = KB[method].entry.implementations["hf_peft"]
    where = {"targets": targets(method, family), **question}
    if family in MEDIUM or family in ELSEWHERE:
        setting = entry.defaults | BOUNDED.get(method, {}) | (NARROW.get(method, {}) if family in ELSEWHERE else {})
        try:
            KB[method].cost(backbone, **where, **setting)
            yield setting
        except UsageError:
            if family in MEDIUM:
                raise
    if family in MEDIUM:
        return
    said = {*entry.rename, *entry.read, *(n for formula in entry.write.values() for n in formula.names)}
    fixed = {n: entry.defaults.get(n, spec.default) for n, spec in specs.items() if n not in said}
    for ints, alike in (((2, 3, 1, 4, 5, 6, 8), True), ((3, 1, 4, 2, 5, 6, 9), False)):
        refusals = []
        for values in itertools.product(*(_candidates(spec, ints, alike) for spec in specs.values())):
            setting = dict(zip(specs, values, strict=True)) | fixed | BOUNDED.get(method, {})
            try:
                KB[method].cost(backbone, **where, **setting)
            except UsageError as error:
                refusals.append(error)
                continue
            yield setting
            break
        else:
            raise refusals[0]


def measured(config: Configuration, family: str) -> Counts:
    """What peft counts: without numbers if it can, else with them."""
    said = config.to_dict()
    for name, (instead, words) in STARTS.items():
        if said.get(name) in words:
            said |= {name: instead}
    for device in ("cpu",) if config.method in WITH_NUMBERS else ("meta", "cpu"):
        try:
            return counts(wrapped(copy.deepcopy(base(family, device)), said))
        except (NotImplementedError, RuntimeError):
            if device == "cpu":
                raise
    raise AssertionError


PAIRS = [(method, family) for method in METHODS for family in drawn(method, [*SMALL, *MEDIUM], 6)]


@pytest.mark.parametrize(("method", "family"), PAIRS)
def test_counts(method: str, family: str) -> None:
    """On some of the families, which are others for each method; `make grid` takes all."""
    backbone, question = asked(family)
    try:
        chosen = list(settings(method, family))
    except UsageError as error:
        pytest.skip(f"nothing to count: {error}")
    for setting in chosen:
        where = {"targets": targets(method, family), **question}
        try:
            config = KB[method].export(backbone, **where, **setting)
        except UsageError as error:
            pytest.skip(str(error))
        reason = UNSUPPORTED.get((method, family)) or UNSUPPORTED.get((method, "*"))
        try:
            adapter = KB.adapter(config.to_dict(), backbone, method=method, **question)
        except ConfigError:
            assert reason is not None
            assert built(config, family) is None, f"no longer true: {reason}"
            continue
        assert ledgers(adapter.cost) == ledgers(KB[method].cost(backbone, **where, **setting))
        found = adapter.reported
        ours = Counts(found.trained, found.total, found.stored)
        if reason is None:
            assert ours == measured(config, family), config.to_dict()
        else:
            assert ours != built(config, family), f"no longer true: {reason}"


def ledgers(cost: Cost) -> dict[str, Any]:
    """A cost without what it was asked for."""
    return {name: value for name, value in cost.to_dict().items() if name not in ("hyperparameters", "targets")}


def built(config: Configuration, family: str) -> Counts | None:
    """What peft counts, or None if it cannot."""
    try:
        return measured(config, family)
    except Exception:
        return None


# Every family that is described.

REFUSALS = (
    "Unsupported model type for adaption prompt", "CPTConfig only supports task_type", "Please specify `token_dim`",
    "Please specify `num_attention_heads`", "has no attribute 'vocab_size'", "matches both", "is not a plain torch",
    "cannot be multiplied", "Sizes of tensors must match", "The size of tensor a",
    "Unable to automatically find a `nn.ModuleList`", "^$",
)  # fmt: skip
"""What peft says where it cannot build a method on a family; the last is a StopIteration (no norm that it knows)."""


@pytest.mark.parametrize("family", ELSEWHERE)
def test_counts_of_every_family(family: str) -> None:
    """Count methods on a tiny model of each family that has no test above.

    With `make grid`, all methods at the defaults and at two small settings. Otherwise every fourth method, at one of
    these. Neighbouring families have other methods. A configuration that we export and refuse to read has names of
    experts, or its type fails by the library's description, or peft fails.
    """
    backbone, question = asked(family)
    ours, refused, wrong, compared = dict[str, Configuration](), dict[str, str](), dict[str, Any](), set[str]()
    for number, method in enumerate(METHODS, list(ELSEWHERE).index(family)):
        if (method, "*") in UNSUPPORTED or (number % 4 and not WHOLE):
            continue
        try:
            where = {"targets": targets(method, family), **question}
            chosen = list(settings(method, family))
            for setting in chosen if WHOLE else [chosen[number // 4 % len(chosen)]]:
                config = KB[method].export(backbone, **where, **setting)
                reported = KB.adapter(config.to_dict(), backbone, method=method, **question).reported
                theirs = measured(config, family)
                compared.add(method)
                found = Counts(reported.trained, reported.total, reported.stored)
                if found != theirs:
                    wrong[method] = setting, found, theirs
        except UsageError:  # nothing to act on, or only what peft cannot be told of
            continue
        except ConfigError:
            ours[method] = config
            continue
        except Exception as error:
            refused[method] = str(error)
            continue
    assert wrong == {}
    assert len(compared) > (30 if WHOLE else 4)
    for method, config in ours.items():
        kind = PEFT.types[str(KB[method].entry.implementations["hf_peft"].type)]
        described = backbone.family.model_type in kind.fails
        assert described or built(config, family) is None, method
    assert [said for said in refused.items() if not any(re.search(r, said[1]) for r in REFUSALS)] == []


@pytest.mark.parametrize("family", [f for f in (*SMALL, *MEDIUM, *ELSEWHERE) if asked(f)[0].family.kind == "decoder"])
def test_counts_of_given_experts(family: str, tmp_path: Path) -> None:
    """X-LoRA over LoRA adapters that peft saved; all settings on the families with tests of their own, else one."""
    backbone, question = asked(family)
    where = {"targets": targets("lora", family), **question}
    chosen = list(settings("x_lora", family))
    for number in range(len(chosen)) if family not in ELSEWHERE else [len(family) % len(chosen)]:
        setting = chosen[number]
        cost = KB["x_lora"].cost(backbone, **where, **setting)
        given = {name: cost.hyperparameters[name] for name in ("r", "alpha")}
        config = KB["x_lora"].export(backbone, **where, **setting).to_dict()
        for expert in range(int(cost.hyperparameters["n_experts"])):
            model = wrapped(copy.deepcopy(base(family, "cpu")), KB["lora"].export(backbone, **where, **given).to_dict())
            model.save_pretrained(folder := tmp_path / f"{number}-{expert}")
            config["adapters"][str(expert)] = str(folder)
        model = copy.deepcopy(base(family, "cpu"))
        model.config.use_cache = False
        if not hasattr(model, "model"):  # peft expects that the inner model is called so
            with pytest.raises(ValueError, match="unexpected keys"):
                wrapped(model, config)
            with pytest.raises(ConfigError, match="does not load others"):
                KB.adapter(config, backbone, **question)
            continue
        adapter = KB.adapter(config, backbone, **question)
        assert adapter.cost.tensors == cost.tensors
        assert reported(adapter) == counts(wrapped(model, config))


EXPERTS = [{"r": 4, "target_modules": ["q_proj", "v_proj"]},
           {"r": 2, "target_modules": ["q_proj", "down_proj"], "use_dora": True, "rank_pattern": {"q_proj": 3}}]


@pytest.mark.parametrize("names", [["0", "1"], ["first", "second"], ["1", "second"]])
def test_experts_that_are_trained_with_the_router(names: list[str], tmp_path: Path) -> None:
    """peft numbers the experts, and trains those whose name is their number."""
    backbone, question = asked("llama")
    for number, expert in enumerate(EXPERTS):
        model = wrapped(copy.deepcopy(base("llama", "cpu")), {"peft_type": "LORA", **expert})
        model.save_pretrained(tmp_path / str(number))
    config = {"peft_type": "XLORA", "hidden_size": 18, "layerwise_scalings": True, "use_trainable_adapters": True}
    config["adapters"] = {name: str(tmp_path / str(number)) for number, name in enumerate(names)}
    model = copy.deepcopy(base("llama", "cpu"))
    model.config.use_cache = False
    adapter = KB.adapter(config, backbone, **question)
    assert reported(adapter) == counts(wrapped(model, config))
    assert any("adapters of one size" in note for note in adapter.notes)
    absent = config | {"adapters": dict.fromkeys(names, "no/such/folder")}
    if {"0", "1"} & {*names}:
        with pytest.raises(ConfigError, match=r"use_trainable_adapters: .* which give the adapters' sizes"):
            KB.adapter(absent, backbone, **question)
    else:
        assert any("are assumed" in note for note in KB.adapter(absent, backbone, **question).notes)


def test_experts_with_copies_of_modules(tmp_path: Path) -> None:
    """Neither of us reads such an expert."""
    lora = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    wrapped(copy.deepcopy(base("llama", "cpu")), lora).save_pretrained(tmp_path)
    config = {"peft_type": "XLORA", "hidden_size": 18, "adapters": {"0": str(tmp_path)}}
    backbone, question = asked("llama")
    with pytest.raises(ConfigError, match=r"adapters\.0: found modules_to_save"):
        KB.adapter(config, backbone, **question)
    model = copy.deepcopy(base("llama", "cpu"))
    model.config.use_cache = False
    with pytest.raises(KeyError, match="lm_head"):
        wrapped(model, config)


def reported(adapter: Any) -> Counts:
    return Counts(adapter.reported.trained, adapter.reported.total, adapter.reported.stored)
