"""Configurations that say where: peft resolves the same modules, and counts the same numbers, as `kb.adapter`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from peft.utils.error import NoMatchingPeftModuleError

from peftonomy import ConfigError, PeftonomyError
from tests.families import OTHERS
from tests.families import TINY as ENCODERS
from tests.families_decoders import TINY as DECODERS
from tests.knowledge import KB
from tests.peft_counts import Counts, counts, model_of, question, wrapped

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing"),      # peft asks transformers by the old name
]
PEFT = KB.libraries["hf_peft"]
TIED = {"llama tied": ("LlamaForCausalLM", {
    "vocab_size": 37, "hidden_size": 18, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 4, "intermediate_size": 28, "attention_bias": True, "tie_word_embeddings": True,
})}  # fmt: skip
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults": ("bert", {}),
    "defaults of t5": ("t5", {}),
    "defaults of gpt2": ("gpt2", {}),
    "a task's head is copied": ("bert", {"task_type": "SEQ_CLS"}),
    "all-linear, head copied": ("bert", {"task_type": "SEQ_CLS", "target_modules": "all-linear"}),
    "all-linear, head targeted": ("bert", {"target_modules": "all-linear"}),
    "all-linear, output embedding left out": ("llama", {"target_modules": "ALL-linear"}),
    "suffixes": ("llama", {"target_modules": ["self_attn.q_proj", "down_proj", "none_such"]}),
    "one layer by name": ("llama", {"target_modules": ["layers.1.self_attn.q_proj", "model.layers.0.mlp.up_proj"]}),
    "expression": ("t5", {"target_modules": r".*decoder.*\.(q|wi_\d)"}),
    "expression matches whole names": ("bert", {"target_modules": r".*attention\.self\.(query|key)"}),
    "exclude names": ("llama", {"target_modules": "all-linear", "exclude_modules": ["q_proj", "layers.0.mlp.up_proj"]}),
    "exclude expression": ("llama", {"target_modules": "all-linear", "exclude_modules": r".*layers\.1\..*"}),
    "layers": ("bert", {"target_modules": ["query", "dense"], "layers_to_transform": [1]}),
    "layers by number, pattern": ("t5", {"target_modules": ["q"], "layers_to_transform": 1, "layers_pattern": "block"}),
    "layers, several patterns": ("t5", {"target_modules": ["q"], "layers_to_transform": [0, 2],
                                        "layers_pattern": ["layers", "block"]}),
    "layers do not bind whole names": ("llama", {"target_modules": ["q_proj", "model.layers.0.mlp.up_proj"],
                                                 "layers_to_transform": [1]}),
    "rank pattern": ("llama", {"target_modules": ["q_proj", "v_proj", "up_proj"], "rank_pattern": {
        "v_proj": 5, r"layers\.0\.self_attn\.q_proj": 2}, "alpha_pattern": {"up_proj": 4}}),
    "first pattern wins": ("llama", {"target_modules": ["q_proj"], "rank_pattern": {r"layers\.1.*": 7, "q_proj": 2}}),
    "modules to save": ("llama", {"modules_to_save": ["lm_head", "norm"]}),
    "modules to save are not targeted": ("llama", {"target_modules": "all-linear", "modules_to_save": ["q_proj"]}),
    "a block to save": ("llama", {"modules_to_save": ["layers.0.mlp"]}),
    "copies in a copy": ("llama", {"modules_to_save": ["mlp", "down_proj"]}),
    "copies deep in a copy": ("llama", {"modules_to_save": ["0.self_attn", "model"], "target_modules": ["lm_head"]}),
    "children of children are not copied again": ("llama", {"modules_to_save": ["layers.0", "0.mlp.up_proj"]}),
    "tied head to save": ("llama tied", {"modules_to_save": ["lm_head"]}),
    "both tied to save": ("llama tied", {"modules_to_save": ["lm_head", "embed_tokens"]}),
    "tied copies": ("llama tied", {"modules_to_save": ["lm_head"], "ensure_weight_tying": True}),
    "tied adapters": ("llama tied", {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True}),
    "tied adapters by the head": ("llama tied", {"target_modules": ["lm_head", "q_proj"], "ensure_weight_tying": True}),
    "tied rows": ("llama tied", {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [1, 2]},
                                 "ensure_weight_tying": True}),
    "rows of a tied table that differ": ("llama tied", {"trainable_token_indices": {
        "embed_tokens": [1, 2], "lm_head": [3]}}),
    "all biases": ("bert", {"bias": "all"}),
    "all biases, head copied": ("bert", {"bias": "all", "task_type": "SEQ_CLS"}),
    "its own biases": ("llama tied", {"bias": "lora_only"}),
    "embedding": ("bert", {"target_modules": ["word_embeddings", "query"]}),
    "embedding by a name that is saved": ("llama", {"target_modules": ["embed_tokens", "q_proj"]}),
    "both embeddings": ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
    "embedding by expression": ("llama", {"target_modules": r"(.*\.)?(embed_tokens|k_proj)"}),
    "convolution": ("vit", {"target_modules": ["projection", "q_proj"]}),
    "rows of the embedding": ("llama", {"trainable_token_indices": [1, 2, 5]}),
    "rows of both": ("llama", {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}}),
    "rows of a tied table": ("llama tied", {"trainable_token_indices": [1, 2, 5]}),
    "rows of a tied table by both names": ("llama tied", {"trainable_token_indices": {
        "embed_tokens": [1], "lm_head": [1]}}),
    "the weight of a module": ("llama", {"target_modules": ["q_proj"], "target_parameters": ["mlp.up_proj.weight"]}),
    "the rank of a weight by its name": ("llama", {
        "target_modules": [], "target_parameters": ["mlp.up_proj.weight", "q_proj.weight"],
        "rank_pattern": {"up_proj": 5, "q_proj.weight": 2}}),
    "layers again": ("llama", {"target_modules": ["q_proj", "up_proj"], "layer_replication": [[0, 2], [1, 2], [0, 1]],
                               "layers_to_transform": [1, 3], "rank_pattern": {r"layers\.3\..*": 5}}),
    "layers again, a copy of each": ("bert", {"layer_replication": [[0, 2], [0, 2]], "modules_to_save": ["output"]}),
    "loha ranks": ("llama", {"peft_type": "LOHA", "rank_pattern": {"v_proj": 5}}),
}


@pytest.mark.parametrize("case", CASES)
def test_same_modules(case: str) -> None:
    family, says = CASES[case]
    config = LORA | says
    model = model_of(family, OTHERS | TIED)
    backbone, asked = question(model)
    assert reported(config, backbone, asked) == counts(wrapped(model, config))


ELSEWHERE: dict[str, tuple[str, dict[str, Any]]] = {**ENCODERS, **DECODERS}
OF_EXPERTS = [name for name, family in KB.families.items() if name in ELSEWHERE and any(
    m.role in ("moe.gate_up", "moe.down") for stack in family.stacks.values() for m in stack.modules)]


@pytest.mark.parametrize("family", OF_EXPERTS)
def test_matrices_of_experts(family: str) -> None:
    """All experts' at once, and the router's, by the names of the tensors; one with a rank of its own."""
    model = model_of(family, ELSEWHERE)
    names = ["experts.gate_up_proj", "experts.down_proj"]
    names += ["gate.weight"] if any(name.endswith("mlp.gate.weight") for name, _ in model.named_parameters()) else []
    config = LORA | {
        "target_modules": [], "target_parameters": names, "rank_pattern": {"experts.down_proj": 2},
    }  # fmt: skip
    backbone, asked = question(model)
    assert reported(config, backbone, asked) == counts(wrapped(model, config))


@pytest.mark.parametrize("family", ELSEWHERE)
def test_same_modules_of_every_family(family: str) -> None:
    """All linear modules; and those that peft means where none are named, or a refusal where it has none."""
    config = LORA | {"target_modules": "all-linear"}
    model = model_of(family, ELSEWHERE)
    backbone, asked = question(model)
    assert reported(config, backbone, asked) == counts(wrapped(model, config))
    model = model_of(family, ELSEWHERE)
    if backbone.family.expert_names or PEFT.default("LORA", "target_modules", backbone.family.model_type) is None:
        with pytest.raises(ConfigError, match="no default"):
            KB.adapter(LORA, backbone, **asked)
        with pytest.raises((ValueError, NoMatchingPeftModuleError), match="target_modules"):
            wrapped(model, LORA)
    else:
        assert reported(LORA, backbone, asked) == counts(wrapped(model, LORA))


def reported(config: dict[str, Any], backbone: Any, asked: dict[str, Any]) -> Counts:
    found = KB.adapter(config, backbone, **asked).reported
    return Counts(found.trained, found.total, found.stored)


PROMPTS = ("CARTRIDGE", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
NEEDED: dict[str, dict[str, Any]] = {
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 1}, **{kind: {"num_virtual_tokens": 5} for kind in PROMPTS},
}  # fmt: skip
"""The arguments for which peft has no default."""
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "bert": "SEQ_CLS", "t5": "SEQ_2_SEQ_LM"}
UNCOMPARED = {
    "C3A", "FOURIERFT", "MISS", "PSOFT", "ROAD", "SHIRA", "TRAINABLE_TOKENS", "VBLORA", "WAVEFT", "XLORA",
}  # fmt: skip
"""Types whose defaults do not fit models this small, or name no tokens, or no files of experts."""


BESIDES = {"ADALORA": {"total_step": 10}, "ADAMSS": {"r": 4}}
"""What peft asks for though it changes no count, and a default that does not fit models this small."""


@pytest.mark.parametrize("kind", PEFT.types)
def test_every_type_at_its_defaults(kind: str) -> None:
    """An absent argument has peft's default, or what peft takes from the model; we answer the same or refuse."""
    compared = 0
    for family, task in TASKS.items():
        config = {"peft_type": kind, "task_type": task, **NEEDED.get(kind, {}), **BESIDES.get(kind, {})}
        model = model_of(family, OTHERS, "cpu")
        backbone, asked = question(model)
        with contextlib.suppress(PeftonomyError, KeyError, NotImplementedError, TypeError, ValueError):
            found, theirs = reported(config, backbone, asked), counts(wrapped(model, config))
            assert found == theirs, family
            compared += 1
    assert (compared == 0) == (kind in UNCOMPARED)


@pytest.mark.parametrize(("kind", "argument"), [(kind, name) for kind, named in NEEDED.items() for name in named])
def test_an_argument_without_a_default_has_to_be_there(kind: str, argument: str) -> None:
    config = {"peft_type": kind, "task_type": "CAUSAL_LM", **NEEDED[kind]}
    KB.adapter(config, "gpt2")
    del config[argument]
    with pytest.raises(ConfigError, match=f"{argument}: found nothing; expected a value, as PEFT has no default"):
        KB.adapter(config, "gpt2")
    with pytest.raises((KeyError, TypeError)):
        wrapped(model_of("gpt2", OTHERS, "cpu"), config)


FILLED: list[tuple[str, dict[str, Any]]] = [
    ("P_TUNING", {"encoder_reparameterization_type": "LSTM"}),
    ("P_TUNING", {"encoder_hidden_size": 7}),
    ("P_TUNING", {"num_transformer_submodules": 2}),
    ("PROMPT_TUNING", {"num_transformer_submodules": 3}),
    ("MULTITASK_PROMPT_TUNING", {"num_transformer_submodules": 2}),
    ("PREFIX_TUNING", {"prefix_projection": True}),
    ("PREFIX_TUNING", {"prefix_projection": True, "encoder_hidden_size": 7}),
    ("PREFIX_TUNING", {"prefix_projection": True, "num_transformer_submodules": 2}),
    ("CPT", {"cpt_token_ids": [1, 2]}),
]


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
@pytest.mark.parametrize("case", [*range(len(FILLED))])
def test_what_peft_takes_from_the_model(case: int, family: str) -> None:
    kind, more = FILLED[case]
    if kind == "CPT" and family == "t5":
        return  # peft has it for causal language models only
    for task in [TASKS[family]] if kind in ("CPT", "PREFIX_TUNING") else [TASKS[family], "FEATURE_EXTRACTION"]:
        config = {"peft_type": kind, "task_type": task, **NEEDED.get(kind, {}), **more}
        model = model_of(family, OTHERS, "cpu")
        backbone, asked = question(model)
        theirs = wrapped(model, config)
        assert reported(config, backbone, asked) == counts(theirs)
        saved = theirs.peft_config["default"].to_dict()  # with what peft has filled in
        assert reported(json.loads(json.dumps(saved, default=str)), backbone, asked) == counts(theirs)


@pytest.mark.parametrize(
    ("kind", "argument"),
    [("P_TUNING", "token_dim"), ("PROMPT_TUNING", "token_dim"), ("PREFIX_TUNING", "token_dim"),
     ("PREFIX_TUNING", "num_attention_heads"), ("XLORA", "hidden_size")],
)  # fmt: skip
def test_a_size_that_is_none_is_refused(kind: str, argument: str) -> None:
    for value in (0, -1, 1.5, "x", True):
        with pytest.raises(ConfigError, match=argument):
            KB.adapter({"peft_type": kind, **NEEDED.get(kind, {"adapters": {"0": "a"}}), argument: value}, "gpt2")


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "CARTRIDGE"])
def test_another_number_of_layers_than_the_model_s(kind: str) -> None:
    config = {"peft_type": kind, "task_type": "CAUSAL_LM", "num_virtual_tokens": 5, "num_layers": 3}
    backbone, asked = question(model_of("gpt2", OTHERS))
    assert reported(config, backbone, asked) == counts(wrapped(model_of("gpt2", OTHERS, "cpu"), config))
    for value in (0, -1, 1.5, "x", True):
        with pytest.raises(ConfigError, match="num_layers"):
            KB.adapter(config | {"num_layers": value}, "gpt2")


def test_no_number_of_submodules_is_refused() -> None:
    for value in (0, -1, 1.5, "x", True, [1]):
        config = {"peft_type": "P_TUNING", "num_virtual_tokens": 5, "num_transformer_submodules": value}
        with pytest.raises(ConfigError, match="num_transformer_submodules"):
            KB.adapter(config, "gpt2")


def test_gpt2_with_the_defaults_of_peft() -> None:
    """The numbers that peft prints for the published model."""
    p_tuning = {"peft_type": "P_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 20}
    assert KB.adapter(p_tuning, "gpt2").reported.trained == 20 * 768 + 3 * (768 * 768 + 768)
    prefix = p_tuning | {"peft_type": "PREFIX_TUNING", "prefix_projection": True}
    assert KB.adapter(prefix, "gpt2").reported.trained == 20 * 768 + 769 * 768 + 769 * 2 * 12 * 768


ODD: tuple[Any, ...] = (
    3, 10**30, 1.5, True, "(", [1], ["("], [["a"]], {"a": 1}, {"(": 1}, {"q_proj": "x"}, {"q_proj": None},
)  # fmt: skip


@pytest.mark.parametrize("model", ["llama_3_2_1b", "vit_base"])
def test_whatever_an_argument_says_is_understood_or_told_in_one_line(model: str) -> None:
    """Every argument of every type, in the first type that has it."""
    has = {name: kind for kind in reversed([*PEFT.types]) for name in PEFT.defaults(kind)}
    messages = []
    for name, kind in has.items():
        where = {"target_modules": ["q_proj"]} if "target_modules" in PEFT.defaults(kind) else {}
        for value in ODD:
            try:
                KB.adapter({PEFT.type_key: kind, **where, name: value}, model).to_dict()
            except PeftonomyError as error:
                messages.append(str(error))
    assert len(messages) > 1000
    assert not any("\n" in message for message in messages)


SHADOW = {"peft_type": "SHADOW", "task_type": "CAUSAL_LM"}
BEYOND: dict[str, tuple[dict[str, Any], str]] = {
    "odd rank": ({"peft_type": "HRA", "r": 3}, "r"),
    "one vector": ({"peft_type": "VBLORA", "vector_length": 2, "topk": 1}, "topk"),
    "all tokens frozen": ({"peft_type": "CARTRIDGE", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3,
                           "num_frozen_tokens": 3}, "num_frozen_tokens"),
    "more layers": (SHADOW | {"shadow_num_hidden_layers": 5}, "shadow_num_hidden_layers"),
    "own widths": (SHADOW | {"shadow_hidden_size": 12, "shadow_intermediate_size": 7}, "shadow_hidden_size"),
    "some layers": (SHADOW | {"target_modules": ["model.layers.1"], "shadow_num_attention_heads": 3},
                    "shadow_num_attention_heads"),
    "GPTQ only": ({"peft_type": "LORA", "use_qalora": True}, "use_qalora"),
    "vectors of another width": ({"peft_type": "P_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3,
                                  "token_dim": 5}, "token_dim"),
}  # fmt: skip


@pytest.mark.parametrize("case", BEYOND)
def test_what_only_the_library_accepts_has_a_note(case: str) -> None:
    config, argument = BEYOND[case]
    noted_and_equal(config, argument, "llama")


def test_keys_that_the_model_does_not_have() -> None:
    config = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3}
    for argument, value in (("token_dim", 8), ("num_attention_heads", 3)):
        noted_and_equal(config | {argument: value}, argument, "gpt2")
    with pytest.raises(ConfigError, match="num_attention_heads, token_dim.*the width of the keys from both"):
        KB.adapter(config | {"token_dim": 512}, "llama_3_2_1b")


def noted_and_equal(config: dict[str, Any], argument: str, family: str) -> None:
    model = model_of(family, OTHERS | TIED, "cpu")
    backbone, asked = question(model)
    adapter = KB.adapter(config, backbone, **asked)
    found = adapter.reported
    assert (found.trained, found.total, found.stored) == tuple(counts(wrapped(model, config)))
    assert any(note.startswith(f"{argument}: ") for note in adapter.notes)


WITH_NULL: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 100}, "ADAMSS": {"r": 4}, "C3A": {"block_size": 2}, "FOURIERFT": {"n_frequency": 5},
    "WAVEFT": {"n_frequency": 5}, "CPT": {"cpt_token_ids": [1, 2], "task_type": "CAUSAL_LM"},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "task_type": "CAUSAL_LM"},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, one in PEFT.types.items() for name in one.nullable])
def test_null(kind: str, name: str) -> None:
    """Null is the default where peft works with it, and refused where it fails."""
    config = {"peft_type": kind, name: None, **WITH_NULL.get(kind, {})}
    model = model_of("llama", OTHERS | TIED, "cpu")
    backbone, asked = question(model)
    if PEFT.types[kind].nullable[name]:
        assert reported(config, backbone, asked) == counts(wrapped(model, config))
        return
    with pytest.raises(ConfigError, match=f"{name}: found null"):
        KB.adapter(config, backbone, **asked)
    with pytest.raises(Exception):  # noqa: B017, PT011 (peft's errors are of many types)
        wrapped(model, config)


def test_null_where_the_type_has_none() -> None:
    for config in ({"r": None}, {"use_dora": None}, {"bias": None}, {"inference_mode": None}):
        with pytest.raises(ConfigError, match=f"{next(iter(config))}: found null"):
            KB.adapter({"peft_type": "LORA", **config}, "llama_3_2_1b")


def test_layers_and_tensors_that_the_library_does_not_find() -> None:
    with pytest.raises(ConfigError, match="does not find the layers at roberta.encoder.layer"):
        KB.adapter({"peft_type": "LORA", "layer_replication": [[0, 12], [3, 12]]}, "roberta_base", task="seq_cls")
    with pytest.raises(ConfigError, match="not target_parameters"):
        KB.adapter({"peft_type": "ADALORA", "target_parameters": ["q_proj.weight"]}, "llama_3_2_1b")
    with pytest.raises(ConfigError, match="rows of model.embed_tokens"):
        KB.adapter({"peft_type": "TRAINABLE_TOKENS", "token_indices": [128_256]}, "llama_3_2_1b")
