"""Configurations of peft that are at the limit of what it takes: the same counts as peft's, or both refuse them."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import transformers
from torch import nn

from peftonomy import ConfigError
from tests.knowledge import KB
from tests.peft_counts import Counts, configured, counts, plain, question, wrapped
from tests.peft_random import FAMILIES

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),      # of peft: the configurations are odd on purpose
]
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 2}


def same(config: dict[str, Any], kind: str, settings: dict[str, Any]) -> None:
    model = plain(kind, settings, "cpu")
    backbone, asked = question(model)
    found = KB.adapter(config, backbone, **asked).reported
    assert Counts(found.trained, found.total, found.stored) == counts(wrapped(model, config)), config


MASK = {"peft_type": "SHIRA", "r": 2, "target_modules": ["q_proj"]}


def test_a_mask_of_ones_own() -> None:
    """The counts are those of a mask function, which only code can set."""

    def first(base_layer: nn.Module, r: int, **_: Any) -> torch.Tensor:
        mask = torch.zeros(base_layer.weight.numel())
        mask[: r * sum(base_layer.weight.shape)] = 1
        return mask.view_as(base_layer.weight)

    model = plain(*FAMILIES["llama"], "cpu")
    backbone, asked = question(model)
    config = configured(MASK | {"mask_type": "mine"})
    config.mask_fn = first
    adapter = KB.adapter(MASK | {"mask_type": "mine"}, backbone, **asked)
    found = adapter.reported
    assert Counts(found.trained, found.total, found.stored) == counts(peft.get_peft_model(model, config))
    assert any("mask_fn" in note for note in adapter.notes)


HEAD = {"bert": "cls.predictions", "roberta": "lm_head", "xlm-roberta": "lm_head"}


@pytest.mark.parametrize("family", HEAD)
def test_a_bias_that_is_another_parameter_too(family: str) -> None:
    kind = {"bert": "BertLMHeadModel", "roberta": "RobertaForCausalLM", "xlm-roberta": "XLMRobertaForCausalLM"}[family]
    settings = FAMILIES[family][1] | {"tie_word_embeddings": True}
    head = HEAD[family]
    for targets, bias, saved in (
        (["query"], "all", None), (["query"], "all", [head]), (["query"], "all", [f"{head}.decoder"]),
        (["query"], "none", [head]), ([f"{head}.decoder"], "lora_only", None), ([f"{head}.decoder"], "all", None),
    ):  # fmt: skip
        config = LORA | {"target_modules": targets, "bias": bias, "modules_to_save": saved}
        same(config, kind, settings)


EQUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "rows of modules in layers": ("llama", LORA | {"target_modules": ["embed_tokens"],
                                                   "trainable_token_indices": {"q_proj": [0, 2]}}),
    "a matrix of an embedding": ("olmo", LORA | {"target_parameters": ["weight"]}),
    "copies that are not tied": ("gpt2", LORA | {"modules_to_save": ["wte"], "ensure_weight_tying": True}),
    "one direction": ("llama", {"peft_type": "OSF", "effective_rank": 1, "target_modules": ["q_proj"]}),
    "two towers": ("clip", {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "task_type": "FEATURE_EXTRACTION"}),
}  # fmt: skip


@pytest.mark.parametrize("case", EQUAL)
def test_answers_that_were_refused_or_wrong(case: str) -> None:
    family, config = EQUAL[case]
    same(config, *FAMILIES[family])


def test_the_shadow_copies_the_head_of_its_task_only() -> None:
    settings = FAMILIES["qwen3"][1]
    for kind in ("Qwen3ForSequenceClassification", "Qwen3ForQuestionAnswering"):
        same({"peft_type": "SHADOW", "task_type": "SEQ_CLS"}, kind, settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_that_a_copied_config_computes(family: str) -> None:
    """A family says which absent sizes `transformers` computes in the model instead of writing them into the config."""
    kind, settings = FAMILIES[family]
    config_class = getattr(transformers, kind).config_class
    for name, key in KB.families[config_class.model_type].config.items():
        if key.default is not None and key.default.names and key.type != "layers":
            label = key.key or name
            config = config_class(**{n: v for n, v in settings.items() if n not in (label, *key.aliases)})
            assert key.follows == (getattr(config, label, None) is None), label


NARROW = [("phi3", {}, {"shadow_num_attention_heads": 6}), ("qwen2", {}, {"shadow_num_attention_heads": 2}),
          ("gpt2", {"n_inner": None}, {"shadow_hidden_size": 12}), ("starcoder2", {}, {"shadow_hidden_size": 8}),
          ("llama", {}, {"shadow_hidden_size": 12, "shadow_intermediate_size": 5})]


@pytest.mark.parametrize(("family", "settings", "sizes"), NARROW)
def test_a_narrow_shadow(family: str, settings: dict[str, Any], sizes: dict[str, Any]) -> None:
    kind, usual = FAMILIES[family]
    same({"peft_type": "SHADOW", "r": 2, **sizes}, kind, usual | settings)


@pytest.mark.parametrize("family", ["bart", "whisper", "bert"])
def test_no_shadow_of_an_encoder(family: str) -> None:
    """peft builds it beside a decoder that reads an encoder, and fails when the two inputs differ in length."""
    model = plain(*FAMILIES[family], "cpu")
    backbone, asked = question(model)
    with pytest.raises(ConfigError, match="peft_type: .* requires n_encoder_layers == 0"):
        KB.adapter({"peft_type": "SHADOW"}, backbone, **asked)
    if family == "bart":
        ids = torch.ones(2, 7, dtype=torch.long)
        with pytest.raises(ValueError, match="does not match base hidden"):
            wrapped(model, {"peft_type": "SHADOW"})(input_ids=ids, decoder_input_ids=ids[:, :5])


def test_a_copy_of_a_targeted_matrix() -> None:
    config = LORA | PARAMETER | {"target_modules": ["q_proj"], "modules_to_save": ["0.self_attn"]}
    with pytest.raises(ConfigError, match="modules_to_save: .* without a parameter of target_parameters"):
        KB.adapter(config, "llama_3_2_1b")


EMBEDDING, PARAMETER = {"target_modules": ["embed_tokens"]}, {"target_parameters": ["k_proj.weight"]}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"{name} of {where}": ("llama", LORA | {"target_modules": ["q_proj"], name: value} | target)
       for where, target in (("an embedding", EMBEDDING), ("a parameter", PARAMETER))
       for name, value in (("kasa_config", {}), ("monteclora_config", {}), ("lora_bias", True))},
    **{f"{name} of a parameter": ("llama", LORA | PARAMETER | {"target_modules": ["q_proj"], name: value})
       for name, value in (("use_dora", True), ("lora_dropout", 0.1), ("init_lora_weights", "mica"))},
    "init_lora_weights of a convolution": ("vit", LORA | {"target_modules": ["projection"],
                                                          "init_lora_weights": "pissa"}),
    "kasa_config of a Conv1D": ("gpt2", LORA | {"target_modules": ["c_attn"], "kasa_config": {}}),
    **{f"init_lora_weights of experts by {word}": ("mixtral", LORA | {
        "target_modules": [], "target_parameters": ["down_proj"], "init_lora_weights": word})
       for word in ("pissa", "olora", "orthogonal")},
    "init_lora_weights, lora_bias": ("llama", LORA | {"init_lora_weights": "orthogonal", "lora_bias": True}),
    "target_parameters of targets": ("llama", LORA | PARAMETER | {"target_modules": ["k_proj"]}),
    "trainable_token_indices of a copy": ("llama", LORA | {
        "target_modules": ["q_proj"], "modules_to_save": ["lm_head"], "trainable_token_indices": {"lm_head": [3]}}),
    "init_lora_weights, loftq_config": ("llama", LORA | {"init_lora_weights": "loftq"}),
    "trainable_token_indices of targets": ("llama", LORA | EMBEDDING | {"trainable_token_indices": [1]}),
    "trainable_token_indices of Conv1D": ("gpt2", LORA | {"target_modules": ["wte"],
                                                          "trainable_token_indices": {"c_attn": [1]}}),
    "target_parameters of a norm": ("llama", LORA | {"target_parameters": ["weight"]}),
    "num_attention_heads of DistilBERT": ("distilbert", {
        "peft_type": "PROMPT_TUNING", "task_type": "TOKEN_CLS", "num_virtual_tokens": 1, "token_dim": 12}),
    "modules_to_save like a tensor": ("modernbert", {"peft_type": "LOKR", "target_modules": ["2.mlp.Wo"],
                                                     "modules_to_save": ["1"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_both_refuse(case: str) -> None:
    family, config = REFUSED[case]
    model = plain(*FAMILIES[family], "cpu")
    backbone, asked = question(model)
    with pytest.raises(ConfigError, match=f"{case.partition(' of ')[0].partition(' like ')[0]}: "):
        KB.adapter(config, backbone, **asked)
    with pytest.raises(Exception):  # noqa: B017, PT011 (peft's errors are of many types)
        wrapped(model, config)


def test_a_whole_as_a_fraction() -> None:
    """With the float 1.0 peft trains nothing; with 1 it freezes one direction."""
    config: dict[str, Any] = {"peft_type": "OSF", "target_modules": ["q_proj"]}
    for more in ({"effective_rank": 1.0}, {"rank_pattern": {"q_proj": 1.0}}):
        with pytest.raises(ConfigError, match=next(iter(more))):
            KB.adapter(config | more, "llama_3_2_1b")


@pytest.mark.parametrize("family", ["llama", "qwen3_next"])
def test_an_expression_that_matches_activations(family: str) -> None:
    """peft fails, and our answer says when."""
    config = LORA | {"target_modules": rf".*\.{({'llama': 'mlp', 'qwen3_next': 'shared_expert'})[family]}\..*"}
    model = plain(*FAMILIES[family], "cpu")
    backbone, asked = question(model)
    assert any("without parameters" in note for note in KB.adapter(config, backbone, **asked).notes)
    with pytest.raises(ValueError, match="is not supported"):
        wrapped(model, config)


OLD_NAMES: list[tuple[str, dict[str, Any]]] = [
    ("mixtral", {"target_modules": ["w1", "w3"], "rank_pattern": {"q_proj": 3}, "target_parameters": ["down_proj"]}),
    ("mixtral", {"target_modules": "all-linear", "rank_pattern": {"gate_up_proj": 5}, "exclude_modules": ["q_proj"]}),
    ("mixtral", {"target_modules": r".*\.0\..*(q_proj|w2)"}),
    ("qwen3_next", {"target_modules": r".*experts?\..*proj", "lora_alpha": 3}),
    ("deepseek_v3", {"target_modules": ["mlp.gate", "shared_experts.gate_proj", "up_proj"], "r": 3}),
]


@pytest.mark.parametrize(("family", "config"), OLD_NAMES)
def test_older_names_of_experts(family: str, config: dict[str, Any]) -> None:
    """Names of the experts' former modules mean the parameters of all experts, in every layer."""
    same(LORA | config, *FAMILIES[family])


@pytest.mark.parametrize("config", [{"target_modules": ["w1", "q_proj"]}, {"target_modules": "w1"}, {}])
def test_half_of_a_fused_parameter(config: dict[str, Any]) -> None:
    model = plain(*FAMILIES["mixtral"], "cpu")
    backbone, asked = question(model)
    with pytest.raises(ConfigError, match="target_modules"):
        KB.adapter(LORA | config, backbone, **asked)
    with pytest.raises(ValueError, match="also targeting w3|not found|target_modules"):
        wrapped(model, LORA | config)
