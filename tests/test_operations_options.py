"""Options of a config.json: operations read them, declare the values for which they hold, or do not depend on them."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import pytest

from peftonomy import UsageError
from peftonomy.memory.program import family_functions, fixed_options
from peftonomy.memory.rules import load_language
from peftonomy.schema.family import Family
from tests.knowledge import KB
from tests.operations_kit import Case, predicted

LANGUAGE = load_language(KB.root / "backbones" / "operations.yaml")
FAMILIES = sorted(name for name, family in KB.families.items() if family.operations is not None)
READ = re.compile(r'config\.(\w+)|getattr\(\w*\.?config, "(\w+)"')
"""Where modelling code reads an option."""
HARMLESS = re.compile(
    r"""
    \w*_eps|\w*epsilon|\w*init\w*|\w*_std|\w*_range           # numbers within an operation, and starts
    |\w*token_id|vocab_size|(id2)?label(2id)?|num_labels      # tokens and labels
    |\w*_coef|logits?_scal\w+|\w+_multiplier|\w*scaling_factor|layerscale_value|query_pre_attn_scalar|swiglu_\w+|embed_scale|attn_scale|floor_scale
    |rope_parameters|rope_\w+|relative_attention_max_distance|original_max_position_embeddings   # tables of positions
    |use_cache|return_dict|use_return_dict|dtype|_\w+|name_or_path|pretraining_tp|gradient_checkpointing|torchscript
    |is_encoder_decoder|is_decoder|to_dict|get_text_config|use_bfloat16|output_attentions|output_hidden_states
    |scale_embedding                                          # a product with one or with another number
    |mask_(time|feature)_\w+|attention_types|attention_layers|window_size|layer_types
    |n_group|topk_group|num_key_value_heads|head_dim          # temporary scores of groups; derived from other options
    |sliding_window|use_sliding_window
    |image_size|patch_size|num_channels|encoder_stride|num_layers|mm_tokens_per_image|text_config|vision_config
    |(vision|projector|pixel)_\w+|n_positions
    """,
    re.VERBOSE,
)
"""Options that change no size and no operation of the tasks that are trained."""
OTHER_TASKS = {
    "bart": "problem_type",
    "bloom": "classifier_dropout",
    "deberta": "legacy",
    "deberta-v2": "legacy conv_act",
    "dinov2": "apply_layernorm reshape_hidden_states",
    "distilbert": "qa_dropout seq_classif_dropout",
    "electra": "summary_activation summary_first_dropout summary_last_dropout summary_proj_to_labels summary_type "
    "summary_use_proj",
    "falcon": "classifier_dropout",
    "gpt2": "classifier_dropout hidden_dropout summary_activation summary_first_dropout summary_last_dropout "
    "summary_proj_to_labels summary_type summary_use_proj",
    "gpt_bigcode": "classifier_dropout hidden_dropout",
    "gpt_neo": "classifier_dropout",
    "gpt_neox": "classifier_dropout",
    "modernbert": "decoder_bias sparse_prediction sparse_pred_ignore_index deterministic_flash_attn",
    "mpt": "classifier_dropout hidden_dropout attn_config",
    "mt5": "tie_word_embeddings",
    "vit": "pooler_act",
}
"""By family, options of heads and tasks that operations do not have, or that follow from options they read."""


def declared(family: Family) -> set[str]:
    """The options that a family's file reads or fixes."""
    keys = {k for name, key in family.config.items() for path in (name, key.key or name, *key.aliases) for k in [path]}
    fixed = fixed_options(family, KB.families, LANGUAGE)
    if "feed_forward_proj" in fixed:  # transformers derives two from it
        keys |= {"dense_act_fn", "is_gated_act"}
    return {part for key in (*keys, *fixed) for part in (key, key.partition(".")[0], key.rpartition(".")[2])}


def built(family: Family) -> tuple[Any, str]:
    """The config of transformers, with its defaults, and the code of the models."""
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, family.tasks["none"].class_)
    return model.config_class(), inspect.getsource(sys.modules[model.__module__])


@pytest.mark.torch
@pytest.mark.parametrize("name", FAMILIES)
def test_every_option_is_read_or_fixed_or_harmless(name: str) -> None:
    family = KB.families[name]
    config, code = built(family)
    names = {a or b for a, b in READ.findall(code)}
    known = declared(family) | set(OTHER_TASKS.get(name, "").split())
    renamed = type(config).attribute_map
    unknown = {
        option for option in names
        if not {option, renamed.get(option, option)} & (known | {renamed.get(k, k) for k in known})
        and not HARMLESS.fullmatch(option)
        and not callable(getattr(config, option, None))
    }  # fmt: skip
    assert not unknown


@pytest.mark.torch
@pytest.mark.parametrize("name", FAMILIES)
def test_operations_hold_for_the_defaults_of_transformers(name: str) -> None:
    family = KB.families[name]
    config = built(family)[0].to_dict()
    for key, allowed in fixed_options(family, KB.families, LANGUAGE).items():
        value: Any = config
        for part in key.split("."):
            value = value.get(part, allowed[0]) if isinstance(value, dict) else allowed[0]
        assert value in allowed, key


@pytest.mark.parametrize("name", FAMILIES)
def test_operations_use_every_module(name: str) -> None:
    """A module is named in a function, or belongs to a task or an option that operations do not have."""
    family = KB.families[name]
    functions = LANGUAGE.shared | family_functions(family, KB.families)
    words = {a for f in functions.values() for line in f.lines for a in line.arguments if isinstance(a, str)}
    tasks = {task for task in family.tasks if task in functions}
    fixed = fixed_options(family, KB.families, LANGUAGE)
    for _, spec in family.specs():
        if spec.tasks is not None and not tasks & set(spec.tasks):
            continue
        if spec.role in ("pooler", "embed.mask") or fixed.keys() & spec.when.names:
            continue
        assert {spec.role, spec.path, *getattr(spec, "slices", {})} & words, spec.path


@pytest.mark.parametrize(
    ("family", "option", "value"),
    [
        ("bert", "hidden_act", "relu"),
        ("falcon", "alibi", True),
        ("deberta-v2", "conv_kernel_size", 3),
        ("deberta", "talking_head", True),
        ("whisper", "use_weighted_layer_sum", True),
        ("mpt", "attn_config", {"alibi": False}),
        ("deepseek_v2", "topk_method", "group_limited_greedy"),
        ("dinov2", "drop_path_rate", 0.1),
        ("qwen3", "output_hidden_states", True),
    ],
)
def test_another_value_is_refused_in_one_line(family: str, option: str, value: Any) -> None:
    with pytest.raises(UsageError) as caught:
        predicted(Case(family, "lora", config={option: value}))
    message = str(caught.value)
    assert message.startswith(f"memory of config: {option}")
    assert "found" in message
    assert "expected" in message
    assert "\n" not in message


def test_a_sequence_is_no_longer_than_the_model() -> None:
    with pytest.raises(UsageError, match="seq: found 400; config has 64 positions"):
        predicted(Case("llama", "lora", seq=400))
    with pytest.raises(UsageError, match="seq: found 60 with 5 more; config has 64 positions"):
        predicted(Case("llama", "prompt_tuning", seq=60, hyperparameters={"prompt_length": 5}))
    assert predicted(Case("t5", "lora", seq=400)).kept


@pytest.mark.torch
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"attention_dropout": 0.1}),
        ("glm4_moe", {"attention_dropout": 0.1}),
        ("bart", {"activation_function": "relu"}),
        ("opt", {"activation_function": "gelu"}),
    ],
)
def test_options_that_are_read_are_as_simulated(family: str, config: dict[str, Any]) -> None:
    case = Case(family, "lora", dtype="bfloat16", attention="eager", config=config)
    assert predicted(case).kept == case.simulate().kept


def test_a_list_of_numbers_for_layers_is_read() -> None:
    """SmolLM3 and Llama 4 list for each layer whether positions are rotary; an empty list is none."""
    for given, expected in (([0, 0, 1, 1, 0], (2, 3)), ([], (0, 1, 2, 4)), (None, (0, 1, 2, 4))):
        assert KB.backbone(Case("smollm3", "lora", config={"no_rope_layers": given}).model).config["roped"] == expected
